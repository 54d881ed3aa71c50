-- +goose Up

-- A customer owns orders and the idempotency keys used to place them. A guest has no email.
-- Promise: one account per email address, in upper or lower case.
CREATE TABLE customers (
    id         uuid PRIMARY KEY,
    email      text CHECK (email <> ''),
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX customers_one_per_email ON customers (lower(email));

-- API tokens. Only their SHA-256 is stored.
-- Promise: a token belongs to one customer. `shop serve` refuses a token that is marked as the
-- demo's.
CREATE TABLE api_tokens (
    hash        bytea PRIMARY KEY CHECK (octet_length(hash) = 32),
    customer_id uuid NOT NULL REFERENCES customers,
    admin       boolean NOT NULL DEFAULT false,
    demo        boolean NOT NULL DEFAULT false,
    created_at  timestamptz NOT NULL DEFAULT now()
);

-- +goose Down
DROP TABLE api_tokens, customers;

-- +goose Up

-- A customer owns orders and the idempotency keys used to place them. A guest has no email.
-- Promise: one account per email address, in upper or lower case.
CREATE TABLE customers (
    id         uuid PRIMARY KEY,
    email      text CHECK (email <> ''),
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX customers_one_per_email ON customers (lower(email));

-- API tokens. Only their SHA-256 is stored, and the first characters as a name for people.
-- Promise: a token belongs to one customer. `shop serve` refuses a token that is marked as the
-- demo's. A token is good until it expires or is revoked, and a revoked token never is again.
CREATE TABLE api_tokens (
    hash        bytea PRIMARY KEY CHECK (octet_length(hash) = 32),
    customer_id uuid NOT NULL REFERENCES customers,
    admin       boolean NOT NULL DEFAULT false,
    demo        boolean NOT NULL DEFAULT false,
    prefix      text NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    expires_at  timestamptz,
    revoked_at  timestamptz
);

-- Operators' sessions. Only the SHA-256 of a session's id is stored.
-- Promise: a session ends with its token.
CREATE TABLE operator_sessions (
    hash       bytea PRIMARY KEY CHECK (octet_length(hash) = 32),
    token_hash bytea NOT NULL REFERENCES api_tokens ON DELETE CASCADE,
    created_at timestamptz NOT NULL DEFAULT now(),
    seen_at    timestamptz NOT NULL DEFAULT now()
);

-- +goose Down
DROP TABLE operator_sessions, api_tokens, customers;

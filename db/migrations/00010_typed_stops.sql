-- +goose Up

-- A stopped twin is stored as its kind and facts; the sentence is made when a timeline is read. The
-- old rows prove nothing.
DELETE FROM stopped_twins;
ALTER TABLE stopped_twins
    DROP COLUMN layer,
    DROP COLUMN detail,
    -- A timeline.Kind, and the facts that kind has: the others are empty.
    ADD COLUMN kind       text NOT NULL,
    ADD COLUMN operation  text NOT NULL,
    ADD COLUMN event_id   text NOT NULL,
    ADD COLUMN event_type text NOT NULL,
    ADD COLUMN attempt    integer NOT NULL;

-- +goose Down
DELETE FROM stopped_twins;
ALTER TABLE stopped_twins
    DROP COLUMN kind,
    DROP COLUMN operation,
    DROP COLUMN event_id,
    DROP COLUMN event_type,
    DROP COLUMN attempt,
    ADD COLUMN layer  text NOT NULL,
    ADD COLUMN detail text NOT NULL;

-- Content by its SHA-256 (UHRP). A policy's key is its digest; a batch's records, decompressed, and its
-- certificate have a row each from the moment it is sealed.
CREATE TABLE objects (
    digest BYTEA PRIMARY KEY,
    kind TEXT NOT NULL,
    size BIGINT NOT NULL,
    batch BIGINT NOT NULL
);

-- batches that were sealed before there was this index are entered bit by bit
ALTER TABLE batches ADD COLUMN has_objects BOOLEAN NOT NULL DEFAULT false;
CREATE INDEX idx_batches_without_objects ON batches (number) WHERE state = 'certified' AND NOT has_objects;

-- copies of what peers hold, as zstd frames; the oldest give way
CREATE TABLE fetched_objects (
    digest BYTEA PRIMARY KEY,
    number BIGSERIAL UNIQUE,
    kind TEXT NOT NULL,
    size BIGINT NOT NULL,
    content BYTEA NOT NULL
);
ALTER TABLE fetched_objects ALTER COLUMN content SET STORAGE EXTERNAL;

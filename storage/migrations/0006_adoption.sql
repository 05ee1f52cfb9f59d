
-- whose batch it is where it is not this node's own, who else holds it, and the context it left behind
ALTER TABLE batches ADD COLUMN coordinator BYTEA;
ALTER TABLE batches ADD COLUMN holders BYTEA[] NOT NULL DEFAULT ARRAY[]::BYTEA[];
ALTER TABLE batches ADD COLUMN context_out BYTEA;
ALTER TABLE batches DROP CONSTRAINT batches_source_id_source_sequence_key;
CREATE UNIQUE INDEX idx_batches_own_sequence ON batches (source_id, source_sequence) WHERE coordinator IS NULL;

-- batches of others that this node finishes should their coordinators not come back
CREATE TABLE replicas (
    batch_id TEXT PRIMARY KEY,
    hold BYTEA NOT NULL,
    payload BYTEA NOT NULL,
    kept_ms BIGINT NOT NULL
);
ALTER TABLE replicas ALTER COLUMN hold SET STORAGE EXTERNAL;
ALTER TABLE replicas ALTER COLUMN payload SET STORAGE EXTERNAL;

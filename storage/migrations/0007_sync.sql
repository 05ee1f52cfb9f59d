
-- certificates in the order in which this node came to have them. Those of its own batches stand in batches.
CREATE TABLE certificate_log (
    number BIGINT PRIMARY KEY,
    batch_id TEXT NOT NULL UNIQUE,
    source_id TEXT NOT NULL,
    certificate BYTEA,
    context BYTEA,
    learned_ms BIGINT NOT NULL
);
ALTER TABLE certificate_log ALTER COLUMN certificate SET STORAGE EXTERNAL;
CREATE INDEX idx_certificate_log_source ON certificate_log (source_id, learned_ms) WHERE certificate IS NOT NULL;

-- how far this node has read the logs of others
CREATE TABLE sync_cursors (
    peer BYTEA PRIMARY KEY,
    number BIGINT NOT NULL
);

INSERT INTO certificate_log (number, batch_id, source_id, learned_ms)
SELECT seal_sequence, batch_id, source_id, certified_ms FROM batches WHERE seal_sequence IS NOT NULL;

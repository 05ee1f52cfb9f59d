
-- when a batch ran out of attempts, and how often an operator had it tried again, with the reasons until then
ALTER TABLE batches ADD COLUMN dead_ms BIGINT;
CREATE INDEX idx_batches_dead ON batches (dead_ms, batch_id) WHERE state = 'dead';
CREATE TABLE replays (
    id BIGSERIAL PRIMARY KEY,
    batch_id TEXT NOT NULL,
    asked_by BYTEA,
    at_ms BIGINT NOT NULL,
    reasons TEXT[] NOT NULL
);
CREATE INDEX idx_replays_batch ON replays (batch_id, id);
UPDATE batches SET dead_ms = received_ms WHERE state = 'dead';

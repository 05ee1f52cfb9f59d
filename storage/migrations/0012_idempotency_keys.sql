-- answers to requests with an Idempotency-Key, to be given again; scope stands for the caller, the route and the key
CREATE TABLE idempotency_keys (
    scope BYTEA PRIMARY KEY,
    fingerprint BYTEA NOT NULL,
    status INTEGER NOT NULL,
    headers JSONB NOT NULL,
    body BYTEA NOT NULL,
    answered_ms BIGINT NOT NULL
);
CREATE INDEX idx_idempotency_keys_answered ON idempotency_keys (answered_ms, scope);

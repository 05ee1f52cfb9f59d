-- transactions submitted to topics (BRC-22), with their ancestry and off-chain values
CREATE TABLE overlay_transactions (
    txid BYTEA PRIMARY KEY,
    beef BYTEA NOT NULL,
    off_chain_values BYTEA,
    received_ms BIGINT NOT NULL
);
ALTER TABLE overlay_transactions ALTER COLUMN beef SET STORAGE EXTERNAL;

-- what was answered, so that a repeat is answered alike
CREATE TABLE topic_transactions (
    topic TEXT NOT NULL,
    txid BYTEA NOT NULL REFERENCES overlay_transactions (txid) ON DELETE CASCADE,
    admitted INTEGER[] NOT NULL,
    removed INTEGER[] NOT NULL,
    PRIMARY KEY (topic, txid)
);

-- outputs in force; one that is spent is gone
CREATE TABLE topic_outputs (
    topic TEXT NOT NULL,
    txid BYTEA NOT NULL,
    output_index INTEGER NOT NULL,
    number BIGSERIAL,
    identity BYTEA NOT NULL,
    url TEXT NOT NULL,
    name TEXT NOT NULL,
    digest BYTEA NOT NULL,
    batch_id TEXT NOT NULL,
    expires_s BIGINT NOT NULL,
    admitted_ms BIGINT NOT NULL,
    PRIMARY KEY (topic, txid, output_index),
    FOREIGN KEY (topic, txid) REFERENCES topic_transactions (topic, txid) ON DELETE CASCADE
);
CREATE INDEX idx_topic_outputs_name ON topic_outputs (topic, name, number);
CREATE INDEX idx_topic_outputs_identity ON topic_outputs (topic, identity);
CREATE INDEX idx_topic_outputs_digest ON topic_outputs (topic, digest);
CREATE INDEX idx_topic_outputs_batch ON topic_outputs (topic, batch_id);
CREATE INDEX idx_topic_outputs_outpoint ON topic_outputs (txid, output_index);

-- what the transactions above spend: a second spender of the same coin is refused
CREATE TABLE spent_outpoints (
    txid BYTEA NOT NULL,
    output_index BIGINT NOT NULL,
    spender BYTEA NOT NULL,
    PRIMARY KEY (txid, output_index)
);

-- certificates of a source by time
CREATE INDEX idx_batches_source_time ON batches (source_id, certified_ms) WHERE state = 'certified';

-- a source that was taken away: its events stay, and its row with them
ALTER TABLE overlay_event_sources ADD COLUMN deleted_at TIMESTAMP;

-- what its trust score is made of: the operator's word, and what validation found since, fading with later events
ALTER TABLE overlay_event_sources ADD COLUMN trust_prior INTEGER;
ALTER TABLE overlay_event_sources ADD COLUMN trust_valid DOUBLE PRECISION NOT NULL DEFAULT 0;
ALTER TABLE overlay_event_sources ADD COLUMN trust_invalid DOUBLE PRECISION NOT NULL DEFAULT 0;
UPDATE overlay_event_sources SET trust_prior = trust_score;

-- how far a source that this node reads has been taken in; written with the batches it stands for
CREATE TABLE source_marks (
    source_id TEXT PRIMARY KEY REFERENCES overlay_event_sources(source_id),
    mark JSONB NOT NULL,
    updated_at TIMESTAMP NOT NULL DEFAULT NOW()
);

-- what a source said that is no event, of sources that no client waits at to be told; the latest
CREATE TABLE source_rejections (
    number BIGSERIAL PRIMARY KEY,
    source_id TEXT NOT NULL REFERENCES overlay_event_sources(source_id),
    external_id TEXT,
    field TEXT NOT NULL,
    reason TEXT NOT NULL,
    remedy TEXT NOT NULL,
    head BYTEA NOT NULL,
    rejected_at TIMESTAMP NOT NULL DEFAULT NOW()
);
CREATE INDEX idx_source_rejections_source ON source_rejections (source_id, number);

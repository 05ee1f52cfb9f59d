-- What this node stores for others is counted by coordinator: batches held for it, its batches that were adopted and not
-- expired, its certificates. What earlier versions of the program held counts for nobody
ALTER TABLE replicas ADD COLUMN coordinator BYTEA NOT NULL DEFAULT ''::bytea;
ALTER TABLE replicas ADD COLUMN policy_hash BYTEA;
ALTER TABLE replicas ADD COLUMN size BIGINT NOT NULL DEFAULT 0;
CREATE INDEX idx_replicas_kept ON replicas (kept_ms);
CREATE TABLE foreign_usage (
    coordinator BYTEA PRIMARY KEY,
    held INTEGER NOT NULL DEFAULT 0,
    held_bytes BIGINT NOT NULL DEFAULT 0,
    adopted INTEGER NOT NULL DEFAULT 0,
    adopted_bytes BIGINT NOT NULL DEFAULT 0,
    certificates INTEGER NOT NULL DEFAULT 0,
    certificate_bytes BIGINT NOT NULL DEFAULT 0
);
INSERT INTO foreign_usage (coordinator, adopted, adopted_bytes)
SELECT coordinator, count(*), sum(octet_length(payload)) FROM batches
WHERE coordinator IS NOT NULL AND expired_ms IS NULL GROUP BY coordinator;
CREATE INDEX idx_batches_adopted ON batches (number) WHERE coordinator IS NOT NULL AND expired_ms IS NULL;

-- policies that peers sent are kept while they are in use, and for a while after that
ALTER TABLE policies ADD COLUMN fetched_ms BIGINT;
ALTER TABLE policies ADD COLUMN fetched_from BYTEA;
CREATE INDEX idx_policies_fetched ON policies (fetched_ms) WHERE fetched_ms IS NOT NULL;
CREATE INDEX idx_batches_policy ON batches (policy_hash);

-- certificates of others are counted by coordinator too, so that those of strangers go first
ALTER TABLE certificate_log ADD COLUMN coordinator BYTEA NOT NULL DEFAULT ''::bytea;
CREATE INDEX idx_certificate_log_coordinator ON certificate_log (coordinator, number) WHERE certificate IS NOT NULL;
INSERT INTO foreign_usage (coordinator, certificates, certificate_bytes)
SELECT ''::bytea, count(*), sum(octet_length(certificate) + octet_length(context)) FROM certificate_log
WHERE certificate IS NOT NULL HAVING count(*) > 0;

-- What this node stores for others is counted by coordinator: batches held for it, and its batches that were adopted and
-- not expired. What earlier versions of the program held is counted under the empty key: it is nobody's in particular
ALTER TABLE replicas ADD COLUMN coordinator BYTEA NOT NULL DEFAULT ''::bytea;
ALTER TABLE replicas ADD COLUMN policy_hash BYTEA;
ALTER TABLE replicas ADD COLUMN size BIGINT NOT NULL DEFAULT 0;
ALTER TABLE batches ADD COLUMN adopted_bytes BIGINT;
UPDATE replicas SET size = octet_length(hold) + octet_length(payload);
CREATE INDEX idx_replicas_kept ON replicas (kept_ms);
CREATE TABLE foreign_usage (
    coordinator BYTEA PRIMARY KEY,
    held INTEGER NOT NULL DEFAULT 0,
    held_bytes BIGINT NOT NULL DEFAULT 0,
    adopted INTEGER NOT NULL DEFAULT 0,
    adopted_bytes BIGINT NOT NULL DEFAULT 0
);
INSERT INTO foreign_usage (coordinator, adopted, adopted_bytes)
SELECT coordinator, count(*), sum(octet_length(payload)) FROM batches
WHERE coordinator IS NOT NULL AND expired_ms IS NULL GROUP BY coordinator;
INSERT INTO foreign_usage (coordinator, held, held_bytes)
SELECT ''::bytea, count(*), sum(size) FROM replicas HAVING count(*) > 0;
CREATE INDEX idx_batches_adopted ON batches (number) WHERE coordinator IS NOT NULL AND expired_ms IS NULL;

-- policies that peers sent are kept while they are in use, and for a while after that
ALTER TABLE policies ADD COLUMN fetched_ms BIGINT;
ALTER TABLE policies ADD COLUMN fetched_from BYTEA;
CREATE INDEX idx_policies_fetched ON policies (fetched_ms) WHERE fetched_ms IS NOT NULL;
CREATE INDEX idx_batches_policy ON batches (policy_hash);
CREATE INDEX idx_replicas_policy ON replicas (policy_hash);
CREATE INDEX idx_overlay_event_sources_policy ON overlay_event_sources (policy_hash);

-- certificates of others are counted by a signer of theirs, so that those of strangers go first. The empty key: one of the
-- signers did work here that others confirmed; or an earlier version of the program entered it
ALTER TABLE certificate_log ADD COLUMN signer BYTEA NOT NULL DEFAULT ''::bytea;
CREATE INDEX idx_certificate_log_signer ON certificate_log (signer, number) WHERE certificate IS NOT NULL;
CREATE TABLE certificate_usage (
    signer BYTEA PRIMARY KEY,
    certificates INTEGER NOT NULL,
    bytes BIGINT NOT NULL
);
CREATE INDEX idx_certificate_usage_bytes ON certificate_usage (bytes);
INSERT INTO certificate_usage (signer, certificates, bytes)
SELECT ''::bytea, count(*), sum(octet_length(certificate) + octet_length(context)) FROM certificate_log
WHERE certificate IS NOT NULL HAVING count(*) > 0;

-- what pruning and retention look for: without these they walk whole tables, with locks held
CREATE INDEX idx_certificate_log_foreign ON certificate_log (number) WHERE certificate IS NOT NULL;
CREATE INDEX idx_batches_retention ON batches (policy_hash, certified_ms)
    WHERE state = 'certified' AND expired_ms IS NULL;

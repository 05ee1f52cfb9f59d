
-- when what the events of a batch say was deleted, as their policy asks; certificate and hashes stay
ALTER TABLE batches ADD COLUMN expired_ms BIGINT;

-- a merged batch takes the place of its last part in its source: after what came before it, before what came later
DROP INDEX idx_batches_own_sequence;
CREATE UNIQUE INDEX idx_batches_own_sequence ON batches (source_id, source_sequence)
    WHERE coordinator IS NULL AND merged_into IS NULL;
-- the parts give up their places before the whole is there
ALTER TABLE batches ALTER CONSTRAINT batches_merged_into_fkey DEFERRABLE INITIALLY DEFERRED;

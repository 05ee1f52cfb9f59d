
-- who told this node of a proof; NULL where it found it itself
ALTER TABLE equivocations ADD COLUMN heard_from BYTEA;

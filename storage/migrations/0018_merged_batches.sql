-- small batches of a source that waited are certified as one: their events move to it, their manifests stay here
ALTER TABLE batches ADD COLUMN merged_into TEXT REFERENCES batches (batch_id);

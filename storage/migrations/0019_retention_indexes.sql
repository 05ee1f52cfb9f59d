-- what retention looks for: jobs by their event, for the foreign key too, and objects by their batch. Both have a few
-- rows a batch; the rows of events, of which there are hundreds, are found through the index of events
CREATE INDEX idx_overlay_event_jobs_event ON overlay_event_jobs (event_id);
CREATE INDEX idx_objects_batch ON objects (batch);

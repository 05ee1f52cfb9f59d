-- why the node itself disabled a source; null where a client did
ALTER TABLE overlay_event_sources ADD COLUMN disabled_reason TEXT;

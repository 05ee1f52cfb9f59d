-- on whose word a subscription is delivered: the caller who wrote it last, and what gave it the right
ALTER TABLE overlay_event_subscriptions ADD COLUMN authority JSONB NOT NULL DEFAULT '{}'::jsonb;

-- how a subscription is delivered, and the secrets that sign what it is sent
ALTER TABLE overlay_event_subscriptions ADD COLUMN delivery JSONB NOT NULL DEFAULT '{}'::jsonb;
ALTER TABLE overlay_event_subscriptions ADD COLUMN secret TEXT;
ALTER TABLE overlay_event_subscriptions ADD COLUMN previous_secret TEXT;
ALTER TABLE overlay_event_subscriptions ADD COLUMN previous_secret_until_ms BIGINT NOT NULL DEFAULT 0;

-- where its reader stands; a cursor set by hand counts the revision up, and steps made under an earlier one are void
ALTER TABLE overlay_event_subscriptions ADD COLUMN cursor_sequence BIGINT NOT NULL DEFAULT 0;
ALTER TABLE overlay_event_subscriptions ADD COLUMN cursor_position BIGINT NOT NULL DEFAULT 0;
ALTER TABLE overlay_event_subscriptions ADD COLUMN cursor_revision INTEGER NOT NULL DEFAULT 0;

-- how that goes
ALTER TABLE overlay_event_subscriptions ADD COLUMN deliveries BIGINT NOT NULL DEFAULT 0;
ALTER TABLE overlay_event_subscriptions ADD COLUMN failures BIGINT NOT NULL DEFAULT 0;
ALTER TABLE overlay_event_subscriptions ADD COLUMN last_success_ms BIGINT;
ALTER TABLE overlay_event_subscriptions ADD COLUMN last_failure_ms BIGINT;
ALTER TABLE overlay_event_subscriptions ADD COLUMN last_failure_status INTEGER;
ALTER TABLE overlay_event_subscriptions ADD COLUMN last_failure_reason TEXT;
ALTER TABLE overlay_event_subscriptions ADD COLUMN failing_since_ms BIGINT;
ALTER TABLE overlay_event_subscriptions ADD COLUMN pause_reason TEXT;
ALTER TABLE overlay_event_subscriptions ADD COLUMN updated_at TIMESTAMP NOT NULL DEFAULT NOW();
ALTER TABLE overlay_event_subscriptions ALTER COLUMN filter_criteria SET NOT NULL;
ALTER TABLE overlay_event_subscriptions ALTER COLUMN overlay_topics SET NOT NULL;
ALTER TABLE overlay_event_subscriptions ALTER COLUMN subscription_status SET NOT NULL;
ALTER TABLE overlay_event_subscriptions ALTER COLUMN created_at SET NOT NULL;
CREATE INDEX idx_overlay_subscriptions_identity ON overlay_event_subscriptions (client_identity_key, subscription_id);

-- The whole schema as the migrations leave it. The five overlay_* tables of the specification keep their names,
-- columns, types, defaults and indexes; columns below "added" are this node's own. Times are UTC.

CREATE TABLE overlay_event_sources (
    source_id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    source_type TEXT NOT NULL,
    configuration JSONB NOT NULL DEFAULT '{}'::jsonb,
    mapping_policy JSONB DEFAULT '{}'::jsonb,
    validation_rules JSONB DEFAULT '{}'::jsonb,
    overlay_topics TEXT[] DEFAULT ARRAY[]::TEXT[],
    ship_advertisement_id TEXT,
    identity_key TEXT,
    enabled BOOLEAN DEFAULT true,
    trust_score INTEGER DEFAULT 50,
    last_activity_at TIMESTAMP,
    created_at TIMESTAMP DEFAULT NOW(),
    updated_at TIMESTAMP DEFAULT NOW(),
    -- added
    policy_hash BYTEA NOT NULL,
    next_sequence BIGINT NOT NULL DEFAULT 1
);

CREATE TABLE overlay_events (
    event_id TEXT PRIMARY KEY,
    source_id TEXT NOT NULL,
    external_id TEXT,
    event_type TEXT NOT NULL,
    raw_data JSONB NOT NULL,
    normalized_data JSONB,
    validation_status TEXT DEFAULT 'pending',
    validation_issues JSONB DEFAULT '[]'::jsonb,
    content_hash TEXT,
    version_id TEXT,
    overlay_job_id TEXT,
    processing_agents TEXT[] DEFAULT ARRAY[]::TEXT[],
    certification_evidence JSONB DEFAULT '{}'::jsonb,
    overlay_distribution JSONB DEFAULT '{}'::jsonb,
    ingested_at TIMESTAMP DEFAULT NOW(),
    processed_at TIMESTAMP,
    certified_at TIMESTAMP,
    -- added
    batch_id TEXT NOT NULL,
    position INTEGER NOT NULL,
    record_hash BYTEA NOT NULL,
    version INTEGER NOT NULL DEFAULT 1,
    FOREIGN KEY (source_id) REFERENCES overlay_event_sources(source_id)
);
CREATE INDEX idx_overlay_events_source ON overlay_events (source_id, ingested_at);
CREATE INDEX idx_overlay_events_status ON overlay_events (validation_status, ingested_at);
CREATE INDEX idx_overlay_events_type ON overlay_events (event_type, ingested_at);
CREATE INDEX idx_overlay_events_hash ON overlay_events (content_hash);

CREATE TABLE overlay_event_jobs (
    job_id TEXT PRIMARY KEY,
    event_id TEXT NOT NULL,
    job_type TEXT NOT NULL,
    assigned_agent TEXT,
    overlay_job_template_id TEXT,
    job_status TEXT DEFAULT 'queued',
    input_data JSONB,
    output_data JSONB,
    error_details JSONB,
    processing_evidence JSONB DEFAULT '[]'::jsonb,
    attempts INTEGER DEFAULT 0,
    max_attempts INTEGER DEFAULT 3,
    next_run_at TIMESTAMP DEFAULT NOW(),
    started_at TIMESTAMP,
    completed_at TIMESTAMP,
    created_at TIMESTAMP DEFAULT NOW(),
    -- added: a job is one role over one batch; event_id names the batch's first event
    batch_id TEXT NOT NULL,
    FOREIGN KEY (event_id) REFERENCES overlay_events(event_id)
);
CREATE INDEX idx_overlay_event_jobs_status ON overlay_event_jobs (job_status, next_run_at);
CREATE INDEX idx_overlay_event_jobs_agent ON overlay_event_jobs (assigned_agent, job_status);
CREATE INDEX idx_overlay_event_jobs_type ON overlay_event_jobs (job_type, job_status);
CREATE INDEX idx_overlay_event_jobs_batch ON overlay_event_jobs (batch_id);

CREATE TABLE overlay_event_subscriptions (
    subscription_id TEXT PRIMARY KEY,
    client_id TEXT NOT NULL,
    subscription_type TEXT NOT NULL,
    filter_criteria JSONB DEFAULT '{}'::jsonb,
    overlay_topics TEXT[] DEFAULT ARRAY[]::TEXT[],
    callback_url TEXT,
    client_identity_key TEXT,
    subscription_status TEXT DEFAULT 'active',
    last_activity_at TIMESTAMP DEFAULT NOW(),
    expires_at TIMESTAMP,
    created_at TIMESTAMP DEFAULT NOW()
);
CREATE INDEX idx_overlay_subscriptions_client ON overlay_event_subscriptions (client_id, subscription_status);
CREATE INDEX idx_overlay_subscriptions_status ON overlay_event_subscriptions (subscription_status, expires_at);

CREATE TABLE overlay_event_metrics (
    id SERIAL PRIMARY KEY,
    metric_type TEXT NOT NULL,
    source_id TEXT,
    agent_id TEXT,
    event_count INTEGER DEFAULT 1,
    processing_time_ms INTEGER,
    success_count INTEGER DEFAULT 0,
    error_count INTEGER DEFAULT 0,
    throughput_events_per_sec DECIMAL,
    overlay_latency_ms INTEGER,
    recorded_at TIMESTAMP DEFAULT NOW()
);
CREATE INDEX idx_overlay_metrics_type ON overlay_event_metrics (metric_type, recorded_at);
CREATE INDEX idx_overlay_metrics_source ON overlay_event_metrics (source_id, recorded_at);
CREATE INDEX idx_overlay_metrics_agent ON overlay_event_metrics (agent_id, recorded_at);

CREATE TABLE policies (
    policy_hash BYTEA PRIMARY KEY,
    document BYTEA NOT NULL,
    created_at TIMESTAMP NOT NULL DEFAULT NOW()
);

-- payload and outputs are zstd frames; certificate and manifest are signed CBOR
CREATE TABLE batches (
    batch_id TEXT PRIMARY KEY,
    number BIGSERIAL UNIQUE,
    source_id TEXT NOT NULL REFERENCES overlay_event_sources(source_id),
    source_sequence BIGINT NOT NULL,
    policy_hash BYTEA NOT NULL REFERENCES policies(policy_hash),
    level SMALLINT NOT NULL,
    quorum SMALLINT NOT NULL,
    stateful BOOLEAN NOT NULL,
    versioned BOOLEAN NOT NULL,
    materialised BOOLEAN NOT NULL DEFAULT false,
    events INTEGER NOT NULL,
    topics TEXT[] NOT NULL,
    manifest BYTEA NOT NULL,
    payload BYTEA NOT NULL,
    received_ms BIGINT NOT NULL,
    state TEXT NOT NULL DEFAULT 'pending',
    seal_sequence BIGINT UNIQUE,
    certificate BYTEA,
    outputs BYTEA,
    valid INTEGER,
    invalid INTEGER,
    certified_ms BIGINT,
    attempts INTEGER NOT NULL DEFAULT 0,
    reasons TEXT[] NOT NULL DEFAULT ARRAY[]::TEXT[],
    published INTEGER NOT NULL DEFAULT 0,
    confirmed INTEGER NOT NULL DEFAULT 0,
    latency_ms INTEGER NOT NULL DEFAULT 0,
    has_objects BOOLEAN NOT NULL DEFAULT false,
    UNIQUE (source_id, source_sequence)
);
-- signed and compressed bytes do not compress
ALTER TABLE batches ALTER COLUMN manifest SET STORAGE EXTERNAL;
ALTER TABLE batches ALTER COLUMN payload SET STORAGE EXTERNAL;
ALTER TABLE batches ALTER COLUMN certificate SET STORAGE EXTERNAL;
ALTER TABLE batches ALTER COLUMN outputs SET STORAGE EXTERNAL;
CREATE INDEX idx_batches_unsealed ON batches (received_ms) WHERE state = 'pending';
-- batches that were sealed before there was an index of objects are entered into it bit by bit
CREATE INDEX idx_batches_without_objects ON batches (number) WHERE state = 'certified' AND NOT has_objects;

-- every version of every event from its acknowledgement on: what makes a repeat known and an event found while
-- its row is still to be written. The row of overlay_events is written once, with its verdict, when the batch is
-- sealed; of a batch that waits longer the rows are written pending (``materialised``).
CREATE TABLE event_index (
    event_digest BYTEA NOT NULL,
    version INTEGER NOT NULL,
    batch BIGINT NOT NULL,
    position INTEGER NOT NULL,
    record_hash BYTEA NOT NULL,
    PRIMARY KEY (event_digest, version)
);
CREATE INDEX idx_event_index_batch ON event_index (batch);

-- what an event said before its latest version
CREATE TABLE event_versions (
    event_id TEXT NOT NULL,
    version INTEGER NOT NULL,
    batch_id TEXT NOT NULL,
    position INTEGER NOT NULL,
    record_hash BYTEA NOT NULL,
    raw_data JSONB NOT NULL,
    normalized_data JSONB,
    validation_status TEXT NOT NULL,
    validation_issues JSONB NOT NULL,
    content_hash TEXT,
    version_id TEXT,
    ingested_at TIMESTAMP NOT NULL,
    certified_at TIMESTAMP,
    PRIMARY KEY (event_id, version)
);
CREATE INDEX idx_event_versions_batch ON event_versions (batch_id);

-- the coordination state, one row per lease, batch, chain, award held and task under way
CREATE TABLE entities (
    entity_id TEXT PRIMARY KEY,
    state BYTEA NOT NULL
);
-- few rows, rewritten all the time: kept whole in their page, with room for the next version
ALTER TABLE entities ALTER COLUMN state SET STORAGE EXTERNAL;
ALTER TABLE entities SET (fillfactor = 30, toast_tuple_target = 8160);

CREATE TABLE evidence (
    batch_id TEXT NOT NULL,
    role TEXT NOT NULL,
    signer BYTEA NOT NULL,
    agrees BOOLEAN NOT NULL,
    frame BYTEA NOT NULL,
    processing_us BIGINT NOT NULL,
    events INTEGER NOT NULL,
    PRIMARY KEY (batch_id, role, signer)
);
ALTER TABLE evidence ALTER COLUMN frame SET STORAGE EXTERNAL;
CREATE INDEX idx_evidence_dissent ON evidence (signer) WHERE NOT agrees;

CREATE TABLE equivocations (
    signer BYTEA NOT NULL,
    batch_id TEXT NOT NULL,
    role TEXT NOT NULL,
    first BYTEA NOT NULL,
    second BYTEA NOT NULL,
    found_at TIMESTAMP NOT NULL DEFAULT NOW(),
    PRIMARY KEY (signer, batch_id, role)
);

CREATE TABLE peers (
    identity BYTEA PRIMARY KEY,
    addresses TEXT[] NOT NULL,
    advertisement BYTEA NOT NULL,
    expires_ms BIGINT NOT NULL,
    first_seen_at TIMESTAMP NOT NULL DEFAULT NOW(),
    last_seen_at TIMESTAMP NOT NULL DEFAULT NOW()
);

-- whose database it is: network and identity of the node
CREATE TABLE node_meta (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
);

-- nonces of requests that were signed by themselves, kept until they are too old to be accepted again
CREATE TABLE auth_nonces (
    identity BYTEA NOT NULL,
    nonce TEXT NOT NULL,
    expires_ms BIGINT NOT NULL,
    PRIMARY KEY (identity, nonce)
);
CREATE INDEX idx_auth_nonces_expires ON auth_nonces (expires_ms);

-- Content by its SHA-256 (UHRP). A policy's key is its digest; a batch's records, decompressed, and its
-- certificate have a row each from the moment it is sealed.
CREATE TABLE objects (
    digest BYTEA PRIMARY KEY,
    kind TEXT NOT NULL,
    size BIGINT NOT NULL,
    batch BIGINT NOT NULL
);

-- copies of what peers hold, as zstd frames; the oldest give way
CREATE TABLE fetched_objects (
    digest BYTEA PRIMARY KEY,
    number BIGSERIAL UNIQUE,
    kind TEXT NOT NULL,
    size BIGINT NOT NULL,
    content BYTEA NOT NULL
);
ALTER TABLE fetched_objects ALTER COLUMN content SET STORAGE EXTERNAL;

-- transactions submitted to topics (BRC-22), with their ancestry and off-chain values
CREATE TABLE overlay_transactions (
    txid BYTEA PRIMARY KEY,
    beef BYTEA NOT NULL,
    off_chain_values BYTEA,
    received_ms BIGINT NOT NULL
);
ALTER TABLE overlay_transactions ALTER COLUMN beef SET STORAGE EXTERNAL;

-- what was answered, so that a repeat is answered alike
CREATE TABLE topic_transactions (
    topic TEXT NOT NULL,
    txid BYTEA NOT NULL REFERENCES overlay_transactions (txid) ON DELETE CASCADE,
    admitted INTEGER[] NOT NULL,
    removed INTEGER[] NOT NULL,
    PRIMARY KEY (topic, txid)
);

-- outputs in force; one that is spent is gone
CREATE TABLE topic_outputs (
    topic TEXT NOT NULL,
    txid BYTEA NOT NULL,
    output_index INTEGER NOT NULL,
    number BIGSERIAL,
    identity BYTEA NOT NULL,
    url TEXT NOT NULL,
    name TEXT NOT NULL,
    digest BYTEA NOT NULL,
    batch_id TEXT NOT NULL,
    expires_s BIGINT NOT NULL,
    admitted_ms BIGINT NOT NULL,
    PRIMARY KEY (topic, txid, output_index),
    FOREIGN KEY (topic, txid) REFERENCES topic_transactions (topic, txid) ON DELETE CASCADE
);
CREATE INDEX idx_topic_outputs_name ON topic_outputs (topic, name, number);
CREATE INDEX idx_topic_outputs_identity ON topic_outputs (topic, identity);
CREATE INDEX idx_topic_outputs_digest ON topic_outputs (topic, digest);
CREATE INDEX idx_topic_outputs_batch ON topic_outputs (topic, batch_id);
CREATE INDEX idx_topic_outputs_outpoint ON topic_outputs (txid, output_index);

-- what the transactions above spend: a second spender of the same coin is refused
CREATE TABLE spent_outpoints (
    txid BYTEA NOT NULL,
    output_index BIGINT NOT NULL,
    spender BYTEA NOT NULL,
    PRIMARY KEY (txid, output_index)
);

-- certificates of a source by time
CREATE INDEX idx_batches_source_time ON batches (source_id, certified_ms) WHERE state = 'certified';

-- what this node thinks of an agent in a role, and what it saw of it; successes and failures fade from at_ms on
CREATE TABLE reputations (
    agent BYTEA NOT NULL,
    role TEXT NOT NULL,
    agreed BIGINT NOT NULL DEFAULT 0,
    dissented BIGINT NOT NULL DEFAULT 0,
    late BIGINT NOT NULL DEFAULT 0,
    equivocated BIGINT NOT NULL DEFAULT 0,
    successes DOUBLE PRECISION NOT NULL DEFAULT 0,
    failures DOUBLE PRECISION NOT NULL DEFAULT 0,
    at_ms BIGINT NOT NULL DEFAULT 0,
    PRIMARY KEY (agent, role)
);

-- the latest occasions on which an agent did not agree: why its reputation is what it is
CREATE TABLE blemishes (
    id BIGSERIAL PRIMARY KEY,
    agent BYTEA NOT NULL,
    role TEXT NOT NULL,
    outcome TEXT NOT NULL,
    batch_id TEXT NOT NULL,
    at_ms BIGINT NOT NULL
);
CREATE INDEX idx_blemishes_agent ON blemishes (agent, id);

-- how auctions ended: bids, scores, choice
CREATE TABLE auctions (
    announcement_id TEXT PRIMARY KEY,
    lease_id TEXT NOT NULL,
    record JSONB NOT NULL,
    at_ms BIGINT NOT NULL
);
CREATE INDEX idx_auctions_lease ON auctions (lease_id);
CREATE INDEX idx_auctions_at ON auctions (at_ms);

-- every version of every job template; the one in use is the latest of its job type and level
CREATE TABLE job_templates (
    digest BYTEA PRIMARY KEY,
    template_id TEXT NOT NULL,
    job_type TEXT NOT NULL,
    level TEXT NOT NULL,
    document BYTEA NOT NULL,
    number BIGSERIAL UNIQUE,
    withdrawn BOOLEAN NOT NULL DEFAULT false,
    created_at TIMESTAMP NOT NULL DEFAULT NOW()
);
CREATE INDEX idx_job_templates_use ON job_templates (job_type, level, number);

-- whose batch it is where it is not this node's own, who else holds it, and the context it left behind
ALTER TABLE batches ADD COLUMN coordinator BYTEA;
ALTER TABLE batches ADD COLUMN holders BYTEA[] NOT NULL DEFAULT ARRAY[]::BYTEA[];
ALTER TABLE batches ADD COLUMN context_out BYTEA;
ALTER TABLE batches DROP CONSTRAINT batches_source_id_source_sequence_key;
CREATE UNIQUE INDEX idx_batches_own_sequence ON batches (source_id, source_sequence) WHERE coordinator IS NULL;

-- batches of others that this node finishes should their coordinators not come back
CREATE TABLE replicas (
    batch_id TEXT PRIMARY KEY,
    hold BYTEA NOT NULL,
    payload BYTEA NOT NULL,
    kept_ms BIGINT NOT NULL
);
ALTER TABLE replicas ALTER COLUMN hold SET STORAGE EXTERNAL;
ALTER TABLE replicas ALTER COLUMN payload SET STORAGE EXTERNAL;

-- certificates in the order in which this node came to have them. Those of its own batches stand in batches.
CREATE TABLE certificate_log (
    number BIGINT PRIMARY KEY,
    batch_id TEXT NOT NULL UNIQUE,
    source_id TEXT NOT NULL,
    certificate BYTEA,
    context BYTEA,
    learned_ms BIGINT NOT NULL
);
ALTER TABLE certificate_log ALTER COLUMN certificate SET STORAGE EXTERNAL;
CREATE INDEX idx_certificate_log_source ON certificate_log (source_id, learned_ms) WHERE certificate IS NOT NULL;

-- how far this node has read the logs of others
CREATE TABLE sync_cursors (
    peer BYTEA PRIMARY KEY,
    number BIGINT NOT NULL
);

INSERT INTO certificate_log (number, batch_id, source_id, learned_ms)
SELECT seal_sequence, batch_id, source_id, certified_ms FROM batches WHERE seal_sequence IS NOT NULL;

-- who told this node of a proof; NULL where it found it itself
ALTER TABLE equivocations ADD COLUMN heard_from BYTEA;

-- when a batch ran out of attempts, and how often an operator had it tried again, with the reasons until then
ALTER TABLE batches ADD COLUMN dead_ms BIGINT;
CREATE INDEX idx_batches_dead ON batches (dead_ms, batch_id) WHERE state = 'dead';
CREATE TABLE replays (
    id BIGSERIAL PRIMARY KEY,
    batch_id TEXT NOT NULL,
    asked_by BYTEA,
    at_ms BIGINT NOT NULL,
    reasons TEXT[] NOT NULL
);
CREATE INDEX idx_replays_batch ON replays (batch_id, id);
UPDATE batches SET dead_ms = received_ms WHERE state = 'dead';

-- when what the events of a batch say was deleted, as their policy asks; certificate and hashes stay
ALTER TABLE batches ADD COLUMN expired_ms BIGINT;

-- a source that was taken away: its events stay, and its row with them
ALTER TABLE overlay_event_sources ADD COLUMN deleted_at TIMESTAMP;

-- what its trust score is made of: the operator's word, and what validation found since, fading with later events
ALTER TABLE overlay_event_sources ADD COLUMN trust_prior INTEGER;
ALTER TABLE overlay_event_sources ADD COLUMN trust_valid DOUBLE PRECISION NOT NULL DEFAULT 0;
ALTER TABLE overlay_event_sources ADD COLUMN trust_invalid DOUBLE PRECISION NOT NULL DEFAULT 0;
UPDATE overlay_event_sources SET trust_prior = trust_score;

-- how far a source that this node reads has been taken in; written with the batches it stands for
CREATE TABLE source_marks (
    source_id TEXT PRIMARY KEY REFERENCES overlay_event_sources(source_id),
    mark JSONB NOT NULL,
    updated_at TIMESTAMP NOT NULL DEFAULT NOW()
);

-- what a source said that is no event, of sources that no client waits at to be told; the latest
CREATE TABLE source_rejections (
    number BIGSERIAL PRIMARY KEY,
    source_id TEXT NOT NULL REFERENCES overlay_event_sources(source_id),
    external_id TEXT,
    field TEXT NOT NULL,
    reason TEXT NOT NULL,
    remedy TEXT NOT NULL,
    head BYTEA NOT NULL,
    rejected_at TIMESTAMP NOT NULL DEFAULT NOW()
);
CREATE INDEX idx_source_rejections_source ON source_rejections (source_id, number);

-- answers to requests with an Idempotency-Key, to be given again; scope stands for the caller, the route and the key
CREATE TABLE idempotency_keys (
    scope BYTEA PRIMARY KEY,
    fingerprint BYTEA NOT NULL,
    status INTEGER NOT NULL,
    headers JSONB NOT NULL,
    body BYTEA NOT NULL,
    answered_ms BIGINT NOT NULL
);
CREATE INDEX idx_idempotency_keys_answered ON idempotency_keys (answered_ms, scope);
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
-- certificates of others are objects too: who refers to one finds it wherever it is kept
CREATE INDEX idx_certificate_log_object ON certificate_log (sha256(certificate)) WHERE certificate IS NOT NULL;

-- on whose word a subscription is delivered: the caller who wrote it last, and what gave it the right
ALTER TABLE overlay_event_subscriptions ADD COLUMN authority JSONB NOT NULL DEFAULT '{}'::jsonb;

-- what pruning and retention look for: without these they walk whole tables, with locks held
CREATE INDEX idx_certificate_log_foreign ON certificate_log (number) WHERE certificate IS NOT NULL;
CREATE INDEX idx_batches_retention ON batches (policy_hash, certified_ms)
    WHERE state = 'certified' AND expired_ms IS NULL;

-- the last part that each ledger of changes wrote: a part whose commit was not answered is not written twice
CREATE TABLE parts_written (
    ledger TEXT PRIMARY KEY,
    part BYTEA NOT NULL
);

-- small batches of a source that waited are certified as one: their events move to it, their manifests stay here
ALTER TABLE batches ADD COLUMN merged_into TEXT REFERENCES batches (batch_id);

-- what retention looks for: jobs by their event, for the foreign key too, and objects by their batch. Both have a few
-- rows a batch; the rows of events, of which there are hundreds, are found through the index of events
CREATE INDEX idx_overlay_event_jobs_event ON overlay_event_jobs (event_id);
CREATE INDEX idx_objects_batch ON objects (batch);

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

-- why the node itself disabled a source; null where a client did
ALTER TABLE overlay_event_sources ADD COLUMN disabled_reason TEXT;

-- a merged batch takes the place of its last part in its source: after what came before it, before what came later
DROP INDEX idx_batches_own_sequence;
CREATE UNIQUE INDEX idx_batches_own_sequence ON batches (source_id, source_sequence)
    WHERE coordinator IS NULL AND merged_into IS NULL;
-- the parts give up their places before the whole is there
ALTER TABLE batches ALTER CONSTRAINT batches_merged_into_fkey DEFERRABLE INITIALLY DEFERRED;

-- no query is planned by what stands in these: to sample 30,000 documents takes ANALYZE half a second, every half minute
ALTER TABLE overlay_events
    ALTER COLUMN raw_data SET STATISTICS 0,
    ALTER COLUMN normalized_data SET STATISTICS 0,
    ALTER COLUMN validation_issues SET STATISTICS 0,
    ALTER COLUMN certification_evidence SET STATISTICS 0,
    ALTER COLUMN overlay_distribution SET STATISTICS 0,
    ALTER COLUMN processing_agents SET STATISTICS 0;
ALTER TABLE event_versions
    ALTER COLUMN raw_data SET STATISTICS 0,
    ALTER COLUMN normalized_data SET STATISTICS 0,
    ALTER COLUMN validation_issues SET STATISTICS 0;

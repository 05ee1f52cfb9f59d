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
INSERT INTO reputations (agent, role, agreed, dissented, late, equivocated)
SELECT agent, role, agreed, dissented, late, equivocated
FROM standings CROSS JOIN (VALUES ('normalize'), ('validate'), ('certify')) AS roles (role);
DROP TABLE standings;

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

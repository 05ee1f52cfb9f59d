-- nonces of requests that were signed by themselves, kept until they are too old to be accepted again
CREATE TABLE auth_nonces (
    identity BYTEA NOT NULL,
    nonce TEXT NOT NULL,
    expires_ms BIGINT NOT NULL,
    PRIMARY KEY (identity, nonce)
);
CREATE INDEX idx_auth_nonces_expires ON auth_nonces (expires_ms);

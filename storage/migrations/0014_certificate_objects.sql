-- certificates of others are objects too: who refers to one finds it wherever it is kept
CREATE INDEX idx_certificate_log_object ON certificate_log (sha256(certificate)) WHERE certificate IS NOT NULL;

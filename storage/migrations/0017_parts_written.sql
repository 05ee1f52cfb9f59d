-- the last part that each ledger of changes wrote: a part whose commit was not answered is not written twice
CREATE TABLE parts_written (
    ledger TEXT PRIMARY KEY,
    part BYTEA NOT NULL
);

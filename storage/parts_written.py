"""The last part that each ledger of changes wrote, so that a part is written once however often it is tried."""

import psycopg


def enter(connection: psycopg.Connection, ledger: str, part: bytes) -> bool:
    """Note that this transaction writes a part. False where an earlier attempt at the same part was committed.

    A ledger writes its parts one after the other, so the last one is all there is to know.
    """
    entered = connection.execute(
        """INSERT INTO parts_written (ledger, part) VALUES (%s, %s)
           ON CONFLICT (ledger) DO UPDATE SET part = EXCLUDED.part WHERE parts_written.part <> EXCLUDED.part""",
        (ledger, part),
    )
    return entered.rowcount == 1

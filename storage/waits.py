"""What a session waits for, as the server sees it."""

from collections.abc import Sequence

import psycopg


def is_waiting_for_lock(connection: psycopg.Connection, *, pid: int, seconds: float) -> bool:
    """Whether the session of one of the server's processes has waited for a lock that long."""
    return pid in waiting_for_lock(connection, pids=(pid,), seconds=seconds)


def waiting_for_lock(connection: psycopg.Connection, *, pids: Sequence[int], seconds: float) -> frozenset[int]:
    """Those of the server's processes whose sessions have waited for a lock that long.

    Advisory locks are not counted: with them this program's own transactions take turns.
    """
    rows = connection.execute(
        """SELECT pid FROM pg_stat_activity
           WHERE pid = ANY(%s) AND wait_event_type = 'Lock' AND wait_event <> 'advisory'
                 AND clock_timestamp() - query_start > make_interval(secs => %s)""",
        (list(pids), seconds),
    )
    return frozenset(int(row[0]) for row in rows)

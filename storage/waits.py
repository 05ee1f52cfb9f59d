"""What a session waits for, as the server sees it."""

import psycopg


def is_waiting_for_lock(connection: psycopg.Connection, *, pid: int, seconds: float) -> bool:
    """Whether the session of one of the server's processes has waited for a lock that long.

    Advisory locks are not counted: with them this program's own transactions take turns.
    """
    row = connection.execute(
        """SELECT EXISTS (SELECT FROM pg_stat_activity
               WHERE pid = %s AND wait_event_type = 'Lock' AND wait_event <> 'advisory'
                     AND clock_timestamp() - query_start > make_interval(secs => %s))""",
        (pid, seconds),
    ).fetchone()
    return row is not None and bool(row[0])

"""What the sessions of this program wait for, as the server sees it."""

import psycopg


def is_waiting_for_lock(connection: psycopg.Connection, *, seconds: float) -> bool:
    """Whether a session of this database's node has waited for a lock that long, other nodes' not counted.

    Advisory locks are not counted: with them this program's own transactions take turns.
    """
    row = connection.execute(
        """SELECT EXISTS (SELECT FROM pg_stat_activity
               WHERE datname = current_database() AND application_name = current_setting('application_name')
                     AND wait_event_type = 'Lock' AND wait_event <> 'advisory'
                     AND clock_timestamp() - query_start > make_interval(secs => %s))""",
        (seconds,),
    ).fetchone()
    return row is not None and bool(row[0])

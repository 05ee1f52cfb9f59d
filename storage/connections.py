"""Connections that wait for their server within bounds, with the session settings that this package relies on."""

import contextlib
import math
import time
from typing import Any, Final

import psycopg

from storage.json_values import adapt

CONNECT_S_MAX: Final = 5
STATEMENT_S: Final = 60
LOCK_S: Final = 10
ATTEMPT_S: Final = 75.0  # longer than a statement may take: the server's own limits come first
ROLLBACK_S: Final = 0.25  # past the end, for the end of the transaction
CANCEL_S: Final = 0.25
WAKE_S: Final = 0.1
TCP_MS_MAX: Final = 15_000  # until data that a host does not acknowledge breaks a connection
# What the node relies on, whatever the server's defaults are: UTC, flushed commits, a new snapshot per statement.
SESSION = f"""SET TIME ZONE 'UTC'; SET default_transaction_isolation = 'read committed'; SET jit = off;
    SET statement_timeout = '{STATEMENT_S}s'; SET lock_timeout = '{LOCK_S}s';
    SET idle_in_transaction_session_timeout = '{STATEMENT_S}s';
    SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3;
    SET tcp_user_timeout = {TCP_MS_MAX};
    SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'
    """.encode()


class BoundedConnection(psycopg.Connection):
    """A connection that waits for its server until ``ends_s`` at most, by the monotonic clock."""

    ends_s = math.inf

    def wait(self, gen: Any, interval: float = WAKE_S, timeout: float | None = None) -> Any:
        """As psycopg's. Closes the connection to a server that has not answered by ``ends_s``.

        Raises:
            psycopg.errors.QueryCanceled: It did not answer; what a commit under way came to is not known.
        """
        if self.ends_s == math.inf:
            return super().wait(gen, interval, timeout)
        left_s = max(self.ends_s - time.monotonic(), ROLLBACK_S)
        cut_off_s = time.monotonic() + left_s
        try:
            return super().wait(gen, interval, left_s if timeout is None else min(timeout, left_s))
        except psycopg.OperationalError as error:
            if error.sqlstate is not None or self.closed or time.monotonic() < cut_off_s:
                raise
            self._leave()
            raise psycopg.errors.QueryCanceled("the server did not answer in time") from error

    def _leave(self) -> None:
        """Ask the server to end the statement, then close, whether it heard that or not."""
        with contextlib.suppress(psycopg.Error):
            self.cancel_safe(timeout=CANCEL_S)
        self.close()


def connect(url: str, *, autocommit: bool = False) -> BoundedConnection:
    """A connection with the session settings that the rest of this package relies on."""
    connection = BoundedConnection.connect(
        url,
        autocommit=True,
        connect_timeout=CONNECT_S_MAX,
        keepalives_idle=10,
        keepalives_interval=5,
        keepalives_count=3,
        tcp_user_timeout=TCP_MS_MAX,
        application_name="overlay-node",
    )
    with contextlib.ExitStack() as undo:
        undo.callback(connection.close)
        connection.ends_s = time.monotonic() + CONNECT_S_MAX
        adapt(connection)
        connection.execute(SESSION)
        connection.autocommit = autocommit
        connection.ends_s = math.inf
        undo.pop_all()
    return connection

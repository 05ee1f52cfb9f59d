"""Whether the database takes writes, and its disk has room."""

from collections.abc import Callable, Sequence
from typing import Final

from node.runtime.conditions import Condition, Finding, Probe, Severity
from storage.database import Database
from storage.disk import MIB, DiskReserve
from storage.errors import DatabaseUnavailableError, StatementError

CHECK_S: Final = 1.2
FRESH_S: Final = 0.25

DATABASE_DOWN: Final = Condition(
    code="database-down",
    severity=Severity.BLOCKING,
    remedy="start the database server and check DATABASE_URL; a server of the node's own is started again by itself",
)
DATABASE_READ_ONLY: Final = Condition(
    code="database-read-only",
    severity=Severity.BLOCKING,
    remedy="let DATABASE_URL lead to the primary server, or end the read-only state of this one",
)
DATABASE_SLOW: Final = Condition(
    code="database-slow",
    severity=Severity.BLOCKING,
    remedy="look for locks, long statements and a full or failing disk at the database server (pg_stat_activity)",
)
DATABASE_FAILING: Final = Condition(
    code="database-failing",
    severity=Severity.BLOCKING,
    remedy="read the database server's log: its disk is full or fails",
)
STATEMENT_WRONG: Final = Condition(
    code="statement-wrong",
    severity=Severity.BLOCKING,
    remedy="report item.quarantined from the node's log as a bug of this program, and run another version of it",
)
DISK_LOW: Final = Condition(
    code="disk-low",
    severity=Severity.BLOCKING,
    remedy="free some space on the disk of the data directory, or lower OVERLAY_DISK_RESERVE_MB",
)
DISK_SILENT: Final = Condition(
    code="disk-silent",
    severity=Severity.BLOCKING,
    remedy="check the disk of the data directory and where it is mounted from: the system does not answer about it",
)
BY_CAUSE: Final = {
    "unreachable": DATABASE_DOWN,
    "restarting": DATABASE_DOWN,
    "read-only": DATABASE_READ_ONLY,
    "disk-full": DATABASE_FAILING,
    "server-disk": DATABASE_FAILING,
    "damaged": DATABASE_FAILING,
}
"""The condition that a fault's cause stands for; of any other cause the database is slow."""
DISK_CAUSES: Final = ("disk-low", "disk-silent")  # found by the disk's own probe


def database_probe(
    database: Database, trouble: Callable[[], DatabaseUnavailableError | StatementError | None]
) -> Probe:
    """``trouble``: What holds commits up, or made the last one fail."""

    async def look() -> Sequence[Finding]:
        try:
            await database.check(CHECK_S)
        except DatabaseUnavailableError as fault:
            return [_found(fault)]
        held_up = trouble()
        if isinstance(held_up, StatementError):
            return [STATEMENT_WRONG.found("the database does not understand a statement that events are stored with")]
        if held_up is None or held_up.fields.get("cause") in DISK_CAUSES:
            return []
        return [_found(held_up)]

    conditions = (DATABASE_DOWN, DATABASE_READ_ONLY, DATABASE_SLOW, DATABASE_FAILING, STATEMENT_WRONG)
    return Probe(name="database", conditions=conditions, look=look, silent=DATABASE_SLOW, fresh_s=FRESH_S)


def _found(fault: DatabaseUnavailableError) -> Finding:
    return BY_CAUSE.get(str(fault.fields.get("cause")), DATABASE_SLOW).found(str(fault))


def disk_probe(reserve: DiskReserve) -> Probe:
    """Reads what the reserve saw last: looking at a disk can hang."""

    async def look() -> Sequence[Finding]:
        room = reserve.room
        if reserve.is_silent:
            return [DISK_SILENT.found("the disk of the database does not answer")]
        if room is not None and room.is_low:
            return [DISK_LOW.found(f"{room.free_bytes // MIB} MiB are free, {room.reserved_bytes // MIB} kept back")]
        return []

    return Probe(name="disk", conditions=(DISK_LOW, DISK_SILENT), look=look, silent=DISK_SILENT)

"""Room on the disk of the node's own server: events are refused before its log cannot grow, which would end it.

The disk is read in a thread, since the system call can block without end; callers get the values that were read last.
"""

import os
import time
from pathlib import Path
from typing import Final

import attrs
import structlog
import trio

from storage.errors import DatabaseUnavailableError

log = structlog.get_logger(__name__)

MIB: Final = 1024 * 1024
RESERVE_SHARE: Final = 0.05
RESERVE_BYTES_MIN: Final = 48 * MIB  # three segments of the log
RESERVE_BYTES_MAX: Final = 256 * MIB
LOOK_S: Final = 0.5
SILENT_S: Final = 2.0
REMEDY: Final = "free some space on that disk; the request can be repeated"


@attrs.frozen(kw_only=True)
class Room:
    """Room on a disk. ``reserved_bytes``: What is kept back."""

    free_bytes: int
    reserved_bytes: int

    @property
    def is_low(self) -> bool:
        return self.free_bytes < self.reserved_bytes


class DiskReserve:
    """Watches the disk of one directory.

    Attributes:
        reserved_bytes: What is kept back; None: a share of the disk, within bounds. Can be changed.
        room: As it was seen last; None: not yet, or the disk is another machine's, and its server reports it.
    """

    def __init__(self, directory: Path | None, reserved_bytes: int | None = None) -> None:
        self._directory = directory
        self.reserved_bytes = reserved_bytes
        self._looking_since_s: float | None = None
        self.room: Room | None = None

    async def watch(self) -> None:
        """Look at the disk again and again until cancelled."""
        if self._directory is None:
            return
        limiter = trio.CapacityLimiter(1)
        while True:
            # a look that hangs keeps the only place: no thread is started beside it
            await trio.to_thread.run_sync(self.look, abandon_on_cancel=True, limiter=limiter)  # type: ignore[call-arg]
            await trio.sleep(LOOK_S)

    def look(self) -> None:
        """Look at the disk now; can take for ever."""
        if self._directory is None:
            return
        if self._looking_since_s is None:
            self._looking_since_s = time.monotonic()
        try:
            found = os.statvfs(self._directory)
        except OSError as error:
            log.warning("disk.unreadable", why=error.strerror)
            return
        share = int(RESERVE_SHARE * found.f_blocks * found.f_frsize)
        reserved = max(RESERVE_BYTES_MIN, min(share, RESERVE_BYTES_MAX))
        self.room = Room(
            free_bytes=found.f_bavail * found.f_frsize,
            reserved_bytes=reserved if self.reserved_bytes is None else self.reserved_bytes,
        )
        self._looking_since_s = None

    @property
    def is_silent(self) -> bool:
        """Whether looks at the disk hang, or fail."""
        since_s = self._looking_since_s
        return since_s is not None and time.monotonic() - since_s > SILENT_S

    def refuse_if_low(self) -> None:
        """Raises:
        DatabaseUnavailableError: Less is free than is kept back, or the disk does not answer. What was taken in
            before is finished with what is kept back.
        """
        if self.is_silent:
            raise DatabaseUnavailableError(
                "the disk of the database does not answer", cause="disk-silent", remedy="check that disk"
            )
        room = self.room
        if room is not None and room.is_low:
            raise DatabaseUnavailableError(
                f"the disk of the database has {room.free_bytes // MIB} MiB free, and "
                f"{room.reserved_bytes // MIB} MiB are kept back",
                cause="disk-low",
                remedy=REMEDY,
            )

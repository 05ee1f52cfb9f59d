"""Room on the disk of the node's own server: events are refused before its log cannot grow, which would end it."""

import os
import time
from pathlib import Path
from typing import Final

from storage.errors import DatabaseUnavailableError

MIB: Final = 1024 * 1024
RESERVE_SHARE: Final = 0.05
RESERVE_BYTES_MIN: Final = 48 * MIB  # three segments of the log
RESERVE_BYTES_MAX: Final = 256 * MIB
LOOK_S: Final = 0.5


class DiskReserve:
    """Watches the disk of one directory; None: the disk is another machine's, and its server reports it."""

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory
        self._looked_s = -LOOK_S
        self._fault = ""

    def refuse_if_low(self) -> None:
        """Raises:
        DatabaseUnavailableError: Less is free than is kept back. What was taken in before is finished with that.
        """
        if self._directory is None:
            return
        now_s = time.monotonic()
        if now_s - self._looked_s >= LOOK_S:
            self._looked_s, self._fault = now_s, _shortage(self._directory)
        if self._fault:
            raise DatabaseUnavailableError(
                self._fault, cause="disk-low", remedy="free some space on that disk; the request can be repeated"
            )


def _shortage(directory: Path) -> str:
    found = os.statvfs(directory)
    free = found.f_bavail * found.f_frsize
    share = int(RESERVE_SHARE * found.f_blocks * found.f_frsize)
    reserve = max(RESERVE_BYTES_MIN, min(share, RESERVE_BYTES_MAX))
    if free >= reserve:
        return ""
    return f"the disk of the database has {free // MIB} MiB free, and {reserve // MIB} MiB are kept back"

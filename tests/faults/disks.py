"""Small disks of databases: a tmpfs each, whose room can be taken away and given back. Needs the right to mount."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

MIB: Final = 1024 * 1024
DISK_MIB: Final = 3_072  # the most; memory is used for what is written alone
FREE_FULL_MIB: Final = 0
FREE_LOW_MIB: Final = 24  # less than a node keeps back, and enough for what was taken in before
SHRINKS_MAX: Final = 20


class Disk:
    """A mounted tmpfs.

    Taking room away makes the file system smaller, so that no memory is spent on filling it. Whoever writes cannot
    tell: ``ENOSPC``, and no room in ``statvfs``.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def fill(self, free_mib: int) -> None:
        """Leave about so much free.

        Raises:
            OSError: The disk could not be made smaller.
        """
        for _ in range(SHRINKS_MAX):
            found = os.statvfs(self.directory)
            used = (found.f_blocks - found.f_bfree) * found.f_frsize
            if _run("mount", "-o", f"remount,size={used + free_mib * MIB}", str(self.directory)):
                return  # else more was written meanwhile than would fit
        raise OSError(f"{self.directory} could not be made smaller")

    def free(self) -> None:
        """Give the room back.

        Raises:
            OSError: It could not be given back.
        """
        if not _run("mount", "-o", f"remount,size={DISK_MIB}m", str(self.directory)):
            raise OSError(f"{self.directory} could not be made larger")


@contextlib.contextmanager
def mounted(directory: Path) -> Iterator[Disk | None]:
    """A disk at ``directory`` until the end of the block; None where this process may not mount."""
    directory.mkdir(parents=True, exist_ok=True)
    if not _run("mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m,mode=0755", "overlay-faults", str(directory)):
        yield None
        return
    try:
        yield Disk(directory)
    finally:
        _run("umount", "--lazy", str(directory))


def _run(*command: str) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    return False

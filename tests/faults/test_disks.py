"""A disk without room refuses what is written to it, and takes it when there is room again."""

import errno
import os
from pathlib import Path

import pytest

from tests.faults.disks import MIB, mounted


def free_mib(directory: Path) -> int:
    found = os.statvfs(directory)
    return found.f_bavail * found.f_frsize // MIB


@pytest.mark.parametrize("left_mib", [0, 3])
def test_room_is_taken_away_and_given_back(tmp_path: Path, left_mib: int) -> None:
    with mounted(tmp_path / "disk") as disk:
        if disk is None:
            pytest.skip("this process may not mount file systems")
        (disk.directory / "before").write_bytes(bytes(2 * MIB))
        disk.fill(left_mib)
        assert free_mib(disk.directory) == left_mib
        with pytest.raises(OSError, match="No space left") as caught:
            (disk.directory / "more").write_bytes(bytes((left_mib + 1) * MIB))
        assert caught.value.errno == errno.ENOSPC
        disk.free()
        (disk.directory / "more").write_bytes(bytes((left_mib + 1) * MIB))
        assert free_mib(disk.directory) > 1_000
    assert not list((tmp_path / "disk").iterdir()), "it is gone with all that was on it"

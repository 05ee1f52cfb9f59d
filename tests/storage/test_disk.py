"""The room that is kept back on the disk of the node's own server."""

from pathlib import Path

import pytest

from storage.database import Database
from storage.disk import RESERVE_BYTES_MAX, RESERVE_BYTES_MIN, DiskReserve
from storage.errors import DatabaseUnavailableError


def keep_back(reserve: DiskReserve, count: int) -> None:
    reserve.reserved_bytes = count
    reserve.look()


def test_a_disk_with_too_little_room_is_refused_until_there_is_room(tmp_path: Path) -> None:
    reserve = DiskReserve(tmp_path, reserved_bytes=1)
    reserve.look()
    reserve.refuse_if_low()
    keep_back(reserve, 2**60)
    with pytest.raises(DatabaseUnavailableError, match=r"\d+ MiB free") as caught:
        reserve.refuse_if_low()
    assert caught.value.fields["cause"] == "disk-low"
    keep_back(reserve, 1)
    reserve.refuse_if_low()


def test_a_share_of_the_disk_is_kept_back_unless_a_size_is_set(tmp_path: Path) -> None:
    for asked, least, most in ((None, RESERVE_BYTES_MIN, RESERVE_BYTES_MAX), (7, 7, 7)):
        reserve = DiskReserve(tmp_path, asked)
        reserve.look()
        assert reserve.room is not None
        assert least <= reserve.room.reserved_bytes <= most
        assert reserve.room.free_bytes > 0


def test_the_disk_of_another_machine_is_not_looked_at() -> None:
    reserve = DiskReserve(None, reserved_bytes=2**60)
    reserve.look()
    reserve.refuse_if_low()
    assert reserve.room is None


async def test_a_database_without_room_still_answers(postgres_url: str, tmp_path: Path) -> None:
    reserve = DiskReserve(tmp_path, reserved_bytes=2**60)
    reserve.look()
    with Database(postgres_url, reserve=reserve) as database:
        await database.check(20.0)
        assert await database.run(lambda connection: connection.execute("SELECT 1").fetchone()) == (1,)

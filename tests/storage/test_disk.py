"""The room that is kept back on the disk of the node's own server."""

from pathlib import Path

import pytest

from storage import disk
from storage.database import Database
from storage.disk import DiskReserve
from storage.errors import DatabaseUnavailableError


def keep_back(monkeypatch: pytest.MonkeyPatch, reserve: int) -> None:
    monkeypatch.setattr(disk, "RESERVE_BYTES_MIN", reserve)
    monkeypatch.setattr(disk, "RESERVE_BYTES_MAX", reserve)


def test_a_disk_with_too_little_room_is_refused_until_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "LOOK_S", 0.0)
    reserve = DiskReserve(tmp_path)
    keep_back(monkeypatch, 1)
    reserve.refuse_if_low()
    keep_back(monkeypatch, 2**60)
    with pytest.raises(DatabaseUnavailableError, match=r"\d+ MiB free") as caught:
        reserve.refuse_if_low()
    assert caught.value.fields["cause"] == "disk-low"
    keep_back(monkeypatch, 1)
    reserve.refuse_if_low()


def test_the_disk_of_another_machine_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    keep_back(monkeypatch, 2**60)
    DiskReserve(None).refuse_if_low()


async def test_a_database_without_room_says_so_and_still_answers(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_back(monkeypatch, 2**60)
    with Database(postgres_url, directory=tmp_path) as database:
        with pytest.raises(DatabaseUnavailableError, match="kept back"):
            await database.check(1.0)
        assert await database.run(lambda connection: connection.execute("SELECT 1").fetchone()) == (1,)

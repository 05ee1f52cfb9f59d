"""Marks of records in hand: read back whole, and whatever stands in their place ends nothing."""

import os
from pathlib import Path

import pytest

from node.runtime.crashes import CrashRecord
from node.sources.in_hand import RecordsInHand
from node.worker.parsing.bodies import RawEvent

EVENTS = [RawEvent(data=b"first\0\xff", event_type="t"), RawEvent(data=b"second", event_type="t")]


def die_with_records(directory: Path, *, crashed: bool = True) -> None:
    """As a process that takes the events in and ends."""
    with pytest.raises(KeyboardInterrupt), RecordsInHand(directory, crashed=crashed).holding("s", EVENTS):
        raise KeyboardInterrupt


def test_the_second_crash_names_the_source_until_it_is_forgiven(tmp_path: Path) -> None:
    die_with_records(tmp_path)
    after = RecordsInHand(tmp_path, crashed=True)
    assert (after.culprits, after.is_careful("s")) == ([], True)
    die_with_records(tmp_path, crashed=False)
    for _ in range(2):  # also where it could not be disabled yet
        after = RecordsInHand(tmp_path, crashed=True)
        assert [(each.source_id, each.sample) for each in after.culprits] == [("s", b"first\0\xff")]
    after.forgive("s")
    assert RecordsInHand(tmp_path, crashed=True).culprits == []


def test_what_was_taken_in_without_harm_clears_the_source(tmp_path: Path) -> None:
    die_with_records(tmp_path)
    after = RecordsInHand(tmp_path, crashed=True)
    for event in EVENTS:
        assert after.is_careful("s")
        with after.holding("s", [event]):
            pass
    assert not after.is_careful("s")
    die_with_records(tmp_path, crashed=False)
    assert RecordsInHand(tmp_path, crashed=True).culprits == []


def test_files_that_are_no_marks_are_left_alone(tmp_path: Path) -> None:
    die_with_records(tmp_path)
    (mark,) = tmp_path.iterdir()
    whole = mark.read_bytes()
    (tmp_path / "directory").mkdir()
    for number, data in enumerate((b"", b"\xff" * 5_000, bytes(4_096), whole)):
        (tmp_path / f"other-{number}").write_bytes(data)
    for length in range(len(whole)):
        mark.write_bytes(whole[:length])
        assert RecordsInHand(tmp_path, crashed=True).culprits == []


def test_a_full_disk_keeps_no_record_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    marks = RecordsInHand(tmp_path / "none" / "yet", crashed=True)

    def full(*arguments: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with marks.holding("s", EVENTS):
        pass
    assert not marks.is_careful("s")


def test_a_crash_is_told_once_and_a_file_that_cannot_be_had_is_borne(tmp_path: Path) -> None:
    first = CrashRecord(tmp_path / "crash")
    first.note(ValueError("\ud800 and \0"))
    first.close()
    second = CrashRecord(tmp_path / "crash")
    assert second.previous.startswith("ValueError: ")
    assert "\0" not in second.previous
    second.close()
    third = CrashRecord(tmp_path / "crash")
    assert third.previous == ""
    third.close()
    (tmp_path / "taken").mkdir()
    borne = CrashRecord(tmp_path / "taken")
    borne.note(ValueError("x"))
    borne.close()
    assert borne.previous == ""

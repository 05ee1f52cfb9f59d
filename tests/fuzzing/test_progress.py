"""A long run goes on where its last piece ended."""

from pathlib import Path

import attrs
import pytest

from scripts.fuzzing.__main__ import Progress


def test_what_was_sent_is_kept_and_read_again(tmp_path: Path) -> None:
    path = tmp_path / "var" / "fuzz.json"
    beginning = Progress.read(path, "long")
    assert (beginning.next, beginning.things) == (0, 0)
    later = attrs.evolve(beginning, next=70_000, things=200_123, seconds=400.0)
    later.write(path)
    assert Progress.read(path, "long") == later


def test_another_seed_does_not_go_on_with_it(tmp_path: Path) -> None:
    Progress(seed="long", next=1).write(tmp_path / "fuzz.json")
    with pytest.raises(SystemExit, match="of seed long, not of other"):
        Progress.read(tmp_path / "fuzz.json", "other")

"""A minute of faults; the three minutes are ``scripts/faults``."""

import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.faults.schedule import KINDS, RECOVERS_S, timetable
from tests.faults.suite import NODES, run


@given(st.integers(0, 2**32), st.integers(30, 600))
def test_a_timetable_leaves_a_quorum_standing(seed: int, duration_s: int) -> None:
    faults = timetable(seed, duration_s, NODES)
    assert faults == timetable(seed, duration_s, NODES)
    for before, after in itertools.pairwise(faults):
        assert before.at_s + before.lasts_s + RECOVERS_S <= after.at_s + 0.2, (
            "one at a time, and over before the next"
        )
    assert all(0 <= fault.node < NODES for fault in faults)
    assert all(fault.at_s + fault.lasts_s + RECOVERS_S <= duration_s + 0.2 for fault in faults)
    if duration_s > 120:
        assert {fault.kind for fault in faults} == set(KINDS)


@pytest.mark.slow
def test_every_promise_holds_through_a_minute_of_faults(tmp_path: Path) -> None:
    """Kills, stops, partitions, restarts; a liar and an equivocator: see ``suite`` for all that is checked."""
    tmp_path.chmod(0o755)
    report = run(tmp_path, seconds=60, rate=1_000, seed=7)
    print(report.text())
    assert report.problems == []
    assert report.acknowledged > 30_000
    assert sum(report.faults.values()) >= 3

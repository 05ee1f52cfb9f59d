"""A minute of faults; the three minutes at twice the rate are ``scripts/faults``."""

from pathlib import Path

import pytest

from tests.faults.suite import Plan, run, show

pytestmark = pytest.mark.slow


def test_every_promise_holds_through_a_minute_of_faults(tmp_path: Path) -> None:
    """Kills, stops, partitions, restarts; a liar and an equivocator: ``checking`` says all that is looked at."""
    tmp_path.chmod(0o755)
    outcome = run(Plan(seconds=60, rate=1_000, seed=7), tmp_path)
    show(outcome)
    assert outcome.problems == []
    assert outcome.acknowledged == outcome.offered > 55_000
    assert sum(outcome.struck.values()) >= 4
    assert outcome.repeats > 0, "nobody noticed the faults"

"""A minute of faults of every kind; five minutes of other seeds are ``scripts/faults --seconds 300 --seed N``."""

import shutil
import tempfile
from pathlib import Path

import pytest

from tests.faults.report import Plan, show
from tests.faults.schedule import DATABASES, NODES, STRANGERS
from tests.faults.suite import run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1_800)]


def test_every_promise_holds_through_a_minute_of_faults() -> None:
    """Of nodes, links, databases and strangers; a liar and an equivocator. ``show`` says what is looked at."""
    directory = Path(tempfile.mkdtemp(prefix="overlay-faults-"))  # pytest's own are closed to the database's user
    directory.chmod(0o755)
    print(f"logs, kept where this fails: {directory}")
    outcome = run(Plan(seconds=60, rate=300, seed=7), directory)
    show(outcome)
    assert outcome.problems == []
    assert outcome.acknowledged == outcome.offered > 17_000
    assert outcome.streamed == outcome.acknowledged
    for row in (NODES, DATABASES, STRANGERS):
        assert any(outcome.kinds[kind] for kind in row), "a slow machine leaves some out, never all"
    assert outcome.statuses[0] + outcome.statuses[503] > 0, "nobody noticed the faults"
    shutil.rmtree(directory, ignore_errors=True)

"""Hostile values through a running node, as an operator starts one; and whether the fuzzer finds what is wrong."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.fuzzing import report
from scripts.fuzzing.items import PARTS
from scripts.fuzzing.run import Outcome, Plan, run

COUNT = int(os.environ.get("FUZZ_COUNT", "200000"))
FLAWED = "tests.fuzzing.flawed_node"


@pytest.fixture
def directory() -> Iterator[Path]:
    """Where the database's own user gets in, too."""
    made = Path(tempfile.mkdtemp(prefix="overlay-fuzz-"))
    os.chmod(made, 0o755)
    yield made
    shutil.rmtree(made, ignore_errors=True)


def held(outcome: Outcome) -> bool:
    """Whether it held; shows what was wrong, to be sent again by ``scripts/fuzz run --replay``."""
    for flaw in outcome.flaws:
        print(f"scripts/fuzz run --replay {flaw.items}: {flaw.what}")
    return not outcome.flaws


@pytest.mark.slow
@pytest.mark.timeout(3_000)
def test_nothing_well_formed_ends_a_node_or_stays_with_it(directory: Path) -> None:
    outcome = run(Plan(seed="1", count=COUNT), directory)
    assert held(outcome)
    assert outcome.things >= COUNT
    carriers = report.by_carrier(outcome.counts)
    assert carriers.keys() == PARTS.keys()
    assert min(outcome.counts[f"{carrier} {kind}"] for carrier, kind in outcome.kinds) >= COUNT // 20_000, "each kind"
    assert carriers["frame"] + carriers["gossip"] + carriers["ask"] > COUNT / 5
    assert outcome.records > COUNT / 5
    assert report.refused_by_quota(outcome) < COUNT / 100, "what is refused by its number alone fuzzes nothing"
    accepted = sum(
        count for counts in outcome.statuses.values() for status, count in counts.items() if status[0] == "2"
    )
    assert accepted > COUNT / 100
    assert outcome.read.streamed > COUNT / 50


@pytest.mark.slow
def test_bugs_are_found_with_the_items_that_reach_them(directory: Path) -> None:
    plan = Plan(seed="flaws", count=4_000, groups=("messages", "requests"), module=FLAWED)
    found = run(plan, directory / "first")
    by_kind = {flaw.what.partition(" sample")[0]: flaw for flaw in found.flaws}
    frame, request = by_kind["item.quarantined frame"], by_kind["item.quarantined request"]
    assert "KeyError" in frame.what
    assert "UnicodeError" in request.what
    assert any(": 500: " in flaw.what for flaw in found.flaws)

    seed, _, number = frame.items.partition(":")
    replay = Plan(seed=seed, count=1, groups=plan.groups, first=int(number), last=int(number), module=FLAWED)
    again = run(replay, directory / "again")
    assert frame.items in {flaw.items for flaw in again.flaws}

"""Fuzzing at length.

``parsers`` spoils bytes for every parser. ``run`` starts a node and sends it well-formed messages, records, documents
and requests with hostile values; it exits with 1 if the node ended, answered with a 5xx but 503, logged a traceback,
quarantined an item, grew, or cannot give back what it took. What went wrong is printed as SEED:ITEM;
``run --replay SEED:ITEM`` or ``SEED:FIRST-LAST`` sends it again. A long run is made in pieces, each with a node of
its own, and goes on after the last piece that held: ``run --count 5000000 --seed long --progress var/fuzz.json``.
"""

import argparse
import json
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import attrs
import structlog
from rich.console import Console

from scripts.fuzzing import parsers, report
from scripts.fuzzing.items import GROUPS
from scripts.fuzzing.run import Outcome, Plan, run

WIDTH = 118
MODES = ("parsers", "run")


@attrs.frozen(kw_only=True)
class Progress:
    """How far a run in pieces has come: the next item, and what was sent so far without a flaw."""

    seed: str
    next: int = 0
    things: int = 0
    seconds: float = 0.0

    @classmethod
    def read(cls, path: Path, seed: str) -> "Progress":
        """What a file says; the beginning where there is none.

        Raises:
            SystemExit: It is of another seed.
        """
        if not path.exists():
            return cls(seed=seed)
        found = cls(**json.loads(path.read_bytes()))
        if found.seed != seed:
            raise SystemExit(f"{path} is of seed {found.seed}, not of {seed}")
        return found

    def write(self, path: Path) -> None:
        """Keep it, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(".new")
        beside.write_text(json.dumps(attrs.asdict(self)))
        beside.replace(path)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/fuzz", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    modes = parser.add_subparsers(dest="mode", required=True)
    parsers.add_arguments(modes.add_parser("parsers", help=parsers.__doc__))
    _add_arguments(modes.add_parser("run", help="hostile values through a running node"))
    chosen = parser.parse_args(arguments)
    return parsers.main(chosen) if chosen.mode == "parsers" else _run(chosen)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--count", type=int, default=200_000, help="messages, records, documents and requests")
    parser.add_argument("--seed", default="1", help="equal seeds give equal items (default: 1)")
    parser.add_argument("--kinds", default=",".join(GROUPS), help="which of them, comma-separated")
    parser.add_argument("--replay", metavar="SEED:FIRST[-LAST]", help="only these items")
    parser.add_argument("--progress", type=Path, metavar="FILE", help="go on where this file says, and keep it there")
    parser.add_argument("--piece", type=int, default=200_000, help="of a run with --progress, sent to one node")
    parser.add_argument("--report", type=Path, help="write all figures to this file, JSON")
    parser.add_argument("--keep", action="store_true", help="leave key, database and log where they are")


def _run(chosen: argparse.Namespace) -> int:
    plan = _plan(chosen)
    logging.disable(logging.CRITICAL)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    if chosen.progress is None or chosen.replay:
        return 1 if _piece(plan, chosen).flaws else 0
    progress = Progress.read(chosen.progress, plan.seed)
    while progress.things < plan.count:
        piece = attrs.evolve(plan, first=progress.next, count=min(chosen.piece, plan.count - progress.things))
        outcome = _piece(piece, chosen)
        if outcome.flaws:
            return 1
        progress = attrs.evolve(
            progress,
            next=progress.next + outcome.sent,
            things=progress.things + outcome.things,
            seconds=progress.seconds + outcome.seconds,
        )
        progress.write(chosen.progress)
        print(f"{progress.things:,} of {plan.count:,}; the next item is {progress.seed}:{progress.next}", flush=True)
    return 0


def _piece(plan: Plan, chosen: argparse.Namespace) -> Outcome:
    directory = Path(tempfile.mkdtemp(prefix="overlay-fuzz-"))
    os.chmod(directory, 0o755)  # the database's own user must get in
    held = False
    try:
        outcome = run(plan, directory)
        held = not outcome.flaws
        report.show(outcome, Console(width=WIDTH))
        if chosen.report:
            chosen.report.write_text(json.dumps(report.as_document(outcome), indent=1))
    finally:
        if chosen.keep or not held:
            print(f"log and database: {directory}")
        else:
            shutil.rmtree(directory, ignore_errors=True)
    return outcome


def _plan(chosen: argparse.Namespace) -> Plan:
    groups = tuple(chosen.kinds.split(","))
    if not set(groups) <= set(GROUPS):
        raise SystemExit(f"--kinds must be some of {', '.join(GROUPS)}")
    database_url = os.environ.get("DATABASE_URL")
    if not chosen.replay:
        return Plan(seed=chosen.seed, count=chosen.count, groups=groups, database_url=database_url)
    seed, _, numbers = chosen.replay.rpartition(":")
    first, _, last = numbers.partition("-")
    return Plan(
        seed=seed,
        count=sys.maxsize,
        groups=groups,
        first=int(first),
        last=int(last or first),
        database_url=database_url,
    )


if __name__ == "__main__":
    given = sys.argv[1:]
    known = given[:1] and (given[0] in MODES or given[0] in ("-h", "--help"))
    sys.exit(main(given if known else ["parsers", *given]))

"""Fuzzing at length.

``parsers`` spoils bytes for every parser. ``run`` starts a node and sends it well-formed messages, records, documents
and requests with hostile values; it exits with 1 if the node ended, answered with a 5xx but 503, logged a traceback,
quarantined an item, grew, or cannot give back what it took. What went wrong is printed as SEED:ITEM;
``run --replay SEED:ITEM`` or ``SEED:FIRST-LAST`` sends it again.
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

import structlog
from rich.console import Console

from scripts.fuzzing import parsers, report
from scripts.fuzzing.items import GROUPS
from scripts.fuzzing.run import Plan, run

WIDTH = 118
MODES = ("parsers", "run")


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
    parser.add_argument("--report", type=Path, help="write all figures to this file, JSON")
    parser.add_argument("--keep", action="store_true", help="leave key, database and log where they are")


def _run(chosen: argparse.Namespace) -> int:
    plan = _plan(chosen)
    logging.disable(logging.CRITICAL)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
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
    return 0 if held else 1


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

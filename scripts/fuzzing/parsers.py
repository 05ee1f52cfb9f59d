"""Spoiled inputs for every parser that hostile bytes reach, ``--inputs`` each.

Exits with 1 if anything but an ``OverlayError`` left a parser, if one took bytes that
it writes otherwise, took too long, or if memory grew; the inputs that did it are printed as hex.
"""

import argparse
import multiprocessing
import os
import time
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from tests.properties.fuzzing import Outcome, fuzz
from tests.properties.parsers import parsers

SHARE_INPUTS = 125_000  # of one process: so that the cores end together
WIDTH = 118
COLUMNS = ("inputs", "accepted", "refused", "slowest ms", "grown KiB", "CPU us each", "seed")


def main(arguments: argparse.Namespace) -> int:
    started = time.monotonic()
    shares = [
        (name, min(SHARE_INPUTS, arguments.inputs - start), arguments.seed + number)
        for name in arguments.parser or parsers()
        for number, start in enumerate(range(0, arguments.inputs, SHARE_INPUTS))
    ]
    outcomes: dict[str, list[Outcome]] = {}
    with multiprocessing.get_context("spawn").Pool(os.cpu_count(), maxtasksperchild=1) as pool:
        for outcome in pool.imap_unordered(fuzz_share, shares):
            outcomes.setdefault(outcome.parser, []).append(outcome)
    console = Console(width=WIDTH)
    console.print(table(outcomes, arguments.seed))
    console.print(f"{sum(share[1] for share in shares):,} inputs in {time.monotonic() - started:.0f} s")
    flaws = [(name, flaw) for name, several in outcomes.items() for outcome in several for flaw in outcome.flaws]
    for name, flaw in flaws:
        print(f"{name}: {flaw.why}\n    {flaw.data.hex()}")
    return 1 if flaws else 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--inputs", type=int, default=1_000_000, help="for each parser (default: 1,000,000)")
    parser.add_argument("--seed", type=int, default=1, help="equal seeds give equal inputs (default: 1)")
    parser.add_argument("--parser", action="append", choices=list(parsers()), help="only this one; may be repeated")


def fuzz_share(share: tuple[str, int, int]) -> Outcome:
    name, inputs, seed = share
    return fuzz(parsers()[name], inputs=inputs, seed=seed)


def table(outcomes: dict[str, list[Outcome]], seed: int) -> Table:
    shown = Table("parser", title="Spoiled inputs")
    for column in COLUMNS:
        shown.add_column(column, justify="right")
    for name, several in sorted(outcomes.items()):
        shown.add_row(name, *row(several), str(seed))
    return shown


def row(several: Sequence[Outcome]) -> tuple[str, ...]:
    inputs = sum(outcome.inputs for outcome in several)
    return (
        f"{inputs:,}",
        f"{sum(outcome.accepted for outcome in several):,}",
        f"{sum(outcome.refused for outcome in several):,}",
        f"{max(outcome.slowest_ms for outcome in several):.1f}",
        f"{max(outcome.grown_bytes for outcome in several) / 1024:,.0f}",
        f"{sum(outcome.cpu_s for outcome in several) / inputs * 1e6:.1f}",
    )

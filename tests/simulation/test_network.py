"""Whole nodes in simulation. A seed that failed once stays in ``REGRESSIONS``."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from storage.embedded import EmbeddedPostgres
from tests.simulation.ground import grounds
from tests.simulation.links import Faults
from tests.simulation.network import run

SEEDS = int(os.environ.get("NETWORK_SEEDS", "140"))
TWICE = int(os.environ.get("NETWORK_SEEDS_TWICE", "8"))  # of them, run by both processes
REGRESSIONS = {
    43: "a replicated batch passed those of its source that waited to be merged",
    5: "a certificate came while the batch was being adopted, and the adopted rows never ended",
    134: "after a restart a batch started beside one of its source that had failed, from the same context",
    133: "an adopter whose own outputs differed asked the signers alone, and they had forgotten the batch",
    1: "an auction closed before the bids of nodes 200 ms away could arrive, every time",
}


def start(server: str, prefix: str, hash_seed: int, seeds: range) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.simulation.network", "--server", server, "--prefix", prefix]
    return subprocess.Popen(
        [*command, "--seeds", f"{seeds.start}:{seeds.stop}"],
        env={**os.environ, "PYTHONHASHSEED": str(hash_seed), "PYTHONPATH": "."},
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_networks_of_whole_nodes_end_well_and_the_same_on_another_hash_seed(
    postgres: EmbeddedPostgres, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two processes with different hash seeds share the seeds; those that both run give the same frames at the same
    times, and the same certificates.
    """
    assert set(range(SEEDS)) >= set(REGRESSIONS)
    both = min(SEEDS, TWICE)
    middle = (SEEDS + both) // 2
    shares = (range(middle), range(middle - both, SEEDS))
    started_s = time.monotonic()
    processes = [start(postgres.url, f"simulated{number}", number, share) for number, share in enumerate(shares, 1)]
    first, second = (process.communicate()[0].splitlines() for process in processes)
    seconds = time.monotonic() - started_s
    outcomes = [json.loads(line) for line in (*first, *second[both:])]
    failed = [outcome for outcome in outcomes if "failed" in outcome]
    assert not failed, f"seed {failed[0]['seed']}\n{failed[0]['failed']}"
    assert [process.returncode for process in processes] == [0, 0]
    assert len(outcomes) == SEEDS
    assert first[len(first) - both :] == second[:both]
    totals = {
        name: sum(each[name] for each in outcomes) for name in ("acknowledged", "certified", "crashes", "frames")
    }
    with capsys.disabled():
        print(
            f"\n{SEEDS} seeds of 4 to 6 whole nodes, {both} of them twice, in {seconds:.0f} s, "
            f"{60 * (SEEDS + both) / seconds:.0f} runs a minute: {totals['acknowledged']} events acknowledged "
            f"and certified in {totals['certified']} batches, "
            f"{totals['frames']} frames, {totals['crashes']} crashes"
        )


def test_the_checks_see_what_a_quorum_of_liars_certifies(postgres: EmbeddedPostgres) -> None:
    """Past the threshold nothing protects, and the truth that the simulation finds for itself differs."""
    with (
        grounds(postgres.url, "liars", 4) as (urls, connections),
        pytest.RaisesGroup(
            pytest.RaisesExc(AssertionError, match="is wrong|not within"),
            flatten_subgroups=True,
            allow_unwrapped=True,
        ),
    ):
        run(0, urls, connections, Faults(liars=3))

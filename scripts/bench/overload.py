"""Any offered rate, posts of any size, settings as shipped: what is certified, how late, and what is refused.

For each size of posts and each rate a client offers events for a while without repeating what is refused; then
everything that was accepted is waited for, for a bounded time. Each cell is printed when it ends, so that a run that
was interrupted goes on with --sizes and --rates. Beside it, on request, loops that take processor time; or instead
one source that floods its node beside quiet ones.

    scripts/bench/run overload --rates 5000,10000,20000,40000 --sizes 1,17,100,500,1000 --seconds 15
    scripts/bench/run overload --rates 20000 --sizes 500 --busy 3
    scripts/bench/run overload --quiet-sources 9 --rates 40000
"""

import argparse
import json
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import attrs
import httpx
import trio

from scripts.event_load import Client, Feed, outcome, register, registered_feeds, weather_policy
from scripts.markdown import markdown
from scripts.measuring import ends, quantile, wait_for_ends
from scripts.network import LocalNetwork, Node

SOURCES_PER_NODE: Final = 6
FLOOD_POST: Final = 500
QUIET_WARM_S: Final = 3.0
QUIET_PAUSE_S: Final = 0.2
POLL_S: Final = 0.05
FLOOD_BEFORE_S: Final = 1.0  # the flood is there before the quiet sources are looked at
COLUMNS: Final = {
    "events of a post": "size",
    "offered/s": "offered_per_s",
    "accepted/s": "accepted_per_s",
    "certified/s": "certified_per_s",
    "P95 to certificate, ms": "certificate_p95_ms",
    "429s": "refusals",
    "not sent": "unsent",
    "no answer": "unanswered",
    "dead": "dead",
    "without an end": "without_end",
    "drained, s": "drain_s",
    "client, cores": "client_share_of_core",
}


def cell(
    network: LocalNetwork, feeds: dict[int, list[Feed]], *, size: int, rate: int, chosen: argparse.Namespace
) -> dict[str, Any]:
    """Offer events at one rate in posts of one size, and wait for the end of all that were accepted."""
    client = Client(network.nodes, feeds, size=size, rate=rate)
    trio.run(client.run, chosen.seconds)
    started = time.monotonic()
    wait_for_ends(network.nodes, chosen.drain)
    drain_s = time.monotonic() - started
    found = outcome(client.offer, ends(network.nodes, client.offer.started_ms))
    return {
        "size": size,
        "rate": rate,
        **found,
        "certificate_p95_ms": found["certificate_ms"]["p95"],
        "drain_s": round(drain_s, 1),
    }


@contextmanager
def busy(loops: int) -> Iterator[None]:
    """Processes beside the network that take what processor time they get."""
    with ExitStack() as stack:
        for _ in range(loops):
            process = subprocess.Popen(["sh", "-c", "while :; do :; done"])
            stack.callback(process.wait)
            stack.callback(process.kill)
        yield


def table(rows: Sequence[dict[str, Any]]) -> str:
    return markdown([*COLUMNS], [[row[name] for name in COLUMNS.values()] for row in rows])


@attrs.define
class Quiet:
    """Posts of quiet sources: seconds until the certificate of each that was taken, and how many were refused."""

    took_s: list[float] = attrs.Factory(list)
    refused: int = 0

    async def run(self, node: Node, feeds: Sequence[Feed], seconds: float) -> None:
        """Post events of the sources, one each in turn, and wait for their certificates."""
        async with httpx.AsyncClient(base_url=node.url, timeout=60) as http, trio.open_nursery() as nursery:
            started = trio.current_time()
            for turn in range(int(seconds / QUIET_PAUSE_S)):
                await trio.sleep_until(started + turn * QUIET_PAUSE_S)
                nursery.start_soon(self._post, http, feeds[turn % len(feeds)])

    async def _post(self, http: httpx.AsyncClient, feed: Feed) -> None:
        started = time.monotonic()
        answer = await http.post(
            "/overlay/events/ingest", content=feed.body(1), headers={"Content-Type": "application/json"}
        )
        if answer.status_code == 429:
            self.refused += 1
            return
        event_id = answer.raise_for_status().json()["processedEvents"][0]["eventId"]
        path = f"/overlay/events/{event_id}/certification"
        while (await http.get(path)).raise_for_status().json()["certification"]["status"] == "pending":
            await trio.sleep(POLL_S)
        self.took_s.append(time.monotonic() - started)


def flood(network: LocalNetwork, *, rate: int, chosen: argparse.Namespace) -> dict[str, Any]:
    """Quiet sources of one node alone, then beside one source that floods it."""
    node, policy = network.nodes[0], weather_policy()
    quiet = [Feed(f"QU{chr(65 + number)}") for number in range(chosen.quiet_sources)]
    loud = Feed("LOUD")
    for feed in (*quiet, loud):
        register(node, feed, policy)
    warm, alone, beside = Quiet(), Quiet(), Quiet()
    trio.run(warm.run, node, quiet, QUIET_WARM_S)
    trio.run(alone.run, node, quiet, chosen.seconds)
    client = Client([node], {node.index: [loud]}, size=FLOOD_POST, rate=rate)

    async def both() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.run, chosen.seconds)
            await trio.sleep(FLOOD_BEFORE_S)
            await beside.run(node, quiet, chosen.seconds - FLOOD_BEFORE_S)

    trio.run(both)
    wait_for_ends(network.nodes, chosen.drain)
    found = outcome(client.offer, ends(network.nodes, client.offer.started_ms))
    alone_s, beside_s = quantile(alone.took_s, 0.95), quantile(beside.took_s, 0.95)
    return {
        "flood offered/s": found["offered_per_s"],
        "flood accepted/s": found["accepted_per_s"],
        "quiet posts alone": len(alone.took_s),
        "refused alone": alone.refused,
        "P95 alone, s": round(alone_s, 3),
        "quiet posts beside": len(beside.took_s),
        "refused beside": beside.refused,
        "P95 beside, s": round(beside_s, 3),
        "ratio": round(beside_s / alone_s, 2),
        "without an end": found["without_end"],
    }


def numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", type=numbers, default=[5_000, 10_000, 20_000, 40_000])
    parser.add_argument("--sizes", type=numbers, default=[1, 17, 100, 500, 1_000])
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--drain", type=float, default=60.0, help="seconds to wait for the ends after each cell")
    parser.add_argument("--busy", type=int, default=0, help="loops that take processor time beside the network")
    parser.add_argument("--quiet-sources", type=int, help="one flooding source beside so many quiet ones instead")
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    chosen = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="overlay-bench-") as directory:
        Path(directory).chmod(0o755)
        with LocalNetwork(Path(directory), 3, name="overlay-bench") as network:
            network.wait_agents()
            if chosen.quiet_sources:
                rows.append(flood(network, rate=chosen.rates[-1], chosen=chosen))
                print(markdown([*rows[0]], [[*row.values()] for row in rows]))
            else:
                feeds = registered_feeds(network.nodes, SOURCES_PER_NODE)
                with busy(chosen.busy):
                    for size in chosen.sizes:
                        for rate in chosen.rates:
                            rows.append(cell(network, feeds, size=size, rate=rate, chosen=chosen))
                            print(table(rows[-1:]).splitlines()[-1], flush=True)
                print(f"\n{table(rows)}")
    if chosen.json:
        chosen.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()

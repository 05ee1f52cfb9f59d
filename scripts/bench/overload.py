"""Any offered rate, posts of any size, settings as shipped: what is certified, how late, and what is refused.

For each size of posts and each rate a client offers events for a while without repeating what is refused; then
everything that was accepted is waited for. Beside it, on request, loops that take processor time, or one source that
floods its node beside nine quiet ones.

    scripts/bench/run overload --rates 5000,10000,20000,40000 --sizes 1,17,100,500,1000 --seconds 15
    scripts/bench/run overload --rates 20000 --sizes 500 --busy 3
    scripts/bench/run overload --flood
"""

import argparse
import json
import re
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

from scripts.bench.pipeline import POLICY, Feed, quantile, register
from scripts.network import LocalNetwork, Node, get

SOURCES_PER_NODE: Final = 6
CONNECTIONS: Final = 128  # of the client; posts past them are not sent, and counted
END_S: Final = 300.0
QUIET_SOURCES: Final = 9
QUIET_PAUSE_S: Final = 0.2
LATENCY: Final = re.compile(r'^overlay_certificate_seconds_bucket\{le="([^"]+)"\} (\S+)$', re.MULTILINE)


@attrs.define
class Offer:
    """What became of the posts of one cell, in events."""

    offered: int = 0
    accepted: int = 0
    refused: int = 0
    unsent: int = 0
    unavailable: int = 0  # answered 503
    acks_ms: list[float] = attrs.Factory(list)
    retry_after_s: list[float] = attrs.Factory(list)


class Client:
    """Posts at a rate, open loop, over a bounded number of connections."""

    def __init__(self, network: LocalNetwork, feeds: dict[int, list[Feed]], *, size: int, rate: int) -> None:
        self._network = network
        self._feeds = feeds
        self._size = size
        self._rate = rate
        self._free = CONNECTIONS
        self.offer = Offer()

    async def run(self, seconds: float) -> None:
        limits = httpx.Limits(max_connections=CONNECTIONS)
        async with httpx.AsyncClient(limits=limits, timeout=60) as http, trio.open_nursery() as nursery:
            started = trio.current_time()
            for turn in range(int(self._rate * seconds / self._size)):
                await trio.sleep_until(started + turn * self._size / self._rate)
                self.offer.offered += self._size
                if not self._free:
                    self.offer.unsent += self._size
                    continue
                node = self._network.nodes[turn % len(self._network.nodes)]
                feeds = self._feeds[node.index]
                feed = feeds[turn // len(self._network.nodes) % len(feeds)]
                self._free -= 1
                nursery.start_soon(self._post, http, node, feed.body(self._size))

    async def _post(self, http: httpx.AsyncClient, node: Node, body: bytes) -> None:
        headers = {"Content-Type": "application/json", "Prefer": "return=minimal"}
        started = time.perf_counter()
        try:
            answer = await http.post(f"{node.url}/overlay/events/ingest", content=body, headers=headers)
        finally:
            self._free += 1
        if answer.status_code == 429:
            self.offer.refused += self._size
            self.offer.retry_after_s.append(float(answer.headers["retry-after"]))
            return
        if answer.status_code == 503:
            self.offer.unavailable += self._size
            return
        answer.raise_for_status()
        self.offer.acks_ms.append(1000 * (time.perf_counter() - started))
        self.offer.accepted += answer.json()["counts"]["accepted"]


def stats(network: LocalNetwork) -> dict[str, int]:
    """Events certified, invalid, dead and pending on all nodes."""
    found = [get(node, "/overlay/stats") for node in network.nodes]
    return {name: sum(each[name] for each in found) for name in ("certified", "invalid", "dead", "pending")}


def latencies(network: LocalNetwork) -> dict[float, float]:
    """Batches certified within each bound in seconds, on all nodes, as their histograms count them."""
    found: dict[float, float] = {}
    for node in network.nodes:
        for bound, count in LATENCY.findall(httpx.get(f"{node.url}/metrics", timeout=30).text):
            found[float(bound)] = found.get(float(bound), 0.0) + float(count)
    return found


def within(before: dict[float, float], after: dict[float, float], share: float) -> float:
    """The least bound that holds for that share of what was counted between two readings."""
    counted = {bound: after[bound] - before.get(bound, 0.0) for bound in sorted(after)}
    total = max(counted.values(), default=0.0)
    return next((bound for bound, count in counted.items() if total and count >= share * total), float("nan"))


def wait_for_ends(network: LocalNetwork) -> float:
    """Seconds until nothing waits any more."""
    started = time.monotonic()
    while stats(network)["pending"] and time.monotonic() < started + END_S:
        time.sleep(0.2)
    return time.monotonic() - started


def cell(
    network: LocalNetwork, feeds: dict[int, list[Feed]], *, size: int, rate: int, seconds: float
) -> dict[str, Any]:
    """Offer events at one rate in posts of one size, and wait for the end of all that were accepted."""
    before, slow_before = stats(network), latencies(network)
    client = Client(network, feeds, size=size, rate=rate)
    started = time.monotonic()
    trio.run(client.run, seconds)
    ended = sum(stats(network)[name] - before[name] for name in ("certified", "invalid"))
    offered_s = time.monotonic() - started
    drain_s = wait_for_ends(network)
    after = stats(network)
    offer = client.offer
    return {
        "size": size,
        "rate": rate,
        "offered": offer.offered,
        "unsent": offer.unsent,
        "accepted": offer.accepted,
        "refused": offer.refused,
        "unavailable": offer.unavailable,
        "certified_per_s": round(ended / offered_s),
        "ack_p95_ms": round(quantile(offer.acks_ms, 0.95), 1),
        "certificate_p95_s": within(slow_before, latencies(network), 0.95),
        "retry_after_s": round(quantile(offer.retry_after_s, 0.5), 1),
        "drain_s": round(drain_s, 1),
        "dead": after["dead"] - before["dead"],
        "waiting": after["pending"],
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
    names = list(rows[0])
    lines = [names, *([str(row[name]) for name in names] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(names))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


async def quiet_latencies(node: Node, feeds: Sequence[Feed], seconds: float, found: list[float]) -> None:
    """Post an event of each quiet source in turn, and wait for its certificate: the seconds that took."""
    async with httpx.AsyncClient(base_url=node.url, timeout=60) as http:
        until = trio.current_time() + seconds
        turn = 0
        while trio.current_time() < until:
            feed = feeds[turn % len(feeds)]
            turn += 1
            started = time.monotonic()
            answer = await http.post(
                "/overlay/events/ingest", content=feed.body(1), headers={"Content-Type": "application/json"}
            )
            if answer.status_code == 429:
                found.append(float("inf"))
            else:
                event_id = answer.raise_for_status().json()["processedEvents"][0]["eventId"]
                while (await http.get(f"/overlay/events/{event_id}/certification")).json()["status"] == "pending":
                    await trio.sleep(0.02)
                found.append(time.monotonic() - started)
            await trio.sleep(QUIET_PAUSE_S)


def flood(network: LocalNetwork, policy: dict[str, Any], *, rate: int, seconds: float) -> dict[str, Any]:
    """Nine quiet sources of one node alone, then beside one source that floods it."""
    node = network.nodes[0]
    quiet = [Feed(f"QUIET{number}") for number in range(QUIET_SOURCES)]
    loud = Feed("LOUD")
    for feed in (*quiet, loud):
        register(node, feed, policy)
    alone: list[float] = []
    beside: list[float] = []
    trio.run(quiet_latencies, node, quiet, seconds, alone)

    async def both() -> None:
        single = LocalNetwork.__new__(LocalNetwork)
        single.nodes = [node]
        client = Client(single, {node.index: [loud]}, size=500, rate=rate)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.run, seconds)
            await trio.sleep(1.0)
            nursery.start_soon(quiet_latencies, node, quiet, seconds - 1.0, beside)

    trio.run(both)
    return {
        "quiet alone P95 s": round(quantile(alone, 0.95), 3),
        "beside the flood P95 s": round(quantile(beside, 0.95), 3),
        "drain_s": round(wait_for_ends(network), 1),
    }


def numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", type=numbers, default=[5_000, 10_000, 20_000, 40_000])
    parser.add_argument("--sizes", type=numbers, default=[1, 17, 100, 500, 1_000])
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--busy", type=int, default=0, help="loops that take processor time beside the network")
    parser.add_argument("--flood", action="store_true", help="one flooding source beside nine quiet ones instead")
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    chosen = parser.parse_args()
    policy = json.loads(POLICY.read_bytes())
    with tempfile.TemporaryDirectory(prefix="overlay-bench-") as directory:
        Path(directory).chmod(0o755)
        with LocalNetwork(Path(directory), 3, name="overlay-bench") as network:
            network.wait_agents()
            if chosen.flood:
                rows = [flood(network, policy, rate=chosen.rates[-1], seconds=chosen.seconds)]
                print(table(rows))
            else:
                feeds = {
                    node.index: [Feed(f"{chr(65 + node.index)}{chr(65 + n)}X") for n in range(SOURCES_PER_NODE)]
                    for node in network.nodes
                }
                for node in network.nodes:
                    for feed in feeds[node.index]:
                        register(node, feed, policy)
                rows = []
                with busy(chosen.busy):
                    for size in chosen.sizes:
                        for rate in chosen.rates:
                            rows.append(cell(network, feeds, size=size, rate=rate, seconds=chosen.seconds))
                            print(json.dumps(rows[-1]), flush=True)
                print(table(rows))
    if chosen.json:
        chosen.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()

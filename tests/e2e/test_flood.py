"""Strangers flood every node with advertisements of fresh keys and with batches: little of it is stored, and clients
are served.
"""

import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from protocols.limits import ADVERTISEMENTS_MAX
from scripts.network import ROOT, LocalNetwork, Node
from storage import foreign_usage
from storage.embedded import EmbeddedPostgres
from tests.e2e.narrow_node import KEPT_MAX
from tests.e2e.test_crashes import settled
from tests.e2e.weather import Client, batches_of, register_all
from tests.network_of_keys import NETWORK

pytestmark = pytest.mark.slow

SETTINGS = {"event_batch_size": 100, "event_parallel_workers": 1}
STATIONS = ("EWR", "JFK", "LGA")
PATIENCE_S = 60.0
QUIET = 20  # requests before the flood, and after it


def database(server: EmbeddedPostgres, node: Node) -> str:
    return server.url.replace("/overlay?", f"/overlay_{NETWORK.replace('-', '_')}_{node.index + 1}?")


def stored(url: str) -> dict[str, Any]:
    """Rows and bytes of others at a node, as they are and as they are counted."""
    with psycopg.connect(url) as connection:
        rows = connection.execute(
            f"""SELECT coordinator, sum(batches)::int, sum(bytes)::bigint, {foreign_usage.HAS_WORKED} FROM (
                    SELECT coordinator, 1 AS batches, size AS bytes FROM replicas UNION ALL
                    SELECT coordinator, 1, coalesce(adopted_bytes, 0) FROM batches
                    WHERE coordinator IS NOT NULL AND expired_ms IS NULL) AS used GROUP BY coordinator""".encode()
        ).fetchall()
        counted = connection.execute(
            "SELECT coordinator, held + adopted, held_bytes + adopted_bytes FROM foreign_usage"
        ).fetchall()
        held = connection.execute("SELECT coordinator, held FROM foreign_usage").fetchall()
        (peers,) = connection.execute("SELECT count(*) FROM peers").fetchone() or (0,)
    return {
        "peers": peers,
        "held": {bytes(row[0]): row[1] for row in held},
        "strangers": {bytes(row[0]): (row[1], row[2]) for row in rows if not row[3]},
        "all": {bytes(row[0]): (row[1], row[2]) for row in rows},
        "counted": {bytes(row[0]): (row[1], row[2]) for row in counted},
    }


def check_bounds(found: dict[str, Any]) -> None:
    """What is adopted while it is held counts twice, and adoption is not refused: it may take twice the bound."""
    assert found["peers"] <= ADVERTISEMENTS_MAX
    assert found["counted"] == found["all"]
    one, strangers = (
        KEPT_MAX.share(part) for part in (foreign_usage.COORDINATOR_SHARE, foreign_usage.STRANGERS_SHARE)
    )
    each = [({coordinator: used}, one) for coordinator, used in found["all"].items()]
    for owners, bound in (*each, (found["all"], KEPT_MAX), (found["strangers"], strangers)):
        assert sum(batches for batches, _ in owners.values()) <= 2 * bound.batches, found
        assert sum(size for _, size in owners.values()) <= 2 * bound.size, found
    assert sum(found["held"].values()) <= KEPT_MAX.batches
    assert max(found["held"].values()) <= one.batches


@contextmanager
def flooding(network: LocalNetwork) -> Iterator[subprocess.Popen[str]]:
    """The flooding peers, prepared and connected."""
    addresses = [f"/ip4/127.0.0.1/tcp/{node.p2p_port}" for node in network.nodes]
    with subprocess.Popen(
        [sys.executable, "-m", "tests.e2e.flooding_peer", *addresses],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            heard(process, "prepared")
            yield process
        finally:
            process.kill()


def heard(process: subprocess.Popen[str], word: str) -> None:
    """Wait for a line of the peers."""
    assert process.stdout is not None
    assert process.stdout.readline().strip() == word


def tell(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


class Latencies:
    """Posts one event after another, and measures how long each takes until it is acknowledged."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._number = 0
        self.acknowledged: list[str] = []

    def measure(self, goes_on: Callable[[int], bool]) -> list[float]:
        taken: list[float] = []
        with httpx.Client(base_url=self._node.url, timeout=PATIENCE_S) as client:
            while goes_on(len(taken)):
                taken.append(self._post(client))
                time.sleep(0.1)
        return taken

    def _post(self, client: httpx.Client) -> float:
        """Post the next event. Returns the seconds until it is acknowledged."""
        body, began = self._body(), time.monotonic()
        answer = client.post("/overlay/events/ingest", json=body)
        assert answer.status_code == 202, answer.text
        self.acknowledged += [event["eventId"] for event in answer.json()["processedEvents"]]
        return time.monotonic() - began

    def _body(self) -> dict[str, Any]:
        self._number += 1
        source, events = batches_of(("EWR",), 100)[0]
        event = {**events[0], "externalId": f"flooded-{self._number}"}
        return {"sourceId": source, "events": [event]}


def report(name: str, taken: list[float]) -> None:
    ordered = sorted(taken)
    late = ordered[int(len(ordered) * 0.95)]
    sys.stdout.write(
        f"{name}: {len(taken)} requests, median {statistics.median(ordered) * 1000:.0f} ms, "
        f"95th percentile {late * 1000:.0f} ms, slowest {ordered[-1] * 1000:.0f} ms\n"
    )


def acquaint(network: LocalNetwork) -> None:
    """Let every node coordinate a batch, so that those who worked for it are no strangers to it."""
    for node, station in zip(network.nodes, STATIONS, strict=True):
        client = Client(node, batches_of((station,), 100), pause_s=0)
        client.start()
        client.join(60)
        assert client.error is None
    settled(network)


def test_what_strangers_flood_a_network_with_is_bounded(tmp_path: Path, postgres: EmbeddedPostgres) -> None:
    tmp_path.chmod(0o755)
    network = LocalNetwork(tmp_path, 3, name=NETWORK, settings=SETTINGS, database_url=postgres.url)
    for node in network.nodes:
        node.module = "tests.e2e.narrow_node"
    urls = [database(postgres, node) for node in network.nodes]
    with network:
        network.wait_agents()
        register_all(network)
        acquaint(network)
        client = Latencies(network.nodes[0])
        with flooding(network) as flood:
            report("before", client.measure(lambda count: count < QUIET))
            tell(flood)
            flooded = threading.Thread(target=heard, args=(flood, "flooded"))
            flooded.start()
            during = client.measure(lambda count: flooded.is_alive() or count < QUIET)
            flooded.join()
            assert flood.poll() is None, "the flood ended whole"
            report("during", during)
            for url in urls:
                found = stored(url)
                sys.stdout.write(
                    f"peers {found['peers']}, of strangers {sum(n for n, _ in found['strangers'].values())} batches "
                    f"in {sum(size for _, size in found['strangers'].values())} bytes\n"
                )
                check_bounds(found)
                assert found["strangers"], "the flood arrived"
        report("after", client.measure(lambda count: count < QUIET))
        assert settled(network, network.nodes[:1], timeout_s=180.0)[0]["dead"] == 0
        assert len(set(client.acknowledged)) == 2 * QUIET + len(during)
        assert all(node.running for node in network.nodes)

"""What proving an identity costs: ingest of 500-event batches and small reads, by each form, against anonymous.

One node without agents, so that taking events in is all it does. The forms take turns in short rounds on the same
connections; every round's requests are signed before it starts, so that only the node's work is timed. Ratios
are medians over the rounds, of one form's round to the anonymous one beside it.
"""

import argparse
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import psutil

from protocols.authentication import HttpRequest, sign_headers
from protocols.keys import PrivateKey
from scripts.event_load import Feed
from scripts.measuring import quantile
from scripts.network import LocalNetwork, Node
from tests.authentication_client import AuthriteClient, MutualClient

BATCH = 500
INGEST = "/overlay/events/ingest"
READ = "/overlay/caller"
CLIENT = PrivateKey.from_bytes(b"\5" * 32)
Signer = Callable[[str, str, bytes], HttpRequest]


def anonymous(method: str, target: str, body: bytes) -> HttpRequest:
    return HttpRequest(method=method, path=target.encode(), body=body)


def in_headers(node: bytes) -> Signer:
    def sign(method: str, target: str, body: bytes) -> HttpRequest:
        proof = sign_headers(CLIENT, node, method=method, target=target, body=body, nonce_ns=time.time_ns())
        headers = tuple((name.encode(), value.encode()) for name, value in proof)
        return HttpRequest(method=method, path=target.encode(), headers=headers, body=body)

    return sign


def in_session(http: httpx.Client) -> Signer:
    client = MutualClient(CLIENT)
    client.take_initial_response(http.post("/.well-known/auth", content=client.initial_request()).content)

    def sign(method: str, target: str, body: bytes) -> HttpRequest:
        headers = {"content-type": "application/json"} if body else {}
        return client.sign(method, target, headers=headers, body=body)

    return sign


def in_authrite(http: httpx.Client, origin: str) -> Signer:
    client = AuthriteClient(CLIENT, origin=origin)
    answer = http.post("/authrite/initialRequest", content=client.initial_request())
    client.take_initial_response(answer.content)
    return client.sign


def cpu_s(process: psutil.Process) -> float:
    """Of a process and its children, those that ended too."""
    total = 0.0
    for each in (process, *process.children(recursive=True)):
        times = each.cpu_times()
        total += times.user + times.system
    own = process.cpu_times()
    return total + own.children_user + own.children_system


class Round:
    """One form's requests, all at once ready, then sent one after the other."""

    def __init__(self, http: httpx.Client, process: psutil.Process) -> None:
        self._http = http
        self._process = process

    def run(self, requests: list[HttpRequest]) -> tuple[float, float, list[float]]:
        """Seconds, CPU seconds of the node with its children, milliseconds of each request."""
        built = []
        for request in requests:
            one = self._http.build_request(request.method, request.target.decode(), content=request.body)
            one.headers.update({name.decode(): value.decode() for name, value in request.headers})
            if request.body:
                one.headers["content-type"] = "application/json"
            built.append(one)
        before, started, took = cpu_s(self._process), time.perf_counter(), []
        for one in built:
            sent = time.perf_counter()
            self._http.send(one).raise_for_status()
            took.append(1000 * (time.perf_counter() - sent))
        return time.perf_counter() - started, cpu_s(self._process) - before, took


def measure(node: Node, rounds: int, batches: int, reads: int) -> None:
    assert node.process is not None
    process = psutil.Process(node.process.pid)
    feed = Feed("AUT")
    with httpx.Client(base_url=node.url, timeout=60) as http:
        source = {"sourceId": feed.source_id, "name": "Bench", "sourceType": "webhook"}
        http.post("/overlay/sources", json=source, auth=node.operator).raise_for_status()
        identity = bytes.fromhex(http.get("/overlay/node").json()["identityKey"])
        forms: dict[str, Signer] = {
            "anonymous": anonymous,
            "signed headers": in_headers(identity),
            "session (BRC-104)": in_session(http),
            "Authrite": in_authrite(http, node.url),
        }
        one = Round(http, process)
        one.run([anonymous("POST", INGEST, feed.body(BATCH)) for _ in range(4)])  # warm
        for title, requests_each, make in (
            (f"ingest, {BATCH} events a request", batches, lambda: ("POST", INGEST, feed.body(BATCH))),
            (f"GET {READ}", reads, lambda: ("GET", READ, b"")),
        ):
            results: dict[str, list[tuple[float, float, list[float]]]] = {name: [] for name in forms}
            for turn in range(rounds):
                names = list(forms)
                for name in names[turn % len(names) :] + names[: turn % len(names)]:  # nobody is always last
                    results[name].append(one.run([forms[name](*make()) for _ in range(requests_each)]))
            show(title, requests_each, results)


def show(title: str, requests: int, results: dict[str, list[tuple[float, float, list[float]]]]) -> None:
    print(f"{title}: {len(results['anonymous'])} rounds of {requests} requests of each form in turn")
    print(f"  {'form':<20}{'req/s':>9}{'CPU us/req':>12}{'P50 ms':>9}{'P95 ms':>9}{'time x':>9}{'CPU x':>8}")
    base = results["anonymous"]
    for name, rounds in results.items():
        took = [ms for _, _, each in rounds for ms in each]
        rate = requests / statistics.median(seconds for seconds, _, _ in rounds)
        cpu = 1e6 * statistics.median(cpu for _, cpu, _ in rounds) / requests
        ratio = statistics.median(mine[0] / theirs[0] for mine, theirs in zip(rounds, base, strict=True))
        cpu_ratio = statistics.median(mine[1] / theirs[1] for mine, theirs in zip(rounds, base, strict=True))
        print(
            f"  {name:<20}{rate:>9.0f}{cpu:>12.0f}{quantile(took, 0.5):>9.2f}{quantile(took, 0.95):>9.2f}"
            f"{ratio:>9.3f}{cpu_ratio:>8.3f}"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batches", type=int, default=10, help="ingest requests of a form in a round")
    parser.add_argument("--reads", type=int, default=200)
    chosen = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="overlay-bench-"))
    os.chmod(directory, 0o755)  # the database's own user must get in
    settings = {
        "event_batch_size": BATCH,
        "event_processing_agents_enabled": False,
        "overlay_unsettled_events_max": 10_000_000,
    }
    try:
        with LocalNetwork(directory, 1, name="overlay-bench", settings=settings) as network:
            measure(network.nodes[0], chosen.rounds, chosen.batches, chosen.reads)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""What the same work costs one operator who trusts himself: NATS JetStream, three servers on this machine.

Weather events are published at a rate, in messages of 100, into a stream with three replicas on disk; one worker
takes them, runs the same policy over them, publishes the result into a second stream of three replicas and then
acknowledges the message. CPU is that of the servers, the publisher and the worker. Time runs from publishing a
message until its result is stored.

    scripts/bench/run nats --rate 5000 --seconds 15
"""

import argparse
import asyncio
import tempfile
import time
from collections.abc import Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

import attrs
import nats
import psutil
from nats.errors import TimeoutError as NothingYet
from nats.js.api import StorageType

from agents.policy import policy_document
from scripts.event_load import Feed, station, trusted, weather_policy
from scripts.measuring import quantile
from scripts.nats_cluster import NatsCluster

EVENTS: Final = "events"
RESULTS: Final = "results"
REPLICAS: Final = 3
MESSAGE: Final = 100
SOURCES: Final = 18
FETCHED: Final = 10
WARM_S: Final = 2.0
END_S: Final = 60.0
PUBLISHED: Final = "Published-Ns"  # by the clock that all processes of this machine share
SOURCE: Final = "Source"
END: Final = "End"


@attrs.frozen(kw_only=True)
class Phase:
    """What is to be published: events a second, for how long, in messages of how many."""

    rate: int
    seconds: float
    size: int


def publisher(urls: Sequence[str], pipe: Connection) -> None:
    """Publish phases as the pipe asks, and answer each with its number of events, once all of it is stored."""
    asyncio.run(_publish(urls, pipe))


async def _publish(urls: Sequence[str], pipe: Connection) -> None:
    client = await nats.connect(servers=list(urls))
    stream = client.jetstream()
    feeds = [Feed(station(number)) for number in range(SOURCES)]
    pipe.send("ready")
    while (phase := await asyncio.to_thread(pipe.recv)) is not None:
        pending = []
        started, messages = time.monotonic(), int(phase.rate * phase.seconds / phase.size)
        for number in range(messages):
            await asyncio.sleep(max(0.0, started + number * phase.size / phase.rate - time.monotonic()))
            feed = feeds[number % SOURCES]
            headers = {SOURCE: feed.source_id, PUBLISHED: str(time.monotonic_ns())}
            pending.append(await stream.publish_async(EVENTS, feed.body(phase.size), headers=headers))
        await asyncio.gather(*pending)
        await stream.publish(EVENTS, b"", headers={END: "1"})
        pipe.send(messages * phase.size)
    await client.close()


def worker(urls: Sequence[str], pipe: Connection, policy: bytes) -> None:
    """Work until killed; send the pipe, at the end of each phase, the ms that each of its messages took."""
    asyncio.run(_work(urls, pipe, policy))


async def _work(urls: Sequence[str], pipe: Connection, policy: bytes) -> None:
    client = await nats.connect(servers=list(urls))
    stream = client.jetstream()
    inbox = await stream.pull_subscribe(EVENTS, durable="worker", stream=EVENTS)
    contexts: dict[str, bytes] = {}
    took_ms: list[float] = []
    pipe.send("ready")
    while True:
        try:
            messages = await inbox.fetch(FETCHED, timeout=1)
        except NothingYet:
            continue
        stored, is_end = [], False
        for message in messages:
            headers = message.headers or {}
            if END in headers:
                await message.ack()
                is_end = True
                continue
            source = headers[SOURCE]
            output = trusted(message.data, source, policy, contexts.get(source, b"{}"))
            contexts[source] = output.context_out
            result = output.normalized + b"\n" + output.leaves
            stored.append((message, int(headers[PUBLISHED]), await stream.publish_async(RESULTS, result)))
        for message, published_ns, result_stored in stored:
            await result_stored
            took_ms.append((time.monotonic_ns() - published_ns) / 1e6)
            await message.ack()
        if is_end:  # the phase's last message
            pipe.send(took_ms)
            took_ms = []


async def create_streams(url: str) -> None:
    client = await nats.connect(servers=[url])
    stream = client.jetstream()
    for name in (EVENTS, RESULTS):
        await stream.add_stream(name=name, subjects=[name], num_replicas=REPLICAS, storage=StorageType.FILE)
    await client.close()


class Process:
    """A process of the bench: answers through a pipe, and its processor time is known."""

    def __init__(self, target: Any, *arguments: Any) -> None:
        context = get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self._process = context.Process(target=target, args=(arguments[0], theirs, *arguments[1:]), daemon=True)
        self._process.start()
        assert self.answer() == "ready"

    def answer(self) -> Any:
        """What it sends next. Raises RuntimeError when it ended, or sends nothing for long."""
        latest = time.monotonic() + END_S
        while not self.pipe.poll(0.1):
            if not self._process.is_alive() or time.monotonic() > latest:
                raise RuntimeError(f"{self._process.name} has no answer; exit code {self._process.exitcode}")
        return self.pipe.recv()

    def cpu_s(self) -> float:
        return sum(psutil.Process(self._process.pid).cpu_times()[:2])

    def end(self) -> None:
        self._process.terminate()
        self._process.join()


def measure(directory: Path, phase: Phase, *, sync_always: bool = False) -> dict[str, Any]:
    """Rates, times and CPU us per event of the cluster, the publisher and the worker."""
    with NatsCluster(directory, servers=REPLICAS, sync_always=sync_always) as cluster:
        asyncio.run(create_streams(cluster.urls[0]))
        working = Process(worker, cluster.urls, policy_document(weather_policy()))
        publishing = Process(publisher, cluster.urls)
        try:
            publishing.pipe.send(attrs.evolve(phase, seconds=WARM_S))
            publishing.answer()
            working.answer()
            before = [cluster.cpu_s(), publishing.cpu_s(), working.cpu_s()]
            started = time.monotonic()
            publishing.pipe.send(phase)
            time.sleep(phase.seconds)  # an answer is waited for from then on
            events = publishing.answer()
            took_ms = working.answer()
            took_s = time.monotonic() - started
            after = [cluster.cpu_s(), publishing.cpu_s(), working.cpu_s()]
        finally:
            working.end()
            publishing.end()
    spent = [1e6 * (late - early) / events for early, late in zip(before, after, strict=True)]
    costs = zip(("servers", "publisher", "worker", "all"), (*spent, sum(spent)), strict=True)
    return {
        "events": events,
        "events_per_s": round(events / took_s),
        "cpu_us_per_event": {name: round(cost, 1) for name, cost in costs},
        "result_ms": {name: round(quantile(took_ms, share), 1) for name, share in (("p50", 0.5), ("p95", 0.95))},
        "sync_always": sync_always,
    }


def show(result: dict[str, Any]) -> None:
    synced = "every write synced" if result["sync_always"] else "synced every two minutes, the default"
    times = ", ".join(f"{name.upper()} {value} ms" for name, value in result["result_ms"].items())
    print(f"NATS JetStream, {REPLICAS} servers, files {synced}:")
    print(f"{result['events']:,} events, {result['events_per_s']:,}/s; published to result stored {times}")
    print("CPU us per event:")
    for name, cost in result["cpu_us_per_event"].items():
        print(f"  {name:<22} {cost:>7.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=int, default=5_000, help="events per second")
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--message", type=int, default=MESSAGE, help="events of a message")
    parser.add_argument("--sync-always", action="store_true", help="servers sync each write before acknowledging it")
    chosen = parser.parse_args()
    phase = Phase(rate=chosen.rate, seconds=chosen.seconds, size=chosen.message)
    with tempfile.TemporaryDirectory(prefix="overlay-nats-") as directory:
        show(measure(Path(directory), phase, sync_always=chosen.sync_always))


if __name__ == "__main__":
    main()

"""The level "network": whole nodes on a virtual clock, as a function of a seed.

Everything of a node runs as it does for an operator, from the HTTP interface to its SQL on a Postgres database of
its own. Exchanged are the machine's clock, the worker processes (calls run in place, after a while of virtual time),
threads (likewise) and libp2p. Faults come from the seed: streams and gossip lost, delayed, reordered between peers;
partitions; clocks that are wrong; workers that stall; nodes that crash at any moment, before and after commits, and
start again; one that never comes back; an agent that lies.

``python -m tests.simulation.network --server URL --seeds 0:10`` prints one line a seed, the same on every machine.
"""

import argparse
import json
import random
import traceback
from collections.abc import Callable
from typing import Any

import attrs
import structlog
import trio
import trio.testing

from protocols.messages import IdentityKey
from storage.connections import BoundedConnection
from tests.simulation.ground import deterministic, grounds, reset
from tests.simulation.inspection import Inspection
from tests.simulation.links import STORM_S, Faults, Links
from tests.simulation.member import Member

END_S = 400.0
STATEFUL = {
    "mappingPolicy": {
        "coercion": [{"field": "at", "type": "timestamp", "formats": ["rfc3339"]}],
        "required": ["value"],
    },
    "validationRules": {
        "bounds": [{"field": "value", "min": 0, "max": 1000}],
        "monotonic": [{"key": [], "field": "at", "strict": False}],
        "steps": [{"field": "value", "max": 900, "severity": "warning"}],
        "rates": [{"time": "at", "count": 30, "seconds": 60, "severity": "info"}],
        "duplicates": [{"fields": ["value", "at"], "events": 50}],
        "memory": {"keep": ["value"]},
        "rules": [{"name": "changes", "check": "data.value != last.value", "severity": "warning"}],
    },
}
STATELESS = {"mappingPolicy": {}, "validationRules": {"bounds": [{"field": "value", "min": 0, "max": 1000}]}}


@attrs.frozen(kw_only=True)
class Outcome:
    """What a seed led to; equal seeds, equal outcomes."""

    seed: int
    trace: str
    frames: int
    acknowledged: int
    certified: int
    crashes: int
    ended_s: float


class NetworkOfNodes(Links):
    """A network of whole nodes as a function of its seed."""

    def __init__(
        self,
        seed: int,
        databases: list[str],
        connections: dict[str, BoundedConnection],
        faults: Faults | None = None,
    ) -> None:
        rng = random.Random(seed)
        drawn = Faults.drawn(rng)
        super().__init__(seed, rng, faults or drawn)
        self.connections = connections
        size = self.rng.randint(4, len(databases))
        self.members = [Member(self, index, url, connections[url]) for index, url in enumerate(databases[:size])]
        self.by_identity = {member.identity: member for member in self.members}
        self.acknowledged: dict[str, tuple[int, Any]] = {}  # event id: the node, what was posted
        self.crashes = 0
        self.inspection = Inspection(self)

    async def run(self) -> Outcome:
        """Nodes, clients and faults; then quiet, until every batch has its end."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            for member in self.members:
                nursery.start_soon(member.live)
            await self._until(lambda: all(member.requests for member in self.members), 30)
            nursery.start_soon(self._harm)
            with trio.move_on_after(END_S) as patience:
                async with trio.open_nursery() as clients:
                    for number in range(3):
                        clients.start_soon(self._post, number)
            assert not patience.cancelled_caught, (
                f"seed {self.seed}: posts taken not within {END_S:g} s\n{self.inspection.state()}"
            )
            await trio.sleep_until(STORM_S + 1)
            await self._until(self.inspection.is_quiet, END_S)
            ended_s = trio.current_time()
            await trio.sleep(3)  # what was certified goes round
            await self.inspection.check_served()
            nursery.cancel_scope.cancel()
        certified = self.inspection.check()
        return Outcome(
            seed=self.seed,
            trace=self.trace.hexdigest()[:32],
            frames=sum(self.sent.values()),
            acknowledged=len(self.acknowledged),
            certified=certified,
            crashes=self.crashes,
            ended_s=round(ended_s, 3),
        )

    async def _until(self, condition: Callable[[], bool], within_s: float) -> None:
        deadline_s = trio.current_time() + within_s
        while not condition():
            assert trio.current_time() < deadline_s, (
                f"seed {self.seed}: not within {within_s:g} s\n{self.inspection.state()}"
            )
            await trio.sleep(1)

    async def _post(self, number: int) -> None:
        """A client with a source of its own: posts in order, and again until it is acknowledged."""
        rng = random.Random(self.seed * 10 + number)
        home = self.members[-1 - number]
        source = f"source-{number}"
        document = {
            "sourceId": source,
            "name": source,
            "sourceType": "webhook",
            "overlayTopics": ["simulated.readings"],
            **(STATEFUL if number % 2 else STATELESS),
        }
        while True:
            status, answer = await home.call("POST", "/overlay/sources", document)
            if status in (200, 201, 409):
                break
            assert status in (0, 429, 503), (status, answer)
            await trio.sleep(0.3)
        for post in range(rng.randint(3, 6)):
            events = [
                {
                    "externalId": f"{number}-{post}-{index}",
                    "eventType": "reading",
                    "timestamp": "2024-01-15T10:30:00Z",
                    "data": {
                        "value": rng.randint(-5, 1_100),
                        "at": f"2024-01-15T10:{post:02}:{rng.randint(0, 59):02}Z",
                    },
                }
                for index in range(rng.randint(1, 12))
            ]
            body = {"sourceId": source, "events": events, "processingOptions": self._options(rng)}
            await self._post_until_taken(home, body, post)
            await trio.sleep(rng.uniform(0, 4))

    def _options(self, rng: random.Random) -> dict[str, Any]:
        honest = len(self.members) - self.faults.liars - self.faults.gone
        levels = ("basic", "enhanced", "critical") if honest >= 4 else ("basic", "enhanced")
        durability = "replicated" if self.faults.gone or rng.random() < 0.3 else "local"
        return {"consensusLevel": rng.choice(levels), "durability": durability}

    async def _post_until_taken(self, home: Member, body: dict[str, Any], post: int) -> None:
        while not home.gone:
            status, answer = await home.call("POST", "/overlay/events/ingest", body)
            self.note(f"{trio.current_time():.6f} {body['sourceId']} {post} {status}")
            if status == 202:
                for told, event in zip(answer["processedEvents"], body["events"], strict=True):
                    self.acknowledged[told["eventId"]] = home.index, event["data"]
                return
            assert status in (0, 429, 503), (status, answer)
            await trio.sleep(0.3)

    async def _harm(self) -> None:
        events: list[tuple[float, Callable[[], None]]] = []
        for _ in range(self.faults.crashes):
            events.append((self.rng.uniform(4, STORM_S - 8), self._crash_one))
        for _ in range(self.faults.partitions):
            events.append((self.rng.uniform(4, STORM_S - 8), self._cut))
        if self.faults.gone:
            events.append((self.rng.uniform(8, STORM_S - 8), self._lose_one))
        for at_s, harm in sorted(events, key=lambda event: event[0]):
            await trio.sleep_until(at_s)
            harm()

    def _crash_one(self) -> None:
        self.crashes += 1
        self.rng.choice(self.members).crash()

    def _lose_one(self) -> None:
        lost = self.rng.choice(self.members[1:])  # the first is everybody's bootstrap
        lost.gone = True
        lost.crash()

    def _cut(self) -> None:
        side = frozenset(member.identity for member in self.members if self.rng.random() < 0.4)
        self.cuts.append(side)
        assert self._nursery is not None
        self._nursery.start_soon(self._heal, side, self.rng.uniform(1, 8))

    async def _heal(self, side: frozenset[IdentityKey], after_s: float) -> None:
        await trio.sleep(after_s)
        self.cuts.remove(side)


def run(
    seed: int, databases: list[str], connections: dict[str, BoundedConnection], faults: Faults | None = None
) -> Outcome:
    """One seed, from empty databases; ``faults`` in place of those that it draws."""
    with deterministic(seed):
        network = NetworkOfNodes(seed, databases, connections, faults)
        for member in network.members:
            reset(connections[member.url])
        return trio.run(network.run, clock=trio.testing.MockClock(autojump_threshold=0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--server", required=True, help="URL of the database to copy")
    parser.add_argument("--prefix", default="simulated")
    parser.add_argument("--seeds", default="0:10")
    parser.add_argument("--nodes", type=int, default=6)
    parser.add_argument("--log", action="store_true")
    options = parser.parse_args()
    if not options.log:
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    first, _, last = options.seeds.partition(":")
    with grounds(options.server, options.prefix, options.nodes) as (urls, connections):
        for seed in range(int(first), int(last)):
            print(report(seed, urls, connections), flush=True)


def report(seed: int, urls: list[str], connections: dict[str, BoundedConnection]) -> str:
    """The outcome as JSON, or what did not hold."""
    try:
        return json.dumps(attrs.asdict(run(seed, urls, connections)))
    except* AssertionError as failures:
        told = "\n".join(traceback.format_exception(failures))
    return json.dumps({"seed": seed, "failed": told})


if __name__ == "__main__":
    main()

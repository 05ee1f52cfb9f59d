"""The level "network": whole nodes on a virtual clock, as a function of a seed.

Everything of a node runs as it does for an operator, from the HTTP interface to its SQL on a Postgres database of
its own. Exchanged are the machine's clock, the worker processes (calls run in place, after a while of virtual time),
threads (likewise) and libp2p. Faults come from the seed: streams and gossip lost, delayed, reordered between peers;
partitions; clocks that are wrong; workers that stall; nodes that crash at any moment, before and after commits, and
start again; one that never comes back; an agent that lies.

``python -m tests.simulation.network --server URL --seeds 0:10`` prints one line a seed, the same on every machine.
"""

import argparse
import contextlib
import hashlib
import json
import random
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import attrs
import psycopg
import structlog
import trio
import trio.testing
from trio._core import _run as trio_run

from agents.roles import execute
from node.api.app import create_app
from node.api.services import Services
from node.app import Node
from node.coordination.serialization import read_certificate, read_manifest
from node.network.requests import RequestTable
from node.network.transport import Answer, Gossip, InboundFrame, PeerUnreachableError, PeerView
from node.runtime import clock
from node.runtime.keyring import Keyring
from node.runtime.processor_time import ProcessorTimes
from node.runtime.settings import Settings
from node.worker import compute
from protocols.canonical import sha256
from protocols.certificate import verify_quorum
from protocols.entities import Batch, Lease
from protocols.errors import OverlayError
from protocols.keys import PrivateKey
from protocols.messages import IdentityKey, QuorumCertificate
from storage.database import Database, connect
from storage.errors import DatabaseUnavailableError

T = TypeVar("T")

NETWORK = "simulated"
EPOCH_MS = 1_700_000_000_000
STORM_S = 25.0
END_S = 400.0
CALL_S = 15.0
INBOX_MAX = 256
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
class Faults:
    """Chances per frame, per commit; how many and how long."""

    drop: float = 0.0
    delay_ms: int = 5
    partitions: int = 0
    crashes: int = 0
    commit_fails: float = 0.0
    skew_ms: int = 0
    stalls: float = 0.0
    liars: int = 0
    gone: bool = False

    @classmethod
    def drawn(cls, rng: random.Random) -> "Faults":
        """Calm seeds and wild ones."""
        return cls(
            drop=rng.choice((0.0, 0.0, 0.02, 0.1)),
            delay_ms=rng.choice((2, 20, 200)),
            partitions=rng.choice((0, 1, 2)),
            crashes=rng.choice((0, 1, 3)),
            commit_fails=rng.choice((0.0, 0.0, 0.003)),
            skew_ms=rng.choice((0, 500, 5_000)),
            stalls=rng.choice((0.0, 0.0, 0.05)),
            liars=rng.choice((0, 0, 1)),
            gone=rng.random() < 0.2,
        )


class InlineDatabase(Database):
    """Transactions in place, each after a while; commits can fail, and the process can die around one."""

    def __init__(self, url: str, world: "NetworkOfNodes", owner: "Member") -> None:
        super().__init__(url)
        self.world = world
        self.owner = owner
        self.gone = False

    async def run(self, work: Callable[[psycopg.Connection], T]) -> T:
        await trio.sleep(self.world.rng.uniform(0.0002, 0.003))
        self._die_sometimes()
        result = self._transact(work)
        self._die_sometimes()
        return result

    def _die_sometimes(self) -> None:
        if self.gone:
            raise DatabaseUnavailableError("the process is gone")
        if self.world.chance(self.world.faults.commit_fails):
            self.owner.crash()
            raise DatabaseUnavailableError("the process died with its transaction, or right after")


class InlineWorkers:
    """Calls in place, after a while; a liar's roles are tampered with."""

    def __init__(self, world: "NetworkOfNodes", *, lies: bool) -> None:
        self.world = world
        self.lies = lies

    async def admit(self, call: Callable[[], T]) -> T:
        await trio.sleep(self.world.rng.uniform(0.0005, 0.005))
        return call()

    async def read(self, call: Callable[[], T]) -> T:
        return await self.admit(call)

    async def probe(self, call: Callable[[], T], timeout_s: float) -> T:
        return await self.execute(call)

    async def execute(self, call: Callable[[], T]) -> T:
        stalled = self.world.chance(self.world.faults.stalls)
        await trio.sleep(self.world.rng.uniform(2, 8) if stalled else self.world.rng.uniform(0.002, 0.05))
        result = call()
        if isinstance(result, compute.Run):
            result = attrs.evolve(result, cpu_us=1_000)
            if self.lies:
                lie = hashlib.sha256(b"a lie about " + result.findings.output_root).digest()
                result = attrs.evolve(result, findings=attrs.evolve(result.findings, output_root=lie))
        return result


class SimulatedTransport:
    """``node.network.transport.Transport`` over the simulated network."""

    def __init__(self, world: "NetworkOfNodes", identity: IdentityKey) -> None:
        self.world = world
        self.identity = identity
        self.addresses = (f"/ip4/10.0.0.1/tcp/4001/p2p/{identity.hex()}",)
        self.up = True
        self.known: set[IdentityKey] = set()
        self.struck: Counter[str] = Counter()
        self.started_ms = int(trio.current_time() * 1000)
        self._gossip = trio.open_memory_channel[Gossip](INBOX_MAX)
        self._inbound = trio.open_memory_channel[InboundFrame](INBOX_MAX)
        self.asked = trio.open_memory_channel[tuple[IdentityKey, bytes, "Reply"]](1_000)

    def peers(self) -> tuple[PeerView, ...]:
        others = self.world.transports()
        mutual = {key for key, other in others.items() if key in self.known or self.identity in other.known}
        return tuple(
            PeerView(
                identity=key,
                addresses=(),
                connected=self.world.is_connected(self.identity, key),
                connected_since_ms=0,
                queued=0,
            )
            for key in sorted((mutual | self.known) - {self.identity})
        )

    def learn(self, identity: IdentityKey, addresses: Iterable[str]) -> None:
        if identity != self.identity:
            self.known.add(identity)

    def forget(self, identity: IdentityKey) -> None:
        self.known.discard(identity)

    def strike(self, identity: IdentityKey, reason: str) -> None:
        self.struck[reason] += 1

    def gossip(self) -> trio.MemoryReceiveChannel[Gossip]:
        return self._gossip[1]

    def inbound(self) -> trio.MemoryReceiveChannel[InboundFrame]:
        return self._inbound[1]

    async def publish(self, topic: str, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        for key in self.world.reached_from(self.identity):
            if key != self.identity:
                self.world.carry(self.identity, key, "gossip", data, partial(self._hear, key, topic, data))

    def _hear(self, key: IdentityKey, topic: str, data: bytes) -> None:
        heard = Gossip(topic=topic, sender=self.identity, data=data)
        with contextlib.suppress(trio.WouldBlock):  # what comes while it is full is dropped
            self.world.transports()[key]._gossip[0].send_nowait(heard)

    async def send(self, peer: IdentityKey, frame: bytes) -> None:
        await trio.lowlevel.checkpoint()
        if not self.world.is_connected(self.identity, peer):
            raise PeerUnreachableError("not connected", peer=peer.hex())
        delivery = InboundFrame(sender=self.identity, frame=frame)

        def hand_over() -> None:
            with contextlib.suppress(trio.WouldBlock):
                self.world.transports()[peer]._inbound[0].send_nowait(delivery)

        self.world.carry(self.identity, peer, "stream", frame, hand_over)

    async def request(self, peer: IdentityKey, body: bytes, timeout_s: float) -> bytes:
        reply = Reply()

        def ask() -> None:
            with contextlib.suppress(trio.WouldBlock):
                self.world.transports()[peer].asked[0].send_nowait((self.identity, body, reply))

        if not self.world.is_connected(self.identity, peer):
            await trio.lowlevel.checkpoint()
            raise PeerUnreachableError("not connected", peer=peer.hex())
        self.world.carry(self.identity, peer, "request", body, ask)
        with trio.move_on_after(timeout_s):
            await reply.done.wait()
            if reply.body is not None:
                return reply.body
        raise PeerUnreachableError("no answer", peer=peer.hex())

    async def serve(self, answer: Answer) -> None:
        """Answer requests with this node's clock, each in a task of its own."""
        async with trio.open_nursery() as nursery:
            async for sender, body, reply in self.asked[1]:
                nursery.start_soon(self._answer, answer, sender, body, reply)

    async def _answer(self, answer: Answer, sender: IdentityKey, body: bytes, reply: "Reply") -> None:
        found: bytes | None
        try:
            found = await answer(sender, body)
        except OverlayError:
            found = None
        self.world.carry(self.identity, sender, "answer", found or b"", partial(reply.give, found))


class Reply:
    def __init__(self) -> None:
        self.done = trio.Event()
        self.body: bytes | None = None

    def give(self, body: bytes | None) -> None:
        self.body = body
        self.done.set()


class Member:
    """One node, through all its lives."""

    def __init__(self, world: "NetworkOfNodes", index: int, url: str) -> None:
        self.world = world
        self.index = index
        self.url = url
        self.key = PrivateKey.from_bytes(hashlib.sha256(b"%d of %d" % (index, world.seed)).digest())
        self.skew_ms = world.rng.randint(-world.faults.skew_ms, world.faults.skew_ms)
        self.lies = index < world.faults.liars
        self.gone = False
        self.lives = 0
        self.transport: SimulatedTransport | None = None
        self.node: Node | None = None
        self.requests: trio.MemorySendChannel[Any] | None = None
        self._scope = trio.CancelScope()
        self._down_s = 0.0
        self._database: InlineDatabase | None = None

    def settings(self) -> Settings:
        return Settings(
            overlay_network=NETWORK,
            overlay_operator=f"operator {self.index}",
            overlay_public_url=f"http://127.0.0.1:{9_000 + self.index}",
            overlay_attempts_max=12,
            overlay_open_admin=True,
            overlay_bid_window_ms=100,
            overlay_lease_ms=20_000,
            overlay_adopt_ms=3_000,
            event_batch_size=20,
            overlay_replicas=1,
        )

    @property
    def identity(self) -> IdentityKey:
        return self.key.identity

    async def live(self) -> None:
        """Run, crash, run again."""
        clock.UTC_MS.set(lambda: EPOCH_MS + self.skew_ms + int(trio.current_time() * 1000))
        while not self.gone:
            self.lives += 1
            self._scope = trio.CancelScope()
            with self._scope:
                try:
                    await self._run()
                except* DatabaseUnavailableError:  # what a dead process says on its way is heard by nobody
                    assert self._database is not None
                    assert self._database.gone
                await trio.lowlevel.checkpoint()
            self._fall()
            await trio.sleep(self._down_s)

    async def _run(self) -> None:
        transport = self.transport = SimulatedTransport(self.world, self.identity)
        if self.index:
            transport.learn(self.world.members[0].identity, ())
        database = self._database = InlineDatabase(self.url, self.world, self)
        database._idle.append(self.world.connections[self.url])
        workers: Any = InlineWorkers(self.world, lies=self.lies)
        requests = RequestTable()
        node = self.node = Node(self.settings(), database, Keyring(self.key), workers, transport, requests)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(transport.serve, requests.answer)
            await node.run(self._serve)

    def _fall(self) -> None:
        if self.transport is not None:
            self.transport.up = False
        if self._database is not None:
            self._database.gone = True
        self.requests = None

    def crash(self, down_s: float | None = None) -> None:
        """The process is killed: nothing more of it is sent or written."""
        self._down_s = self.world.rng.uniform(0.2, 6) if down_s is None else down_s
        self._fall()
        self._scope.cancel()

    async def _serve(self, services: Services, stop: trio.Event, task_status: Any) -> None:
        client = create_app(services).test_client()
        send, receive = trio.open_memory_channel[Any](64)
        self.requests = send
        task_status.started(services.settings.public_url)
        async with trio.open_nursery() as nursery:
            async for method, path, body, reply in receive:
                nursery.start_soon(self._handle, client, method, path, body, reply)

    async def _handle(self, client: Any, method: str, path: str, body: Any, reply: Reply) -> None:
        response = await client.open(path, method=method, json=body)
        data = await response.get_data()
        if self.transport is not None and self.transport.up:
            reply.give(b"%d %s" % (response.status_code, data))

    async def call(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """A client's request; status 0 for no answer."""
        if self.requests is None:
            await trio.sleep(0.05)
            return 0, None
        reply = Reply()
        await self.requests.send((method, path, body, reply))
        with trio.move_on_after(CALL_S):
            await reply.done.wait()
            assert reply.body is not None
            status, _, data = reply.body.partition(b" ")
            return int(status), json.loads(data)
        return 0, None


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


class NetworkOfNodes:
    """A network of whole nodes as a function of its seed."""

    def __init__(
        self,
        seed: int,
        databases: list[str],
        connections: dict[str, psycopg.Connection],
        faults: Faults | None = None,
    ) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        drawn = Faults.drawn(self.rng)
        self.faults = faults or drawn
        self.connections = connections
        size = self.rng.randint(4, len(databases))
        self.members = [Member(self, index, url) for index, url in enumerate(databases[:size])]
        self.by_identity = {member.identity: member for member in self.members}
        self.trace = hashlib.sha256()
        self.sent: Counter[str] = Counter()
        self.acknowledged: dict[str, tuple[int, Any]] = {}  # event id: the node, what was posted
        self.crashes = 0
        self._cuts: list[frozenset[IdentityKey]] = []
        self._last_s: dict[tuple[IdentityKey, IdentityKey], float] = defaultdict(float)
        self._nursery: trio.Nursery | None = None

    # --- the seams -------------------------------------------------------------------------------------------

    @property
    def stormy(self) -> bool:
        return 3.0 < trio.current_time() < STORM_S

    def chance(self, probability: float) -> bool:
        return probability > 0 and self.stormy and self.rng.random() < probability

    def transports(self) -> dict[IdentityKey, SimulatedTransport]:
        return {
            member.identity: member.transport
            for member in self.members
            if member.transport is not None and member.transport.up
        }

    def is_connected(self, one: IdentityKey, other: IdentityKey) -> bool:
        up = self.transports()
        if one not in up or other not in up or not (other in up[one].known or one in up[other].known):
            return False
        return not (self.stormy and any((one in side) != (other in side) for side in self._cuts))

    def reached_from(self, identity: IdentityKey) -> list[IdentityKey]:
        """Whom gossip of a node reaches, from neighbour to neighbour."""
        reached, border = {identity}, [identity]
        others = set(self.transports())
        while border:
            here = border.pop()
            new = {key for key in others - reached if self.is_connected(here, key)}
            reached |= new
            border += new
        return sorted(reached)

    def is_reached(self, sender: IdentityKey, to: IdentityKey) -> bool:
        return to in self.reached_from(sender)

    def carry(
        self, sender: IdentityKey, to: IdentityKey, carrier: str, data: bytes, hand_over: Callable[[], None]
    ) -> None:
        """Bring bytes to a node after a while, in the order of the link, or lose them."""
        if self.chance(self.faults.drop):
            return
        assert self._nursery is not None
        link = sender, to
        at_s = trio.current_time() + self.rng.uniform(0.0005, self.faults.delay_ms / 1000)
        at_s = self._last_s[link] = max(at_s, self._last_s[link] + 1e-6)
        self._nursery.start_soon(self._bring, link, at_s, carrier, data, hand_over)

    async def _bring(
        self,
        link: tuple[IdentityKey, IdentityKey],
        at_s: float,
        carrier: str,
        data: bytes,
        hand_over: Callable[[], None],
    ) -> None:
        lives = self.by_identity[link[1]].lives
        await trio.sleep_until(at_s)
        passes = self.is_reached if carrier == "gossip" else self.is_connected
        if passes(*link) and self.by_identity[link[1]].lives == lives:
            self.sent[carrier] += 1
            digest = hashlib.sha256(data).hexdigest()[:16]
            self.note(f"{trio.current_time():.6f} {link[0].hex()[:8]}>{link[1].hex()[:8]} {carrier} {digest}")
            hand_over()

    def note(self, line: str) -> None:
        self.trace.update(line.encode() + b"\n")

    # --- the run ---------------------------------------------------------------------------------------------

    async def run(self) -> Outcome:
        """Nodes, clients and faults; then quiet, until every batch has its end."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            for member in self.members:
                nursery.start_soon(member.live)
            await self._until(lambda: all(member.requests for member in self.members), 30)
            nursery.start_soon(self._harm)
            async with trio.open_nursery() as clients:
                for number in range(3):
                    clients.start_soon(self._post, number)
            await trio.sleep_until(STORM_S + 1)
            await self._until(self._is_quiet, END_S)
            ended_s = trio.current_time()
            await trio.sleep(3)  # what was certified goes round
            await self._check_served()
            nursery.cancel_scope.cancel()
        certified = self.check()
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
            assert trio.current_time() < deadline_s, f"seed {self.seed}: not within {within_s:g} s\n{self._state()}"
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
        self._cuts.append(side)
        assert self._nursery is not None
        self._nursery.start_soon(self._heal, side, self.rng.uniform(1, 8))

    async def _heal(self, side: frozenset[IdentityKey], after_s: float) -> None:
        await trio.sleep(after_s)
        self._cuts.remove(side)

    # --- what must hold --------------------------------------------------------------------------------------

    def _is_quiet(self) -> bool:
        """All that was acknowledged has its end on a node that lives, and those have no batch without one."""
        if any(member.requests is None for member in self.members if not member.gone):
            return False
        left = [
            self._rows(member, "SELECT batch_id FROM batches WHERE state = 'pending'") for member in self._living()
        ]
        return not any(left) and set(self.acknowledged) <= set(self._ends())

    def _living(self) -> list[Member]:
        return [member for member in self.members if not member.gone]

    def _rows(self, member: Member, query: str) -> list[tuple[Any, ...]]:
        with self.connections[member.url].transaction():
            return self.connections[member.url].execute(query.encode()).fetchall()

    def _ends(self) -> dict[str, set[str]]:
        """The certified batches of each event, as far as nodes that live know their certificates."""
        certified: set[str] = set()
        for member in self._living():
            for query in (
                "SELECT batch_id FROM batches WHERE state = 'certified'",
                "SELECT batch_id FROM certificate_log WHERE certificate IS NOT NULL",
            ):
                certified.update(batch_id for (batch_id,) in self._rows(member, query))
        ends: dict[str, set[str]] = defaultdict(set)
        for member in self.members:
            query = "SELECT i.event_digest, b.batch_id FROM event_index i JOIN batches b ON b.number = i.batch"
            for digest, batch_id in self._rows(member, query):
                if batch_id in certified:
                    ends["event_" + bytes(digest).hex()].add(batch_id)
        return ends

    async def _check_served(self) -> None:
        """A client finds its events at the node that took them, with their end, and the data that was posted."""
        for event_id, (home, data) in sorted(self.acknowledged.items())[::7]:
            if not self.members[home].gone:
                status, answer = await self.members[home].call("GET", f"/overlay/events/{event_id}")
                assert status == 200, f"seed {self.seed}: {event_id}: {status} {answer}"
                assert answer["status"] in ("certified", "invalid"), answer
                assert answer["data"] == data, answer

    def check(self) -> int:
        """Every event in one certificate, every certificate true. Returns how many batches were certified."""
        ends = self._ends()
        for event_id in self.acknowledged:
            assert len(ends[event_id]) == 1, f"seed {self.seed}: {event_id} in {ends[event_id]}"
        certificates: dict[str, QuorumCertificate] = {}
        batches: dict[tuple[IdentityKey, str], dict[int, tuple[str, bytes, bytes]]] = defaultdict(dict)
        for member in self.members:
            rows = self._rows(
                member,
                """SELECT b.batch_id, b.state, b.manifest, b.payload, p.document, b.certificate FROM batches b
                   JOIN policies p USING (policy_hash)""",
            )
            for batch_id, state, manifest, payload, policy, data in rows:
                assert state != "dead", f"seed {self.seed}: {batch_id} is dead at {member.index}"
                signed = read_manifest(bytes(manifest), NETWORK)
                said = signed.message
                packed = bytes(payload), bytes(policy)
                batches[said.coordinator, said.source_id][said.source_sequence] = (batch_id, *packed)
                if data is not None:
                    self._note_certificate(certificates, read_certificate(bytes(data)))
            for (data,) in self._rows(
                member, "SELECT certificate FROM certificate_log WHERE certificate IS NOT NULL"
            ):
                self._note_certificate(certificates, read_certificate(bytes(data)))
        self._check_truth(certificates, batches)
        for line in sorted(f"{key} {value.statement.digest.hex()}" for key, value in certificates.items()):
            self.note(line)
        return len(certificates)

    def _note_certificate(self, found: dict[str, QuorumCertificate], certificate: QuorumCertificate) -> None:
        verify_quorum(certificate, network=NETWORK)
        statement = certificate.statement
        other = found.setdefault(statement.batch_id, certificate)
        assert other.statement == statement, f"seed {self.seed}: two certificates of {statement.batch_id}"

    def _check_truth(
        self,
        certificates: dict[str, QuorumCertificate],
        batches: dict[tuple[IdentityKey, str], dict[int, tuple[str, bytes, bytes]]],
    ) -> None:
        """Run every source anew from its first record: the roots that were certified are the ones found."""
        for (_, source_id), by_sequence in batches.items():
            context = b"{}"
            for _, (batch_id, packed, policy) in sorted(by_sequence.items()):
                if batch_id not in certificates:
                    continue  # of a node that is gone, and never acknowledged
                statement = certificates[batch_id].statement
                output = execute(
                    network=NETWORK,
                    source_id=source_id,
                    payload=compute.unpack(packed),
                    policy=policy,
                    context=context,
                )
                assert statement.context_in == sha256(context), f"seed {self.seed}: {batch_id} out of its order"
                assert statement.output_root == output.output_root, f"seed {self.seed}: {batch_id} is wrong"
                context = output.context_out

    def _state(self) -> str:
        """What stands in the way: the batches without an end, what their coordinators know of the agents."""
        lines = [str(self.faults)]
        for member in self.members:
            lines.append(f"{member.index} {member.identity.hex()[:8]} gone={member.gone} lives={member.lives}")
            pending = self._rows(member, "SELECT batch_id FROM batches WHERE state <> 'certified'")
            for entity in () if member.node is None else member.node.state.driver.entities():
                if isinstance(entity, Batch) and (entity.batch_id,) in pending:
                    agents = [award.agent.hex()[:8] for award in entity.awards]
                    lines.append(f"  {entity.batch_id[:14]} {entity.stage.name} {agents} {entity.reasons}")
                elif isinstance(entity, Lease):
                    lines.append(f"  {entity.level.name} waiting={len(entity.waiting)} failures={entity.failures}")
            if pending:
                known = """SELECT encode(agent, 'hex'), role, agreed, dissented, late, equivocated
                           FROM reputations ORDER BY 1, 2"""
                lines += [f"  {batch_id[:14]} pending" for (batch_id,) in pending]
                lines += [f"  {row[0][:8]} {row[1:]}" for row in self._rows(member, known)]
                auctions = "SELECT record FROM auctions ORDER BY at_ms DESC LIMIT 2"
                lines += [f"  {record}" for (record,) in self._rows(member, auctions)]
        return "\n".join(lines)


# --- the ground it runs on ------------------------------------------------------------------------------------


@contextmanager
def deterministic(seed: int) -> Iterator[None]:
    """trio's scheduler, the standard library's generator and threads as functions of a seed.

    By trio's private names, as trio's own tests do it; the version is pinned.
    """
    before = trio_run._ALLOW_DETERMINISTIC_SCHEDULING
    threads, watch = trio.to_thread.run_sync, ProcessorTimes.since_last
    trio_run._ALLOW_DETERMINISTIC_SCHEDULING = True
    trio_run._r.seed(seed)
    random.seed(seed)
    trio.to_thread.run_sync = _in_place  # type: ignore[assignment]
    ProcessorTimes.since_last = lambda self: {}  # type: ignore[method-assign]
    try:
        yield
    finally:
        trio_run._ALLOW_DETERMINISTIC_SCHEDULING = before
        trio.to_thread.run_sync, ProcessorTimes.since_last = threads, watch  # type: ignore[method-assign]


async def _in_place(call: Callable[..., T], *args: Any, **options: Any) -> T:
    await trio.lowlevel.checkpoint()
    return call(*args)


def reset(connection: psycopg.Connection) -> None:
    """Leave nothing of an earlier seed. Rows are few: to delete them is quicker than to truncate."""
    with connection.transaction():
        tables = connection.execute(
            """SELECT string_agg(format('DELETE FROM %I', tablename), ';') FROM pg_tables
               WHERE schemaname = 'public' AND tablename NOT LIKE '%%migration%%'"""
        ).fetchone()
        sequences = (
            "SELECT setval(format('%I', sequencename), 1, false) FROM pg_sequences WHERE last_value IS NOT NULL"
        )
        assert tables is not None
        connection.execute(f"SET LOCAL session_replication_role = replica; {tables[0]}".encode())
        connection.execute(sequences.encode())


def run(
    seed: int, databases: list[str], connections: dict[str, psycopg.Connection], faults: Faults | None = None
) -> Outcome:
    """One seed, from empty databases; ``faults`` in place of those that it draws."""
    with deterministic(seed):
        network = NetworkOfNodes(seed, databases, connections, faults)
        for member in network.members:
            reset(connections[member.url])
        return trio.run(network.run, clock=trio.testing.MockClock(autojump_threshold=0))


@contextmanager
def grounds(server: str, prefix: str, nodes: int) -> Iterator[tuple[list[str], dict[str, psycopg.Connection]]]:
    """Databases for so many nodes on a server that has one to copy, named ``overlay``."""
    names = [f"{prefix}_{index}" for index in range(nodes)]
    maintenance = server.replace("/overlay?", "/postgres?")
    urls = [server.replace("/overlay?", f"/{name}?") for name in names]
    with psycopg.connect(maintenance, autocommit=True) as admin:
        for name in names:
            admin.execute(f"CREATE DATABASE {name} TEMPLATE overlay".encode())
        connections = {url: connect(url) for url in urls}
        for connection in connections.values():
            connection.execute(b"SET synchronous_commit = off")
            connection.commit()
        try:
            yield urls, connections
        finally:
            for connection in connections.values():
                connection.close()
            for name in names:
                admin.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


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


def report(seed: int, urls: list[str], connections: dict[str, psycopg.Connection]) -> str:
    """The outcome as JSON, or what did not hold."""
    try:
        return json.dumps(attrs.asdict(run(seed, urls, connections)))
    except* AssertionError as failures:
        told = "\n".join(traceback.format_exception(failures))
    return json.dumps({"seed": seed, "failed": told})


if __name__ == "__main__":
    main()

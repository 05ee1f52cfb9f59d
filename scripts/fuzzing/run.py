"""A run: items of a seed, sent to a running node by several lanes at once, while the node is watched."""

import time
from collections import Counter
from pathlib import Path
from typing import Any, Final

import attrs
import httpx
import trio

from scripts.fuzzing.calls import Answered, Call, Nonces, fault_of
from scripts.fuzzing.housekeeping import Housekeeping
from scripts.fuzzing.http_client import Connection, NoAnswerError
from scripts.fuzzing.items import GROUPS, Item, Items
from scripts.fuzzing.monitor import MIB, Flaw, Memory, Monitor, counted
from scripts.fuzzing.operations import Operations
from scripts.fuzzing.peers import Peers, Tally
from scripts.fuzzing.reading import Readback, Reader
from scripts.fuzzing.records import Records
from scripts.fuzzing.target import Target, running_target
from scripts.fuzzing.upstream import HOST, Upstream
from scripts.network import free_ports

WAITING: Final = 64  # items of a carrier that wait for a lane
PEER_LANES: Final = 3
HTTP_LANES: Final = 12
ANSWER_S_MAX: Final = 90.0
SOCKET_S: Final = 5.0
SIGNED: Final = {"request": 0.2, "document": 0.75, "socket": 0.2}  # the part that an operator signs
HARVESTED_BYTES_MAX: Final = 65_536
RECORDS: Final = frozenset({"ingest", "polled"})
GROWTH_MAX: Final = 0.25  # of resident memory, from the end of the warm-up to the end
GROWTH_MIB: Final = 48  # that is no growth, however small the node was
WARM: Final = 0.4


@attrs.frozen(kw_only=True)
class Plan:
    """What to run.

    Attributes:
        count: Items, at least: records of a request count each.
        first, last: Numbers of the items, if not all of them are to be sent.
        database_url: A server of Postgres in place of one of the node's own.
        module: What runs the node.
    """

    seed: str
    count: int
    groups: tuple[str, ...] = GROUPS
    first: int = 0
    last: int | None = None
    database_url: str | None = None
    module: str = "node"


@attrs.define(kw_only=True)
class Outcome:
    """What came of a run. It held if there are no flaws.

    Attributes:
        sent: Items. things: Messages, records, documents and requests in them.
        kinds: All that there are, with their carriers. counts: Items by carrier and kind.
    """

    plan: Plan
    seconds: float = 0.0
    sent: int = 0
    things: int = 0
    kinds: tuple[tuple[str, str], ...] = ()
    counts: Counter[str] = attrs.field(factory=Counter)
    records: int = 0
    statuses: dict[str, Counter[str]] = attrs.field(factory=dict)
    codes: Counter[str] = attrs.field(factory=Counter)
    flaws: list[Flaw] = attrs.field(factory=list)
    memory: Memory = attrs.field(factory=Memory)
    answers_s: list[float] = attrs.field(factory=list)
    peers: Tally = attrs.field(factory=Tally)
    metrics: dict[str, float] = attrs.field(factory=dict)
    levels: Counter[str] = attrs.field(factory=Counter)
    events: Counter[str] = attrs.field(factory=Counter)
    read: Readback = attrs.field(factory=Readback)
    delivered: int = 0


def run(plan: Plan, directory: Path) -> Outcome:
    """Run it against a node of its own, whose key, log and database are in ``directory``."""
    port = free_ports(1)[0]
    upstream = f"http://{HOST}:{port}"
    with running_target(directory, plan.seed, upstream, plan.database_url, plan.module) as target:
        outcome = trio.run(_Run(plan, target, port).run)
    if target.node.wait(0) not in (0, None) and not outcome.flaws:
        outcome.flaws.append(Flaw(what=f"the node stopped with code {target.node.wait(0)}", items=plan.seed))
    return outcome


class _Run:
    def __init__(self, plan: Plan, target: Target, port: int) -> None:
        world = target.world
        self._plan = plan
        self._target = target
        self._port = port
        self._monitor = Monitor(target, plan.seed)
        self._records = Records(world)
        self._upstream = Upstream(self._records, plan.seed)
        url = f"http://{HOST}:{port}"
        self._operations = Operations(world, target.document, operator=target.operator, upstream=url)
        self._peers = Peers(world, target.p2p_address, on_sent=self._on_frame)
        self._nonces = Nonces()
        self._items = Items(
            plan.seed,
            tags=self._peers.asks.tags,
            operations=tuple(self._operations.described),
            changing=self._operations.changing,
            sockets=self._operations.sockets,
            groups=plan.groups,
        )
        self._names = {
            parameter["name"] for each in self._operations.described.values() for parameter in each.named("path")
        }
        self.outcome = Outcome(plan=plan, kinds=self._items.kinds)
        self.acknowledged: set[str] = set()

    async def run(self) -> Outcome:
        before = await self._metrics()
        started_s = time.monotonic()
        async with self._upstream.serve(self._port), trio.open_nursery() as watching:
            watching.start_soon(self._monitor.run, watching.cancel_scope.cancel)
            await self._send_all()
            watching.cancel_scope.cancel()
        outcome = self.outcome
        outcome.seconds = time.monotonic() - started_s
        self._monitor.read_log()
        outcome.peers, outcome.delivered = self._peers.tally, self._upstream.delivered
        if self._target.node.running:
            await trio.to_thread.run_sync(self._read_back)
            after = await self._metrics()
            outcome.metrics = {name: after[name] - before.get(name, 0) for name in after}
        self._monitor.read_log()
        self._judge()
        return outcome

    async def _send_all(self) -> None:
        to_peers, peer_items = trio.open_memory_channel[Item](WAITING)
        to_http, http_items = trio.open_memory_channel[Item](WAITING)
        async with trio.open_nursery() as beside:
            beside.start_soon(Housekeeping(self._target, self._nonces).run)
            async with trio.open_nursery() as lanes:
                for lane in range(PEER_LANES):
                    lanes.start_soon(self._peers.run_lane, lane, peer_items)
                for _ in range(HTTP_LANES):
                    lanes.start_soon(self._run_http, http_items)
                async with to_peers, to_http:
                    await self._deal(to_peers, to_http)
            beside.cancel_scope.cancel()

    async def _deal(self, to_peers: "trio.MemorySendChannel[Item]", to_http: "trio.MemorySendChannel[Item]") -> None:
        plan, number = self._plan, self._plan.first
        self._monitor.first = number
        while self.outcome.things < plan.count and (plan.last is None or number <= plan.last):
            item = self._items.item(number)
            await (to_peers if item.group == "messages" else to_http).send(item)
            self.outcome.counts[f"{item.carrier} {item.kind}"] += 1
            self.outcome.things += item.carrier not in RECORDS
            number += 1
        self.outcome.sent = number - plan.first

    async def _run_http(self, items: trio.MemoryReceiveChannel[Item]) -> None:
        async with Connection(self._target.node.http_port, self._target.world.node, self._nonces) as connection:
            async for item in items:
                await self._send(connection, item)

    async def _send(self, connection: Connection, item: Item) -> None:
        if item.carrier == "polled":
            self._count_records(await self._upstream.offer(item.draw, item.kind))
            return
        if item.carrier == "ingest":
            call = self._records.call(item.draw, item.kind)
        else:
            call = self._operations.call(item.draw, item.kind, signed=SIGNED[item.carrier])
        self._count_records(call.records if item.carrier == "ingest" else 0)
        self._monitor.on_sent(item.number, call.target.encode())
        answered = await self._exchange(connection, item, call)
        if answered is None:
            return
        fault = (
            "" if answered.status == 101 else fault_of(answered, self._operations.described[call.operation].answers)
        )
        if fault:
            self._monitor.flaw(f"{call.method} {call.operation}: {fault}", item.number)
        self.outcome.statuses.setdefault(item.carrier, Counter())[str(answered.status)] += 1
        if answered.code:
            self.outcome.codes[f"{answered.status} {answered.code}"] += 1
        if answered.status < 300 and len(answered.body) <= HARVESTED_BYTES_MAX:
            self._harvest(answered.document())

    async def _exchange(self, connection: Connection, item: Item, call: Call) -> Answered | None:
        with trio.move_on_after(ANSWER_S_MAX):
            try:
                if item.carrier == "socket":
                    messages = self._operations.socket_messages(item.draw, item.kind)
                    return await connection.talk(call, messages, SOCKET_S)
                return await connection.send(call)
            except (NoAnswerError, OSError) as error:
                await connection.close()
                if self._target.node.running:
                    self._monitor.flaw(f"{call.method} {call.operation}: {error}", item.number)
                return None
        await connection.close()
        self._monitor.flaw(f"{call.method} {call.operation}: no answer within {ANSWER_S_MAX:.0f} s", item.number)
        return None

    def _count_records(self, records: int) -> None:
        self.outcome.records += records
        self.outcome.things += records

    def _on_frame(self, item: Item, data: bytes) -> None:
        self._monitor.on_sent(item.number, data)

    def _harvest(self, document: Any) -> None:
        """Keep what the node names, for paths of later calls."""
        if isinstance(document, list):
            for part in document[:20]:
                self._harvest(part)
        elif isinstance(document, dict):
            if document.get("status") == "ingested":
                self.acknowledged.add(document["eventId"])
            for name, part in document.items():
                if name in self._names and isinstance(part, str):
                    self._target.world.live.add(name, part)
                elif isinstance(part, list | dict):
                    self._harvest(part)

    async def _metrics(self) -> dict[str, float]:
        async with httpx.AsyncClient(base_url=self._target.node.url, timeout=60) as client:
            return counted((await client.get("/metrics")).raise_for_status().text)

    def _read_back(self) -> None:
        reader = Reader(self._target, self.acknowledged)
        try:
            reader.run()
        except httpx.HTTPError as error:
            reader.found.problems.append(f"{type(error).__name__}: {error}")
        self.outcome.read = reader.found

    def _judge(self) -> None:
        outcome, monitor = self.outcome, self._monitor
        outcome.memory, outcome.answers_s = monitor.memory, monitor.answers_s
        outcome.levels, outcome.events = monitor.levels, monitor.events
        for name, value in outcome.metrics.items():
            if name.startswith("overlay_quarantined_total") and value:
                monitor.flaw(f"{value:.0f} items were quarantined: {name}")
        early, late = outcome.memory.at(WARM), outcome.memory.at(1.0)
        if late - early > max(GROWTH_MAX * early, GROWTH_MIB * MIB):
            monitor.flaw(f"resident memory grew from {early / MIB:.0f} to {late / MIB:.0f} MiB")
        for problem in outcome.read.problems:
            monitor.flaw(f"reading back: {problem}")
        outcome.flaws = monitor.flaws

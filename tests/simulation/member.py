"""One simulated node through all its lives: the whole product on a simulated clock, database and workers."""

import hashlib
import json
import math
from collections.abc import Callable
from typing import Any, TypeVar

import attrs
import psycopg
import trio
import trio.testing

from node.api.app import create_app
from node.api.services import Services
from node.app import Node
from node.health.lifecycle import Lifecycle
from node.health.monitor import HealthMonitor
from node.network.requests import RequestTable
from node.runtime import clock
from node.runtime.containment import Quarantine
from node.runtime.fair_share import OWN_ACCOUNT, Account
from node.runtime.keyring import Keyring
from node.runtime.settings import Settings
from node.runtime.workers import UnwantedError
from node.worker import compute
from protocols.keys import PrivateKey
from protocols.messages import IdentityKey
from storage.connections import STATEMENT_S, BoundedConnection
from storage.database import Database
from storage.errors import DatabaseUnavailableError
from storage.patience import Wait
from tests.simulation.links import Links, Reply, SimulatedTransport

T = TypeVar("T")
NETWORK = "simulated"
EPOCH_MS = 1_700_000_000_000
CALL_S = 15.0


class InlineDatabase(Database):
    """Transactions in place, each after a while; commits can fail, and the process can die around one."""

    def __init__(self, url: str, links: Links, owner: "Member") -> None:
        super().__init__(url)
        self.links = links
        self.owner = owner
        self.gone = False

    async def run(
        self,
        work: Callable[[psycopg.Connection], T],
        *,
        deadline_s: float | None = None,
        statement_s: int = STATEMENT_S,
        on_retry: Callable[[str], None] = lambda cause: None,
    ) -> T:
        await trio.sleep(self.links.rng.uniform(0.0002, 0.003))
        self._die_sometimes()
        wait = Wait(scope=trio.CancelScope(), began_s=0.0, until_s=math.inf, is_watched=False)
        result = self._transact(work, wait, statement_s)
        self._die_sometimes()
        return result

    def _die_sometimes(self) -> None:
        if self.gone:
            raise DatabaseUnavailableError("the process is gone")
        if self.links.chance(self.links.faults.commit_fails):
            self.owner.crash()
            raise DatabaseUnavailableError("the process died with its transaction, or right after")


class InlineWorkers:
    """Calls in place, after a while; a liar's roles are tampered with."""

    def __init__(self, links: Links, *, lies: bool) -> None:
        self.links = links
        self.lies = lies

    async def admit(self, call: Callable[[], T], *, account: Account = OWN_ACCOUNT, size: int | None = None) -> T:
        await trio.sleep(self.links.rng.uniform(0.0005, 0.005))
        return call()

    async def read(self, call: Callable[[], T], *, account: Account = OWN_ACCOUNT, size: int | None = None) -> T:
        return await self.admit(call)

    async def parsers_answer(self, within_s: float) -> bool:
        return True

    async def workers_answer(self, within_s: float) -> bool:
        return True

    async def probe(self, call: Callable[[], T], timeout_s: float) -> T:
        return await self.execute(call)

    async def execute(self, call: Callable[[], T], is_wanted: Callable[[], bool] = lambda: True) -> T:
        stalled = self.links.chance(self.links.faults.stalls)
        await trio.sleep(self.links.rng.uniform(2, 8) if stalled else self.links.rng.uniform(0.002, 0.05))
        if not is_wanted():
            raise UnwantedError("nobody waits for the call any more")
        result = call()
        if isinstance(result, compute.Run):
            result = attrs.evolve(result, cpu_us=1_000)
            if self.lies:
                lie = hashlib.sha256(b"a lie about " + result.findings.output_root).digest()
                result = attrs.evolve(result, findings=attrs.evolve(result.findings, output_root=lie))
        return result


class Member:
    """One node, through all its lives."""

    def __init__(self, links: Links, index: int, url: str, connection: BoundedConnection) -> None:
        self.links = links
        self.index = index
        self.url = url
        self.connection = connection
        self.key = PrivateKey.from_bytes(hashlib.sha256(b"%d of %d" % (index, links.seed)).digest())
        self.skew_ms = links.rng.randint(-links.faults.skew_ms, links.faults.skew_ms)
        self.lies = index < links.faults.liars
        self.gone = False
        self.lives = 0
        self.transport: SimulatedTransport | None = None
        self.node: Node | None = None
        self.requests: trio.MemorySendChannel[Any] | None = None
        self._scope = trio.CancelScope()
        self._down_s = 0.0
        self._database: InlineDatabase | None = None

    def settings(self) -> Settings:
        return Settings.model_validate(
            {
                "overlay_network": NETWORK,
                "overlay_operator": f"operator {self.index}",
                "overlay_public_url": f"http://127.0.0.1:{9_000 + self.index}",
                "overlay_attempts_max": 12,
                "overlay_open_admin": True,
                "overlay_bid_window_ms": 100,
                "overlay_lease_ms": 20_000,
                "overlay_adopt_ms": 3_000,
                "event_batch_size": 20,
                "overlay_replicas": 1,
            }
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
        transport = self.transport = SimulatedTransport(self.links, self.identity)
        if self.index:
            transport.learn(self.links.members[0].identity, ())
        database = self._database = InlineDatabase(self.url, self.links, self)
        database._idle.append(self.connection)
        workers: Any = InlineWorkers(self.links, lies=self.lies)
        requests = RequestTable()
        quarantine = Quarantine()
        node = self.node = Node(
            self.settings(),
            database,
            Keyring(self.key),
            workers,
            transport,
            requests,
            lifecycle=Lifecycle(),
            monitor=HealthMonitor(quarantine),
            quarantine=quarantine,
        )
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
        self._down_s = self.links.rng.uniform(0.2, 6) if down_s is None else down_s
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

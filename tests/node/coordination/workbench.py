"""A certified batch of real readings and the parts that coordinate it: real roles run in place, peers in a table."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import attrs
import trio

from agents.policy import policy_document
from node.coordination.batch_store import BatchStore
from node.coordination.certified_result import CertifiedResult
from node.coordination.dispatcher import Handlers
from node.coordination.payloads import Payloads
from node.coordination.replicas import Replicas
from node.coordination.result_cache import ResultCache
from node.coordination.role_runner import RoleRunner
from node.coordination.sealer import Sealer
from node.coordination.serialization import manifest_bytes
from node.runtime.caches import BytesCache
from node.worker import compute
from protocols.canonical import parse_json
from protocols.effects import Effect, RunRole, WriteBatch
from protocols.envelope import sign
from protocols.messages import Award, BatchSealed, HoldBatch, IdentityKey, Manifest, Role, Signed, WorkOrder
from protocols.stimuli import Stimulus
from storage import batches, policies, sources
from storage.database import Database
from storage.rows import BatchRow, NewBatch
from tests.network_of_keys import AGENTS, NETWORK, POLICY_FILE, Certified, KeySigner

T = TypeVar("T")

POLICY = policy_document(parse_json(POLICY_FILE.read_bytes()))
COORDINATOR, AGENT, OTHER = AGENTS[:3]
WORK = (Role.NORMALIZE, Role.VALIDATE)


def packed(batch: Certified) -> bytes:
    return compute.pack(b"\n".join(batch.records))


class InPlaceWorkers:
    """Calls run in this process; ``faults`` are raised first, one a call."""

    def __init__(self) -> None:
        self.calls = 0
        self.faults: list[Exception] = []

    async def execute(self, call: Callable[[], T], is_wanted: Callable[[], bool] = lambda: True) -> T:
        await trio.lowlevel.checkpoint()
        self.calls += 1
        if self.faults:
            raise self.faults.pop(0)
        return call()

    admit = execute


@attrs.define(slots=False)
class Peers:
    """What peers hand out, and who was asked for what."""

    policies: dict[IdentityKey, bytes] = attrs.Factory(dict)
    results: dict[IdentityKey, tuple[bytes, bytes]] = attrs.Factory(dict)
    asked: list[IdentityKey] = attrs.Factory(list)
    certificates: dict[str, BatchSealed] = attrs.Factory(dict)

    async def policy(self, policy_hash: bytes, holder: IdentityKey) -> bytes | None:
        await trio.lowlevel.checkpoint()
        self.asked.append(holder)
        return self.policies.get(holder)

    async def outputs(self, batch_id: str, holder: IdentityKey) -> tuple[bytes, bytes] | None:
        await trio.lowlevel.checkpoint()
        self.asked.append(holder)
        return self.results.get(holder)

    async def find(self, batch_id: str) -> BatchSealed | None:
        await trio.lowlevel.checkpoint()
        return self.certificates.get(batch_id)


class Workbench:
    """One node's runner, replicas and sealer; without a database it stores nothing."""

    def __init__(self, signer: KeySigner, database: Database | None = None) -> None:
        self.signer = signer
        self.workers = InPlaceWorkers()
        self.peers = Peers(policies=dict.fromkeys((agent.identity for agent in AGENTS), POLICY))
        self.cache = ResultCache(10**7)
        self.reported: list[Stimulus] = []
        self.struck: list[tuple[IdentityKey, str]] = []
        self.certified: list[CertifiedResult] = []
        self.dead: list[tuple[str, int]] = []
        self.replicated: list[tuple[str, tuple[IdentityKey, ...]]] = []
        self.own_payloads: BytesCache[str, bytes] = BytesCache(10**7)
        self.store = BatchStore(database) if database is not None else None
        self.payloads = Payloads(own=self.own_payloads, find=self._find, strike=self._strike)
        self.runner = RoleRunner(
            network=NETWORK,
            build="test",
            signer=signer,
            workers=self.workers,  # type: ignore[arg-type]  # processes of their own are tested elsewhere
            payloads=self.payloads,
            policies=self.peers,
            cache=self.cache,
            enqueue=self.reported.append,
        )
        self.replicas = Replicas(
            network=NETWORK,
            workers=self.workers,  # type: ignore[arg-type]
            payloads=self.payloads,
            policies=self.peers,
            store=self.store,  # type: ignore[arg-type]  # None where nothing may be stored
            enqueue=self.reported.append,
            on_replicated=lambda batch_id, holders: self.replicated.append((batch_id, holders)),
        )
        self.sealer = Sealer(
            identity=signer.identity,
            workers=self.workers,  # type: ignore[arg-type]
            runner=self.runner,
            payloads=self.payloads,
            store=self.store,  # type: ignore[arg-type]
            certificates=self.peers,
            remote=self.peers,
            subscribers=lambda topics: (OTHER.identity,) if topics else (),
            cache=self.cache,
            enqueue=self.reported.append,
            strike=self._strike,
        )
        self.sealer.on_certified.append(self.certified.append)
        self.sealer.on_dead.append(lambda batch_id, events: self.dead.append((batch_id, events)))

    async def carry_out(self, *effects: Effect) -> Sequence[Stimulus]:
        """Take effects to their handlers. Returns what these reported to the driver."""
        before = len(self.reported)
        handlers: Handlers = {**self.runner.handlers, **self.replicas.handlers, **self.sealer.handlers}
        for effect in effects:
            await handlers[type(effect)](effect)
        return self.reported[before:]

    async def _find(self, batch_id: str) -> bytes | None:
        return None if self.store is None else await self.store.payload(batch_id)

    def _strike(self, peer: IdentityKey, reason: str) -> None:
        self.struck.append((peer, reason))


def order(batch: Certified, sender: KeySigner = COORDINATOR, roles: tuple[Role, ...] = WORK) -> RunRole:
    award = Award(
        network=NETWORK,
        lease_id="lease",
        announcement_id="job",
        agent=AGENT.identity,
        roles=WORK,
        batches=1,
        expires_ms=1,
    )
    work = WorkOrder(network=NETWORK, award=award, manifest=batch.manifest, context=b"{}", attempt=1)
    return RunRole(order=sign(sender, work), roles=roles)


def hold(batch: Certified, sender: KeySigner = COORDINATOR) -> Signed[HoldBatch]:
    message = HoldBatch(
        network=NETWORK,
        manifest=batch.manifest,
        holders=(AGENT.identity, OTHER.identity),
        stateful=False,
        after="",
        context=b"{}",
    )
    return sign(sender, message)


def write(batch: Certified) -> WriteBatch:
    return WriteBatch(
        certificate=batch.certificate,
        dissent=(),
        manifest=batch.manifest.message,
        context=b"{}",
        context_out=batch.output.context_out,
        attempts=1,
    )


async def enter(database: Database, batch: Certified) -> None:
    """Store a batch as ingest does, with its policy and its source."""
    said: Manifest = batch.manifest.message
    index = compute.index_batch(packed(batch), network=NETWORK, source_id=said.source_id, input_root=said.input_root)
    new = NewBatch(
        batch_id=said.batch_id,
        source_id=said.source_id,
        source_sequence=said.source_sequence,
        policy_hash=said.policy_hash,
        level=int(said.level),
        quorum=said.quorum,
        stateful=False,
        topics=list(said.topics),
        manifest=manifest_bytes(batch.manifest),
        payload=packed(batch),
        received_ms=said.received_ms,
        event_ids=index.event_ids,
        record_hashes=[each.hex() for each in index.record_hashes],
        versions=[1] * said.events,
    )
    values = {
        "source_id": said.source_id,
        "name": "Readings",
        "source_type": "webhook",
        "policy_hash": said.policy_hash,
    }
    await database.run(partial(policies.put, policy_hash=said.policy_hash, document=POLICY))
    await database.run(partial(sources.create, values=values))
    await database.run(partial(batches.insert_ingested, batches=[new]))


async def stored(database: Database, batch: Certified) -> BatchRow:
    """The batch's row."""
    row = await database.run(partial(batches.get, batch_id=batch.manifest.message.batch_id))
    assert row is not None, "the batch was entered"
    return row

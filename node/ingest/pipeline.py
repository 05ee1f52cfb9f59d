"""The one way in: bytes to committed batches, whatever the source.

A request is admitted in a worker process; then a single committer takes everything that waits as one group:
one thread, one transaction, one flush to disk for all of it. Only then are the requests answered and is the
driver told. So the commit rate follows the disk, and the batch size follows the load.
"""

import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from itertools import islice
from types import TracebackType
from typing import Any, Final, Protocol, TypeVar

import attrs
import structlog
import trio

from node.ingest.group_commit import Committed, Decision, Group, GroupWriter, Pending, Reading
from node.ingest.replication import Replications
from node.ingest.responses import IngestAnswer
from node.runtime.caches import BytesCache
from node.runtime.channels import waiting
from node.runtime.clock import clock_ms
from node.worker.parsing.admission import Admitted
from node.worker.parsing.bodies import PLAIN, RawEvent, RequestEncoding, admit_form, admit_read
from protocols.errors import ClientFault, WorldFault
from protocols.limits import EVENT_BYTES_MAX, REQUEST_BYTES_MAX
from protocols.messages import IdentityKey, Level
from protocols.stimuli import BatchCommitted, Stimulus
from storage import sources
from storage.database import Database

log = structlog.get_logger(__name__)

T = TypeVar("T")

GROUP_REQUESTS_MAX: Final = 256
GROUP_EVENTS_MAX: Final = 10_000
WAITING_MAX: Final = 1_024
REPLICATE_S: Final = 10.0
HEAD_BYTES: Final = 512  # of what is no event, kept to be looked at


class OverloadedError(ClientFault):
    """The node holds as much unfinished work as it may. Field ``retryAfter``, seconds."""

    code = "overloaded"


class IngestionDisabledError(ClientFault):
    code = "ingestion-disabled"


class NotReplicatedError(WorldFault):
    """The batches are on this node's disk, but not on enough others. Field ``batches``: their ids."""

    code = "not-replicated"


class FrontDoor(Protocol):
    """The worker process that parses requests, apart from those that run roles."""

    async def admit(self, call: Callable[[], T]) -> T: ...


@attrs.frozen(kw_only=True)
class IngestLimits:
    """How much the node takes in before it answers 429.

    Attributes:
        bytes_in_flight_max: Bodies being read, parsed or waiting for their commit.
        body_bytes_max: Largest body, once it is not compressed.
        unsettled_max: Events acknowledged or waiting, and not yet certified, invalid or dead.
    """

    enabled: bool = True
    event_bytes_max: int = EVENT_BYTES_MAX
    bytes_in_flight_max: int = 64 * 1024 * 1024
    unsettled_max: int = 100_000
    body_bytes_max: int = REQUEST_BYTES_MAX


class Ingest:
    """Takes requests in, commits them in groups, answers them."""

    def __init__(
        self,
        *,
        network: str,
        limits: IngestLimits,
        database: Database,
        front_door: FrontDoor,
        writer: GroupWriter,
        payloads: BytesCache[str, bytes],
        tell: Callable[[Stimulus], Awaitable[None]],
        replications: Replications,
        holders: Callable[[], tuple[IdentityKey, ...]],
        shortfall: Callable[[Level, int], str],
        on_answer: Callable[[IngestAnswer, float], None] = lambda answer, seconds: None,
    ) -> None:
        """Args:
        holders: Peers that could hold a batch now.
        shortfall: What keeps the network from a level and quorum now; empty if nothing does.
        on_answer: Hears of every request that is committed, with the seconds since its first byte.
        """
        self._network = network
        self._limits = limits
        self._database = database
        self._front_door = front_door
        self._writer = writer
        self._payloads = payloads
        self._tell = tell
        self._replications = replications
        self._holders = holders
        self._shortfall = shortfall
        self._on_answer = on_answer
        self._bytes = 0
        self._unsettled = 0
        self._send, self._receive = trio.open_memory_channel[Pending](WAITING_MAX)

    @property
    def limits(self) -> IngestLimits:
        return self._limits

    @property
    def bytes_in_flight(self) -> int:
        return self._bytes

    @property
    def unsettled(self) -> int:
        """Events taken in that have no end yet."""
        return self._unsettled

    def unsettle(self, events: int) -> None:
        """Count in what an earlier run of the node left unfinished."""
        self._unsettled += events

    def settle(self, events: int) -> None:
        """Count out what was certified, found invalid or buried."""
        self._unsettled = max(0, self._unsettled - events)

    def room(self) -> "Room":
        """Space for one body, taken as its bytes come and given back when the request ends."""
        if not self._limits.enabled:
            raise IngestionDisabledError("EVENT_INGESTION_ENABLED is false on this node")
        self.refuse_if_full()
        return Room(self)

    async def submit(
        self,
        body: bytes,
        *,
        form: RequestEncoding = PLAIN,
        caller: IdentityKey | None = None,
        started_s: float | None = None,
    ) -> IngestAnswer:
        """Take a request in. Returns once it is committed, flushed to disk and known to the driver.

        Args:
            form: How the body says the events.
            caller: Identity that the caller proved, or None.
            started_s: When its first byte was read, by trio's clock.

        Raises:
            ClientFault: Nothing of the request was taken; OverloadedError among them.
            WorldFault: It is not known to be committed: repeat it, a duplicate is harmless.
        """
        started_s = trio.current_time() if started_s is None else started_s
        call = partial(
            admit_form,
            body,
            form,
            network=self._network,
            event_bytes_max=self._limits.event_bytes_max,
            body_bytes_max=self._limits.body_bytes_max,
        )
        admitted: Admitted = await self._front_door.admit(call)
        del body, call  # from here on the columns stand for it
        return await self._submit(admitted, caller=caller, reading=None, started_s=started_s)

    async def submit_read(
        self,
        source_id: str,
        said: Sequence[RawEvent],
        mark: Mapping[str, Any] | None = None,
        *,
        is_proven: bool = False,
    ) -> IngestAnswer:
        """Take in what a source said that this node reads itself, or that proved itself by the source's own secret.

        Args:
            mark: How far the source is read with this; commits with the events.
            is_proven: The source proved itself.

        Raises: as ``submit``.
        """
        started_s = trio.current_time()
        if not self._limits.enabled:
            raise IngestionDisabledError("EVENT_INGESTION_ENABLED is false on this node")
        self.refuse_if_full()
        bytes_max = self._limits.event_bytes_max
        call = partial(admit_read, tuple(said), source_id=source_id, network=self._network, event_bytes_max=bytes_max)
        admitted: Admitted = await self._front_door.admit(call)
        reading = Reading(mark=mark, heads=tuple(each.data[:HEAD_BYTES] for each in said), is_proven=is_proven)
        return await self._submit(admitted, caller=None, reading=reading, started_s=started_s)

    async def remember(self, source_id: str, mark: Mapping[str, Any]) -> None:
        """Write down how far a source is read, where it said nothing."""
        await self._database.run(partial(sources.set_mark, source_id=source_id, value=mark))

    async def _submit(
        self, admitted: Admitted, *, caller: IdentityKey | None, reading: Reading | None, started_s: float
    ) -> IngestAnswer:
        self.refuse_if_full()
        pending = Pending(
            admitted=admitted,
            caller=caller,
            ingestion_id=f"ingest_{secrets.token_hex(16)}",
            started_s=started_s,
            reading=reading,
        )
        self._unsettled += len(admitted.lines)
        try:
            await self._send.send(pending)
        except trio.Cancelled:  # the client left before there was a place in the queue
            self.settle(len(admitted.lines))
            raise
        await pending.done.wait()
        if isinstance(pending.outcome, Exception):
            raise pending.outcome
        assert pending.outcome is not None, "a request that is done has an outcome"
        return await self._replicated(pending.outcome)

    async def _replicated(self, answer: IngestAnswer) -> IngestAnswer:
        """The answer once enough peers hold what it acknowledges, the repeats in it too."""
        wanted = sorted(batch_id for batch_id in answer.batch_ids if self._replications.waits(batch_id))
        if not wanted:
            return answer
        holders_of = await self._replications.wait(wanted, REPLICATE_S)
        if holders_of is None:
            raise NotReplicatedError(
                f"the events are durable on this node, and not on enough others after {REPLICATE_S:.0f} s",
                batches=wanted,
            )
        return attrs.evolve(answer, holders=holders_of)

    async def try_out(self, call: Callable[[], T]) -> T:
        """Run a call beside the requests, in the process that reads them."""
        return await self._front_door.admit(call)

    async def run(self) -> None:
        """Commit group after group until cancelled."""
        async for first in self._receive:
            group = [first]
            events = len(first.admitted.lines)
            if events < GROUP_EVENTS_MAX:
                for pending in islice(waiting(self._receive), GROUP_REQUESTS_MAX - 1):
                    group.append(pending)
                    events += len(pending.admitted.lines)
                    if events >= GROUP_EVENTS_MAX:
                        break
            await self._commit(group)

    def refuse_if_full(self) -> None:
        """Raise OverloadedError while as many events wait for their end as may."""
        if self._unsettled >= self._limits.unsettled_max:
            raise OverloadedError(
                f"{self._unsettled} events wait for their certificates, at most {self._limits.unsettled_max} may",
                retryAfter=2,
            )

    async def _commit(self, group: Sequence[Pending]) -> None:
        """Write a group, hand its batches to the driver, then wake its requests."""
        waiting = sum(len(pending.admitted.lines) for pending in group)
        group_of = Group(requests=group, holders=self._holders())
        work = partial(self._writer.write, group=group_of, now_ms=clock_ms())
        try:
            committed: Committed = await self._database.run(work)
        except WorldFault as fault:
            log.warning("ingest.commit_failed", requests=len(group), why=str(fault))
            self.settle(waiting)
            for pending in group:
                pending.finish(fault)
            return
        taken = sum(batch.manifest.message.events for batch in committed.batches)
        self.settle(waiting - taken)
        await self._hand_over(committed)
        for pending, decision in zip(group, committed.decisions, strict=True):
            if isinstance(decision, Decision):
                shortfall = self._shortfall(decision.terms.level, decision.terms.quorum)
                answer = _answer(pending, decision, committed, shortfall)
                pending.finish(answer)
                self._on_answer(answer, trio.current_time() - pending.started_s)
            else:
                pending.finish(decision)

    async def _hand_over(self, committed: Committed) -> None:
        for batch in committed.batches:
            self._payloads.put(batch.manifest.message.batch_id, batch.packed)
            if batch.holders:
                self._replications.expect(batch.manifest.message.batch_id)
        for batch in committed.batches:
            stimulus = BatchCommitted(
                now_ms=clock_ms(), manifest=batch.manifest, stateful=batch.stateful, holders=batch.holders
            )
            await self._tell(stimulus)


def _answer(pending: Pending, decision: Decision, committed: Committed, shortfall: str) -> IngestAnswer:
    return IngestAnswer(
        ingestion_id=pending.ingestion_id,
        admitted=pending.admitted,
        sorted=decision.sorted,
        terms=decision.terms,
        manifests=tuple(batch.manifest for batch in committed.batches),
        record_hashes=tuple(batch.record_hashes for batch in committed.batches),
        known_jobs=committed.known_jobs,
        committed_ms=clock_ms(),
        source_verified=decision.source_verified,
        identity_score=decision.identity_score,
        latency_ms=round((trio.current_time() - pending.started_s) * 1000),
        shortfall=shortfall,
    )


class Room:
    """Bytes of one body, counted while they are in memory."""

    def __init__(self, ingest: Ingest) -> None:
        self._ingest = ingest
        self._taken = 0

    def __enter__(self) -> "Room":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ingest._bytes -= self._taken

    def take(self, count: int) -> None:
        """Count ``count`` more bytes in.

        Raises:
            OverloadedError: They do not fit.
        """
        bound = self._ingest._limits.bytes_in_flight_max
        if self._ingest._bytes + count > bound:
            raise OverloadedError(f"bodies of {bound} bytes in all are under way already", retryAfter=1)
        self._ingest._bytes += count
        self._taken += count

    def moved(self) -> "Room":
        """The same bytes, counted for whoever outlives this one."""
        other = Room(self._ingest)
        other._taken, self._taken = self._taken, 0
        return other

    def hold(self, count: int) -> None:
        """Have ``count`` bytes counted in, instead of as many as before.

        Raises:
            OverloadedError: More do not fit; it is as it was.
        """
        if count > self._taken:
            self.take(count - self._taken)
        else:
            self._ingest._bytes -= self._taken - count
            self._taken = count

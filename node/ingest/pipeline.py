"""The one way in: bytes to committed batches, whatever the source.

A request is parsed in a worker process; then a single committer takes everything that waits as one group: one
thread, one transaction, one flush to disk for all of it. Only then are the requests answered and does the driver get
the batches. So the commit rate follows the disk, and the batch size follows the load.

A commit that the database holds up goes on, and its requests are answered meanwhile: their outcome is not known.
Those that come while it lasts are refused. A group that the database refuses is committed in halves, so that one
request does not cost the others.

Where the policy of a request's source has level rules, the commit finds that out and gives the request back; its
events' levels are evaluated in a worker process, and it is queued again with them. The next request of that source
has its levels evaluated first.
"""

import secrets
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

import attrs
import structlog
import trio

from node.ingest.admission_control import AdmissionControl, IngestLimits
from node.ingest.backlog import Backlog, Reservation
from node.ingest.batch_rows import CommittedBatch
from node.ingest.coalescing import Coalescer
from node.ingest.commit_watch import CommitWatch
from node.ingest.group_commit import Committed, GroupWriter, Outcome, RequestGroup
from node.ingest.rejections import HEAD_BYTES, record_refused
from node.ingest.replication import Replications
from node.ingest.request_hints import source_of
from node.ingest.requests import EventLevels, LevelsNeeded, QueuedRequest, SourceRead
from node.ingest.responses import IngestAnswer
from node.runtime.caches import BytesCache
from node.runtime.channels import waiting
from node.runtime.clock import clock_ms
from node.runtime.containment import Failure, Quarantine
from node.runtime.event_levels import event_levels
from node.runtime.fair_share import OWN_ACCOUNT, Account
from node.worker.parsing.admission import Admitted
from node.worker.parsing.bodies import PLAIN, RawEvent, RequestEncoding, admit_form, admit_read
from node.worker.parsing.unpacking import usual_size
from protocols.errors import OverlayError, WorldFault
from protocols.messages import IdentityKey, Level
from storage import sources
from storage.database import Database
from storage.errors import DatabaseUnavailableError, StatementError, StorageRefusedError

if TYPE_CHECKING:
    from psycopg import Connection

log = structlog.get_logger(__name__)

T = TypeVar("T")

GROUP_REQUESTS_MAX: Final = 256
GROUP_EVENTS_MAX: Final = 10_000
WAITING_MAX: Final = 1_024
REPLICATE_S: Final = 10.0
LEVEL_POLICIES_BYTES_MAX: Final = 8 * 1024 * 1024
LEVEL_ROUNDS_MAX: Final = 4  # each but the first for a policy that the source was given meanwhile


REFUSED_REMEDY: Final = "leave out what the database cannot store"
FAILED_REMEDY: Final = "report the fault with the node's log; the source goes on without this event"


class NotReplicatedError(WorldFault):
    """The batches are on this node's disk, but not on enough others. Field ``batches``: their ids."""

    code = "not-replicated"


class RequestFailedError(OverlayError):
    """A request reached a bug of this node; the others of its group were committed."""

    code = "internal"


def _payer(account: Account) -> str | None:
    """In whose share events count; None for accounts that stand for many others, or for the node's operator."""
    return account.name if account.is_metered else None


def account_of(source_id: str) -> Account:
    """A source that this node reads: its operator wants it read, however much there is."""
    return Account(name=f"source {source_id}", is_metered=False)


class IngestWorkers(Protocol):
    """Worker processes that parse requests and evaluate level rules, apart from those that run roles."""

    async def admit(self, call: Callable[[], T], *, account: Account = OWN_ACCOUNT, size: int | None = None) -> T: ...

    async def decide_levels(self, call: Callable[[], T]) -> T: ...


class Ingest:
    """Takes requests in, commits them in groups, answers them.

    Attributes:
        admission: How much is under way, and how much may be.
    """

    def __init__(
        self,
        *,
        network: str,
        limits: IngestLimits,
        database: Database,
        workers: IngestWorkers,
        writer: GroupWriter,
        coalescer: Coalescer,
        replications: Replications,
        holders: Callable[[], tuple[IdentityKey, ...]],
        shortfall: Callable[[Level, int], str],
        on_answer: Callable[[IngestAnswer, float], None] = lambda answer, seconds: None,
        quarantine: Quarantine | None = None,
    ) -> None:
        """Args:
        coalescer: Takes the batches that were committed.
        holders: Peers that could hold a batch now.
        shortfall: What keeps the network from a level and quorum now; empty if nothing does.
        on_answer: Called for every request that is committed, with the seconds since its first byte.
        quarantine: Counts the requests that reach a bug.
        """
        self._network = network
        backlog = Backlog(limits.of_backlog, shortfall=shortfall, is_held_up=coalescer.is_held_up)
        coalescer.is_pressed = lambda: backlog.is_late
        self.admission = AdmissionControl(limits, backlog)
        self._database = database
        self._workers = workers
        self._writer = writer
        self._coalescer = coalescer
        self._replications = replications
        self._holders = holders
        self._shortfall = shortfall
        self._on_answer = on_answer
        self._quarantine = quarantine or Quarantine()
        self._level_policies = BytesCache[str, tuple[bytes, bytes]](LEVEL_POLICIES_BYTES_MAX)  # hash, document
        self._send, self._receive = trio.open_memory_channel[QueuedRequest](WAITING_MAX)
        self._watch = CommitWatch(database, self._refuse_waiting)

    async def submit(
        self,
        body: bytes,
        *,
        form: RequestEncoding = PLAIN,
        caller: IdentityKey | None = None,
        account: Account = OWN_ACCOUNT,
        started_s: float | None = None,
    ) -> IngestAnswer:
        """Take a request in. Returns once it is committed, flushed to disk and given to the driver.

        Args:
            form: How the body is encoded and shaped.
            caller: Identity that the caller proved, or None.
            account: Whom the body is parsed for.
            started_s: When its first byte was read, by trio's clock.

        Raises:
            ClientFault: Nothing of the request was taken; OverloadedError among them.
            WorldFault: It is not known to be committed: repeat it, a duplicate is harmless.
        """
        started_s = trio.current_time() if started_s is None else started_s
        limits = self.admission.limits
        call = partial(
            admit_form,
            body,
            form,
            network=self._network,
            event_bytes_max=limits.event_bytes_max,
            body_bytes_max=limits.body_bytes_max,
        )
        size = usual_size(body, form.coding)
        self.admission.refuse_unless_open()
        backlog = self.admission.backlog
        source_id = source_of(body, form)
        events = backlog.sizes.estimate(size, source_id)
        with closing(backlog.reserve(events, source_id=source_id, caller=_payer(account))) as room:
            admitted: Admitted = await self._workers.admit(call, account=account, size=size)
            del body, call  # from here on the columns stand for it
            backlog.sizes.learn(size, admitted.source_id, len(admitted.lines))
            return await self._take_in(admitted, room, caller=caller, read=None, started_s=started_s)

    async def submit_read(
        self,
        source_id: str,
        events: Sequence[RawEvent],
        mark: Mapping[str, Any] | None = None,
        *,
        is_proven: bool = False,
        account: Account | None = None,
    ) -> IngestAnswer:
        """Take in events of a source that this node reads itself, or that proved itself by its own secret.

        Args:
            mark: How far the source is read with this; commits with the events.
            is_proven: The source proved itself.
            account: Whom the events are parsed for; None: the source, which the operator chose.

        Raises: as ``submit``.
        """
        started_s = trio.current_time()
        account = account or account_of(source_id)
        self.admission.refuse_unless_open()
        bytes_max = self.admission.limits.event_bytes_max
        call = partial(
            admit_read, tuple(events), source_id=source_id, network=self._network, event_bytes_max=bytes_max
        )
        size = sum(len(each.data) for each in events)
        with closing(
            self.admission.backlog.reserve(len(events), source_id=source_id, caller=_payer(account))
        ) as room:
            admitted: Admitted = await self._workers.admit(call, account=account, size=size)
            read = SourceRead(mark=mark, heads=tuple(each.data[:HEAD_BYTES] for each in events), is_proven=is_proven)
            return await self._take_in(admitted, room, caller=None, read=read, started_s=started_s)

    async def remember(self, source_id: str, mark: Mapping[str, Any]) -> None:
        """Write down how far a source is read, where it sent no events."""
        await self._database.run(partial(sources.set_mark, source_id=source_id, value=mark))

    async def reject(
        self, source_id: str, event: RawEvent, fault: OverlayError, mark: Mapping[str, Any] | None
    ) -> None:
        """Write down an event of a source that ``submit_read`` refused, with the position after it."""
        remedy = FAILED_REMEDY if isinstance(fault, RequestFailedError) else REFUSED_REMEDY
        refuse = partial(
            record_refused, source_id=source_id, event=event, reason=str(fault), remedy=remedy, mark=mark
        )
        await self._database.run(refuse)

    async def run_beside(self, call: Callable[[], T], *, account: Account, size: int | None = None) -> T:
        """Run a call where requests are parsed; ``size`` in bytes of what it parses, None for what needs the most."""
        return await self._workers.admit(call, account=account, size=size)

    @property
    def trouble(self) -> DatabaseUnavailableError | StatementError | None:
        """What holds commits up, or made the last one fail a moment ago."""
        return self._watch.trouble

    async def run(self) -> None:
        """Commit group after group until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch.run)
            await self._run()

    async def _run(self) -> None:
        async for first in self._receive:
            group = [first]
            events = len(first.admitted.lines)
            if events < GROUP_EVENTS_MAX:
                for request in islice(waiting(self._receive), GROUP_REQUESTS_MAX - 1):
                    group.append(request)
                    events += len(request.admitted.lines)
                    if events >= GROUP_EVENTS_MAX:
                        break
            await self._commit(group)

    # --- a request's way -------------------------------------------------------------------------------------

    async def _take_in(
        self,
        admitted: Admitted,
        room: Reservation,
        *,
        caller: IdentityKey | None,
        read: SourceRead | None,
        started_s: float,
    ) -> IngestAnswer:
        room.settle(admitted.source_id, len(admitted.lines))
        self._watch.refuse_if_held_up()
        self._database.reserve.refuse_if_low()
        request = QueuedRequest(
            admitted=admitted,
            room=room,
            caller=caller,
            ingestion_id=f"ingest_{secrets.token_hex(16)}",
            started_s=started_s,
            read=read,
        )
        expected = self._level_policies.get(admitted.source_id)
        needed = None if expected is None else LevelsNeeded(policy_hash=expected[0], policy=expected[1])
        for _ in range(LEVEL_ROUNDS_MAX):
            if needed is not None:
                request = request.with_levels(await self._evaluate_levels(needed, admitted))
            outcome = await self._commit_one(request)
            if not isinstance(outcome, LevelsNeeded):
                if request.levels is not None and request.levels.policy_hash != outcome.terms.policy_hash:
                    self._level_policies.drop(admitted.source_id)  # its policy now needs no levels
                return await self._replicated(outcome)
            needed = outcome
            self._level_policies.put(admitted.source_id, (needed.policy_hash, needed.policy))
        raise WorldFault(
            f"the policy of the source {admitted.source_id!r} changed while the request was taken in; send it again"
        )

    async def _evaluate_levels(self, needed: LevelsNeeded, admitted: Admitted) -> EventLevels:
        levels = await event_levels(self._workers, needed.policy, admitted.lines)
        return EventLevels(policy_hash=needed.policy_hash, levels=levels)

    async def _commit_one(self, request: QueuedRequest) -> IngestAnswer | LevelsNeeded:
        """Queue a request and wait for its commit; raises its refusal."""
        await self._send.send(request)
        await request.done.wait()
        if isinstance(request.outcome, Exception):
            raise request.outcome
        assert request.outcome is not None, "a request that is done has an outcome"
        return request.outcome

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

    # --- a group's way ---------------------------------------------------------------------------------------

    async def _commit(self, requests: Sequence[QueuedRequest]) -> None:
        """Write a group, give its batches to the driver, then wake its requests."""
        group = RequestGroup(requests=requests, holders=self._holders())
        write = partial(self._writer.write, group=group, now_ms=clock_ms())
        try:
            committed = await self._write(requests, write)
        except (StorageRefusedError, RequestFailedError, WorldFault) as fault:
            failure: OverlayError = fault.anew()
        else:
            await self._finish(requests, committed)
            return
        if len(requests) == 1 or isinstance(failure, WorldFault):
            self._refuse(requests, failure)
            return
        middle = len(requests) // 2  # not while the error is handled: those of the halves would drag it along
        await self._commit(requests[:middle])
        await self._commit(requests[middle:])

    async def _finish(self, requests: Sequence[QueuedRequest], committed: Committed) -> None:
        """Count what was committed, give the batches to the driver, and answer the requests."""
        callers = _callers(requests, committed)
        for request, outcome in zip(requests, committed.outcomes, strict=True):
            if isinstance(outcome, Outcome):
                request.room.close()
        for number, batch in enumerate(committed.batches):
            self.admission.backlog.enter_of(batch.manifest.message, callers.get(number))
        await self._hand_over(committed.batches)
        for request, outcome in zip(requests, committed.outcomes, strict=True):
            if isinstance(outcome, Outcome):
                answer = self._answer(request, outcome, committed)
                request.finish(answer)
                self._on_answer(answer, trio.current_time() - request.started_s)
            else:
                request.finish(outcome)

    async def _write(
        self, requests: Sequence[QueuedRequest], write: "Callable[[Connection], Committed]"
    ) -> Committed:
        """Raises:
        StorageRefusedError: The database cannot hold something of the group.
        RequestFailedError: Something of the group reaches a bug.
        WorldFault: The group is not known to be committed.
        """
        failures: list[Failure] = []
        first = requests[0].admitted
        item = "record", first.source_id, first.lines[0] if first.lines else b""
        try:
            with self._quarantine.contain(*item, failures.append):
                return await self._watch.commit(requests, write)
        except StatementError as fault:
            self._quarantine.keep(*item, fault, failures.append)
        raise RequestFailedError(f"the node failed over the request ({failures[0].error}); the failure is logged")

    def _refuse(self, requests: Sequence[QueuedRequest], fault: OverlayError) -> None:
        """Answer requests that are not known to be committed."""
        log.warning("ingest.commit_failed", requests=len(requests), reason=str(fault))
        for request in requests:
            request.finish(fault.anew())

    def _refuse_waiting(self, fault: OverlayError) -> None:
        """Answer those who wait behind a commit that is held up: nothing of them was written."""
        behind = list(waiting(self._receive))
        if behind:
            self._refuse(behind, fault)

    async def _hand_over(self, batches: Sequence[CommittedBatch]) -> None:
        for batch in batches:
            if batch.holders:
                self._replications.expect(batch.batch_id)
        await self._coalescer.take(batches)

    def _answer(self, request: QueuedRequest, outcome: Outcome, committed: Committed) -> IngestAnswer:
        answer = IngestAnswer(
            ingestion_id=request.ingestion_id,
            admitted=request.admitted,
            classification=outcome.classification,
            terms=outcome.terms,
            manifests=tuple(batch.manifest for batch in committed.batches),
            record_hashes=tuple(batch.record_hashes for batch in committed.batches),
            known_jobs=committed.known_jobs,
            committed_ms=clock_ms(),
            source_verified=outcome.source_verified,
            identity_score=outcome.identity_score,
            latency_ms=round((trio.current_time() - request.started_s) * 1000),
        )
        shortfalls = (self._shortfall(level, quorum) for level, quorum in answer.batch_levels)
        return attrs.evolve(answer, shortfall=next(filter(None, shortfalls), ""))


def _callers(requests: Sequence[QueuedRequest], committed: Committed) -> dict[int, Counter[str]]:
    """The events of each caller in each batch, by the batch's number; events without a caller are left out."""
    counts: dict[int, Counter[str]] = {}
    for request, outcome in zip(requests, committed.outcomes, strict=True):
        if request.room.caller is None or not isinstance(outcome, Outcome):
            continue
        for draft, events in Counter(outcome.classification.drafts).items():
            if draft >= 0:
                counts.setdefault(draft, Counter())[request.room.caller] += events
    return counts

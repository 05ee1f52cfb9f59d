"""Finds the events of a dead batch that end every worker, by bisection.

Those become a dead batch of their own, which can be replayed once the cause is mended; the others become a batch that
is processed like any other; and the batch they came in is ``split``.
"""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final

import attrs
import structlog
import trio

from agents.memory import EMPTY_CONTEXT
from node.ingest.batch_rows import CommittedBatch
from node.ingest.batch_split import BatchSplit, BatchSplitter
from node.network.content_exchange import ContentExchange
from node.runtime.clock import clock_ms
from node.runtime.workers import WorkerCrashedError, Workers, WorkerTimeoutError
from node.worker import compute
from protocols.errors import OverlayError, WorldFault
from protocols.messages import Manifest
from protocols.stimuli import BatchCommitted, Stimulus
from storage import batches
from storage.database import Database

log = structlog.get_logger(__name__)

QUEUE_MAX: Final = 1_024
PROBES_MAX: Final = 128  # runs of parts of one batch: several bad events among 500 take as many
PROBE_S_MIN: Final = 2.0


class Bisection:
    """Examines every batch that died on this node, one after the other."""

    def __init__(
        self,
        *,
        database: Database,
        network: str,
        workers: Workers,
        splitter: BatchSplitter,
        contents: ContentExchange,
        submit: Callable[[Stimulus], Awaitable[None]],
        enter: Callable[[Manifest], None],
        timeout_s: float,
    ) -> None:
        """Args:
        submit: Gives a stimulus to the driver.
        enter: Counts a batch in that waits for its end.
        timeout_s: What the roles may take over a whole batch.
        """
        self._network = network
        self._database = database
        self._workers = workers
        self._splitter = splitter
        self._contents = contents
        self._submit = submit
        self._enter = enter
        self._timeout_s = timeout_s
        self._send, self._receive = trio.open_memory_channel[str](QUEUE_MAX)

    def enqueue(self, batch_id: str) -> None:
        """Queue a dead batch. Where ``QUEUE_MAX`` wait already it stays dead as a whole."""
        try:
            self._send.send_nowait(batch_id)
        except trio.WouldBlock:
            log.warning("bisection.queue_full", batch=batch_id)

    async def run(self) -> None:
        """Examine batch after batch until cancelled."""
        async for batch_id in self._receive:
            try:
                await self._examine(batch_id)
            except WorldFault as fault:
                log.warning("bisection.failed", batch=batch_id, reason=str(fault))

    async def _examine(self, batch_id: str) -> None:
        row = await self._database.run(partial(batches.get, batch_id=batch_id))
        packed = await self._database.run(partial(batches.payload, batch_id=batch_id))
        if row is None or packed is None or row.state != "dead":
            return
        policy = await self._contents.policy(row.policy_hash, self._contents.identity)
        if policy is None:
            return
        lines = compute.unpack(packed).split(b"\n")
        search = Search(probe=partial(self._ends_workers, row.source_id, policy, len(lines)), left=PROBES_MAX)
        bad = await search.bad(lines, 0) if len(lines) > 1 else []
        if not bad or search.left <= 0:
            return
        split = partial(self._splitter.split, batch_id=batch_id, bad=frozenset(bad), now_ms=clock_ms())
        found = await self._database.run(split)
        if found is not None:
            await self._resume(batch_id, found)

    async def _resume(self, batch_id: str, split: BatchSplit) -> None:
        """Have the part without the bad events processed."""
        log.warning("batch.split", batch=batch_id, dead=split.dead, events=split.bad, rest=split.rest_id)
        if split.rest is not None:
            self._enter(split.rest.manifest.message)
            await self._submit(_committed(split.rest))

    async def _ends_workers(self, source_id: str, policy: bytes, whole: int, lines: Sequence[bytes]) -> bool:
        """Whether the roles over these records end their worker, or take far longer than their share of the time.

        A single record gets the time of the whole batch: what is found here stays dead, and on a busy machine the
        start of a worker alone may take longer than a share.
        """
        share = 1.0 if len(lines) == 1 else len(lines) / whole
        call = partial(
            compute.run_roles,
            network=self._network,
            source_id=source_id,
            packed=compute.pack(b"\n".join(lines)),
            policy=policy,
            context=EMPTY_CONTEXT,
            keep_outputs=False,
        )
        try:
            await self._workers.probe(call, max(PROBE_S_MIN, self._timeout_s * share))
        except (WorkerCrashedError, WorkerTimeoutError):
            return True
        except OverlayError:  # an error that the roles report is no reason to split the batch
            return False
        return False


@attrs.define
class Search:
    """Halves, and halves of those that are bad, with a bound on the runs.

    Attributes:
        probe: Whether records are bad together.
        left: Probes that may still be run. At 0 or less after a search its result may be incomplete.
    """

    probe: Callable[[Sequence[bytes]], Awaitable[bool]]
    left: int

    async def bad(self, lines: Sequence[bytes], start: int) -> list[int]:
        """The positions of the records that are bad by themselves, ascending; the first record is at ``start``."""
        self.left -= 1
        if self.left < 0 or not await self.probe(lines):
            return []
        if len(lines) == 1:
            return [start]
        half = len(lines) // 2
        return await self.bad(lines[:half], start) + await self.bad(lines[half:], start + half)


def _committed(batch: CommittedBatch) -> BatchCommitted:
    return BatchCommitted(
        now_ms=clock_ms(),
        manifest=batch.manifest,
        stateful=batch.stateful,
        holders=batch.holders,
        payload_bytes=len(batch.packed),
    )

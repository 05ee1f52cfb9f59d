"""Makes one batch of several that wait: their records in order, under a manifest of its own."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import attrs

from node.coordination.serialization import read_manifest
from node.ingest.batch_rows import BatchSigner, CommittedBatch
from node.ingest.batching import BATCH_BYTES_MAX, Draft, Terms
from node.worker.compute import unpack
from protocols.identifiers import record_hash
from protocols.limits import EVENTS_PER_BATCH_MAX
from protocols.messages import Manifest
from storage import merging
from storage.merging import Part, Whole

if TYPE_CHECKING:
    from psycopg import Connection


@attrs.frozen(kw_only=True)
class Merge:
    """What became of batches that were to be merged.

    Attributes:
        batch: The whole; None where one alone of them waits still, or none.
        taken: The batches that went into it, in order. The others follow.
        waiting: Those that wait, the ones taken included; the rest ended meanwhile, or were merged before.
    """

    batch: CommittedBatch | None
    taken: tuple[str, ...]
    waiting: tuple[str, ...]


class BatchMerger:
    """Merges batches of this node's own of equal terms. Its ``merge`` runs on a database thread."""

    def __init__(self, network: str, signer: BatchSigner) -> None:
        self._network = network
        self._signer = signer

    def merge(self, connection: "Connection", *, first: bytes, stateful: bool, batch_ids: Sequence[str]) -> Merge:
        """Merge as many as fit in one batch, from the first one on.

        Args:
            first: The stored manifest of one of them: their terms are equal.
        """
        parts = merging.lock_parts(connection, batch_ids)
        if not parts or parts[0].batch_id != batch_ids[0]:
            done = merging.find_merged(connection, batch_ids[0])
            if done is not None:
                return self._again(done, stateful=stateful)
        waiting = tuple(part.batch_id for part in parts)
        chosen, lines = _that_fit(parts)
        if len(chosen) < 2:
            return Merge(batch=None, taken=(), waiting=waiting)
        manifest = read_manifest(first, self._network).message
        number = chosen[-1].source_sequence  # what came after the parts stays after the whole
        draft = _draft(manifest, lines, stateful=stateful)
        batch, row = self._signer.make(draft, number, min(part.received_ms for part in chosen))
        merging.insert_merged(connection, row, chosen)
        return Merge(batch=batch, taken=tuple(part.batch_id for part in chosen), waiting=waiting)

    def _again(self, done: Whole, *, stateful: bool) -> Merge:
        """What was merged before: its commit was not answered."""
        batch = CommittedBatch(
            manifest=read_manifest(done.manifest, self._network),
            stateful=stateful,
            packed=done.payload,
            record_hashes=tuple(bytes.fromhex(record_hash(line)) for line in unpack(done.payload).split(b"\n")),
        )
        return Merge(batch=batch, taken=tuple(done.parts), waiting=tuple(done.parts))


def _that_fit(parts: Sequence[Part]) -> tuple[list[Part], list[bytes]]:
    """The first parts that make at most one batch, and their records."""
    chosen: list[Part] = []
    lines: list[bytes] = []
    size = 0
    for part in parts:
        records = unpack(part.payload)
        size += len(records) + 1
        if chosen and (len(lines) + part.events > EVENTS_PER_BATCH_MAX or size > BATCH_BYTES_MAX):
            break
        chosen.append(part)
        lines += records.split(b"\n")
    return chosen, lines


def _draft(manifest: Manifest, lines: list[bytes], *, stateful: bool) -> Draft:
    terms = Terms(
        source_id=manifest.source_id,
        policy_hash=manifest.policy_hash,
        level=manifest.level,
        quorum=manifest.quorum,
        topics=manifest.topics,
        stateful=stateful,
        on_conflict="version",
    )
    # ids and versions stand in the index already, and move with it
    return Draft(
        terms=terms,
        event_ids=[""] * len(lines),
        lines=lines,
        hashes=[record_hash(line) for line in lines],
        versions=[1] * len(lines),
    )

"""Takes a dead batch apart: the events that end every worker stay dead, the others wait for agents again."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import attrs

from node.coordination.serialization import read_manifest
from node.ingest.batch_rows import BatchSigner, CommittedBatch
from node.ingest.batching import Draft, Terms
from node.worker.compute import unpack
from storage import batches, sources
from storage.rows import DeadBatch, IndexRow

if TYPE_CHECKING:
    from psycopg import Connection


@attrs.frozen(kw_only=True)
class BatchSplit:
    """What a dead batch was split into.

    Attributes:
        dead: Id of the batch of the bad events; empty where all of them stand in other batches by now.
        bad: Number of its events.
        rest: The batch that goes on; None where no event is left for it, its id then empty.
    """

    dead: str
    bad: int
    rest: CommittedBatch | None
    rest_id: str


class BatchSplitter:
    """Splits batches of this node's own. Its ``split`` runs on a database thread."""

    def __init__(self, network: str, signer: BatchSigner) -> None:
        self._network = network
        self._signer = signer

    def split(
        self, connection: "Connection", *, batch_id: str, bad: frozenset[int], now_ms: int
    ) -> BatchSplit | None:
        """Split a dead batch into the events at the positions ``bad`` and the others. None where it is not dead any
        more, or another node's.
        """
        found = batches.dead_to_split(connection, batch_id)
        if found is None:
            return None
        lines = unpack(found.payload).split(b"\n")
        terms = self._terms(found)
        # an event that stands in another batch by now has no row here
        bad_rows = [row for row in found.index if row.position in bad]
        good_rows = [row for row in found.index if row.position not in bad]
        dead = self._insert_part(connection, found, _draft(terms, bad_rows, lines), bad_rows, now_ms)
        rest = self._insert_part(connection, found, _draft(terms, good_rows, lines), good_rows, now_ms)
        dead_id = "" if dead is None else dead.batch_id
        rest_id = "" if rest is None else rest.batch_id
        reason = f"{len(bad)} of its events end every worker: {dead_id}; the others are {rest_id}"
        batches.finish_split(connection, batch_id, dead_id, rest_id, [*found.reasons, reason])
        return BatchSplit(dead=dead_id, bad=len(bad_rows), rest=rest, rest_id=rest_id)

    def _terms(self, found: DeadBatch) -> Terms:
        manifest = read_manifest(found.manifest, self._network).message
        return Terms(
            source_id=manifest.source_id,
            policy_hash=manifest.policy_hash,
            level=manifest.level,
            quorum=manifest.quorum,
            topics=manifest.topics,
            stateful=found.stateful,
            on_conflict="version",
        )

    def _insert_part(
        self,
        connection: "Connection",
        whole: DeadBatch,
        draft: Draft,
        rows: Sequence[IndexRow],
        now_ms: int,
    ) -> CommittedBatch | None:
        if not rows:
            return None
        number = sources.take_sequences(connection, draft.terms.source_id, 1)
        batch, row = self._signer.make(draft, number, now_ms)
        batches.insert_part(connection, row, whole.number, [each.position for each in rows])
        return batch


def _draft(terms: Terms, rows: Sequence[IndexRow], lines: Sequence[bytes]) -> Draft:
    return Draft(
        terms=terms,
        event_ids=[row.event_id for row in rows],
        lines=[lines[row.position] for row in rows],
        hashes=[row.record_hash for row in rows],
        versions=[row.version for row in rows],
    )

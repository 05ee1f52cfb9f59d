"""From drafts to durable batches: numbered, with a root and a signed manifest, laid out as rows."""

from typing import Final

import attrs

from node.coordination.serialization import manifest_bytes
from node.ingest.batching import Draft
from node.worker.compute import pack
from protocols.envelope import Signer, sign
from protocols.merkle import root_of_leaves
from protocols.messages import IdentityKey, Manifest, Signed
from storage.rows import NewBatch

LOCAL: Final = "local"
REPLICATED: Final = "replicated"


@attrs.frozen(kw_only=True)
class CommittedBatch:
    """A durable batch: what the driver is given, and its payload as the agents will get it.

    ``versioned``: it holds later versions of events.
    """

    manifest: Signed[Manifest]
    stateful: bool
    packed: bytes
    record_hashes: tuple[bytes, ...]
    holders: tuple[IdentityKey, ...] = ()
    versioned: bool = False

    @property
    def batch_id(self) -> str:
        return self.manifest.message.batch_id


class BatchSigner:
    """Makes batches of this node's own."""

    def __init__(self, network: str, signer: Signer) -> None:
        self._network = network
        self._signer = signer

    def make(
        self, draft: Draft, number: int, now_ms: int, holders: tuple[IdentityKey, ...] = ()
    ) -> tuple[CommittedBatch, NewBatch]:
        """A batch of a draft, and its row.

        Args:
            number: Its place among the batches of its source.
            holders: Peers that could hold it, where it is to be replicated.
        """
        terms = draft.terms
        holders = holders if terms.replicated else ()
        hashes = tuple(bytes.fromhex(digest) for digest in draft.hashes)
        manifest = Manifest(
            network=self._network,
            coordinator=self._signer.identity,
            source_id=terms.source_id,
            source_sequence=number,
            policy_hash=terms.policy_hash,
            level=terms.level,
            quorum=terms.quorum,
            input_root=root_of_leaves(hashes),
            events=len(draft.lines),
            topics=terms.topics,
            durability=REPLICATED if terms.replicated else LOCAL,
            received_ms=now_ms,
        )
        signed = sign(self._signer, manifest)
        packed = pack(b"\n".join(draft.lines))
        row = NewBatch(
            batch_id=manifest.batch_id,
            source_id=terms.source_id,
            source_sequence=number,
            policy_hash=terms.policy_hash,
            level=int(terms.level),
            quorum=terms.quorum,
            stateful=terms.stateful,
            topics=list(terms.topics),
            manifest=manifest_bytes(signed),
            payload=packed,
            received_ms=now_ms,
            event_ids=draft.event_ids,
            record_hashes=draft.hashes,
            versions=draft.versions,
            holders=holders,
        )
        batch = CommittedBatch(
            manifest=signed,
            stateful=terms.stateful,
            packed=packed,
            record_hashes=hashes,
            holders=holders,
            versioned=any(version > 1 for version in draft.versions),
        )
        return batch, row

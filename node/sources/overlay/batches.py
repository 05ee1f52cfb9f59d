"""From entries of the log of certificates to events: what is wanted is fetched from peers, checked and read."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import attrs
import trio

from node.network.certificate_log import CertificateLog
from node.network.remote_batches import BatchUnavailableError, RemoteBatches
from node.runtime.topic_patterns import Patterns
from node.sources.intake import SourceIntake
from node.sources.overlay.waiting import BEHIND, SourceOfNode
from node.sources.settings.overlay import OverlaySourceSettings
from node.worker.parsing.bodies import RawEvent
from node.worker.parsing.foreign_events import (
    BatchSelection,
    UnreadableBatchError,
    chain_of,
    choose,
    manifest_problem,
    read_events,
)
from protocols.messages import IdentityKey, Manifest, QuorumCertificate
from storage import events
from storage.certificate_log import LogEntry
from storage.database import Database

STATUSES: Final = {"valid": ("valid",), "invalid": ("invalid",), "all": ("valid", "invalid")}


@attrs.frozen(kw_only=True)
class BatchOutcome:
    """What came of an entry of the log.

    Attributes:
        source: Of the batch; None where its certificate is not wanted, or does not hold.
        events: Empty as well for a batch that the source does not want.
        reason: Why its events are not here; empty where they are.
        is_final: Asking again will not help.
    """

    entry: LogEntry
    source: SourceOfNode | None = None
    events: Sequence[RawEvent] = ()
    reason: str = ""
    is_final: bool = False


@attrs.frozen(kw_only=True)
class NodeParts:
    """The parts of the node that reading needs; the same for all sources of this type."""

    network: str
    identity: IdentityKey
    database: Database
    certificates: CertificateLog
    batches: RemoteBatches


class BatchReader:
    """Reads the batches that one source wants."""

    def __init__(
        self,
        node: NodeParts,
        intake: SourceIntake,
        settings: OverlaySourceSettings,
        topics: Patterns,
        is_behind: Callable[[SourceOfNode, int], bool],
    ) -> None:
        """``is_behind``: whether a batch has to wait for an earlier one of its source: it is not fetched then."""
        self._node = node
        self._intake = intake
        self._include_reference = settings.include_reference
        self._topics = topics
        self._is_behind = is_behind
        self._selection = BatchSelection(
            network=node.network,
            reader=node.identity,
            coordinators=settings.coordinator_keys,
            source_ids=frozenset(settings.source_ids),
            level=settings.level,
            statuses=frozenset(STATUSES[settings.status]),
        )

    async def read(self, entries: Sequence[LogEntry]) -> list[BatchOutcome]:
        """What comes of entries, in their order; those that have to be fetched are fetched at the same time."""
        encoded = [entry.certificate for entry in entries]
        chosen = await self._intake.compute(partial(choose, encoded, self._selection), sum(map(len, encoded)))
        wanted = [certificate.statement for certificate, _ in chosen if certificate is not None]
        manifests = await self._node.batches.manifests(wanted) if wanted else {}
        outcomes = [
            BatchOutcome(entry=entry, reason=problem, is_final=True)
            for entry, (_, problem) in zip(entries, chosen, strict=True)
        ]

        async def read_one(at: int, certificate: QuorumCertificate) -> None:
            manifest = manifests.get(certificate.statement.batch_id)
            outcomes[at] = await self._read(entries[at], certificate, manifest)

        async with trio.open_nursery() as nursery:
            for at, (certificate, _) in enumerate(chosen):
                if certificate is not None:
                    nursery.start_soon(read_one, at, certificate)
        return outcomes

    async def _read(self, entry: LogEntry, certificate: QuorumCertificate, manifest: Manifest | None) -> BatchOutcome:
        statement = certificate.statement
        source = statement.coordinator, statement.source_id
        outcome = partial(BatchOutcome, entry=entry, source=source)
        if self._is_behind(source, entry.number):
            return outcome(reason=BEHIND)
        if manifest is None:
            return outcome(reason="none of the peers asked has its manifest")
        problem = manifest_problem(manifest, statement)
        if problem:
            return outcome(reason=problem, is_final=True)
        if not self._topics.allow_any(manifest.topics):
            return outcome()
        if not self._trusts(certificate):
            return outcome(reason="its certificate is signed by a node that is not known here")
        call = partial(
            read_events,
            encoded=entry.certificate,
            selection=self._selection,
            include_reference=self._include_reference,
        )
        try:
            found = await self._node.batches.read(certificate, call)
        except BatchUnavailableError as error:
            return outcome(reason=str(error))
        except UnreadableBatchError as error:
            return outcome(reason=str(error), is_final=True)
        return outcome(events=await self._without_own(found))

    def _trusts(self, certificate: QuorumCertificate) -> bool:
        """Whether every signer is known here or named by the source."""
        named = self._selection.coordinators
        others = {signed.signer for signed in certificate.certifications} - named
        return self._node.certificates.knows(others)

    async def _without_own(self, found: Sequence[RawEvent]) -> Sequence[RawEvent]:
        """Events without those that were made from an event that this node took in itself."""
        before = {each.external_id: chain_of(each.external_id)[1:] for each in found}
        ancestors = sorted({event_id for chain in before.values() for event_id in chain})
        if not ancestors:
            return found
        own = await self._node.database.run(partial(events.own_among, event_ids=ancestors))
        return [each for each in found if own.isdisjoint(before[each.external_id])]

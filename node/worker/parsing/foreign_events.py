"""Events of certified batches become events of a local source: checked, selected and built in a worker process.

An event that is read becomes a new event. Its external id lists where it comes from: the event id at the node that it
is read from and, where that node read it from another, its earlier ids, the latest first. Read again it has the same
id and is a repeat; a later version becomes a later version here; and an event that two nodes ingested, which has one
id, is one event here too.

No node reads what was derived from an event of its own, nor an event that has had ``CHAIN_MAX`` ids already. So
events that nodes read from each other do not circulate forever, whatever each node does to their data.
"""

import re
from collections.abc import Sequence
from typing import Any, Final

import attrs
import orjson

from node.worker.parsing.bodies import RawEvent
from node.worker.parsing.certified import read_certified
from protocols import certificate, codec
from protocols.canonical import sha256
from protocols.errors import OverlayError, WorldFault
from protocols.messages import IdentityKey, Level, Manifest, QuorumCertificate, Statement
from protocols.uhrp import uhrp_url

CHAIN_MAX: Final = 7  # ids of 70 characters, with the spaces between them: an external id has at most 512
EVENT_ID: Final = re.compile("event_[0-9a-f]{64}")


class UnreadableBatchError(WorldFault):
    """A quorum certified something other than verdicts on events, which no honest agent does."""

    code = "unreadable-batch"


@attrs.frozen(kw_only=True)
class BatchSelection:
    """Which batches a source reads, judged by their certificates; empty sets mean all."""

    network: str
    reader: IdentityKey
    coordinators: frozenset[IdentityKey] = frozenset()
    source_ids: frozenset[str] = frozenset()
    level: Level = Level.BASIC
    statuses: frozenset[str] = frozenset({"valid"})

    def wants(self, statement: Statement) -> bool:
        """Whether a batch is to be read. Batches of this node itself never are: its events would come back."""
        return (
            statement.coordinator != self.reader
            and (not self.coordinators or statement.coordinator in self.coordinators)
            and (not self.source_ids or statement.source_id in self.source_ids)
            and statement.level >= self.level
            and (
                ("valid" in self.statuses and statement.valid > 0)
                or ("invalid" in self.statuses and statement.invalid > 0)
            )
        )


def choose(encoded: Sequence[bytes], selection: BatchSelection) -> list[tuple[QuorumCertificate | None, str]]:
    """Verify certificates and select those that are wanted.

    Returns:
        For each the certificate, None if it is not wanted or not valid; and why it is not valid, else empty.
    """
    found: list[tuple[QuorumCertificate | None, str]] = []
    for each in encoded:
        try:
            read = codec.decode(QuorumCertificate, each)
            if not selection.wants(read.statement):
                found.append((None, ""))
                continue
            certificate.verify_quorum(read, network=selection.network)
        except OverlayError as error:
            found.append((None, f"its certificate is not valid: {error}"))
            continue
        found.append((read, ""))
    return found


def manifest_problem(manifest: Manifest, statement: Statement) -> str:
    """Why a statement is not about its manifest's batch; empty if it is. Honest signers sign no such statement."""
    names = ("network", "batch_id", "coordinator", "source_id", "policy_hash", "level", "input_root", "events")
    differing = [name for name in names if getattr(manifest, name) != getattr(statement, name)]
    return f"its certificate and its manifest differ in {', '.join(differing)}" if differing else ""


def chain_of(external_id: str | None) -> list[str]:
    """The event ids that an external id consists of, the latest first; none where it is of another kind."""
    ids = (external_id or "").split(" ")
    return ids if all(map(EVENT_ID.fullmatch, ids)) else []


def read_events(
    leaves: bytes, normalized: bytes, *, encoded: bytes, selection: BatchSelection, include_reference: bool
) -> list[RawEvent]:
    """Events of a certified batch, in batch order.

    Args:
        leaves, normalized: As a peer sent them.
        encoded: The quorum certificate, checked before.

    Raises:
        MalformedError: These are not the leaves and the data that were certified. UnreadableBatchError: They are,
            and are not verdicts.
    """
    statement = codec.decode(QuorumCertificate, encoded).statement
    verdicts, data = read_certified(leaves, normalized, statement, _verdict)
    reference = {
        "network": statement.network,
        "batchId": statement.batch_id,
        "coordinator": statement.coordinator.hex(),
        "sourceId": statement.source_id,
        "certificate": uhrp_url(sha256(encoded)),
    }
    found = []
    for verdict, content in zip(verdicts, data, strict=True):
        before = chain_of(verdict["externalId"])
        if verdict["status"] not in selection.statuses or len(before) >= CHAIN_MAX:
            continue
        if include_reference:
            more = {"eventId": verdict["eventId"], "versionId": verdict["versionId"], "status": verdict["status"]}
            content = b'{"certified":%b,"data":%b}' % (orjson.dumps(reference | more), content)
        made = RawEvent(
            data=content,
            event_type=verdict["eventType"],
            external_id=" ".join([verdict["eventId"], *before]),
            timestamp=verdict["timestamp"],
        )
        found.append(made)
    return found


def _verdict(line: bytes) -> dict[str, Any]:
    try:
        verdict = orjson.loads(line)
        texts = [verdict[name] for name in ("eventId", "eventType", "status", "contentHash", "versionId")]
        maybe = [verdict[name] for name in ("externalId", "timestamp")]
    except (ValueError, TypeError, LookupError) as error:
        raise UnreadableBatchError(f"a certified verdict cannot be read: {error}") from error
    if not all(type(each) is str for each in (*texts, *(each for each in maybe if each is not None))):
        raise UnreadableBatchError("a certified verdict must have strings for its ids, type and status")
    if not EVENT_ID.fullmatch(texts[0]):
        raise UnreadableBatchError("a certified verdict has no event id")
    return dict(verdict)

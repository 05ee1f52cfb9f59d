"""Events of certified batches as events of a source here: checked, chosen and made in a worker process.

An event that is read is a new event, whose external id says what it was made of: the event id that it has with the
node it is read of and, where that node read it of another, the ids that it had before, the latest first. Read again,
it has the same id and is a repeat; a later version of it is a later version here; and an event that two nodes took
in, which has one id, is one event here as well.

Nobody reads what was made of an event of its own, and nobody what has had ``CHAIN_MAX`` ids already. So events that
nodes read of each other come to an end, whatever each of them makes of their data on the way.
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
    """What a quorum certified is no verdict on events: it signed what no honest agent makes."""

    code = "unreadable-batch"


@attrs.frozen(kw_only=True)
class BatchSelection:
    """Which batches a source reads, as far as their certificates say it; empty sets stand for all."""

    network: str
    reader: IdentityKey
    coordinators: frozenset[IdentityKey] = frozenset()
    source_ids: frozenset[str] = frozenset()
    level: Level = Level.BASIC
    statuses: frozenset[str] = frozenset({"valid"})

    def wants(self, statement: Statement) -> bool:
        """What this node itself took in is never read: that would be its own voice."""
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
    """The certificates among these that are wanted, each checked whole: None for others.

    Returns with each what is wrong with it: signatures, or a quorum that its level does not allow. Empty: nothing.
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
            found.append((None, f"its certificate does not hold: {error}"))
            continue
        found.append((read, ""))
    return found


def manifest_problem(manifest: Manifest, statement: Statement) -> str:
    """Why a statement is not of its manifest's batch; empty if it is. Honest signers sign no such thing."""
    names = ("network", "batch_id", "coordinator", "source_id", "policy_hash", "level", "input_root", "events")
    differing = [name for name in names if getattr(manifest, name) != getattr(statement, name)]
    return f"its certificate and its manifest differ in {', '.join(differing)}" if differing else ""


def chain_of(external_id: str | None) -> list[str]:
    """The event ids that an external id is made of, the latest first; none where it is another sort of name."""
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
    for verdict, said in zip(verdicts, data, strict=True):
        before = chain_of(verdict["externalId"])
        if verdict["status"] not in selection.statuses or len(before) >= CHAIN_MAX:
            continue
        if include_reference:
            more = {"eventId": verdict["eventId"], "versionId": verdict["versionId"], "status": verdict["status"]}
            said = b'{"certified":%b,"data":%b}' % (orjson.dumps(reference | more), said)
        made = RawEvent(
            data=said,
            event_type=verdict["eventType"],
            external_id=" ".join([verdict["eventId"], *before]),
            timestamp=verdict["timestamp"],
        )
        found.append(made)
    return found


def _verdict(line: bytes) -> dict[str, Any]:
    try:
        said = orjson.loads(line)
        texts = [said[name] for name in ("eventId", "eventType", "status", "contentHash", "versionId")]
        maybe = [said[name] for name in ("externalId", "timestamp")]
    except (ValueError, TypeError, LookupError) as error:
        raise UnreadableBatchError(f"a certified verdict cannot be read: {error}") from error
    if not all(type(each) is str for each in (*texts, *(each for each in maybe if each is not None))):
        raise UnreadableBatchError("a certified verdict has no texts where they belong")
    if not EVENT_ID.fullmatch(texts[0]):
        raise UnreadableBatchError("a certified verdict names no event")
    return dict(said)

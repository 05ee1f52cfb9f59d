"""Keeping a batch for its coordinator: the request, the answers, and the claim of a holder that finishes it."""

import enum

import attrs

from protocols.limits import CONTEXT_BYTES_MAX, HOLDERS_MAX
from protocols.messages.fields import IdentityKey, at_most, text
from protocols.messages.signed import Message, Signed
from protocols.messages.statements import Manifest, QuorumCertificate


@attrs.frozen(kw_only=True)
class HoldBatch(Message):
    """A coordinator has others keep a batch, payload attached, and entitles them to finish it in its absence.

    Attributes:
        holders: The nodes that are asked to keep it, and may finish it.
        stateful: Whether the batch starts from what earlier ones of its source left behind.
        after: The batch whose context this one starts from; empty where ``context`` says it.
    """

    TAG = 14
    PROTOCOL = (2, "overlay batch hold")

    manifest: Signed[Manifest]
    holders: tuple[IdentityKey, ...] = attrs.field(validator=at_most(HOLDERS_MAX))
    stateful: bool
    after: str = text()
    context: bytes = attrs.field(validator=at_most(CONTEXT_BYTES_MAX))

    @property
    def key_id(self) -> str:
        return self.manifest.message.batch_id


@attrs.frozen(kw_only=True)
class Claim:
    """What entitles a node to have a batch of another coordinator processed: it holds it, and has the right context.

    Attributes:
        before: Certificate of the batch that ``hold`` names as the one before.
    """

    hold: Signed[HoldBatch]
    before: QuorumCertificate | None


@attrs.frozen(kw_only=True)
class BatchHeld(Message):
    """A holder has the batch on disk."""

    TAG = 15
    PROTOCOL = (2, "overlay batch held")

    batch_id: str = text()

    @property
    def key_id(self) -> str:
        return self.batch_id


@attrs.frozen(kw_only=True)
class BatchQuery(Message):
    """Asks what became of a batch. Answered by ``BatchSealed`` if it is finished, else by ``BatchStatus``."""

    TAG = 16
    PROTOCOL = (2, "overlay batch query")

    batch_id: str = text()

    @property
    def key_id(self) -> str:
        return self.batch_id


class BatchProgress(enum.IntEnum):
    """The progress of a batch at the node that is asked."""

    UNKNOWN = 0
    HELD = 1
    WORKING = 2  # the node is having it processed
    DEAD = 3


@attrs.frozen(kw_only=True)
class BatchStatus(Message):
    """The answer to a query about a batch that is not finished."""

    TAG = 17
    PROTOCOL = (2, "overlay batch status")

    batch_id: str = text()
    progress: BatchProgress

    @property
    def key_id(self) -> str:
        return self.batch_id

"""What a node gossips about itself: what it offers, and which certified batches it has."""

import attrs

from protocols.limits import (
    ADDRESSES_PER_PEER_MAX,
    MEMBERSHIP_BYTES_MAX,
    NOTICE_BATCHES_MAX,
    TOKENS_PER_ADVERTISEMENT_MAX,
    TOPICS_PER_BATCH_MAX,
)
from protocols.messages.fields import Digest, are_topics, at_most, count, digest, moment, text
from protocols.messages.signed import Message


@attrs.frozen(kw_only=True)
class Advertisement(Message):
    """What a node offers, until when: SHIP and SLAP tokens with the terms of its work.

    A later ``sequence`` replaces an earlier one; no tokens and an expiry in the past withdraw it.

    Attributes:
        membership: The signer's membership certificate (``protocols.membership``), where the network wants one.
    """

    TAG = 13
    PROTOCOL = (2, "overlay advertisement")

    sequence: int = count()
    issued_ms: int = moment()
    expires_ms: int = moment()
    tokens: tuple[bytes, ...] = attrs.field(validator=at_most(TOKENS_PER_ADVERTISEMENT_MAX))
    addresses: tuple[str, ...] = attrs.field(validator=at_most(ADDRESSES_PER_PEER_MAX))
    url: str = text()
    capacity: int = count(2**31)
    price: int = count()
    operator: str = text()
    region: str = text()
    build: str = text()
    membership: bytes = attrs.field(default=b"", validator=at_most(MEMBERSHIP_BYTES_MAX))

    @property
    def key_id(self) -> str:
        return str(self.sequence)


@attrs.frozen(kw_only=True)
class CertifiedBatch:
    """Where a certified batch is found: content addresses only, each of which proves its content.

    Attributes:
        batch: SHA-256 of its manifest, that of the batch id.
        topics: As its manifest says.
        certificate: SHA-256 of its quorum certificate, which is what a UHRP URL is made of.
        records, outputs: The roots of its statement over records and verdicts.
    """

    batch: Digest = digest()
    topics: tuple[str, ...] = attrs.field(validator=[at_most(TOPICS_PER_BATCH_MAX), are_topics])
    certificate: Digest = digest()
    records: Digest = digest()
    outputs: Digest = digest()


@attrs.frozen(kw_only=True)
class CertifiedNotice(Message):
    """A node has these certified batches; nodes that follow one of their topics can request them from it."""

    TAG = 19
    PROTOCOL = (2, "overlay certified notice")

    issued_ms: int = moment()
    batches: tuple[CertifiedBatch, ...] = attrs.field(validator=at_most(NOTICE_BATCHES_MAX))

    @property
    def key_id(self) -> str:
        return str(self.issued_ms)

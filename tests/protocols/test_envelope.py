"""Frames become signed messages whole or not at all, and a signed message is narrowed to the class expected."""

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols import codec, envelope
from protocols.errors import (
    BadSignatureError,
    MalformedError,
    NonCanonicalError,
    PeerFault,
    UnstorableTextError,
    WrongNetworkError,
)
from protocols.limits import FRAME_BYTES_MAX, LENGTH_BYTES
from protocols.messages import (
    MESSAGES,
    Award,
    BatchQuery,
    BatchStatus,
    Evidence,
    Manifest,
    QuorumCertificate,
    Role,
    Signed,
    WorkOrder,
    WorkResult,
)
from tests.network_of_keys import AGENTS, NETWORK, certified
from tests.protocols.test_codec import of_class

QUERY = envelope.sign(AGENTS[0], BatchQuery(network=NETWORK, batch_id="batch_1"))


def order_frame(attachment: bytes = b"payload") -> bytes:
    batch = certified()
    given_award = Award(
        network=NETWORK,
        lease_id="lease",
        announcement_id="job",
        agent=AGENTS[1].identity,
        roles=(Role.NORMALIZE,),
        batches=1,
        expires_ms=1,
    )
    order = WorkOrder(network=NETWORK, award=given_award, manifest=batch.manifest, context=b"{}", attempt=0)
    return envelope.to_frame(envelope.sign(AGENTS[0], order), attachment)


def test_a_frame_brings_message_signer_and_attachment() -> None:
    signed, attachment = envelope.open_frame(order_frame(), NETWORK)
    assert attachment == b"payload"
    assert signed.signer == AGENTS[0].identity
    assert isinstance(signed.message, WorkOrder)
    assert signed.message.manifest == certified().manifest


def test_a_frame_of_another_network_is_refused() -> None:
    with pytest.raises(WrongNetworkError):
        envelope.open_frame(order_frame(), "other")


def test_a_nested_signature_is_checked_too() -> None:
    batch = certified()
    good = batch.certificate.evidence[0]
    forged = attrs.evolve(good, signature=batch.certificate.evidence[1].signature)
    result = WorkResult(network=NETWORK, batch_id="b", evidence=(forged,), context_out=b"{}")
    with pytest.raises(BadSignatureError, match="Evidence"):
        envelope.open_frame(envelope.to_frame(envelope.sign(AGENTS[0], result)), NETWORK)


def test_every_flipped_bit_of_the_envelope_is_refused() -> None:
    frame = order_frame(b"")
    for place in range(len(frame)):
        broken = bytearray(frame)
        broken[place] ^= 1
        with pytest.raises(PeerFault):
            envelope.open_frame(bytes(broken), NETWORK)


@settings(deadline=None)
@given(st.binary(max_size=400))
def test_garbage_frames_are_a_peer_s_fault(data: bytes) -> None:
    with pytest.raises(PeerFault):
        envelope.open_frame(data, NETWORK)


@pytest.mark.parametrize("frame", [b"", bytes(3), bytes(LENGTH_BYTES), bytes(LENGTH_BYTES) + b"attachment"])
def test_a_frame_without_an_envelope_is_malformed(frame: bytes) -> None:
    with pytest.raises(MalformedError):
        envelope.open_frame(frame, NETWORK)


def test_an_envelope_ends_within_its_frame() -> None:
    with pytest.raises(MalformedError, match="longer than its frame"):
        envelope.open_frame(envelope.to_frame(QUERY)[:-1], NETWORK)


def test_a_frame_of_the_largest_size_is_read_and_a_larger_one_refused() -> None:
    frame = envelope.to_frame(QUERY)
    room = FRAME_BYTES_MAX - len(frame)
    assert envelope.open_frame(frame + bytes(room), NETWORK) == (QUERY, bytes(room))
    with pytest.raises(MalformedError, match=str(FRAME_BYTES_MAX + 1)):
        envelope.open_frame(frame + bytes(room + 1), NETWORK)


@pytest.mark.parametrize(
    ("signer", "signature"),
    [
        (b"\x04" + bytes(32), b"s"),  # not a compressed key
        (b"\x02" + bytes(31), b"s"),  # a byte short
        (AGENTS[0].identity, bytes(81)),  # longer than any signature
    ],
)
def test_an_envelope_with_impossible_parts_is_malformed(signer: bytes, signature: bytes) -> None:
    body = codec.encode(QUERY.message)
    parts = codec.encode(envelope.Envelope(signer=signer, signature=signature, body=body))
    with pytest.raises(MalformedError):
        envelope.open_frame(len(parts).to_bytes(LENGTH_BYTES, "big") + parts, NETWORK)
    with pytest.raises(MalformedError):
        envelope.assemble(BatchQuery, body, signer, signature)


def test_the_network_of_an_inner_message_is_checked_too() -> None:
    """A message of this network that carries evidence of another is no message of this network."""
    foreign = attrs.evolve(certified().certificate.evidence[0].message, network="another")
    inner = envelope.sign(AGENTS[1], foreign)
    result = WorkResult(network=NETWORK, batch_id="b", evidence=(inner,), context_out=b"{}")
    with pytest.raises(WrongNetworkError, match="another"):
        envelope.open_frame(envelope.to_frame(envelope.sign(AGENTS[1], result)), NETWORK)


def test_a_signed_message_is_narrowed_to_its_own_class_alone() -> None:
    opened, _ = envelope.open_frame(envelope.to_frame(QUERY), NETWORK)
    assert envelope.narrow(opened, BatchQuery) is opened
    with pytest.raises(MalformedError, match="expected a signed BatchStatus, got a BatchQuery"):
        envelope.narrow(opened, BatchStatus)


def test_the_parts_of_a_document_are_assembled_and_their_signature_is_judged_apart() -> None:
    """A reader of documents reports on each signature, so a wrong one must not stop it."""
    manifest = certified().manifest
    body = codec.encode(manifest.message)
    assert envelope.assemble(Manifest, body, manifest.signer, manifest.signature) == manifest
    assert envelope.is_valid(manifest)
    forged = envelope.assemble(Manifest, body, AGENTS[1].identity, manifest.signature)
    assert not envelope.is_valid(forged)
    with pytest.raises(BadSignatureError, match="Manifest"):
        envelope.check(forged)


def test_a_part_in_another_encoding_is_not_assembled() -> None:
    signed: Signed[Evidence] = certified().certificate.evidence[0]
    body = codec.encode(signed.message)
    with pytest.raises(NonCanonicalError):
        envelope.assemble(Evidence, body + b"\0", signed.signer, signed.signature)
    with pytest.raises(MalformedError):
        envelope.assemble(Manifest, body, signed.signer, signed.signature)


def test_a_signature_of_one_query_is_none_of_another() -> None:
    other = BatchQuery(network=NETWORK, batch_id="batch_2")
    moved = envelope.assemble(BatchQuery, codec.encode(other), QUERY.signer, QUERY.signature)
    assert not envelope.is_valid(moved)


def texts_in(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    parts = value if isinstance(value, tuple) else vars_of(value)
    return [text for part in parts for text in texts_in(part)]


def vars_of(value: object) -> tuple[object, ...]:
    kind = type(value)
    return tuple(getattr(value, field.name) for field in attrs.fields(kind)) if attrs.has(kind) else ()


@settings(deadline=None)
@given(st.sampled_from(MESSAGES).flatmap(of_class))
def test_a_text_that_cannot_be_stored_is_refused_wherever_it_stands(message: object) -> None:
    """Postgres refuses U+0000; it may stand in any text of any message, however deep."""
    if any("\0" in text for text in texts_in(message)):
        with pytest.raises(UnstorableTextError, match="U\\+0000"):
            envelope.check_texts(message)
    else:
        envelope.check_texts(message)


def test_frames_with_a_text_that_cannot_be_stored_are_refused() -> None:
    query = BatchQuery(network=NETWORK, batch_id="batch_\0")
    evidence = attrs.evolve(certified().certificate.evidence[0].message, build="\0")
    result = WorkResult(
        network=NETWORK, batch_id="b", evidence=(envelope.sign(AGENTS[1], evidence),), context_out=b"{}"
    )
    for message in (query, result):
        with pytest.raises(UnstorableTextError):
            envelope.open_frame(envelope.to_frame(envelope.sign(AGENTS[0], message)), NETWORK)


def test_a_text_with_a_lone_surrogate_is_not_decoded() -> None:
    good = codec.encode(QUERY.message)
    with pytest.raises(MalformedError):
        codec.decode(BatchQuery, good.replace(b"batch_1", b"bat\xed\xa0\x80_"))


def test_a_certificate_stored_by_an_earlier_version_stays_readable() -> None:
    whole = certified().certificate
    signed = whole.evidence[0]
    odd = envelope.sign(AGENTS[1], attrs.evolve(signed.message, build="\0"))
    stored = codec.encode(attrs.evolve(whole, evidence=(odd,)))
    assert codec.decode(QuorumCertificate, stored).evidence == (odd,)

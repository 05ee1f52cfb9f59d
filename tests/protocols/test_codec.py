"""One value, one encoding: every message and entity, and what is refused."""

import typing
from typing import Any

import attrs
import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols import codec
from protocols.entities import ENTITIES, Chain, Lease
from protocols.errors import MalformedError, NonCanonicalError, PeerFault
from protocols.limits import SIGNERS_MAX
from protocols.messages import (
    MESSAGES,
    BatchProgress,
    Bid,
    CertifiedBatch,
    Level,
    Message,
    Role,
    Signed,
    WorkPhase,
    WorkResult,
)

DIGEST = st.binary(min_size=32, max_size=32)
KEY = st.binary(min_size=32, max_size=32).map(lambda rest: b"\x02" + rest)
TEXT = st.text(max_size=20)
COUNT = st.integers(0, 500)


# Fields whose values are bounded more narrowly than their types say; all others are drawn from their types.
BY_NAME = {
    "agent": KEY,
    "coordinator": KEY,
    "holders": st.lists(KEY, max_size=2).map(tuple),
    "quorum": st.integers(0, SIGNERS_MAX),
    **dict.fromkeys(("policy_hash", "input_root", "normalized_root", "output_root", "statement_digest"), DIGEST),
    "topics": st.lists(st.text(min_size=1, max_size=20), max_size=2).map(tuple),
    **dict.fromkeys(("input_digest", "output_digest", "context_in"), DIGEST),
}
PLAIN: dict[Any, st.SearchStrategy[Any]] = {
    int: COUNT,
    str: TEXT,
    bytes: st.binary(max_size=9),
    bool: st.booleans(),
    Role: st.sampled_from(Role),
    Level: st.sampled_from(Level),
    BatchProgress: st.sampled_from(BatchProgress),
    WorkPhase: st.sampled_from(WorkPhase),
}


def of_class(cls: type[Any]) -> st.SearchStrategy[Any]:
    """Instances of a message class, drawn from the types of its fields."""
    hints = typing.get_type_hints(cls)
    fields = {field.name: of_field(cls, field.name, hints[field.name]) for field in attrs.fields(cls)}
    return st.builds(cls, **fields)


def of_field(cls: type[Any], name: str, hint: Any) -> st.SearchStrategy[Any]:
    if name == "context_out" and cls is not WorkResult:  # there it is the context itself, not its digest
        return DIGEST
    if cls is CertifiedBatch and hint is bytes:
        return DIGEST
    return BY_NAME[name] if name in BY_NAME else of_type(hint)


def of_type(hint: Any) -> st.SearchStrategy[Any]:
    arguments = typing.get_args(hint)
    if type(None) in arguments:
        return st.none() | of_type(arguments[0])
    if typing.get_origin(hint) is tuple:
        return st.lists(of_type(arguments[0]), max_size=2).map(tuple)
    if typing.get_origin(hint) is Signed:
        return st.builds(Signed, message=of_class(arguments[0]), signer=KEY, signature=st.binary(max_size=72))
    return of_class(hint) if attrs.has(hint) else PLAIN[hint]


ANY = st.sampled_from(MESSAGES).flatmap(of_class)


@pytest.mark.parametrize("cls", MESSAGES, ids=lambda cls: cls.__name__)
@settings(max_examples=30, deadline=None)
@given(st.data())
def test_every_message_class_is_decoded_as_it_was_encoded(cls: type[Message], data: st.DataObject) -> None:
    message = data.draw(of_class(cls))
    encoded = codec.encode(message)
    assert codec.decode(cls, encoded) == codec.decode_tagged(MESSAGES, encoded) == message
    assert codec.encode(codec.decode(cls, encoded)) == encoded
    assert cbor2.loads(encoded)[0] == message.TAG
    for other in set(MESSAGES) - {cls}:
        with pytest.raises(MalformedError):
            codec.decode(other, encoded)


@settings(deadline=None)
@given(ANY, st.data())
def test_other_bytes_are_another_value_or_refused(message: Message, data: st.DataObject) -> None:
    encoded = bytearray(codec.encode(message))
    place = data.draw(st.integers(0, len(encoded) - 1))
    encoded[place] ^= 1 << data.draw(st.integers(0, 7))
    try:
        other = codec.decode_tagged(MESSAGES, bytes(encoded))
    except PeerFault:
        return
    assert other != message
    assert codec.encode(other) == bytes(encoded)


@given(st.binary(max_size=300))
def test_garbage_is_a_peer_s_fault(data: bytes) -> None:
    with pytest.raises(PeerFault):
        codec.decode_tagged(MESSAGES, data)


def recoded(message: Message, **options: Any) -> bytes:
    return cbor2.dumps(cbor2.loads(codec.encode(message)), **options)


BID = Bid(
    network="n", announcement_id="a", roles=(Role.NORMALIZE,), capacity=5, price=0, operator="o", region="", reason=""
)
ENCODED = codec.encode(BID)


@pytest.mark.parametrize(
    ("broken", "error"),
    [
        (ENCODED + b"\0", NonCanonicalError),  # a byte behind the end
        (ENCODED[:-1], MalformedError),
        (b"\x9f" + ENCODED[1:] + b"\xff", NonCanonicalError),  # an array of indefinite length
        (ENCODED.replace(b"\x05", b"\x18\x05"), NonCanonicalError),  # 5 in two bytes
        (cbor2.dumps([3, "n", "a", [1], 5.0, 0, "o", "", ""]), MalformedError),
        (cbor2.dumps([3, "n", "a", [1], True, 0, "o", "", ""]), MalformedError),
        (cbor2.dumps([3, "n", "a", [9], 5, 0, "o", "", ""]), MalformedError),
        (cbor2.dumps([3, "n", "a", [1], -5, 0, "o", "", ""]), MalformedError),
        (cbor2.dumps([3, "n", "a", [1] * 99, 5, 0, "o", "", ""]), MalformedError),
        (cbor2.dumps([3, "n", "a" * 600, [1], 5, 0, "o", "", ""]), MalformedError),
        (cbor2.dumps([3, b"n", "a", [1], 5, 0, "o", "", ""]), MalformedError),
        (cbor2.dumps([3, "n", "a", [1], 5, 0, "o", "", "", 1]), MalformedError),
        (cbor2.dumps([99, "n"]), MalformedError),
        (cbor2.dumps({1: 2}), MalformedError),
        (b"\x81" * 500, MalformedError),
    ],
)
def test_other_encodings_and_shapes_are_refused(broken: bytes, error: type[PeerFault]) -> None:
    with pytest.raises(error):
        codec.decode_tagged(MESSAGES, broken)


def test_every_message_has_its_own_tag_and_protocol() -> None:
    assert len({message.TAG for message in MESSAGES}) == len(MESSAGES)
    assert len({message.PROTOCOL for message in MESSAGES}) == len(MESSAGES)
    assert len({entity.TAG for entity in ENTITIES}) == len(ENTITIES)


def test_entities_survive_storage() -> None:
    for entity in (Lease(level=Level.ENHANCED, quorum=2), Chain(source_id="s", queue=("a", "b"))):
        assert codec.decode_tagged(ENTITIES, codec.encode(entity)) == entity


def test_hints_of_every_message_can_be_encoded() -> None:
    for message in (*MESSAGES, *ENTITIES):
        assert typing.get_type_hints(message)
        codec._class_coders(message)

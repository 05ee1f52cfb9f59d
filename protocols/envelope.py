"""Where bytes become ``Signed[M]``: every function that builds or narrows one is here, and nowhere else.

``open_frame`` checks size, canonical form, network and signatures, and ``sign`` uses the node's own key. ``assemble``
checks no signature: it is for readers of documents, which report on each one by ``is_valid``.
"""

import hashlib
import typing
from collections.abc import Hashable
from functools import lru_cache
from typing import Protocol, TypeVar

import attrs

from protocols import codec, keys
from protocols.errors import BadSignatureError, MalformedError, UnstorableTextError, WrongNetworkError
from protocols.limits import FRAME_BYTES_MAX, LENGTH_BYTES
from protocols.messages import MESSAGES, IdentityKey, Message, Signed

M = TypeVar("M", bound=Message)


class Signer(Protocol):
    """The node's own key, wherever it is kept."""

    @property
    def identity(self) -> IdentityKey: ...

    def sign(self, protocol: tuple[int, str], key_id: str, data: bytes) -> bytes: ...


def sign(signer: Signer, message: M) -> Signed[M]:
    """Sign with the node's key (BRC-3, counterparty ``anyone``)."""
    signature = signer.sign(message.PROTOCOL, message.key_id, codec.encode(message))
    return Signed(message=message, signer=signer.identity, signature=signature)


def digest(data: bytes) -> bytes:
    """SHA-256, 32 bytes."""
    return hashlib.sha256(data).digest()


def is_valid(signed: Signed[Message]) -> bool:
    """Whether the signer signed exactly this message."""
    message = signed.message
    return keys.verify(signed.signer, message.PROTOCOL, message.key_id, codec.encode(message), signed.signature)


def check(signed: Signed[Message]) -> None:
    """Raise BadSignatureError unless the signer signed exactly this message."""
    if not is_valid(signed):
        name = type(signed.message).__name__
        raise BadSignatureError(f"{name} {signed.message.key_id:.80} is not signed by its signer")


def narrow(signed: Signed[Message], cls: type[M]) -> Signed[M]:
    """The same signed message, under the class that its reader expects.

    Raises:
        MalformedError: it is a message of another class: the sender is at fault.
    """
    if type(signed.message) is not cls:
        raise MalformedError(f"expected a signed {cls.__name__}, got a {type(signed.message).__name__}")
    return typing.cast(Signed[M], signed)


def assemble(cls: type[M], body: bytes, signer: bytes, signature: bytes) -> Signed[M]:
    """A signed message from its parts as a document shows them. The signature is not checked: see ``is_valid``.

    Args:
        body: The canonical encoding of the message.

    Raises:
        MalformedError, NonCanonicalError: a part has the wrong form.
    """
    message = codec.decode(cls, body)
    try:
        return Signed(message=message, signer=signer, signature=signature)
    except ValueError as error:
        raise MalformedError(str(error)) from error


def to_frame(signed: Signed[Message], attachment: bytes = b"") -> bytes:
    """A frame: length of the envelope (4 bytes), the envelope, then the attachment to the end."""
    envelope = _encode(signed)
    return len(envelope).to_bytes(LENGTH_BYTES, "big") + envelope + attachment


def open_frame(frame: bytes, network: str) -> tuple[Signed[Message], bytes]:
    """Check size, canonical form, network and every signature in a frame.

    Returns:
        The signed message and its attachment; the attachment is *not* checked here: the message names a
        digest of it, and whoever uses it compares.

    Raises:
        MalformedError, NonCanonicalError, WrongNetworkError, BadSignatureError: the sender is at fault.
        UnstorableTextError: a text in it holds U+0000, which no database column and no document here can.
    """
    if not LENGTH_BYTES < len(frame) <= FRAME_BYTES_MAX:
        raise MalformedError(f"a frame must have {LENGTH_BYTES + 1} to {FRAME_BYTES_MAX} bytes, not {len(frame)}")
    end = LENGTH_BYTES + int.from_bytes(frame[:LENGTH_BYTES], "big")
    if end > len(frame):
        raise MalformedError("the envelope is longer than its frame")
    signed = _decode(frame[LENGTH_BYTES:end])
    for inner in check_texts(signed):
        if inner.message.network != network:
            raise WrongNetworkError(f"a message is of another network: {inner.message.network!r:.80}")
        check(inner)
    return signed, frame[end:]


def _encode(signed: Signed[Message]) -> bytes:
    body = codec.encode(signed.message)
    return codec.encode(Envelope(signer=signed.signer, signature=signed.signature, body=body))


@attrs.frozen(kw_only=True)
class Envelope:
    """The outermost array of a frame."""

    signer: bytes
    signature: bytes
    body: bytes


def _decode(data: bytes) -> Signed[Message]:
    envelope = codec.decode(Envelope, data)
    message = codec.decode_tagged(MESSAGES, envelope.body)
    try:
        return Signed(message=message, signer=envelope.signer, signature=envelope.signature)
    except ValueError as error:
        raise MalformedError(str(error)) from error


def check_texts(value: object) -> list[Signed[Message]]:
    """Check every text in a decoded value of a peer: what passes can be stored, and shown as JSON.

    This is the one place where texts of peers are checked for that. It is apart from decoding, so that what earlier
    versions stored stays readable.

    Returns:
        The signed messages in the value, itself included, inmost last.

    Raises:
        UnstorableTextError: a text holds U+0000. Lone surrogates are refused before: they have no CBOR.
    """
    found: list[Signed[Message]] = []
    _visit(value, found)
    return found


def _visit(value: object, found: list[Signed[Message]]) -> None:
    kind = type(value)
    if kind is str:
        if "\0" in value:  # type: ignore[operator]
            raise UnstorableTextError(f"a text must not hold U+0000: {value!r:.80}")
    elif kind is tuple:
        for item in value:  # type: ignore[attr-defined]
            _visit(item, found)
    elif attrs.has(kind):
        if isinstance(value, Signed):
            found.append(value)
        for name in _names(kind):
            _visit(getattr(value, name), found)


@lru_cache(maxsize=256)
def _names(kind: Hashable) -> tuple[str, ...]:
    """The fields of an attrs class."""
    assert isinstance(kind, type)
    return tuple(field.name for field in attrs.fields(kind))

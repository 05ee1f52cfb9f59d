"""The base of all messages, and ``Signed``: a message with a signature that was checked."""

from typing import Any, ClassVar, Generic, TypeVar

import attrs

from protocols import codec
from protocols.errors import MalformedError
from protocols.messages.fields import IdentityKey, Protocol, at_most, is_key, text


@attrs.frozen(kw_only=True)
class Message:
    """Base of all signed statements."""

    TAG: ClassVar[int]
    PROTOCOL: ClassVar[Protocol]

    network: str = text()

    @property
    def key_id(self) -> str:
        raise AssertionError("a message class must define the key id of its subject")


M_co = TypeVar("M_co", bound=Message, covariant=True)


@attrs.frozen(kw_only=True)
class Signed(Generic[M_co]):
    """A message with a signature that was checked, or that this node made. Only ``envelope`` makes one."""

    message: M_co
    signer: IdentityKey = attrs.field(validator=is_key)
    signature: bytes = attrs.field(validator=at_most(80))

    @classmethod
    def __coders__(cls, message_class: type[Message]) -> tuple[codec.Encoder, codec.Decoder]:
        def from_value(raw: Any) -> "Signed[Message]":
            if not isinstance(raw, list) or len(raw) != 3 or not all(type(item) is bytes for item in raw):
                raise MalformedError("a signed message must be an array of three byte strings")
            try:
                message = codec.decode(message_class, raw[2])
                return Signed(message=message, signer=raw[0], signature=raw[1])
            except ValueError as error:
                raise MalformedError(str(error)) from error

        return (lambda signed: [signed.signer, signed.signature, codec.encode(signed.message)]), from_value

"""The types of message fields and their bounds: each function makes one attrs field with its validators."""

from collections.abc import Callable
from typing import Any, TypeAlias

import attrs

from protocols import codec
from protocols.limits import TOPIC_CHARS_MAX

Digest: TypeAlias = bytes  # SHA-256, 32 bytes
IdentityKey: TypeAlias = bytes  # compressed secp256k1 public key, 33 bytes
Protocol: TypeAlias = tuple[int, str]  # BRC-43 security level and protocol name
NO_DIGEST = bytes(32)
TEXT_CHARS_MAX = 512
MS_MAX = 253_402_300_799_999
DURATION_MS_MAX = 86_400_000


def is_digest(_: object, attribute: "attrs.Attribute[bytes]", value: bytes) -> None:
    if len(value) != 32:
        raise ValueError(f"{attribute.name} must have 32 bytes, not {len(value)}")


def is_key(_: object, attribute: "attrs.Attribute[bytes]", value: bytes) -> None:
    if len(value) != 33 or value[0] not in (2, 3):
        raise ValueError(f"{attribute.name} must be a compressed public key")


def is_text(_: object, attribute: "attrs.Attribute[str]", value: str) -> None:
    if len(value) > TEXT_CHARS_MAX:
        raise ValueError(f"{attribute.name} must have at most {TEXT_CHARS_MAX} characters")


def are_topics(_: object, attribute: "attrs.Attribute[tuple[str, ...]]", value: tuple[str, ...]) -> None:
    if any(not 0 < len(topic) <= TOPIC_CHARS_MAX for topic in value):
        raise ValueError(f"each of {attribute.name} must have 1 to {TOPIC_CHARS_MAX} characters")


@attrs.frozen
class AtMost:
    """A validator: a number, or a length, of at most ``bound``."""

    bound: int

    def __call__(self, _: object, attribute: "attrs.Attribute[Any]", value: Any) -> None:
        if (value if isinstance(value, int) else len(value)) > self.bound:
            raise ValueError(f"{attribute.name} must be at most {self.bound}")


def at_most(bound: int) -> Callable[[object, "attrs.Attribute[Any]", Any], None]:
    return AtMost(bound)


def not_negative(_: object, attribute: "attrs.Attribute[int]", value: int) -> None:
    if value < 0:
        raise ValueError(f"{attribute.name} must not be negative")


def count(bound: int = 2**63 - 1) -> int:
    """A field: an integer from 0 to ``bound``."""
    return attrs.field(validator=[not_negative, at_most(bound)])


def added_count(bound: int = 2**63 - 1) -> int:
    """A field that its message got later: an integer from 0 to ``bound``, 0 where an earlier version sent it."""
    return codec.added(0, [not_negative, at_most(bound)])


def moment() -> int:
    """A field: milliseconds since 1970, UTC, up to the year 9999."""
    return count(MS_MAX)


def text() -> str:
    """A field: a string of at most ``TEXT_CHARS_MAX`` characters."""
    return attrs.field(validator=is_text)


def digest() -> bytes:
    """A field: 32 bytes."""
    return attrs.field(validator=is_digest)


def identity() -> bytes:
    """A field: a 33-byte compressed public key."""
    return attrs.field(validator=is_key)

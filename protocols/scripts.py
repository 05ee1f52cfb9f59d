"""Bitcoin scripts: pushes with minimal encoding, and PushDrop outputs (BRC-48)."""

from collections.abc import Sequence

import attrs

from protocols.errors import MalformedError
from protocols.limits import PUSHDROP_FIELDS_MAX

OP_0, OP_PUSHDATA1, OP_PUSHDATA2, OP_PUSHDATA4, OP_1NEGATE, OP_1, OP_16 = (
    0x00,
    0x4C,
    0x4D,
    0x4E,
    0x4F,
    0x51,
    0x60,
)
OP_2DROP, OP_DROP, OP_CHECKSIG = 0x6D, 0x75, 0xAC
KEY_BYTES = 33


def push(data: bytes) -> bytes:
    """The one minimal push of ``data``: empty and ``00`` are OP_0, ``01`` to ``10`` hex OP_1 to OP_16."""
    if data in (b"", b"\0"):
        return bytes([OP_0])
    if len(data) == 1 and 1 <= data[0] <= 16:
        return bytes([OP_1 + data[0] - 1])
    if data == b"\x81":
        return bytes([OP_1NEGATE])
    size = len(data)
    if size < OP_PUSHDATA1:
        return bytes([size]) + data
    if size <= 0xFF:
        return bytes([OP_PUSHDATA1, size]) + data
    if size <= 0xFFFF:
        return bytes([OP_PUSHDATA2]) + size.to_bytes(2, "little") + data
    return bytes([OP_PUSHDATA4]) + size.to_bytes(4, "little") + data


def read_push(script: bytes, at: int) -> tuple[bytes, int]:
    """The data pushed by the operation at ``at``, and where the next one starts.

    Raises:
        MalformedError: no push stands there, or it runs past the end.
    """
    if at >= len(script):
        raise MalformedError("the script ends where a push is expected")
    code = script[at]
    if code == OP_0:
        return b"", at + 1
    if code == OP_1NEGATE:
        return b"\x81", at + 1
    if OP_1 <= code <= OP_16:
        return bytes([code - OP_1 + 1]), at + 1
    if code < OP_PUSHDATA1:
        start, size = at + 1, code
    elif code <= OP_PUSHDATA4:
        width = {OP_PUSHDATA1: 1, OP_PUSHDATA2: 2, OP_PUSHDATA4: 4}[code]
        start = at + 1 + width
        size = int.from_bytes(script[at + 1 : start], "little")
    else:
        raise MalformedError(f"opcode {code:#04x} is not a push")
    if start + size > len(script):
        raise MalformedError("a push runs past the end of the script")
    return script[start : start + size], start + size


@attrs.frozen(kw_only=True)
class PushDrop:
    """``<key> OP_CHECKSIG <field>... OP_2DROP... OP_DROP?``: data fields that a key can spend."""

    locking_key: bytes
    fields: tuple[bytes, ...]


def pushdrop(locking_key: bytes, fields: Sequence[bytes]) -> bytes:
    """The locking script, in the form the official token managers read (lock before)."""
    drops = bytes([OP_2DROP]) * (len(fields) // 2) + bytes([OP_DROP]) * (len(fields) % 2)
    return push(locking_key) + bytes([OP_CHECKSIG]) + b"".join(map(push, fields)) + drops


def read_pushdrop(script: bytes) -> PushDrop:
    """Decode a PushDrop script.

    Raises:
        MalformedError: it is none, or not the one minimal encoding of its fields.
    """
    locking_key, at = read_push(script, 0)
    if len(locking_key) != KEY_BYTES or script[at : at + 1] != bytes([OP_CHECKSIG]):
        raise MalformedError("a PushDrop script must start with a public key and OP_CHECKSIG")
    at += 1
    fields: list[bytes] = []
    while at < len(script) and script[at] not in (OP_2DROP, OP_DROP):
        if len(fields) == PUSHDROP_FIELDS_MAX:
            raise MalformedError(f"a PushDrop script must have at most {PUSHDROP_FIELDS_MAX} fields")
        field, at = read_push(script, at)
        fields.append(field)
    if not fields or pushdrop(locking_key, fields) != script:
        raise MalformedError("a PushDrop script must be minimally pushed fields, then their drops")
    return PushDrop(locking_key=locking_key, fields=tuple(fields))

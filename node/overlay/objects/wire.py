"""What nodes ask each other about objects, as request bodies: a letter and its arguments.

``U``, digest, offset (8 bytes), length (4 bytes): a part of an object. The answer is the kind (1 byte), the size of
the whole (8 bytes) and the part; with length 0 it says that the object is there.
``A``, digests: the answerer's own advertisements, each with its length as a CompactSize; 0 for what it lacks.

Nothing to say is an absent answer. Numbers are big-endian.
"""

import struct
from collections.abc import Sequence
from typing import Final

import attrs

from protocols.compact_size import ByteReader, write_sized
from protocols.errors import MalformedError
from protocols.uhrp import DIGEST_BYTES
from storage.objects import Kind

PART, ADVERTS = b"U", b"A"
REQUEST_TAGS: Final = (PART, ADVERTS)
PART_BYTES_MAX: Final = 512 * 1024
DIGESTS_MAX: Final = 16
ADVERT_BYTES_MAX: Final = 4_096
KINDS: Final = {Kind.PAYLOAD: 1, Kind.CERTIFICATE: 2, Kind.POLICY: 3}
KIND_OF: Final = {number: kind for kind, number in KINDS.items()}
ASKED: Final = struct.Struct(f">{DIGEST_BYTES}sQI")
HEAD: Final = struct.Struct(">BQ")


@attrs.frozen(kw_only=True)
class PartRequest:
    """Asks for ``length`` bytes of an object from ``offset`` on."""

    digest: bytes
    offset: int = 0
    length: int = 0


@attrs.frozen(kw_only=True)
class Part:
    """A part of an object of ``size`` bytes."""

    kind: Kind
    size: int
    data: bytes = b""


def write_part_request(asked: PartRequest) -> bytes:
    return PART + ASKED.pack(asked.digest, asked.offset, asked.length)


def read_part_request(body: bytes) -> PartRequest:
    """Raises MalformedError: it is none, or asks for more than ``PART_BYTES_MAX``."""
    if len(body) != len(PART) + ASKED.size or not body.startswith(PART):
        raise MalformedError("no request for a part of an object")
    digest, offset, length = ASKED.unpack_from(body, len(PART))
    if length > PART_BYTES_MAX:
        raise MalformedError(f"parts have at most {PART_BYTES_MAX} bytes")
    return PartRequest(digest=digest, offset=offset, length=length)


def write_part(part: Part) -> bytes:
    return HEAD.pack(KINDS[part.kind], part.size) + part.data


def read_part(body: bytes) -> Part:
    """Raises MalformedError: it is none."""
    if not HEAD.size <= len(body) <= HEAD.size + PART_BYTES_MAX:
        raise MalformedError("no part of an object")
    number, size = HEAD.unpack_from(body)
    if number not in KIND_OF:
        raise MalformedError("an object of no known kind")
    return Part(kind=KIND_OF[number], size=size, data=body[HEAD.size :])


def write_adverts_request(digests: Sequence[bytes]) -> bytes:
    return ADVERTS + b"".join(digests)


def read_adverts_request(body: bytes) -> list[bytes]:
    """Raises MalformedError: it is none, or names more than ``DIGESTS_MAX`` objects."""
    size = len(body) - len(ADVERTS)
    if not body.startswith(ADVERTS) or size % DIGEST_BYTES or not 0 < size <= DIGESTS_MAX * DIGEST_BYTES:
        raise MalformedError("no request for advertisements")
    return [body[at : at + DIGEST_BYTES] for at in range(len(ADVERTS), len(body), DIGEST_BYTES)]


def write_adverts(scripts: Sequence[bytes | None]) -> bytes:
    return b"".join(write_sized(script or b"") for script in scripts)


def read_adverts(body: bytes, count: int) -> list[bytes | None]:
    """Raises MalformedError: they are not ``count``, or too long."""
    if len(body) > count * ADVERT_BYTES_MAX:
        raise MalformedError("advertisements of too many bytes")
    reader = ByteReader(body)
    scripts = [reader.sized() or None for _ in range(count)]
    reader.finish()
    return scripts

"""Requests about objects between nodes: a tag of one byte and its arguments.

``U``, digest, offset (8 bytes), length (4 bytes): a part of an object. The answer is the kind (1 byte), the size of
the whole (8 bytes) and the part; with length 0, no part: the object is there.
``A``, digests: the answerer's own advertisements, each with its length as a CompactSize; 0 for objects it lacks.

A node that has no answer sends an absent one. Numbers are big-endian.
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
PART_REQUEST: Final = struct.Struct(f">{DIGEST_BYTES}sQI")
HEAD: Final = struct.Struct(">BQ")


@attrs.frozen(kw_only=True)
class PartRequest:
    """Requests ``length`` bytes of an object, starting at ``offset``; 0 bytes: whether it is there."""

    digest: bytes
    offset: int = 0
    length: int = 0


@attrs.frozen(kw_only=True)
class Part:
    """A part of an object of ``size`` bytes."""

    kind: Kind
    size: int
    data: bytes = b""


def write_part_request(request: PartRequest) -> bytes:
    return PART + PART_REQUEST.pack(request.digest, request.offset, request.length)


def read_part_request(body: bytes) -> PartRequest:
    """Raises MalformedError: It is not such a request, or for more than ``PART_BYTES_MAX``."""
    if len(body) != len(PART) + PART_REQUEST.size or not body.startswith(PART):
        raise MalformedError(f"a request for a part of an object must have {len(PART) + PART_REQUEST.size} bytes")
    digest, offset, length = PART_REQUEST.unpack_from(body, len(PART))
    if length > PART_BYTES_MAX:
        raise MalformedError(
            f"a request for a part of an object must be for at most {PART_BYTES_MAX} bytes, found {length}"
        )
    return PartRequest(digest=digest, offset=offset, length=length)


def write_part(part: Part) -> bytes:
    return HEAD.pack(KINDS[part.kind], part.size) + part.data


def read_part(body: bytes) -> Part:
    """Raises MalformedError: It is not a part of an object."""
    if not HEAD.size <= len(body) <= HEAD.size + PART_BYTES_MAX:
        raise MalformedError(
            f"a part of an object must have at most {PART_BYTES_MAX} bytes after its head of {HEAD.size}"
        )
    number, size = HEAD.unpack_from(body)
    if number not in KIND_OF:
        raise MalformedError(f"the kind of an object must be one of {sorted(KIND_OF)}, found {number}")
    return Part(kind=KIND_OF[number], size=size, data=body[HEAD.size :])


def write_adverts_request(digests: Sequence[bytes]) -> bytes:
    return ADVERTS + b"".join(digests)


def read_adverts_request(body: bytes) -> list[bytes]:
    """Raises MalformedError: It is not such a request, or for more than ``DIGESTS_MAX`` objects."""
    size = len(body) - len(ADVERTS)
    if not body.startswith(ADVERTS) or size % DIGEST_BYTES or not 0 < size <= DIGESTS_MAX * DIGEST_BYTES:
        raise MalformedError(
            f"a request for advertisements must have 1 to {DIGESTS_MAX} digests of {DIGEST_BYTES} bytes"
        )
    return [body[at : at + DIGEST_BYTES] for at in range(len(ADVERTS), len(body), DIGEST_BYTES)]


def write_adverts(scripts: Sequence[bytes | None]) -> bytes:
    return b"".join(write_sized(script or b"") for script in scripts)


def read_adverts(body: bytes, count: int) -> list[bytes | None]:
    """Raises MalformedError: They are not ``count`` advertisements, or too long."""
    if len(body) > count * ADVERT_BYTES_MAX:
        raise MalformedError(f"advertisements must have at most {ADVERT_BYTES_MAX} bytes each")
    reader = ByteReader(body)
    scripts = [reader.sized() or None for _ in range(count)]
    reader.finish()
    return scripts

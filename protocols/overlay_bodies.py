"""Binary bodies of the overlay services: what ``/submit`` takes (BRC-22), what ``/lookup`` answers (BRC-24)."""

from collections.abc import Sequence
from typing import Final, Protocol

import attrs

from protocols.beef import V2, merge_beefs, read_beef, write_beef
from protocols.compact_size import ByteReader, write_compact_size, write_sized

NO_TRANSACTIONS: Final = V2 + b"\0\0"


class AnsweredOutput(Protocol):
    """An output that a lookup service found."""

    @property
    def beef(self) -> bytes: ...
    @property
    def output_index(self) -> int: ...
    @property
    def context(self) -> bytes | None: ...


@attrs.frozen(kw_only=True)
class Submission:
    """The body of a submission."""

    beef: bytes
    off_chain_values: bytes | None


def read_submission(body: bytes, *, has_off_chain_values: bool) -> Submission:
    """Split the body of ``/submit``; the BEEF is not read here.

    Args:
        has_off_chain_values: What the header ``x-includes-off-chain-values`` says. If so, the body is the length
            of the BEEF, the BEEF, and the values; if not, it is the BEEF.

    Raises:
        MalformedError: the BEEF is shorter than its length says.
    """
    if not has_off_chain_values:
        return Submission(beef=body, off_chain_values=None)
    reader = ByteReader(body)
    return Submission(beef=reader.sized(), off_chain_values=reader.rest())


def write_submission(submission: Submission) -> bytes:
    """The body for ``/submit``."""
    if submission.off_chain_values is None:
        return submission.beef
    return write_sized(submission.beef) + submission.off_chain_values


def write_lookup_answer(outputs: Sequence[AnsweredOutput]) -> bytes:
    """The octet-stream answer of ``/lookup``: outpoints with their contexts, then one BEEF V2 of them all.

    The official resolver reads a txid here in display order, and makes a BEEF of its own for each output, which
    fails where a parent of an unproven transaction is missing: such an answer goes out as JSON.

    Raises:
        MalformedError: the BEEF of an output is none.
    """
    parts = [write_compact_size(len(outputs))]
    beefs = [read_beef(output.beef) for output in outputs]
    for output, beef in zip(outputs, beefs, strict=True):
        parts += (beef.subject[::-1], write_compact_size(output.output_index), write_sized(output.context or b""))
    parts.append(write_beef(merge_beefs(beefs), version=2) if beefs else NO_TRANSACTIONS)
    return b"".join(parts)

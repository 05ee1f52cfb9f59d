"""Positions in the feed: where a stream, a subscription or a webhook stands."""

from typing import Final, NamedTuple

from protocols.errors import ClientFault

WHOLE_BATCH: Final = 999_999_999  # a position past any batch's last
SEQUENCE_DIGITS_MAX: Final = 18
POSITION_DIGITS_MAX: Final = 9


class AheadOfFeedError(ClientFault):
    """A position after the end of the feed. Field ``field``: a JSON pointer, or a parameter's or header's name."""

    code = "ahead-of-feed"


class Cursor(NamedTuple):
    """A position after event ``position`` (1-based) of the batch sealed as ``sequence``.

    A tuple, because cursors are compared for every client and chunk.
    """

    sequence: int
    position: int

    def __str__(self) -> str:
        return str(self.sequence) if self.position >= WHOLE_BATCH else f"{self.sequence}.{self.position}"


START: Final = Cursor(sequence=0, position=0)


def read_cursor(text: str) -> Cursor:
    """The inverse of ``str``: a sequence alone stands after the whole batch.

    Raises:
        ValueError: The text is not a cursor.
    """
    sequence, dot, position = text.strip().partition(".")
    if not _is_number(sequence, SEQUENCE_DIGITS_MAX) or (dot and not _is_number(position, POSITION_DIGITS_MAX)):
        raise ValueError("must be of the form <sequence>.<position>, or <sequence>")
    return Cursor(sequence=int(sequence), position=int(position) if dot else WHOLE_BATCH)


def refuse_ahead(cursor: Cursor, last: int, field: str) -> None:
    """Raise AheadOfFeedError for a position after the batch sealed last, whose sequence is ``last``.

    A client that waits there would miss what is sealed until then: its position is of another node, or of a database
    that was restored from before.
    """
    if cursor.sequence > last:
        raise AheadOfFeedError(
            f"{field}: {cursor} is after the end of the feed, {last}",
            field=field,
            remedy=f"use a place up to {last}, or 0 for everything",
        )


def _is_number(text: str, digits_max: int) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= digits_max

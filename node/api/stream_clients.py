"""The clients of streams, server-sent events and WebSockets alike: what each may, and how many there may be."""

import math
from collections.abc import Awaitable, Callable

import attrs

from node.delivery.cursor import Cursor
from protocols.errors import WorldFault


class TooManyStreamsError(WorldFault):
    code = "too-many-streams"


@attrs.frozen(kw_only=True)
class StreamClient:
    """What a stream knows of its client and of the subscription it serves.

    Attributes:
        may_stay: Asked with every heartbeat: whether the client may still read.
        check_place: Raises AheadOfFeedError for a place where the feed has not come to.
        acknowledge: Called with what the client has taken; None where there is no subscription.
        ends_s: When the subscription expires, by trio's clock.
    """

    may_stay: Callable[[], Awaitable[bool]]
    check_place: Callable[[Cursor], Awaitable[None]]
    acknowledge: Callable[[Cursor], None] | None = None
    ends_s: float = math.inf


class StreamSlots:
    """Slots for ``count_max`` streams."""

    def __init__(self, count_max: int) -> None:
        self._count_max = count_max
        self._taken = 0

    def take(self) -> "StreamSlot":
        """Raises TooManyStreamsError: All slots are taken."""
        if self._taken >= self._count_max:
            raise TooManyStreamsError(f"{self._count_max} streams are served already")
        self._taken += 1
        return StreamSlot(self)

    def give_back(self) -> None:
        self._taken -= 1


class StreamSlot:
    """A slot that is taken; given back once, at the end of the block or before."""

    def __init__(self, slots: StreamSlots) -> None:
        self._slots = slots
        self._is_held = True

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        if self._is_held:
            self._is_held = False
            self._slots.give_back()

"""Puts certified batches in the order of their seal: they are published by several tasks, in any order."""

from contextlib import suppress
from math import inf
from typing import Final

import attrs
import trio

from node.coordination.certified_result import CertifiedResult

PENDING_MAX: Final = 1_024  # published batches that wait to be taken
ROUND_BATCHES_MAX: Final = 64  # batches taken together
GAP_S: Final = 1.0  # a batch sealed before others is waited for so long; then clients read it from the database


@attrs.frozen(kw_only=True)
class BatchRound:
    """Batches that follow one another.

    Attributes:
        missing_before: The sequence that is taken next, where batches before it did not come; None: none are missing.
    """

    batches: tuple[CertifiedResult, ...]
    missing_before: int | None = None


class BatchOrder:
    """Takes batches in as they come and gives them out by sequence. One task takes."""

    def __init__(self) -> None:
        self._next = 0  # the sequence that is given out next; 0 before the first is known
        self._early: dict[int, CertifiedResult] = {}
        self._send, self._receive = trio.open_memory_channel[CertifiedResult](PENDING_MAX)

    def begin(self, sequence: int) -> None:
        """Set the sequence that comes first."""
        self._next = sequence

    def add(self, sealed: CertifiedResult) -> bool:
        """Take a batch in; never waits. Returns False where too many wait: it is lost here."""
        try:
            self._send.send_nowait(sealed)
        except trio.WouldBlock:
            return False
        return True

    async def take(self) -> BatchRound:
        """Wait for batches. The round is empty where only later batches have come so far."""
        missing_before: int | None = None
        with trio.move_on_after(GAP_S if self._early else inf) as patience:
            self._admit(await self._receive.receive())
        with suppress(trio.WouldBlock):
            for _ in range(PENDING_MAX):
                self._admit(self._receive.receive_nowait())
        if patience.cancelled_caught and self._early:
            self._next = missing_before = min(self._early)
        found: list[CertifiedResult] = []
        while len(found) < ROUND_BATCHES_MAX and self._next in self._early:
            found.append(self._early.pop(self._next))
            self._next += 1
        return BatchRound(batches=tuple(found), missing_before=missing_before)

    def _admit(self, sealed: CertifiedResult) -> None:
        if self._next == 0:
            self._next = sealed.sequence
        if sealed.sequence >= self._next:
            self._early[sealed.sequence] = sealed

"""Requests to peers that wait for their answer."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager

import trio

from node.network.transport import PeerUnreachableError
from protocols.framing import REQUEST_ID_MAX, Frame
from protocols.messages import IdentityKey


class PendingRequest:
    """A request under way."""

    def __init__(self, peer: IdentityKey, request_id: int) -> None:
        self.peer = peer
        self.request_id = request_id
        self.done = trio.Event()
        self.frame: Frame | None = None  # stays None where the connection broke


class PendingRequests:
    """The requests under way by their number, which the answer repeats."""

    def __init__(self) -> None:
        self._pending: dict[int, PendingRequest] = {}
        self._ids = itertools.cycle(range(1, REQUEST_ID_MAX))

    def __len__(self) -> int:
        return len(self._pending)

    @contextmanager
    def open(self, peer: IdentityKey) -> Iterator[PendingRequest]:
        """Number a request for as long as the block runs."""
        pending = PendingRequest(peer, next(self._ids))
        self._pending[pending.request_id] = pending
        try:
            yield pending
        finally:
            del self._pending[pending.request_id]

    def answer(self, sender: IdentityKey, frame: Frame) -> None:
        """Take in an answer. One that nothing waits for, or of another peer than the one asked, is dropped."""
        pending = self._pending.get(frame.request_id)
        if pending is not None and pending.peer == sender and not pending.done.is_set():
            pending.frame = frame
            pending.done.set()

    def abandon(self, peer: IdentityKey) -> None:
        """End the requests to a peer whose connection broke: their answers are lost with it."""
        for pending in self._pending.values():
            if pending.peer == peer:
                pending.done.set()


def answer_frame(pending: PendingRequest, timeout_s: float) -> Frame:
    """The answer that has come.

    Raises:
        PeerUnreachableError: None has.
    """
    if pending.frame is None:
        why = "the connection broke" if pending.done.is_set() else f"no answer within {timeout_s} s"
        raise PeerUnreachableError(why)
    return pending.frame

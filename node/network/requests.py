"""Answers peers' requests: one table from the first byte of a request, its tag, to the part that answers it.

An answer is one byte, ``PRESENT`` or ``ABSENT``, and the document. The table is made before the transport that asks
it, and filled once the parts that answer are there.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Final, TypeAlias

from node.network.membership import StrangerError
from node.network.quotas import request_quota
from protocols.errors import WorldFault
from protocols.messages import IdentityKey

ABSENT: Final = b"\0"
PRESENT: Final = b"\1"

Answerer: TypeAlias = Callable[[bytes], Awaitable[bytes]]
"""Answers a whole request, tag included; empty where it has nothing. Raises only ``OverlayError``."""


class TooManyRequestsError(WorldFault):
    """A peer asks more often than it may; it can ask again later."""

    code = "too-many-requests"


class RequestTable:
    """The answerer of each request. Before ``serve``, every request is answered with ``ABSENT``."""

    def __init__(self) -> None:
        self._answerers: Mapping[bytes, Answerer] = {}
        self._quota = request_quota()
        self._admits: Callable[[IdentityKey], bool] = lambda sender: True

    def serve(self, answerers: Mapping[bytes, Answerer], admits: Callable[[IdentityKey], bool]) -> None:
        """Begin to answer.

        Args:
            answerers: By tag.
            admits: Whether a peer has shown that it is a member; others get no answer.
        """
        assert all(len(tag) == 1 for tag in answerers), "a tag is one byte"
        assert not self._answerers, "the table is filled once"
        self._answerers = answerers
        self._admits = admits

    @property
    def tags(self) -> frozenset[bytes]:
        """The tags of requests that are answered."""
        return frozenset(self._answerers)

    async def answer(self, sender: IdentityKey, body: bytes) -> bytes:
        """Answer a peer's request. One that is malformed is answered like one for an absent document.

        Raises:
            StrangerError: the peer has not shown that it is a member.
            TooManyRequestsError: it asks more often than it may.
        """
        if not self._quota.take(sender):
            raise TooManyRequestsError("too many requests: ask again later")
        if not self._admits(sender):
            raise StrangerError("show a membership certificate first")
        answerer = self._answerers.get(body[:1])
        document = await answerer(body) if answerer is not None else b""
        return PRESENT + document if document else ABSENT

"""The fence around what peers open and send, and around the tasks that libp2p starts for them.

libp2p runs its tasks in nurseries of its own: whatever one of them raises would end the whole network, and the node
with it. So each of them runs inside ``PeerFence.contain``.
"""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import structlog
from libp2p.abc import IMuxedConn, INetConn
from libp2p.peer.id import ID

from node.network.p2p.identities import identity_of
from node.runtime.containment import Failure, Quarantine
from protocols.errors import OverlayError, OwnFault, PeerFault
from protocols.messages import IdentityKey

log = structlog.get_logger(__name__)

QUARANTINED = "quarantined"


class PeerFence:
    """Contains failures of peers' items: each strikes its peer, two in a row close the peer's connections.

    For what is certainly this node's own fault (``OwnFault``) nobody is struck.
    """

    def __init__(self, quarantine: Quarantine) -> None:
        self._quarantine = quarantine
        self._strike: Callable[[IdentityKey, str], None] = lambda identity, reason: None
        self._close: Callable[[IdentityKey], None] = lambda identity: None

    def react_by(self, strike: Callable[[IdentityKey, str], None], close: Callable[[IdentityKey], None]) -> None:
        """Set what strikes a peer and what closes its connections. Called once, before peers are served."""
        self._strike = strike
        self._close = close

    @contextmanager
    def contain(
        self, kind: str, identity: IdentityKey | None, sample: bytes = b"", origin: str = ""
    ) -> Iterator[None]:
        """Contain whatever handling an item raises; cancellation passes. The block is left as if it had ended.

        Args:
            kind: See ``Failure``.
            identity: The peer's; None where it is not known.
            sample: The item's first bytes.
            origin: Where it came from, if the identity is not known.
        """
        name = origin if identity is None else identity.hex()
        try:
            with self._quarantine.contain(kind, name, sample, partial(self._failed, identity)):
                yield
        except OwnFault as error:
            self._quarantine.keep(kind, name, sample, error)
        except OverlayError as error:
            log.info("peer.item_failed", kind=kind, peer=name, code=error.code, why=str(error))
            if identity is not None and isinstance(error, PeerFault):
                self._strike(identity, error.code)

    def _failed(self, identity: IdentityKey | None, failure: Failure) -> None:
        if identity is None:
            return
        self._strike(identity, QUARANTINED)
        if failure.closes_origin:
            self._close(identity)


class FencedTasks:
    """A libp2p service's manager whose tasks are fenced. Its daemons are not: they are the service itself."""

    def __init__(self, manager: Any, fence: PeerFence) -> None:
        self._manager = manager
        self._fence = fence

    def __getattr__(self, name: str) -> Any:
        return getattr(self._manager, name)

    def run_task(
        self, task: Callable[..., Awaitable[Any]], *arguments: Any, daemon: bool = False, name: str | None = None
    ) -> None:
        """Start a task of the service."""
        self._manager.run_task(self._run, task, arguments, daemon=daemon, name=name)

    async def _run(self, task: Callable[..., Awaitable[Any]], arguments: tuple[Any, ...]) -> None:
        with self._fence.contain("connection", peer_of(task, arguments), origin=getattr(task, "__name__", "task")):
            await task(*arguments)


def peer_of(task: Callable[..., Awaitable[Any]], arguments: tuple[Any, ...]) -> IdentityKey | None:
    """The peer that a task of libp2p serves: it is an argument, or that of the connection whose method it is."""
    for each in (*arguments, getattr(task, "__self__", None)):
        match each:
            case ID():
                return identity_of(each.to_bytes())
            case IMuxedConn():
                return identity_of(each.peer_id.to_bytes())
            case INetConn():
                return identity_of(each.muxed_conn.peer_id.to_bytes())
    return None

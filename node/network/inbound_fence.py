"""The fence around what peers send: frames, gossip and answers."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final, Protocol

import structlog

from node.runtime.containment import Failure, Quarantine
from protocols.errors import OverlayError, OwnFault, WorldFault
from protocols.messages import IdentityKey

log = structlog.get_logger(__name__)

QUARANTINED: Final = "quarantined"


class Disciplines(Protocol):
    """As much of a transport as the fence takes."""

    def strike(self, identity: IdentityKey, reason: str) -> None:
        """Count a fault of a peer."""

    def disconnect(self, identity: IdentityKey) -> None:
        """Close the connections to a peer."""


class InboundFence:
    """Drops what is at fault or reaches a bug, and strikes its sender; two bugs in a row close its connections.

    For what is certainly this node's own fault (``OwnFault``) nobody is struck.
    """

    def __init__(
        self, quarantine: Quarantine, transport: Disciplines, on_fault: Callable[[str], None] = lambda code: None
    ) -> None:
        """``on_fault``: called with the code of each fault."""
        self._quarantine = quarantine
        self._transport = transport
        self._on_fault = on_fault

    @contextmanager
    def contain(self, kind: str, sender: IdentityKey, data: bytes = b"") -> Iterator[None]:
        """Contain what handling an item of a peer raises. The block is left as if it had ended.

        Args:
            kind: See ``node.runtime.containment.Failure``.
            sender: Whose item it is.
            data: The item.

        Raises:
            WorldFault: the node's surroundings failed, which is not the sender's fault.
        """
        try:
            with self._quarantine.contain(kind, sender.hex(), data, partial(self._on_failure, sender)):
                yield
        except WorldFault:
            raise
        except OwnFault as fault:
            self._quarantine.keep(kind, sender.hex(), data, fault)
        except OverlayError as fault:
            log.warning("peer.fault", peer=sender.hex(), code=fault.code, why=str(fault))
            self._strike(sender, fault.code)

    def drop(self, sender: IdentityKey, code: str) -> None:
        """Count an item that is dropped without a strike."""
        log.debug("peer.item_dropped", peer=sender.hex(), code=code)
        self._on_fault(code)

    def _on_failure(self, sender: IdentityKey, failure: Failure) -> None:
        self._strike(sender, QUARANTINED)
        if failure.closes_origin:
            self._transport.disconnect(sender)

    def _strike(self, sender: IdentityKey, code: str) -> None:
        self._on_fault(code)
        self._transport.strike(sender, code)

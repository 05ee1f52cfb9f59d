"""A request on its way from the parser to its commit, and what comes back to it."""

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import trio

from node.ingest.backlog import Reservation
from node.ingest.responses import IngestAnswer
from node.worker.parsing.admission import Admitted
from protocols.errors import OverlayError
from protocols.messages import IdentityKey


@attrs.frozen(kw_only=True)
class SourceRead:
    """What comes with events of a source that this node reads itself, or that proved itself by a secret.

    Attributes:
        mark: How far the source is read with these events; None where the source keeps that itself.
        heads: The first bytes of each event as it was sent, kept for those that are rejected.
        is_proven: The source proved itself, by its secret.
    """

    mark: Mapping[str, Any] | None
    heads: tuple[bytes, ...]
    is_proven: bool = False


@attrs.frozen(kw_only=True)
class EventLevels:
    """The levels that a policy's level rules ask for, parallel to ``Admitted.lines``; None: they ask for none."""

    policy_hash: bytes
    levels: Sequence[str | None]


@attrs.frozen(kw_only=True)
class LevelsNeeded:
    """The policy of the request's source has level rules: they must be evaluated before the request is committed."""

    policy_hash: bytes
    policy: bytes


class QueuedRequest:
    """An admitted request that waits for its commit. ``outcome`` is set before ``done``.

    Attributes:
        room: Its events, counted until it is committed.
        levels: Of its events, where they were evaluated already, and by which policy.
    """

    def __init__(
        self,
        *,
        admitted: Admitted,
        room: Reservation,
        caller: IdentityKey | None,
        ingestion_id: str,
        started_s: float,
        read: SourceRead | None = None,
        levels: EventLevels | None = None,
    ) -> None:
        self.admitted = admitted
        self.room = room
        self.caller = caller
        self.ingestion_id = ingestion_id
        self.started_s = started_s
        self.read = read
        self.levels = levels
        self.outcome: IngestAnswer | OverlayError | LevelsNeeded | None = None
        self.done = trio.Event()

    def finish(self, outcome: IngestAnswer | OverlayError | LevelsNeeded) -> None:
        """Answer it; the first answer counts."""
        if self.done.is_set():
            return
        self.outcome = outcome
        self.done.set()

    def with_levels(self, levels: EventLevels) -> "QueuedRequest":
        """The same request, to be queued once more."""
        return QueuedRequest(
            admitted=self.admitted,
            room=self.room,
            caller=self.caller,
            ingestion_id=self.ingestion_id,
            started_s=self.started_s,
            read=self.read,
            levels=levels,
        )

    def is_of(self, identity_key: str | None) -> bool:
        """Whether its caller proved to be this identity, 66 hex digits."""
        return self.caller is not None and self.caller.hex() == identity_key

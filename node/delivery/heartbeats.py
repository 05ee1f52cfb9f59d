"""Heartbeats: made and signed once an interval for all clients."""

from typing import Any

import attrs
import orjson
import trio

from node.delivery.cursor import Cursor
from node.delivery.feed import Feed
from node.runtime.clock import clock_ms
from protocols.certificate import rfc3339
from protocols.checkpoint import checkpoint_document
from protocols.keys import PrivateKey


@attrs.frozen(kw_only=True)
class Heartbeat:
    """A heartbeat. A client that was sent all it was handed has then all that it wants up to ``head``."""

    head: Cursor
    document: dict[str, Any]
    body: bytes

    def at(self, cursor: Cursor) -> bytes:
        """With the client's own cursor: of one that starts, or reads stored batches, or did not take all."""
        return orjson.dumps({**self.document, "place": str(cursor)})

    def message_for(self, cursor: Cursor) -> bytes:
        """The message to a client that stands at ``cursor``."""
        return self.body if cursor >= self.head else self.at(cursor)


class Heartbeats:
    """Makes heartbeats: one for every tick of a clock that all clients follow."""

    def __init__(self, *, feed: Feed, key: PrivateKey, network: str, interval_s: float) -> None:
        self._interval_s = interval_s
        self._feed = feed
        self._key = key
        self._network = network
        self._tick = -1
        self._heartbeat: Heartbeat | None = None

    def next_s(self) -> float:
        """When clients get their next heartbeat, by trio's clock."""
        return (trio.current_time() // self._interval_s + 1) * self._interval_s

    def current(self) -> Heartbeat:
        """The heartbeat of this tick."""
        tick = int(trio.current_time() // self._interval_s)
        if self._heartbeat is None or tick != self._tick:
            self._tick, self._heartbeat = tick, self._make()
        return self._heartbeat

    def _make(self) -> Heartbeat:
        stats, head, timestamp = self._feed.stats, self._feed.handed, rfc3339(clock_ms())
        document = {
            "type": "heartbeat",
            "timestamp": timestamp,
            "activeSubscriptions": stats.subscriptions,
            "eventsProcessed": stats.events,
            "head": checkpoint_document(
                self._key,
                network=self._network,
                place=str(head),
                batch_id=self._feed.last_batch,
                timestamp=timestamp,
            ),
        }
        return Heartbeat(head=head, document=document, body=orjson.dumps(document))

"""How much one peer, and strangers together, may have this node take in: token buckets by key.

A key costs nothing to make, so strangers, who have not advertised here, share one bucket for what they gossip. What
is past a quota is dropped, and its sender is not struck: a node that catches up after an outage sends much at once.
"""

from collections.abc import Callable
from typing import Final

import trio

from node.runtime.token_bucket import Rate, TokenBucket, TokenBuckets
from protocols.messages import IdentityKey

FRAMES: Final = Rate(per_s=2_000.0, burst=40_000.0)
"""Frames of a peer by stream, of all kinds: a coordinator of 20 batches a second sends an agent about 200."""
FRAMES_OF_A_KIND: Final = Rate(per_s=500.0, burst=20_000.0)
"""Frames of a peer of one message type: about 20 a second, and a backlog of thousands of batches at once."""
STRANGER_FRAMES: Final = Rate(per_s=20.0, burst=200.0)
"""Frames of a peer by stream that has not advertised here: its first messages may come before its advertisement."""
GOSSIP: Final = Rate(per_s=50.0, burst=1_000.0)
"""Gossip of a node that has advertised here: announcements, its own advertisement, notices, proofs."""
STRANGER_GOSSIP: Final = Rate(per_s=20.0, burst=512.0)
"""Gossip of all who have not advertised here, together: what joins of 500 nodes at once bring."""
REQUESTS: Final = Rate(per_s=500.0, burst=5_000.0)
"""Requests of a peer: a node that catches up asks for a page of the log and 64 certificates at a time."""
PEERS_MAX: Final = 4_096
KINDS_MAX: Final = 4 * PEERS_MAX


class InboundQuotas:
    """Decides what is taken in from whom."""

    def __init__(
        self, is_known: Callable[[IdentityKey], bool], clock: Callable[[], float] = trio.current_time
    ) -> None:
        """Args:
        is_known: Whether an identity advertises in this network, or did in an earlier run.
        clock: Seconds, never going back.
        """
        self._is_known = is_known
        self._frames = TokenBuckets[IdentityKey](FRAMES, clock, PEERS_MAX)
        self._kinds = TokenBuckets[tuple[IdentityKey, str]](FRAMES_OF_A_KIND, clock, KINDS_MAX)
        self._stranger_frames = TokenBuckets[IdentityKey](STRANGER_FRAMES, clock, PEERS_MAX)
        self._gossip = TokenBuckets[IdentityKey](GOSSIP, clock, PEERS_MAX)
        self._clock = clock
        self._stranger_gossip: TokenBucket | None = None

    def take_frame(self, sender: IdentityKey) -> bool:
        """Whether a frame is taken in that came by stream, whatever it holds."""
        return (self._frames if self._is_known(sender) else self._stranger_frames).take(sender)

    def take_kind(self, sender: IdentityKey, kind: str) -> bool:
        """Whether a message of a kind is taken in that came by stream."""
        return self._kinds.take((sender, kind))

    def take_gossip(self, origin: IdentityKey) -> bool:
        """Whether a gossiped message of an origin is taken in."""
        if self._is_known(origin):
            return self._gossip.take(origin)
        if self._stranger_gossip is None:
            self._stranger_gossip = TokenBucket(STRANGER_GOSSIP, self._clock)
        return self._stranger_gossip.take()


def request_quota(clock: Callable[[], float] = trio.current_time) -> TokenBuckets[IdentityKey]:
    """The buckets of peers' requests."""
    return TokenBuckets[IdentityKey](REQUESTS, clock, PEERS_MAX)

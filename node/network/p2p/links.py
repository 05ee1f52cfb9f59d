"""One link per peer: what waits to be sent to it, how much it lets us send, and when to dial it again.

Each side writes on a stream it opened itself and reads from the one the other opened, so they need not agree on
who opens it. Flow control is by credit: the receiver reports now and then how much it has taken off the stream, and
the sender never has more than ``WINDOW`` outstanding. A receiver can then read the stream at all times, without
holding more than that, and a slow one leaves the others' traffic and the connection alone.
"""

import random
from collections import deque
from collections.abc import Iterable
from typing import Final

import trio

from protocols.framing import Frame, FrameKind, encode_frame
from protocols.messages import IdentityKey

WINDOW: Final = 16 * 1024 * 1024  # outstanding cost on one stream; above the largest frame
GRANT_EVERY: Final = WINDOW // 8
FRAME_COST: Final = 256  # what a frame costs beside its bytes: bounds how many small ones may wait
QUEUE_FRAMES_MAX: Final = 2_048
QUEUE_BYTES_MAX: Final = 32 * 1024 * 1024
WRITE_BYTES: Final = 65_000  # fits one yamux frame in one noise message: 65,519 less 12
REDIAL_S_FIRST: Final = 0.2
ASK_BYTES_MAX: Final = 256 * 1024  # a request's body; answers may be as large as any frame
ALIVE: Final = encode_frame(FrameKind.ALIVE, b"")
CREDIT_BYTES: Final = 8


def cost_of(wire_bytes: int) -> int:
    """What a frame takes of the window, on both sides."""
    return wire_bytes + FRAME_COST


class Outbox:
    """Frames waiting for a peer, and the credit of the stream they leave by.

    Requests and answers go first and need no credit: they are bounded by the number of requests under way, and
    an answer stuck behind work that the asker does not take before it has the answer would be a deadlock.
    """

    def __init__(self) -> None:
        self._frames: deque[bytes] = deque()
        self._urgent: deque[bytes] = deque()
        self._bytes = 0
        self._urgent_bytes = 0
        self._sent = 0
        self._credited = 0
        self._news = trio.Event()
        self._room = trio.Event()

    def __len__(self) -> int:
        return len(self._frames) + len(self._urgent)

    def full(self, *, urgent: bool = False) -> bool:
        """Whether a sender has to wait."""
        frames, waiting = (self._urgent, self._urgent_bytes) if urgent else (self._frames, self._bytes)
        return len(frames) >= QUEUE_FRAMES_MAX or waiting >= QUEUE_BYTES_MAX

    def drained(self) -> bool:
        """Whether at most half of the room for one-way frames is taken."""
        return len(self._frames) <= QUEUE_FRAMES_MAX // 2 and self._bytes <= QUEUE_BYTES_MAX // 2

    def put(self, frame: bytes, *, urgent: bool = False) -> None:
        """Append a frame. The caller asks ``full`` first."""
        if urgent:
            self._urgent.append(frame)
            self._urgent_bytes += len(frame)
        else:
            self._frames.append(frame)
            self._bytes += len(frame)
        self._news.set()

    async def room(self, *, urgent: bool = False) -> None:
        """Wait until it is not full."""
        while self.full(urgent=urgent):
            self._room = trio.Event() if self._room.is_set() else self._room
            await self._room.wait()

    async def news(self) -> None:
        """Wait for a frame or for credit."""
        await self._news.wait()

    def take(self) -> bytes:
        """The next frames that may go, joined, about one write's worth; empty if none may."""
        taken: list[bytes] = []
        total = 0
        while self._urgent and total < WRITE_BYTES:
            taken.append(self._urgent.popleft())
            total += len(taken[-1])
        self._urgent_bytes -= total
        while self._frames and total < WRITE_BYTES:
            frame = self._frames[0]
            if self._sent - self._credited + cost_of(len(frame)) > WINDOW:
                break
            taken.append(self._frames.popleft())
            total += len(frame)
            self._bytes -= len(frame)
            self._sent += cost_of(len(frame))
        if taken:
            self._room.set()
        else:
            self._news = trio.Event()
        return taken[0] if len(taken) == 1 else b"".join(taken)

    def credit(self, frame: Frame) -> bool:
        """Note what the peer has taken. False if it claims to have taken what was never sent."""
        total = int.from_bytes(frame.body, "big")
        if len(frame.body) != CREDIT_BYTES or total > self._sent:
            return False
        self._credited = max(self._credited, total)
        if self._frames:
            self._news.set()
        return True

    def renew(self) -> None:
        """Begin on a new stream: what waits stays, the credit starts anew."""
        self._sent = self._credited = 0
        if self._frames:
            self._news.set()

    def clear(self) -> int:
        """Drop the frames that wait. Returns how many."""
        dropped = len(self)
        self._frames.clear()
        self._urgent.clear()
        self._bytes = self._urgent_bytes = 0
        self._room.set()
        return dropped


class Intake:
    """The receiver's side of the credit of one stream."""

    def __init__(self) -> None:
        self._received = 0
        self._taken = 0
        self._granted = 0

    def receive(self, frame: Frame) -> bool:
        """Count a frame in. False if the sender had no credit for it."""
        self._received += cost_of(frame.wire_bytes)
        return self._received - self._taken <= WINDOW

    def take(self, frame: Frame) -> bytes | None:
        """Count a frame as dealt with. Returns the CREDIT frame to send, once there is enough to report."""
        self._taken += cost_of(frame.wire_bytes)
        if self._taken - self._granted < GRANT_EVERY:
            return None
        self._granted = self._taken
        return encode_frame(FrameKind.CREDIT, self._taken.to_bytes(CREDIT_BYTES, "big"))


class Link:
    """A peer: its addresses, the frames that wait for it, the state of its connection."""

    def __init__(self, identity: IdentityKey) -> None:
        self.identity = identity
        self.outbox = Outbox()
        self.addresses: tuple[str, ...] = ()
        self.keep = False  # reconnect when the connection is lost
        self.bootstrap = False
        self.stuck = False  # a sender waited for room in vain, and it has not drained since
        self.failures = 0  # attempts to reach it that failed in a row
        self.refusal = ""  # why it takes no stream of ours though it can be reached
        self.connected_since_ms: int | None = None
        self.heard_s = trio.current_time()  # when it last sent anything, on the loop's clock
        self.scope = trio.CancelScope()  # of the task that serves it
        self._due = trio.Event()
        self._next_address = 0

    @property
    def connected(self) -> bool:
        """Whether our stream to it stands."""
        return self.connected_since_ms is not None

    def learn(self, addresses: Iterable[str], addresses_max: int) -> None:
        """Replace its addresses."""
        fresh = tuple(dict.fromkeys(addresses))[:addresses_max]
        if fresh and fresh != self.addresses:
            self.addresses = fresh
            self._next_address = 0
            self.poke()

    def next_address(self) -> str | None:
        """The address to try now: they take turns."""
        if not self.addresses:
            return None
        self._next_address += 1
        return self.addresses[(self._next_address - 1) % len(self.addresses)]

    def poke(self) -> None:
        """End the pause before the next attempt: something about the peer has changed."""
        self.failures = 0
        self._due.set()

    def want(self) -> None:
        """End the pause before the next attempt: there is something to send."""
        if not self.connected:
            self._due.set()

    async def pause(self, delay_s: float) -> None:
        """Wait before the next attempt, unless poked."""
        with trio.move_on_after(delay_s):
            await self._due.wait()
        self._due = trio.Event()

    def redial_s(self, redial_s_max: float, rng: random.Random) -> float:
        """How long to wait after so many failures: doubling, with jitter, so that nodes do not dial in step."""
        delay_s: float = min(REDIAL_S_FIRST * 2 ** min(self.failures, 16), redial_s_max)
        return delay_s * rng.uniform(0.5, 1.0)

"""The simulated network: links between nodes that lose, delay and cut, and the transport of a node over them."""

import contextlib
import hashlib
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import attrs
import trio
import trio.testing

from node.network.transport import Answer, Gossip, InboundFrame, PeerUnreachableError, PeerView
from protocols.errors import OverlayError
from protocols.messages import IdentityKey

if TYPE_CHECKING:
    from tests.simulation.member import Member

STORM_S = 25.0
INBOX_MAX = 256


@attrs.frozen(kw_only=True)
class Faults:
    """Chances per frame, per commit; how many and how long."""

    drop: float = 0.0
    delay_ms: int = 5
    partitions: int = 0
    crashes: int = 0
    commit_fails: float = 0.0
    skew_ms: int = 0
    stalls: float = 0.0
    liars: int = 0
    gone: bool = False

    @classmethod
    def drawn(cls, rng: random.Random) -> "Faults":
        """Calm seeds and wild ones."""
        return cls(
            drop=rng.choice((0.0, 0.0, 0.02, 0.1)),
            delay_ms=rng.choice((2, 20, 200)),
            partitions=rng.choice((0, 1, 2)),
            crashes=rng.choice((0, 1, 3)),
            commit_fails=rng.choice((0.0, 0.0, 0.003)),
            skew_ms=rng.choice((0, 500, 5_000)),
            stalls=rng.choice((0.0, 0.0, 0.05)),
            liars=rng.choice((0, 0, 1)),
            gone=rng.random() < 0.2,
        )


class Links:
    """The links between the members of a network, as a function of its seed."""

    members: "list[Member]"
    by_identity: "dict[IdentityKey, Member]"

    def __init__(self, seed: int, rng: random.Random, faults: Faults) -> None:
        self.seed = seed
        self.rng = rng
        self.faults = faults
        self.trace = hashlib.sha256()
        self.sent: Counter[str] = Counter()
        self.cuts: list[frozenset[IdentityKey]] = []
        self._last_s: dict[tuple[IdentityKey, IdentityKey], float] = defaultdict(float)
        self._nursery: trio.Nursery | None = None

    @property
    def stormy(self) -> bool:
        return 3.0 < trio.current_time() < STORM_S

    def chance(self, probability: float) -> bool:
        return probability > 0 and self.stormy and self.rng.random() < probability

    def transports(self) -> "dict[IdentityKey, SimulatedTransport]":
        return {
            member.identity: member.transport
            for member in self.members
            if member.transport is not None and member.transport.up
        }

    def is_connected(self, one: IdentityKey, other: IdentityKey) -> bool:
        up = self.transports()
        if one not in up or other not in up or not (other in up[one].known or one in up[other].known):
            return False
        return not (self.stormy and any((one in side) != (other in side) for side in self.cuts))

    def reached_from(self, identity: IdentityKey) -> list[IdentityKey]:
        """Whom gossip of a node reaches, from neighbour to neighbour."""
        reached, border = {identity}, [identity]
        others = set(self.transports())
        while border:
            here = border.pop()
            new = {key for key in others - reached if self.is_connected(here, key)}
            reached |= new
            border += new
        return sorted(reached)

    def is_reached(self, sender: IdentityKey, to: IdentityKey) -> bool:
        return to in self.reached_from(sender)

    def carry(
        self, sender: IdentityKey, to: IdentityKey, carrier: str, data: bytes, hand_over: Callable[[], None]
    ) -> None:
        """Bring bytes to a node after a while, in the order of the link, or lose them."""
        if self.chance(self.faults.drop):
            return
        assert self._nursery is not None
        link = sender, to
        at_s = trio.current_time() + self.rng.uniform(0.0005, self.faults.delay_ms / 1000)
        at_s = self._last_s[link] = max(at_s, self._last_s[link] + 1e-6)
        self._nursery.start_soon(self._bring, link, at_s, carrier, data, hand_over)

    async def _bring(
        self,
        link: tuple[IdentityKey, IdentityKey],
        at_s: float,
        carrier: str,
        data: bytes,
        hand_over: Callable[[], None],
    ) -> None:
        lives = self.by_identity[link[1]].lives
        await trio.sleep_until(at_s)
        passes = self.is_reached if carrier == "gossip" else self.is_connected
        if passes(*link) and self.by_identity[link[1]].lives == lives:
            self.sent[carrier] += 1
            digest = hashlib.sha256(data).hexdigest()[:16]
            self.note(f"{trio.current_time():.6f} {link[0].hex()[:8]}>{link[1].hex()[:8]} {carrier} {digest}")
            hand_over()

    def note(self, line: str) -> None:
        self.trace.update(line.encode() + b"\n")


class SimulatedTransport:
    """``node.network.transport.Transport`` over the simulated network."""

    def __init__(self, links: Links, identity: IdentityKey) -> None:
        self.links = links
        self.identity = identity
        self.addresses = (f"/ip4/10.0.0.1/tcp/4001/p2p/{identity.hex()}",)
        self.up = True
        self.known: set[IdentityKey] = set()
        self.struck: Counter[str] = Counter()
        self.started_ms = int(trio.current_time() * 1000)
        self._gossip = trio.open_memory_channel[Gossip](INBOX_MAX)
        self._inbound = trio.open_memory_channel[InboundFrame](INBOX_MAX)
        self.asked = trio.open_memory_channel[tuple[IdentityKey, bytes, "Reply"]](1_000)

    def peers(self) -> tuple[PeerView, ...]:
        others = self.links.transports()
        mutual = {key for key, other in others.items() if key in self.known or self.identity in other.known}
        return tuple(
            PeerView(
                identity=key,
                addresses=(),
                connected=self.links.is_connected(self.identity, key),
                connected_since_ms=0,
                queued=0,
            )
            for key in sorted((mutual | self.known) - {self.identity})
        )

    def learn(self, identity: IdentityKey, addresses: Iterable[str]) -> None:
        if identity != self.identity:
            self.known.add(identity)

    def forget(self, identity: IdentityKey) -> None:
        self.known.discard(identity)

    def follow(self, bootstrap: Sequence[str], members: frozenset[IdentityKey] | None) -> None:
        raise AssertionError("its settings never change")

    def strike(self, identity: IdentityKey, reason: str) -> None:
        self.struck[reason] += 1

    def disconnect(self, identity: IdentityKey) -> None:
        """Connections here are never closed by a node."""

    def gossip(self) -> trio.MemoryReceiveChannel[Gossip]:
        return self._gossip[1]

    def inbound(self) -> trio.MemoryReceiveChannel[InboundFrame]:
        return self._inbound[1]

    async def publish(self, topic: str, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        for key in self.links.reached_from(self.identity):
            if key != self.identity:
                self.links.carry(self.identity, key, "gossip", data, partial(self._hear, key, topic, data))

    def _hear(self, key: IdentityKey, topic: str, data: bytes) -> None:
        heard = Gossip(topic=topic, sender=self.identity, data=data)
        with contextlib.suppress(trio.WouldBlock):  # what comes while it is full is dropped
            self.links.transports()[key]._gossip[0].send_nowait(heard)

    async def send(self, peer: IdentityKey, frame: bytes) -> None:
        await trio.lowlevel.checkpoint()
        if not self.links.is_connected(self.identity, peer):
            raise PeerUnreachableError("not connected", peer=peer.hex())
        delivery = InboundFrame(sender=self.identity, frame=frame)

        def hand_over() -> None:
            with contextlib.suppress(trio.WouldBlock):
                self.links.transports()[peer]._inbound[0].send_nowait(delivery)

        self.links.carry(self.identity, peer, "stream", frame, hand_over)

    async def request(self, peer: IdentityKey, body: bytes, timeout_s: float) -> bytes:
        reply = Reply()

        def ask() -> None:
            with contextlib.suppress(trio.WouldBlock):
                self.links.transports()[peer].asked[0].send_nowait((self.identity, body, reply))

        if not self.links.is_connected(self.identity, peer):
            await trio.lowlevel.checkpoint()
            raise PeerUnreachableError("not connected", peer=peer.hex())
        self.links.carry(self.identity, peer, "request", body, ask)
        with trio.move_on_after(timeout_s):
            await reply.done.wait()
            if reply.body is not None:
                return reply.body
        raise PeerUnreachableError("no answer", peer=peer.hex())

    async def serve(self, answer: Answer) -> None:
        """Answer requests with this node's clock, each in a task of its own."""
        async with trio.open_nursery() as nursery:
            async for sender, body, reply in self.asked[1]:
                nursery.start_soon(self._answer, answer, sender, body, reply)

    async def _answer(self, answer: Answer, sender: IdentityKey, body: bytes, reply: "Reply") -> None:
        found: bytes | None
        try:
            found = await answer(sender, body)
        except OverlayError:
            found = None
        self.links.carry(self.identity, sender, "answer", found or b"", partial(reply.give, found))


class Reply:
    def __init__(self) -> None:
        self.done = trio.Event()
        self.body: bytes | None = None

    def give(self, body: bytes | None) -> None:
        self.body = body
        self.done.set()

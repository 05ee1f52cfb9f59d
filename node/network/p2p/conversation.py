"""Talking to one peer over the stream that this node opened to it: frames out, credit in."""

import trio

from node.network.p2p.links import ALIVE, Link
from node.network.p2p.streams import Wire
from protocols.errors import MalformedError
from protocols.framing import FrameKind, FrameReader

ALIVE_EVERY = 3.0  # signs of life in one time of allowed silence


async def converse(link: Link, wire: Wire, silence_s: float) -> None:
    """Write what waits for a peer, and read the credit that it gives, until the stream ends.

    Args:
        silence_s: A sign of life is written at least ``ALIVE_EVERY`` times within it.

    Raises:
        ExceptionGroup: Of ``PeerFault``: the peer broke the protocol; of ``LINK_ERRORS``: the stream ended.
    """
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_write, link, wire, silence_s)
        await _read_credit(link, wire)


async def _write(link: Link, wire: Wire, silence_s: float) -> None:
    """Write what waits. What gathers while one write is under way goes with the next: no timer beats that."""
    while True:
        data = link.outbox.take()
        if not data:
            with trio.move_on_after(silence_s / ALIVE_EVERY) as waited:
                await link.outbox.news()
            if not waited.cancelled_caught:
                continue
            data = ALIVE
        await wire.write(data)


async def _read_credit(link: Link, wire: Wire) -> None:
    reader = FrameReader()
    while True:
        for frame in reader.feed(await wire.read()):
            if frame.kind is not FrameKind.CREDIT or not link.outbox.credit(frame):
                raise MalformedError(f"{frame.kind.name} where only true credit belongs")

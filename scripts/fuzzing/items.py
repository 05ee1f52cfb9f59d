"""The items of a run: item ``n`` of a seed is always the same, but for times and for what the node named."""

from collections.abc import Mapping
from typing import Final

import attrs

from node.network.receiver import GOSSIPED
from protocols.messages import Evidence, Manifest, Message
from scripts.fuzzing.messages import classes
from scripts.fuzzing.records import FORMS
from scripts.fuzzing.upstream import SETTINGS
from scripts.fuzzing.values import Draw

ALONE: Final = frozenset({Manifest, Evidence})
"""Messages that are part of others: a node refuses them on their own, and strikes who sends them."""
STRIKING: Final = 0.002  # of messages, the part that are of those, or come by the wrong carrier


@attrs.frozen(kw_only=True)
class Part:
    """How often a kind of item is drawn."""

    group: str
    weight: float


PARTS: Final[Mapping[str, Part]] = {
    "frame": Part(group="messages", weight=50),
    "gossip": Part(group="messages", weight=4),
    "ask": Part(group="messages", weight=12),
    "ingest": Part(group="records", weight=1.7),
    "polled": Part(group="records", weight=0.03),
    "document": Part(group="documents", weight=6.5),
    "request": Part(group="requests", weight=14),
    "socket": Part(group="requests", weight=0.3),
}
"""What is drawn, by its carrier."""
GROUPS: Final = tuple(dict.fromkeys(part.group for part in PARTS.values()))

GOSSIP_CLASSES: Final = tuple(cls for cls in classes() if cls in GOSSIPED)
STREAM_CLASSES: Final = tuple(cls for cls in classes() if cls not in GOSSIPED and cls not in ALONE)
BY_NAME: Final = {cls.__name__: cls for cls in classes()}


EVEN_EVERY: Final = 20
"""One item of so many is of the next kind in turn, so that none is rare, however little its carrier weighs."""


@attrs.frozen(kw_only=True)
class Item:
    """What is to be sent: how, and which of its kind. The rest is drawn from ``draw`` when it is sent."""

    number: int
    carrier: str
    kind: str
    draw: Draw = attrs.field(repr=False, eq=False)

    @property
    def group(self) -> str:
        return PARTS[self.carrier].group

    @property
    def message_class(self) -> type[Message]:
        return BY_NAME[self.kind]


class Items:
    """Draws items."""

    def __init__(
        self, seed: str, *, tags: tuple[bytes, ...], operations: tuple[str, ...], changing: tuple[str, ...],
        sockets: tuple[str, ...], groups: tuple[str, ...] = GROUPS,
    ) -> None:  # fmt: skip
        self._seed = seed
        self._weights = {name: part.weight for name, part in PARTS.items() if part.group in groups}
        self._kinds: dict[str, tuple[str, ...]] = {
            "frame": tuple(cls.__name__ for cls in STREAM_CLASSES),
            "gossip": tuple(cls.__name__ for cls in GOSSIP_CLASSES),
            "ask": tuple(tag.decode() for tag in tags),
            "ingest": tuple(FORMS),
            "polled": tuple(SETTINGS),
            "document": changing,
            "request": operations,
            "socket": sockets,
        }
        self.kinds = tuple((carrier, kind) for carrier in self._weights for kind in self._kinds[carrier])

    def item(self, number: int) -> Item:
        draw = Draw(f"{self._seed}:{number}")
        if number % EVEN_EVERY == 0:
            carrier, kind = self.kinds[number // EVEN_EVERY % len(self.kinds)]
            return Item(number=number, carrier=carrier, kind=kind, draw=draw)
        carrier = draw.weighted(self._weights)
        is_message = carrier in ("frame", "gossip")
        kind = _message(draw, carrier).__name__ if is_message else draw.pick(self._kinds[carrier])
        return Item(number=number, carrier=carrier, kind=kind, draw=draw)


def _message(draw: Draw, carrier: str) -> type[Message]:
    if draw.chance(STRIKING):
        return draw.pick((*ALONE_IN_ORDER, *(GOSSIP_CLASSES if carrier == "frame" else STREAM_CLASSES)))
    return draw.pick(GOSSIP_CLASSES if carrier == "gossip" else STREAM_CLASSES)


ALONE_IN_ORDER: Final = tuple(cls for cls in classes() if cls in ALONE)

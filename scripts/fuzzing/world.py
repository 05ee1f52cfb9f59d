"""What the items of a run are about: the node, keys, sources and policies that are there, and what it said so far."""

import hashlib
from collections import deque
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

import attrs

from node.runtime.clock import clock_ms
from node.runtime.keyring import Keyring
from protocols.keys import PrivateKey
from protocols.messages import IdentityKey
from scripts.fuzzing.values import Draw

KEPT: Final = "keep-"  # begins the ids of what must stay
LIVE_MAX: Final = 256  # of each kind of thing that the node named


class Live:
    """Names of things that the node made, by kind: the latest."""

    def __init__(self) -> None:
        self._kept: dict[str, deque[Any]] = {}

    def add(self, kind: str, value: Any) -> None:
        self._kept.setdefault(kind, deque(maxlen=LIVE_MAX)).append(value)

    def pick(self, draw: Draw, kind: str) -> Any | None:
        """One of a kind; None where there is none. What else is drawn does not depend on that."""
        at = draw.rng.random()
        kept = self._kept.get(kind)
        return kept[int(at * len(kept))] if kept else None


@attrs.frozen(kw_only=True)
class World:
    """What generators of items know.

    Attributes:
        policies: Canonical documents of policies that the node has, by their hashes.
        sources: Ids of sources that take events and stay, with a sample of the data that each expects.
        kept: Ids of what must stay, beside those that begin with ``KEPT``.
    """

    seed: str
    network: str
    node: IdentityKey
    agents: tuple[Keyring, ...]
    policies: Mapping[bytes, bytes]
    sources: Mapping[str, Sequence[Any]]
    kept: frozenset[str] = frozenset()
    live: Live = attrs.field(factory=Live)

    def stays(self, name: str) -> bool:
        """Whether no call may change what has this id."""
        return name.startswith(KEPT) or name in self.kept

    @property
    def now_ms(self) -> int:
        return clock_ms()


@lru_cache(maxsize=4_096)
def key_of(text: str) -> Keyring:
    """A signer of a key that is made from a text."""
    return Keyring(PrivateKey(hashlib.sha256(text.encode()).digest()))


def agents_of(seed: str, count: int = 4) -> tuple[Keyring, ...]:
    """Keys that come again and again in a run."""
    return tuple(
        sorted((key_of(f"{seed} agent {number}") for number in range(count)), key=lambda each: each.identity)
    )

"""When which node is killed, stopped, cut off, stalled or restarted: a function of a seed. Pure."""

import enum
import random
from collections.abc import Iterator, Sequence
from typing import Final, TypeVar

import attrs

QUIET_FIRST_S: Final = 8.0  # everybody meets everybody
QUIET_LAST_S: Final = 10.0  # everything settles
RECOVERY_S: Final = 3.0  # between faults of honest nodes, at least
SECONDS_MIN: Final = 30.0
STRETCH_MAX: Final = 1.5  # a long run has room for longer faults


class Kind(enum.Enum):
    KILL = "killed"  # kill -9, started again at the end
    STOP = "stopped"  # SIGSTOP to the node and all its children, SIGCONT at the end
    CUT = "cut off"  # partitioned, connections closed, healed at the end
    STALL = "stalled"  # partitioned, connections standing, healed at the end
    RESTART = "restarted"  # SIGTERM, started again at the end


LENGTHS_S: Final = {
    Kind.KILL: (0.5, 3.0),
    Kind.STOP: (3.0, 6.0),
    Kind.CUT: (3.0, 6.0),
    Kind.STALL: (3.0, 6.0),
    Kind.RESTART: (0.5, 1.5),
}
Card = TypeVar("Card")

PARTITIONS: Final = (Kind.CUT, Kind.STALL)


@attrs.frozen(kw_only=True)
class Fault:
    """Seconds since the load began. The nodes of a partition are one side of it."""

    at_s: float
    ends_s: float
    kind: Kind
    nodes: tuple[int, ...]

    @property
    def length_s(self) -> float:
        return self.ends_s - self.at_s


def timetable(seed: int, seconds: float, *, honest: Sequence[int], faulty: Sequence[int]) -> tuple[Fault, ...]:
    """Faults by their beginning: one honest node at a time, so that two of three are always there.

    Faulty nodes have a row of faults of their own, and share some partitions with honest ones. From 60 s on
    every kind of fault strikes an honest node.
    """
    assert seconds >= SECONDS_MIN, "a run has room for a fault between its quiet times"
    chance = random.Random(seed)
    faults: list[Fault] = []
    kinds, victims = _deck(chance, tuple(Kind)), _deck(chance, tuple(honest))
    for kind, at_s, ends_s in _row(chance, kinds, seconds, pause_s=(RECOVERY_S, RECOVERY_S + 0.5)):
        nodes = [next(victims)]
        if kind in PARTITIONS and faulty and chance.random() < 0.5:
            nodes.append(chance.choice(tuple(faulty)))
        faults.append(Fault(at_s=at_s, ends_s=ends_s, kind=kind, nodes=tuple(sorted(nodes))))
    if faulty:
        kinds, victims = _deck(chance, tuple(Kind)), _deck(chance, tuple(faulty))
        for kind, at_s, ends_s in _row(chance, kinds, seconds, pause_s=(6.0, 14.0)):
            fault = Fault(at_s=at_s, ends_s=ends_s, kind=kind, nodes=(next(victims),))
            if not any(_clash(fault, other) for other in faults):
                faults.append(fault)
    return tuple(sorted(faults, key=lambda fault: fault.at_s))


def _row(
    chance: random.Random, kinds: Iterator[Kind], seconds: float, *, pause_s: tuple[float, float]
) -> Iterator[tuple[Kind, float, float]]:
    """One fault after the other, with pauses, until the quiet end."""
    stretch = min(STRETCH_MAX, max(1.0, seconds / 90))
    at_s = QUIET_FIRST_S
    while True:
        kind = next(kinds)
        shortest, longest = LENGTHS_S[kind]
        ends_s = at_s + chance.uniform(shortest, longest * stretch)
        if ends_s > seconds - QUIET_LAST_S:
            return
        yield kind, round(at_s, 3), round(ends_s, 3)
        at_s = ends_s + chance.uniform(*pause_s)


def _deck(chance: random.Random, cards: tuple[Card, ...]) -> Iterator[Card]:
    """The cards in a random order, then in another, and so on: none is left out for long."""
    while True:
        yield from chance.sample(cards, len(cards))


def _clash(one: Fault, other: Fault) -> bool:
    """Whether a node would be struck twice at once, or before it had time to come back."""
    apart = one.at_s >= other.ends_s + RECOVERY_S or other.at_s >= one.ends_s + RECOVERY_S
    return bool(set(one.nodes) & set(other.nodes)) and not apart

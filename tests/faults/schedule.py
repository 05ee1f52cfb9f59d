"""When which fault strikes which node: a function of a seed. Pure.

Four rows of faults run side by side: of honest nodes and their links, of honest nodes' databases, of faulty nodes,
and what strangers do to honest nodes. In each row one fault follows the other.
"""

import enum
import itertools
import random
from collections.abc import Iterator, Sequence
from typing import Final, TypeVar

import attrs

QUIET_FIRST_S: Final = 8.0  # everybody meets everybody
QUIET_LAST_S: Final = 10.0  # everything settles
RECOVERY_S: Final = 3.0  # between two faults of a node, or of honest nodes in a row, at least
TURN_S: Final = 1.0  # between a fault of a node and one of its database, at least
SECONDS_MIN: Final = 30.0
STRETCH_MAX: Final = 1.5  # a long run has room for longer faults
WAIT_S: Final = 0.5
STRANGERS_PAUSE_S: Final = (1.0, 2.0)
FAULTY_PAUSE_S: Final = (6.0, 14.0)
DETAIL_MAX: Final = 2**32 - 1


class Kind(enum.Enum):
    KILL = "killed"  # kill -9, started again at the end
    STOP = "stopped"  # SIGSTOP to the node and all its children, SIGCONT at the end
    CUT = "cut off"  # partitioned, connections closed, healed at the end
    STALL = "stalled"  # partitioned, connections standing, healed at the end
    RESTART = "restarted"  # SIGTERM, started again at the end
    DISK_FULL = "disk full"  # of its database: little is free, or nothing; room again at the end
    READ_ONLY = "database read-only"  # by its configuration, as after a failover
    FREEZE = "database frozen"  # SIGSTOP to all of its Postgres, SIGCONT at the end
    HANG = "statements hanging"  # SIGSTOP to the connections that are open, not to the server
    LOCK = "table locked"  # by another client of the database
    BOUNCE = "database restarted"  # a fast or an immediate shutdown, or its postmaster killed
    MESSAGES = "hostile messages"  # of peers with keys that nobody knows
    REQUESTS = "hostile requests"  # of HTTP clients


NODES: Final = (Kind.KILL, Kind.STOP, Kind.CUT, Kind.STALL, Kind.RESTART)
PARTITIONS: Final = (Kind.CUT, Kind.STALL)
DATABASES: Final = (Kind.DISK_FULL, Kind.READ_ONLY, Kind.FREEZE, Kind.HANG, Kind.LOCK, Kind.BOUNCE)
STRANGERS: Final = (Kind.MESSAGES, Kind.REQUESTS)

LENGTHS_S: Final = {
    Kind.KILL: (0.5, 3.0),
    Kind.STOP: (3.0, 6.0),
    Kind.CUT: (3.0, 6.0),
    Kind.STALL: (3.0, 6.0),
    Kind.RESTART: (0.5, 1.5),
    Kind.DISK_FULL: (2.5, 4.0),
    Kind.READ_ONLY: (2.0, 3.0),
    Kind.FREEZE: (2.5, 4.0),
    Kind.HANG: (2.5, 4.0),
    Kind.LOCK: (2.0, 3.5),
    Kind.BOUNCE: (0.3, 1.0),
    Kind.MESSAGES: (4.0, 7.0),
    Kind.REQUESTS: (4.0, 7.0),
}
Card = TypeVar("Card")


@attrs.frozen(kw_only=True)
class Fault:
    """Seconds since the load began. The nodes of a partition are one side of it.

    Attributes:
        detail: What else there is to choose about it: which table, how hard, what strangers send.
    """

    at_s: float
    ends_s: float
    kind: Kind
    nodes: tuple[int, ...]
    detail: int = 0

    @property
    def length_s(self) -> float:
        return self.ends_s - self.at_s


class Row:
    """One fault after the other, from the quiet beginning to the quiet end."""

    def __init__(self, chance: random.Random, *, kinds: Sequence[Kind], seconds: float) -> None:
        self._chance = chance
        self._kinds = _deck(chance, kinds) if kinds else iter(())
        self._stretch = min(STRETCH_MAX, max(1.0, seconds / 90))
        self._last_s = seconds - QUIET_LAST_S
        self._at_s = QUIET_FIRST_S
        self._kind: Kind | None = None
        self._length_s = 0.0
        self.take(0.0)

    def slot(self) -> Fault | None:
        """The next fault, of no node yet; None when the row is full."""
        ends_s = self._at_s + self._length_s
        if self._kind is None or ends_s > self._last_s:
            return None
        at_s = round(self._at_s, 3)
        detail = self._chance.randint(0, DETAIL_MAX)
        return Fault(at_s=at_s, ends_s=round(ends_s, 3), kind=self._kind, nodes=(), detail=detail)

    def take(self, pause_s: float) -> None:
        """Go on to the next one."""
        self._at_s += self._length_s + pause_s
        self._kind = next(self._kinds, None)
        if self._kind is not None:
            shortest, longest = LENGTHS_S[self._kind]
            self._length_s = self._chance.uniform(shortest, longest * self._stretch)

    def wait(self) -> None:
        """Put the fault off."""
        self._at_s += WAIT_S


def timetable(
    seed: int,
    seconds: float,
    *,
    honest: Sequence[int],
    faulty: Sequence[int],
    without: Sequence[Kind] = (),
) -> tuple[Fault, ...]:
    """Faults by their beginning. Of the honest nodes one at a time is struck itself, and one at a time in its
    database: with three of them there is always one that works, and mostly two.

    Faulty nodes share some partitions with honest ones. From 60 s on every kind strikes an honest node, but for the
    kinds ``without``.
    """
    assert seconds >= SECONDS_MIN, "a run has room for a fault between its quiet times"
    chance = random.Random(seed)
    faults: list[Fault] = []

    def add(kinds: Sequence[Kind], nodes: Sequence[int], pause_s: tuple[float, float]) -> None:
        """A row. What would strike a node twice at once comes a little later, or strikes another one."""
        row, victims = (
            Row(chance, kinds=[each for each in kinds if each not in without], seconds=seconds),
            _deck(chance, nodes),
        )
        while (slot := row.slot()) is not None:
            for victim in itertools.islice(victims, len(nodes)):
                fault = attrs.evolve(slot, nodes=_side(chance, slot.kind, victim, honest, faulty))
                if not any(_clash(fault, other) for other in faults):
                    faults.append(fault)
                    row.take(chance.uniform(*pause_s))
                    break
            else:
                row.wait()

    add(NODES, honest, (RECOVERY_S, RECOVERY_S + 0.5))
    add(DATABASES, honest, (RECOVERY_S, RECOVERY_S + 0.5))
    add(STRANGERS, honest, STRANGERS_PAUSE_S)
    if faulty:
        add(NODES, faulty, FAULTY_PAUSE_S)
    return tuple(sorted(faults, key=lambda fault: fault.at_s))


def _side(
    chance: random.Random, kind: Kind, victim: int, honest: Sequence[int], faulty: Sequence[int]
) -> tuple[int, ...]:
    """The nodes that a fault strikes: a partition may have a faulty node on the same side."""
    if kind in PARTITIONS and victim in honest and faulty and chance.random() < 0.5:
        return tuple(sorted((victim, chance.choice(tuple(faulty)))))
    return (victim,)


def _deck(chance: random.Random, cards: Sequence[Card]) -> Iterator[Card]:
    """The cards in a random order, then in another, and so on: none is left out for long."""
    while True:
        yield from chance.sample(cards, len(cards))


def _clash(one: Fault, other: Fault) -> bool:
    """Whether a node would be struck twice at once, or before it is back. Strangers come at any time."""
    if one.kind in STRANGERS or other.kind in STRANGERS:
        return False
    apart_s = RECOVERY_S if (one.kind in DATABASES) == (other.kind in DATABASES) else TURN_S
    is_apart = one.at_s >= other.ends_s + apart_s or other.at_s >= one.ends_s + apart_s
    return bool(set(one.nodes) & set(other.nodes)) and not is_apart

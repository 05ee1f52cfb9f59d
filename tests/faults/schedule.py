"""From a seed, a timetable of faults that leaves a quorum of honest nodes standing at all times. Pure."""

from random import Random
from typing import Literal

import attrs

Kind = Literal["kill", "stop", "partition", "restart"]

KINDS: tuple[Kind, ...] = ("kill", "stop", "partition", "restart")
LASTS_S = {"kill": (1.0, 6.0), "stop": (2.0, 9.0), "partition": (2.0, 9.0), "restart": (0.0, 2.0)}
RECOVERS_S = 8.0  # until a node that came back takes part again: the next fault waits for it
FIRST_S = 6.0


@attrs.frozen(kw_only=True)
class Fault:
    """Something happens to a node at ``at_s`` and is over ``lasts_s`` later."""

    at_s: float
    kind: Kind
    node: int
    lasts_s: float


def timetable(seed: int, duration_s: float, nodes: int) -> tuple[Fault, ...]:
    """Faults one after the other, any node's turn; the last is over well before the end.

    One at a time: with one agent that lies and one that says two things, three of five are honest, and the two
    left are the quorum of ``enhanced``.
    """
    random = Random(seed)
    faults: list[Fault] = []
    at_s = FIRST_S
    while True:
        kind = KINDS[len(faults) % len(KINDS)] if len(faults) < len(KINDS) else random.choice(KINDS)
        lasts_s = round(random.uniform(*LASTS_S[kind]), 1)
        if at_s + lasts_s + RECOVERS_S > duration_s:
            return tuple(faults)
        faults.append(Fault(at_s=round(at_s, 1), kind=kind, node=random.randrange(nodes), lasts_s=lasts_s))
        at_s += lasts_s + RECOVERS_S + random.uniform(0.0, 3.0)

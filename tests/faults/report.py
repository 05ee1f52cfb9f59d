"""What came of a run of the fault suite, and how it is printed."""

from collections import Counter
from collections.abc import Callable, Sequence

import attrs

from tests.faults.checking import Standing
from tests.faults.injection import Struck
from tests.faults.schedule import Fault, Kind, timetable


@attrs.frozen(kw_only=True)
class Plan:
    """What to run: ``rate`` in events per second, ``batch`` in events per request.

    Attributes:
        without: Kinds of faults that cannot be made here.
    """

    seconds: float
    rate: int
    seed: int
    nodes: int = 5
    batch: int = 100
    without: tuple[Kind, ...] = ()

    @property
    def honest(self) -> range:
        return range(self.nodes - 2)

    @property
    def served(self) -> tuple[int, ...]:
        """Honest nodes with a database server that is not their own."""
        return (self.honest[1],)

    @property
    def liar(self) -> int:
        return self.nodes - 2

    @property
    def equivocator(self) -> int:
        return self.nodes - 1

    @property
    def faults(self) -> tuple[Fault, ...]:
        return timetable(
            self.seed,
            self.seconds,
            honest=self.honest,
            faulty=(self.liar, self.equivocator),
            without=self.without,
        )


@attrs.define(kw_only=True)
class Outcome:
    """What came of a run. It held if there are no problems."""

    plan: Plan
    problems: list[str] = attrs.field(factory=list)
    offered: int = 0
    acknowledged: int = 0
    load_s: float = 0.0
    statuses: Counter[int] = attrs.field(factory=Counter)
    acks_ms: list[float] = attrs.field(factory=list)
    latencies_ms: list[float] = attrs.field(factory=list)
    events: Counter[str] = attrs.field(factory=Counter)
    struck: list[Struck] = attrs.field(factory=list)
    skipped: list[Fault] = attrs.field(factory=list)
    noticed: dict[str, Counter[bool]] = attrs.field(factory=dict)
    readyz_s: float = 0.0
    strangers: Counter[str] = attrs.field(factory=Counter)
    strangers_saw: Counter[str] = attrs.field(factory=Counter)
    contained: Counter[str] = attrs.field(factory=Counter)
    streamed: int = 0
    resumed: int = 0
    verified: int = 0
    gap_s: float = float("inf")
    gap_at_s: float = 0.0
    last_fault_s: float = 0.0
    again_s: float | None = None
    settle_s: float = 0.0
    stages_s: dict[str, float] = attrs.field(factory=dict)
    liar: list[Standing] = attrs.field(factory=list)
    equivocator: list[Standing] = attrs.field(factory=list)
    reputation_min: int = 0
    honest_min: int = 100
    cpu_s: dict[str, float] = attrs.field(factory=dict)
    relayed_mb: float = 0.0

    @property
    def kinds(self) -> Counter[Kind]:
        """How often each kind of fault was carried out."""
        return Counter(each.fault.kind for each in self.struck)


def show(outcome: Outcome, say: Callable[[str], None] = print) -> None:
    """The summary, a line for each figure; the timetable where something did not hold."""
    plan = outcome.plan
    rows = {
        "plan": f"{plan.nodes} nodes, {plan.seconds:.0f} s at {plan.rate:,} events/s, seed {plan.seed}",
        "offered": f"{outcome.offered:,} events, {outcome.offered / plan.seconds:,.0f}/s",
        "acknowledged": f"{outcome.acknowledged:,}, {outcome.acknowledged / max(1e-9, outcome.load_s):,.0f}/s over "
        f"{outcome.load_s:.1f} s; answers by status (0: none) {_counts(outcome.statuses)}",
        "faults": ", ".join(f"{outcome.kinds[kind]} {kind.value}" for kind in Kind),
        "left out": f"{len(outcome.skipped)} for want of time; cannot be made here: "
        f"{', '.join(kind.value for kind in plan.without) or 'none'}",
        "said by /readyz": ", ".join(
            f"{kind} {counts[True]} of {counts.total()}" for kind, counts in sorted(outcome.noticed.items())
        )
        + f"; longest answer {outcome.readyz_s:.1f} s",
        "strangers": f"{_counts(outcome.strangers)}; saw {_counts(outcome.strangers_saw)}",
        "contained": _counts(outcome.contained) or "nothing",
        "certified": f"{outcome.events['certified']:,}, invalid {outcome.events['invalid']:,}; all settled "
        f"{outcome.settle_s:.1f} s after the load",
        "streams": f"{outcome.streamed:,} events, resumed {outcome.resumed:,} times",
        "verified": f"{outcome.verified:,} certificates, offline",
        "longest gap": f"{outcome.gap_s:.2f} s without a certificate while two honest nodes could work, from "
        f"{outcome.gap_at_s:.1f} s on",
        "after the faults": f"a certificate {outcome.again_s:.2f} s after the last fault, which ended at "
        f"{outcome.last_fault_s:.1f} s"
        if outcome.again_s is not None
        else "all was certified before the last fault ended",
        "honest": f"validate {outcome.honest_min} or more on the honest nodes",
        "liar": f"validate {[each.validate for each in outcome.liar]} on the honest nodes, least wanted "
        f"{outcome.reputation_min}",
        "equivocator": f"{[each.overall for each in outcome.equivocator]}, proofs "
        f"{[each.proofs for each in outcome.equivocator]}",
        "to acknowledgement": _quantiles(outcome.acks_ms) + " (from the first attempt)",
        "to certificate": _quantiles(outcome.latencies_ms) + " (from the commit, by batch)",
        "took": ", ".join(f"{stage} {seconds:.0f} s" for stage, seconds in outcome.stages_s.items()),
        "CPU": ", ".join(f"{part} {seconds:.0f} s" for part, seconds in sorted(outcome.cpu_s.items()))
        + f"; {outcome.relayed_mb:,.0f} MB relayed",
    }
    for name, text in rows.items():
        say(f"{name:<20}{text}")
    if Kind.DISK_FULL in plan.without:
        say("NOT TRIED           full disks: this process may not mount file systems. Run it as root.")
    for problem in outcome.problems:
        say(f"PROBLEM             {problem}")
    if outcome.problems:
        _show_timetable(outcome, say)
    say("all held" if not outcome.problems else f"{len(outcome.problems)} problems, seed {plan.seed}")


def _show_timetable(outcome: Outcome, say: Callable[[str], None]) -> None:
    for each in sorted(outcome.struck, key=lambda struck: struck.at_s):
        names = " and ".join(f"node-{node + 1}" for node in each.fault.nodes)
        note = f" ({each.note})" if each.note else ""
        say(f"{each.at_s:6.1f} to {each.ended_s:6.1f} s  {names} {each.fault.kind.value}{note}")


def _counts(counts: Counter[str] | Counter[int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in sorted(counts.items(), key=lambda each: str(each[0])))


def _quantiles(values: Sequence[float]) -> str:
    ordered = sorted(values) or [float("nan")]
    p50, p95 = (ordered[min(len(ordered) - 1, int(share * len(ordered)))] for share in (0.5, 0.95))
    return f"P50 {p50:,.0f} ms, P95 {p95:,.0f} ms, longest {ordered[-1]:,.0f} ms"

"""What a run came to, for people and as JSON."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from scripts.fuzzing.items import PARTS
from scripts.fuzzing.monitor import MIB
from scripts.fuzzing.run import WARM, Outcome


def as_document(outcome: Outcome) -> dict[str, Any]:
    """JSON values."""
    answers = sorted(outcome.answers_s) or [0.0]
    memory = outcome.memory
    return {
        "seed": outcome.plan.seed,
        "groups": list(outcome.plan.groups),
        "seconds": round(outcome.seconds, 1),
        "items": outcome.sent,
        "things": outcome.things,
        "perSecond": round(outcome.things / max(outcome.seconds, 1e-9)),
        "records": outcome.records,
        "byCarrier": by_carrier(outcome.counts),
        "byKind": dict(sorted(outcome.counts.items())),
        "statuses": {carrier: dict(sorted(counts.items())) for carrier, counts in outcome.statuses.items()},
        "codes": dict(outcome.codes.most_common()),
        "refusedByQuota": refused_by_quota(outcome),
        "peers": {
            "keys": outcome.peers.keys,
            "openingS": round(outcome.peers.opening_s, 1),
            "answered": outcome.peers.answered,
            "absent": outcome.peers.absent,
            "refused": dict(outcome.peers.refused),
            "heard": dict(outcome.peers.heard),
        },
        "metrics": {name: value for name, value in sorted(outcome.metrics.items()) if value},
        "residentMiB": {
            "warm": round(memory.at(WARM) / MIB, 1),
            "end": round(memory.at(1.0) / MIB, 1),
            "most": round(max((size for _, size in memory.samples), default=0) / MIB, 1),
            "allProcessesMost": round(memory.family_most / MIB, 1),
            "samples": [
                [sent, round(size / MIB, 1)] for sent, size in memory.samples[:: max(1, len(memory.samples) // 60)]
            ],
        },
        "cpuS": cpu_by_kind(memory.cpu_s),
        "livenessMs": {
            "p50": round(answers[len(answers) // 2] * 1e3),
            "p99": round(answers[int(len(answers) * 0.99)] * 1e3),
            "most": round(answers[-1] * 1e3),
        },
        "log": {"levels": dict(outcome.levels), "events": dict(outcome.events.most_common(60))},
        "read": {
            "listed": outcome.read.listed,
            "byId": outcome.read.by_id,
            "streamed": outcome.read.streamed,
            "pending": outcome.read.pending,
            "missing": outcome.read.missing,
            "stats": dict(outcome.read.stats),
        },
        "delivered": outcome.delivered,
        "flaws": [{"items": flaw.items, "what": flaw.what} for flaw in outcome.flaws],
    }


def cpu_by_kind(seconds: Mapping[str, float]) -> dict[str, int]:
    found: Counter[str] = Counter()
    for process, each in seconds.items():
        found[process.partition(" ")[0]] += each  # type: ignore[assignment]
    return {kind: round(each) for kind, each in found.items()}


def by_carrier(counts: Mapping[str, int]) -> dict[str, int]:
    found: Counter[str] = Counter()
    for kind, count in counts.items():
        found[kind.partition(" ")[0]] += count
    return {carrier: found[carrier] for carrier in PARTS if found[carrier]}


def refused_by_quota(outcome: Outcome) -> int:
    """Items that the node dropped or refused for their number alone."""
    dropped = outcome.metrics.get("overlay_peer_faults_total.past-quota", 0)
    limited = sum(counts.get("429", 0) for counts in outcome.statuses.values())
    asked_too_often = sum(count for why, count in outcome.peers.refused.items() if "too many" in why or "busy" in why)
    return int(dropped) + limited + asked_too_often


def show(outcome: Outcome, console: Console) -> None:
    """A table and a list of flaws."""
    document = as_document(outcome)
    table = Table("carrier", "items", "answers", title=f"seed {outcome.plan.seed}")
    for carrier, count in document["byCarrier"].items():
        answers = ", ".join(f"{status}: {each:,}" for status, each in document["statuses"].get(carrier, {}).items())
        table.add_row(carrier, f"{count:,}", answers)
    console.print(table)
    memory, alive = document["residentMiB"], document["livenessMs"]
    console.print(
        f"{document['things']:,} messages, records ({document['records']:,}), documents and requests "
        f"in {document['seconds']:,.0f} s: {document['perSecond']:,}/s; "
        f"{document['refusedByQuota']:,} refused by quota\n"
        f"resident {memory['warm']} MiB warm, {memory['end']} at the end, {memory['most']} at most; alive within "
        f"{alive['p50']} ms P50, {alive['p99']} P99, {alive['most']} at most\n"
        f"read back: {document['read']['listed']}, {document['read']['byId']:,} by id, "
        f"{document['read']['streamed']:,} by stream, {document['read']['pending']:,} pending",
        highlight=False,
        soft_wrap=True,
    )
    console.print(f"seconds of the processor: {document['cpuS']}", highlight=False)
    for flaw in outcome.flaws:
        console.print(f"FLAW {flaw.items}: {flaw.what}", highlight=False, markup=False, soft_wrap=True)

"""Watches a node while it is fuzzed: whether it lives and answers, its memory, its log, what it counts."""

import json
from collections import Counter, deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import attrs
import psutil
import trio
from prometheus_client.parser import text_string_to_metric_families

from scripts.fuzzing.calls import Answered, Call, Nonces
from scripts.fuzzing.http_client import Connection, NoAnswerError
from scripts.fuzzing.target import Target

PAUSE_S: Final = 0.5
ANSWER_S_MAX: Final = 15.0  # for a machine that is busy with other things
LIVENESS: Final = ("getLiveness", "getHealth")
SENT_KEPT: Final = 20_000
SAMPLE_BYTES: Final = 64
FLAWS_MAX: Final = 40
SEVERE: Final = frozenset({"error", "critical"})
LIBRARY: Final = "libp2p."
EXPECTED_ERRORS: Final = frozenset({"libp2p error"})
"""Lines of the log at level error that are no flaw of the node's: the library's about peers that leave."""
MIB: Final = 1024 * 1024


@attrs.frozen(kw_only=True)
class Flaw:
    """Something that must not be, and the items that it came with, as ``SEED:FIRST-LAST``."""

    what: str
    items: str


@attrs.define(kw_only=True)
class Memory:
    """Resident bytes of the node's own process by items sent, and of all its processes."""

    samples: list[tuple[int, int]] = attrs.field(factory=list)
    family_most: int = 0
    cpu_s: dict[str, float] = attrs.field(factory=dict)

    def at(self, part: float) -> int:
        """The median around a part of the run, from 0 to 1."""
        if not self.samples:
            return 0
        last = self.samples[-1][0]
        near = sorted(size for items, size in self.samples if abs(items - part * last) <= 0.03 * last)
        return near[len(near) // 2] if near else self.samples[-1][1]


class Monitor:
    """Collects flaws. ``sent`` counts the items that were sent."""

    def __init__(self, target: Target, seed: str) -> None:
        self._target = target
        self._seed = seed
        self._process = psutil.Process(target.pid)
        self._samples: dict[bytes, int] = {}
        self._order: deque[bytes] = deque()
        self._log = LogReader(target.node.log)
        self._quarantined: dict[str, float] = {}
        self.first = 0
        self.last = 0
        self.sent = 0
        self.flaws: list[Flaw] = []
        self.memory = Memory()
        self.answers_s: list[float] = []
        self.levels: Counter[str] = Counter()
        self.events: Counter[str] = Counter()

    def on_sent(self, number: int, data: bytes) -> None:
        """Note an item, so that what comes of it can be traced to it."""
        self.sent += 1
        self.last = max(self.last, number)
        sample = data[:SAMPLE_BYTES]
        if sample not in self._samples:
            self._order.append(sample)
        self._samples[sample] = number
        if len(self._order) > SENT_KEPT:
            self._samples.pop(self._order.popleft(), None)

    def flaw(self, what: str, number: int | None = None) -> None:
        """Note a flaw: of an item, or of one of the latest."""
        if len(self.flaws) < FLAWS_MAX and what not in {each.what for each in self.flaws}:
            items = f"{self._seed}:{number}"
            if number is None:
                items = f"{self._seed}:{max(self.first, self.last - 500)}-{self.last}"
            self.flaws.append(Flaw(what=what, items=items))

    async def run(self, on_end: Callable[[], None]) -> None:
        """Look at the node again and again until cancelled; ``on_end``: it is no longer there."""
        path = self._liveness()
        call = Call(operation="", method="GET", target=path)
        async with Connection(self._target.node.http_port, self._target.world.node, Nonces()) as connection:
            while True:
                if not self._target.node.running:
                    code = self._target.node.wait(0)
                    self.flaw(f"the node ended with code {code}:\n{self._target.node.tail(8)}")
                    on_end()
                    return
                await self._look(connection, call)
                self.read_log()
                self._measure()
                await trio.sleep(PAUSE_S)

    def _liveness(self) -> str:
        by_id = {
            operation["operationId"]: path
            for path, methods in self._target.document["paths"].items()
            for operation in methods.values()
        }
        return next(by_id[name] for name in LIVENESS if name in by_id)

    async def _look(self, connection: Connection, call: Call) -> None:
        started_s = trio.current_time()
        answered: Answered | None = None
        with trio.move_on_after(ANSWER_S_MAX):
            try:
                answered = await connection.send(call)
            except (NoAnswerError, OSError) as error:
                if self._target.node.running:
                    self.flaw(f"{call.target}: {error}")
        took_s = trio.current_time() - started_s
        self.answers_s.append(took_s)
        if answered is None:
            await connection.close()
            if took_s >= ANSWER_S_MAX:
                self.flaw(f"{call.target} did not answer within {ANSWER_S_MAX:.0f} s")
        elif answered.status != 200:
            self.flaw(f"{call.target} answered {answered.status}")

    def _measure(self) -> None:
        try:
            own = self._process.memory_info().rss
            family = own
            for each in self._process.children(recursive=True):
                family += each.memory_info().rss
                self._count_cpu(each)
            self._count_cpu(self._process)
        except psutil.NoSuchProcess:
            return
        self.memory.samples.append((self.sent, own))
        self.memory.family_most = max(self.memory.family_most, family)

    def _count_cpu(self, process: psutil.Process) -> None:
        """Seconds of the processor by process; those of one that ended between two looks are lost."""
        times = process.cpu_times()
        kind = "node" if process.pid == self._process.pid else process.name()
        self.memory.cpu_s[f"{kind} {process.pid}"] = times.user + times.system

    def read_log(self) -> None:
        """Read what the node logged since the last look."""
        for line in self._log.read():
            if line.raw:
                self.flaw(f"the log has a line that is not of its form: {line.raw[:200]}")
                continue
            level, event = str(line.fields.get("level", "")), str(line.fields.get("event", ""))
            if level in SEVERE and str(line.fields.get("logger", "")).startswith(LIBRARY):
                event = "libp2p error"
            self.levels[level] += 1
            self.events[event] += 1
            severe = level in SEVERE and event not in EXPECTED_ERRORS
            if severe or "exception" in line.fields or "exc_info" in line.fields:
                self._on_severe(event, line.fields)

    def _on_severe(self, event: str, fields: Mapping[str, Any]) -> None:
        sample = bytes.fromhex(str(fields.get("sample", "")))
        number = self._samples.get(sample)
        trace = str(fields.get("exception", "")).strip().splitlines()
        why = (
            " / ".join(trace[-6:]) or json.dumps({name: fields[name] for name in fields if name != "timestamp"})[:600]
        )
        kind = fields.get("kind", "")
        self.flaw(f"{event} {kind} sample={sample.hex()}: {why[:900]}", number)


@attrs.frozen(kw_only=True)
class Line:
    """A line of a log: its fields, or the line itself where it is not JSON."""

    fields: Mapping[str, Any] = attrs.field(factory=dict)
    raw: str = ""


class LogReader:
    """Reads a log that grows."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = path.stat().st_size if path.exists() else 0
        self._rest = b""

    def read(self) -> list[Line]:
        with self._path.open("rb") as file:
            file.seek(self._at)
            data = file.read()
        self._at += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [_line(each) for each in lines if each.strip()]


def _line(data: bytes) -> Line:
    try:
        fields = json.loads(data)
    except ValueError:
        return Line(raw=data.decode("utf-8", "replace"))
    return Line(fields=fields) if isinstance(fields, dict) else Line(raw=data.decode("utf-8", "replace"))


def counted(text: str) -> dict[str, float]:
    """Metrics by name with the values of their labels."""
    return {
        ".".join((sample.name, *sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if "le" not in sample.labels
    }

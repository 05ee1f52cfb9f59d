"""A seeded mutation fuzzer: real inputs, spoiled, against parsers that must take or refuse whatever comes.

An input is a flaw if anything but an ``OverlayError`` leaves the parser, if it is taken but means other bytes, or
if it costs more processor time than ``CPU_MS_MAX``, twice. Inputs that lead somewhere new, that is, are refused by a
line of code that refused none before, are spoiled further, and so are some that are taken. Equal seeds give equal
inputs.
"""

import gc
import random
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Final, TypeAlias

import attrs
import psutil

from protocols.errors import OverlayError

CPU_MS_MAX: Final = 100.0
GROWN_BYTES_MAX: Final = 16 * 1024 * 1024
INPUT_BYTES_MAX: Final = 65_536
KEPT_BYTES_MAX: Final = 4_096  # of an input that is spoiled further
POOL_MAX: Final = 512
FLAWS_MAX: Final = 10  # kept of one run, of each kind one
WARM_UP: Final = 2_000  # inputs before memory is measured: caches fill, the pool grows
EDITS_MAX: Final = 4
OFTEN_REPEATED: Final = 0.005  # the part of the repetitions that go on to thousands
ACCEPTED_KEPT: Final = 0.01  # the part of the accepted inputs that is spoiled further
NUMBERS: Final = tuple(
    number.to_bytes(size, order)
    for size, numbers in {
        1: (0, 1, 2, 0x7F, 0x80, 0xFC, 0xFD, 0xFE, 0xFF),
        2: (0, 1, 0xFC, 0xFD, 0x7FFF, 0x8000, 0xFFFF),
        4: (0, 1, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF),
        8: (0, 0xFFFFFFFF, 2**32, 2**53 + 1, 2**63, 2**64 - 1),
    }.items()
    for number in numbers
    for order in ("little", "big")
)

Answer: TypeAlias = tuple[int, ...]  # the lines that refusal came by
ACCEPTED: Final[Answer] = ()


@attrs.frozen(kw_only=True)
class Parser:
    """A parser with inputs that it takes.

    Attributes:
        parse: Gives what it took, encoded again, or None where one value has several forms.
        tokens: Byte strings that mean something in the format.
    """

    name: str
    parse: Callable[[bytes], bytes | None]
    seeds: Sequence[bytes]
    tokens: Sequence[bytes] = ()


@attrs.frozen(kw_only=True)
class Flaw:
    data: bytes
    why: str


@attrs.frozen(kw_only=True)
class Outcome:
    """What a number of inputs did to a parser."""

    parser: str
    seed: int
    inputs: int
    accepted: int
    refused: int
    slowest_ms: float
    cpu_s: float  # in the parser, not in making inputs
    grown_bytes: int
    flaws: tuple[Flaw, ...]


def fuzz(parser: Parser, *, inputs: int, seed: int) -> Outcome:
    """Spoil the parser's seeds ``inputs`` times and watch."""
    mutator = Mutator(parser, seed)
    process = psutil.Process()
    flaws: list[Flaw] = []
    accepted, slowest_ms, total_ms, before = 0, 0.0, 0.0, 0
    for number in range(inputs):
        if number == min(WARM_UP, inputs // 2):
            before = _resident(process)
        data = mutator.next()
        took_ms, answer, flaw = attempt(parser, data)
        if flaw is not None and len(flaws) < FLAWS_MAX and flaw.why not in {known.why for known in flaws}:
            flaws.append(flaw)
        accepted += answer == ACCEPTED
        slowest_ms, total_ms = max(slowest_ms, took_ms), total_ms + took_ms
        mutator.learn(data, answer)
    grown_bytes = max(0, _resident(process) - before)
    if grown_bytes > GROWN_BYTES_MAX:
        flaws.append(Flaw(data=b"", why=f"memory grew by {grown_bytes} bytes"))
    return Outcome(
        parser=parser.name,
        seed=seed,
        inputs=inputs,
        accepted=accepted,
        refused=inputs - accepted,
        slowest_ms=slowest_ms,
        cpu_s=total_ms / 1_000,
        grown_bytes=grown_bytes,
        flaws=tuple(flaws),
    )


def attempt(parser: Parser, data: bytes) -> tuple[float, Answer, Flaw | None]:
    """Parse once, or again if it was slow: milliseconds of processor time, the answer, and what is wrong with it."""
    took_ms, answer, flaw = _attempt(parser, data)
    if took_ms > CPU_MS_MAX and flaw is None:
        took_ms, answer, flaw = _attempt(parser, data)
        if took_ms > CPU_MS_MAX:
            flaw = Flaw(data=data, why=f"took over {CPU_MS_MAX:.0f} ms of processor time")
    return took_ms, answer, flaw


def _attempt(parser: Parser, data: bytes) -> tuple[float, Answer, Flaw | None]:
    answer, flaw = ACCEPTED, None
    start = time.process_time_ns()
    try:
        again = parser.parse(data)
        if again is not None and again != data:
            flaw = Flaw(data=data, why=f"means other bytes: {again.hex()}")
    except OverlayError as refusal:
        answer = _lines(refusal.__traceback__)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - a panic of a Rust library is no Exception
        answer = _lines(error.__traceback__)
        flaw = Flaw(data=data, why=f"raised {error!r}")
    return (time.process_time_ns() - start) / 1e6, answer, flaw


def _lines(trace: TracebackType | None) -> Answer:
    lines = []
    while trace is not None:
        lines.append(trace.tb_lineno)
        trace = trace.tb_next
    return tuple(lines)


class Mutator:
    """Makes inputs out of inputs."""

    def __init__(self, parser: Parser, seed: int) -> None:
        self._random = random.Random(f"{parser.name} {seed}")
        self._seeds = list(parser.seeds)
        self._pool = list(parser.seeds)
        self._tokens = [*NUMBERS, *parser.tokens]
        self._known: set[Answer] = set()

    def next(self) -> bytes:
        draw = self._random.random
        pool = self._pool if draw() < 0.7 else self._seeds
        data = bytearray(pool[int(draw() * len(pool))])
        for _ in range(1 + int(draw() ** 2 * EDITS_MAX)):
            self._edit(data)
        return bytes(data[:INPUT_BYTES_MAX])

    def learn(self, data: bytes, answer: Answer) -> None:
        """Keep an input that was refused as none before it, and some of those that were not refused."""
        if len(data) > KEPT_BYTES_MAX:
            return
        if answer == ACCEPTED:
            if self._random.random() > ACCEPTED_KEPT:
                return
        elif answer in self._known:
            return
        self._known.add(answer)
        if len(self._pool) < POOL_MAX:
            self._pool.append(data)
        else:
            self._pool[int(self._random.random() * POOL_MAX)] = data

    def _edit(self, data: bytearray) -> None:
        draw = self._random.random
        size = len(data)
        at = int(draw() * (size + 1))
        end = min(size, at + 1 + int(draw() ** 3 * 64))
        kind = int(draw() * 8)
        if kind == 0 and at < size:  # flip a bit
            data[at] ^= 1 << int(draw() * 8)
        elif kind == 1:  # truncate
            del data[at:]
        elif kind == 2:  # leave a span out
            del data[at:end]
        elif kind == 3:  # repeat a span
            times = 2 ** int(draw() * 13) if draw() < OFTEN_REPEATED else 1 + int(draw() ** 4 * 16)
            data[at:at] = data[at:end] * times
        elif kind == 4:  # go on as another input does
            other = self._pool[int(draw() * len(self._pool))]
            data[at:] = other[int(draw() * (len(other) + 1)) :]
        elif kind == 5:  # put a token in
            data[at:at] = self._token()
        elif kind == 6:  # put a token, or a number that may be a length, over what is there
            token = self._token()
            data[at : at + len(token)] = token
        elif at < size:  # a number a little off
            data[at] = (data[at] + (1 if draw() < 0.5 else -1)) % 256

    def _token(self) -> bytes:
        return self._tokens[int(self._random.random() * len(self._tokens))]


def _resident(process: psutil.Process) -> int:
    gc.collect()
    resident: int = process.memory_info().rss
    return resident

"""Runs generated code over batches; what it finds unusual, and what it does not pay for, runs in the interpreter."""

import functools
from collections.abc import Iterator
from typing import Final

from agents.compiler.certification import Rows, all_rows, clean_hashes, clean_leaves
from agents.compiler.generate import Generated, Normalized, generate
from agents.compiler.source import UncoveredError
from agents.functions import Functions
from agents.interpreter import Program, Verdicts, interpret, program
from agents.memory import History
from agents.policy import CompiledPolicy
from agents.reading import Batch
from protocols.identifiers import EventIds
from protocols.merkle import leaf_hash

GENERATED_MAX: Final = 16  # policies whose code is kept
EVENTS_MIN: Final = 256  # of a policy before its code is generated, which costs as much as a few hundred take
ROWS_MAX: Final = 256  # that are run together
ROWS_MIN: Final = 8  # fewer are cheaper one by one
RESTS_MAX: Final = 64
FAILED: Final = "its code raised"


class Pace:
    """Whether generated code is worth its cost for a policy's events, by how it went so far.

    Where more than half of the events are unusual, the next are left to the interpreter: twice as many each time.
    """

    def __init__(self) -> None:
        self._rests = 0
        self._left = 0

    def rests(self) -> bool:
        """Whether to leave the next events to the interpreter."""
        self._left -= 1
        return self._left >= 0

    def note(self, events: int, unusual: int) -> None:
        if 2 * unusual <= events:
            self._rests = 0
        else:
            self._rests = min(2 * self._rests or 1, RESTS_MAX)
        self._left = self._rests


class Compiled:
    """A policy's code, generated once enough events have come for it.

    Attributes:
        uncovered: Why it has none, where it has none.
    """

    def __init__(self, policy: CompiledPolicy) -> None:
        self.code: Generated | None = None
        self.uncovered: str | None = None
        self.pace = Pace()
        self._policy = policy
        self._events = 0

    def give_up(self, error: Exception) -> None:
        """Leave every further event to the interpreter: the code reached a fault of the compiler."""
        self.code, self.uncovered = None, f"{FAILED}: {error!r}"

    def code_for(self, events: int) -> Generated | None:
        """The code, where it is worth its cost for this many more events."""
        if self._events < EVENTS_MIN or events < ROWS_MIN:
            self._events += events
            return None
        if self.code is None and self.uncovered is None:
            try:
                self.code = generate(self._policy)
            except UncoveredError as error:
                self.uncovered = str(error)
        return None if self.code is None or self.pace.rests() else self.code


@functools.lru_cache(maxsize=GENERATED_MAX)
def compiled(policy: bytes, functions: Functions = ()) -> Compiled:
    return Compiled(program(policy, functions).policy)


def run_batch(
    compiled: Compiled, rules: Program, history: History, ids: EventIds, batch: Batch, hashes: list[bytes]
) -> Verdicts:
    """The verdicts on the events of a batch: those of ``interpret_batch``."""
    verdicts = Verdicts()
    rows = all_rows(batch, hashes)
    for start in range(0, len(rows), ROWS_MAX):
        part = rows.part(start, start + ROWS_MAX)
        code = compiled.code_for(len(part))
        if code is None:
            interpret(rules, history, ids, part.events(range(len(part))), verdicts)
            continue
        run = Run(code, rules, history, ids, part)
        odd = {index - start for index in batch.odd if start <= index < start + ROWS_MAX}
        compiled.pace.note(len(part), run.all(odd, verdicts))
    return verdicts


class Run:
    """One run of generated code over some events, with the interpreter for those that are unusual."""

    def __init__(self, code: Generated, rules: Program, history: History, ids: EventIds, rows: Rows) -> None:
        self._code = code
        self._rules = rules
        self._history = history
        self._ids = ids
        self._rows = rows
        self._apart = Verdicts()  # on unusual events, in their order

    def all(self, odd: set[int], verdicts: Verdicts) -> int:
        """Add the verdicts on all events; the number of those that are unusual.

        Args:
            odd: Indexes of those that are known to be.
        """
        unusual, normalized = self._normalized(odd)
        usual = [index for index in range(len(self._rows)) if index not in unusual]
        late: set[int] = set()
        if normalized is not None and self._code.compare is not None:
            late = self._compare(normalized, usual, unusual)
        else:
            self._interpret(*sorted(unusual))
        encoded = [] if normalized is None else normalized.encoded
        if late:
            encoded = [data for index, data in zip(usual, encoded, strict=True) if index not in late]
            unusual |= late
        self._add(encoded, unusual, verdicts)
        verdicts.level = max(verdicts.level, self._apart.level, 0 if normalized is None else normalized.level)
        verdicts.invalid += self._apart.invalid
        verdicts.found += self._apart.found
        return len(unusual)

    def _normalized(self, odd: set[int]) -> tuple[set[int], Normalized | None]:
        """The indexes of unusual events, and what became of the others, where there are others."""
        data = self._rows.data
        unusual = odd | {index for index, value in enumerate(data) if type(value) is not dict}
        while len(unusual) < len(data):
            found = self._code.normalize(self._rows.without(unusual) if unusual else self._rows)
            if isinstance(found, Normalized):
                return unusual, found
            usual = [index for index in range(len(data)) if index not in unusual]
            assert found, "a stage ends early with the events that are unusual"
            unusual |= {usual[index] for index in found}
        return unusual, None

    def _compare(self, normalized: Normalized, usual: list[int], unusual: set[int]) -> set[int]:
        """Compare each event with those before it; the indexes of those that are unusual then."""
        assert self._code.compare is not None
        late: set[int] = set()
        at = 0
        for before, index in [*places(sorted(unusual)), (len(usual), None)]:
            while at < before:
                at = self._code.compare(self._history, at, before, *normalized.columns)
                if at < before:
                    late.add(usual[at])
                    self._interpret(usual[at])
                    at += 1
            if index is not None:
                self._interpret(index)
        return late

    def _interpret(self, *indexes: int) -> None:
        interpret(self._rules, self._history, self._ids, self._rows.events(indexes), self._apart)

    def _add(self, encoded: list[bytes], unusual: set[int], verdicts: Verdicts) -> None:
        rows = self._rows.without(unusual) if unusual else self._rows
        leaves = clean_leaves(self._ids, rows, encoded)
        columns = (encoded, clean_hashes(encoded), leaves, list(map(leaf_hash, leaves)))
        into = (verdicts.normalized, verdicts.normalized_hashes, verdicts.leaves, verdicts.leaf_hashes)
        apart = self._apart
        others = (apart.normalized, apart.normalized_hashes, apart.leaves, apart.leaf_hashes)
        for all_lines, usual, interpreted in zip(into, columns, others, strict=True):
            all_lines += merged(usual, interpreted, unusual) if unusual else usual


def places(indexes: list[int]) -> Iterator[tuple[int, int]]:
    """Each index with the number of indexes below it that are not among them."""
    return ((index - number, index) for number, index in enumerate(indexes))


def merged(usual: list[bytes], others: list[bytes], indexes: set[int]) -> Iterator[bytes]:
    """Lines of events in their order: at ``indexes`` the others."""
    one, other = iter(usual), iter(others)
    return (next(other) if index in indexes else next(one) for index in range(len(usual) + len(others)))

"""The batches that a source waits for: which there are, in which order they are asked for, and when. No I/O."""

from collections.abc import Mapping
from typing import Final, TypeAlias

import attrs

from node.sources.intake import SavedPosition
from protocols.messages import IdentityKey

SourceOfNode: TypeAlias = tuple[IdentityKey, str]
"""A source of a coordinator: its batches are used in their order."""

PAUSE_S_FIRST: Final = 1.0
PAUSE_S_MAX: Final = 60.0
ATTEMPTS_MAX: Final = 16  # that are counted
BEHIND: Final = "it waits for an earlier batch of its source"


@attrs.define(kw_only=True)
class WaitingBatch:
    """A batch that is waited for.

    Attributes:
        since_ms: When it was put aside first, in milliseconds since 1970; saved.
        source: None until its certificate has been read in this run.
        due_s: When it is asked for again, by the caller's clock.
    """

    since_ms: int
    source: SourceOfNode | None = None
    due_s: float = 0.0
    attempts: int = 0
    reason: str = ""


class WaitingBatches:
    """Batches that are aside, by their number in the log of certificates."""

    def __init__(self, batches: Mapping[int, WaitingBatch]) -> None:
        self._batches = dict(batches)

    def __len__(self) -> int:
        return len(self._batches)

    def __contains__(self, number: object) -> bool:
        return number in self._batches

    @property
    def first_reason(self) -> str:
        """Why the first of them waits; empty where none does."""
        return self._batches[min(self._batches)].reason if self._batches else ""

    def put(self, number: int, source: SourceOfNode | None, reason: str, *, now_ms: int, now_s: float) -> int:
        """Put a batch aside, or note another attempt. Returns the attempts so far; 0: it is behind another one."""
        batch = self._batches.setdefault(number, WaitingBatch(since_ms=now_ms))
        batch.source, batch.reason = source, reason
        if self.is_behind(source, number):
            return 0
        batch.due_s = now_s + min(PAUSE_S_FIRST * 2**batch.attempts, PAUSE_S_MAX)
        batch.attempts = min(batch.attempts + 1, ATTEMPTS_MAX)
        return batch.attempts

    def remove(self, number: int) -> bool:
        """Returns whether the batch was aside."""
        return self._batches.pop(number, None) is not None

    def is_behind(self, source: SourceOfNode | None, number: int) -> bool:
        """Whether a batch has to wait for an earlier one of its source."""
        return source is not None and any(
            other < number and batch.source == source for other, batch in self._batches.items()
        )

    def waited_ms(self, number: int, now_ms: int) -> int:
        """How long a batch has been aside; 0 for one that is not."""
        return now_ms - self._batches[number].since_ms if number in self._batches else 0

    def due(self, limit: int, now_s: float) -> list[int]:
        """The batches to ask for again now, at most ``limit``: the first of each source."""
        return [number for number, batch in self._heads() if batch.due_s <= now_s][:limit]

    def next_due_s(self, default_s: float) -> float:
        """When the next one is due; ``default_s`` where none waits."""
        return min((batch.due_s for _, batch in self._heads()), default=default_s)

    def saved(self) -> list[list[int]]:
        """As it is saved: pairs of number and ``since_ms``."""
        return [[number, batch.since_ms] for number, batch in self._batches.items()]

    def _heads(self) -> list[tuple[int, WaitingBatch]]:
        """The first batch of each source, and all whose source is not known yet."""
        sources: set[SourceOfNode] = set()
        heads = []
        for number, batch in sorted(self._batches.items()):
            if batch.source not in sources:
                heads.append((number, batch))
            if batch.source is not None:
                sources.add(batch.source)
        return heads


def read_position(saved: SavedPosition | None) -> tuple[int, WaitingBatches]:
    """How far the log has been read, and which batches are aside."""
    if saved is None:
        return 0, WaitingBatches({})
    aside = {int(number): WaitingBatch(since_ms=int(since_ms)) for number, since_ms in saved["aside"]}
    return int(saved["number"]), WaitingBatches(aside)


def write_position(number: int, waiting: WaitingBatches) -> SavedPosition:
    return {"number": number, "aside": waiting.saved()}

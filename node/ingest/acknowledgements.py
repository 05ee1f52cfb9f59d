"""The acknowledgements of a stream: counted, and merged where the client does not read them."""

from collections import deque
from collections.abc import AsyncGenerator, Mapping
from typing import Any, Final

import attrs
import orjson
import trio

PENDING_MAX: Final = 16  # acknowledgements that the client has not read; more are merged into one
REJECTIONS_MAX: Final = 1_000  # listed in a merged acknowledgement
COUNTS: Final = ("accepted", "duplicates", "rejected", "versions")


@attrs.define(kw_only=True)
class Progress:
    """The counts of a stream so far. ``acknowledged``: the last line that is durable, or rejected."""

    acknowledged: int = 0
    counts: dict[str, int] = attrs.field(factory=lambda: dict.fromkeys(COUNTS, 0))

    def add(self, last: int, counts: Mapping[str, int]) -> None:
        self.acknowledged = last
        for name in COUNTS:
            self.counts[name] += counts[name]


class Acknowledgements:
    """Documents on their way to the client, in order."""

    def __init__(self) -> None:
        self._pending: deque[dict[str, Any]] = deque()
        self._changed = trio.Event()
        self._is_over = False

    def add(self, document: dict[str, Any]) -> None:
        """Acknowledge a piece, JSON values; never waits."""
        if len(self._pending) >= PENDING_MAX:
            document = _merged([*self._pending, document])
            self._pending.clear()
        self._append(document)

    def finish(self, document: dict[str, Any]) -> None:
        """Add the last document, which is never merged."""
        self._append(document)

    def close(self) -> None:
        """Nothing more is added."""
        self._is_over = True
        self._changed.set()

    async def lines(self) -> AsyncGenerator[bytes, None]:
        """One line of JSON for each document, until ``close`` and all are read."""
        while self._pending or not self._is_over:
            if self._pending:
                yield orjson.dumps(self._pending.popleft(), option=orjson.OPT_APPEND_NEWLINE)
            else:
                await self._changed.wait()

    def _append(self, document: dict[str, Any]) -> None:
        self._pending.append(document)
        self._changed.set()
        self._changed = trio.Event()


def _merged(documents: list[dict[str, Any]]) -> dict[str, Any]:
    """Merge acknowledgements of consecutive lines. Batches and receipts are left out."""
    rejections = [rejection for document in documents for rejection in document["rejections"]]
    return {
        "lines": [documents[0]["lines"][0], documents[-1]["lines"][1]],
        "counts": {name: sum(document["counts"][name] for document in documents) for name in COUNTS},
        "rejections": rejections[:REJECTIONS_MAX],
        "batches": [],
        "abridged": True,
    }

"""Results of processing, by their inputs: the records, the policy, the context; never by who asked or when.

``normalization`` holds results of this node's own roles, for its own use: a batch that is ordered again, adopted,
replayed or certified by others is not computed twice. ``certification`` holds results that a quorum signed: results
of other nodes are used in no other case. An entry lives as long as the specification requires for its kind and the
source's volatility; the whole is bounded in bytes, and the least recently used entries go first.
"""

from collections import OrderedDict
from collections.abc import Callable, Sized
from typing import Any, Final, Literal

import attrs

from node.runtime.clock import clock_ms
from node.worker.compute import Run
from protocols.canonical import sha256
from protocols.messages import Manifest

Kind = Literal["normalization", "certification"]

HOUR_MS: Final = 3_600_000
TTL_MS: Final[dict[tuple[Kind, bool], int]] = {
    ("certification", False): 24 * HOUR_MS,
    ("certification", True): 24 * HOUR_MS,
    ("normalization", False): HOUR_MS,
    ("normalization", True): 5 * 60_000,
}
"""By kind and whether the source is volatile."""
ENTRY_BYTES: Final = 1_024  # memory of an entry beside its lines


@attrs.frozen
class CachedResult:
    run: Run
    size: int
    expires_ms: int


class ResultCache:
    """Least recently used, within bytes and time."""

    def __init__(self, bytes_max: int, on_lookup: Callable[[Kind, bool], None] = lambda kind, hit: None) -> None:
        """Args:
        bytes_max: 0 keeps nothing.
        on_lookup: Called with each lookup: the kind, and whether it was a hit.
        """
        self._bytes_max = bytes_max
        self._on_lookup = on_lookup
        self._entries: OrderedDict[tuple[Kind, str], CachedResult] = OrderedDict()
        self.size_bytes = 0

    def get(self, kind: Kind, key: str, *, with_outputs: bool) -> Run | None:
        """A result that has not expired, and has its lines where they are needed."""
        entry = self._entries.get((kind, key))
        if entry is not None and entry.expires_ms <= clock_ms():
            self._drop((kind, key))
            entry = None
        hit = entry is not None and (not with_outputs or bool(entry.run.outputs))
        self._on_lookup(kind, hit)
        if entry is None or not hit:
            return None
        self._entries.move_to_end((kind, key))
        return entry.run

    def put(self, kind: Kind, key: str, run: Run) -> None:
        self._drop((kind, key))
        size = ENTRY_BYTES + sum(map(_length, (run.leaves, run.normalized, run.outputs)))
        if size > self._bytes_max:
            return
        expires_ms = clock_ms() + TTL_MS[kind, run.is_volatile]
        self._entries[kind, key] = CachedResult(run, size, expires_ms)
        self.size_bytes += size
        while self.size_bytes > self._bytes_max:
            self._drop(next(iter(self._entries)))

    def strip(self, kind: Kind, key: str) -> None:
        """Drop the lines of a result and keep its findings: the lines are in the database by now."""
        entry = self._entries.get((kind, key))
        if entry is not None:
            self.put(kind, key, attrs.evolve(entry.run, leaves=b"", normalized=b"", outputs=b""))

    def _drop(self, name: tuple[Kind, str]) -> None:
        entry = self._entries.pop(name, None)
        if entry is not None:
            self.size_bytes -= entry.size


def _length(part: Sized) -> int:
    return len(part)


def content_key(manifest: Manifest, context: bytes) -> str:
    """The inputs that a result depends on: source and network for the ids, records, policy, context."""
    parts: tuple[Any, ...] = (
        manifest.network,
        manifest.source_id,
        manifest.policy_hash.hex(),
        manifest.input_root.hex(),
    )
    return sha256("\n".join(parts).encode() + b"\n" + context).hex()

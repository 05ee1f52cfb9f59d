"""The fence around each item that comes from outside: a connection, a request, a frame, a record, a row read back.

A component restarts after what the world broke, and our own bug ends the node. But no item from outside may be what
ends it, so such an item is handled inside ``Quarantine.contain``. Nothing else has a blind handler.
Coordination is the exception: a violated assertion in ``step`` ends the process, since its state can no longer be
trusted.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

import attrs
import structlog

from node.runtime.token_bucket import Rate, TokenBuckets
from protocols.errors import OverlayError

log = structlog.get_logger(__name__)

KINDS: Final = ("answer", "connection", "effect", "frame", "gossip", "record", "request", "row")
"""Items that are fenced. A kind that is not listed is counted all the same."""
SAMPLE_BYTES: Final = 64
ORIGINS_MAX: Final = 4_096
REPEATS_TO_CLOSE: Final = 2
LOGGED: Final = Rate(per_s=0.2, burst=5)
"""Failures of a kind that are logged: a traceback costs milliseconds, which a flood of bad items must not buy."""


@attrs.frozen(kw_only=True)
class Failure:
    """A bug that an item from outside reached.

    Attributes:
        kind: What the item is, one of ``KINDS``.
        origin: Who sent it: a peer's identity in hex, a client's address, a source's id.
        error: Name of the exception's type.
        reason: Its text, shortened.
        repeated: How many items of this kind and origin in a row have failed, this one included.
    """

    kind: str
    origin: str
    error: str
    reason: str
    repeated: int

    @property
    def closes_origin(self) -> bool:
        """Whether the origin should be cut off: one item may be bad luck, two in a row are a pattern."""
        return self.repeated >= REPEATS_TO_CLOSE


def ignore(failure: Failure) -> None:
    """The reaction where dropping the item is all there is to do."""


class Quarantine:
    """Keeps failures with the items that caused them, and counts them by kind."""

    def __init__(self, on_quarantined: Callable[[Failure], None] = ignore) -> None:
        """``on_quarantined``: Called for each failure, before the item's own handler; for metrics."""
        self._on_quarantined = on_quarantined
        self._counts = dict.fromkeys(KINDS, 0)
        self._in_a_row: OrderedDict[tuple[str, str], int] = OrderedDict()
        self._logged = TokenBuckets[str](LOGGED, time.monotonic, 2 * len(KINDS))

    @property
    def counts(self) -> Mapping[str, int]:
        """Items quarantined since the start, by kind. All zero in a clean run."""
        return self._counts

    @contextmanager
    def contain(
        self, kind: str, origin: str, sample: bytes | bytearray, on_failure: Callable[[Failure], None] = ignore
    ) -> Iterator[None]:
        """Keep a failure with the item that caused it.

        Expected faults (``OverlayError``) pass through to the code that answers them; so does cancellation. Anything
        else is a bug that this item reached: it is counted, logged with its traceback and the item's first bytes
        (within the rate ``LOGGED``), and handed to ``on_failure``, and the block is left as if it had ended.

        Args:
            kind: See ``Failure``.
            origin: See ``Failure``.
            sample: The item's first bytes; at most ``SAMPLE_BYTES`` of them are logged. A ``bytearray`` may be
                filled while the item is handled.
            on_failure: Rejects the item: answers it, strikes its sender, or closes its origin.
        """
        try:
            yield
        except OverlayError:
            raise
        except Exception as error:  # noqa: BLE001  # the fence: see the module
            self.keep(kind, origin, sample, error, on_failure)
        except BaseExceptionGroup as group:  # tasks that failed while the block was being cancelled
            failed, others = group.split(Exception)
            if failed is not None:
                self.keep(kind, origin, sample, failed, on_failure)
            assert others is not None, "else it were an ExceptionGroup"
            raise others from None
        else:
            if self._in_a_row:
                self._in_a_row.pop((kind, origin), None)

    def keep(
        self,
        kind: str,
        origin: str,
        sample: bytes | bytearray,
        error: Exception,
        on_failure: Callable[[Failure], None] = ignore,
    ) -> None:
        """Count and log a failure that was caught already; the arguments are those of ``contain``."""
        repeated = self._in_a_row.pop((kind, origin), 0) + 1
        self._in_a_row[kind, origin] = repeated
        if len(self._in_a_row) > ORIGINS_MAX:
            self._in_a_row.popitem(last=False)
        self._counts[kind] = self._counts.get(kind, 0) + 1
        failure = Failure(
            kind=kind, origin=origin, error=type(error).__name__, reason=str(error)[:200], repeated=repeated
        )
        if self._logged.take(kind):
            log.error(
                "item.quarantined",
                kind=kind,
                origin=origin,
                sample=sample[:SAMPLE_BYTES].hex(),
                repeated=repeated,
                exc_info=error,
            )
        self._on_quarantined(failure)
        on_failure(failure)

"""Keeps what a source sent and was rejected, with the reason, in the transaction that commits its events."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from node.ingest.batching import Classification
from node.ingest.requests import SourceRead
from node.worker.parsing.admission import REASON_CHARS_MAX, Admitted
from node.worker.parsing.bodies import RawEvent
from node.worker.parsing.text import printable
from protocols.limits import EXTERNAL_ID_CHARS_MAX
from storage import sources

if TYPE_CHECKING:
    from psycopg import Connection

HEAD_BYTES: Final = 512  # of an event that is rejected, kept for the operator


def record_refused(
    connection: "Connection",
    source_id: str,
    event: RawEvent,
    reason: str,
    remedy: str,
    mark: Mapping[str, Any] | None,
) -> None:
    """Write down an event that was read and that this node cannot take, and how far the source is read with it."""
    refused = sources.RejectedEvent(
        external_id=None if event.external_id is None else printable(event.external_id, EXTERNAL_ID_CHARS_MAX),
        field="",
        reason=printable(reason, REASON_CHARS_MAX),
        remedy=remedy,
        head=event.data[:HEAD_BYTES],
    )
    sources.keep_rejected(connection, source_id, [refused])
    if mark is not None:
        sources.set_mark(connection, source_id, mark)


def record_read(
    connection: "Connection", admitted: Admitted, classification: Classification, read: SourceRead
) -> None:
    """Write down how far a source is read with a request's events, and which of them were rejected."""
    if read.mark is not None:
        sources.set_mark(connection, admitted.source_id, read.mark)
    refused = [*admitted.rejections, *classification.conflicts]
    if refused:
        kept = [
            sources.RejectedEvent(
                external_id=each.external_id,
                field=each.field,
                reason=each.reason,
                remedy=each.remedy,
                head=read.heads[each.index],
            )
            for each in refused
        ]
        sources.keep_rejected(connection, admitted.source_id, kept)

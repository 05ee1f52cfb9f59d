"""Keeps what a source sent and was rejected, with the reason, in the transaction that commits its events."""

from typing import TYPE_CHECKING

from node.ingest.batching import Classification
from node.ingest.requests import SourceRead
from node.worker.parsing.admission import Admitted
from storage import sources

if TYPE_CHECKING:
    from psycopg import Connection


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

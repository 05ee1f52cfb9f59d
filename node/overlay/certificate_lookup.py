"""``ls_event_certificates``: certificates by event, batch, source and time, or content hash.

Answers are first the batches that this node sealed, with tokens made on request; then certificates that it learned
from peers, and those that others submitted to ``tm_event_certificates``. ``context`` is JSON: the certificate
document of an event, which can be verified on its own, or a summary of a batch.
"""

import datetime
import hashlib
import re
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import attrs
import orjson

from node.coordination.serialization import read_certificate
from node.delivery import history
from node.overlay.carrier import carry
from node.overlay.lookup import InvalidQueryError, LookupOutput, unknown_member
from protocols.certificate import rfc3339
from protocols.errors import ClientFault
from protocols.keys import PrivateKey
from protocols.limits import SOURCE_ID_CHARS_MAX
from protocols.messages import Statement
from protocols.topics import build_certificate_token
from protocols.uhrp import content_url
from storage import batches, certificate_log, events, outputs
from storage.database import Database
from storage.rows import BatchRow

if TYPE_CHECKING:
    from psycopg import Connection

TOPIC: Final = "tm_event_certificates"
ANSWERED_MAX: Final = 100
ANSWERED_DEFAULT: Final = 20
SKIPPED_MAX: Final = 1_000_000
ID: Final = re.compile("(?:event|batch)_[0-9a-f]{64}")
HASH: Final = re.compile("(?:sha256:)?([0-9a-f]{64})")

DOCUMENTATION: Final = f"""# ls_event_certificates

Finds certificates of events and batches. Queries:

- `{{"eventId": "event_..."}}`: the event's batch. `context` is the event's certificate document (JSON), which can be
  verified offline.
- `{{"contentHash": "sha256:..."}}`: the same for every event with that normalized content.
- `{{"batchId": "batch_..."}}`, `{{"sourceId": "...", "from": "2024-01-15T00:00:00Z", "to": "..."}}`: batches, the
  latest first. `context` has the batch, its counts, and the UHRP URL of its quorum certificate.

`limit` (at most {ANSWERED_MAX}) and `skip` page through the batches of a source. Each output is a signed certificate
token: host, batch, and SHA-256 of the quorum certificate. A host's own tokens are in carrier transactions without
coins.
"""


@attrs.frozen(kw_only=True)
class CertificateLookupQuery:
    """Exactly one of the ids, the hash and the source is set. Times in milliseconds since 1970, ``to_ms``
    excluded."""

    event_id: str | None = None
    batch_id: str | None = None
    content_hash: str | None = None
    source_id: str | None = None
    from_ms: int = 0
    to_ms: int = 2**62
    skip: int = 0
    limit: int = ANSWERED_DEFAULT


class CertificateLookup:
    """Finds certificates."""

    name: Final = "ls_event_certificates"
    documentation: Final = DOCUMENTATION
    topics: Final = (TOPIC,)

    def __init__(self, *, database: Database, key: PrivateKey) -> None:
        self._database = database
        self._key = key

    async def lookup(self, query: Any) -> Sequence[LookupOutput]:
        return await self._database.run(partial(self._find, wanted=read_query(query)))

    def _find(self, connection: "Connection", wanted: CertificateLookupQuery) -> list[LookupOutput]:
        if wanted.event_id is not None:
            return self._of_events(connection, [wanted.event_id])
        if wanted.content_hash is not None:
            ids = events.ids_by_content(connection, wanted.content_hash, skip=wanted.skip, limit=wanted.limit)
            return self._of_events(connection, ids)
        if wanted.batch_id is not None:
            row = batches.get(connection, wanted.batch_id)
            rows = [] if row is None else [row]
        else:
            assert wanted.source_id is not None, "a query names something"
            rows = batches.sealed_between(
                connection,
                wanted.source_id,
                from_ms=wanted.from_ms,
                to_ms=wanted.to_ms,
                skip=wanted.skip,
                limit=wanted.limit,
            )
        found = [self._output(row, _batch_context(row)) for row in rows if row.certificate is not None]
        seen = {row.batch_id for row in rows if row.certificate is not None}
        found += self._learned(connection, wanted, seen)
        return [*found, *_submitted(connection, wanted, seen)][: wanted.limit]

    def _learned(
        self, connection: "Connection", wanted: CertificateLookupQuery, seen: set[str]
    ) -> list[LookupOutput]:
        """Certificates of other nodes' batches; adds their ids to ``seen``."""
        rows = certificate_log.foreign(
            connection,
            batch_id=wanted.batch_id,
            source_id=wanted.source_id,
            from_ms=wanted.from_ms,
            to_ms=wanted.to_ms,
            limit=wanted.limit,
        )
        found = []
        for certificate, learned_ms in rows:
            statement = read_certificate(certificate).statement
            if statement.batch_id not in seen:
                seen.add(statement.batch_id)
                context = _context(statement, certificate, learned_ms)
                found.append(self._minted(statement.batch_id, certificate, context))
        return found

    def _of_events(self, connection: "Connection", event_ids: Sequence[str]) -> list[LookupOutput]:
        found = []
        for event_id in event_ids:
            try:
                document, _ = history.certificate_and_objects(connection, event_id)
            except ClientFault:
                continue  # unknown here, or not certified yet
            row = batches.get(connection, document["batchId"])
            assert row is not None, "a certificate is of a batch"
            found.append(self._output(row, orjson.dumps(document)))
        return found

    def _output(self, row: BatchRow, context: bytes) -> LookupOutput:
        assert row.certificate is not None, "only certified batches are answered"
        return self._minted(row.batch_id, row.certificate, context)

    def _minted(self, batch_id: str, certificate: bytes, context: bytes) -> LookupOutput:
        digest = hashlib.sha256(certificate).digest()
        token = build_certificate_token(self._key, batch_id=batch_id, digest=digest)
        return LookupOutput(beef=carry(token), output_index=0, context=context)


def read_query(query: Any) -> CertificateLookupQuery:
    """A query of this service.

    Raises:
        InvalidQueryError: It has another form.
    """
    match query:
        case {"eventId": str(event_id), **rest} if not rest and ID.fullmatch(event_id):
            return CertificateLookupQuery(event_id=event_id)
        case {"batchId": str(batch_id), **rest} if not rest and ID.fullmatch(batch_id):
            return CertificateLookupQuery(batch_id=batch_id)
        case {"contentHash": str(text), **rest} if (named := HASH.fullmatch(text)) is not None:
            page = _page(rest)
            return attrs.evolve(page, content_hash=f"sha256:{named[1]}")
        case {"sourceId": str(source_id), **rest} if 0 < len(source_id) <= SOURCE_ID_CHARS_MAX:
            page = _page(rest)
            return attrs.evolve(page, source_id=source_id)
    raise _invalid("the query must have exactly one of eventId, batchId, contentHash and sourceId, in its form")


def _page(left: dict[Any, Any]) -> CertificateLookupQuery:
    unknown = set(left) - {"from", "to", "skip", "limit"}
    if unknown:
        raise unknown_member(CertificateLookup.name, min(unknown), "from, to, skip, limit beside it")
    for name in ("skip", "limit"):
        value = left.get(name, 0)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise _invalid(f"{name!r} must be an integer of at least 0")
    return CertificateLookupQuery(
        from_ms=_moment(left, "from", 0),
        to_ms=_moment(left, "to", 2**62),
        skip=min(left.get("skip", 0), SKIPPED_MAX),
        limit=min(left.get("limit", ANSWERED_DEFAULT), ANSWERED_MAX),
    )


def _moment(left: dict[Any, Any], name: str, default: int) -> int:
    if name not in left:
        return default
    try:
        moment = datetime.datetime.fromisoformat(str(left[name]))
        return int((moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)).timestamp() * 1000)
    except (ValueError, OverflowError):
        raise _invalid(f"{name!r} must be a time as in RFC 3339") from None


def _invalid(what: str) -> InvalidQueryError:
    return InvalidQueryError(
        what,
        service=CertificateLookup.name,
        remedy='send {"eventId"}, {"batchId"}, {"contentHash"} or {"sourceId", "from", "to", "limit", "skip"}',
    )


def _batch_context(row: BatchRow) -> bytes:
    assert row.certificate is not None, "only certified batches are answered"
    statement = read_certificate(row.certificate).statement
    return _context(statement, row.certificate, row.certified_ms)


def _context(statement: Statement, certificate: bytes, certified_ms: int | None) -> bytes:
    return orjson.dumps(
        {
            "network": statement.network,
            "batchId": statement.batch_id,
            "sourceId": statement.source_id,
            "level": statement.level.word,
            "events": statement.events,
            "valid": statement.valid,
            "invalid": statement.invalid,
            "certifiedAt": None if certified_ms is None else rfc3339(certified_ms),
            "certificate": content_url(certificate),
        }
    )


def _submitted(connection: "Connection", wanted: CertificateLookupQuery, seen: set[str]) -> list[LookupOutput]:
    rows = outputs.find(
        connection,
        TOPIC,
        batch_id=wanted.batch_id,
        names=None if wanted.source_id is None else [wanted.source_id],
        limit=wanted.limit,
    )
    return [
        LookupOutput(
            beef=row.beef,
            output_index=row.output_index,
            context=_context(read_certificate(row.off_chain_values).statement, row.off_chain_values, None),
        )
        for row in rows
        if row.batch_id not in seen and row.off_chain_values is not None
    ]

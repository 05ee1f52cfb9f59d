"""Leaves of many valid events without issues at once: the same bytes as ``agents.certify`` makes of each."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import compress
from typing import Any, Final

import attrs
import orjson

from agents.reading import Batch, Record
from protocols.identifiers import EventIds
from protocols.merkle import leaf_hash

# What stands in a record around its data and around its other members.
BEFORE_DATA: Final = b'{"data":'
AFTER_DATA: Final = b',"eventType":,"externalId":,"previous":,"timestamp":}'


@attrs.frozen(kw_only=True)
class Rows:
    """Some records of a batch, by member, as generated code takes them."""

    records: Sequence[Record]
    lines: Sequence[bytes]
    hashes: Sequence[bytes]
    data: Sequence[Any]
    event_types: Sequence[str]
    external_ids: Sequence[str | None]
    previous: Sequence[str | None]
    timestamps: Sequence[str | None]

    def __len__(self) -> int:
        return len(self.records)

    def without(self, indexes: set[int]) -> "Rows":
        kept = [index not in indexes for index in range(len(self))]
        return Rows(**{name: list(compress(column, kept)) for name, column in self._columns().items()})

    def part(self, start: int, stop: int) -> "Rows":
        return Rows(**{name: column[start:stop] for name, column in self._columns().items()})

    def events(self, indexes: Iterable[int]) -> Iterator[tuple[Record, bytes]]:
        """Records with the leaf hashes of their lines."""
        return ((self.records[index], self.hashes[index]) for index in indexes)

    def data_texts(self) -> list[bytes]:
        """The canonical text of the data of each record, cut out of its line."""
        others = (self.event_types, self.external_ids, self.previous, self.timestamps)
        lengths = [map(len, map(orjson.dumps, column)) for column in others]
        ends = (len(AFTER_DATA) + sum(each) for each in zip(*lengths, strict=True))
        return [line[len(BEFORE_DATA) : len(line) - end] for line, end in zip(self.lines, ends, strict=True)]

    def _columns(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in NAMES}


NAMES: Final = [field.name for field in attrs.fields(Rows)]


def all_rows(batch: Batch, hashes: Sequence[bytes]) -> Rows:
    return Rows(
        records=batch.records,
        lines=batch.lines,
        hashes=hashes,
        data=batch.data,
        event_types=batch.event_types,
        external_ids=batch.external_ids,
        previous=batch.previous,
        timestamps=batch.timestamps,
    )


def clean_hashes(encoded: Sequence[bytes]) -> list[bytes]:
    """Leaf hashes of ``{"data", "issues"}`` lines without issues."""
    return [leaf_hash(b'{"data":%b,"issues":[]}' % data) for data in encoded]


def clean_leaves(ids: EventIds, rows: Rows, encoded: Sequence[bytes]) -> list[bytes]:
    """The leaf of each event, given its canonical normalized data."""
    sha256 = hashlib.sha256
    externals = list(map(orjson.dumps, rows.external_ids))
    events = ids.externals(externals) if None not in rows.external_ids else mixed_ids(ids, rows, externals)
    contents = [hashed.hexdigest() for hashed in map(sha256, encoded)]
    before = ["null" if previous is None else f'"{previous}"' for previous in rows.previous]
    versions = [
        sha256(f'["{event}","sha256:{content}",{previous}]'.encode()).hexdigest()
        for event, content, previous in zip(events, contents, before, strict=True)
    ]
    columns = zip(
        contents,
        events,
        texts(rows.event_types),
        map(bytes.decode, externals),
        map(bytes.hex, rows.hashes),
        texts(rows.timestamps),
        versions,
        strict=True,
    )
    return [
        f'{{"contentHash":"sha256:{content}","eventId":"{event}","eventType":{kind},"externalId":{external},"issues":[],'
        f'"recordHash":"{hashed}","status":"valid","timestamp":{timestamp},"versionId":"ver_{version}"}}'.encode()
        for content, event, kind, external, hashed, timestamp, version in columns
    ]


def mixed_ids(ids: EventIds, rows: Rows, externals: Sequence[bytes]) -> list[str]:
    """The ids of events of which some have no external id: these are known by their content."""
    found = ids.externals(externals)
    parts = zip(rows.external_ids, rows.data_texts(), rows.event_types, rows.timestamps, strict=True)
    for index, (external, data, kind, timestamp) in enumerate(parts):
        if external is None:
            content = b'{"data":%b,"eventType":%b,"timestamp":%b}'
            found[index] = ids.canonical_content(content % (data, orjson.dumps(kind), orjson.dumps(timestamp)))
    return found


def texts(values: Sequence[str | None]) -> list[str]:
    """The JSON text of each value, of which many may be equal."""
    known = {value: orjson.dumps(value).decode() for value in set(values)}
    return list(map(known.__getitem__, values))

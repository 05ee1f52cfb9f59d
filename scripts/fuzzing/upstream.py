"""A server that the node polls and delivers to, which answers with hostile records and hostile statuses."""

import csv
import io
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final
from xml.sax.saxutils import escape, quoteattr

import trio

from scripts.fuzzing.records import Records, header_value
from scripts.fuzzing.schemas import moment
from scripts.fuzzing.values import Draw, to_json
from tests.node.http_server import Asked, Said, serving

RECORDS_MAX: Final = 200
WAITING_MAX: Final = 4
HOST: Final = "127.0.0.1"
SAMPLES: Final = ({"id": "1", "value": 1, "at": "2024-01-01T00:00:00Z"},)
SETTINGS: Final[Mapping[str, dict[str, Any]]] = {
    "json": {"eventsPath": "", "externalIdPath": "/id", "timestampPath": "/at"},
    "lines": {"format": "ndjson", "externalIdPath": "/id"},
    "csv": {"format": "csv", "externalIdPath": "/id"},
    "feed": {"format": "feed"},
}
"""Configurations of polled sources, by the path that they poll."""


class Upstream:
    """What the server answers: each body that was offered once, then nothing new."""

    def __init__(self, records: Records, seed: str) -> None:
        self._makers: dict[str, Callable[[Draw], tuple[bytes, int]]] = {
            "json": lambda draw: _json(records, draw),
            "lines": lambda draw: _lines(records, draw),
            "csv": _csv,
            "feed": _feed,
        }
        self._draw = Draw(f"{seed} upstream")
        self._offer: dict[str, trio.MemorySendChannel[bytes]] = {}
        self._offered: dict[str, trio.MemoryReceiveChannel[bytes]] = {}
        for name in self._makers:
            self._offer[name], self._offered[name] = trio.open_memory_channel[bytes](WAITING_MAX)
        self.taken = 0
        self.delivered = 0

    @property
    def formats(self) -> tuple[str, ...]:
        return tuple(self._makers)

    async def offer(self, draw: Draw, name: str) -> int:
        """Have a body polled; waits while others wait. Returns how many records are in it."""
        body, records = self._makers[name](draw)
        await self._offer[name].send(body)
        return records

    def answer(self, asked: Asked) -> Said:
        name = asked.path.strip("/")
        if name not in self._offered:
            self.delivered += 1
            status = 200 if self._draw.chance(0.9) else self._draw.pick((201, 204, 301, 400, 410, 429, 500, 503))
            return Said(status=status, headers=(("X-A", header_value(self._draw).decode("latin-1")),), body=b"ok")
        try:
            body = self._offered[name].receive_nowait()
        except trio.WouldBlock:
            return Said(status=200, body={"json": b"[]", "csv": b"id\n"}.get(name, b""))
        self.taken += 1
        return Said(status=200, headers=(("ETag", f'"{self.taken}"'),), body=body)

    @asynccontextmanager
    async def serve(self, port: int) -> AsyncIterator[str]:
        """Serve; gives the URL."""
        async with serving(self.answer, host=HOST, port=port) as server:
            yield f"http://{HOST}:{server.port}"


def _count(draw: Draw) -> int:
    return 1 + draw.size(RECORDS_MAX, usual=40)


def _json(records: Records, draw: Draw) -> tuple[bytes, int]:
    events = [records.data(draw, SAMPLES) for _ in range(_count(draw))]
    return to_json(events), len(events)


def _lines(records: Records, draw: Draw) -> tuple[bytes, int]:
    lines = [to_json(records.data(draw, SAMPLES)) for _ in range(_count(draw))]
    return b"\n".join(lines), len(lines)


def _csv(draw: Draw) -> tuple[bytes, int]:
    columns = ["id", *(draw.key() for _ in range(draw.size(60)))]
    written = io.StringIO(newline="")
    writer = csv.writer(written, lineterminator=draw.pick(("\n", "\r\n")))
    writer.writerow(columns)
    count = _count(draw)
    for _ in range(count):
        writer.writerow([draw.text() for _ in range(len(columns) + draw.pick((0, 0, 0, 1, -1)))])
    return written.getvalue().encode(), count


def _feed(draw: Draw) -> tuple[bytes, int]:
    count = 1 + draw.below(20)
    atom = draw.chance(0.5)
    entries = []
    for _ in range(count):
        title, link, at = _xml(draw.text()), quoteattr(_plain(draw.text())), moment(draw)
        if atom:
            entries.append(
                f"<entry><id>{_xml(draw.text(200))}</id><title>{title}</title><link href={link}/>"
                f"<updated>{at}</updated><content type='html'>{title}</content></entry>"
            )
        else:
            entries.append(
                f"<item><guid>{_xml(draw.text(200))}</guid><title>{title}</title><pubDate>{at}</pubDate></item>"
            )
    if atom:
        return f"<feed xmlns='http://www.w3.org/2005/Atom'><title>a</title>{''.join(entries)}</feed>".encode(), count
    return f"<rss version='2.0'><channel><title>a</title>{''.join(entries)}</channel></rss>".encode(), count


def _plain(text: str) -> str:
    """Without what XML cannot hold."""
    return "".join(letter for letter in text if letter >= " " and letter not in "\ufffe\uffff")


def _xml(text: str) -> str:
    return escape(_plain(text))

"""Everything that the node took must be readable again: by lists, by id, by stream."""

import re
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import quote

import attrs
import httpx
import orjson

from scripts.fuzzing.calls import PROBLEM_TYPE
from scripts.fuzzing.target import Target, ask

PAGE: Final = 500
BY_ID_MAX: Final = 400  # of each list
PAGES_MAX: Final = 20_000
SETTLE_S: Final = 180.0
STALLED_S: Final = 20.0  # figures lag behind
STREAM_S: Final = 900.0
TIMEOUT_S: Final = 120.0
DATA: Final = b"data:"
PLACE: Final = b"id:"
JSON_TYPE: Final = "application/json"
GONE: Final = frozenset({404, 410})  # an entry may name what is not here: a batch of another node's, a deleted source


@attrs.define(kw_only=True)
class Readback:
    """What was read, and what could not be."""

    listed: dict[str, int] = attrs.field(factory=dict)
    by_id: int = 0
    streamed: int = 0
    pending: int = 0
    missing: int = 0
    stats: Mapping[str, Any] = attrs.field(factory=dict)
    problems: list[str] = attrs.field(factory=list)


class Reader:
    """Reads a node as its operator."""

    def __init__(self, target: Target, acknowledged: set[str]) -> None:
        """``acknowledged``: ids of events that the node took in."""
        self._target = target
        self._acknowledged = acknowledged
        self._places = _places(target.document)
        self._done: set[tuple[str, str]] = set()
        self.found = Readback()

    def run(self) -> Readback:
        found = self.found
        node = self._target.node
        with httpx.Client(base_url=node.url, auth=node.operator, timeout=TIMEOUT_S) as client:
            self._settle(client)
            missing = set(self._acknowledged)
            for path in _lists(self._target.document):
                for count, item in enumerate(self._items(client, path)):
                    found.listed[path] = count + 1
                    missing.discard(str(item.get("eventId")))
                    if count < BY_ID_MAX:
                        self._read_all(client, item)
            found.missing = len(missing)
            for event in sorted(missing)[:BY_ID_MAX]:  # pending for so short that it is in no list
                self._read(client, f"/overlay/events/{event}")
            if len(missing) > max(BY_ID_MAX, found.pending):  # those of batches under way are in no list
                found.problems.append(f"{len(missing)} events that were acknowledged are in no list: {min(missing)}")
            self._stream(client)
        return found

    def _settle(self, client: httpx.Client) -> None:
        """Wait until nothing is pending any more, or what is pending waits for agents that there are not."""
        pending, since_s, deadline_s = -1, time.monotonic(), time.monotonic() + SETTLE_S
        while time.monotonic() < deadline_s:
            stats = ask(client, "GET", "/overlay/stats").raise_for_status().json()
            if stats["pending"] != pending:
                pending, since_s = stats["pending"], time.monotonic()
            if not pending or time.monotonic() - since_s > STALLED_S:
                break
            time.sleep(0.5)
        self.found.stats, self.found.pending = stats, pending

    def _items(self, client: httpx.Client, path: str) -> Iterator[Mapping[str, Any]]:
        """The entries of a list, page by page."""
        after: str | None = None
        for _ in range(PAGES_MAX):
            answer = ask(client, "GET", path, params={"limit": PAGE, **({"after": after} if after else {})})
            if answer.status_code == 400:  # it has no pages
                answer = ask(client, "GET", path)
            if answer.status_code != 200:
                self.found.problems.append(f"{path} after {after!r}: {answer.status_code} {answer.text[:300]}")
                return
            document = answer.json()
            entries = next((part for part in document.values() if isinstance(part, list)), [])
            yield from (entry for entry in entries if isinstance(entry, dict))
            after = document.get("nextAfter")
            if not after:
                return

    def _read_all(self, client: httpx.Client, entry: Mapping[str, Any]) -> None:
        """Read what an entry names, at every path that takes such an id."""
        for name, prefixes in self._places.items():
            value = entry.get(name)
            if isinstance(value, str) and (name, value) not in self._done:
                self._done.add((name, value))
                for prefix in prefixes:
                    self._read(client, prefix + quote(value, safe=""))

    def _read(self, client: httpx.Client, path: str) -> None:
        answer = ask(client, "GET", path)
        self.found.by_id += 1
        gone = answer.status_code in GONE and answer.headers.get("content-type") == PROBLEM_TYPE
        if answer.status_code != 200 and not gone:
            self.found.problems.append(f"{path}: {answer.status_code} {answer.text[:300]}")

    def _stream(self, client: httpx.Client) -> None:
        """Every certified event comes by the stream, from its beginning, and once."""
        stats = self.found.stats
        wanted = int(stats["certified"]) + int(stats["invalid"])
        seen: set[bytes] = set()
        deadline_s = time.monotonic() + STREAM_S
        while len(seen) < wanted and time.monotonic() < deadline_s:
            before = len(seen)
            self._stream_on(client, seen, wanted, deadline_s)
            if len(seen) == before:
                break
        self.found.streamed = len(seen)
        if len(seen) < wanted:
            self.found.problems.append(f"the stream has {len(seen)} events of {wanted}")

    def _stream_on(self, client: httpx.Client, seen: set[bytes], wanted: int, deadline_s: float) -> None:
        """Read a stream until it has what is wanted, or ends, as it does where its client is too slow."""
        with client.stream("GET", "/overlay/events/stream", params={"since": "0", "status": "all"}) as stream:
            if stream.status_code != 200:
                stream.read()
                self.found.problems.append(f"the stream: {stream.status_code} {stream.text[:300]}")
                return
            rest, place = b"", b""
            for data in stream.iter_bytes():
                *lines, rest = (rest + data).split(b"\n")  # str.splitlines would cut texts at U+2028, too
                for line in lines:
                    if line.startswith(DATA) and orjson.loads(line[len(DATA) :]).get("type") == "event":
                        seen.add(place)
                    elif line.startswith(PLACE):
                        place = line
                if len(seen) >= wanted or time.monotonic() > deadline_s:
                    return


def _lists(document: Mapping[str, Any]) -> list[str]:
    """Paths without parameters in them that answer with JSON and have items below, or pages."""
    gets = {path: methods["get"] for path, methods in document["paths"].items() if "get" in methods}
    return [
        path
        for path, operation in gets.items()
        if "{" not in path
        and JSON_TYPE in operation["responses"]["200"].get("content", {})
        and (
            any(each.startswith(path + "/{") for each in gets)
            or any(parameter["name"] == "limit" for parameter in operation.get("parameters", ()))
        )
    ]


def _places(document: Mapping[str, Any]) -> dict[str, list[str]]:
    """What paths that end in a parameter begin with, by the parameter's name."""
    found: dict[str, list[str]] = {}
    for path, methods in document["paths"].items():
        match = re.fullmatch(r"([^{]+/)\{(\w+(?:Id|Hash))\}", path)
        if match is not None and "get" in methods:
            found.setdefault(match[2], []).append(match[1])
    return found

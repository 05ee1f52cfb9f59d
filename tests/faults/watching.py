"""What is watched while the faults go on: what nodes say of themselves, and what their streams deliver."""

import threading
import time
from collections import Counter
from collections.abc import Sequence
from typing import Final

import attrs
import httpx
import orjson

from node.delivery.cursor import Cursor, read_cursor
from scripts.network import Node
from tests.faults.injection import Struck
from tests.faults.schedule import DATABASES

LOOK_S: Final = 0.5
ANSWER_S: Final = 5.0
AGAIN_S: Final = 0.3
SILENCE_S: Final = 30.0  # longer than the pause between heartbeats
GRACE_S: Final = 1.0  # a node may notice a fault when it is nearly over
SHOWN_MAX: Final = 5


@attrs.frozen(kw_only=True)
class Look:
    """An answer to ``/readyz``. ``status``: 0 where there was none. Seconds, ``at_s`` since the load began."""

    at_s: float
    took_s: float
    status: int
    reasons: tuple[str, ...]


class ReadinessWatch(threading.Thread):
    """Asks one node again and again whether it is ready."""

    def __init__(self, node: Node, started_s: float) -> None:
        super().__init__(daemon=True)
        self.looks: list[Look] = []
        self.node = node
        self._started_s = started_s
        self._over = threading.Event()

    def run(self) -> None:
        with httpx.Client(base_url=self.node.url, timeout=ANSWER_S) as http:
            while not self._over.wait(LOOK_S):
                began_s = time.monotonic()
                status = 0
                reasons: tuple[str, ...] = ()
                try:
                    answer = http.get("/readyz")
                    status, reasons = answer.status_code, tuple(_reasons(answer))
                except (httpx.HTTPError, orjson.JSONDecodeError):
                    pass
                at_s = began_s - self._started_s
                self.looks.append(Look(at_s=at_s, took_s=time.monotonic() - began_s, status=status, reasons=reasons))

    def stop(self) -> None:
        self._over.set()
        self.join()

    def noticed(self, struck: Struck) -> bool:
        """Whether the node said that it is not ready while its database was struck."""
        return any(
            look.status == httpx.codes.SERVICE_UNAVAILABLE
            for look in self.looks
            if struck.at_s <= look.at_s + look.took_s and look.at_s <= struck.ended_s + GRACE_S
        )


def _reasons(answer: httpx.Response) -> list[str]:
    return [str(each.get("code", "")) for each in orjson.loads(answer.content).get("reasons", [])]


def noticed(watches: Sequence[ReadinessWatch], struck: Sequence[Struck]) -> dict[str, Counter[bool]]:
    """Of each kind of fault of databases, how often the node said so (True) and did not."""
    found: dict[str, Counter[bool]] = {}
    for watch in watches:
        for each in struck:
            if each.fault.kind in DATABASES and watch.node.index in each.fault.nodes:
                found.setdefault(each.fault.kind.value, Counter())[watch.noticed(each)] += 1
    return found


class Follower(threading.Thread):
    """A client of one node's stream: it comes back with its place, and keeps what it was given.

    Attributes:
        seen: How often each event came, by source and id.
        problems: Where the order was wrong.
        resumed: How often the stream had ended.
    """

    def __init__(self, node: Node, source_ids: Sequence[str]) -> None:
        super().__init__(daemon=True)
        self.node = node
        self.seen: Counter[str] = Counter()
        self.problems: list[str] = []
        self.resumed = 0
        self._place = "0"
        self._last = Cursor(sequence=0, position=0)
        self._query = {"sourceIds": ",".join(source_ids), "status": "all"}
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.is_set():
            try:
                self._follow()
            except httpx.HTTPError:
                time.sleep(AGAIN_S)
            self.resumed += 1

    def await_all(self, events: int, seconds: float) -> None:
        """Wait until so many different events came, then end."""
        deadline_s = time.monotonic() + seconds
        while len(self.seen) < events and time.monotonic() < deadline_s:
            time.sleep(AGAIN_S)
        self._over.set()

    def _follow(self) -> None:
        headers = {"Last-Event-ID": self._place}
        url = f"{self.node.url}/overlay/events/stream"
        with httpx.stream("GET", url, params=self._query, headers=headers, timeout=SILENCE_S) as stream:
            place = ""
            for line in stream.iter_lines():
                if line.startswith("id: "):
                    place = line[4:]
                elif line.startswith("data: "):
                    self._take(place, orjson.loads(line[6:]))
                if self._over.is_set():
                    return

    def _take(self, place: str, message: dict[str, object]) -> None:
        if message["type"] != "event":
            self._place = place or self._place
            return
        cursor = read_cursor(place)
        if cursor <= self._last and len(self.problems) < SHOWN_MAX:
            self.problems.append(f"the stream gave {place} after {self._last}")
        self._last, self._place = cursor, place
        self.seen[str(message["eventId"])] += 1

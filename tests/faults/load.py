"""The clients of the fault suite: each sends one source's batches to one node, again and again until acknowledged."""

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Final

import attrs
import httpx
import orjson

from scripts.network import Node
from tests.faults.feed import Feed, Form

ANSWER_S: Final = httpx.Timeout(5.0, connect=2.0)
AGAIN_S: Final = 0.3
PATIENCE_S: Final = 180.0  # for one batch: a node may be away, and behind when it is back
CHUNK: Final = 16 * 1024
PROBE: Final = 10  # events
SECRET: Final = "the secret of a webhook"
LINES: Final = "application/x-ndjson"
LATER: Final = (408, 409, 429, 503)
"""Worth another attempt. 409: The first attempt under an idempotency key is still being answered."""
WRONG: Final = 500
"""From here on an answer is a fault of the node, but for 503. The client goes on, and it is remembered."""


@attrs.frozen(kw_only=True)
class Share:
    """One client's part of the load."""

    node: Node
    feed: Feed
    batch: int
    batches: int
    pause_s: float
    offset_s: float


@attrs.frozen(kw_only=True)
class Counted:
    """What an answer says of a batch: how much of it is durable or known, and how much is something else."""

    taken: int
    other: int


class Client(threading.Thread):
    """Open loop by the clock: whoever was held up posts what is due until it is level again.

    Attributes:
        offered: Events that were due so far.
        acknowledged: External ids, batch after batch.
        acks_ms: Of each batch, from the first attempt to the answer.
        statuses: Of all answers; 0 for attempts without one.
        wrong: Answers that no node may give.
        error: Why it gave up.
    """

    def __init__(self, share: Share, started_s: float) -> None:
        super().__init__(daemon=True)
        self.share = share
        self.offered = 0
        self.acknowledged: list[str] = []
        self.acks_ms: list[float] = []
        self.statuses: Counter[int] = Counter()
        self.wrong: list[str] = []
        self.error = ""
        self._started_s = started_s

    def run(self) -> None:
        share = self.share
        with httpx.Client(base_url=share.node.url, timeout=ANSWER_S) as http:
            for number, (external_ids, body) in enumerate(islice(share.feed.batches(share.batch), share.batches)):
                due_s = self._started_s + share.offset_s + number * share.pause_s
                time.sleep(max(0.0, due_s - time.monotonic()))
                self.offered += len(external_ids)
                began_s = time.monotonic()
                if not self._post(http, number, body, len(external_ids)):
                    return
                self.acks_ms.append(1_000 * (time.monotonic() - began_s))
                self.acknowledged += external_ids

    def _post(self, http: httpx.Client, number: int, body: bytes, events: int) -> bool:
        deadline_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline_s:
            try:
                answer = http.send(self._request(http, number, body))
            except httpx.HTTPError:
                self.statuses[0] += 1
                time.sleep(AGAIN_S)
                continue
            self.statuses[answer.status_code] += 1
            counted = _counted(answer) if answer.status_code == httpx.codes.ACCEPTED else None
            if counted is not None and counted.other:
                self.error = f"not all of a batch was taken: {answer.text[-300:]}"
                return False
            if counted is not None and counted.taken == events:
                return True
            if answer.status_code not in (httpx.codes.ACCEPTED, *LATER):
                self.wrong.append(f"{answer.status_code}: {answer.text[:300]}")
                if answer.status_code < WRONG:
                    self.error = f"{answer.status_code}: {answer.text[:300]}"
                    return False
            time.sleep(min(2.0, float(answer.headers.get("Retry-After", AGAIN_S))))
        self.error = f"a batch was not acknowledged within {PATIENCE_S:.0f} s: {dict(self.statuses)}"
        return False

    def _request(self, http: httpx.Client, number: int, body: bytes) -> httpx.Request:
        feed = self.share.feed
        path, query = "/overlay/events/ingest", {"sourceId": feed.source_id}
        headers = {"Content-Type": "application/json", "Prefer": "return=minimal"}
        keyed = {**headers, "Idempotency-Key": f"{feed.source_id}-{number}"}
        match feed.form:
            case Form.REQUEST:
                return http.build_request("POST", path, content=body, headers=keyed)
            case Form.LINES:
                lines = {**keyed, "Content-Type": LINES}
                return http.build_request("POST", path, params=query, content=body, headers=lines)
            case Form.STREAM:
                lines = {"Content-Type": LINES}
                return http.build_request("POST", path, params=query, content=_chunks(body), headers=lines)
            case Form.WEBHOOK:
                proven = {**headers, "Authorization": f"Bearer {SECRET}"}
                place = f"/overlay/sources/{feed.source_id}/webhook"
                return http.build_request("POST", place, content=body, headers=proven)


class Probes:
    """Further events when the load is over, a small batch at a time of a source on each node."""

    def __init__(self, feeds: Sequence[tuple[Node, Feed]]) -> None:
        self._feeds = [(node, feed, enumerate(feed.batches(PROBE))) for node, feed in feeds]

    def post(self) -> None:
        """A batch to each node. What is not acknowledged is not sent again."""
        for node, feed, batches in self._feeds:
            number, (_, body) = next(batches)
            headers = {"Content-Type": "application/json", "Idempotency-Key": f"{feed.source_id}-{number}"}
            with contextlib.suppress(httpx.HTTPError):
                httpx.post(f"{node.url}/overlay/events/ingest", content=body, headers=headers, timeout=ANSWER_S)


def _chunks(body: bytes) -> Iterator[bytes]:
    for start in range(0, len(body), CHUNK):
        yield body[start : start + CHUNK]


def _counted(answer: httpx.Response) -> Counted | None:
    """What was taken in; None where lines ended before all of them were."""
    document = orjson.loads(answer.content.splitlines()[-1])
    if not document.get("done", True):
        return None
    counts = document["counts"]
    return Counted(taken=counts["accepted"] + counts["duplicates"], other=counts["versions"] + counts["rejected"])

"""The clients of the fault suite: each posts one source's batches to one node, again and again until acknowledged."""

import threading
import time
from itertools import islice
from typing import Final

import attrs
import httpx

from scripts.network import Node
from tests.faults.feed import Feed

ANSWER_S: Final = httpx.Timeout(5.0, connect=2.0)
AGAIN_S: Final = 0.3
PATIENCE_S: Final = 90.0  # for one batch: a node may be away, and behind when it is back
HEADERS: Final = {"Content-Type": "application/json", "Prefer": "return=minimal"}
LATER: Final = (429, 500, 502, 503)


@attrs.frozen(kw_only=True)
class Share:
    """One client's part of the load."""

    node: Node
    feed: Feed
    batch: int
    batches: int
    pause_s: float
    offset_s: float


class Client(threading.Thread):
    """Open loop by the clock: whoever was held up posts what is due until it is level again.

    Attributes:
        offered: Events that were due so far.
        acknowledged: External ids, batch after batch.
        acks_ms: Of each batch, from the first attempt to the answer.
        repeats: Attempts beyond the first; ``refused`` of them for back-pressure (429).
        error: Why it gave up.
    """

    def __init__(self, share: Share, started_s: float) -> None:
        super().__init__(daemon=True)
        self.share = share
        self.offered = 0
        self.acknowledged: list[str] = []
        self.acks_ms: list[float] = []
        self.repeats = 0
        self.refused = 0
        self.error = ""
        self._started_s = started_s

    def run(self) -> None:
        share = self.share
        with httpx.Client(base_url=share.node.url, headers=HEADERS, timeout=ANSWER_S) as http:
            for number, (external_ids, body) in enumerate(islice(share.feed.batches(share.batch), share.batches)):
                due_s = self._started_s + share.offset_s + number * share.pause_s
                time.sleep(max(0.0, due_s - time.monotonic()))
                self.offered += len(external_ids)
                began_s = time.monotonic()
                if not self._post(http, body, len(external_ids)):
                    return
                self.acks_ms.append(1_000 * (time.monotonic() - began_s))
                self.acknowledged += external_ids

    def _post(self, http: httpx.Client, body: bytes, events: int) -> bool:
        deadline_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline_s:
            try:
                answer = http.post("/overlay/events/ingest", content=body)
            except httpx.HTTPError:
                self.repeats += 1
                time.sleep(AGAIN_S)
                continue
            if answer.status_code == 202:
                counts = answer.json()["counts"]
                if counts["accepted"] + counts["duplicates"] == events and counts["versions"] == 0:
                    return True
                self.error = f"not all of a batch was taken: {counts}"
                return False
            if answer.status_code not in LATER:
                self.error = f"{answer.status_code}: {answer.text[:300]}"
                return False
            self.repeats += 1
            self.refused += answer.status_code == 429
            time.sleep(min(2.0, float(answer.headers.get("Retry-After", AGAIN_S))))
        self.error = f"a batch was not acknowledged within {PATIENCE_S:.0f} s"
        return False

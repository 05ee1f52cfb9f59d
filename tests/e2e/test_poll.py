"""A node that polls is killed in mid-stream, and the server with it: every item ends certified, once."""

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from scripts.network import LocalNetwork, Node, free_ports, get
from tests.e2e.test_crashes import all_events, settled

pytestmark = pytest.mark.slow

ITEMS = 12_000
PER_PAGE = 100
KILLS = 4
SETTINGS = {
    "event_batch_size": 100,
    "event_parallel_workers": 1,
    "event_consensus_required": False,
    "overlay_outbound_allow": ["127.0.0.0/8"],
}


class Items:
    """A server of numbered items, a page for each cursor, that can be stopped and started again."""

    def __init__(self) -> None:
        (self.port,) = free_ports(1)
        self.pages: Counter[int] = Counter()
        self._server: ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/items"

    def start(self) -> None:
        items = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                start = int(parse_qs(urlsplit(self.path).query).get("after", ["0"])[0])
                items.pages[start] += 1
                time.sleep(0.05)  # so that there is a middle of the stream
                end = min(start + PER_PAGE, ITEMS)
                page = [{"id": f"item-{number}", "value": number} for number in range(start, end)]
                body = json.dumps({"items": page, "next": end if end < ITEMS else None, "left": ITEMS - end}).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *message: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    @property
    def reached(self) -> int:
        """How far anybody asked, in items."""
        return max(self.pages, default=0)


@pytest.fixture
def items() -> Iterator[Items]:
    server = Items()
    server.start()
    yield server
    server.stop()


def register(node: Node, url: str) -> None:
    configuration = {
        "url": url,
        "eventType": "item",
        "externalIdPath": "/id",
        "eventsPath": "/items",
        "cursorPath": "/next",
        "cursorParameter": "after",
        "lagPath": "/left",
        "interval": 1,
        "pagesMax": 1_000,
    }
    source = {"sourceId": "items", "name": "Items", "sourceType": "poll", "configuration": configuration}
    policy = {"validationRules": {"certification": {"level": "basic"}}}
    answer = httpx.post(f"{node.url}/overlay/sources", json={**source, **policy}, auth=node.operator, timeout=30)
    assert answer.status_code == 201, answer.text


def wait_until_asked(items: Items, count: int, node: Node) -> None:
    deadline = time.monotonic() + 90
    while items.reached < count:
        assert time.monotonic() < deadline, f"at {items.reached} of {count}\n{node.tail(20)}"
        time.sleep(0.02)


def test_node_and_server_are_killed_in_mid_stream(tmp_path: Path, items: Items) -> None:
    tmp_path.chmod(0o755)
    with LocalNetwork(tmp_path, 1, settings=SETTINGS) as network:
        (node,) = network.nodes
        register(node, items.url)
        for number in range(1, KILLS + 1):
            wait_until_asked(items, number * ITEMS // (KILLS + 2), node)
            if number % 2:
                items.stop()
            node.kill()
            node.start()
            network.wait_ready(node)
            if number % 2:
                state = wait_for_state(node, "failing")
                assert "cannot connect" in state["lastError"]
                items.start()
        wait_until_asked(items, ITEMS - PER_PAGE, node)
        state = wait_for_state(node, "running", lag=0)
        assert state["rejected"] == 0
        (stats,) = settled(network)
        events = all_events(node)
    assert sum(items.pages.values()) > len(items.pages), "no crash was noticed"
    assert (stats["acknowledged"], stats["certified"]) == (ITEMS, ITEMS)
    assert Counter(event["externalId"] for event in events) == Counter(f"item-{n}" for n in range(ITEMS))
    assert {event["status"] for event in events} == {"certified"}
    assert {event["version"] for event in events} == {1}


def wait_for_state(node: Node, status: str, lag: int | None = None) -> dict[str, Any]:
    deadline = time.monotonic() + 60
    while True:
        state: dict[str, Any] = get(node, "/overlay/sources/items")["state"] or {}
        if state.get("status") == status and lag in (None, state["lag"]):
            return state
        assert time.monotonic() < deadline, state
        time.sleep(0.05)

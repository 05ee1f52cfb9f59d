"""A record of a source that ends the process: the node finds it by itself, and serves everybody else."""

import json
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from node.runtime.keyring import create_key
from tests.node.node_process import RunningNode, environment, running_process

pytestmark = pytest.mark.slow

FRAGILE = (sys.executable, "-m", "tests.e2e.fragile_node", "run")
WAIT_S = 90.0
ITEMS = 40
POISON = 23


@pytest.fixture
def home(tmp_path: Path) -> Path:
    create_key(tmp_path / "identity.key")
    return tmp_path


@pytest.fixture
def page() -> Iterator[str]:
    """A page of items, of which one is deadly to some node."""
    items = [{"id": f"i-{number}", "value": "poison" if number == POISON else "v"} for number in range(ITEMS)]
    body = json.dumps({"items": items}).encode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *message: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/items"
    server.shutdown()
    server.server_close()


def create(client: httpx.Client, source_id: str, url: str) -> None:
    configuration = {"url": url, "eventType": "item", "externalIdPath": "/id", "eventsPath": "/items", "interval": 1}
    source = {"sourceId": source_id, "name": source_id, "sourceType": "poll", "configuration": configuration}
    policy = {"validationRules": {"certification": {"level": "basic"}}}
    assert client.post("/overlay/sources", json={**source, **policy}).status_code == 201


def reads(client: httpx.Client, count: int) -> None:
    """So many items become events, each once."""
    deadline, found = time.monotonic() + WAIT_S, list[str]()
    while len(found) < count:
        assert time.monotonic() < deadline, f"{len(found)} of {count}"
        time.sleep(0.1)
        answer = client.get("/overlay/events", params={"sourceId": "deadly", "limit": 1_000})
        found = [event["externalId"] for event in answer.json()["events"]]
    assert len(found) == len(set(found)) == count


def died(node: RunningNode) -> None:
    assert node.process.wait(WAIT_S) != 0


def test_a_source_whose_record_ends_the_process_starts_disabled_after_the_second_time(
    home: Path, postgres_url: str, page: str
) -> None:
    environ = environment(home, postgres_url, overlay_outbound_allow="127.0.0.0/8")
    with running_process(environ, command=FRAGILE) as node:
        node.until("node.ready")
        with node.client() as client:
            create(client, "deadly", page)
        died(node)
    with running_process(environ, command=FRAGILE) as node:
        assert "Segmentation fault" in node.until("node.crashed_before")["why"]
        died(node)  # on its way through the same page, one record at a time
    with running_process(environ, command=FRAGILE) as node:
        node.until("node.ready")
        lines = [line for line in node.lines if line["event"] == "source.disabled"]
        disabled = lines[0] if lines else node.until("source.disabled")
        assert disabled["source"] == "deadly"
        assert b"poison" in bytes.fromhex(disabled["sample"])
        with node.client() as client:
            source = client.get("/overlay/sources/deadly").json()
            assert source["enabled"] is False
            assert "ended twice" in source["disabledReason"]
            (rejection,) = client.get("/overlay/sources/deadly/progress").json()["rejections"]
            assert json.loads(rejection["head"]) == {"id": f"i-{POISON}", "value": "poison"}
            reads(client, POISON)  # those before it
            assert client.get("/readyz").status_code == 200
    with running_process(environ) as node:  # the fault is mended
        node.until("node.ready")
        with node.client() as client:
            assert client.patch("/overlay/sources/deadly", json={"enabled": True}).status_code == 200
            assert client.get("/overlay/sources/deadly").json()["disabledReason"] is None
            reads(client, ITEMS)


def test_a_killed_node_blames_no_source(home: Path, postgres_url: str, page: str) -> None:
    environ = environment(home, postgres_url, overlay_outbound_allow="127.0.0.0/8")
    for start in range(3):
        with running_process(environ) as node:
            node.until("node.ready")
            with node.client() as client:
                if not start:
                    create(client, "s", page)
                assert client.get("/overlay/sources/s").json()["enabled"] is True
            node.process.kill()
            node.process.wait(WAIT_S)
            assert "node.crashed_before" not in node.events()

"""A node's process answers from its first moment to its last: while it waits for its database, while it drains."""

import signal
import socket
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from node.runtime.keyring import create_key
from tests.node.node_process import RunningNode, environment, running_process
from tests.node.test_process_life import SOURCE, WAIT_S, ended_in_order, post, wait_for
from tests.outage import out_of_order, set_read_only

pytestmark = pytest.mark.slow


@pytest.fixture
def home(tmp_path: Path) -> Path:
    create_key(tmp_path / "identity.key")
    return tmp_path


def reasons(client: httpx.Client) -> list[str]:
    answer = client.get("/readyz")
    document = answer.json()
    assert (answer.status_code == 200) is (document["status"] == "ready") is (not document["reasons"])
    return [reason["code"] for reason in document["reasons"]]


def refuses_all_but_health(client: httpx.Client, why: str) -> None:
    for path in ("/healthz", "/livez"):
        assert client.get(path).json() == {"status": "ok"}
        assert client.head(path).status_code == 200
    for answer in (post(client, "early"), client.get("/overlay/events"), client.get("/metrics")):
        assert answer.status_code == 503
        assert int(answer.headers["Retry-After"]) > 0
        problem: dict[str, Any] = answer.json()
        assert problem["type"] == "urn:overlay:problem:unavailable"
        assert why in problem["detail"]


def refuses_sockets(url: httpx.URL) -> None:
    with socket.create_connection((url.host, url.port or 80), timeout=30) as sock:
        sock.sendall(
            b"GET /overlay/events/stream HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        )
        assert sock.recv(100).startswith(b"HTTP/1.1 503 ")


def hang_up(node: RunningNode) -> None:
    node.process.send_signal(signal.SIGHUP)


def logged(node: RunningNode, event: str) -> dict[str, Any]:
    """The last line of an event: among those read already, else the next one."""
    read = [line for line in node.lines if line["event"] == event]
    return read[-1] if read else node.until(event)


def test_settings_are_read_again_at_sighup_in_every_phase(home: Path, postgres_url: str) -> None:
    config = home / "node.toml"
    config.write_text('log_level = "info"\n')
    environ = environment(home, postgres_url, overlay_shutdown_grace_s="300")
    with ExitStack() as stack:
        with out_of_order(postgres_url):
            node = stack.enter_context(running_process(environ, "--config", str(config)))
            node.until("node.starting")
            hang_up(node)
            node.until("database.awaited")
            config.write_text('overlay_public_reads = ["stream"]\n')
            hang_up(node)
        with holding(node) as client:
            changed = logged(node, "setting.changed")
            assert (changed["name"], changed["after"]) == ("OVERLAY_PUBLIC_READS", "stream")
            logged(node, "settings.reloaded")
            assert client.get("/metrics").status_code == 401
            config.write_text('log_level = "loud"\noverlay_price = -1\n')
            hang_up(node)
            problems = [node.until("settings.refused")["problem"] for _ in range(2)]
            assert any(problem.startswith(f"{config}: log_level = loud") for problem in problems)
            assert any("overlay_price" in problem for problem in problems)
            assert client.get("/metrics").status_code == 401, "those read before stay in force"
            config.write_text('overlay_public_reads = ["metrics"]\noverlay_price = 7\n')
            hang_up(node)
            assert node.until("setting.needs_restart")["name"] == "OVERLAY_PRICE"
            node.until("settings.reloaded")
            assert client.get("/metrics").status_code == 200
            node.process.send_signal(signal.SIGTERM)
            node.until("node.stopping")
            wait_for(lambda: reasons(client) == ["draining"])
            config.write_text("overlay_shutdown_grace_s = 1\n")
            hang_up(node)
            node.until("settings.reloaded")
        ended_in_order(node)


def test_a_node_waits_for_its_database_and_says_so(home: Path, postgres_url: str) -> None:
    with running_process(environment(home, postgres_url)) as node:
        with out_of_order(postgres_url):
            awaited = node.until("database.awaited")
            assert awaited["why"].endswith("check that its server runs, and DATABASE_URL")
            with node.anonymous() as client:
                wait_for(lambda: reasons(client) == ["starting", "database-down"])
                refuses_all_but_health(client, "starting and waits for its database")
                refuses_sockets(client.base_url)
        node.until("node.ready")
        with node.anonymous() as client:
            wait_for(lambda: not reasons(client))
        ended_in_order(node)


def test_a_database_that_cannot_be_reached_is_logged_without_its_password(home: Path, postgres_url: str) -> None:
    nowhere = "postgresql://someone:hunter2@127.0.0.1:1/overlay"
    with running_process(environment(home, nowhere)) as node:
        why = node.until("database.awaited")["why"]
        assert why.startswith("the database cannot be reached: ")
        assert 'server at "127.0.0.1", port 1' in why
        with node.anonymous() as client:
            shown = client.get("/readyz").text
        ended_in_order(node)
    assert "hunter2" not in str(node.lines)
    assert "127.0.0.1" not in shown, "anybody can read it"


def test_a_database_that_is_read_only_at_the_start_is_waited_for(home: Path, postgres_url: str) -> None:
    set_read_only(postgres_url, "on")
    with running_process(environment(home, postgres_url)) as node:
        assert "read-only" in node.until("database.awaited")["why"]
        with node.anonymous() as client:
            wait_for(lambda: reasons(client) == ["starting", "database-read-only"])
            set_read_only(postgres_url, "off")
            node.until("node.ready")
            wait_for(lambda: not reasons(client))
        ended_in_order(node)


def holding(node: RunningNode) -> httpx.Client:
    """A client of a node that holds an event which cannot be certified."""
    node.until("node.ready")
    with node.client() as operator:
        assert operator.post("/overlay/sources", json=SOURCE).status_code == 201
        assert post(operator, "r-1", level="critical").status_code == 202
    return node.anonymous()


def test_a_node_that_drains_says_so_until_its_end(home: Path, postgres_url: str) -> None:
    environ = environment(home, postgres_url, overlay_shutdown_grace_s="300")
    with running_process(environ) as node, holding(node) as client:
        node.process.send_signal(signal.SIGTERM)
        node.until("node.stopping")
        wait_for(lambda: reasons(client) == ["draining"])
        refuses_all_but_health(client, "about to end")
        node.process.send_signal(signal.SIGTERM)
        assert node.until("node.drained")["left"] == 1
        node.until("node.stopped")
        assert node.process.wait(WAIT_S) == 0
        assert [line["again"] for line in node.lines if line["event"] == "node.stopping"] == [False, True]

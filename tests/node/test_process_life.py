"""The life of a node's process: what stops it from starting, what ends it, and what it survives."""

import json
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from node.app import HTTP_GRACE_S, LAST_WRITES_S
from node.runtime.keyring import create_key
from storage.embedded import EmbeddedPostgres
from tests.node.node_process import COMMAND, ROOT, RunningNode, counted, environment, running_process
from tests.outage import frozen, out_of_order

pytestmark = pytest.mark.slow

SOURCE = {"sourceId": "farm", "name": "Farm", "sourceType": "webhook"}
WAIT_S = 120.0
GRACE_S = 1.0
ENDS_S = HTTP_GRACE_S + GRACE_S + LAST_WRITES_S + 40.0  # and closing what is open; without a bound it takes minutes


@pytest.fixture
def home(tmp_path: Path) -> Path:
    create_key(tmp_path / "identity.key")
    return tmp_path


def run_to_its_end(environ: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(COMMAND, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=WAIT_S, check=False)


def refusal(ran: "subprocess.CompletedProcess[str]") -> str:
    """The one line that says why a node did not start."""
    last = ran.stderr.splitlines()[-1]
    assert last.startswith("overlay-node: "), ran.stderr
    assert "Traceback" not in ran.stderr
    return last.removeprefix("overlay-node: ")


@contextmanager
def taken_port() -> Iterator[int]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken.getsockname()[1]


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def ended_in_order(node: RunningNode) -> None:
    node.process.send_signal(signal.SIGTERM)
    node.until("node.stopped")
    assert node.process.wait(WAIT_S) == 0


def post(client: httpx.Client, *ids: str, level: str = "basic") -> httpx.Response:
    events = [{"externalId": each, "eventType": "reading", "data": {"value": 1}} for each in ids]
    body: dict[str, Any] = {"sourceId": "farm", "events": events, "processingOptions": {"consensusLevel": level}}
    return client.post("/overlay/events/ingest", json=body)


def statuses(client: httpx.Client) -> dict[str, str]:
    found = client.get("/overlay/events", params={"sourceId": "farm"})
    assert found.status_code == 200, found.text
    return {event["externalId"]: event["status"] for event in found.json()["events"]}


def test_an_address_in_use_is_named(home: Path, postgres_url: str) -> None:
    with taken_port() as port:
        bind = f"127.0.0.1:{port}"
        ran = run_to_its_end(environment(home, postgres_url, overlay_http_bind=bind))
        assert ran.returncode == 1
        assert refusal(ran) == f"OVERLAY_HTTP_BIND={bind}: cannot listen there: Address already in use"
        address = f"/ip4/127.0.0.1/tcp/{port}"
        ran = run_to_its_end(environment(home, postgres_url, overlay_p2p_listen=address))
        assert ran.returncode == 1
        assert refusal(ran) == f"cannot listen on {address}: Address already in use"


def test_a_certificate_that_is_missing_ends_the_start_like_any_wrong_setting(home: Path, postgres_url: str) -> None:
    ran = run_to_its_end(environment(home, postgres_url, overlay_member_certificate=str(home / "none.json")))
    assert ran.returncode == 2
    assert refusal(ran).startswith(f"OVERLAY_MEMBER_CERTIFICATE={home / 'none.json'}: ")


def test_a_topic_that_cannot_be_advertised_is_named(home: Path, postgres_url: str) -> None:
    ran = run_to_its_end(environment(home, postgres_url, overlay_event_topics="Upper.Case"))
    assert ran.returncode == 1
    assert "'Upper.Case'" in refusal(ran)


def test_a_key_that_others_can_read_is_refused(home: Path, postgres_url: str) -> None:
    (home / "identity.key").chmod(0o644)
    ran = run_to_its_end(environment(home, postgres_url))
    assert ran.returncode == 1
    assert refusal(ran).endswith(f"run 'chmod 600 {home / 'identity.key'}'")


def test_a_database_serves_one_key_one_network_and_one_process(home: Path, postgres_url: str) -> None:
    with running_process(environment(home, postgres_url)) as node:
        node.until("node.ready")
        second = run_to_its_end(environment(home, postgres_url))
        assert second.returncode == 1
        assert "another node process uses this database" in refusal(second)
    elsewhere = run_to_its_end(environment(home, postgres_url, overlay_network="elsewhere"))
    assert elsewhere.returncode == 1
    assert "with network overlay-main, not elsewhere" in refusal(elsewhere)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_order(home: Path, postgres_url: str, number: signal.Signals) -> None:
    with running_process(environment(home, postgres_url)) as node:
        node.until("node.ready")
        node.process.send_signal(number)
        node.until("node.stopped")
        assert node.process.wait(WAIT_S) == 0
    end = [name for name in node.events() if name in ("node.stopping", "node.drained", "node.stopped")]
    assert end == ["node.stopping", "node.drained", "node.stopped"]
    (stopping,) = [line for line in node.lines if line["event"] == "node.stopping"]
    assert stopping["signal"] == number.name


def test_events_without_enough_agents_outlast_a_killed_process(home: Path, postgres_url: str) -> None:
    """What was acknowledged and never certified is counted, and waits on, after the next start."""
    environ = environment(home, postgres_url, overlay_attempts_max="16", overlay_shutdown_grace_s="0")
    with running_process(environ) as node:
        node.until("node.ready")
        with node.client() as client:
            assert client.post("/overlay/sources", json=SOURCE).status_code == 201
            assert post(client, "r-1", "r-2", level="enhanced").status_code == 202
        node.process.kill()
        node.process.wait(WAIT_S)
    with running_process(environ) as again:
        again.until("node.ready")
        with again.client() as client:
            wait_for(lambda: counted(client)["overlay_events_unsettled"] == 2)
            assert set(statuses(client).values()) <= {"pending", "processing", "ingested", "normalized"}
            repeated = post(client, "r-1", level="enhanced").json()
            assert repeated["counts"]["duplicates"] == 1
        again.process.send_signal(signal.SIGTERM)
        assert again.until("node.drained")["left"] == 2
        again.until("node.stopped")


def refuses_work(client: httpx.Client) -> bool:
    return post(client, "while-away").status_code == 503


def test_it_goes_on_when_the_database_comes_back(home: Path, postgres_url: str) -> None:
    with running_process(environment(home, postgres_url)) as node:
        node.until("node.ready")
        with node.client() as operator, httpx.Client(base_url=operator.base_url, timeout=30) as client:
            assert operator.post("/overlay/sources", json=SOURCE).status_code == 201
            assert post(client, "before").status_code == 202
            wait_for(lambda: statuses(client) == {"before": "certified"})
            with out_of_order(postgres_url):
                assert refuses_work(client)
                ready = client.get("/readyz")
                assert ready.status_code == 503
                assert ready.json()["checks"]["database"]["ok"] is False
                assert client.get("/healthz").status_code == 200
            wait_for(lambda: post(client, "after").status_code == 202)
            wait_for(lambda: statuses(client).get("after") == "certified")
            assert client.get("/readyz").status_code == 200
        assert node.process.poll() is None
        ended_in_order(node)


def test_every_line_of_the_log_is_a_json_object_with_time_level_and_node(home: Path, postgres_url: str) -> None:
    environ = environment(home, postgres_url, overlay_node_name="node-7", log_level="debug")
    with running_process(environ) as node:
        node.until("node.ready")
        node.process.send_signal(signal.SIGTERM)
        node.until("node.stopped")
    assert len(node.lines) >= 5
    for line in node.lines:
        assert {"event", "level", "logger", "timestamp", "node"} <= line.keys(), json.dumps(line)
        assert line["node"] == "node-7"


def test_the_log_on_a_terminal_is_for_people(home: Path, postgres_url: str) -> None:
    with running_process(environment(home, postgres_url, log_format="console")) as node:
        text = _read_until(node, "node.ready")
    assert "[info" in text
    assert not text.lstrip().startswith("{")


def _read_until(node: RunningNode, event: str) -> str:
    read = ""
    assert node.process.stderr is not None
    for line in node.process.stderr:
        read += line
        if event in line:
            return read
    raise AssertionError(read)


def ends_in_time(node: RunningNode) -> float:
    """End it with SIGTERM. Returns how long it took, seconds."""
    began_s = time.monotonic()
    node.process.send_signal(signal.SIGTERM)
    overdue = threading.Timer(ENDS_S, node.process.kill)
    overdue.start()
    try:
        node.until("node.stopped")
        assert node.process.wait(WAIT_S) == 0
    finally:
        overdue.cancel()
    return time.monotonic() - began_s


def test_a_database_that_is_frozen_does_not_keep_it_from_its_end(
    home: Path, postgres_url: str, postgres: EmbeddedPostgres
) -> None:
    """What was acknowledged is on disk; figures that could not be written are named."""
    environ = environment(home, postgres_url, overlay_shutdown_grace_s=str(GRACE_S))
    with running_process(environ) as node:
        node.until("node.ready")
        with node.client() as client:
            assert client.post("/overlay/sources", json=SOURCE).status_code == 201
            assert post(client, "r-1", level="enhanced").status_code == 202
        with frozen(postgres):
            with node.anonymous() as client:
                assert post(client, "r-2").status_code == 503
            print("ended after", ends_in_time(node))
    assert "node.database_left" in node.events()
    assert next(line for line in node.lines if line["event"] == "node.drained")["left"] == 1
    with running_process(environ) as again:
        again.until("node.ready")
        with again.client() as client:
            assert post(client, "r-1", level="enhanced").json()["counts"]["duplicates"] == 1
            wait_for(lambda: "r-1" in statuses(client))


def test_a_database_that_is_gone_does_not_keep_it_from_its_end(home: Path, postgres_url: str) -> None:
    with running_process(environment(home, postgres_url, overlay_shutdown_grace_s=str(GRACE_S))) as node:
        node.until("node.ready")
        with out_of_order(postgres_url):
            ends_in_time(node)


def test_a_database_that_is_frozen_does_not_keep_a_start_from_its_end(
    home: Path, postgres_url: str, postgres: EmbeddedPostgres
) -> None:
    with running_process(environment(home, postgres_url)) as node, frozen(postgres):
        node.until("node.listening")
        ends_in_time(node)


def test_a_peer_that_is_frozen_does_not_keep_it_from_its_end(
    tmp_path: Path, postgres_url: str, other_postgres_url: str
) -> None:
    """With events that wait for that peer's agreement."""
    homes = [tmp_path / "one", tmp_path / "two"]
    for each in homes:
        each.mkdir()
        create_key(each / "identity.key")
    settings = {"overlay_shutdown_grace_s": str(GRACE_S), "overlay_outbound_allow": "127.0.0.0/8"}
    with running_process(environment(homes[0], postgres_url, **settings)) as node:
        address = node.until("node.ready")["addresses"][0]
        joining = environment(homes[1], other_postgres_url, overlay_bootstrap=address, **settings)
        with running_process(joining) as peer, node.client() as client:
            peer.until("node.ready")
            wait_for(lambda: len(client.get("/overlay/agents").json()["agents"]) == 2)
            assert client.post("/overlay/sources", json=SOURCE).status_code == 201
            peer.process.send_signal(signal.SIGSTOP)
            assert post(client, "r-1", level="enhanced").status_code == 202
            ends_in_time(node)

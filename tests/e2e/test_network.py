"""Three real nodes: joining, leaving, coming back, streaming, and one that lies."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from protocols.certificate import agent_id
from scripts.network import ROOT, LocalNetwork, get
from tests.e2e.test_crashes import SETTINGS, settled
from tests.e2e.weather import Client, batches_of, register_all

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalNetwork]:
    directory = tmp_path_factory.mktemp("network")
    directory.chmod(0o755)
    with LocalNetwork(directory, 3, settings=SETTINGS) as running:
        running.wait_agents()
        register_all(running)
        yield running


def wait_for(condition: Any, timeout_s: float, what: str) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen within {timeout_s:.0f} s"
        time.sleep(0.1)


def post(network: LocalNetwork, index: int, station: str, events: int) -> Client:
    client = Client(network.nodes[index], batches_of((station,), events), pause_s=0)
    client.start()
    client.join(60)
    assert client.error is None
    return client


def test_a_stream_delivers_what_is_certified(network: LocalNetwork) -> None:
    """SSE on the node that took the events in: the fields of the specification, in order."""
    seen: list[dict[str, Any]] = []
    url = f"{network.nodes[1].url}/overlay/events/stream?sourceIds=nyc-weather-lga&minCertificationLevel=enhanced"
    with httpx.Client(timeout=30) as http, http.stream("GET", url) as stream:
        lines = stream.iter_lines()
        client = post(network, 1, "LGA", 100)
        for line in lines:
            if line.startswith("data:"):
                message = json.loads(line[5:])
                seen += [message] if message["type"] == "event" else []
            if len(seen) == 100:
                break
    assert {message["eventId"] for message in seen} == set(client.acknowledged)
    first = seen[0]
    assert first["certificationLevel"] == "enhanced"
    assert first["data"]["station"] == "LGA"
    assert first["certification"]["consensusNodes"] >= 2


def test_a_repeat_has_the_same_ids(network: LocalNetwork) -> None:
    first, again = post(network, 0, "JFK", 100), post(network, 0, "JFK", 100)
    assert first.acknowledged == again.acknowledged
    assert get(network.nodes[0], "/overlay/stats")["acknowledged"] == 100


def test_receipt_and_certificate_verify_on_the_command_line(network: LocalNetwork, tmp_path: Path) -> None:
    settled(network)
    node = network.nodes[0]
    event_id = get(node, "/overlay/events?limit=1")["events"][0]["eventId"]
    batch = get(node, f"/overlay/batches/{get(node, f'/overlay/events/{event_id}')['batchId']}")
    certificate = httpx.get(f"{node.url}/overlay/events/{event_id}/certificate").content
    for name, content in (("receipt", json.dumps(batch["receipt"]).encode()), ("certificate", certificate)):
        path = tmp_path / f"{name}.json"
        for document, code in ((content, 0), (content.replace(b"overlay-demo", b"overlay-demu", 1), 1)):
            path.write_bytes(document)
            command = [sys.executable, "-m", "node", "verify", str(path)]
            result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
            assert result.returncode == code, result.stdout + result.stderr


def test_a_node_says_goodbye_and_the_others_forget_it(network: LocalNetwork) -> None:
    """SIGTERM: exit 0, the advertisement withdrawn at once; back again, it is found within seconds."""
    node = network.nodes[2]
    node.signal(signal.SIGTERM)
    assert node.wait(20) == 0
    agents = lambda: len(get(network.nodes[0], "/overlay/agents")["agents"])  # noqa: E731
    wait_for(lambda: agents() == 2, 10, "the withdrawal")
    node.start()
    network.wait_ready(node)
    wait_for(lambda: agents() == 3, 20, "the return")


def test_the_bootstrap_node_is_killed_and_found_again(network: LocalNetwork) -> None:
    """The one all others joined through: after kill -9 both sides reconnect without anybody's help."""
    network.nodes[0].kill()
    time.sleep(1)
    network.nodes[0].start()
    network.wait_ready(network.nodes[0])
    for node in network.nodes:
        connected = lambda node=node: sum(  # noqa: E731
            peer["connected"] for peer in get(node, "/overlay/peers")["peers"]
        )
        wait_for(lambda connected=connected: connected() == 2, 20, f"node-{node.index + 1}'s reconnection")
    post(network, 0, "EWR", 100)
    settled(network)


def test_bad_requests_cost_nobody_else_anything(network: LocalNetwork) -> None:
    url = f"{network.nodes[1].url}/overlay/events/ingest"
    header = {"Content-Type": "application/json"}
    one = {"externalId": "x", "eventType": "weather.observation", "data": {}}
    bodies = {
        400: [b"{", b"[]", b"\xff\xfe", b'{"sourceId": NaN}', b'{"sourceId": "nyc-weather-ewr"}'],
        413: [b"[" * 100_000_000],
    }
    for status, contents in bodies.items():
        for content in contents:
            try:
                answer = httpx.post(url, content=content, headers=header, timeout=60)
            except httpx.HTTPError:
                continue  # refused before all of it was sent
            assert answer.status_code in (status, 422), (answer.status_code, content[:30])
            assert answer.headers["content-type"].startswith("application/problem+json")
            assert answer.json()["detail"]
    many = {"sourceId": "nyc-weather-ewr", "events": [one] * 10_001}
    assert httpx.post(url, json=many, timeout=60).status_code in (400, 413, 422)
    unknown = httpx.post(url, json={"sourceId": "nobody", "events": [one]}, timeout=60)
    assert unknown.status_code == 404
    assert "nobody" in unknown.json()["detail"]
    assert get(network.nodes[1], "/readyz")["status"] == "ready"


def test_a_lying_agent_is_outvoted_recorded_and_loses_its_standing(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    network = LocalNetwork(tmp_path, 3, settings=SETTINGS)
    network.nodes[2].module = "tests.e2e.lying_node"
    with network:
        network.wait_agents()
        register_all(network)
        liar = next(agent for agent in get(network.nodes[2], "/overlay/agents")["agents"] if agent["self"])
        post(network, 0, "JFK", 500)
        stats = settled(network)[0]
        assert (stats["certified"], stats["dead"]) == (500, 0)
        events = get(network.nodes[0], "/overlay/events?limit=500")["events"]
        batches = {event["batchId"] for event in events}
        dissent = lambda: get(network.nodes[0], "/overlay/stats")["dissent"]  # noqa: E731
        recorded: set[str] = set()

        def is_recorded() -> bool:  # of the batches that the liar was asked about: at first all of them
            for batch_id in batches:
                batch = get(network.nodes[0], f"/overlay/batches/{batch_id}")
                recorded.update(entry["agentId"] for entry in batch["dissent"])
            return bool(recorded)

        wait_for(is_recorded, 20, "the record of a dissent")
        assert recorded == {agent_id(bytes.fromhex(liar["identityKey"]))}
        assert 0 < dissent() <= len(batches)
        known = {agent["agentId"]: agent for agent in get(network.nodes[0], "/overlay/agents")["agents"]}
        assert known[liar["agentId"]]["outcomes"]["dissented"] > 0
        honest = [agent["reputation"] for key, agent in known.items() if key != liar["agentId"]]
        assert known[liar["agentId"]]["reputation"] < min(honest)

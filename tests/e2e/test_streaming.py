"""Clients of a real node that stops, is killed and comes back: every event once, in order, over both kinds."""

import json
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.sync.client import connect

from node.delivery.cursor import read_cursor
from protocols.checkpoint import verify_checkpoint
from scripts.network import LocalNetwork, Node, get

pytestmark = pytest.mark.slow

EVENTS, BATCH = 600, 20
STREAM = "/overlay/events/stream"
SOURCE = {"sourceId": "farm-1", "name": "Farm 1", "sourceType": "webhook", "overlayTopics": ["gitdata.events.iot"]}


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalNetwork]:
    directory = tmp_path_factory.mktemp("streaming")
    directory.chmod(0o755)
    settings = {"event_consensus_required": False, "event_parallel_workers": 1, "event_batch_size": BATCH}
    with LocalNetwork(directory, 1, settings=settings) as running:
        node = running.nodes[0]
        httpx.post(f"{node.url}/overlay/sources", json=SOURCE, auth=node.operator, timeout=20).raise_for_status()
        yield running


def restart(network: LocalNetwork, node: Node) -> None:
    node.start()
    network.wait_ready(node)


def post_all(node: Node) -> None:
    """Every batch, again and again until it is acknowledged."""
    for first in range(0, EVENTS, BATCH):
        events = [
            {"externalId": f"r-{number}", "eventType": "reading", "data": {"value": number}}
            for number in range(first, first + BATCH)
        ]
        body = {"sourceId": "farm-1", "events": events, "processingOptions": {"consensusLevel": "basic"}}
        while True:
            try:
                answer = httpx.post(f"{node.url}/overlay/events/ingest", json=body, timeout=20)
            except httpx.HTTPError:
                time.sleep(0.2)
                continue
            if answer.status_code == 202:
                break
            time.sleep(0.2)
        time.sleep(0.1)


class Follower(threading.Thread):
    """A client that comes back with its place until it has everything."""

    def __init__(self, node: Node) -> None:
        super().__init__(daemon=True)
        self.node = node
        self.got: list[tuple[str, int]] = []
        self.codes: list[int] = []

    @property
    def place(self) -> str:
        return self.got[-1][0] if self.got else "0"

    @property
    def done(self) -> bool:
        return len(self.got) >= EVENTS

    def run(self) -> None:
        while not self.done:
            try:
                self.follow()
            except (httpx.HTTPError, WebSocketException, OSError) as lost:
                if isinstance(lost, ConnectionClosed) and lost.rcvd is not None:
                    self.codes.append(lost.rcvd.code)
                time.sleep(0.2)

    def follow(self) -> None:
        raise NotImplementedError

    def take(self, place: str, message: dict[str, Any]) -> None:
        if message["type"] == "event":
            self.got.append((place, message["data"]["value"]))


class SseFollower(Follower):
    def follow(self) -> None:
        headers = {"Last-Event-ID": self.place}
        with httpx.stream("GET", f"{self.node.url}{STREAM}", headers=headers, timeout=30) as stream:
            place = ""
            for line in stream.iter_lines():
                if line.startswith("id: "):
                    place = line[4:]
                elif line.startswith("data: "):
                    self.take(place, json.loads(line[6:]))
                if self.done:
                    return


class SocketFollower(Follower):
    def follow(self) -> None:
        url = f"{self.node.url.replace('http', 'ws')}{STREAM}?since={self.place}"
        with connect(url, close_timeout=1, legacy=True) as socket:
            while not self.done:
                message = json.loads(socket.recv(timeout=30))
                self.take(message.get("sequence", ""), message)


def test_everything_once_and_in_order_across_a_stop_and_a_kill(network: LocalNetwork) -> None:
    node = network.nodes[0]
    followers: list[Follower] = [SseFollower(node), SocketFollower(node)]
    poster = threading.Thread(target=post_all, args=(node,), daemon=True)
    for thread in (*followers, poster):
        thread.start()
    wait_until(lambda: all(len(each.got) > EVENTS // 6 for each in followers))
    assert node.process is not None
    node.process.send_signal(signal.SIGTERM)
    assert node.wait(60) == 0
    assert 1001 in followers[1].codes
    restart(network, node)
    wait_until(lambda: all(len(each.got) > EVENTS // 2 for each in followers))
    node.kill()
    restart(network, node)
    for thread in (poster, *followers):
        thread.join(120)
    for follower in followers:
        places = [read_cursor(place) for place, _ in follower.got]
        assert places == sorted(set(places))
        assert sorted(value for _, value in follower.got) == list(range(EVENTS))
    assert followers[0].got == followers[1].got


def test_a_heartbeat_of_a_real_node_is_signed_with_its_key(network: LocalNetwork) -> None:
    node = network.nodes[0]
    described = get(node, "/overlay/node")
    with connect(f"{node.url.replace('http', 'ws')}{STREAM}", close_timeout=1, legacy=True) as socket:
        beat = json.loads(socket.recv(timeout=30))
    identity = bytes.fromhex(described["identityKey"])
    said = verify_checkpoint(beat["head"], network=described["network"], identity=identity)
    assert read_cursor(said["place"]) <= read_cursor(beat["place"])


def wait_until(condition: Any) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)

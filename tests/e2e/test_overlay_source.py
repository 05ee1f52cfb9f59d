"""A node of another operator reads what others certified, through its own death in the middle of it."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from protocols.verification import verify_document
from scripts.demo import POLICY, register, source_id
from scripts.network import LocalNetwork, Node, get
from storage.embedded import EmbeddedPostgres
from tests.e2e.weather import Client, batches_of

pytestmark = pytest.mark.slow

SETTINGS = {"event_batch_size": 50, "event_parallel_workers": 1, "overlay_resend_ms": 1_000}
READER = {"overlay_roles": [], "overlay_event_topics": ["copies"]}
EVENTS = 1_200
NETWORK = "overlay-source"


def until(condition: Callable[[], bool], what: str, within_s: float = 90) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {within_s:g} s: {what}"
        time.sleep(0.1)


def events(node: Node, source: str, status: str) -> dict[str, dict[str, Any]]:
    """The events of a source at a node by their id, latest versions."""
    found: dict[str, dict[str, Any]] = {}
    after = ""
    while True:
        page = get(node, f"/overlay/events?sourceId={source}&status={status}&limit=1000&after={after}")
        found |= {event["eventId"]: event for event in page["events"]}
        after = page["nextAfter"]
        if after is None:
            return found


def subscribe(server: EmbeddedPostgres, node: Node) -> None:
    url = server.url.replace("/overlay?", f"/overlay_{NETWORK.replace('-', '_')}_{node.index + 1}?")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            """INSERT INTO overlay_event_subscriptions (subscription_id, client_id, subscription_type, overlay_topics)
               VALUES ('weather', 'operator', 'overlay', ARRAY['gitdata.events.*'])"""
        )


def follow(node: Node) -> None:
    document = {
        "sourceId": "copy",
        "name": "Weather, as others certified it",
        "sourceType": "overlay",
        "configuration": {"topics": ["gitdata.events.weather"], "minCertificationLevel": "enhanced"},
        "overlayTopics": ["copies"],
    }
    answer = httpx.post(f"{node.url}/overlay/sources", json=document, auth=node.operator, timeout=30)
    assert answer.status_code == 201, answer.text


def test_every_valid_event_of_a_node_is_certified_once_more_at_another(
    tmp_path: Path, postgres: EmbeddedPostgres
) -> None:
    tmp_path.chmod(0o755)
    per_node = [{}, {}, {}, READER]
    with LocalNetwork(
        tmp_path, 4, name=NETWORK, settings=SETTINGS, per_node=per_node, database_url=postgres.url
    ) as network:
        origin, *_, reader = network.nodes
        until(lambda: all(len(get(node, "/overlay/agents")["agents"]) >= 3 for node in network.nodes), "three agents")
        register(origin, json.loads(POLICY.read_text()))
        subscribe(postgres, origin)
        follow(reader)
        posts = batches_of(("EWR",), EVENTS)
        first, second = (
            Client(origin, part, pause_s=0) for part in (posts[: len(posts) // 2], posts[len(posts) // 2 :])
        )
        first.start()
        until(lambda: len(events(reader, "copy", "any")) >= 100, "the first are there")
        reader.kill()  # while it reads the rest of them
        second.start()
        second.join(30)
        reader.start()
        for client in (first, second):
            client.join(60)
            assert (client.is_alive(), client.error) == (False, None)
        weather = source_id("EWR")
        until(lambda: not get(origin, "/overlay/stats")["pending"], "all have their end at their node")
        valid = events(origin, weather, "certified")
        assert len(valid) == EVENTS - len(events(origin, weather, "invalid")) < EVENTS
        network.wait_ready(reader)
        until(lambda: len(events(reader, "copy", "certified")) >= len(valid), "all have their end at the reader")
        time.sleep(3)  # what would come twice has the time to
        copies = events(reader, "copy", "any")
        assert sorted(copy["externalId"] for copy in copies.values()) == sorted(valid)
        assert all(copy["normalizedData"] == valid[copy["externalId"]]["normalizedData"] for copy in copies.values())
        for node, event_id in ((reader, next(iter(copies))), (origin, next(iter(valid)))):
            certificate = httpx.get(f"{node.url}/overlay/events/{event_id}/certificate", timeout=20).content
            assert verify_document(certificate, network=NETWORK).ok
            said = json.loads(certificate)
            parties = {entry["identityKey"] for entry in said["signatures"] + said["evidence"]}
            assert len(parties) >= 2
            assert get(reader, "/overlay/node")["identityKey"] not in parties
        state = get(reader, "/overlay/sources/copy")["state"]
        assert (state["status"], state["lag"], state["rejected"]) == ("running", 0, 0)

"""A node that is killed in the middle of its deliveries, twice: its receiver misses nothing, and gets it in order."""

from functools import partial
from pathlib import Path

import httpx
import orjson
import pytest
import trio

from scripts.network import LocalNetwork, Node
from tests.node.webhook_receiver import SECRET, Receiver, answers, receiving

pytestmark = pytest.mark.slow

EVENTS = 1_500
SETTINGS = {
    "event_consensus_required": False,
    "event_batch_size": 100,
    "overlay_outbound_allow": ["127.0.0.0/8"],
}


async def prepare(client: httpx.AsyncClient, node: Node, receiver: Receiver) -> set[str]:
    """A source, a subscription, and events that are acknowledged. Returns their ids."""
    source = {"sourceId": "s1", "name": "One", "sourceType": "webhook"}
    (await client.post("/overlay/sources", json=source, auth=node.operator)).raise_for_status()
    hook = {
        "subscriptionType": "webhook",
        "callbackUrl": receiver.url,
        "secret": SECRET,
        "since": "0",
    }
    (await client.post("/overlay/subscriptions", json=hook, auth=node.operator)).raise_for_status()
    ids: set[str] = set()
    for start in range(0, EVENTS, 500):
        events = [{"externalId": f"e{start + n}", "eventType": "reading", "data": n} for n in range(500)]
        body = {"sourceId": "s1", "events": events, "processingOptions": {"consensusLevel": "basic"}}
        answer = (await client.post("/overlay/events/ingest", json=body)).raise_for_status().json()
        ids |= {event["eventId"] for event in answer["processedEvents"]}
    return ids


async def in_order(client: httpx.AsyncClient) -> list[str]:
    """The ids of all events in the order of the feed."""
    found: list[str] = []
    async with client.stream("GET", "/overlay/events/stream?since=0") as stream:
        async for line in stream.aiter_lines():
            if line.startswith('data: {"type":"event"'):
                found.append(orjson.loads(line[6:])["eventId"])
                if len(found) == EVENTS:
                    break
    return found


@pytest.fixture
def network(tmp_path: Path) -> LocalNetwork:
    tmp_path.chmod(0o755)
    return LocalNetwork(tmp_path, 1, name="webhooks", settings=SETTINGS)


async def test_a_node_is_killed_in_mid_delivery(network: LocalNetwork) -> None:
    [node] = network.nodes

    async def takes_its_time(stream: trio.abc.Stream) -> bool:
        await trio.sleep(0.001)
        return await answers(204)(stream)

    async with receiving() as receiver:
        receiver.otherwise = takes_its_time
        try:
            node.start()  # in this thread: it dies with the one that made it
            await trio.to_thread.run_sync(partial(network.wait_ready, node))
            async with httpx.AsyncClient(base_url=node.url, timeout=30) as client:
                ids = await prepare(client, node, receiver)
                for count in (EVENTS // 4, EVENTS // 2):
                    await receiver.until(partial(lambda least: len(receiver.first_arrivals) > least, count), 60)
                    node.kill()
                    assert len(receiver.first_arrivals) < EVENTS, "killed in the middle"
                    node.start()
                    await trio.to_thread.run_sync(partial(network.wait_ready, node))
                await receiver.until(lambda: set(receiver.first_arrivals) == ids, 60)
                assert receiver.first_arrivals == await in_order(client)
        finally:
            network.close()
    bodies: dict[str, bytes] = {}
    assert all(bodies.setdefault(hook.name, hook.body) == hook.body for hook in receiver.hooks)
    assert len(bodies) == EVENTS

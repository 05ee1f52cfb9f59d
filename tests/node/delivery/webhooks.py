"""What tests of webhooks share: batches to deliver, subscriptions, and their state."""

import ipaddress
import itertools
from typing import Any

import trio

from tests.node.running import Running
from tests.node.webhook_receiver import SECRET, Receiver

numbers = itertools.count(1)
LOOPBACK = ipaddress.ip_network("127.0.0.0/8")


def has_arrived(receiver: Receiver, ids: list[str]) -> bool:
    return receiver.first_arrivals == ids


async def certify(node: Running, count: int = 1, **data: Any) -> list[str]:
    """Certify a batch. Returns the ids of its events."""
    events = [
        {"externalId": f"w{next(numbers)}", "eventType": "reading", "data": {"v": index, **data}}
        for index in range(count)
    ]
    answer = (await node.post(*events)).json()
    await node.seal(node.recorder.told[-1].manifest)
    return [event["eventId"] for event in answer["processedEvents"]]


async def subscribe(node: Running, receiver: Receiver, **fields: Any) -> str:
    document = {
        "subscriptionType": "webhook",
        "callbackUrl": receiver.url,
        "secret": SECRET,
        "since": "0",
        "delivery": {"maxEvents": 1, "timeoutSeconds": 5},
        **fields,
    }
    answer = await node.client.post("/overlay/subscriptions", json=document)
    assert answer.status_code == 201, answer.text
    found: str = answer.json()["subscriptionId"]
    return found


async def shown(node: Running, subscription_id: str) -> dict[str, Any]:
    found: dict[str, Any] = (await node.client.get(f"/overlay/subscriptions/{subscription_id}")).json()
    return found


async def until_shown(node: Running, subscription_id: str, **wanted: Any) -> dict[str, Any]:
    """Wait until members of the state, or the status, are as wanted."""
    with trio.fail_after(20):
        while True:
            found = await shown(node, subscription_id)
            if all({**found, **found["state"]}[name] == value for name, value in wanted.items()):
                return found
            await trio.sleep(0.02)

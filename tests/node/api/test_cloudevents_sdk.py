"""The CloudEvents SDK as a client: what it sends in each mode is one event, the same in all of them."""

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from cloudevents.core.bindings import http
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent

from tests.node.running import Running, running

URL = "/overlay/events/ingest?sourceId=s1"
TIME = datetime(2024, 5, 1, 10, 30, tzinfo=UTC)
DATA = {"orderId": "A-1", "lines": [{"sku": "x", "amount": "12.50"}], "note": "naïve"}
BATCH = "application/cloudevents-batch+json"


@pytest.fixture
async def node(postgres_url: str) -> AsyncIterator[Running]:
    async with running(postgres_url) as started:
        await started.source()
        yield started


def order(number: int = 1, data: Any = DATA, **attributes: Any) -> CloudEvent:
    said = {
        "id": f"A-{number}",
        "source": "/orders/été",
        "type": "com.example.order.placed",
        "specversion": "1.0",
        "time": TIME,
        "datacontenttype": "application/json",
        "subject": 'order 1 "quoted" 100%',
        "partitionkey": "eu",
        **attributes,
    }
    return CloudEvent(attributes=said, data=data)


async def send(node: Running, message: http.HTTPMessage) -> httpx.Response:
    return await node.client.post(URL, content=message.body, headers=message.headers)


async def taken(node: Running, answer: httpx.Response, index: int = 0) -> dict[str, Any]:
    assert answer.status_code == 202, answer.text
    event = answer.json()["processedEvents"][index]
    found: dict[str, Any] = (await node.client.get(f"/overlay/events/{event['eventId']}")).json()
    return found


async def test_binary_structured_and_batched_are_the_same_event(node: Running) -> None:
    binary = await send(node, http.to_binary_event(order()))
    event = await taken(node, binary)
    assert (event["externalId"], event["eventType"]) == ("/orders/été A-1", "com.example.order.placed")
    assert event["timestamp"] == "2024-05-01T10:30:00Z"
    assert event["data"]["data"] == DATA
    assert (event["data"]["subject"], event["data"]["partitionkey"]) == ('order 1 "quoted" 100%', "eu")

    structured = await send(node, http.to_structured_event(order()))
    assert structured.json()["counts"]["duplicates"] == 1, "the same content, whatever the mode"
    batch = b"[%b]" % b",".join(JSONFormat().write(order(number)) for number in (1, 2, 3))
    batched = await node.client.post(URL, content=batch, headers={"Content-Type": BATCH})
    assert batched.json()["counts"] == {"accepted": 2, "duplicates": 1, "rejected": 0, "versions": 0}
    assert (await taken(node, batched, 2))["externalId"] == "/orders/été A-3"


async def test_what_was_taken_in_is_the_event_that_the_sdk_reads_back(node: Running) -> None:
    event = await taken(node, await send(node, http.to_binary_event(order())))
    message = http.HTTPMessage(
        headers={"content-type": "application/cloudevents+json"}, body=json.dumps(event["data"]).encode()
    )
    again = http.from_http_event(message)
    assert again.get_attributes() == order().get_attributes()
    assert again.get_data() == DATA


@pytest.mark.parametrize("mode", [http.to_binary_event, http.to_structured_event])
async def test_bytes_and_text_arrive_whole(node: Running, mode: Any) -> None:
    octets = order(1, b"\x00\xff\x10", datacontenttype="application/octet-stream")
    event = await taken(node, await send(node, mode(octets)))
    assert event["data"]["data_base64"] == "AP8Q"
    words = order(2, "grüß dich", datacontenttype="text/plain; charset=utf-8")
    event = await taken(node, await send(node, mode(words)))
    assert event["data"]["data"] == "grüß dich"


async def test_a_repeat_is_a_duplicate_and_a_key_gives_the_same_answer(node: Running) -> None:
    message = http.to_binary_event(order())
    keyed = {**message.headers, "Idempotency-Key": "8e03978e-40d5-43dd-bc93-6894a57f9324"}
    first = await node.client.post(URL, content=message.body, headers=keyed)
    again = await node.client.post(URL, content=message.body, headers=keyed)
    assert (again.content, again.headers["Idempotency-Replayed"]) == (first.content, "true")
    other = http.to_binary_event(order(2))
    reused = await node.client.post(
        URL, content=other.body, headers={**other.headers, "Idempotency-Key": keyed["Idempotency-Key"]}
    )
    assert reused.status_code == 422, "in binary mode headers say what the event is"

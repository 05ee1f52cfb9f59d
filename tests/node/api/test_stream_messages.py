"""Messages of the stream: those that are sent are as their models describe them, those that come are read safely."""

import json
from collections.abc import AsyncIterator
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from node.api.models.stream import CREDIT_MAX, ID_CHARS_MAX
from node.api.socket_messages import (
    MESSAGE_CHARS_MAX,
    REQUESTS,
    Acknowledge,
    ChangeFilter,
    GrantCredit,
    InvalidMessageError,
    Ping,
    error_message,
    read_request,
)
from node.api.stream_clients import StreamSlots, TooManyStreamsError
from node.delivery.cursor import Cursor
from protocols.errors import ClientFault, WorldFault
from tests.node.api.test_stream import certify, stream
from tests.node.api.test_stream_socket import socket
from tests.node.described_answers import description, strict_components
from tests.node.running import Running, running

CHOSEN = "status=all&includeProcessingEvidence=true&includeCertificate=true"
MESSAGES = jsonschema_rs.validator_for(
    {
        **description()["components"]["schemas"]["ServerSentEvent"]["properties"]["data"]["contentSchema"],
        "components": strict_components(),
    }
)


@pytest.fixture
async def node(postgres_url: str) -> AsyncIterator[Running]:
    async with running(postgres_url) as started:
        await started.source(overlayTopics=["t.one"])
        yield started


async def test_server_sent_events_are_as_described(node: Running) -> None:
    async with stream(node, f"?{CHOSEN}") as reader:
        await certify(node, 2)
        taken = [message for _, message in await reader.take(2)]
    for message in [*taken, *reader.heartbeats]:
        MESSAGES.validate(message)
    assert {"status", "issues", "processingEvidence", "certificate"} <= set(taken[0])
    assert reader.heartbeats


async def test_messages_over_websocket_are_as_described(node: Running) -> None:
    async with socket(node, f"?{CHOSEN}") as client:
        await certify(node)
        heard = [await client.hear()]
        place = heard[0]["sequence"]
        for request in (
            {"type": "ack", "sequence": place},
            {"type": "ping", "id": "p"},
            {"type": "ping"},
            {"type": "subscribe", "filter": {"eventTypes": ["reading"], "status": "all"}, "id": "s"},
            {"type": "credit", "events": 3},
            {"type": "credit", "events": -1},
        ):
            await client.say(**request)
            heard.append(await client.hear())
    for message in [*heard, *client.heartbeats]:
        MESSAGES.validate(message)
    kinds = ["event", "acked", "pong", "pong", "subscribed", "credit", "error"]
    assert [message["type"] for message in heard] == kinds
    assert heard[-1]["field"] == "/events"


def test_every_message_that_clients_may_send_is_described() -> None:
    operation = description()["paths"]["/overlay/events/stream"]["get"]
    described = {each["properties"]["type"]["const"] for each in operation["x-websocket-client-messages"]}
    assert described == set(REQUESTS)


@pytest.mark.parametrize(
    ("document", "field"),
    [
        ([], "/type"),
        ({}, "/type"),
        ({"type": "shout"}, "/type"),
        ({"type": ["ping"]}, "/type"),
        ({"type": "ping", "loud": True}, "/loud"),
        ({"type": "ping", "id": 7}, "/id"),
        ({"type": "ping", "id": "x" * (ID_CHARS_MAX + 1)}, "/id"),
        ({"type": "ack"}, "/sequence"),
        ({"type": "ack", "sequence": 12}, "/sequence"),
        ({"type": "ack", "sequence": "twelve"}, "/sequence"),
        ({"type": "credit"}, "/events"),
        ({"type": "credit", "events": CREDIT_MAX + 1}, "/events"),
        ({"type": "credit", "events": True}, "/events"),
        ({"type": "subscribe", "filter": []}, "/filter"),
        ({"type": "subscribe", "since": "soon"}, "/since"),
    ],
)
def test_a_request_that_is_wrong_is_refused_at_its_field(document: Any, field: str) -> None:
    with pytest.raises(InvalidMessageError) as refused:
        read_request(json.dumps(document))
    assert refused.value.fields["field"] == field
    assert refused.value.fields["remedy"]


def test_requests_are_read() -> None:
    assert read_request('{"type":"credit","events":0}') == GrantCredit(0)
    assert read_request('{"type":"ping","id":"a"}') == Ping("a")
    assert read_request('{"type":"ack","sequence":"12.5"}') == Acknowledge(Cursor(sequence=12, position=5))
    change = read_request('{"type":"subscribe","filter":{"sourceIds":["s"]},"since":"3.1","id":"f"}')
    assert isinstance(change, ChangeFilter)
    assert (change.start, change.request_id) == (Cursor(sequence=3, position=1), "f")
    assert change.wanted.source_ids == frozenset({"s"})


def test_a_long_message_and_bytes_are_refused() -> None:
    for message in (b'{"type":"ping"}', '{"type":"ping","id":"' + " " * MESSAGE_CHARS_MAX + '"}'):
        with pytest.raises(InvalidMessageError):
            read_request(message)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
documents = st.fixed_dictionaries(
    {"type": st.sampled_from(list(REQUESTS))},
    optional=dict.fromkeys(("filter", "since", "sequence", "events", "id", "other"), json_values),
)


@given(st.text(max_size=60) | documents.map(json.dumps) | json_values.map(json.dumps))
@example('{"type":"subscribe","filter":{"expression":"data.v >"}}')
@example('{"type":"ping","id":"\\u0000"}')
@example('{"type":"ping","type":"ping"}')
def test_whatever_a_client_sends_is_read_or_refused(text: str) -> None:
    """Nothing else may be raised: it would end the connection as a fault of the node."""
    try:
        read_request(text)
    except ClientFault as fault:
        MESSAGES.validate(json.loads(error_message(fault)))


def test_a_fault_that_has_no_problem_of_its_own_is_internal() -> None:
    class Odd(WorldFault):
        code = "odd"

    message = json.loads(error_message(Odd("it broke", place="here")))
    assert (message["type"], message["code"], message["status"]) == ("error", "odd", 500)
    assert (message["detail"], message["place"]) == ("it broke", "here")


def test_a_slot_is_given_back_once() -> None:
    slots = StreamSlots(2)
    first, second = slots.take(), slots.take()
    with pytest.raises(TooManyStreamsError):
        slots.take()
    with first:
        first.release()
    first.release()
    third = slots.take()
    with pytest.raises(TooManyStreamsError):
        slots.take()
    for slot in (second, third):
        slot.release()
    assert [slots.take() for _ in range(2)]

"""Other ways to say a request: compressed, JSON lines, CloudEvents in their three modes."""

import base64
import gzip
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import zstandard

from node.worker.parsing.admission import InvalidRequestError
from node.worker.parsing.bodies import RequestEncoding, admit_form
from node.worker.parsing.unpacking import BodyTooLargeError, decompressed
from protocols.errors import ClientFault
from protocols.identifiers import event_id
from tests.node.certified_batches import NETWORK
from tests.node.running import Running, running

REQUEST = {"sourceId": "s1", "events": [{"externalId": "e1", "eventType": "t", "data": {"v": 1}}]}
CLOUD = {
    "specversion": "1.0",
    "id": "A234-1234-1234",
    "source": "/mycontext/4",
    "type": "com.example.someevent",
    "time": "2018-04-05T17:31:00Z",
    "comexampleextension1": "value",
    "datacontenttype": "application/json",
    "data": {"appinfoA": "abc", "appinfoB": 123},
}


@pytest.fixture
async def node(postgres_url: str) -> AsyncIterator[Running]:
    async with running(postgres_url) as started:
        await started.source()
        yield started


async def post(node: Running, body: bytes, headers: dict[str, str], query: str = "") -> httpx.Response:
    return await node.client.post(f"/overlay/events/ingest{query}", content=body, headers=headers)


async def stored(node: Running, event: str) -> Any:
    return (await node.client.get(f"/overlay/events/{event}")).json()


@pytest.mark.parametrize(
    ("coding", "pack"),
    [
        ("gzip", gzip.compress),
        ("zstd", zstandard.compress),
        ("gzip", lambda body: gzip.compress(body[:9]) + gzip.compress(body[9:])),
        ("zstd", lambda body: zstandard.compress(body[:9]) + zstandard.compress(body[9:])),
    ],
)
async def test_bodies_may_be_compressed(node: Running, coding: str, pack: Any) -> None:
    headers = {"Content-Type": "application/json", "Content-Encoding": coding}
    answer = await post(node, pack(json.dumps(REQUEST).encode()), headers)
    assert answer.status_code == 202, answer.text
    assert answer.json()["processedEvents"][0]["externalId"] == "e1"


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
async def test_a_body_that_does_not_decompress_is_refused(node: Running, coding: str) -> None:
    whole = gzip.compress(json.dumps(REQUEST).encode())
    for body in (b"garbage", whole[: len(whole) // 2] if coding == "gzip" else b"\x28\xb5\x2f\xfd" + b"x" * 9):
        answer = await post(node, body, {"Content-Type": "application/json", "Content-Encoding": coding})
        assert (answer.status_code, answer.json()["type"]) == (400, "urn:overlay:problem:invalid-request")
        assert f"not valid {coding}" in answer.json()["detail"]
    unknown = await post(node, b"{}", {"Content-Type": "application/json", "Content-Encoding": "br"})
    assert unknown.status_code == 415


@pytest.mark.parametrize(
    "bomb", [gzip.compress(bytes(200_000_000)), zstandard.compress(bytes(200_000_000))], ids=["gzip", "zstd"]
)
def test_what_grows_beyond_its_bound_is_stopped_while_it_grows(bomb: bytes) -> None:
    coding = "gzip" if bomb[:2] == b"\x1f\x8b" else "zstd"
    with pytest.raises(BodyTooLargeError):
        decompressed(bomb, coding, 1_000_000)  # type: ignore[arg-type]
    many = gzip.compress(b"x") * 1_000 if coding == "gzip" else zstandard.compress(b"x") * 1_000
    assert decompressed(many, coding, 1_000) == b"x" * 1_000  # type: ignore[arg-type]
    with pytest.raises(BodyTooLargeError):
        decompressed(many, coding, 999)  # type: ignore[arg-type]


async def test_json_lines_are_taken_one_by_one(node: Running) -> None:
    lines = [
        '{"externalId": "a", "eventType": "t", "data": 1}',
        "{broken",
        "",
        '{"externalId": "b", "eventType": "t", "data": NaN}',
        '{"externalId": "c", "eventType": "t"}',
        '{"externalId": "d", "eventType": "t", "data": 4}, {"externalId": "x", "eventType": "t", "data": 5}',
        '{"externalId": "e", "eventType": "t", "data": 6}\r',
    ]
    headers = {"Content-Type": "application/x-ndjson"}
    answer = await post(node, "\n".join(lines).encode(), headers, "?sourceId=s1&consensusLevel=critical")
    assert answer.status_code == 202, answer.text
    answered = answer.json()
    assert [event["externalId"] for event in answered["processedEvents"] if event["status"] == "ingested"] == [
        "a",
        "e",
    ]
    assert [event["status"] for event in answered["processedEvents"]] == ["ingested", *["rejected"] * 4, "ingested"]
    assert "not JSON" in answered["processedEvents"][1]["rejection"]["reason"]
    assert node.recorder.told[0].manifest.message.level.word == "critical"
    assert (await post(node, b"", headers, "?sourceId=s1")).status_code == 400
    nameless = await post(node, lines[0].encode(), headers)
    assert (nameless.status_code, nameless.json()["field"]) == (400, "sourceId")
    unknown = await post(node, lines[0].encode(), headers, "?source=s1")
    assert (unknown.status_code, unknown.json()["field"]) == (400, "source")


async def test_a_cloudevent_in_each_mode_is_one_event(node: Running) -> None:
    body = json.dumps(CLOUD).encode()
    first = await post(node, body, {"Content-Type": "application/cloudevents+json; charset=utf-8"}, "?sourceId=s1")
    assert first.status_code == 202, first.text
    (event,) = first.json()["processedEvents"]
    assert event["externalId"] == "/mycontext/4 A234-1234-1234"
    assert event["eventId"] == event_id(NETWORK, "s1", event["externalId"])
    document = await stored(node, event["eventId"])
    assert document["data"] == CLOUD
    assert (document["eventType"], document["timestamp"]) == (CLOUD["type"], CLOUD["time"])
    batch = await post(node, b"[%b]" % body, {"Content-Type": "application/cloudevents-batch+json"}, "?sourceId=s1")
    assert [each["status"] for each in batch.json()["processedEvents"]] == ["duplicate"]
    headers = {f"ce-{name}": str(value) for name, value in CLOUD.items() if name not in ("data", "datacontenttype")}
    headers["Content-Type"] = "application/json"
    binary = await post(node, json.dumps(CLOUD["data"]).encode(), headers, "?sourceId=s1")
    assert [each["status"] for each in binary.json()["processedEvents"]] == ["duplicate"], "the very same event"


async def test_binary_mode_keeps_data_that_is_not_json(node: Running) -> None:
    for number, (media, body, member, value) in enumerate(
        (
            ("text/plain", b"hello", "data", "hello"),
            ("text/plain", b"\xff\xfe", "data_base64", base64.b64encode(b"\xff\xfe").decode()),
            ("image/png", b"\x89PNG", "data_base64", base64.b64encode(b"\x89PNG").decode()),
            ("application/vnd.x+json", b"[1]", "data", [1]),
        )
    ):
        headers = {
            "ce-specversion": "1.0",
            "ce-id": f"{number}",
            "ce-source": "/caf%C3%A9",
            "ce-type": "t",
            "Content-Type": media,
        }
        answer = await post(node, body, headers, "?sourceId=s1")
        assert answer.status_code == 202, answer.text
        (event,) = answer.json()["processedEvents"]
        assert event["externalId"] == f"/caf\u00e9 {number}"
        data = (await stored(node, event["eventId"]))["data"]
        assert (data[member], data["datacontenttype"]) == (value, media)


async def test_one_bad_cloudevent_does_not_fail_its_batch(node: Running) -> None:
    bad = [{**CLOUD, "id": ""}, {**CLOUD, "source": None}, 5, {**CLOUD, "time": "noon", "id": "t"}]
    body = json.dumps([*bad, CLOUD]).encode()
    answer = await post(node, body, {"Content-Type": "application/cloudevents-batch+json"}, "?sourceId=s1")
    assert answer.status_code == 202, answer.text
    answered = answer.json()
    assert [each["status"] for each in answered["processedEvents"]] == [*["rejected"] * 4, "ingested"]
    fields = [each["rejection"]["field"] for each in answered["processedEvents"][:4]]
    assert fields == ["/id", "/source", "", "/timestamp"]
    old = {**CLOUD, "id": "old", "specversion": "0.3"}
    both = {**CLOUD, "id": "both", "data_base64": "AA=="}
    body = json.dumps([old, both]).encode()
    answer = await post(node, body, {"Content-Type": "application/cloudevents-batch+json"}, "?sourceId=s1")
    fields = [each["rejection"]["field"] for each in answer.json()["processedEvents"]]
    assert fields == ["/specversion", "/data_base64"]
    empty = await post(node, b"[]", {"Content-Type": "application/cloudevents-batch+json"}, "?sourceId=s1")
    assert (empty.status_code, empty.json()["processedEvents"], empty.json()["batches"]) == (202, [], [])
    none = await post(node, b"{}", {"Content-Type": "application/cloudevents-batch+json"}, "?sourceId=s1")
    assert (none.status_code, none.json()["type"]) == (400, "urn:overlay:problem:invalid-request")


@pytest.mark.parametrize("shape", ["request", "lines", "cloudevent", "cloudevents", "binary"])
@pytest.mark.parametrize(
    "body", [b"", b"\x00\xff", b"[" * 5_000, b'{"a":1,"a":2}', b"null", b'"x"', b"[null]", b"{}"]
)
def test_any_body_is_taken_or_refused(shape: Any, body: bytes) -> None:
    form = RequestEncoding(
        shape=shape, source_id="s1", attributes=(("specversion", "1.0"),), media_type="application/json"
    )
    try:
        taken = admit_form(body, form, network=NETWORK, event_bytes_max=1_000, body_bytes_max=10_000)
    except ClientFault as fault:
        assert isinstance(fault, InvalidRequestError) or fault.code  # noqa: PT017
        return
    assert taken.total == len(taken.indexes) + len(taken.rejections)

"""A request under a key is carried out once, and answered alike as often as it is sent."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import trio

from node.api.services import ApiSettings
from node.calling import SignedRequests
from node.ingest.idempotency import InvalidIdempotencyKeyError, digest, read_key
from tests.node.certified_batches import NETWORK, NODE, KeySigner
from tests.node.running import Running, running

BODY = {"sourceId": "s1", "events": [{"externalId": "e1", "eventType": "reading", "data": {"value": 1}}]}


@pytest.fixture
async def node(postgres_url: str) -> AsyncIterator[Running]:
    async with running(postgres_url) as started:
        await started.source()
        yield started


async def send(node: Running, key: str = "k-1", body: Any = BODY, query: str = "", **headers: str) -> httpx.Response:
    sent = {"Idempotency-Key": key, "Content-Type": "application/json", **headers}
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return await node.client.post(f"/overlay/events/ingest{query}", content=content, headers=sent)


async def test_a_repeat_gets_the_same_answer_to_the_byte(node: Running) -> None:
    first = await send(node)
    assert (first.status_code, first.json()["counts"]["accepted"]) == (202, 1)
    assert "Idempotency-Replayed" not in first.headers
    for key in ("k-1", '"k-1"'):
        again = await send(node, key)
        assert (again.status_code, again.content) == (202, first.content)
        assert again.headers["Idempotency-Replayed"] == "true"
        assert again.headers["Content-Type"] == first.headers["Content-Type"]
    assert len(node.recorder.told) == 1
    other = await send(node, "k-2")
    assert other.json()["counts"] == {"accepted": 0, "duplicates": 1, "rejected": 0, "versions": 0}


async def test_a_key_stands_for_one_request(node: Running) -> None:
    await send(node)
    changed = json.loads(json.dumps(BODY))
    changed["events"][0]["data"]["value"] = 2
    refused = await send(node, body=changed)
    assert (refused.status_code, refused.json()["type"]) == (422, "urn:overlay:problem:idempotency-key-reused")
    line = json.dumps(BODY["events"][0]).encode()
    query = "?sourceId=s1"
    lines = await send(node, body=line, query=query, **{"Content-Type": "application/x-ndjson"})
    assert (lines.status_code, "Idempotency-Replayed" in lines.headers) == (202, False), (
        "another query, another scope"
    )
    event = await send(node, body=b"1", query=query, **{"Content-Type": "application/json", "ce-specversion": "1.0"})
    assert event.status_code == 422


async def test_what_was_not_taken_is_not_kept(node: Running) -> None:
    body = {**BODY, "sourceId": "s9"}
    assert (await send(node, body=body)).status_code == 404
    await node.source("s9")
    taken = await send(node, body=body)
    assert (taken.status_code, "Idempotency-Replayed" in taken.headers) == (202, False)


async def test_the_answer_of_a_request_that_prefers_little_is_kept_as_it_was(node: Running) -> None:
    first = await send(node, Prefer="return=minimal")
    again = await send(node)
    assert again.content == first.content
    assert again.headers["Preference-Applied"] == "return=minimal"


async def test_while_the_first_is_under_way_a_second_waits_its_turn(node: Running) -> None:
    node.recorder.open = trio.Event()
    answers: list[httpx.Response] = []

    async def first() -> None:
        answers.append(await send(node))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(first)
        with trio.fail_after(10):
            while node.ingest.admission.backlog.unsettled == 0:
                await trio.sleep(0.01)
        second = await send(node)
        assert (second.status_code, second.headers["Retry-After"]) == (409, "1")
        assert second.json()["type"] == "urn:overlay:problem:idempotency-key-in-use"
        other = await send(node, body={**BODY, "sourceId": "s2"})
        assert other.status_code == 422
        node.recorder.open.set()
    again = await send(node)
    assert (again.content, again.headers["Idempotency-Replayed"]) == (answers[0].content, "true")


async def test_a_client_that_gave_up_finds_its_answer(node: Running) -> None:
    node.recorder.open = trio.Event()
    with trio.move_on_after(0.5):
        await send(node)
    assert node.recorder.told == []
    node.recorder.open.set()
    with trio.fail_after(10):
        while (again := await send(node)).status_code == 409:
            await trio.sleep(0.05)
    assert (again.json()["counts"]["accepted"], again.headers["Idempotency-Replayed"]) == (1, "true")
    assert node.ingest.admission.bytes_in_flight == 0


async def test_keys_survive_a_restart_and_go_after_their_time(postgres_url: str) -> None:
    async with running(postgres_url) as node:
        await node.source()
        first = await send(node)
    async with running(postgres_url) as node:
        assert (await send(node)).content == first.content
    async with running(postgres_url, idempotency_bounds={"kept_ms": 0}) as node:
        late = await send(node)
        assert (late.json()["counts"]["duplicates"], "Idempotency-Replayed" in late.headers) == (1, False)


async def kept(node: Running) -> list[int]:
    """The sizes of the answers kept, the latest first."""
    rows: list[int] = await node.database.run(
        lambda connection: [
            row[0]
            for row in connection.execute(
                "SELECT octet_length(body) FROM idempotency_keys ORDER BY answered_ms DESC, scope"
            )
        ]
    )
    return rows


async def test_the_oldest_go_where_there_are_too_many(postgres_url: str) -> None:
    async with running(postgres_url, idempotency_bounds={"keys_max": 10}) as node:
        await node.source()
        for number in range(25):
            assert (await send(node, f"k-{number}")).status_code == 202
            assert len(await kept(node)) <= 10
        assert (await send(node, "k-24")).headers["Idempotency-Replayed"] == "true"
        assert "Idempotency-Replayed" not in (await send(node, "k-0")).headers


async def test_the_oldest_go_where_they_are_too_large(postgres_url: str) -> None:
    async with running(postgres_url) as node:
        await node.source()
        size = len((await send(node)).content)
        await send(node, "k-2")
        again = max(await kept(node))
    bytes_max = 4 * max(size, again)
    async with running(postgres_url, idempotency_bounds={"bytes_max": bytes_max}) as node:
        for number in range(10):
            await send(node, f"m-{number}")
            assert sum(await kept(node)) <= bytes_max
        assert (await send(node, "m-9")).headers["Idempotency-Replayed"] == "true"


async def test_a_long_body_is_compared_too(postgres_url: str) -> None:
    settings = ApiSettings(network=NETWORK, body_bytes_max=16 * 1024 * 1024)
    async with running(postgres_url, settings=settings) as node:
        await node.source()
        events = [{"externalId": f"e{n}", "eventType": "r", "data": "x" * 1_000} for n in range(1_000)]
        first = await send(node, body={"sourceId": "s1", "events": events})
        assert (await send(node, body={"sourceId": "s1", "events": events})).content == first.content
        events[-1]["data"] = "y"
        assert (await send(node, body={"sourceId": "s1", "events": events})).status_code == 422


async def test_each_identity_has_keys_of_its_own(node: Running) -> None:
    first = await send(node)
    for number in (7, 8):
        auth = SignedRequests(KeySigner(number).key, NODE.identity)
        headers = {"Idempotency-Key": "k-1", "Content-Type": "application/json"}
        answers = [
            await node.client.post("/overlay/events/ingest", content=json.dumps(BODY), headers=headers, auth=auth)
            for _ in range(2)
        ]
        assert answers[0].json()["counts"]["duplicates"] == 1
        assert "Idempotency-Replayed" not in answers[0].headers
        assert (answers[1].content, answers[1].headers["Idempotency-Replayed"]) == (answers[0].content, "true")
        assert answers[1].content != first.content
    assert digest(b"a", b"bc") != digest(b"ab", b"c")


@pytest.mark.parametrize("values", [[], [""], ["a b"], ["x" * 256], ["ü"], ["a", "a"], ['""'], ["a\x7f"], ['"a b"']])
def test_what_is_no_key(values: list[str]) -> None:
    with pytest.raises(InvalidIdempotencyKeyError):
        read_key(values)


@pytest.mark.parametrize(
    ("value", "key"), [("a", "a"), ('"8e-1"', "8e-1"), (r'"a\"b"', 'a"b'), ("x" * 255, "x" * 255)]
)
def test_what_is_a_key(value: str, key: str) -> None:
    assert read_key([value]) == key

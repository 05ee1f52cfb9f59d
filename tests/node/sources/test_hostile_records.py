"""Records that no database can hold, through the intake that polled, Kafka, MQTT and overlay sources share."""

from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest
import trio

from node.sources import SourceConnector, SourceIntake
from node.sources import settings as source_settings
from node.sources.intake import IntakeCounts
from node.sources.settings import SourceSettings
from node.worker.parsing.bodies import RawEvent
from protocols.identifiers import event_id
from tests.node.certified_batches import NETWORK
from tests.node.running import Running, running

BIG = b"123456789012345678901234567890"
HOSTILE = (
    b'{"a\\u0000b": ' + BIG + b"}",
    b'{"\\u0000": 1e400}',
    b'{"a": "\\u0000"}',
    b'{"\\u0000": 1}',
    b'{"a": {"\\u0000": NaN}}',
    b'{"\\u0000": 1, "\\u0000": 2}',
    b'{"v": ' + BIG + b"}",
    b'{"v": 1e400}',
    b'{"v": -Infinity}',
    b'{"v": "\\ud800"}',
    b'{"\\udfff": ' + BIG + b"}",
    b'{"\\u001b[2J\\n": ' + BIG + b"}",
    b'{"v": "\xff\xfe"}',
    b"\x00",
    b"",
    b"[" * 5_000 + b"]" * 5_000,
    b'{"a":' * 100 + BIG + b"}" * 100,
    b'{"v": "' + b"x" * 3_000_000 + b'"}',
    b'{"' + b"k" * 200_000 + b'": ' + BIG + b"}",
    b'{"v": ' + b"9" * 5_000 + b"}",
)
BAD_FIELDS = (
    RawEvent(data=b"1", event_type="\x00"),
    RawEvent(data=b"1", event_type="\ud800"),
    RawEvent(data=b"1", event_type="", external_id="empty"),
    RawEvent(data=b"1", event_type="read", external_id="\x00"),
    RawEvent(data=b"1", event_type="read", external_id="a\udc00"),
    RawEvent(data=b"1", event_type="read", timestamp="\x00"),
)


class NoSettings(SourceSettings):
    """A source without settings."""


class Reader:
    """A connector whose intake the test uses itself."""

    def __init__(self) -> None:
        self.send, self.intakes = trio.open_memory_channel[SourceIntake](8)

    async def run(self, intake: SourceIntake) -> None:
        intake.connected()
        await self.send.send(intake)
        await trio.sleep_forever()


@pytest.fixture
def reader() -> Reader:
    return Reader()


@pytest.fixture
async def node(postgres_url: str, reader: Reader, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Running]:
    monkeypatch.setitem(source_settings.SETTINGS, "mqtt", NoSettings)
    async with running(postgres_url, connectors={"mqtt": SourceConnector(run=reader.run)}) as started:
        yield started


async def progress(node: Running) -> dict[str, Any]:
    answer = await node.client.get("/overlay/sources/s1/progress")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_hostile_records_are_rejected_and_the_others_taken(node: Running, reader: Reader) -> None:
    assert (await node.source("s1", sourceType="mqtt")).status_code == 201
    intake = await reader.intakes.receive()
    hostile = [RawEvent(data=data, event_type="read") for data in HOSTILE] + list(BAD_FIELDS)
    mixed = [
        event
        for number, each in enumerate(hostile)
        for event in (RawEvent(data=b'{"v": %d}' % number, event_type="read", external_id=f"good-{number}"), each)
    ]
    taken = await intake.take(mixed, position={"next": 7})
    assert taken == IntakeCounts(accepted=len(hostile), duplicates=0, rejected=len(hostile))
    shown = await progress(node)
    assert shown["mark"] == {"next": 7}
    assert len(shown["rejections"]) == len(hostile)
    assert shown["rejections"][-1]["field"] == "/data/a\\u0000b"
    for rejection in shown["rejections"]:
        assert len(rejection["field"]) <= 200
        assert len(rejection["reason"]) <= 400
        assert (rejection["field"] + rejection["reason"]).isprintable()
        assert rejection["head"].isprintable()


async def test_an_event_that_only_the_database_refuses_is_rejected_too(
    node: Running, reader: Reader, postgres_url: str
) -> None:
    assert (await node.source("s1", sourceType="mqtt")).status_code == 201
    intake = await reader.intakes.receive()
    digests = [event_id(NETWORK, "s1", f"e{number}").removeprefix("event_") for number in (3, 10)]
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        listed = ", ".join(f"'\\x{digest}'::bytea" for digest in digests)
        connection.execute(
            f"ALTER TABLE event_index ADD CONSTRAINT unholdable CHECK (event_digest NOT IN ({listed}))".encode()
        )
        try:
            events = [RawEvent(data=b"1", event_type="read", external_id=f"e{number}") for number in range(11)]
            taken = await intake.take(events, position={"next": 11})
        finally:
            connection.execute("ALTER TABLE event_index DROP CONSTRAINT unholdable")
    assert taken == IntakeCounts(accepted=9, rejected=2)
    shown = await progress(node)
    assert (shown["mark"], intake.position) == ({"next": 11}, {"next": 11})
    assert [each["externalId"] for each in shown["rejections"]] == ["e10", "e3"]
    assert "unholdable" in shown["rejections"][0]["reason"]


@pytest.mark.parametrize("data", [*HOSTILE[:12], *HOSTILE[18:]])
async def test_a_hostile_event_of_a_request_is_rejected_at_its_place(node: Running, data: bytes) -> None:
    assert (await node.source()).status_code == 201
    body = b'{"sourceId":"s1","events":[{"eventType":"read","data":%b},{"eventType":"read","data":1}]}' % data
    headers = {"Content-Type": "application/json"}
    answer = await node.client.post("/overlay/events/ingest", content=body, headers=headers)
    assert answer.status_code == 202, answer.text
    assert (answer.json()["counts"]["accepted"], answer.json()["counts"]["rejected"]) == (1, 1)

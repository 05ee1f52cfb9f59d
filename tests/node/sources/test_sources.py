"""Sources that the node reads itself: kept running as their rows say, their marks, and what is no event."""

import json
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import trio
from pydantic import Field

from node.ingest.admission_control import IngestLimits
from node.sources import SourceConnector, SourceFault, SourceIntake
from node.sources import settings as source_settings
from node.sources.documents import SOURCE_TYPES
from node.sources.settings import HIDDEN, SECRET_NAMES, SourceSettings
from node.worker.parsing.bodies import RawEvent
from storage import sources
from tests.node.described_answers import description
from tests.node.running import Running, running


class BellSettings(SourceSettings):
    first_number: int = 0
    password: str = ""
    nested: dict[str, Any] = Field(default_factory=dict)


class Bell:
    """A source that says what the test has it say."""

    def __init__(self) -> None:
        self.intakes: list[SourceIntake] = []
        self.faults: list[Exception] = []
        self.under_way = 0

    async def run(self, intake: SourceIntake) -> None:
        self.intakes.append(intake)
        if self.faults:
            raise self.faults.pop(0)
        intake.connected("bell")
        self.under_way += 1
        try:
            await trio.sleep_forever()
        finally:
            self.under_way -= 1


@pytest.fixture
def bell() -> Bell:
    return Bell()


@pytest.fixture
async def node(postgres_url: str, bell: Bell, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Running]:
    monkeypatch.setitem(source_settings.SETTINGS, "mqtt", BellSettings)
    async with running(postgres_url, connectors={"mqtt": SourceConnector(run=bell.run)}) as started:
        yield started


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(10):
        while not condition():
            await trio.sleep(0.01)


async def state(node: Running, source_id: str = "s1") -> dict[str, Any]:
    found: dict[str, Any] = (await node.client.get(f"/overlay/sources/{source_id}")).json()["state"]
    return found


async def test_a_source_runs_while_its_row_says_so(node: Running, bell: Bell) -> None:
    assert (await node.source(sourceType="mqtt")).status_code == 201
    await until(lambda: bell.under_way == 1)
    assert (await state(node))["status"] == "running"
    await node.client.patch("/overlay/sources/s1", json={"enabled": False})
    await until(lambda: bell.under_way == 0)
    assert await state(node) is None
    await node.client.patch("/overlay/sources/s1", json={"enabled": True})
    await until(lambda: bell.under_way == 1)
    await node.client.patch("/overlay/sources/s1", json={"configuration": {"firstNumber": 7}})
    await until(lambda: len(bell.intakes) == 3 and bell.under_way == 1)
    assert bell.intakes[-1].settings == BellSettings.model_validate({"firstNumber": 7})
    await node.client.patch("/overlay/sources/s1", json={"name": "another"})
    await node.source("s2", sourceType="mqtt")
    await until(lambda: bell.under_way == 2)
    assert [intake.source_id for intake in bell.intakes] == ["s1", "s1", "s1", "s2"], "a name starts nothing anew"
    await node.client.delete("/overlay/sources/s2")
    assert (await node.client.delete("/overlay/sources/s1")).status_code == 204
    await until(lambda: bell.under_way == 0)
    assert (await node.client.get("/overlay/sources/s1")).status_code == 404


async def test_a_source_that_fails_is_shown_and_tried_again_and_its_neighbour_runs(node: Running, bell: Bell) -> None:
    bell.faults = [SourceFault("the broker is away"), ValueError("a library's whim")]
    await node.source(sourceType="mqtt")
    await until(lambda: bell.under_way == 1)
    shown = await state(node)
    assert (shown["status"], shown["errors"], shown["lastError"]) == ("running", 2, "a library's whim")
    await node.source("s2", sourceType="mqtt")
    await until(lambda: bell.under_way == 2)


async def test_what_was_wrong_with_a_source_is_not_said_of_what_it_is_changed_into(node: Running, bell: Bell) -> None:
    """From the answer to the change on, not only from when the node got round to it."""

    async def has_failed() -> None:
        await until(lambda: not bell.faults)
        with trio.fail_after(10):
            while (await state(node))["lastError"] != "the broker is away":
                await trio.sleep(0.01)

    bell.faults = [SourceFault("the broker is away")]
    await node.source(sourceType="mqtt")
    await has_failed()
    changed = await node.client.patch("/overlay/sources/s1", json={"configuration": {"firstNumber": 7}})
    assert changed.json()["state"]["lastError"] is None
    assert (await state(node))["lastError"] is None
    seventh = BellSettings.model_validate({"firstNumber": 7})
    await until(lambda: bell.under_way == 1 and bell.intakes[-1].settings == seventh)
    bell.faults = [SourceFault("the broker is away")]
    await node.client.patch("/overlay/sources/s1", json={"configuration": {"firstNumber": 8}})
    await has_failed()
    await node.client.delete("/overlay/sources/s1")
    made = await node.source(sourceType="mqtt")
    assert made.json()["state"] is None or made.json()["state"]["lastError"] is None
    assert (await state(node) or {}).get("lastError") is None
    await until(lambda: bell.under_way == 1)


async def test_a_source_that_fails_while_it_is_stopped_stops_no_other(
    postgres_url: str, bell: Bell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its nursery then raises a group of both, the cancellation and the failure."""
    monkeypatch.setitem(source_settings.SETTINGS, "mqtt", BellSettings)
    monkeypatch.setitem(source_settings.SETTINGS, "kafka", BellSettings)
    started = trio.Event()

    async def run(intake: SourceIntake) -> None:
        async def part() -> None:
            try:
                await trio.sleep_forever()
            finally:
                raise SourceFault("the broker left at the same time")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(part)
            nursery.start_soon(trio.sleep_forever)
            started.set()

    connectors = {"mqtt": SourceConnector(run=bell.run), "kafka": SourceConnector(run=run)}
    async with running(postgres_url, connectors=connectors) as node:
        await node.source(sourceType="mqtt")
        await node.source("s2", sourceType="kafka")
        await started.wait()
        await until(lambda: bell.under_way == 1)
        assert (await node.client.delete("/overlay/sources/s2")).status_code == 204
        assert (await node.source("s3", sourceType="mqtt")).status_code == 201
        await until(lambda: bell.under_way == 2)


async def test_what_is_taken_is_committed_with_its_mark(node: Running, bell: Bell) -> None:
    await node.source(sourceType="mqtt")
    await until(lambda: bell.under_way == 1)
    said = [RawEvent(data=b'{"v":1}', event_type="ring", external_id=f"e{number}") for number in range(2_500)]
    taken = await bell.intakes[0].take(said, position={"at": 2_500})
    assert (taken.accepted, taken.duplicates, taken.rejected) == (2_500, 0, 0)
    assert await node.database.run(partial(sources.mark, source_id="s1")) == {"at": 2_500}
    again = await bell.intakes[0].take(said[:10])
    assert (again.accepted, again.duplicates) == (0, 10)
    assert (await bell.intakes[0].take([], position={"at": 2_501})).accepted == 0
    await node.client.patch("/overlay/sources/s1", json={"configuration": {"firstNumber": 1}})
    await until(lambda: len(bell.intakes) == 2)
    assert bell.intakes[1].position == {"at": 2_501}
    assert (await node.client.delete("/overlay/sources/s1/progress")).status_code == 204
    await until(lambda: len(bell.intakes) == 3)
    assert bell.intakes[2].position is None


HOSTILE = (
    b"",
    b"nonsense",
    b'1},{"eventType":"forged","data":2',
    b'1,"externalId":"forged"',
    b"\xff",
    b"[1,",
    b"NaN",
)


async def test_what_is_no_event_spoils_no_other_and_can_be_seen(node: Running, bell: Bell) -> None:
    await node.source(sourceType="mqtt")
    await until(lambda: bell.under_way == 1)
    said = [RawEvent(data=data, event_type="ring", external_id=f"bad{at}") for at, data in enumerate(HOSTILE)]
    said += [
        RawEvent(data=b'{\n "pretty": true\n}', event_type="ring"),
        RawEvent(data=b'{"a":1,"a":2}', event_type="r"),
    ]
    taken = await bell.intakes[0].take(said, position={"at": 1})
    assert (taken.accepted, taken.rejected) == (1, len(HOSTILE) + 1)
    progress = (await node.client.get("/overlay/sources/s1/progress")).json()
    assert progress["mark"] == {"at": 1}
    heads = {entry["head"] for entry in progress["rejections"]}
    assert '1},{"eventType":"forged","data":2' in heads
    assert all(entry["reason"] for entry in progress["rejections"])
    assert (await state(node))["rejected"] == len(HOSTILE) + 1


async def test_only_the_latest_rejections_are_kept(node: Running, bell: Bell) -> None:
    await node.source(sourceType="mqtt")
    await until(lambda: bell.under_way == 1)
    for start in range(0, 150, 50):
        said = [RawEvent(data=b"%d no" % number, event_type="ring") for number in range(start, start + 50)]
        await bell.intakes[0].take(said)
    kept = (await node.client.get("/overlay/sources/s1/progress")).json()["rejections"]
    assert [entry["head"] for entry in kept] == [f"{number} no" for number in range(149, 49, -1)]


async def test_a_full_node_holds_its_sources_up(
    postgres_url: str, bell: Bell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(source_settings.SETTINGS, "mqtt", BellSettings)
    limits, connectors = IngestLimits(unsettled_max=5), {"mqtt": SourceConnector(run=bell.run)}
    async with running(postgres_url, limits=limits, connectors=connectors) as node:
        await node.source(sourceType="mqtt")
        await until(lambda: bell.under_way == 1)
        said = [RawEvent(data=b"1", event_type="ring", external_id=f"e{number}") for number in range(5)]
        await bell.intakes[0].take(said)
        more = [RawEvent(data=b"1", event_type="ring", external_id="later")]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bell.intakes[0].take, more)
            with trio.fail_after(10):
                while not (await state(node))["heldUp"]:
                    await trio.sleep(0.01)
            node.forget_unsettled()
        shown = await state(node)
        assert (shown["heldUp"], shown["accepted"]) == (False, 6)


async def test_secrets_are_kept_and_never_shown(node: Running) -> None:
    configuration = {"firstNumber": 1, "password": "hush", "nested": {"headers": {"Authorization": "Bearer x"}}}
    made = await node.source(sourceType="mqtt", configuration=configuration)
    hidden = {"firstNumber": 1, "password": HIDDEN, "nested": {"headers": {"Authorization": HIDDEN}}}
    assert made.json()["configuration"] == hidden
    changed = await node.client.patch("/overlay/sources/s1", json={"configuration": {**hidden, "firstNumber": 2}})
    assert changed.status_code == 200
    stored = await node.database.run(partial(sources.get, source_id="s1"))
    assert stored is not None
    assert stored.configuration == {**configuration, "firstNumber": 2}


def test_every_secret_of_a_configuration_is_hidden() -> None:
    for model in source_settings.SETTINGS.values():
        for name in _secret_names(model.model_json_schema(by_alias=True)):
            assert name in SECRET_NAMES


def _secret_names(schema: Any) -> set[str]:
    """Members that pydantic knows to be secret, anywhere in a schema."""
    if isinstance(schema, list):
        return set().union(*map(_secret_names, schema)) if schema else set()
    if not isinstance(schema, dict):
        return set()
    found = {name for name, value in schema.get("properties", {}).items() if _is_secret(value)}
    return found.union(*map(_secret_names, schema.values()))


def _is_secret(value: Any) -> bool:
    return isinstance(value, dict) and (
        value.get("format") == "password" or any(map(_is_secret, value.get("anyOf", [])))
    )


async def test_a_configuration_that_is_wrong_is_refused_with_its_place(node: Running) -> None:
    refused = await node.source(sourceType="mqtt", configuration={"firstNumber": "many"})
    assert refused.status_code == 422
    problem = refused.json()
    assert problem["type"] == "urn:overlay:problem:invalid-configuration"
    assert problem["field"] == "/configuration/firstNumber"
    unknown = await node.source(sourceType="mqtt", configuration={"colour": "red"})
    assert unknown.json()["field"] == "/configuration/colour"
    await node.source(sourceType="mqtt")
    changed = await node.client.patch("/overlay/sources/s1", json={"configuration": {"firstNumber": None}})
    assert changed.status_code == 422


async def test_a_deleted_source_comes_back_with_its_events(node: Running) -> None:
    await node.source()
    first = (await node.post({"externalId": "e1", "eventType": "reading", "data": 1})).json()
    assert (await node.client.delete("/overlay/sources/s1")).status_code == 204
    assert (await node.post({"externalId": "e2", "eventType": "reading", "data": 1})).status_code == 404
    assert (await node.source()).status_code == 201
    assert (await node.source()).status_code == 409
    again = (await node.post({"externalId": "e1", "eventType": "reading", "data": 1})).json()
    assert again["processedEvents"][0]["status"] == "duplicate"
    assert again["processedEvents"][0]["eventId"] == first["processedEvents"][0]["eventId"]


async def test_trust_follows_what_validation_finds(node: Running) -> None:
    await node.source(trustScore=80)
    await node.source("s2", trustScore=80)
    count = partial(sources.count_verdicts, counts={"s1": (0, 100), "s2": (100, 0), "gone": (1, 1)})
    await node.database.run(count)

    async def score(source_id: str) -> int:
        found: int = (await node.client.get(f"/overlay/sources/{source_id}")).json()["trustScore"]
        return found

    assert (await score("s1"), await score("s2")) == (40, 90)
    for _ in range(60):
        await node.database.run(partial(sources.count_verdicts, counts={"s1": (100, 0)}))
    assert 95 <= await score("s1") <= 99
    await node.client.patch("/overlay/sources/s1", json={"trustScore": 10})
    assert await score("s1") == 10, "the operator's word is where it begins again"


CONFIGURED = {
    file.stem: json.loads(file.read_text())
    for file in sorted((Path(__file__).parents[3] / "configs" / "sources").glob("*.json"))
}


def test_there_is_an_example_of_every_type() -> None:
    types = {document["sourceType"] for document in CONFIGURED.values()}
    assert types == set(source_settings.SETTINGS) == set(SOURCE_TYPES)


@pytest.mark.parametrize("name", CONFIGURED)
async def test_the_examples_are_taken_and_hide_their_secrets(postgres_url: str, name: str) -> None:
    document = CONFIGURED[name]
    async with running(postgres_url) as node:
        made = await node.client.post("/overlay/sources", json=document)
    assert made.status_code == 201, made.text
    assert not [word for word in ("TOKEN", "PASSWORD", "SECRET") if word in made.text]
    model = source_settings.SETTINGS[document["sourceType"]].__name__
    described = {"$ref": f"#/components/schemas/{model}", "components": description()["components"]}
    jsonschema_rs.validator_for(described).validate(document["configuration"])

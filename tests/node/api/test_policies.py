"""Policies over HTTP: kept, read, tried, named by sources; levels by rule; versions of events; splits."""

import json
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from node.coordination.retention import DAY_MS, Retention
from node.ingest.batch_rows import BatchSigner
from node.ingest.batch_split import BatchSplitter
from node.ingest.batching import Planner, Request, Terms
from node.runtime.clock import UTC_MS, clock_ms
from node.worker.parsing.admission import admit
from protocols.messages import Level
from storage import batches, events
from tests.node.certified_batches import NETWORK, NODE
from tests.node.running import Running, running

ROOT = Path(__file__).resolve().parents[3]
LEVELS = {
    "required": ["value"],
    "certification": {"levels": [{"when": "data.value > 100", "level": "critical"}]},
}
BASIC = {"processingOptions": {"consensusLevel": "basic"}}
YAML = """
# what a sensor may say
required: [value]
bounds:
  - {field: value, min: -90, max: 60}
  - {field: value, max: 50, severity: warning}
"""


def reading(number: int, value: Any, kind: str = "reading") -> dict[str, Any]:
    return {"externalId": f"e{number}", "eventType": kind, "data": {"value": value}}


@pytest.fixture
async def node(postgres_url: str) -> AsyncIterator[Running]:
    async with running(postgres_url) as started:
        yield started


async def put(node: Running, policy: Any) -> str:
    answer = await node.client.post("/overlay/policies", json=policy)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["policyHash"])


async def test_a_policy_is_kept_by_its_hash_and_named_by_sources(node: Running) -> None:
    digest = await put(node, {"required": ["a"], "bounds": [{"max": 5, "field": "a"}]})
    assert await put(node, {"bounds": [{"field": "a", "max": 5.0}], "required": ["a"]}) == digest
    answer = await node.client.get(f"/overlay/policies/{digest}")
    assert answer.content == b'{"bounds":[{"field":"a","max":5}],"required":["a"]}'
    made = await node.source("s1", policyHash=digest)
    assert made.status_code == 201, made.text
    source = made.json()
    assert (source["policyHash"], source["mappingPolicy"]) == (digest, {"required": ["a"]})
    assert source["validationRules"] == {"bounds": [{"field": "a", "max": 5}]}
    other = await put(node, {})
    changed = await node.client.patch("/overlay/sources/s1", json={"policyHash": other})
    assert (changed.json()["policyHash"], changed.json()["validationRules"]) == (other, {})
    old = await node.client.get(f"/overlay/policies/{digest}")
    assert old.status_code == 200, "what was certified under it still names it"


async def test_yaml_means_the_same_as_json(node: Running) -> None:
    headers = {"Content-Type": "application/yaml"}
    answer = await node.client.post("/overlay/policies", content=YAML, headers=headers)
    assert answer.status_code == 201, answer.text
    bounds = [{"field": "value", "max": 60, "min": -90}, {"field": "value", "max": 50, "severity": "warning"}]
    assert answer.json()["policyHash"] == await put(node, {"required": ["value"], "bounds": bounds})


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("a: &x [1]\nb: *x", "anchors, aliases and tags"),
        ("required: !!set {a}", "anchors, aliases and tags"),
        ("required: [a", "not valid YAML"),
        ("a: 1\na: 2", "the key 'a' stands there twice"),
        ("<<: {required: [a]}", "merge keys are not allowed"),
        ("bounds: [{field: v, max: .inf}]", "has no JSON form"),
        ('required: ["a\\0"]', "must not contain U+0000"),
        ("- a", "must be an object"),
        ("[" * 3000, "nested deeper"),
    ],
)
async def test_yaml_that_is_none_of_ours_is_refused(node: Running, body: str, why: str) -> None:
    headers = {"Content-Type": "application/yaml"}
    answer = await node.client.post("/overlay/policies", content=body, headers=headers)
    assert (answer.status_code, answer.json()["type"]) == (422, "urn:overlay:problem:invalid-policy")
    assert why in answer.json()["detail"]


async def test_a_policy_that_is_wrong_is_refused_at_its_place(node: Running) -> None:
    answer = await node.client.post("/overlay/policies", json={"rules": [{"name": "a", "check": "data.x >"}]})
    assert (answer.status_code, answer.json()["path"]) == (422, "/rules/0/check")
    assert "at character 9: expected a value, found the end" in answer.json()["detail"]
    answer = await node.client.post(
        "/overlay/policies", json={"functions": [{"name": "acme.f", "version": "1", "hash": "ab" * 32}]}
    )
    assert (answer.status_code, answer.json()["path"]) == (422, "/functions")
    assert "install its package" in answer.json()["detail"]
    for headers in ({"Content-Type": "text/plain"}, {"Content-Type": "application/json", "Content-Encoding": "gzip"}):
        assert (await node.client.post("/overlay/policies", content=b"{}", headers=headers)).status_code == 415


async def test_a_source_names_a_policy_or_brings_one(node: Running) -> None:
    digest = await put(node, LEVELS)
    both = await node.source("s1", policyHash=digest, validationRules={"bounds": []})
    assert (both.status_code, both.json()["path"]) == (422, "/validationRules")
    unknown = await node.source("s1", policyHash="ab" * 32)
    assert (unknown.status_code, unknown.json()["type"]) == (404, "urn:overlay:problem:unknown-policy")
    wrong = await node.source("s1", policyHash="AB")
    assert (wrong.status_code, wrong.json()["field"]) == (400, "/policyHash")


async def test_a_policy_is_tried_on_events(node: Running) -> None:
    digest = await put(node, {**LEVELS, "bounds": [{"field": "value", "max": 200}]})
    sent = [reading(1, 5), reading(2, 150), reading(3, 500), {"eventType": "x", "data": {}, "externalId": 5}]
    answer = await node.client.post(f"/overlay/policies/{digest}/test", json={"events": sent})
    assert answer.status_code == 200, answer.text
    said = answer.json()
    assert (said["events"], said["valid"], said["invalid"], said["rejected"]) == (4, 2, 1, 1)
    assert said["issuesByRule"] == {"bounds": 1, "ingest": 1}
    assert [each["status"] for each in said["results"]] == ["valid", "valid", "invalid", "rejected"]
    assert [each["level"] for each in said["results"]] == [None, "critical", "critical", None]
    assert (await node.client.get("/overlay/stats")).json()["acknowledged"] == 0
    bodies: tuple[dict[str, Any], ...] = ({}, {"events": []}, {"events": 5})
    for body in bodies:
        refused = await node.client.post(f"/overlay/policies/{digest}/test", json=body)
        assert (refused.status_code, refused.json()["field"]) == (400, "/events")


async def test_the_published_schema_agrees_with_the_node(node: Running) -> None:
    answer = await node.client.get("/overlay/policy-schema")
    assert answer.headers["content-type"] == "application/schema+json"
    schema = jsonschema_rs.validator_for(answer.json())
    refused: tuple[dict[str, Any], ...] = (
        {"requires": []},
        {"bounds": [{"field": "a"}]},
        {"rules": [{"name": "a"}]},
        {"steps": [{"field": "a", "max": -1}]},
        {"rates": [{"time": "t", "count": 0, "seconds": 1}]},
        {"duplicates": [{"fields": ["a"], "time": "t"}]},
        {"allowed": [{"field": "a", "values": [1], "table": "t"}]},
        {"coercion": [{"field": "a", "type": "decimal"}]},
        {"certification": {"retention": {"days": 0}}},
        {"volatility": "medium"},
    )
    for policy in refused:
        assert not schema.is_valid(policy), policy
        assert (await node.client.post("/overlay/policies", json=policy)).status_code == 422, policy
    for file in (ROOT / "configs" / "policies").glob("*.json"):
        policy = json.loads(file.read_bytes())
        schema.validate(policy)
        await put(node, policy)


async def test_events_go_at_the_level_that_the_policy_wants_for_them(node: Running) -> None:
    digest = await put(node, LEVELS)
    await node.source("s1", policyHash=digest)
    await node.post(
        reading(1, 5), reading(2, 101), reading(3, 100), body={"processingOptions": {"consensusLevel": "basic"}}
    )
    told = [each.manifest.message for each in node.recorder.told]
    assert sorted((said.level.word, said.events) for said in told) == [("critical", 1), ("enhanced", 2)]


async def test_in_a_chain_all_go_together_at_the_highest_level(node: Running) -> None:
    digest = await put(node, {**LEVELS, "monotonic": [{"field": "value"}]})
    await node.source("s1", policyHash=digest)
    await node.post(
        reading(1, 99), reading(2, 101), reading(3, 102), body={"processingOptions": {"consensusLevel": "basic"}}
    )
    (told,) = node.recorder.told
    assert (told.manifest.message.level, told.manifest.message.events) == (Level.CRITICAL, 3)


async def test_a_batch_has_events_of_one_type(node: Running) -> None:
    await node.source("s1")
    await node.post(reading(1, 1, "a"), reading(2, 2, "b"), reading(3, 3, "a"))
    assert sorted(each.manifest.message.events for each in node.recorder.told) == [1, 2]


def test_chained_events_are_never_put_before_earlier_ones() -> None:
    def request(number: int, level: Level, *ids: int) -> Request:
        body = json.dumps({"sourceId": "s", "events": [reading(each, each) for each in ids]}).encode()
        terms = Terms(
            source_id="s",
            policy_hash=bytes(32),
            level=level,
            quorum=1,
            topics=(),
            stateful=True,
            on_conflict="version",
        )
        return Request(number=number, admitted=admit(body, network=NETWORK), terms=terms)

    planner = Planner({}, batch_events=100, coalesce=True)
    for number, (level, ids) in enumerate(((Level.BASIC, (1, 2)), (Level.CRITICAL, (3,)), (Level.BASIC, (4,)))):
        planner.take(request(number, level, *ids))
    named = [[json.loads(line)["externalId"] for line in draft.lines] for draft in planner.drafts]
    assert named == [["e1", "e2"], ["e3"], ["e4"]]


async def test_the_versions_of_an_event_form_a_chain(node: Running) -> None:
    await node.source("s1", validationRules={"bounds": [{"field": "value", "max": 10}]})
    ids = []
    for value in (1, 2, 99):
        answer = await node.post(reading(1, value))
        ids.append(answer.json()["processedEvents"][0]["eventId"])
        if value < 99:
            await node.seal(node.recorder.told[-1].manifest)
    assert len(set(ids)) == 1
    document = (await node.client.get(f"/overlay/events/{ids[0]}/versions")).json()
    assert document["eventId"] == ids[0]
    newest, middle, oldest = document["versions"]
    assert [each["version"] for each in document["versions"]] == [3, 2, 1]
    assert [each["data"] for each in document["versions"]] == [{"value": 99}, {"value": 2}, {"value": 1}]
    assert newest["previousRecordHash"] == middle["recordHash"]
    assert middle["previousRecordHash"] == oldest["recordHash"]
    assert [each["status"] for each in document["versions"]] == ["pending", "certified", "certified"]
    assert oldest["previousRecordHash"] is None
    assert oldest["versionId"] != middle["versionId"]
    assert newest["versionId"] is None
    limited = (await node.client.get(f"/overlay/events/{ids[0]}/versions?limit=1")).json()
    assert [each["version"] for each in limited["versions"]] == [3]
    unknown = await node.client.get("/overlay/events/event_00/versions")
    assert (unknown.status_code, unknown.json()["type"]) == (404, "urn:overlay:problem:unknown-event")


async def test_what_events_say_is_deleted_when_their_policy_asks(node: Running) -> None:
    digest = await put(node, {"certification": {"retention": {"days": 30}}})
    for source, policy in (("s1", digest), ("s2", await put(node, {}))):
        await node.source(source, policyHash=policy)
        await node.post(reading(1, 1), source=source)
        await node.post(reading(1, 2), source=source)
    ids = {}
    for told in list(node.recorder.told):
        await node.seal(told.manifest)
    for source in ("s1", "s2"):
        ids[source] = (await node.client.get(f"/overlay/events?sourceId={source}")).json()["events"][0]["eventId"]
    batch = node.recorder.told[0].manifest.message
    retention = Retention(node.database)
    assert await retention.round() == 0
    later = clock_ms() + 31 * DAY_MS
    token = UTC_MS.set(lambda: later)
    try:
        assert await retention.round() == 2
        assert await retention.round() == 0
    finally:
        UTC_MS.reset(token)
    gone = await node.client.get(f"/overlay/events/{ids['s1']}")
    assert (gone.status_code, gone.json()["type"]) == (410, "urn:overlay:problem:event-expired")
    assert (await node.client.get(f"/overlay/events/{ids['s1']}/certificate")).status_code == 410
    assert (await node.client.get(f"/overlay/events/{ids['s2']}")).json()["data"] == {"value": 2}
    kept = (await node.client.get(f"/overlay/batches/{batch.batch_id}")).json()
    assert (kept["state"], kept["counts"]["events"], kept["receipt"]) == ("certified", 1, None)
    assert kept["objects"]["payload"] is None
    again = await node.post(reading(1, 1), source="s1")
    assert again.json()["processedEvents"][0]["status"] == "duplicate", "its id and hash are still known"
    versions = (await node.client.get(f"/overlay/events/{ids['s1']}/versions")).json()["versions"]
    assert [(each["version"], each["data"]) for each in versions] == [(2, None), (1, None)]
    rows = await node.database.run(lambda connection: batches.sealed_since(connection, 0, 10))
    assert {row.source_id for row, _ in rows} == {"s2"}, "a stream from the start passes over it"


async def test_a_dead_batch_is_taken_apart(node: Running) -> None:
    await node.source("s1")
    answer = await node.post(*(reading(number, number) for number in range(5)))
    ids = [event["eventId"] for event in answer.json()["processedEvents"]]
    whole = node.recorder.told[-1].manifest.message.batch_id
    splitter = BatchSplitter(NETWORK, BatchSigner(NETWORK, NODE))
    split = partial(splitter.split, batch_id=whole, bad=frozenset({1, 3}), now_ms=clock_ms())
    assert await node.database.run(split) is None, "it waits, and is left alone"
    await node.database.run(lambda connection: batches.mark_dead(connection, whole, ["crashed"]))
    found = await node.database.run(split)
    assert found is not None
    assert found.rest is not None
    assert (found.bad, found.rest.manifest.message.events) == (2, 3)
    assert await node.database.run(split) is None, "once is enough"
    states = [(await node.client.get(f"/overlay/events/{event_id}")).json() for event_id in ids]
    assert [each["status"] for each in states] == ["pending", "dead", "pending", "dead", "pending"]
    assert [each["batchId"] for each in states] == [
        found.dead if index in (1, 3) else found.rest_id for index in range(5)
    ]
    assert (await node.client.get(f"/overlay/batches/{whole}")).json()["state"] == "split"
    letters = (await node.client.get("/overlay/dead-letters")).json()["deadLetters"]
    assert [(letter["batchId"], letter["events"]) for letter in letters] == [(found.dead, 2)]
    sealed = await node.seal(found.rest.manifest)
    assert sealed.certificate.statement.events == 3
    row = await node.database.run(lambda connection: events.get(connection, ids[2]))
    assert row is not None
    assert (row.validation_status, row.position) == ("certified", 1)
    # a repeat of what is dead or under way is a duplicate, as ever
    again = await node.post(*(reading(number, number) for number in range(5)))
    assert {event["status"] for event in again.json()["processedEvents"]} == {"duplicate"}

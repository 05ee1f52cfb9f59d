"""The description of the interface is valid, complete, and true to its examples."""

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import orjson

from node.api.problems import HTTP_CODES, PROBLEMS
from tests.node.described_answers import description
from tests.node.running import Running, running

METHODS = {"GET", "POST", "PATCH", "PUT", "DELETE"}
STATIC = Path(__file__).parents[3] / "node" / "api" / "static"


def schema_of(name: str) -> jsonschema_rs.Validator:
    parts = description()["components"]
    return jsonschema_rs.validator_for({"$ref": f"#/components/schemas/{name}", "components": parts})


def references(value: Any) -> set[str]:
    """Everything that refers to a component: references, and mappings of discriminators."""
    if isinstance(value, dict):
        return set().union(*(references(item) for item in value.values()))
    if isinstance(value, list):
        return set().union(*map(references, value))
    return {value} if isinstance(value, str) and value.startswith("#/components/schemas/") else set()


def test_every_reference_and_schema_resolves() -> None:
    described = description()
    assert described["openapi"].startswith("3.1")
    known = {f"#/components/schemas/{name}" for name in described["components"]["schemas"]}
    assert references(described) <= known
    for name in described["components"]["schemas"]:
        schema_of(name)
    ids = [method["operationId"] for path in described["paths"].values() for method in path.values()]
    assert len(ids) == len(set(ids))
    for path, methods in described["paths"].items():
        for method in methods.values():
            named = {entry["name"] for entry in method.get("parameters", ()) if entry["in"] == "path"}
            assert named == set(re.findall(r"{(\w+)}", path))


def test_examples_satisfy_their_schemas() -> None:
    checked = 0
    for media_type, content in contents(description()["paths"]):
        for example in content.get("examples", {}).values():
            if media_type != "text/event-stream":
                validator = {**content["schema"], "components": description()["components"]}
                jsonschema_rs.validator_for(validator).validate(example["value"])
                checked += 1
    assert checked > 100


def contents(value: Any) -> list[tuple[str, dict[str, Any]]]:
    """Every body that is described, with its media type."""
    if isinstance(value, list):
        return [found for each in value for found in contents(each)]
    if not isinstance(value, dict):
        return []
    found = list(value["content"].items()) if "content" in value else []
    return found + [inner for each in value.values() for inner in contents(each)]


def test_every_status_has_its_problem() -> None:
    assert {PROBLEMS[code][0] for code in HTTP_CODES.values()} == set(HTTP_CODES)


async def test_every_route_is_described_and_answers_as_described(postgres_url: str) -> None:
    async with running(postgres_url) as node:
        described = (await node.client.get("/openapi.json")).json()
        assert described == orjson.loads(orjson.dumps(description()))
        routes = {
            (re.sub(r"<(?:[^<>]*:)?(\w+)>", lambda match: "{" + _camel(match[1]) + "}", rule.rule), method)
            for rule in node.app.url_map.iter_rules()
            for method in (rule.methods or set()) & METHODS
        }
        listed = {(path, method.upper()) for path, methods in described["paths"].items() for method in methods}
        assert routes == listed
        await _answers_are_as_described(node)


async def _answers_are_as_described(node: Running) -> None:
    schema_of("Source").validate((await node.source()).json())
    event = {"externalId": "e1", "eventType": "reading", "data": 1}
    answer = (await node.post(event, event, 7)).json()
    schema_of("IngestAnswer").validate(answer)
    minimal = (await node.post(event, 7, headers={"Prefer": "return=minimal"})).json()
    schema_of("IngestAnswer").validate(minimal)
    await _lines_are_as_described(node)
    path = f"/overlay/events/{answer['processedEvents'][0]['eventId']}"
    for _ in range(2):  # while pending, then when certified
        schema_of("Event").validate((await node.client.get(path)).json())
        schema_of("Certification").validate((await node.client.get(f"{path}/certification")).json())
        batch = await node.client.get(f"/overlay/batches/{answer['batches'][0]['batchId']}")
        schema_of("Batch").validate(batch.json())
        schema_of("Stats").validate((await node.client.get("/overlay/stats")).json())
        if node.feed.stats.events == 0:
            await node.seal(node.recorder.told[0].manifest)
    schema_of("Certificate").validate((await node.client.get(f"{path}/certificate")).json())
    schema_of("Readiness").validate((await node.client.get("/readyz")).json())
    schema_of("Problem").validate((await node.client.get("/overlay/events/none")).json())


async def _lines_are_as_described(node: Running) -> None:
    async def content() -> AsyncIterator[bytes]:
        yield b'{"externalId":"e1","eventType":"reading","data":1}\n\n7\n'

    headers = {"Content-Type": "application/x-ndjson"}
    streamed = await node.client.post("/overlay/events/ingest?sourceId=s1", content=content(), headers=headers)
    acknowledged, end = map(orjson.loads, streamed.text.splitlines())
    schema_of("LinesAcknowledged").validate(acknowledged)
    schema_of("LinesEnd").validate(end)
    assert (acknowledged["counts"]["rejected"], end["lines"]) == (1, 3)


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(part.title() for part in rest)


async def test_the_page_to_read_it_loads_nothing_from_elsewhere(postgres_url: str) -> None:
    async with running(postgres_url) as node:
        page = await node.client.get("/docs")
        assert page.status_code == 200
        assert "default-src 'none'" in page.headers["Content-Security-Policy"]
        for name in re.findall(r'(?:href|src)="(/docs/[^"]+)"', page.text):
            assert (await node.client.get(name)).status_code == 200
        assert (await node.client.get("/docs/docs.py")).status_code == 404
    for file in STATIC.iterdir():
        assert not re.search(r"https?://|@import|url\(", file.read_text()), f"{file.name} reaches out"

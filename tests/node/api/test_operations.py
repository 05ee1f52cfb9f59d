"""Operations over HTTP: parameters and bodies are checked by their models, and refusals name what is wrong."""

from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import pytest
from quart import Response

from node.api.models.base import LimitQuery
from node.api.operations import Operation, Resource, json_answer, path_names
from node.api.services import Services
from tests.node.running import Running, running


@pytest.fixture
async def node(postgres_url: str) -> AsyncIterator[Running]:
    async with running(postgres_url) as started:
        await started.source()
        yield started


async def problem(node: Running, path: str) -> dict[str, Any]:
    answer = await node.client.get(path)
    assert answer.status_code == 400, answer.text
    found: dict[str, Any] = answer.json()
    assert found["type"] == "urn:overlay:problem:invalid-parameter"
    assert found["remedy"]
    return found


@pytest.mark.parametrize(
    "limit", ["0", "1001", "-1", "+5", " 5", "5.0", "1_0", "１", "abc", "", "99999999999999999999", "true"]
)
async def test_a_page_size_is_a_number_from_1_to_1000(node: Running, limit: str) -> None:
    for path in ("/overlay/events", "/overlay/sources", "/overlay/jobs", "/overlay/dead-letters"):
        found = await problem(node, f"{path}?limit={quote(limit)}")
        assert found["field"] == "limit"
        shown = limit if limit in ("0", "1001") else repr(limit)
        assert f"must be an integer of 1 to 1000, found {shown}" in found["detail"]


@pytest.mark.parametrize("limit", ["1", "1000", "007"])
async def test_page_sizes_within_the_bounds_are_taken(node: Running, limit: str) -> None:
    assert (await node.client.get(f"/overlay/sources?limit={limit}")).status_code == 200


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/overlay/events?colour=red", "colour"),
        ("/overlay/events?limit=1&limit=2", "limit"),
        ("/overlay/events?status=split", "status"),
        ("/overlay/sources?before=a", "before"),
        ("/overlay/job-templates?templateId=a&templateId=b", "templateId"),
        ("/overlay/subscriptions?after=%00", "after"),
        ("/overlay/events?sourceId=a%00b", "sourceId"),
        ("/overlay/events?externalId=%00", "externalId"),
        ("/uhrp/XU?local=yes", "local"),
        ("/overlay/events/stream?minCertificationLevel=utmost", "minCertificationLevel"),
        ("/overlay/events/stream?includeCertificate=1", "includeCertificate"),
        ("/overlay/events/stream?filter=data.value%20%3E", "filter"),
        ("/overlay/events/stream?subscriptionId=a&topics=t", "topics"),
        ("/overlay/events/stream?since=soon", "since"),
        ("/overlay/events/event_x/certificate?format=pdf", "format"),
    ],
)
async def test_a_parameter_that_is_wrong_is_named(node: Running, path: str, field: str) -> None:
    assert (await problem(node, path))["field"] == field


async def test_the_known_parameters_are_listed_where_one_is_unknown(node: Running) -> None:
    found = await problem(node, "/overlay/events?colour=red")
    assert found["remedy"] == "allowed parameters are limit, after, status, sourceId, externalId"


@pytest.mark.parametrize(
    "path",
    [
        "/overlay/batches/%00",
        "/overlay/events/a%00b",
        "/overlay/events/%00/certificate",
        "/overlay/sources/a%00b",
        "/overlay/sources/%00/progress",
        "/overlay/dead-letters/%00",
        "/overlay/jobs/%00",
        "/overlay/subscriptions/%00",
    ],
)
async def test_a_path_with_nul_names_nothing(node: Running, path: str) -> None:
    """The database takes no U+0000: without this check such paths were answered 500."""
    assert (await node.client.get(path)).status_code == 404


@pytest.mark.parametrize(
    ("path", "body", "field", "words"),
    [
        ("/overlay/sources", {"name": "S", "sourceType": "webhook"}, "/sourceId", "is missing"),
        ("/overlay/sources", {"sourceId": "a", "sourceType": "webhook"}, "/name", "is missing"),
        (
            "/overlay/sources",
            {"sourceId": "a", "name": "S", "sourceType": "webhook", "trustScore": 101},
            "/trustScore",
            "an integer of 0 to 100, found 101",
        ),
        (
            "/overlay/sources",
            {"sourceId": "a", "name": "S", "sourceType": "webhook", "enabled": "yes"},
            "/enabled",
            "true or false",
        ),
        ("/overlay/sources", {"sourceId": "a", "name": "S", "sourceType": "pigeon"}, "/sourceType", "one of"),
        ("/overlay/subscriptions", {"subscriptionType": "sse", "colour": "red"}, "/colour", "unknown member"),
        (
            "/overlay/subscriptions",
            {"subscriptionType": "sse", "overlayTopics": "t"},
            "/overlayTopics",
            "an array of at most",
        ),
    ],
)
async def test_a_document_that_is_wrong_is_refused_at_its_field(
    node: Running, path: str, body: dict[str, Any], field: str, words: str
) -> None:
    answer = await node.client.post(path, json=body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["field"] == field
    assert words in answer.json()["detail"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "/events"),
        ({"events": []}, "/events"),
        ({"events": {}}, "/events"),
        ({"events": [{}], "policy": {}}, "/policy"),
    ],
)
async def test_a_trial_needs_events(node: Running, body: dict[str, Any], field: str) -> None:
    stored = await node.client.post("/overlay/policies", json={"required": ["v"]})
    answer = await node.client.post(f"/overlay/policies/{stored.json()['policyHash']}/test", json=body)
    assert (answer.status_code, answer.json()["field"]) == (400, field)


@pytest.mark.parametrize("content", [b"[]", b"7", b'"text"', b"null"])
async def test_a_document_is_an_object(node: Running, content: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    for path in ("/overlay/sources", "/overlay/subscriptions", "/overlay/job-templates"):
        answer = await node.client.post(path, content=content, headers=headers)
        assert (answer.status_code, answer.json()["field"]) == (400, "")


async def test_a_document_is_json(node: Running) -> None:
    answer = await node.client.post("/overlay/sources", content=b"{}", headers={"Content-Type": "text/plain"})
    assert answer.status_code == 415
    answer = await node.client.post("/overlay/sources", content=b"{", headers={"Content-Type": "application/json"})
    assert answer.json()["type"] == "urn:overlay:problem:invalid-json"


def test_the_names_of_a_path_are_its_variable_parts() -> None:
    assert path_names("/overlay/events") == []
    assert path_names("/overlay/sources/<source_id>/progress") == ["source_id"]
    assert path_names("/a/<one>/b/<path:two>") == ["one", "two"]


def test_a_handler_takes_what_its_route_gives() -> None:
    resource: Resource[Services] = Resource("tests", lambda services: services)
    operation = Operation(
        operation_id="listThings",
        tag="node",
        summary="Things",
        query=LimitQuery,
        answers={200: json_answer("A page.", dict)},
    )

    async def without_the_part(_: Services, query: LimitQuery) -> Response:
        raise NotImplementedError

    with pytest.raises(AssertionError, match="without_the_part"):
        resource.get("/things/<thing_id>", operation)(without_the_part)
    assert resource.routes == []
    resource.get("/things", operation)(without_the_part)
    assert [route.endpoint for route in resource.routes] == ["tests.without_the_part"]


@pytest.mark.parametrize(
    ("path", "document", "field"),
    [
        ("/overlay/sources", {"sourceId": "a\0b"}, "/sourceId"),
        ("/overlay/sources", {"configuration": {"a/b": ["", {"c": "\0"}]}}, "/configuration/a~1b/1/c"),
        ("/overlay/subscriptions", {"filter": {"\0": 1}}, "/filter"),
        ("/lookup", {"service": "ls_ship", "query": {"domain": "\0"}}, "/query/domain"),
    ],
)
async def test_a_string_with_nul_is_refused_by_its_place(
    node: Running, path: str, document: dict[str, Any], field: str
) -> None:
    found = await node.client.post(path, json=document)
    assert found.status_code == 400, found.text
    assert found.json()["field"] == field
    assert "U+0000" in found.json()["detail"]


async def test_an_escaped_backslash_before_u0000_is_text(node: Running) -> None:
    assert (await node.source("s2", name="a\\u0000b")).status_code == 201


@pytest.mark.parametrize(
    ("path", "allowed"),
    [("/overlay/events/ingest", {"POST", "OPTIONS"}), ("/overlay/dead-letters/replay", {"POST", "OPTIONS"})],
)
async def test_a_path_of_its_own_has_its_own_methods(node: Running, path: str, allowed: set[str]) -> None:
    """Beside a path with a variable part, which such a path looks like too."""
    for method in ("GET", "PUT", "DELETE", "OPTIONS"):
        answer = await node.client.request(method, path)
        assert answer.status_code == (200 if method == "OPTIONS" else 405)
        assert set(answer.headers["Allow"].split(", ")) == allowed


async def test_whole_numbers_are_integers_however_they_are_written(node: Running) -> None:
    answer = await node.client.patch(
        "/overlay/sources/s1", content=b'{"trustScore": 7e1}', headers={"Content-Type": "application/json"}
    )
    assert answer.json()["trustScore"] == 70
    for wrong in (b"7.5", b"1e300"):
        refused = await node.client.patch(
            "/overlay/sources/s1",
            content=b'{"trustScore": %b}' % wrong,
            headers={"Content-Type": "application/json"},
        )
        assert (refused.status_code, refused.json()["field"]) == (400, "/trustScore")


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("", "sourceId"),
        ("?sourceId=", "sourceId"),
        ("?sourceId=s1&consensusLevel=utmost", "consensusLevel"),
        ("?sourceId=s1&durability=eternal", "durability"),
        ("?sourceId=s1&distributionTopics=a,b%20c", "distributionTopics"),
        ("?sourceId=s1&topics=a", "topics"),
    ],
)
@pytest.mark.parametrize("media_type", ["application/x-ndjson", "application/cloudevents+json", "application/json"])
async def test_parameters_of_an_ingest_request_are_named_where_they_are_wrong(
    node: Running, query: str, field: str, media_type: str
) -> None:
    if media_type == "application/json" and not query:
        return  # its body names the source
    answer = await node.client.post(
        f"/overlay/events/ingest{query}", content=b"{}", headers={"Content-Type": media_type, "Content-Length": "2"}
    )
    assert (answer.status_code, answer.json()["field"]) == (400, field)
    assert answer.json()["type"] == "urn:overlay:problem:invalid-parameter"

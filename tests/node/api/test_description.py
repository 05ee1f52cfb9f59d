"""What the description promises as a whole: refusals, words, and the types that it is derived from."""

import importlib
import pkgutil
import re
from collections.abc import Iterator
from typing import Annotated, Any

import jsonschema_rs
import pytest
from pydantic import BaseModel, Field

import node
from node.api.access import RULES, rule_of
from node.api.json_schemas import Schemas, inline_schema, properties
from node.api.models.base import JsonText, OneOf
from node.api.openapi import document
from node.api.problems import HTTP_CODES, PROBLEMS, RETRY_AFTER_S
from node.api.resources import RESOURCES
from node.runtime.access import Need
from node.runtime.document_models import DocumentModel, optional_member
from protocols.errors import ClientFault
from storage.states import BATCH_STATES
from tests.node.described_answers import UndescribedAnswerError, described_operation, description


def texts(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every text that people read, with the member that it stands in."""
    if isinstance(value, dict):
        for name, each in value.items():
            if name not in ("examples", "enum", "pattern", "default", "const"):
                yield from texts(each, name)
    elif isinstance(value, list):
        for each in value:
            yield from texts(each, key)
    elif isinstance(value, str) and key in ("description", "summary"):
        yield key, value


def operations() -> dict[str, dict[str, Any]]:
    return {each["operationId"]: each for path in description()["paths"].values() for each in path.values()}


def test_no_text_is_written_for_readers_of_the_code() -> None:
    for key, text in texts(description()):
        assert not re.search(r"``|\bnode\.\w|\bAttributes:|\bArgs:|\bself\.|\n\n", text), text
        assert text == text.strip(), text
        assert key == "description" or not text.endswith("."), text


def test_every_operation_says_how_it_may_be_refused() -> None:
    for name, operation in operations().items():
        statuses = set(operation["responses"])
        assert {"400", "401", "500", "503"} <= statuses, name
        assert any(status.startswith(("2", "3")) for status in statuses), name


def test_refusals_for_lack_of_rights_are_those_of_the_access_table() -> None:
    by_endpoint = {route.endpoint: route.operation.operation_id for each in RESOURCES for route in each.routes}
    for endpoint, operation_id in by_endpoint.items():
        responses = operations()[operation_id]["responses"]
        needs = rule_of(endpoint).need is not Need.NOTHING
        assert ("403" in responses) or not needs, endpoint
        examples = responses["401"]["content"]["application/problem+json"]["examples"]
        assert ("identity-required" in examples) or not needs, endpoint


def test_every_operation_has_its_rule() -> None:
    served = {route.endpoint for each in RESOURCES for route in each.routes}
    assert served | {"stream.stream_socket"} == set(RULES), "a route without one is the operators' by oversight"


def test_requests_are_closed_and_answers_are_open() -> None:
    components = description()["components"]["schemas"]
    for name in ("SourceInput", "SourceChange", "SubscriptionInput", "IngestRequest", "EventInput", "TrialRequest"):
        assert components[name]["additionalProperties"] is False, name
    for name in ("Event", "Batch", "Certificate", "Certification", "IngestAnswer"):
        assert "additionalProperties" not in components[name], name


def test_enumerations_are_those_of_the_code() -> None:
    components = description()["components"]["schemas"]
    assert components["Batch"]["properties"]["state"]["enum"] == list(BATCH_STATES)
    assert "split" in BATCH_STATES
    assert components["Problem"]["properties"]["type"]["enum"] == [f"urn:overlay:problem:{code}" for code in PROBLEMS]


def test_the_server_is_named_where_it_is_known() -> None:
    assert document(RESOURCES)["servers"] == [{"url": "/"}]
    assert document(RESOURCES, "https://node.example")["servers"] == [{"url": "https://node.example"}]


def clients_faults() -> set[type[ClientFault]]:
    """Every kind of fault that a client may be answered, in modules of the node."""
    for module in pkgutil.walk_packages(node.__path__, "node."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    found: set[type[ClientFault]] = set()
    left: list[type[ClientFault]] = [ClientFault]
    while left:
        kind = left.pop()
        found.add(kind)
        left += kind.__subclasses__()
    return {kind for kind in found if kind.__module__.startswith(("node.sources", "node.delivery", "node.api"))}


def test_faults_of_clients_have_their_problems() -> None:
    """One that has none is answered 500, as if it were the node's."""
    missing = {kind.code for kind in clients_faults()} - set(PROBLEMS)
    assert not missing


@pytest.mark.parametrize("code", PROBLEMS)
def test_a_problem_has_a_status_a_title_and_a_remedy(code: str) -> None:
    status, title, remedy = PROBLEMS[code]
    assert re.fullmatch("[a-z]+(-[a-z]+)*", code)
    assert 400 <= status < 600
    assert title
    assert not title.endswith(".")
    assert remedy.endswith(".")


def test_who_is_to_come_back_is_told_when() -> None:
    """Faults of the world, and of a node at its limits, are answered with Retry-After."""
    assert {code for code, (status, *_) in PROBLEMS.items() if status in (429, 503)} <= set(RETRY_AFTER_S)


def test_routes_that_ask_for_a_role_are_described_to_need_a_proof() -> None:
    by_endpoint = {route.endpoint: route.operation.operation_id for each in RESOURCES for route in each.routes}
    for endpoint, operation_id in by_endpoint.items():
        asks = rule_of(endpoint).need in (Need.OWN, Need.OPERATE)
        assert ({} in operations()[operation_id].get("security", [{}])) is not asks, endpoint


def test_links_lead_to_parts_of_paths() -> None:
    linked = 0
    for operation in operations().values():
        for answer in operation["responses"].values():
            for link in answer.get("links", {}).values():
                target = operations()[link["operationId"]]
                parameters = {each["name"] for each in target["parameters"] if each["in"] == "path"}
                assert set(link["parameters"]) <= parameters
                linked += 1
    assert linked > 20


def test_codes_that_are_named_elsewhere_are_problems() -> None:
    assert set(HTTP_CODES.values()) | set(RETRY_AFTER_S) <= set(PROBLEMS)


class InnerDocument(DocumentModel):
    """Another model.

    Not for readers of the description.
    """

    word: Annotated[str, OneOf(("a", "b"))]


class Outer(DocumentModel):
    """A model with ``marks``."""

    inner: InnerDocument
    maybe: str = optional_member(description="May be left out.")
    perhaps: int | None = Field(None, ge=1)
    text: Annotated[str, JsonText(InnerDocument)]


def test_components_go_by_names_without_suffix_and_by_first_paragraphs() -> None:
    schemas = Schemas([Outer, list[InnerDocument]])
    assert set(schemas.components) == {"Outer", "Inner"}
    outer, inner = schemas.components["Outer"], schemas.components["Inner"]
    assert (outer["description"], inner["description"]) == ("A model with `marks`.", "Another model.")
    assert outer["required"] == ["inner", "text"]
    assert outer["properties"]["inner"] == {"$ref": "#/components/schemas/Inner"}
    assert outer["properties"]["maybe"] == {"description": "May be left out.", "type": "string"}
    assert outer["properties"]["perhaps"] == {"type": ["integer", "null"], "minimum": 1}
    assert outer["properties"]["text"]["contentMediaType"] == "application/json"
    assert outer["properties"]["text"]["contentSchema"]["required"] == ["word"]
    assert inner["properties"]["word"] == {"enum": ["a", "b"], "type": "string"}
    assert schemas.of(Outer) == {"$ref": "#/components/schemas/Outer"}


def test_two_models_of_one_name_are_refused() -> None:
    class Inner(BaseModel):
        number: int

    with pytest.raises(AssertionError, match="two models are called Inner"):
        Schemas([Inner, InnerDocument])


def test_a_model_that_refers_to_others_is_not_put_inline() -> None:
    assert properties(InnerDocument)["word"] == ({"enum": ["a", "b"], "type": "string"}, True)
    with pytest.raises(AssertionError, match="refers to other models"):
        inline_schema(Outer)


def test_operations_are_found_by_method_and_path() -> None:
    found = described_operation("HEAD", "/overlay/events/stream")
    assert found is not None
    assert found["operationId"] == "streamEvents", "a fixed path goes before one with a variable part"
    assert described_operation("PATCH", "/overlay/events") is None
    assert described_operation("GET", "/elsewhere") is None
    assert issubclass(UndescribedAnswerError, AssertionError)


def test_the_described_schemas_are_schemas() -> None:
    for name, schema in description()["components"]["schemas"].items():
        jsonschema_rs.validator_for({**schema, "components": description()["components"]})
        assert re.fullmatch("[A-Z][A-Za-z0-9]+", name)

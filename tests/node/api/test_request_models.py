"""Requests that other parts of the node parse: their models accept and refuse what the parsers do."""

import json
from collections.abc import Mapping
from typing import Any, TypeVar

import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from node.api.market import EXAMPLE_TEMPLATE
from node.api.models.ingest import IngestRequest
from node.api.models.market import JobTemplateInput
from node.worker.parsing.admission import InvalidRequestError, TooManyEventsError, admit
from protocols.errors import InvalidJsonError
from protocols.limits import EVENT_TYPE_CHARS_MAX, EXTERNAL_ID_CHARS_MAX, SOURCE_ID_CHARS_MAX, TOPICS_PER_BATCH_MAX
from protocols.templates import InvalidTemplateError, read_template
from tests.node.described_answers import description

V = TypeVar("V")

ODDITIES: tuple[Any, ...] = (None, True, 0, -1, 7, 1.5, "", "x", [], ["x"], {}, {"x": 1}, "x\0y")
oddities = st.sampled_from(ODDITIES)
TIMES = (None, "2024-01-15T10:30:00Z", "2024-01-15T10:30:00.123456+02:00")
NO_TIMES = ("2024-02-30T00:00:00Z", "yesterday", "")
TOPICS = ("gitdata.events.iot", "t" * 128)
NO_TOPICS = ("two words", "one,two", "", "t" * 129)


def mostly(good: st.SearchStrategy[V], bad: st.SearchStrategy[V]) -> st.SearchStrategy[V]:
    """One draw in twelve is bad: else hardly a document of several members would be accepted."""
    return st.integers(0, 11).flatmap(lambda number: bad if number == 11 else good)


def texts(length_max: int) -> st.SearchStrategy[str]:
    """Strings of the lengths allowed, and some that are empty or too long."""
    good = st.sampled_from(["a", "é" * length_max]) | st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)
    return mostly(good, st.sampled_from(["", "a" * (length_max + 1), "a\0b"]))


def members(
    required: Mapping[str, st.SearchStrategy[Any]], optional: Mapping[str, st.SearchStrategy[Any]]
) -> st.SearchStrategy[dict[str, Any]]:
    """Objects of which most have what they should, and some another member or a value of another type."""
    whole = st.fixed_dictionaries(dict(required), optional=dict(optional))
    names = st.sampled_from([*required, *optional, "unknown"])
    odd = st.tuples(whole, names, oddities).map(lambda drawn: {**drawn[0], drawn[1]: drawn[2]})
    return mostly(whole, odd)


events = members(
    {"eventType": texts(EVENT_TYPE_CHARS_MAX), "data": oddities},
    {
        "externalId": st.none() | texts(EXTERNAL_ID_CHARS_MAX),
        "timestamp": mostly(st.sampled_from(TIMES), st.sampled_from(NO_TIMES)),
    },
).filter(lambda event: event.get("data") != "x\0y")  # U+0000 within data is described in words alone
topics = mostly(
    st.lists(st.sampled_from(TOPICS), max_size=3)
    | st.integers(TOPICS_PER_BATCH_MAX - 1, TOPICS_PER_BATCH_MAX).map(lambda n: [f"t{i}" for i in range(n)])
    | st.just(["t"] * (TOPICS_PER_BATCH_MAX + 1)),
    st.lists(st.sampled_from(NO_TOPICS), min_size=1, max_size=2)
    | st.just([f"t{i}" for i in range(TOPICS_PER_BATCH_MAX + 1)]),
)
options = members(
    {},
    {
        "requireCertification": st.booleans(),
        "distributionTopics": st.none() | topics,
        "consensusLevel": mostly(st.sampled_from(["basic", "enhanced", "critical", None]), st.just("BASIC")),
        "durability": mostly(st.sampled_from(["local", "replicated", None]), st.just("eternal")),
    },
)
requests = members(
    {"sourceId": texts(SOURCE_ID_CHARS_MAX), "events": st.lists(mostly(events, oddities), min_size=1, max_size=2)},
    {"processingOptions": options | st.none()},
)


def is_admitted(request: dict[str, Any]) -> bool:
    """Whether the parser takes a request with all its events."""
    try:
        return not admit(json.dumps(request).encode(), network="test").rejections
    except (InvalidJsonError, InvalidRequestError, TooManyEventsError):
        return False


def fits(model: type[BaseModel], document: Any) -> bool:
    try:
        model.model_validate(document)
    except ValidationError:
        return False
    return True


def validator(component: str) -> jsonschema_rs.Validator:
    schema = {"$ref": f"#/components/schemas/{component}", "components": description()["components"]}
    return jsonschema_rs.validator_for(schema)


INGEST_REQUEST, JOB_TEMPLATE = validator("IngestRequest"), validator("JobTemplateInput")


@given(requests)
def test_the_model_of_ingest_requests_accepts_what_the_parser_does(request: dict[str, Any]) -> None:
    """The parser is written for speed: without this, the description could state something else."""
    admitted = is_admitted(request)
    assert fits(IngestRequest, request) == admitted
    assert INGEST_REQUEST.is_valid(request) or not admitted


@pytest.mark.parametrize("count", [1, TOPICS_PER_BATCH_MAX])
def test_topics_may_repeat_up_to_so_many_different_ones(count: int) -> None:
    event = {"eventType": "t", "data": 1}
    topics = [f"topic{number}" for number in range(count)] * 2
    request = {"sourceId": "s", "events": [event], "processingOptions": {"distributionTopics": topics}}
    assert is_admitted(request)
    assert fits(IngestRequest, request)
    topics += [f"more{number}" for number in range(TOPICS_PER_BATCH_MAX - count + 1)]
    assert not is_admitted(request)
    assert not fits(IngestRequest, request)


def is_template(document: Any) -> bool:
    try:
        read_template(document)
    except InvalidTemplateError:
        return False
    return True


def parts(document: Any, place: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The places of all members of a document."""
    if not isinstance(document, dict):
        return []
    return [found for name, value in document.items() for found in [(*place, name), *parts(value, (*place, name))]]


def changed(document: dict[str, Any], place: tuple[str, ...], value: Any, *, is_removed: bool) -> dict[str, Any]:
    """The document with another value at a place, or without the member."""
    name, *rest = place
    if rest:
        return {**document, name: changed(document[name], tuple(rest), value, is_removed=is_removed)}
    others = {key: each for key, each in document.items() if key != name}
    return others if is_removed else {**others, name: value}


TEMPLATE: dict[str, Any] = {
    **EXAMPLE_TEMPLATE,
    "agentRequirements": {
        "capabilities": ["validate"],
        "minimumReputation": 70,
        "geographicRestrictions": ["eu", "us-east"],
    },
}
PLACES = [*parts(TEMPLATE), ("unknown",), ("agentRequirements", "unknown"), ("outputRequirements", "unknown")]
template_values = (
    oddities
    | st.integers(-1, 600_001)
    | st.sampled_from(["normalize", "basic", "critical", "a" * 64, "a" * 65, "a b", "ä"])
    | st.lists(st.sampled_from(["validate", "", "a b", "ä", 1]), max_size=33)
)


@given(st.sampled_from(PLACES), template_values, st.booleans())
def test_the_model_of_job_templates_accepts_what_the_market_does(
    place: tuple[str, ...], value: Any, is_removed: bool
) -> None:
    document = changed(TEMPLATE, place, value, is_removed=is_removed)
    assert fits(JobTemplateInput, document) == is_template(document)
    assert JOB_TEMPLATE.is_valid(document) == is_template(document)


def test_the_example_of_a_template_is_one() -> None:
    assert is_template(TEMPLATE)
    assert fits(JobTemplateInput, TEMPLATE)

"""Source documents: what their models accept, what errors state, and that the interface's description agrees."""

import re
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from node.runtime.document_models import FixedMemberError
from node.sources import documents
from node.sources.documents import (
    InvalidSourceError,
    SourceChange,
    SourceDocument,
    SourceInput,
    SourcePage,
    SourceProgress,
    StoredPolicy,
    read_change,
    read_source,
)
from node.sources.settings import SETTINGS
from protocols.limits import SOURCE_ID_CHARS_MAX, TOPIC_CHARS_MAX, TOPICS_PER_BATCH_MAX
from tests.node.certified_batches import AGENT
from tests.node.running import Running, running

MODELS: tuple[type[BaseModel], ...] = (
    *(SourceInput, SourceChange, SourceDocument, SourcePage, SourceProgress, StoredPolicy),
    *SETTINGS.values(),
)
WHOLE: dict[str, Any] = {"sourceId": "farm-7", "name": "Farm 7", "sourceType": "mqtt"}
KEY = AGENT.identity.hex()


def schema_of(model: type[BaseModel]) -> dict[str, Any]:
    return model.model_json_schema(by_alias=True)


def test_what_is_left_out_of_a_whole_source_gets_its_default() -> None:
    columns = read_source(WHOLE).columns()
    assert columns == {
        "name": "Farm 7",
        "source_type": "mqtt",
        "configuration": {},
        "mapping_policy": {},
        "validation_rules": {},
        "policy_hash": None,
        "overlay_topics": [],
        "identity_key": None,
        "trust_score": 50,
        "enabled": True,
    }


def test_a_change_sets_only_the_columns_that_it_names() -> None:
    assert read_change({}).columns() == {}
    assert read_change({"enabled": False}).columns() == {"enabled": False}
    assert read_change({"identityKey": None}).columns() == {"identity_key": None}
    assert read_change({"identityKey": KEY, "trustScore": 0}).columns() == {"identity_key": KEY, "trust_score": 0}


def test_the_id_may_stand_in_the_address_in_the_document_or_in_both() -> None:
    without = {name: value for name, value in WHOLE.items() if name != "sourceId"}
    assert read_source(without, source_id="farm-7").source_id == "farm-7"
    assert read_source(WHOLE, source_id="farm-7").source_id == "farm-7"
    with pytest.raises(InvalidSourceError, match="/sourceId: is missing"):
        read_source(without)
    with pytest.raises(FixedMemberError, match="must be 'farm-8' as in the address, found 'farm-7'") as refused:
        read_source(WHOLE, source_id="farm-8")
    assert refused.value.fields["field"] == "/sourceId"


@pytest.mark.parametrize(
    ("change", "pointer", "words"),
    [
        ({"name": ""}, "/name", "must be a string of 1 to 256 printable characters"),
        ({"name": "   "}, "/name", "not only spaces"),
        ({"name": "a\nb"}, "/name", "printable"),
        ({"name": "x" * 257}, "/name", "found a string of 257 characters"),
        ({"name": None}, "/name", "found null"),
        ({"name": 7}, "/name", "found 7"),
        ({"sourceType": "mqqt"}, "/sourceType", "must be one of webhook, poll, mqtt, kafka, overlay, found 'mqqt'"),
        ({"configuration": []}, "/configuration", "found an array of 0 items"),
        ({"mappingPolicy": "x"}, "/mappingPolicy", "must be an object, found a string"),
        ({"validationRules": None}, "/validationRules", "must be an object, found null"),
        ({"policyHash": "AB" * 32}, "/policyHash", "^[0-9a-f]{64}$"),
        ({"policyHash": None}, "/policyHash", "found null"),
        ({"overlayTopics": "t"}, "/overlayTopics", "must be an array of"),
        ({"overlayTopics": ["ok", "a b"]}, "/overlayTopics/1", "must be a topic"),
        ({"overlayTopics": ["a,b"]}, "/overlayTopics/0", "must be a topic"),
        ({"overlayTopics": ["x" * (TOPIC_CHARS_MAX + 1)]}, "/overlayTopics/0", f"{TOPIC_CHARS_MAX}"),
        ({"overlayTopics": [""]}, "/overlayTopics/0", "1 to"),
        ({"overlayTopics": ["t"] * (TOPICS_PER_BATCH_MAX + 1)}, "/overlayTopics", f"{TOPICS_PER_BATCH_MAX}"),
        ({"identityKey": "02" + "zz" * 32}, "/identityKey", "^0[23][0-9a-f]{64}$"),
        ({"identityKey": "04" + "ab" * 32}, "/identityKey", "or null"),
        ({"trustScore": 101}, "/trustScore", "must be an integer of 0 to 100, found 101"),
        ({"trustScore": -1}, "/trustScore", "found -1"),
        ({"trustScore": 1.0}, "/trustScore", "must be an integer"),
        ({"trustScore": True}, "/trustScore", "found true"),
        ({"trustScore": "50"}, "/trustScore", "found a string of 2 characters"),
        ({"enabled": 1}, "/enabled", "must be true or false, found 1"),
        ({"colour": "red"}, "/colour", "unknown member"),
        ({"a/b~c": 1}, "/a~1b~0c", "unknown member"),
        ({"source_type": "mqtt"}, "/source_type", "unknown member"),
    ],
)
def test_an_error_names_the_member_what_was_found_and_what_is_allowed(
    change: dict[str, Any], pointer: str, words: str
) -> None:
    for read, document in ((read_change, change), (read_source, {**WHOLE, **change})):
        with pytest.raises(InvalidSourceError) as refused:
            read(document)
        assert refused.value.code == "invalid-request"
        assert refused.value.fields["field"] == pointer
        assert refused.value.fields["remedy"]
        assert str(refused.value).startswith(f"{pointer}: ")
        assert words in str(refused.value)


@pytest.mark.parametrize("name", ["name", "sourceType"])
def test_members_that_a_whole_source_must_have(name: str) -> None:
    with pytest.raises(InvalidSourceError, match=f"/{name}: is missing") as refused:
        read_source({key: value for key, value in WHOLE.items() if key != name})
    assert refused.value.fields["field"] == f"/{name}"


@pytest.mark.parametrize("source_id", ["", "a b", "ä", "x" * (SOURCE_ID_CHARS_MAX + 1), "a/b", 7, None, ["s"]])
def test_ids_that_are_refused(source_id: Any) -> None:
    with pytest.raises(InvalidSourceError) as refused:
        read_source({**WHOLE, "sourceId": source_id})
    assert refused.value.fields["field"] == "/sourceId"


def test_an_error_is_bounded_whatever_was_sent() -> None:
    with pytest.raises(InvalidSourceError) as refused:
        read_change({"x" * 100_000: "y" * 100_000})
    assert len(str(refused.value)) < 1_000
    with pytest.raises(InvalidSourceError) as refused:
        read_change({"sourceType": "z" * 100_000})
    assert len(str(refused.value)) < 1_000


SCALARS = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(max_size=8)
JSON = SCALARS | st.lists(SCALARS, max_size=3) | st.dictionaries(st.text(max_size=3), SCALARS, max_size=2)
MEMBERS = st.sampled_from([*schema_of(SourceChange)["properties"], "sourceId", "other"])
# in words of JSON Schema these are as exact as the model; printable text and topics need the validators
EXACT = frozenset({"sourceType", "policyHash", "identityKey", "trustScore", "enabled", "mappingPolicy"})
CHANGE_SCHEMA = jsonschema_rs.validator_for(schema_of(SourceChange))


@given(document=st.dictionaries(MEMBERS, JSON, max_size=4))
def test_any_document_is_read_or_refused_with_a_pointer_into_it(document: dict[str, Any]) -> None:
    try:
        columns = read_change(document).columns()
    except InvalidSourceError as refused:
        pointer = str(refused.fields["field"])
        assert pointer.split("/")[1] in document
    else:
        assert CHANGE_SCHEMA.is_valid(document) or "configuration" in document, "what is accepted is described"
        assert len(columns) == len(document)


@given(name=st.sampled_from(sorted(EXACT)), value=JSON | st.integers(-2, 102) | st.sampled_from([KEY, "ab" * 32]))
def test_the_description_and_the_model_accept_the_same_values(name: str, value: Any) -> None:
    try:
        read_change({name: value})
    except InvalidSourceError:
        is_accepted = False
    else:
        is_accepted = True
    is_whole_float = isinstance(value, float) and value.is_integer()  # an integer to JSON Schema
    assert is_whole_float or CHANGE_SCHEMA.is_valid({name: value}) is is_accepted


def _described(schema: Any, found: list[str]) -> None:
    if isinstance(schema, dict):
        found += [str(schema[key]) for key in ("title", "description") if isinstance(schema.get(key), str)]
        for value in schema.values():
            _described(value, found)
    elif isinstance(schema, list):
        for value in schema:
            _described(value, found)


@pytest.mark.parametrize("model", MODELS)
def test_descriptions_are_for_users_of_the_interface(model: type[BaseModel]) -> None:
    """No names of modules or classes, no reStructuredText, no private names."""
    texts: list[str] = []
    _described(schema_of(model), texts)
    for text in texts:
        assert not re.search(r"\b(node|protocols|storage|agents)\.[a-z_]+\b", text), text
        assert "``" not in text
        assert "Attributes:" not in text


def test_every_model_has_a_name_and_a_description_of_its_own() -> None:
    found: dict[str, Any] = {}
    for model in MODELS:
        schema = schema_of(model)
        for name, definition in {**schema.pop("$defs", {}), model.__name__: schema}.items():
            assert found.setdefault(name, definition) == definition, f"two models are named {name}"
    assert all(definition.get("description") for definition in found.values())
    assert len({definition["description"] for definition in found.values()}) == len(found)


@pytest.mark.parametrize("model", SETTINGS.values())
def test_every_setting_of_a_source_is_described(model: type[BaseModel]) -> None:
    schema = schema_of(model)
    for each in (schema, *schema.get("$defs", {}).values()):
        assert all(member.get("description") for member in each["properties"].values())


@pytest.mark.parametrize("model", [SourceInput, SourceChange])
def test_a_configuration_is_described_by_the_settings_of_each_type(model: type[BaseModel]) -> None:
    schema = schema_of(model)
    names = {each["$ref"].rpartition("/")[2] for each in schema["properties"]["configuration"]["anyOf"]}
    assert names == {settings.__name__ for settings in SETTINGS.values()}
    assert names <= set(schema["$defs"])
    assert set(documents.SOURCE_TYPES) == set(SETTINGS)


async def _answers(node: Running) -> list[tuple[type[BaseModel], Any]]:
    assert (await node.source(sourceType="webhook", configuration={"scheme": "none"})).status_code == 201
    assert (await node.source("s2", sourceType="webhook")).status_code == 201
    stored = await node.client.post("/overlay/policies", json={"required": ["value"]})
    one = await node.client.get("/overlay/sources/s1")
    page = await node.client.get("/overlay/sources?limit=1")
    progress = await node.client.get("/overlay/sources/s1/progress")
    answers = ((StoredPolicy, stored), (SourceDocument, one), (SourcePage, page), (SourceProgress, progress))
    assert all(answer.is_success for _, answer in answers)
    return [(model, answer.json()) for model, answer in answers]


async def test_answers_are_as_described_to_the_last_member(postgres_url: str) -> None:
    async with running(postgres_url) as node:
        for model, document in await _answers(node):
            schema = schema_of(model)
            jsonschema_rs.validator_for(schema).validate(document)
            assert set(document) == set(schema["properties"]), model.__name__


async def test_a_page_names_the_next_one_until_the_last(postgres_url: str) -> None:
    async with running(postgres_url) as node:
        for number in range(5):
            await node.source(f"s{number}")
        found, after = [], ""
        for _ in range(4):
            page = (await node.client.get(f"/overlay/sources?limit=2&after={after}")).json()
            found += [source["sourceId"] for source in page["sources"]]
            after = page["nextAfter"] or ""
            if not after:
                break
        assert found == [f"s{number}" for number in range(5)]
        assert after == ""

"""Errors about documents: where, what was found, what is allowed."""

from typing import Annotated, Any, Literal

import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

from node.runtime.document_models import (
    IS_PRINTABLE,
    PRINTABLE,
    DocumentModel,
    FieldProblem,
    optional_member,
    read_document,
)


class RefusedError(Exception):
    def __init__(self, problem: FieldProblem) -> None:
        super().__init__(str(problem))
        self.problem = problem


def even(value: int) -> int:
    if value % 2:
        raise ValueError("must be even")
    return value


class Part(DocumentModel):
    size: int = Field(1, ge=1, le=9)


class Whole(DocumentModel):
    """A document with a member of each kind."""

    kind: Literal["small", "large"]
    event_names: Annotated[list[str], Field(min_length=1, max_length=3)] | None = None
    is_open: bool = False
    ratio: float = Field(0.5, ge=0, le=1)
    word: str = Field("a", min_length=1, max_length=4)
    part: Part = Field(default_factory=lambda: Part.model_validate({}))
    parts: list[Part] = Field(default_factory=list, max_length=2)
    count: Annotated[int, AfterValidator(even)] = 0
    secret: str = optional_member(pattern="^s")


PROBLEMS: tuple[tuple[dict[str, Any], str, str], ...] = (
    ({}, "/kind", "is missing"),
    ({"kind": "huge"}, "/kind", "must be one of small, large, found 'huge'"),
    ({"kind": None}, "/kind", "must be one of small, large, found null"),
    ({"eventNames": []}, "/eventNames", "must be an array of 1 to 3 strings, or null, found an array of 0 items"),
    (
        {"eventNames": "a"},
        "/eventNames",
        "must be an array of 1 to 3 strings, or null, found a string of 1 character",
    ),
    ({"eventNames": ["a", 7]}, "/eventNames/1", "must be a string, found 7"),
    ({"isOpen": "true"}, "/isOpen", "must be true or false, found a string of 4 characters"),
    ({"isOpen": 1}, "/isOpen", "must be true or false, found 1"),
    ({"ratio": 1.5}, "/ratio", "must be a number of 0 to 1, found 1.5"),
    ({"word": ""}, "/word", "must be a string of 1 to 4 characters, found a string of 0 characters"),
    ({"word": {}}, "/word", "must be a string of 1 to 4 characters, found an object"),
    ({"part": []}, "/part", "must be an object, found an array of 0 items"),
    ({"part": {"size": 10}}, "/part/size", "must be an integer of 1 to 9, found 10"),
    ({"part": {"size": True}}, "/part/size", "must be an integer of 1 to 9, found true"),
    ({"part": {"other": 1}}, "/part/other", "unknown member"),
    ({"parts": [{}, {"size": 0}]}, "/parts/1/size", "must be an integer of 1 to 9, found 0"),
    ({"parts": [{}] * 3}, "/parts", "must be an array of at most 2 items, found an array of 3 items"),
    ({"count": 3}, "/count", "must be even"),
    ({"event_names": ["a"]}, "/event_names", "unknown member"),
    ({"a/b~c": 1}, "/a~1b~0c", "unknown member"),
)


class Choice(DocumentModel):
    """Strings without secrets, one of them a choice by its pattern."""

    shows_strings = True
    status: str = Field("any", pattern="^(any|pending|certified)$")


def test_strings_without_secrets_are_shown_and_choices_are_listed() -> None:
    with pytest.raises(RefusedError) as refused:
        read_document(Choice, {"status": "good"}, RefusedError)
    assert refused.value.problem.reason == "must be one of any, pending, certified, found 'good'"


@pytest.mark.parametrize(("document", "pointer", "reason"), PROBLEMS)
def test_a_problem_names_the_field_what_was_found_and_what_is_allowed(
    document: dict[str, Any], pointer: str, reason: str
) -> None:
    whole = document if pointer == "/kind" else {"kind": "small", **document}
    with pytest.raises(RefusedError) as refused:
        read_document(Whole, whole, RefusedError)
    assert refused.value.problem.pointer == pointer
    assert refused.value.problem.reason == reason
    assert refused.value.problem.remedy


def test_unknown_members_are_answered_with_those_there_are() -> None:
    with pytest.raises(RefusedError) as refused:
        read_document(Whole, {"kind": "small", "part": {"sise": 1}}, RefusedError, pointer="/outer")
    assert refused.value.problem == FieldProblem(
        pointer="/outer/part/sise", reason="unknown member", remedy="allowed members are size"
    )


def test_what_may_be_secret_is_not_repeated() -> None:
    with pytest.raises(RefusedError) as refused:
        read_document(Whole, {"kind": "small", "secret": "hunter2"}, RefusedError)
    assert "hunter2" not in f"{refused.value}{refused.value.problem}"


def test_what_is_right_is_read_and_cannot_be_changed() -> None:
    read = read_document(Whole, {"kind": "large", "eventNames": ["a"], "part": {"size": 3}}, RefusedError)
    assert (read.kind, read.event_names, read.part.size) == ("large", ["a"], 3)
    assert "secret" not in read.model_fields_set
    with pytest.raises(ValueError, match="frozen"):
        read.kind = "small"


def test_members_that_may_be_left_out_have_no_default_in_the_schema() -> None:
    properties = Whole.model_json_schema(by_alias=True)["properties"]
    assert "default" not in properties["secret"]
    assert properties["isOpen"]["default"] is False


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
names = st.sampled_from(["kind", "eventNames", "isOpen", "ratio", "word", "part", "parts", "count"]) | st.text()


@given(st.dictionaries(names, json_values, max_size=5))
def test_whatever_is_sent_is_read_or_refused_in_bounded_words(document: dict[str, Any]) -> None:
    try:
        read_document(Whole, document, RefusedError)
    except RefusedError as refused:
        problem = refused.problem
        assert problem.pointer.startswith("/")
        assert len(problem.pointer) <= 200
        assert 0 < len(problem.reason) <= 400
        assert problem.remedy


PRINTABLE_SCHEMA = jsonschema_rs.validator_for({"type": "string", "pattern": PRINTABLE})
ASSIGNED = st.characters(exclude_categories=("Cs", "Cn"))  # of what is not assigned, versions of Unicode differ


@given(st.text(ASSIGNED, max_size=8) | st.text(" \t\u00a0\u2028a", max_size=4))
def test_what_is_printable_is_what_its_pattern_describes(text: str) -> None:
    is_printable = text.isprintable() and bool(text.strip())
    assert PRINTABLE_SCHEMA.is_valid(text) == is_printable
    try:
        TypeAdapter(Annotated[str, IS_PRINTABLE]).validate_python(text)
    except ValidationError:
        assert not is_printable
    else:
        assert is_printable

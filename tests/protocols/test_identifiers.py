"""Ids against their definitions, computed here by hand."""

import hashlib
import json

import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from protocols.identifiers import (
    content_event_id,
    content_hash,
    event_id,
    record_hash,
    record_line,
    version_id,
)

TEXT = st.text(st.characters(exclude_categories=["Cs"]))


def sha256(value: object) -> str:
    return hashlib.sha256(rfc8785.dumps(value)).hexdigest()  # type: ignore[arg-type]


@given(TEXT, TEXT, TEXT)
def test_event_id_with_an_external_id(network: str, source: str, external: str) -> None:
    assert event_id(network, source, external) == "event_" + sha256([network, source, "external", external])


@given(TEXT, st.none() | TEXT, st.dictionaries(TEXT, st.floats(allow_nan=False, allow_infinity=False)))
def test_event_id_from_content(kind: str, timestamp: str | None, data: dict[str, float]) -> None:
    content = sha256({"data": data, "eventType": kind, "timestamp": timestamp})
    made = content_event_id("n", "s", data=data, event_type=kind, timestamp=timestamp)
    assert made == "event_" + sha256(["n", "s", "content", content])


def test_names_cannot_be_shifted_between_fields() -> None:
    assert event_id("a", 'b","c', "d") != event_id("a", "b", 'c","d')
    assert event_id("n", "s", "x") != event_id("n", "s2", "x")


def test_version_id() -> None:
    event, content = event_id("n", "s", "x"), content_hash(b"{}")
    assert content == "sha256:" + hashlib.sha256(b"{}").hexdigest()
    assert version_id(event, content, None) == "ver_" + sha256([event, content, None])
    assert version_id(event, content, "ab" * 32) == "ver_" + sha256([event, content, "ab" * 32])


def test_record() -> None:
    line = record_line(data={"b": 1.0, "a": "\n"}, event_type="t", external_id=None, previous=None, timestamp="z")
    assert line == b'{"data":{"a":"\\n","b":1},"eventType":"t","externalId":null,"previous":null,"timestamp":"z"}'
    assert json.loads(line)["timestamp"] == "z"
    assert record_hash(line) == hashlib.sha256(b"\0" + line).hexdigest()

"""Ids against their definitions, computed here by hand."""

import hashlib
import json

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from protocols import codec
from protocols.identifiers import (
    batch_digest,
    batch_id,
    batch_of,
    content_event_id,
    content_hash,
    event_id,
    job_id,
    record_hash,
    record_line,
    version_id,
)
from protocols.roles import Role
from tests.network_of_keys import certified

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


@given(st.binary(max_size=100))
def test_batch_ids_and_their_digests(manifest: bytes) -> None:
    batch = batch_id(manifest)
    assert batch_digest(batch) == hashlib.sha256(manifest).digest()
    assert batch_of(batch_digest(batch)) == batch


@pytest.mark.parametrize(
    "text",
    ["", "batch_", "batch_1", "batch_" + "0" * 63, "batch_" + "0" * 65, "batch_" + "A" * 64, "event_" + "0" * 64],
)
def test_what_is_not_a_batch_id_has_no_digest(text: str) -> None:
    with pytest.raises(ValueError, match="batch_ and 64 lower-case hex digits"):
        batch_digest(text)


def test_the_id_of_a_batch_is_that_of_its_manifest() -> None:
    manifest = certified().manifest.message
    assert manifest.batch_id == batch_id(codec.encode(manifest))


def test_the_jobs_of_a_batch_have_ids_of_their_own() -> None:
    batch = batch_id(b"manifest")
    jobs = {job_id(role, batch) for role in Role}
    assert len(jobs) == len(Role)
    assert job_id(Role.NORMALIZE, batch) == f"job_normalize_{batch_digest(batch).hex()}"

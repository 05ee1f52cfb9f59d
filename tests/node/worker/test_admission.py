"""The door: what is refused as a whole, what is refused by index, and what the taken records are."""

import json
import pickle
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.roles import execute
from node.worker.parsing.admission import Admitted, InvalidRequestError, TooManyEventsError, admit, with_previous
from node.worker.parsing.flaws import DATA_DEPTH_MAX
from protocols.errors import ClientFault, InvalidJsonError
from protocols.identifiers import content_event_id, event_id, record_hash, record_line

NETWORK = "testnet"


def event(**changes: Any) -> dict[str, Any]:
    return {"externalId": "e1", "eventType": "reading", "timestamp": "2024-01-15T10:30:00Z", "data": 1, **changes}


def body(*events: Any, **changes: Any) -> bytes:
    return json.dumps({"sourceId": "s1", "events": list(events), **changes}).encode()


def taken(request: bytes, **limits: Any) -> Admitted:
    return admit(request, network=NETWORK, **limits)


def test_columns_hold_records_and_ids_as_the_protocol_defines_them() -> None:
    data = {"b": 1.0, "a": [1e21, "é", None]}
    admitted = taken(body(event(data=data), event(externalId=None, data=data)))
    lines = [
        record_line(
            data=data, event_type="reading", external_id=external, previous=None, timestamp=event()["timestamp"]
        )
        for external in ("e1", None)
    ]
    assert admitted.lines == lines
    assert admitted.hashes == [record_hash(line) for line in lines]
    assert admitted.event_ids == [
        event_id(NETWORK, "s1", "e1"),
        content_event_id(NETWORK, "s1", data=data, event_type="reading", timestamp=event()["timestamp"]),
    ]
    assert admitted.external_ids == ["e1", None]
    assert pickle.loads(pickle.dumps(admitted)) == admitted


WHOLE = [
    (b"", "invalid-json", "the body is not JSON: a value must stand here (line 1, column 1)"),
    (
        b"{",
        "invalid-json",
        "the body is not JSON: a member's name must be a string in double quotes (line 1, column 2)",
    ),
    (
        b'{"sourceId":"s1"} x',
        "invalid-json",
        "the body is not JSON: nothing may follow the value (line 1, column 19)",
    ),
    (b'{"sourceId":"\xff"}', "invalid-json", "the body is not UTF-8: byte 13 belongs to no character"),
    (b"[" * 100_000, "invalid-json", "the body is nested too deeply"),
    (b'{"sourceId":"a","sourceId":"b","events":[]}', "invalid-json", "the key 'sourceId' occurs twice"),
    (b'{"sourceId":NaN,"events":[1]}', "invalid-json", "/sourceId: NaN is not JSON"),
    (b"[]", "invalid-request", "the body must be an object, not an array"),
    (b"{}", "invalid-request", "/sourceId: must be a string of 1 to 128 characters, found nothing"),
    (b'{"sourceId":7}', "invalid-request", "/sourceId: must be a string of 1 to 128 characters, found a number"),
    (b'{"sourceId":"s1"}', "invalid-request", "/events: must be an array of 1 to 10000 events, found nothing"),
    (
        b'{"sourceId":"s1","events":[]}',
        "invalid-request",
        "/events: must be an array of 1 to 10000 events, found an array of 0",
    ),
    (body(event(), source="x"), "invalid-request", "/source: unknown member"),
    (
        body(event(), sourceId="s" * 129),
        "invalid-request",
        "/sourceId: must be a string of 1 to 128 characters, found a string of 129 characters",
    ),
    (body(event(), processingOptions=[]), "invalid-request", "/processingOptions: must be an object, not an array"),
    (
        body(event(), processingOptions={"level": "basic"}),
        "invalid-request",
        "/processingOptions/level: unknown member",
    ),
    (
        body(event(), processingOptions={"consensusLevel": "absolute"}),
        "invalid-request",
        "/processingOptions/consensusLevel: must be one of basic, enhanced, critical, found 'absolute'",
    ),
    (
        body(event(), processingOptions={"requireCertification": "yes"}),
        "invalid-request",
        "/processingOptions/requireCertification: must be true or false, found 'yes'",
    ),
    (
        body(event(), processingOptions={"distributionTopics": ["a,b"]}),
        "invalid-request",
        "/processingOptions/distributionTopics: "
        "each topic must be 1 to 128 printable characters without spaces and commas",
    ),
    (
        body(*[event()] * 10_001),
        "too-many-events",
        "/events: has 10001 events, at most 10000 are allowed in a request",
    ),
]


@pytest.mark.parametrize(("request_body", "code", "message"), WHOLE)
def test_a_request_that_cannot_be_read_is_refused_whole(request_body: bytes, code: str, message: str) -> None:
    with pytest.raises(ClientFault) as caught:
        taken(request_body)
    assert caught.value.code == code
    assert str(caught.value) == message
    assert caught.value.fields["remedy"]


SINGLE: list[tuple[bytes, str, str]] = [
    (b"7", "", "the event must be an object, not a number"),
    (b'{"data":1}', "/eventType", "is missing"),
    (b'{"eventType":1,"data":1}', "/eventType", "must be a string, not a number"),
    (b'{"eventType":"","data":1}', "/eventType", "has 0 characters, 1 to 128 are allowed"),
    (b'{"eventType":"a\\u0000","data":1}', "/eventType", "contains the character U+0000"),
    (b'{"eventType":"a"}', "/data", "is missing"),
    (b'{"eventType":"a","data":1,"dat":2}', "/dat", "unknown member"),
    (b'{"eventType":"a","data":1,"externalId":{}}', "/externalId", "must be a string, not an object"),
    (
        b'{"eventType":"a","data":1,"externalId":"%b"}' % (b"x" * 513),
        "/externalId",
        "has 513 characters, 1 to 512 are allowed",
    ),
    (b'{"eventType":"a","data":1,"timestamp":"yesterday"}', "/timestamp", "must be an RFC 3339 time"),
    (b'{"eventType":"a","data":1,"timestamp":"2023-02-29T00:00:00Z"}', "/timestamp", "must be an RFC 3339 time"),
    (b'{"eventType":"a","data":1,"timestamp":1700000000}', "/timestamp", "must be an RFC 3339 time"),
    (b'{"eventType":"a","data":{"x":[NaN]}}', "/data/x/0", "NaN is not JSON"),
    (b'{"eventType":"a","data":-Infinity}', "/data", "-Infinity is not JSON"),
    (b'{"eventType":"a","data":1e400}', "/data", "1e400 is beyond the range of a double"),
    (
        b'{"eventType":"a","data":9007199254740992}',
        "/data",
        "an integer beyond 2^53 - 1: send it as a string (at /)",
    ),
    (b'{"eventType":"a","data":{"k":1,"k":2}}', "/data", "the key 'k' occurs twice"),
    (b'{"eventType":"a","data":"\\ud800"}', "/data", "contains half of a surrogate pair"),
    (b'{"eventType":"a","data":{"\\udfff":1}}', "/data", "a key contains half of a surrogate pair"),
    (b'{"eventType":"a","data":"\\u0000"}', "/data", "contains the character U+0000"),
    (
        b'{"eventType":"a","data":%b}' % (b"[" * 61 + b"]" * 61),
        "/data" + "/0" * 60,
        "is nested deeper than 60 levels",
    ),
    (
        b'{"eventType":"a","data":%b}' % (b"[" * 300 + b"]" * 300),
        "/data" + "/0" * 60,
        "is nested deeper than 61 levels",
    ),
]


@pytest.mark.parametrize(("bad", "field", "reason"), SINGLE)
def test_one_bad_event_is_rejected_and_the_others_are_admitted(bad: bytes, field: str, reason: str) -> None:
    good = orjson.dumps(event())
    admitted = taken(b'{"sourceId":"s1","events":[%b,%b,%b]}' % (good, bad, good))
    assert admitted.indexes == [0, 2]
    assert len(admitted.lines) == 2
    (rejection,) = admitted.rejections
    assert (rejection.index, rejection.field, rejection.reason) == (1, field, reason)
    assert rejection.remedy
    assert admitted.total == 3


def test_an_escaped_backslash_before_u0000_is_plain_text() -> None:
    assert not taken(body(event(data="\\u0000"))).rejections


def test_a_rejection_names_the_external_id_where_there_is_a_usable_one() -> None:
    admitted = taken(body(event(timestamp="never"), event(externalId="x" * 600)))
    assert [rejection.external_id for rejection in admitted.rejections] == ["e1", None]


def test_an_event_over_the_size_limit_is_rejected_by_its_canonical_size() -> None:
    admitted = taken(body(event(data="x" * 2_000), event()), event_bytes_max=1_000)
    assert [rejection.reason for rejection in admitted.rejections] == [
        "the record has 2102 bytes, at most 1000 are allowed"
    ]


def test_options_are_read() -> None:
    options = {"requireCertification": True, "distributionTopics": ["b", "a", "b"], "consensusLevel": "critical"}
    admitted = taken(body(event(), processingOptions=options))
    assert (admitted.level, admitted.requires_certification, admitted.topics) == ("critical", True, ("a", "b"))
    plain = taken(body(event()))
    assert (plain.level, plain.requires_certification, plain.topics) == (None, None, None)


@pytest.mark.parametrize("depth", [1, DATA_DEPTH_MAX - 1, DATA_DEPTH_MAX])
def test_agents_can_read_what_is_admitted(depth: int) -> None:
    nested: Any = "x"
    for _ in range(depth):
        nested = [nested]
    admitted = taken(body(event(data=nested)))
    output = execute(network=NETWORK, source_id="s1", payload=admitted.lines[0], policy=b"{}", context=b"{}")
    assert output.valid == 1


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(st.lists(json_values, min_size=1, max_size=4), st.booleans())
def test_every_event_is_either_taken_as_the_agents_take_it_or_rejected(values: list[Any], escaped: bool) -> None:
    """Whatever the reader (fast or lenient) and the shortcuts, what comes out is in record form."""
    request = {"sourceId": "s1", "events": [event(externalId=str(i), data=v) for i, v in enumerate(values)]}
    raw = json.dumps(request, ensure_ascii=escaped).encode("utf-8", "surrogatepass")
    try:
        admitted = taken(raw)
    except InvalidJsonError:
        assert not escaped, "only broken UTF-8 fails the whole request here"
        return
    assert sorted([*admitted.indexes, *(rejection.index for rejection in admitted.rejections)]) == list(
        range(len(values))
    )
    if admitted.lines:
        output = execute(
            network=NETWORK, source_id="s1", payload=b"\n".join(admitted.lines), policy=b"{}", context=b"{}"
        )
        ids = [orjson.loads(leaf)["eventId"] for leaf in output.leaves.split(b"\n")]
        assert ids == admitted.event_ids


@given(st.binary(max_size=200))
def test_garbage_is_refused_and_nothing_else_happens(garbage: bytes) -> None:
    with pytest.raises((InvalidJsonError, InvalidRequestError, TooManyEventsError)):
        taken(garbage)


def test_a_later_version_names_the_one_before() -> None:
    """The data may look like the place where ``previous`` stands."""
    trap = '","previous":null,"timestamp":'
    admitted = taken(body(event(data={"x": trap, "y": ',"previous":null,"timestamp":null}'})))
    previous = "ab" * 32
    expected = record_line(
        data={"x": trap, "y": ',"previous":null,"timestamp":null}'},
        event_type="reading",
        external_id="e1",
        previous=previous,
        timestamp=event()["timestamp"],
    )
    assert with_previous(admitted.lines[0], previous) == expected

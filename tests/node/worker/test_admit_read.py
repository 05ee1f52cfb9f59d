"""Events that the node reads itself: admitted as if they were posted, each by itself."""

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.worker.parsing.admission import InvalidRequestError, TooManyEventsError, admit
from node.worker.parsing.bodies import RawEvent, admit_read
from protocols.limits import EVENTS_PER_REQUEST_MAX

BYTES_MAX = 1_000
DATA = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


def raw(data: bytes, **members: Any) -> RawEvent:
    return RawEvent(data=data, **{"event_type": "t", **members})


def read(*events: RawEvent, source_id: str = "s") -> Any:
    return admit_read(events, source_id=source_id, network="n", event_bytes_max=BYTES_MAX)


@given(
    st.lists(
        st.tuples(
            DATA,
            st.sampled_from(["t", "", "x" * 129]),
            st.sampled_from([None, "a", "b", "", "x" * 513]),
            st.sampled_from([None, "2024-01-01T00:00:00Z", "yesterday"]),
        ),
        min_size=1,
        max_size=5,
    )
)
def test_an_event_that_is_read_is_admitted_as_if_it_was_posted(events: list[tuple[Any, str, Any, Any]]) -> None:
    posted = [
        {"data": data, "eventType": kind, "externalId": external, "timestamp": time}
        for data, kind, external, time in events
    ]
    body = json.dumps({"sourceId": "s", "events": posted}).encode()
    found = read(
        *(
            raw(json.dumps(data).encode(), event_type=kind, external_id=external, timestamp=time)
            for data, kind, external, time in events
        )
    )
    assert found == admit(body, network="n", event_bytes_max=BYTES_MAX)


@pytest.mark.parametrize(
    ("data", "field", "reason"),
    [
        (b"", "/data", "is not JSON"),
        (b"nope", "/data", "is not JSON"),
        (b"1 2", "/data", "is not JSON"),
        (b'1,"data":2', "/data", "is not JSON"),
        (b"1},{", "/data", "is not JSON"),
        (b"\xef\xbb\xbf1", "/data", "is not JSON"),
        (b'"\xff"', "/data", "is not JSON"),
        (b"NaN", "/data", "NaN is not JSON"),
        (b'{"v": [1, 1e400]}', "/data/v/1", "1e400 is beyond the range of a double"),
        (b'{"v": 12345678901234567890}', "/data/v", "beyond 2^53 - 1"),
        (b'{"a": 1, "a": 2}', "/data", "the key 'a' occurs twice"),
        (b'"\\ud800"', "/data", "is not JSON"),
        (b'"\\u0000"', "/data", "contains the character U+0000"),
        (b"[" * 100 + b"]" * 100, "/data" + "/0" * 60, "is nested deeper than"),
        (b'"' + b"x" * BYTES_MAX + b'"', "", f"at most {BYTES_MAX} are allowed"),
        (b'"' + b"x" * 5 * BYTES_MAX + b'"', "/data", f"has {5 * BYTES_MAX + 2} bytes"),
    ],
)
def test_one_that_cannot_be_taken_is_rejected_alone(data: bytes, field: str, reason: str) -> None:
    found = read(raw(b"1", external_id="a"), raw(data, external_id="b"), raw(b"[]", external_id="c"))
    assert (found.indexes, found.external_ids, found.total) == ([0, 2], ["a", "c"], 3)
    (rejection,) = found.rejections
    assert (rejection.index, rejection.external_id, rejection.field) == (1, "b", field)
    assert reason in rejection.reason
    assert rejection.remedy


def test_each_is_read_as_strictly_whatever_the_others_are() -> None:
    """Numbers keep their exact values where another event had to be read leniently."""
    numbers = [b"0.1", b"1e-7", b"123456789.25", b"9007199254740991", b"-0.0"]
    alone = [read(raw(number, external_id="e")).lines[0] for number in numbers]
    beside = read(*(raw(number, external_id="e") for number in [*numbers, b"NaN"])).lines
    assert beside == alone
    assert [orjson.loads(line)["data"] for line in alone] == [0.1, 1e-7, 123456789.25, 9007199254740991, 0]


def test_events_without_external_ids_are_known_by_their_content() -> None:
    one, again, other = read(raw(b'{"a": 1, "b": 2}'), raw(b'{"b":2,"a":1.0}'), raw(b'{"a":1,"b":3}')).event_ids
    assert one == again != other


def test_the_bounds_of_a_request_hold() -> None:
    events = [raw(b"1")] * (EVENTS_PER_REQUEST_MAX + 1)
    with pytest.raises(TooManyEventsError):
        read(*events)
    assert len(read(*events[1:]).lines) == EVENTS_PER_REQUEST_MAX
    for source_id in ("", "x" * 129, "a\x00"):
        with pytest.raises(InvalidRequestError, match="/sourceId: must be a string of 1 to 128 characters"):
            read(raw(b"1"), source_id=source_id)
    with pytest.raises(InvalidRequestError, match="/events: must be an array of 1 to 10000 events"):
        read()

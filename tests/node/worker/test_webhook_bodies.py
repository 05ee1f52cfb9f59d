"""Bodies of webhook deliveries: documents, forms, arrays within them, and what is refused."""

import gzip
import json
from typing import Any
from urllib.parse import urlencode

import attrs
import pytest

from node.worker.parsing.admission import InvalidRequestError, TooManyEventsError
from node.worker.parsing.bodies import admit_read
from node.worker.parsing.shaping import Shape
from node.worker.parsing.unpacking import BodyTooLargeError
from node.worker.parsing.webhook_bodies import FORM_TYPE, ReceivedDelivery, document_of, elements, read_delivery
from protocols.limits import EVENTS_PER_REQUEST_MAX, EXTERNAL_ID_CHARS_MAX

BYTES_MAX = 1_000_000


def delivery(body: bytes, **members: Any) -> ReceivedDelivery:
    return ReceivedDelivery(body=body, **members)


def form(**fields: str) -> ReceivedDelivery:
    return delivery(urlencode(fields).encode(), media_type=FORM_TYPE)


def test_a_delivery_is_one_event_to_the_byte() -> None:
    body = b'{ "b": 1.50,\n "a": [] }'
    (event,) = read_delivery(delivery(body), BYTES_MAX)
    assert (event.data, event.event_type, event.external_id) == (body, "webhook", None)


def test_type_and_id_come_from_headers_or_paths() -> None:
    shape = Shape(event_type_header="X-Event", external_id_header="X-Id", timestamp_path="/at")
    headers = {"x-event": "push", "x-id": "42"}
    (event,) = read_delivery(delivery(b'{"at":1}', shape=shape, headers=headers), BYTES_MAX)
    assert (event.event_type, event.external_id, event.timestamp) == ("push", "42", "1970-01-01T00:00:01.000Z")


def test_events_of_an_array_are_named_after_the_delivery() -> None:
    shape = Shape(event_type_path="/kind", external_id_header="X-Id")
    body = b'{"events": [{"kind": "a"}, 2 , {"kind":"b", "n":1.0}]}'
    found = read_delivery(delivery(body, shape=shape, headers={"x-id": "42"}, events_path="/events"), BYTES_MAX)
    assert [event.data for event in found] == [b'{"kind": "a"}', b"2", b'{"kind":"b", "n":1.0}']
    assert [event.event_type for event in found] == ["a", "webhook", "b"]
    assert [event.external_id for event in found] == ["42/0", "42/1", "42/2"]
    unnamed = read_delivery(delivery(body, shape=shape, events_path="/events"), BYTES_MAX)
    assert [event.external_id for event in unnamed] == [None] * 3


def test_a_long_name_leaves_room_for_the_number() -> None:
    shape = Shape(external_id_header="X-Id")
    long = delivery(b"[1, 2]", shape=shape, headers={"x-id": "d" * EXTERNAL_ID_CHARS_MAX}, events_path="")
    found = read_delivery(long, BYTES_MAX)
    assert all(len(event.external_id or "") <= EXTERNAL_ID_CHARS_MAX for event in found)
    assert len({event.external_id for event in found}) == 2
    assert not admit_read(found, source_id="s", network="n", event_bytes_max=1_000).rejections


@pytest.mark.parametrize(
    ("pointer", "expected"),
    [
        ("", None),
        ("/a", [b"1", b"[2, [3]]"]),
        ("/a/1", [b"2", b"[3]"]),
        ("/a/1/1", [b"3"]),
        ("/x~1y/~0", []),
        ("/last", [b'"]"', b'"\\"}"', b"{}"]),
        ("/a/7", None),
        ("/a/b", None),
        ("/none", None),
        ("/text/0", None),
        ("/text", None),
    ],
)
def test_an_array_is_found_by_its_pointer(pointer: str, expected: list[bytes] | None) -> None:
    document = b' { "text": "[1]" , "a" : [ 1 , [2, [3]] ] , "x/y": {"~": [ ]}, "last": ["]", "\\"}", {}] } '
    if expected is None:
        with pytest.raises(InvalidRequestError, match="the body has no array at") as refused:
            elements(document, pointer)
        assert refused.value.fields["field"] == pointer
    else:
        assert elements(document, pointer) == expected


@pytest.mark.parametrize("document", [b"", b"[1,", b"[1]]", b'["\xff"]', b"[1] 2", b"[" * 5_000, b"nope"])
def test_what_is_not_json_has_no_elements(document: bytes) -> None:
    with pytest.raises(InvalidRequestError, match="the body is not JSON"):
        elements(document, "")


def test_too_many_elements_are_refused_by_admission() -> None:
    body = json.dumps(list(range(EVENTS_PER_REQUEST_MAX + 500))).encode()
    found = read_delivery(delivery(body, events_path=""), BYTES_MAX)
    assert len(found) == EVENTS_PER_REQUEST_MAX + 1, "no more are made than show that there are too many"
    with pytest.raises(TooManyEventsError):
        admit_read(found, source_id="s", network="n", event_bytes_max=1_000)


def test_a_form_is_its_payload_or_its_fields() -> None:
    assert document_of(form(payload='{"a": 1}', other="x"), BYTES_MAX) == b'{"a": 1}'
    assert json.loads(document_of(form(a="1", b="ž"), BYTES_MAX)) == {"a": "1", "b": "ž"}
    twice = delivery(b"a=1&a=2&b=", media_type=FORM_TYPE)
    assert json.loads(document_of(twice, BYTES_MAX)) == {"a": "1", "b": ""}
    plain = attrs.evolve(twice, media_type="text/plain")
    assert document_of(plain, BYTES_MAX) == b"a=1&a=2&b="


@pytest.mark.parametrize("body", [b"a=%ff", b"\xff=1", b"&".join(b"a%d=1" % n for n in range(300))])
def test_a_form_that_cannot_be_read_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequestError, match="not a URL-encoded form"):
        document_of(delivery(body, media_type=FORM_TYPE), BYTES_MAX)


def test_the_bound_is_on_the_decompressed_body() -> None:
    body = b'"' + b"x" * 10_000 + b'"'
    packed = delivery(gzip.compress(body), coding="gzip")
    assert document_of(packed, len(body)) == body
    with pytest.raises(BodyTooLargeError, match="the decompressed body has more than 10001 bytes"):
        document_of(packed, len(body) - 1)
    with pytest.raises(InvalidRequestError, match="not valid gzip"):
        document_of(attrs.evolve(packed, body=packed.body[:-3]), BYTES_MAX)

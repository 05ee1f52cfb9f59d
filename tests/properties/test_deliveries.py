"""Elements of an array are found as they were written, and whatever else comes is refused in words."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.worker.parsing.admission import InvalidRequestError
from node.worker.parsing.shaping import Shape
from node.worker.parsing.webhook_bodies import ReceivedDelivery, elements, read_delivery

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=10,
)
KEYS = st.text(max_size=4)


@given(st.lists(VALUES, max_size=5), KEYS, KEYS, st.dictionaries(KEYS, VALUES, max_size=3), st.integers(0, 3))
def test_elements_are_found_behind_any_names(
    items: list[Any], outer: str, inner: str, others: dict[str, Any], indent: int
) -> None:
    document = json.dumps({**others, outer: [0, {**others, inner: items}]}, indent=indent or None).encode()
    pointer = "/{}/1/{}".format(*(name.replace("~", "~0").replace("/", "~1") for name in (outer, inner)))
    assert [json.loads(each) for each in elements(document, pointer)] == items


@given(st.binary(max_size=40) | st.text(alphabet='{}[]":,0e-\\ \n', max_size=20).map(str.encode))
def test_what_is_hostile_is_refused_in_words(body: bytes) -> None:
    for pointer in ("", "/0", "/a"):
        try:
            found = elements(body, pointer)
        except InvalidRequestError:
            continue
        assert isinstance(json.loads(body), list | dict)
        assert all(body.find(each) >= 0 for each in found)


@pytest.mark.parametrize("body", [b"payload=%FF", b"\xff=1", b"payload=%ED%A0%80", b"&".join([b"a=1"] * 300)])
def test_forms_that_are_none(body: bytes) -> None:
    delivery = ReceivedDelivery(body=body, media_type="application/x-www-form-urlencoded", shape=Shape())
    with pytest.raises(InvalidRequestError):
        read_delivery(delivery, 10_000)


def test_a_form_without_a_payload_is_an_object_of_its_fields() -> None:
    delivery = ReceivedDelivery(body=b"command=%2Fgo&text=a+b&text=c", media_type="application/x-www-form-urlencoded")
    (event,) = read_delivery(delivery, 10_000)
    assert json.loads(event.data) == {"command": "/go", "text": "a b"}

"""From messages of sources to events."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.worker.parsing.shaping import Shape, at, encoded, shaped


def test_headers_go_before_paths_and_both_before_the_connector_s_word() -> None:
    shape = Shape(event_type_header="X-Kind", event_type_path="/kind", external_id_path="/id", timestamp_path="/at/0")
    message = b'{"kind":"inside","id":7,"at":[1705314600]}'
    event = shaped(shape, message, headers={"x-kind": "outside"}, event_type="topic", external_id="offset-1")
    assert (event.event_type, event.external_id, event.timestamp) == ("outside", "7", "2024-01-15T10:30:00.000Z")
    event = shaped(shape, b"{}", headers={}, event_type="topic", external_id="offset-1", timestamp="t")
    assert (event.event_type, event.external_id, event.timestamp) == ("topic", "offset-1", "t")
    assert event.data == b"{}"


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        ("1705314600", "2024-01-15T10:30:00.000Z"),
        ("1705314600123", "2024-01-15T10:30:00.123Z"),
        ("1705314600.5", "2024-01-15T10:30:00.500Z"),
        ('"2024-01-15T10:30:00Z"', "2024-01-15T10:30:00Z"),
        ('"yesterday"', "yesterday"),
        ("-1", "-1"),
        ("1e300", "1e+300"),
        ("true", None),
        ("null", None),
    ],
)
def test_times_of_several_forms(sent: str, read: str | None) -> None:
    shape = Shape(timestamp_path="/t")
    message = b'{"t":%b}' % sent.encode()
    assert shaped(shape, message, headers={}, event_type="x", external_id=None).timestamp == read


def test_messages_that_are_no_json_become_strings_where_that_is_wanted() -> None:
    assert encoded(b"ON", "text") == b'"ON"'
    assert encoded(b"\xff\x00", "base64") == b'"/wA="'
    assert encoded(b"\xff", "text") == b"\xff", "no text: admission says so"


@given(
    st.recursive(
        st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_every_member_is_found_by_its_pointer(value: object) -> None:
    def look(inner: object, pointer: str) -> None:
        assert at(value, pointer) == inner
        if isinstance(inner, dict):
            for name, each in inner.items():
                look(each, pointer + "/" + name.replace("~", "~0").replace("/", "~1"))
        if isinstance(inner, list):
            for number, each in enumerate(inner):
                look(each, f"{pointer}/{number}")

    look(value, "")


@given(st.binary(max_size=64), st.sampled_from(["json", "text", "base64"]))
def test_no_message_is_too_odd(message: bytes, form: str) -> None:
    shape = Shape(event_type_path="/a", external_id_path="/b", timestamp_path="/c", format=form)  # type: ignore[arg-type]
    event = shaped(shape, message, headers={}, event_type="x", external_id=None)
    assert event.event_type

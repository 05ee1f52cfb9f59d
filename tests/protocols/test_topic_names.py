"""One rule of what a topic is, wherever topics come in."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from node.runtime.setting_types import Topic
from protocols.errors import ClientFault
from protocols.levels import Level
from protocols.limits import TOPIC_CHARS_MAX
from protocols.roles import Role
from protocols.templates import built_in, read_template
from protocols.topic_names import is_topic

GOOD = ["a", "gitdata.events.iot", "t" * TOPIC_CHARS_MAX, "météo", "a/b:c#*"]
BAD = ["", "t" * (TOPIC_CHARS_MAX + 1), "two words", "a,b", "line\n", "tab\t", "nul\0", "\u202e"]


@pytest.mark.parametrize("topic", GOOD)
def test_topics(topic: str) -> None:
    assert is_topic(topic)


@pytest.mark.parametrize("value", [*BAD, None, 1, b"bytes", ["a"]])
def test_what_is_not_a_topic(value: object) -> None:
    assert not is_topic(value)


def of_setting(topic: str) -> bool:
    try:
        TypeAdapter(Topic).validate_python(topic)
    except ValidationError:
        return False
    return True


def of_template(topic: str) -> bool:
    document = built_in(Role.NORMALIZE, Level.ENHANCED).document | {"overlayTopics": [topic]}
    try:
        read_template(document)
    except ClientFault:
        return False
    return True


@pytest.mark.parametrize("topic", GOOD + BAD)
def test_settings_and_templates_accept_the_same_topics(topic: str) -> None:
    """A comma in a setting was once a topic here and two topics there."""
    assert (of_setting(topic), of_template(topic)) == (is_topic(topic), is_topic(topic))


@given(left=st.sampled_from(GOOD[:4]), right=st.sampled_from(GOOD[:2]))
def test_a_list_of_topics_can_be_joined_by_commas(left: str, right: str) -> None:
    joined = f"{left},{right}"
    assert not is_topic(joined)
    assert all(is_topic(part) for part in joined.split(","))

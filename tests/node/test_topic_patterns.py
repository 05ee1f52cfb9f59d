"""Patterns of topics."""

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.topic_patterns import matches, matches_any

words = st.lists(st.sampled_from(["a", "b"]), min_size=1, max_size=5).map(".".join)
patterns = st.lists(st.sampled_from(["a", "b", "*", "#"]), min_size=1, max_size=5).map(".".join)


@pytest.mark.parametrize(
    ("pattern", "topic", "expected"),
    [
        ("weather.jfk", "weather.jfk", True),
        ("weather.jfk", "weather.jfk.wind", False),
        ("weather.*", "weather.jfk", True),
        ("weather.*", "weather", False),
        ("weather.*", "weather.jfk.wind", False),
        ("*.jfk", "weather.jfk", True),
        ("weather.#", "weather", True),
        ("weather.#", "weather.jfk.wind", True),
        ("#.wind", "weather.jfk.wind", True),
        ("#", "anything.at.all", True),
        ("weather.#.wind", "weather.wind", True),
        ("a.b", "a.bc", False),
        ("a.#b", "a.b", False),
    ],
)
def test_what_a_pattern_stands_for(pattern: str, topic: str, expected: bool) -> None:
    assert matches(pattern, topic) is expected


@given(patterns, words)
def test_as_an_expression_says_it(pattern: str, topic: str) -> None:
    one, many = "[^.]+\\.", "(?:[^.]+\\.)*"
    expression = "".join({"*": one, "#": many}.get(word, f"{word}\\.") for word in pattern.split("."))
    assert matches(pattern, topic) == bool(re.fullmatch(expression, topic + "."))


def test_many_wildcards_cost_no_more_than_their_number() -> None:
    assert not matches(".".join(["#"] * 60) + ".end", ".".join(["word"] * 60))


def test_one_topic_under_one_pattern_is_enough() -> None:
    for found in itertools.permutations(["x", "weather.jfk"]):
        assert matches_any(("orders", "weather.*"), found)
    assert not matches_any(("orders",), ())

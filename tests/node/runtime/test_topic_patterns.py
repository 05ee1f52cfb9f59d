"""Patterns over dotted names, against a matcher that is slow and obvious."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.runtime.topic_patterns import Patterns, is_pattern, matches

words = st.sampled_from(["a", "b", "", "a*", "#b"])
names = st.lists(words, min_size=1, max_size=6)
patterns = st.lists(st.one_of(words, st.sampled_from(["*", "#"])), min_size=1, max_size=6)


def obvious(pattern: Sequence[str], name: Sequence[str]) -> bool:
    if not pattern:
        return not name
    head, rest = pattern[0], pattern[1:]
    if head == "#":
        return any(obvious(rest, name[skipped:]) for skipped in range(len(name) + 1))
    return bool(name) and head in ("*", name[0]) and obvious(rest, name[1:])


@given(patterns, names)
def test_it_matches_what_the_obvious_matcher_matches(pattern: list[str], name: list[str]) -> None:
    assert matches(pattern, name) is obvious(pattern, name)


@given(st.lists(patterns, max_size=4), names)
def test_a_list_allows_what_any_of_its_items_does(items: list[list[str]], name: list[str]) -> None:
    found = Patterns(frozenset(map(".".join, items)))
    assert found.allow(".".join(name)) is any(obvious(item, name) for item in items)


@pytest.mark.parametrize(
    ("text", "is_one"), [("a.*", True), ("#", True), ("a.b", False), ("a*.b", False), ("a.#b", False), ("", False)]
)
def test_a_wildcard_is_a_whole_word(text: str, is_one: bool) -> None:
    assert is_pattern(text) is is_one


def test_many_wildcards_take_no_exponential_time() -> None:
    pattern, name = ["#", "a"] * 50 + ["b"], ["a"] * 500
    assert not matches(pattern, name)


def test_lists_of_the_same_items_are_equal_and_an_empty_one_allows_nothing() -> None:
    assert Patterns(frozenset({"a.*", "b"})) == Patterns(frozenset({"b", "a.*"}))
    assert not Patterns(frozenset()).allow("a")
    assert Patterns(frozenset({"a.*"})).allow_any(["b", "a.c"])

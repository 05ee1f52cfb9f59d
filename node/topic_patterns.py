"""Patterns of topics: words between dots, ``*`` for any one word, ``#`` for any number of them, none included."""

from collections.abc import Collection, Iterable
from typing import Final

ONE, ANY_NUMBER = "*", "#"
EVERYTHING: Final = (ANY_NUMBER,)


def matches(pattern: str, topic: str) -> bool:
    """Whether a topic is one that a pattern stands for; in time of the product of their words, whatever they are."""
    head, dot, tail = pattern.rpartition(".")
    if tail == ANY_NUMBER and ONE not in head and ANY_NUMBER not in head:
        return not dot or topic == head or topic.startswith(f"{head}.")
    wanted = pattern.split(".")
    if ANY_NUMBER not in wanted:
        words = topic.split(".")
        return len(words) == len(wanted) and all(map(_same, wanted, words))
    places = _beyond(wanted, {0})
    for word in topic.split("."):
        places = _beyond(wanted, {_next(wanted, place) for place in places if _takes(wanted, place, word)})
    return len(wanted) in places


def matches_any(patterns: Collection[str], topics: Iterable[str]) -> bool:
    """Whether one of the topics is one that one of the patterns stands for."""
    return any(matches(pattern, topic) for topic in topics for pattern in patterns)


def _same(wanted: str, word: str) -> bool:
    return wanted in (ONE, word)


def _takes(wanted: list[str], place: int, word: str) -> bool:
    return place < len(wanted) and wanted[place] in (ONE, ANY_NUMBER, word)


def _next(wanted: list[str], place: int) -> int:
    return place if wanted[place] == ANY_NUMBER else place + 1


def _beyond(wanted: list[str], places: set[int]) -> set[int]:
    """The places, and those behind each ``#`` that they stand at: it may stand for nothing."""
    found = set(places)
    for place in places:
        while place < len(wanted) and wanted[place] == ANY_NUMBER:
            place += 1
            found.add(place)
    return found

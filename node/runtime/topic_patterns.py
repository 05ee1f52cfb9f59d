"""Names of dot-separated words, and patterns for them, as in AMQP topic exchanges.

``*`` matches one word, ``#`` any number of words including none, anywhere in the pattern; a character is a wildcard
only where it is the whole word. Source: AMQP 0-9-1, section 3.1.3.3.
"""

from collections.abc import Iterable, Sequence
from typing import Final

import attrs

WILDCARDS: Final = frozenset("*#")


def is_pattern(text: str) -> bool:
    """Whether any of its words is a wildcard."""
    return not WILDCARDS.isdisjoint(text) and not WILDCARDS.isdisjoint(text.split("."))


def matches(pattern: Sequence[str], words: Sequence[str]) -> bool:
    """Compare word by word; at most ``len(pattern) * len(words)`` steps, whatever the pattern."""
    at = place = 0
    retry: tuple[int, int] | None = None  # after the last '#', and where it ends as far as tried
    while place < len(words):
        if at < len(pattern) and pattern[at] == "#":
            retry = (at + 1, place)
            at += 1
        elif at < len(pattern) and pattern[at] in ("*", words[place]):
            at, place = at + 1, place + 1
        elif retry is not None:
            retry = (retry[0], retry[1] + 1)
            at, place = retry
        else:
            return False
    return all(word == "#" for word in pattern[at:])


@attrs.frozen(cache_hash=True)
class Patterns:
    """A set of names and patterns to match names against."""

    items: frozenset[str]
    _exact: frozenset[str] = attrs.field(init=False, eq=False)
    _wild: tuple[tuple[str, ...], ...] = attrs.field(init=False, eq=False)

    def __attrs_post_init__(self) -> None:
        wild = sorted(filter(is_pattern, self.items))
        object.__setattr__(self, "_exact", self.items.difference(wild))
        object.__setattr__(self, "_wild", tuple(tuple(text.split(".")) for text in wild))

    def allow(self, name: str) -> bool:
        """Whether the name is listed, or matches a pattern."""
        if name in self._exact:
            return True
        words = name.split(".") if self._wild else ()
        return any(matches(pattern, words) for pattern in self._wild)

    def allow_any(self, names: Iterable[str]) -> bool:
        return any(map(self.allow, names))

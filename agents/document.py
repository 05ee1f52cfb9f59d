"""Strict reading of a policy document: every error names the place and what is allowed there.

Policies are read with this rather than with typed models, since an agent needs each error's JSON pointer, a stable
order of checks and no dependency beyond the standard library.
"""

from collections.abc import Callable, Iterator
from typing import Any, Final, NoReturn, TypeVar

import attrs

from agents.issues import json_type
from agents.paths import Segments, parse_path, pointer
from protocols.errors import InvalidPolicyError

T = TypeVar("T")

SHOWN_CHARS_MAX: Final = 60


@attrs.frozen
class DocumentNode:
    """A value of the document with its place in it, which errors name."""

    value: Any
    place: tuple[str | int, ...] = ()

    @property
    def pointer(self) -> str:
        return pointer(self.place)

    def refuse(self, reason: str) -> NoReturn:
        """Raise an ``InvalidPolicyError`` about this value."""
        raise InvalidPolicyError(f"{self.pointer or 'the policy'}: {reason}", path=self.pointer)

    def checked(self, make: Callable[[], T]) -> T:
        """Run a constructor whose ``ValueError`` is about this value."""
        try:
            return make()
        except ValueError as error:
            self.refuse(str(error))

    def object(self, *allowed: str) -> dict[str, Any]:
        """The value, an object with no other members than ``allowed``; any where none are given."""
        if not isinstance(self.value, dict):
            self.refuse(f"must be an object, not {json_type(self.value)}")
        for key in sorted(self.value):
            if allowed and key not in allowed:
                self.child(key).refuse(f"unknown member; allowed members are {', '.join(allowed)}")
        return self.value

    def child(self, key: str | int) -> "DocumentNode":
        value = self.value[key] if isinstance(key, int) else self.value.get(key)
        return DocumentNode(value, (*self.place, key))

    def maybe(self, key: str) -> "DocumentNode | None":
        return self.child(key) if key in self.value else None

    def items(self, key: str, count_max: int) -> Iterator["DocumentNode"]:
        """The elements of an optional array."""
        node = self.maybe(key)
        if node is None:
            return
        if not isinstance(node.value, list):
            node.refuse(f"must be an array, not {json_type(node.value)}")
        if len(node.value) > count_max:
            node.refuse(f"must have at most {count_max} elements, not {len(node.value)}")
        for index in range(len(node.value)):
            yield node.child(index)

    def text(self) -> str:
        if not isinstance(self.value, str):
            self.refuse(f"must be a string, not {json_type(self.value)}")
        return self.value

    def choice(self, *allowed: str) -> str:
        if self.value not in allowed:
            self.refuse(f"must be one of {', '.join(allowed)}, not {shown(self.value)}")
        return self.text()

    def flag(self) -> bool:
        if not isinstance(self.value, bool):
            self.refuse(f"must be true or false, not {json_type(self.value)}")
        return self.value

    def number(self) -> int | float:
        if isinstance(self.value, bool) or not isinstance(self.value, (int, float)):
            self.refuse(f"must be a number, not {json_type(self.value)}")
        return self.value

    def path(self) -> Segments:
        text = self.text()
        return self.checked(lambda: parse_path(text))

    def required(self, key: str) -> "DocumentNode":
        node = self.maybe(key)
        if node is None:
            self.refuse(f"the key {key!r} is missing")
        return node


def shown(value: Any) -> str:
    """A value as errors show it: a short string as it is, all else by its type."""
    return repr(value) if isinstance(value, str) and len(value) <= SHOWN_CHARS_MAX else json_type(value)

"""A JSON Schema of an object as one schema for each of its members, where it says no more than that."""

from collections.abc import Callable, Iterator
from typing import Any, Final

import attrs

from agents.schema import schema_validator

ANNOTATIONS: Final = frozenset({"$comment", "$schema", "default", "deprecated", "description", "examples", "title"})
DEFINITIONS: Final = frozenset({"$defs", "definitions"})
DIVISIBLE: Final = ANNOTATIONS | DEFINITIONS | {"additionalProperties", "properties", "required", "type"}
TYPES: Final[dict[str, frozenset[type]]] = {
    "string": frozenset({str}),
    "number": frozenset({int, float}),
    "integer": frozenset({int}),
    "boolean": frozenset({bool}),
    "null": frozenset({type(None)}),
    "array": frozenset({list}),
    "object": frozenset({dict}),
}


@attrs.frozen(kw_only=True)
class SchemaParts:
    """A schema by members.

    Attributes:
        members: The schema of each named member. required: those that must be present.
        closed: Other members than those named are refused.
    """

    members: dict[str, Any]
    required: frozenset[str]
    closed: bool
    definitions: dict[str, Any]

    def accepts(self, name: str) -> Callable[[Any], bool]:
        """The check of one member's value."""
        part = self.members[name]
        return schema_validator({**self.definitions, "allOf": [part]}).is_valid


def divided(document: Any) -> SchemaParts | None:
    """The parts of a schema over objects; None where it is more than its parts."""
    if type(document) is not dict or not DIVISIBLE.issuperset(document):
        return None
    kinds = document.get("type", "object")
    if "object" not in (kinds if isinstance(kinds, list) else [kinds]):
        return None
    if type(document.get("additionalProperties", True)) is not bool:
        return None
    if not all(reference.startswith(("#/$defs/", "#/definitions/")) for reference in references(document)):
        return None
    return SchemaParts(
        members=document.get("properties", {}),
        required=frozenset(document.get("required", ())),
        closed=document.get("additionalProperties") is False,
        definitions={name: document[name] for name in DEFINITIONS if name in document},
    )


def references(value: Any) -> Iterator[str]:
    """All that is, or could be, a reference in a schema."""
    if isinstance(value, dict):
        for key, item in value.items():
            if key == "$ref" and isinstance(item, str):
                yield item
            yield from references(item)
    elif isinstance(value, list):
        for item in value:
            yield from references(item)


def plain_types(part: Any) -> frozenset[type] | None:
    """The Python types of the values that a schema accepts, if it says no more; None: more than their type matters.

    A float is no integer here: integral floats are not what events hold.
    """
    if part is True:
        return frozenset().union(*TYPES.values())
    if type(part) is not dict or not (ANNOTATIONS | {"type"}).issuperset(part) or "type" not in part:
        return None
    kinds = part["type"] if isinstance(part["type"], list) else [part["type"]]
    return frozenset().union(*(TYPES[kind] for kind in kinds))


def possible_types(part: Any) -> frozenset[type]:
    """Python types beyond which a schema accepts nothing."""
    kinds = part.get("type") if type(part) is dict else None
    if kinds is None:
        return frozenset().union(*TYPES.values())
    allowed = frozenset().union(*(TYPES[kind] for kind in (kinds if isinstance(kinds, list) else [kinds])))
    return allowed | {float} if int in allowed else allowed

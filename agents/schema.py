"""JSON Schema 2020-12 in a policy: the part of it that is allowed, so that checking an event has a bounded cost.

Patterns run on a linear-time engine of bounded size, nothing is fetched, and references neither leave the
document nor go in circles: unfolded, a schema has at most ``UNFOLDED_MAX`` subschemas.
"""

from collections.abc import Iterator
from typing import Any, Final

import jsonschema_rs

from agents.document import DocumentNode
from agents.issues import Issue, expectation, issue
from agents.paths import ABSENT, pointer

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
UNFOLDED_MAX: Final = 2_000
REGEX_BYTES_MAX: Final = 1_048_576
REFUSED: Final = ("$id", "$anchor", "$dynamicRef", "$dynamicAnchor", "$recursiveRef", "$vocabulary")
ONE: Final = (
    "additionalProperties",
    "contains",
    "contentSchema",
    "else",
    "if",
    "items",
    "not",
    "propertyNames",
    "then",
    "unevaluatedItems",
    "unevaluatedProperties",
)
MANY: Final = ("allOf", "anyOf", "oneOf", "prefixItems")
NAMED: Final = ("$defs", "definitions", "dependentSchemas", "patternProperties", "properties")
FORMATS: Final = (
    "date",
    "date-time",
    "duration",
    "email",
    "hostname",
    "ipv4",
    "ipv6",
    "json-pointer",
    "time",
    "uri",
    "uri-reference",
    "uuid",
)


def subschemas(node: DocumentNode) -> Iterator[DocumentNode]:
    for key in sorted(node.value):
        child = node.child(key)
        if key in ONE:
            yield child
        elif key in MANY and isinstance(child.value, list):
            yield from (child.child(index) for index in range(len(child.value)))
        elif key in NAMED and isinstance(child.value, dict):
            yield from (child.child(name) for name in sorted(child.value))


def referred(root: DocumentNode, node: DocumentNode) -> DocumentNode:
    reference = node.child("$ref")
    if reference.value == "#":
        return root
    if not isinstance(reference.value, str) or not reference.value.startswith("#/"):
        reference.refuse("must refer to a part of this schema, like '#/$defs/name'; copy other schemas in")
    found = root
    if "%" in reference.value:
        reference.refuse("must not contain percent encoding; choose a name in '$defs' that needs none")
    for part in reference.value[2:].split("/"):
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(found.value, dict) and name in found.value:
            found = found.child(name)
        elif isinstance(found.value, list) and name.isdecimal() and int(name) < len(found.value):
            found = found.child(int(name))
        else:
            reference.refuse("refers to a part that this schema does not have")
    return found


def unfolded(root: DocumentNode, node: DocumentNode, weights: dict[tuple[str | int, ...], int | None]) -> int:
    """Number of subschemas with references replaced by what they refer to."""
    if isinstance(node.value, bool):
        return 1
    node.object()
    known = weights.get(node.place, 0)
    if known is None:
        node.refuse("must not refer to itself, since its cost would have no bound; write the levels out")
    if known:
        return known
    weights[node.place] = None
    for key in REFUSED:
        if key in node.value:
            node.child(key).refuse("is not supported; use '$ref' with '#/$defs/name'")
    if node.value.get("$schema", DIALECT) != DIALECT:
        node.child("$schema").refuse(f"must be {DIALECT}")
    if "format" in node.value and node.value["format"] not in FORMATS:
        node.child("format").refuse(f"must be one of {', '.join(FORMATS)}")
    weight = 1 + sum(unfolded(root, child, weights) for child in subschemas(node))
    if "$ref" in node.value:
        weight += unfolded(root, referred(root, node), weights)
    if weight > UNFOLDED_MAX:
        node.refuse(f"must have at most {UNFOLDED_MAX} subschemas once its references are followed, not {weight}")
    weights[node.place] = weight
    return weight


def schema_validator(document: Any) -> jsonschema_rs.Draft202012Validator:
    return jsonschema_rs.Draft202012Validator(
        document,
        offline=True,
        validate_formats=True,
        ignore_unknown_formats=False,
        pattern_options=jsonschema_rs.RegexOptions(size_limit=REGEX_BYTES_MAX, dfa_size_limit=REGEX_BYTES_MAX),
    )


class SchemaRule:
    """A compiled JSON Schema over the normalized data of one event."""

    def __init__(self, node: DocumentNode) -> None:
        unfolded(node, node, {})
        self.document: Any = node.value
        try:
            self._validator = schema_validator(node.value)
        except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError) as error:
            reason = str(error).splitlines()[0]
            node.refuse(f"is not a valid JSON Schema 2020-12: {reason} (patterns: no look-around or \\1)")
        self.accepts = self._validator.is_valid

    def issues(self, data: Any) -> list[Issue]:
        """What is wrong with ``data``, ordered by place and keyword."""
        found = [entry for error in self._validator.iter_errors(data) for entry in self._entries(error, data)]
        found.sort(key=lambda entry: entry[:2])
        return [entry[2] for entry in found]

    def _entries(self, error: jsonschema_rs.ValidationError, data: Any) -> Iterator[tuple[str, str, Issue]]:
        place, rule_place = tuple(error.instance_path), tuple(error.schema_path)
        expected = self._expected(rule_place)
        match error.kind.name:
            case "required":
                missing = pointer((*place, error.kind.as_dict()["property"]))
                yield missing, "required", issue("schema", missing, {"required": True}, ABSENT)
            case "additionalProperties" | "unevaluatedProperties":
                for name in sorted(error.kind.as_dict()["unexpected"]):
                    stray = pointer((*place, name))
                    yield stray, "unexpected", issue("schema", stray, expected, at(data, (*place, name)))
            case keyword:
                here = pointer(place)
                yield here, f"{keyword} {rule_place}", issue("schema", here, expected, at(data, place))

    def _expected(self, place: tuple[str | int, ...]) -> Any:
        where = pointer(("schema", *place))
        if not place:
            return {"policy": where}
        value = at(self.document, place)
        return expectation({str(place[-1]): None if value is ABSENT else value}, where)


def at(value: Any, place: tuple[str | int, ...]) -> Any:
    for step in place:
        if isinstance(value, dict):
            value = value.get(step, ABSENT)
        elif isinstance(value, list) and isinstance(step, int) and step < len(value):
            value = value[step]
        else:
            return ABSENT
    return value

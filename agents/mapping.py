"""The ``mapping`` section of a policy: which fields of an event become which fields of its normalized data."""

from collections.abc import Sequence
from typing import Any, Final

import attrs

from agents.document import DocumentNode
from agents.paths import ABSENT, Segments, pointer

FIELDS_MAX: Final = 256
DEFAULT_CHARS_MAX: Final = 512
COLUMNS_MAX: Final = 64
ENVELOPE: Final = {"@timestamp": "timestamp", "@eventType": "eventType", "@externalId": "externalId"}


@attrs.frozen(kw_only=True)
class FieldMapping:
    """One mapped field. ``source`` is a path into the record; without a default, it is ``ABSENT``.

    Attributes:
        source: Empty for a constant, which stands as the default.
        each: How the elements of an array are mapped; None: the value is taken as it is.
        columns: Names of the members of elements that are arrays.
    """

    source: Segments
    target: Segments
    default: Any
    expected: Any
    each: "tuple[FieldMapping, ...] | None" = None
    columns: tuple[str, ...] = ()


def refuse_repeats(root: DocumentNode, section: str, fields: Sequence[Segments | None]) -> None:
    """Refuse a field that is named twice or is inside another one; None stands for no field."""
    known: dict[Segments, int] = {}
    for index, field in enumerate(fields):
        if field is None:
            continue
        known[field] = known.get(field, 0) + 1
        if known[field] > 1:
            root.child(section).child(index).refuse(f"the field {pointer(field)} is named twice")
    for index, field in enumerate(fields):
        if field and any(field[:length] in known for length in range(len(field))):
            root.child(section).child(index).refuse(
                f"the field {pointer(field)} is inside another field that is named in this section"
            )


def read_mapping(root: DocumentNode) -> tuple[tuple[FieldMapping, ...] | None, bool]:
    mapping = root.maybe("mapping")
    if mapping is None:
        return None, True
    mapping.object("fields", "unmapped")
    unmapped = mapping.maybe("unmapped")
    keeps = unmapped is None or unmapped.choice("keep", "drop") == "keep"
    fields = tuple(read_field(node) for node in mapping.items("fields", FIELDS_MAX))
    refuse_repeats(mapping, "fields", [field.target for field in fields])
    return (fields if fields or not keeps else None), keeps


def read_field(node: DocumentNode, *, within_each: bool = False) -> FieldMapping:
    node.object("from", "to", "default", "value", *(() if within_each else ("each", "columns")))
    target = node.required("to").path()
    if (constant := node.maybe("value")) is not None:
        if len(node.value) > 2:
            node.refuse("a field with 'value' may have no other key than 'to'")
        return FieldMapping(source=(), target=target, default=read_default(constant), expected={})
    source = node.required("from")
    source.text()
    if within_each:
        place: Segments = source.path()
    elif source.value in ENVELOPE:
        place = (ENVELOPE[source.value],)
    elif source.value.startswith("@"):
        source.refuse(f"must be one of {', '.join(ENVELOPE)}; for a field of the data write '/@name'")
    else:
        place = ("data", *source.path())
    default, each = node.maybe("default"), node.maybe("each")
    if each is None and node.maybe("columns") is not None:
        node.child("columns").refuse("is allowed together with 'each' only")
    return FieldMapping(
        source=place,
        target=target,
        default=ABSENT if default is None else read_default(default),
        expected={"from": source.value},
        each=None if each is None else read_each(node),
        columns=tuple(name.text() for name in node.items("columns", COLUMNS_MAX)),
    )


def read_each(node: DocumentNode) -> tuple[FieldMapping, ...]:
    fields = tuple(read_field(part, within_each=True) for part in node.items("each", FIELDS_MAX))
    if not fields:
        node.child("each").refuse("must name at least one field")
    refuse_repeats(node, "each", [field.target for field in fields])
    return fields


def read_default(node: DocumentNode) -> Any:
    if isinstance(node.value, (list, dict)):
        node.refuse("must be a string, a number, true, false or null")
    if isinstance(node.value, str) and len(node.value) > DEFAULT_CHARS_MAX:
        node.refuse(f"must have at most {DEFAULT_CHARS_MAX} characters, not {len(node.value)}")
    return node.value

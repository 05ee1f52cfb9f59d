"""The policy document: what a source's events are turned into and checked against, known by its hash.

A document is a JSON object; every key is optional, and one that is not known is refused, so that no rule is
ever silently left out. ``{}`` keeps events as they are and finds them all valid::

    {
      "version": 1,
      "mapping": {"fields": [{"from": "temp", "to": "temperature", "default": null}], "unmapped": "drop"},
      "coercion": [{"field": "temperature", "type": "number", "unit": {"from": "degF", "to": "degC"},
                    "nullValues": ["NA", ""]}],
      "required": ["station"],
      "schema": {JSON Schema 2020-12 over the normalized data},
      "bounds": [{"field": "temperature", "min": -89.2, "max": 56.7}],
      "monotonic": [{"key": ["station"], "field": "observedAt", "strict": true}],
      "certification": {"level": "enhanced"},
      "onConflict": "version"
    }

``from`` is a path into the event's data, or ``@timestamp``, ``@eventType``, ``@externalId``; all other paths
are into the normalized data. Rules run in the order in which they stand here.
"""

import functools
import hashlib
from typing import Any, Final

import attrs

from agents.coercion import Coercion, read_coercion
from agents.document import Node
from agents.issues import expectation
from agents.paths import ABSENT, Segments, pointer
from agents.schema import SchemaRule
from protocols.canonical import canonical_json, parse_json
from protocols.errors import InvalidJsonError, InvalidPolicyError, NotCanonicalizableError
from protocols.limits import POLICY_BYTES_MAX

VERSION: Final = 1
FIELDS_MAX: Final = 256
RULES_MAX: Final = 256
MONOTONIC_MAX: Final = 8
KEY_FIELDS_MAX: Final = 8
DEFAULT_CHARS_MAX: Final = 512
COMPILED_MAX: Final = 64
ENVELOPE: Final = {"@timestamp": "timestamp", "@eventType": "eventType", "@externalId": "externalId"}
SECTIONS: Final = (
    "version",
    "mapping",
    "coercion",
    "required",
    "schema",
    "bounds",
    "monotonic",
    "certification",
    "onConflict",
)


@attrs.frozen(kw_only=True)
class FieldMapping:
    """One mapped field. ``source`` is a path into the record; without a default, it is ``ABSENT``."""

    source: Segments
    target: Segments
    default: Any
    expected: Any


@attrs.frozen(kw_only=True)
class Bound:
    """Inclusive limits of a number."""

    field: Segments
    minimum: int | float | None
    maximum: int | float | None
    expected: dict[str, Any]


@attrs.frozen(kw_only=True)
class Monotonic:
    """A field that grows from event to event of one key; ``name`` identifies the rule in the context."""

    name: str
    key: tuple[Segments, ...]
    field: Segments
    strict: bool
    is_timestamp: bool


@attrs.frozen(kw_only=True)
class CompiledPolicy:
    """A policy ready to run.

    Attributes:
        hash: SHA-256 of the canonical document, 64 hex digits.
        mapping: None where the policy maps nothing: the data is then kept as it is.
        keeps_unmapped: Top-level fields that no mapping reads are kept.
        level: Certification level the policy asks for, or None to leave it to the source.
        on_conflict: ``version`` or ``reject``: what a different body under a known external id becomes.
    """

    hash: str
    mapping: tuple[FieldMapping, ...] | None
    keeps_unmapped: bool
    coercions: tuple[Coercion, ...]
    required: tuple[Segments, ...]
    schema: SchemaRule | None
    bounds: tuple[Bound, ...]
    monotonic: tuple[Monotonic, ...]
    level: str | None
    on_conflict: str

    @property
    def stateful(self) -> bool:
        """Whether a verdict depends on earlier batches, so that batches of the source form a chain."""
        return bool(self.monotonic)


def policy_document(value: Any) -> bytes:
    """Check a policy given as a JSON value and return its canonical bytes.

    Raises:
        InvalidPolicyError: With ``path``, the JSON pointer of what is wrong, and how to mend it.
    """
    try:
        document = canonical_json(value)
    except NotCanonicalizableError as error:
        raise InvalidPolicyError(f"the policy has no canonical form: {error}", path="") from error
    compile_policy(document)
    return document


def policy_hash(document: bytes) -> str:
    """SHA-256 of a canonical policy document, 64 hex digits."""
    return hashlib.sha256(document).hexdigest()


@functools.lru_cache(maxsize=COMPILED_MAX)
def compile_policy(canonical_bytes: bytes) -> CompiledPolicy:
    """Check and compile a canonical policy document; the last ``COMPILED_MAX`` are kept.

    Raises:
        InvalidPolicyError: Not canonical JSON, too large, or wrong at ``path``.
    """
    if len(canonical_bytes) > POLICY_BYTES_MAX:
        raise InvalidPolicyError(f"a policy has at most {POLICY_BYTES_MAX} bytes", path="")
    try:
        value = parse_json(canonical_bytes)
        canonical = canonical_json(value) == canonical_bytes
    except (InvalidJsonError, NotCanonicalizableError) as error:
        raise InvalidPolicyError(f"the policy is no usable JSON: {error}", path="") from error
    if not canonical:
        raise InvalidPolicyError("the policy is not in RFC 8785 form", path="")
    root = Node(value)
    root.object(*SECTIONS)
    version = root.maybe("version")
    if version is not None and (version.value is True or version.value != VERSION):
        version.refuse(f"this build knows version {VERSION}")
    mapping, keeps_unmapped = read_mapping(root)
    coercions = tuple(read_coercion(node) for node in root.items("coercion", FIELDS_MAX))
    refuse_repeats(root, "coercion", [entry.field for entry in coercions])
    schema = root.maybe("schema")
    on_conflict = root.maybe("onConflict")
    return CompiledPolicy(
        hash=policy_hash(canonical_bytes),
        mapping=mapping,
        keeps_unmapped=keeps_unmapped,
        coercions=coercions,
        required=tuple(node.path() for node in root.items("required", FIELDS_MAX)),
        schema=None if schema is None else SchemaRule(schema),
        bounds=tuple(read_bound(node) for node in root.items("bounds", RULES_MAX)),
        monotonic=read_monotonic(root, coercions),
        level=read_level(root),
        on_conflict="version" if on_conflict is None else on_conflict.choice("version", "reject"),
    )


def refuse_repeats(root: Node, section: str, fields: list[Segments]) -> None:
    """Refuse a field that is named twice, or that lies inside another one named."""
    known: dict[Segments, int] = {}
    for index, field in enumerate(fields):
        known[field] = known.get(field, 0) + 1
        if known[field] > 1:
            root.child(section).child(index).refuse(f"{pointer(field)} is named before")
    for index, field in enumerate(fields):
        if any(field[:length] in known for length in range(1, len(field))):
            root.child(section).child(index).refuse(f"{pointer(field)} lies inside another field named here")


def read_mapping(root: Node) -> tuple[tuple[FieldMapping, ...] | None, bool]:
    mapping = root.maybe("mapping")
    if mapping is None:
        return None, True
    mapping.object("fields", "unmapped")
    unmapped = mapping.maybe("unmapped")
    keeps = unmapped is None or unmapped.choice("keep", "drop") == "keep"
    fields = tuple(read_field(node) for node in mapping.items("fields", FIELDS_MAX))
    refuse_repeats(mapping, "fields", [field.target for field in fields])
    return (fields if fields or not keeps else None), keeps


def read_field(node: Node) -> FieldMapping:
    node.object("from", "to", "default")
    source = node.required("from")
    source.text()
    if source.value.startswith("@") and source.value not in ENVELOPE:
        source.refuse(f"of the envelope there are {', '.join(ENVELOPE)}; write '/@name' for a field of the data")
    default = node.maybe("default")
    if default is not None:
        if isinstance(default.value, (list, dict)):
            default.refuse("must be a string, a number, true, false or null")
        if isinstance(default.value, str) and len(default.value) > DEFAULT_CHARS_MAX:
            default.refuse(f"has more than {DEFAULT_CHARS_MAX} characters")
    envelope = ENVELOPE.get(source.value)
    return FieldMapping(
        source=("data", *source.path()) if envelope is None else (envelope,),
        target=node.required("to").path(),
        default=ABSENT if default is None else default.value,
        expected={"from": source.value},
    )


def read_bound(node: Node) -> Bound:
    node.object("field", "min", "max")
    limits = {key: limit.number() for key in ("max", "min") if (limit := node.maybe(key)) is not None}
    if not limits:
        node.refuse("a bound needs 'min' or 'max'")
    if len(limits) == 2 and limits["min"] > limits["max"]:
        node.refuse("'min' is above 'max': no value passes")
    return Bound(
        field=node.required("field").path(),
        minimum=limits.get("min"),
        maximum=limits.get("max"),
        expected=expectation(limits, node.pointer),
    )


def read_monotonic(root: Node, coercions: tuple[Coercion, ...]) -> tuple[Monotonic, ...]:
    timestamps = [coercion.field for coercion in coercions if coercion.is_timestamp]
    rules: dict[str, Monotonic] = {}
    for node in root.items("monotonic", MONOTONIC_MAX):
        node.object("key", "field", "strict")
        field = node.required("field").path()
        key = tuple(part.path() for part in node.items("key", KEY_FIELDS_MAX))
        strict = node.maybe("strict")
        name = canonical_json([list(field), [list(part) for part in key]]).decode()
        if name in rules:
            node.refuse("this field is watched under this key already")
        rules[name] = Monotonic(
            name=name,
            key=key,
            field=field,
            strict=strict is None or strict.flag(),
            is_timestamp=field in timestamps,
        )
    return tuple(rules.values())


def read_level(root: Node) -> str | None:
    certification = root.maybe("certification")
    if certification is None:
        return None
    certification.object("level")
    level = certification.maybe("level")
    return None if level is None else level.choice("basic", "enhanced", "critical")

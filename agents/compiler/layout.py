"""Which values of an event are computed by themselves, and from what: the plan that code is generated from.

A *leaf* is such a value: a mapped field, a coerced field, or a field that a rule reads. Where a policy drops what it
does not map, the leaves are all that there is (``closed``); otherwise the rest of the data passes as it is.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import attrs

from agents import syntax
from agents.coercion import Coercion
from agents.compiler.operands import ANY, ARRAY, BOOLEAN, MISSING, NAMES, NULL, NUMBER, STRING, kind_of
from agents.compiler.schema_parts import SchemaParts, divided, possible_types
from agents.compiler.source import UncoveredError
from agents.expressions import Expression
from agents.issues import Issue
from agents.mapping import FieldMapping
from agents.normalize import coercer
from agents.paths import ABSENT, SEGMENTS_MAX, Segments
from agents.policy import CompiledPolicy
from agents.rules import AllowedRule, BoundRule

LEAVES_MAX: Final = 512
VALUE: Final = "value"  # the name under which a coercion within a leaf finds the leaf's value
COERCED: Final = {"number": NUMBER, "integer": NUMBER, "boolean": BOOLEAN}


@attrs.frozen(kw_only=True)
class Leaf:
    """A value at a path of the normalized data.

    Attributes:
        source: Where it is in a record; empty for a constant, which stands as the default.
        default: In place of a source that is absent.
        each: The mapping of the elements of an array.
        coercion: Of the value. inner: of parts of it, with paths that begin with ``VALUE``; also of the value itself
            where parts are coerced as well.
        passes: It is data that no mapping and no coercion touches.
        required, must_exist: By ``required``, and by the schema. part: what the schema says of it.
    """

    path: Segments
    source: Segments
    default: Any = ABSENT
    each: FieldMapping | None = None
    coercion: Coercion | None = None
    inner: tuple[Coercion, ...] = ()
    passes: bool = False
    required: bool = False
    must_exist: bool = False
    part: Any = True
    bounds: tuple[BoundRule, ...] = ()
    allowed: tuple[AllowedRule, ...] = ()

    @property
    def is_checked(self) -> bool:
        is_free = self.part is True and not (self.required or self.must_exist or self.bounds or self.allowed)
        return not is_free or self.coercion is not None or bool(self.inner) or self.each is not None

    @property
    def kinds(self) -> frozenset[str]:
        """The JSON types that it may have where nothing is wrong with an event."""
        kinds = ANY
        if not self.source:
            kinds = frozenset({kind_of(self.default)})
        elif self.source[0] != "data":
            kinds = frozenset({NULL, STRING})
        elif self.default is not ABSENT:
            kinds -= {MISSING}
        if self.each is not None:
            kinds &= {ARRAY, MISSING}
        if self.coercion is not None:
            kinds = kinds & {NULL, MISSING} | {COERCED.get(self.coercion.expected["type"], STRING), NULL}
        kinds &= {MISSING} | {NAMES[kind] for kind in possible_types(self.part)}
        if self.bounds:
            kinds &= {NUMBER, NULL, MISSING}
        if self.must_exist:
            kinds -= {MISSING}
        return kinds - {NULL, MISSING} if self.required else kinds


@attrs.frozen(kw_only=True)
class Layout:
    """The leaves of a policy.

    Attributes:
        closed: They are all the data; otherwise what no mapping reads passes beside them.
        targets: Those that are mapped fields.
        used: Top-level names of the data that the mapping reads, which are not kept.
        is_divided: Whether leaves check all that the schema says.
    """

    policy: CompiledPolicy
    leaves: dict[Segments, Leaf]
    closed: bool
    targets: frozenset[Segments]
    used: frozenset[str]
    schema: SchemaParts | None
    is_divided: bool

    def find(self, path: Segments) -> tuple[Leaf, Segments] | None:
        """The leaf at a path or nearest above it, and the rest of the path; None where there is none."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.leaves:
                return self.leaves[path[:length]], path[length:]
        return None

    def is_absent(self, path: Segments) -> bool:
        """Whether no event has anything at a path where no leaf is."""
        return self.closed and not any(leaf[: len(path)] == path for leaf in self.leaves)


def plan(policy: CompiledPolicy) -> Layout:
    """The leaves of a policy.

    Raises:
        UncoveredError: It is left to the interpreter.
    """
    closed = policy.mapping is not None and not policy.keeps_unmapped
    fields = policy.mapping or ()
    used = frozenset(field.source[1] for field in fields if len(field.source) > 1)
    leaves = {field.target: mapped(field) for field in fields}
    for root, entries in coercion_roots(policy.coercions, leaves, closed).items():
        leaf = leaves.get(root) or Leaf(path=root, source=("data", *root))
        if root[0] not in used or root in leaves:
            leaves[root] = coerced(leaf, entries)
    schema = None if policy.schema is None else divided(policy.schema.document)
    if not closed:
        changed = by_top(leaves.values())
        for path in dict.fromkeys(paths_read(policy, schema)):
            if path not in leaves and passes_by(path, changed):
                source = ("data", *path) if path[0] not in used else ()
                leaves[path] = Leaf(path=path, source=source, passes=True)
            if len(leaves) > LEAVES_MAX:
                raise UncoveredError(f"it has more than {LEAVES_MAX} fields")
    if closed and not any(leaf.source for leaf in leaves.values()):
        raise UncoveredError("it takes no field of events")
    is_divided = schema is not None and can_divide(schema, leaves, closed)
    for path, leaf in leaves.items():
        leaves[path] = checked(leaf, policy, schema if is_divided else None)
    return Layout(
        policy=policy,
        leaves=leaves,
        closed=closed,
        targets=frozenset(field.target for field in fields),
        used=used,
        schema=schema,
        is_divided=is_divided,
    )


def mapped(field: FieldMapping) -> Leaf:
    return Leaf(
        path=field.target,
        source=field.source,
        default=field.default,
        each=None if field.each is None else field,
    )


def coercion_roots(
    coercions: tuple[Coercion, ...], targets: Collection[Segments], closed: bool
) -> dict[Segments, list[Coercion]]:
    """The coercions by the path of the leaf that they are about; those of fields that no event has are left out."""
    found: dict[Segments, list[int]] = {}
    tops = {target[0] for target in targets}
    places = [entry.each or entry.field for entry in coercions]
    for index in sorted(range(len(coercions)), key=lambda index: len(places[index])):
        place = places[index]
        root = next((place[:length] for length in range(1, len(place) + 1) if place[:length] in targets), None)
        root = root or next((place[:length] for length in range(1, len(place) + 1) if place[:length] in found), place)
        if root not in targets:
            if any(target[: len(root)] == root for target in targets):
                raise UncoveredError("it coerces an object whose members are mapped")
            if closed or root[0] in tops:
                continue
        found.setdefault(root, []).append(index)
    return {root: [coercions[index] for index in sorted(indexes)] for root, indexes in found.items()}


def coerced(leaf: Leaf, entries: list[Coercion]) -> Leaf:
    (first, *others) = entries
    if not leaf.source:
        return constant(leaf, entries)
    if not others and not first.each and first.field == leaf.path:
        return attrs.evolve(leaf, coercion=first)
    return attrs.evolve(leaf, inner=rebased(leaf, entries))


def constant(leaf: Leaf, entries: list[Coercion]) -> Leaf:
    """A constant with its value coerced once."""
    (data, issues) = {VALUE: leaf.default}, list[Issue]()
    coerced = coercer(rebased(leaf, entries))(data, issues)
    if issues:
        raise UncoveredError("a constant cannot be coerced")
    return attrs.evolve(leaf, default=coerced[VALUE])


def rebased(leaf: Leaf, entries: list[Coercion]) -> tuple[Coercion, ...]:
    """Coercions as they are over an object that has the leaf's value as ``VALUE``."""
    length = len(leaf.path)
    return tuple(
        attrs.evolve(entry, each=(VALUE, *entry.each[length:]))
        if entry.each
        else attrs.evolve(entry, field=(VALUE, *entry.field[length:]))
        for entry in entries
    )


def paths_read(policy: CompiledPolicy, schema: SchemaParts | None) -> Iterator[Segments]:
    """Paths of the normalized data that rules read."""
    for rules in (policy.required, policy.bounds, policy.allowed):
        yield from (rule.field for rule in rules)
    yield from ((name,) for name in (schema.members if schema is not None and not schema.closed else ()))
    for expression in expressions(policy):
        for part in syntax.parts(expression.tree):
            if isinstance(part, (syntax.Reference, syntax.Presence)) and part.path[0] == "data":
                yield part.path[1:]
            elif (name := syntax.member_of_data(part)) is not None:
                yield (name,)
    for rule in policy.monotonic:
        yield from (rule.field, *rule.key)


def expressions(policy: CompiledPolicy) -> Iterator[Expression]:
    for rule in (*policy.checks, *policy.certification_checks):
        yield from (rule.check,) if rule.when is None else (rule.when, rule.check)
    yield from (rule.when for rule in policy.required if rule.when is not None)
    yield from (rule.when for rule in policy.levels)


def by_top(leaves: Iterable[Leaf]) -> dict[str, list[Leaf]]:
    """Leaves by the first name of their paths."""
    found: dict[str, list[Leaf]] = {}
    for leaf in leaves:
        found.setdefault(leaf.path[0], []).append(leaf)
    return found


def passes_by(path: Segments, changed: Mapping[str, Sequence[Leaf]]) -> bool:
    """Whether the value at a path is that of the event: no leaf above or below it changes it."""
    if not 0 < len(path) <= SEGMENTS_MAX:
        return False
    for leaf in changed.get(path[0], ()):
        is_in_place = leaf.source == ("data", *leaf.path)
        if not is_in_place or leaf.path[: len(path)] == path or path[: len(leaf.path)] == leaf.path:
            return False
    return True


def can_divide(schema: SchemaParts, leaves: Mapping[Segments, Leaf], closed: bool) -> bool:
    """Whether leaves have all members that a schema names, so that each leaf can check its own."""
    tops = {path[0] for path in leaves}
    named = {*schema.members, *schema.required}
    if schema.closed and not (closed and tops <= set(schema.members)):
        return False
    return all((name,) in leaves or (closed and name not in tops and name not in schema.required) for name in named)


def checked(leaf: Leaf, policy: CompiledPolicy, schema: SchemaParts | None) -> Leaf:
    """The leaf with the checks of its own value."""
    (name, *deeper) = leaf.path
    if deeper or schema is None or name not in {*schema.members, *schema.required}:
        part, must_exist = True, False
    else:
        part, must_exist = schema.members.get(name, True), name in schema.required
    return attrs.evolve(
        leaf,
        required=any(rule.field == leaf.path and rule.when is None for rule in policy.required),
        must_exist=must_exist,
        part=part,
        bounds=tuple(rule for rule in policy.bounds if rule.field == leaf.path),
        allowed=tuple(rule for rule in policy.allowed if rule.field == leaf.path),
    )

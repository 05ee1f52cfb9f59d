"""The policy document: how the events of a source are normalized and validated. Identified by its hash.

A document is a JSON object. Every key is optional, and an unknown key is refused, so that no rule is ever ignored
silently. ``{}`` keeps events as they are and finds them all valid. ``agents/README.md`` explains each section::

    {
      "version": 1,
      "mapping": {"fields": [{"from": "temp", "to": "temperature", "default": null}], "unmapped": "drop"},
      "coercion": [{"field": "temperature", "type": "number", "unit": {"from": "degF", "to": "degC"},
                    "nullValues": ["NA", ""]}],
      "required": ["station", {"field": "gust", "when": "data.wind > 10"}],
      "schema": {JSON Schema 2020-12 over the normalized data},
      "bounds": [{"field": "temperature", "min": -89.2, "max": 56.7}],
      "tables": {"stations": {"EWR": {"elevation": 3}}},
      "allowed": [{"field": "station", "table": "stations"}],
      "rules": [{"name": "dew point", "check": "data.dewPoint <= data.temperature", "severity": "warning"}],
      "monotonic": [{"key": ["station"], "field": "observedAt", "strict": true}],
      "steps": [{"key": ["station"], "field": "temperature", "max": 15, "time": "observedAt", "seconds": 3600}],
      "rates": [{"key": ["station"], "time": "observedAt", "count": 4, "seconds": 3600}],
      "duplicates": [{"fields": ["station", "observedAt"], "events": 1000}],
      "memory": {"key": ["station"], "keep": ["temperature"]},
      "functions": [{"name": "acme.heat_index", "version": "1.0", "hash": "..."}],
      "certification": {"level": "enhanced", "levels": [{"when": "data.temperature > 45", "level": "critical"}],
                        "rules": [{"name": "calibrated", "check": "data.calibrated"}], "retention": {"days": 400}},
      "onConflict": "version",
      "volatility": "high"
    }

``from`` is a path into the event's data, or ``@timestamp``, ``@eventType``, ``@externalId``; all other paths
are into the normalized data. A mapped field may be a constant (``"value"`` in place of ``"from"``) or an array whose
elements are mapped (``"each"``, with ``"columns"`` where they are arrays themselves). A coercion with
``"each": "items"`` applies to its field in every element of that array, or to the elements themselves. Rules run in
the order in which they are listed here; those of ``severity`` ``warning`` or ``info`` leave the event valid.
Expressions (``agents.expressions``) read ``data``, ``event``, ``tables`` and ``last``, which is what ``memory`` keeps
of the event before.
"""

import functools
import hashlib
from collections.abc import Callable, Mapping
from typing import Any, Final

import attrs

from agents.coercion import Coercion, read_coercion
from agents.document import DocumentNode
from agents.functions import Declarations, Functions, read_functions
from agents.mapping import FIELDS_MAX, FieldMapping, read_mapping, refuse_repeats
from agents.rules import (
    RETENTION_DAYS_MAX,
    RULES_MAX,
    WATCHES_MAX,
    AllowedRule,
    BoundRule,
    CheckRule,
    DuplicateRule,
    LevelCondition,
    LookBackRule,
    MemoryRule,
    MonotonicRule,
    RateRule,
    RequiredRule,
    StepRule,
    read_allowed,
    read_bound,
    read_checks,
    read_duplicates,
    read_expression,
    read_key,
    read_memory,
    read_rates,
    read_required,
    read_severity,
    read_steps,
    read_tables,
    whole,
)
from agents.schema import SchemaRule
from protocols.canonical import canonical_json, parse_json
from protocols.errors import InvalidJsonError, InvalidPolicyError, NotCanonicalizableError
from protocols.levels import LEVEL_WORDS
from protocols.limits import POLICY_BYTES_MAX

VERSION: Final = 1
LEVEL_RULES_MAX: Final = 16
COMPILED_MAX: Final = 64
FACTS_MAX: Final = 1_024
SECTIONS: Final = (
    "version",
    "mapping",
    "coercion",
    "required",
    "schema",
    "bounds",
    "tables",
    "allowed",
    "rules",
    "monotonic",
    "steps",
    "rates",
    "duplicates",
    "memory",
    "functions",
    "certification",
    "onConflict",
    "volatility",
)
VOLATILITIES: Final = ("low", "high")


@attrs.frozen(kw_only=True)
class CompiledPolicy:
    """A policy ready to run.

    Attributes:
        hash: SHA-256 of the canonical document, 64 hex digits.
        mapping: None where the policy maps nothing: the data is then kept as it is.
        keeps_unmapped: Whether top-level fields that no mapping reads are kept.
        level: Certification level that the policy asks for; None leaves it to the source.
        levels: Rules that ask for higher levels for some events.
        retention_days: How long the data of events is kept after their certificate; None: forever.
        is_volatile: The data of the source changes all the time: results are not worth caching for long.
        on_conflict: ``version`` or ``reject``: what happens to a different body under a known external id.
    """

    hash: str
    mapping: tuple[FieldMapping, ...] | None
    keeps_unmapped: bool
    coercions: tuple[Coercion, ...]
    required: tuple[RequiredRule, ...]
    schema: SchemaRule | None
    bounds: tuple[BoundRule, ...]
    tables: dict[str, dict[str, Any]]
    allowed: tuple[AllowedRule, ...]
    checks: tuple[CheckRule, ...]
    monotonic: tuple[MonotonicRule, ...]
    steps: tuple[StepRule, ...]
    rates: tuple[RateRule, ...]
    duplicates: tuple[DuplicateRule, ...]
    memory: MemoryRule | None
    level: str | None
    levels: tuple[LevelCondition, ...]
    certification_checks: tuple[CheckRule, ...]
    retention_days: int | None
    on_conflict: str
    is_volatile: bool
    functions: Declarations

    @property
    def stateful(self) -> bool:
        """Whether verdicts depend on earlier batches, so that the batches of a source form a chain."""
        return bool(self.watches)

    @property
    def watches(self) -> tuple[LookBackRule, ...]:
        """The rules that look back."""
        memory = () if self.memory is None else (self.memory,)
        return (*self.monotonic, *self.steps, *self.rates, *self.duplicates, *memory)


@attrs.frozen(kw_only=True)
class PolicyFacts:
    """What a policy says that is known without running a rule, and so without an operator's code.

    Attributes:
        level: The certification level it asks for; None leaves it to the source.
        raised_levels: Those of its level rules, in their order; empty where no event's level depends on the event.
        functions: Those that it names, installed or not.
        rule_kinds: The kinds of rules it checks events against, as issues name them, in the order in which they run.
    """

    hash: str
    level: str | None
    raised_levels: tuple[str, ...]
    stateful: bool
    on_conflict: str
    is_volatile: bool
    retention_days: int | None
    functions: Declarations
    rule_kinds: tuple[str, ...]

    @property
    def strictest_level(self) -> str | None:
        """The highest level that its level rules can ask for; None where it has none."""
        return max(self.raised_levels, key=LEVEL_WORDS.index, default=None)


def policy_document(value: Any, functions: Declarations = ()) -> bytes:
    """Check a policy given as a JSON value and return its canonical bytes.

    Args:
        functions: Those that are installed here; declarations are enough.

    Raises:
        InvalidPolicyError: ``path`` is the JSON pointer of what is wrong.
        MissingFunctionError: It names a function that is not among ``functions``.
    """
    try:
        document = canonical_json(value)
    except NotCanonicalizableError as error:
        raise InvalidPolicyError(f"the policy has no canonical form: {error}", path="") from error
    compiled(document, functions)
    return document


def policy_hash(document: bytes) -> str:
    """SHA-256 of a canonical policy document, 64 hex digits."""
    return hashlib.sha256(document).hexdigest()


def compile_policy(canonical_bytes: bytes, functions: Functions = ()) -> CompiledPolicy:
    """Check and compile a canonical policy document; the last ``COMPILED_MAX`` are kept.

    Args:
        functions: Those that are installed here.

    Raises:
        InvalidPolicyError: Not canonical JSON, too large, or wrong at ``path``.
        MissingFunctionError: It names a function that is not among ``functions``.
    """
    return compiled(canonical_bytes, functions)


@functools.lru_cache(maxsize=FACTS_MAX)
def policy_facts(canonical_bytes: bytes) -> PolicyFacts:
    """Check a canonical policy document and extract its facts, whether its functions are installed or not.

    Raises:
        InvalidPolicyError: As ``compile_policy``.
    """
    policy = compiled(canonical_bytes, None)
    kinds = {
        "required": policy.required,
        "schema": policy.schema,
        "bounds": policy.bounds,
        "allowed": policy.allowed,
        "rule": policy.checks,
        "certification": policy.certification_checks,
        "monotonicity": policy.monotonic,
        "step": policy.steps,
        "rate": policy.rates,
        "duplicate": policy.duplicates,
    }
    return PolicyFacts(
        hash=policy.hash,
        level=policy.level,
        raised_levels=tuple(rule.level for rule in policy.levels),
        stateful=policy.stateful,
        on_conflict=policy.on_conflict,
        is_volatile=policy.is_volatile,
        retention_days=policy.retention_days,
        functions=policy.functions,
        rule_kinds=tuple(kind for kind, rules in kinds.items() if rules),
    )


@functools.lru_cache(maxsize=COMPILED_MAX)
def compiled(canonical_bytes: bytes, functions: Declarations | None) -> CompiledPolicy:
    """As ``compile_policy``. Rules that call functions which are only declared must not run.

    Args:
        functions: None accepts any function that the policy declares.
    """
    if len(canonical_bytes) > POLICY_BYTES_MAX:
        raise InvalidPolicyError(
            f"a policy may have at most {POLICY_BYTES_MAX} bytes, this one has {len(canonical_bytes)}", path=""
        )
    try:
        value = parse_json(canonical_bytes)
        canonical = canonical_json(value) == canonical_bytes
    except (InvalidJsonError, NotCanonicalizableError) as error:
        raise InvalidPolicyError(f"the policy is not valid JSON: {error}", path="") from error
    if not canonical:
        raise InvalidPolicyError("the policy is not in canonical form (RFC 8785)", path="")
    root = DocumentNode(value)
    root.object(*SECTIONS)
    version = root.maybe("version")
    if version is not None and (version.value is True or version.value != VERSION):
        version.refuse(f"must be {VERSION}, the version that this build supports")
    mapping, keeps_unmapped = read_mapping(root)
    coercions = tuple(read_coercion(node) for node in root.items("coercion", FIELDS_MAX))
    for array in dict.fromkeys(entry.each for entry in coercions):
        refuse_repeats(root, "coercion", [entry.field if entry.each == array else None for entry in coercions])
    schema, on_conflict, volatility = root.maybe("schema"), root.maybe("onConflict"), root.maybe("volatility")
    declared, named = read_functions(root, functions)
    tables, memory = read_tables(root), read_memory(root)
    certification = read_certification(root)
    return CompiledPolicy(
        hash=policy_hash(canonical_bytes),
        mapping=mapping,
        keeps_unmapped=keeps_unmapped,
        coercions=coercions,
        required=read_required(root, named),
        schema=None if schema is None else SchemaRule(schema),
        bounds=tuple(read_bound(node) for node in root.items("bounds", RULES_MAX)),
        tables=tables,
        allowed=tuple(read_allowed(node, tables) for node in root.items("allowed", RULES_MAX)),
        checks=read_checks(root, "rules", named, looks_back=memory is not None),
        monotonic=read_monotonic(root, coercions),
        steps=read_steps(root),
        rates=read_rates(root),
        duplicates=read_duplicates(root),
        memory=memory,
        level=read_level(certification),
        levels=read_levels(certification, named),
        certification_checks=read_checks(certification, "rules", named, looks_back=memory is not None),
        retention_days=read_retention(certification),
        on_conflict="version" if on_conflict is None else on_conflict.choice("version", "reject"),
        is_volatile=volatility is not None and volatility.choice(*VOLATILITIES) == "high",
        functions=declared,
    )


def read_monotonic(root: DocumentNode, coercions: tuple[Coercion, ...]) -> tuple[MonotonicRule, ...]:
    timestamps = [coercion.field for coercion in coercions if coercion.is_timestamp]
    rules: dict[str, MonotonicRule] = {}
    for node in root.items("monotonic", WATCHES_MAX):
        node.object("key", "field", "strict", "severity")
        field = node.required("field").path()
        key = read_key(node)
        strict = node.maybe("strict")
        name = canonical_json([list(field), [list(part) for part in key]]).decode()
        if name in rules:
            node.refuse("another entry has the same field and key")
        rules[name] = MonotonicRule(
            name=name,
            key=key,
            field=field,
            strict=strict is None or strict.flag(),
            is_timestamp=field in timestamps,
            severity=read_severity(node),
        )
    return tuple(rules.values())


def read_certification(root: DocumentNode) -> DocumentNode:
    certification = root.maybe("certification")
    if certification is None:
        return DocumentNode({})
    certification.object("level", "levels", "rules", "retention")
    return certification


def read_level(certification: DocumentNode) -> str | None:
    level = certification.maybe("level")
    return None if level is None else level.choice(*LEVEL_WORDS)


def read_levels(
    certification: DocumentNode, functions: Mapping[str, Callable[..., Any]]
) -> tuple[LevelCondition, ...]:
    """Levels depend on the event alone: the past is known only while a batch is validated."""
    found = []
    for node in certification.items("levels", LEVEL_RULES_MAX):
        node.object("when", "level")
        when = read_expression(node.required("when"), functions, ("data", "event", "tables"))
        found.append(LevelCondition(when=when, level=node.required("level").choice(*LEVEL_WORDS)))
    return tuple(found)


def read_retention(certification: DocumentNode) -> int | None:
    retention = certification.maybe("retention")
    if retention is None:
        return None
    retention.object("days")
    return whole(retention.required("days"), RETENTION_DAYS_MAX)

"""The entry point of this package: from a batch, its policy and its context to roots, lines and verdicts.

Everything here is a function of the bytes given: two honest agents, on any two machines, compute the same bytes.
"""

import functools
from collections import Counter
from collections.abc import Callable
from typing import Any

import attrs
import orjson

from agents.certify import leaf
from agents.functions import Functions
from agents.issues import Issue, is_error
from agents.memory import History
from agents.normalize import Record, normalized_line, normalizer, scope_of
from agents.policy import COMPILED_MAX, CompiledPolicy, compile_policy
from agents.validate import highest_level, validator
from protocols.canonical import canonical_json, parse_json
from protocols.errors import InvalidJsonError, MalformedError, NotCanonicalizableError
from protocols.identifiers import EventIds
from protocols.levels import LEVEL_WORDS
from protocols.limits import (
    EVENT_TYPE_CHARS_MAX,
    EVENTS_PER_BATCH_MAX,
    EXTERNAL_ID_CHARS_MAX,
    JSON_DEPTH_MAX,
    PAYLOAD_BYTES_MAX,
)
from protocols.merkle import leaf_hash, root_of_leaves

RECORD_KEYS = ["data", "eventType", "externalId", "previous", "timestamp"]
PLAIN = orjson.OPT_SORT_KEYS | orjson.OPT_STRICT_INTEGER
UNLIKE = (b"e-", b"e+", b".0,", b".0]", b".0}")
HEX = frozenset("0123456789abcdef")


@attrs.frozen(kw_only=True)
class BatchOutput:
    """The output of normalize, validate and certify for a batch.

    Attributes:
        input_root: Over the records. normalized_root: over ``{"data", "issues"}`` lines. output_root: over
            the leaves. Each is an RFC 6962 root, 32 bytes, in batch order.
        context_out: Canonical JSON for the next batch of the source; ``{}`` where no rule looks back.
        normalized: Canonical normalized data of each event, joined by newlines.
        leaves: Canonical verdict of each event, joined by newlines.
        issues_by_rule: Number of issues by rule, sorted by rule; an event may have several.
        level: The highest level that the policy asks for, for any event, as a number from 1; 0 for none.
        is_volatile: As the policy has it.
    """

    input_root: bytes
    normalized_root: bytes
    output_root: bytes
    context_out: bytes
    normalized: bytes
    leaves: bytes
    events: int
    valid: int
    invalid: int
    issues_by_rule: tuple[tuple[str, int], ...]
    level: int = 0
    is_volatile: bool = False


@attrs.frozen(kw_only=True)
class Program:
    """A policy's rules as functions."""

    policy: CompiledPolicy
    normalize: Callable[[Record], tuple[Any, bytes, list[Issue]]]
    validate: Callable[[Record, Any, list[Issue], History], list[Issue]]


@functools.lru_cache(maxsize=COMPILED_MAX)
def program(policy: bytes, functions: Functions = ()) -> Program:
    compiled = compile_policy(policy, functions)
    return Program(
        policy=compiled,
        normalize=normalizer(compiled),
        validate=validator(compiled),
    )


def execute(
    *, network: str, source_id: str, payload: bytes, policy: bytes, context: bytes, functions: Functions = ()
) -> BatchOutput:
    """Run a policy over a batch.

    Args:
        payload: 1 to ``EVENTS_PER_BATCH_MAX`` records, joined by newlines.
        policy: Canonical policy document.
        context: ``context_out`` of the batch before, ``{}`` for the first.
        functions: Those that are installed here.

    Raises:
        InvalidPolicyError: The policy is wrong. MissingFunctionError: It names a function that is not installed.
            MalformedError: Payload or context are not in their form; the sender is at fault. What a record contains
            never raises: it is a verdict on that event.
    """
    rules = program(policy, functions)
    history = History(rules.policy, context)
    lines, records = read_payload(payload)
    hashes = [leaf_hash(line) for line in lines]
    ids = EventIds(network, source_id)
    normalized, normalized_hashes, leaves = [], [], []
    invalid, level, found = 0, 0, Counter[str]()
    for record, hashed in zip(records, hashes, strict=True):
        data, encoded, early = rules.normalize(record)
        issues = rules.validate(record, data, early, history)
        if issues:
            invalid += any(map(is_error, issues))
            found.update(entry["rule"] for entry in issues)
        if rules.policy.levels:
            asked = highest_level(rules.policy.levels, scope_of(record, data, rules.policy), LEVEL_WORDS)
            level = max(level, 0 if asked is None else LEVEL_WORDS.index(asked) + 1)
        normalized.append(encoded)
        normalized_hashes.append(leaf_hash(normalized_line(encoded, early)))
        leaves.append(leaf(ids, record, hashed.hex(), encoded, issues))
    return BatchOutput(
        input_root=root_of_leaves(hashes),
        normalized_root=root_of_leaves(normalized_hashes),
        output_root=root_of_leaves([leaf_hash(line) for line in leaves]),
        context_out=history.context(),
        normalized=b"\n".join(normalized),
        leaves=b"\n".join(leaves),
        events=len(records),
        valid=len(records) - invalid,
        invalid=invalid,
        issues_by_rule=tuple(sorted(found.items())),
        level=level,
        is_volatile=rules.policy.is_volatile,
    )


def event_level(policy: bytes, line: bytes, functions: Functions = ()) -> str | None:
    """The level that a policy's rules ask for, for one record; None where they ask for none."""
    rules = program(policy, functions)
    record: Record = parse_json(line)  # type: ignore[assignment]
    data, _, _ = rules.normalize(record)
    return highest_level(rules.policy.levels, scope_of(record, data, rules.policy), LEVEL_WORDS)


def read_payload(payload: bytes) -> tuple[list[bytes], list[Record]]:
    """Split a payload into records and check that each is in canonical form.

    Raises:
        MalformedError: With ``index`` where one record is at fault.
    """
    if len(payload) > PAYLOAD_BYTES_MAX:
        raise MalformedError(f"a payload may have at most {PAYLOAD_BYTES_MAX} bytes, this one has {len(payload)}")
    lines = payload.split(b"\n")
    if len(lines) > EVENTS_PER_BATCH_MAX:
        raise MalformedError(f"a batch may have at most {EVENTS_PER_BATCH_MAX} events, this one has {len(lines)}")
    records: list[Record] = []
    for index, line in enumerate(lines):
        try:
            record, canonical = read_record(line)
        except (InvalidJsonError, NotCanonicalizableError) as error:
            raise MalformedError(f"line {index} is not valid JSON: {error}", index=index) from error
        if not well_formed(record):
            raise MalformedError(f"line {index} is not in record form", index=index)
        if not canonical:
            raise MalformedError(f"line {index} is not in canonical form (RFC 8785)", index=index)
        records.append(record)
    return lines, records


def read_record(line: bytes) -> tuple[Any, bool]:
    """The value of a line, and whether the line is its canonical form (RFC 8785).

    ``orjson`` differs from RFC 8785 only in floats that it ends with ``.0`` or writes with an exponent, in
    integers beyond 2^53, and in the order of keys beyond ASCII. A line that shows none of these, cannot be too
    deep, and is unchanged when parsed and written again, is canonical: no walk over its values is needed.
    """
    shallow = line.count(b"{") + line.count(b"[") <= JSON_DEPTH_MAX
    if shallow and line.isascii() and not any(sign in line for sign in UNLIKE):
        try:
            record = orjson.loads(line)
            if orjson.dumps(record, option=PLAIN) == line:
                return record, True
        except (orjson.JSONDecodeError, orjson.JSONEncodeError):
            pass  # the strict parser finds what is wrong
    value = parse_json(line)
    return value, canonical_json(value) == line


def well_formed(record: Any) -> bool:
    """Whether a value has a record's keys with their types; the content of ``data`` is not checked."""
    if type(record) is not dict or list(record) != RECORD_KEYS:
        return False
    kind, external = record["eventType"], record["externalId"]
    previous, timestamp = record["previous"], record["timestamp"]
    return (
        type(kind) is str
        and len(kind) <= EVENT_TYPE_CHARS_MAX
        and (external is None or (type(external) is str and len(external) <= EXTERNAL_ID_CHARS_MAX))
        and (timestamp is None or type(timestamp) is str)
        and (previous is None or (type(previous) is str and len(previous) == 64 and HEX.issuperset(previous)))
    )

"""The definition of the policy language: a policy's rules run over one event at a time.

``agents.compiler`` runs whole batches faster and hands to this whatever is unusual, so that both give the same bytes.
"""

import functools
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import attrs

from agents.certify import leaf
from agents.functions import Functions
from agents.issues import Issue, is_error
from agents.memory import History
from agents.normalize import normalized_line, normalizer, scope_of
from agents.policy import COMPILED_MAX, CompiledPolicy, compile_policy
from agents.reading import Batch, Record
from agents.validate import highest_level, validator
from protocols.identifiers import EventIds
from protocols.levels import LEVEL_WORDS
from protocols.merkle import leaf_hash


@attrs.frozen(kw_only=True)
class Program:
    """A policy's rules as functions."""

    policy: CompiledPolicy
    normalize: Callable[[Record], tuple[Any, bytes, list[Issue]]]
    validate: Callable[[Record, Any, list[Issue], History], list[Issue]]

    def level(self, record: Record, data: Any) -> str | None:
        """The highest level that the policy's level rules ask for; None where they ask for none."""
        levels = self.policy.levels
        return highest_level(levels, scope_of(record, data, self.policy), LEVEL_WORDS) if levels else None


@functools.lru_cache(maxsize=COMPILED_MAX)
def program(policy: bytes, functions: Functions = ()) -> Program:
    compiled = compile_policy(policy, functions)
    return Program(
        policy=compiled,
        normalize=normalizer(compiled),
        validate=validator(compiled),
    )


@attrs.define(kw_only=True)
class Verdicts:
    """What was found of events so far, in their order.

    Attributes:
        normalized: Canonical normalized data; ``normalized_hashes`` are those of ``{"data", "issues"}`` lines.
        invalid: How many have errors. found: Issues by rule.
        level: The highest that the policy asks for, as a number from 1; 0 for none.
    """

    normalized: list[bytes] = attrs.Factory(list)
    normalized_hashes: list[bytes] = attrs.Factory(list)
    leaves: list[bytes] = attrs.Factory(list)
    leaf_hashes: list[bytes] = attrs.Factory(list)
    invalid: int = 0
    level: int = 0
    found: Counter[str] = attrs.Factory(Counter)


def interpret(
    rules: Program, history: History, ids: EventIds, events: Iterable[tuple[Record, bytes]], verdicts: Verdicts
) -> None:
    """Add the verdicts on events, given as records with the leaf hashes of their lines."""
    for record, hashed in events:
        data, encoded, early = rules.normalize(record)
        issues = rules.validate(record, data, early, history)
        if issues:
            verdicts.invalid += any(map(is_error, issues))
            verdicts.found.update(entry["rule"] for entry in issues)
        level = rules.level(record, data)
        if level is not None:
            verdicts.level = max(verdicts.level, LEVEL_WORDS.index(level) + 1)
        line = leaf(ids, record, hashed.hex(), encoded, issues)
        verdicts.normalized.append(encoded)
        verdicts.normalized_hashes.append(leaf_hash(normalized_line(encoded, early)))
        verdicts.leaves.append(line)
        verdicts.leaf_hashes.append(leaf_hash(line))


def interpret_batch(rules: Program, history: History, ids: EventIds, batch: Batch, hashes: list[bytes]) -> Verdicts:
    """The verdicts on the events of a batch."""
    verdicts = Verdicts()
    interpret(rules, history, ids, zip(batch.records, hashes, strict=True), verdicts)
    return verdicts

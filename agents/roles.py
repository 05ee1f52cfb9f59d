"""The entry point of this package: from a batch, its policy and its context to roots, lines and verdicts.

Everything here is a function of the bytes given: two honest agents, on any two machines, compute the same bytes.
"""

import functools
from collections.abc import Callable

import attrs

from agents.compiler.execution import compiled, run_batch
from agents.functions import Functions
from agents.interpreter import Program, Verdicts, interpret_batch, program
from agents.memory import History
from agents.reading import Batch, Record, read_batch
from protocols.canonical import parse_json
from protocols.errors import OverlayError
from protocols.identifiers import EventIds
from protocols.merkle import leaf_hash, root_of_leaves


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
    made = compiled(policy, functions)
    try:
        return run(functools.partial(run_batch, made), network, source_id, payload, policy, context, functions)
    except OverlayError:
        raise
    except Exception as error:  # noqa: BLE001  # the interpreter defines the result: a fault of the compiler costs time alone
        made.give_up(error)
        return interpret(
            network=network,
            source_id=source_id,
            payload=payload,
            policy=policy,
            context=context,
            functions=functions,
        )


def interpret(
    *, network: str, source_id: str, payload: bytes, policy: bytes, context: bytes, functions: Functions = ()
) -> BatchOutput:
    """As ``execute``, event by event in the interpreter, which defines what a policy means."""
    return run(interpret_batch, network, source_id, payload, policy, context, functions)


def run(
    verdicts_on: Callable[[Program, History, EventIds, Batch, list[bytes]], Verdicts],
    network: str,
    source_id: str,
    payload: bytes,
    policy: bytes,
    context: bytes,
    functions: Functions,
) -> BatchOutput:
    rules = program(policy, functions)
    history = History(rules.policy, context)
    batch = read_batch(payload)
    hashes = list(map(leaf_hash, batch.lines))
    verdicts = verdicts_on(rules, history, EventIds(network, source_id), batch, hashes)
    return BatchOutput(
        input_root=root_of_leaves(hashes),
        normalized_root=root_of_leaves(verdicts.normalized_hashes),
        output_root=root_of_leaves(verdicts.leaf_hashes),
        context_out=history.context(),
        normalized=b"\n".join(verdicts.normalized),
        leaves=b"\n".join(verdicts.leaves),
        events=len(hashes),
        valid=len(hashes) - verdicts.invalid,
        invalid=verdicts.invalid,
        issues_by_rule=tuple(sorted(verdicts.found.items())),
        level=verdicts.level,
        is_volatile=rules.policy.is_volatile,
    )


def event_level(policy: bytes, line: bytes, functions: Functions = ()) -> str | None:
    """The level that a policy's rules ask for, for one record; None where they ask for none."""
    rules = program(policy, functions)
    record: Record = parse_json(line)  # type: ignore[assignment]
    return rules.level(record, rules.normalize(record)[0])

"""Trial runs of a policy on events, without a node's state: what each becomes, and which rules decide."""

from collections.abc import Sequence
from typing import Any

import attrs

from agents.interpreter import program
from agents.issues import Issue, is_error
from agents.memory import EMPTY_CONTEXT, History
from node.worker.parsing.admission import admit
from node.worker.plugins import functions_for
from protocols.canonical import canonical_json, parse_json
from protocols.errors import NotCanonicalizableError
from protocols.limits import EVENTS_PER_BATCH_MAX

NETWORK = "trial"


@attrs.frozen(kw_only=True)
class Tried:
    """One event: as sent, as normalized, and the verdict.

    Attributes:
        status: ``valid``, ``invalid``, or ``rejected`` where ingest would not admit it.
        level: That the policy's level rules ask for; None where they ask for none.
    """

    index: int
    external_id: str | None
    before: Any
    after: Any
    status: str
    issues: tuple[Issue, ...]
    level: str | None


def try_policy(policy: bytes, events: Sequence[Any], context: bytes = EMPTY_CONTEXT) -> tuple[list[Tried], bytes]:
    """Run events through a policy in order, as if one source sent them.

    Args:
        policy: Canonical document.
        events: As posted to ``/overlay/events/ingest``.

    Returns:
        One ``Tried`` for each event, and the context after them.

    Raises:
        InvalidPolicyError, MissingFunctionError, MalformedError: The policy or the context cannot be used.
    """
    rules = program(policy, functions_for(policy))
    history = History(rules.policy, context)
    tried: list[Tried] = []
    for start in range(0, len(events), EVENTS_PER_BATCH_MAX):
        part = list(events[start : start + EVENTS_PER_BATCH_MAX])
        taken, refused = _admitted(part)
        for index, event in enumerate(part):
            if index in refused:
                tried.append(_refused(start + index, event, refused[index]))
                continue
            record: Any = parse_json(taken[index])
            data, encoded, early = rules.normalize(record)
            issues = rules.validate(record, data, early, history)
            tried.append(
                Tried(
                    index=start + index,
                    external_id=record["externalId"],
                    before=record["data"],
                    after=parse_json(encoded),
                    status="invalid" if any(map(is_error, issues)) else "valid",
                    issues=tuple(issues),
                    level=rules.level(record, data),
                )
            )
    return tried, history.context()


def _admitted(events: list[Any]) -> tuple[dict[int, bytes], dict[int, Issue]]:
    """The records of the events that ingest admits, and why it rejects the others."""
    sent: list[tuple[int, bytes]] = []
    refused: dict[int, Issue] = {}
    for index, event in enumerate(events):
        try:
            sent.append((index, canonical_json(event)))
        except NotCanonicalizableError as error:
            refused[index] = _issue("", str(error)[:200], "a value that has a canonical JSON form")
    if not sent:
        return {}, refused
    admitted = admit(b'{"events":[%b],"sourceId":"trial"}' % b",".join(line for _, line in sent), network=NETWORK)
    places = [index for index, _ in sent]
    for why in admitted.rejections:
        refused[places[why.index]] = _issue(why.field, why.reason, why.remedy)
    return {places[at]: line for at, line in zip(admitted.indexes, admitted.lines, strict=True)}, refused


def _issue(path: str, found: str, expected: str) -> Issue:
    return {"rule": "ingest", "path": path, "expected": expected, "found": found, "severity": "error"}


def _refused(index: int, event: Any, issue: Issue) -> Tried:
    external = event.get("externalId") if isinstance(event, dict) else None
    return Tried(
        index=index,
        external_id=external if isinstance(external, str) else None,
        before=event.get("data") if isinstance(event, dict) else event,
        after=None,
        status="rejected",
        issues=(issue,),
        level=None,
    )


def tried_document(tried: Tried) -> dict[str, Any]:
    """As the HTTP interface and ``--json`` present it."""
    return {
        "index": tried.index,
        "externalId": tried.external_id,
        "status": tried.status,
        "data": tried.before,
        "normalizedData": tried.after,
        "issues": list(tried.issues),
        "level": tried.level,
    }


def trial_document(policy: bytes, events: Sequence[Any]) -> dict[str, Any]:
    """A trial with its totals; runs in a worker process."""
    tried, context = try_policy(policy, events)
    by_rule: dict[str, int] = {}
    for each in tried:
        for issue in each.issues:
            by_rule[issue["rule"]] = by_rule.get(issue["rule"], 0) + 1
    return {
        "events": len(tried),
        "valid": sum(each.status == "valid" for each in tried),
        "invalid": sum(each.status == "invalid" for each in tried),
        "rejected": sum(each.status == "rejected" for each in tried),
        "issuesByRule": dict(sorted(by_rule.items())),
        "results": [tried_document(each) for each in tried],
        "contextBytes": len(context),
    }

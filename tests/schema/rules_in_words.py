"""What the description states in words, since JSON Schema cannot: refusals of data that satisfies its schema.

Each rule names a check, the problem that a refusal must be, and why the check may not count it. All else fails a run.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

import attrs


@attrs.frozen(kw_only=True)
class RuleInWords:
    """A refusal that a check of schemathesis does not expect.

    Attributes:
        check: The class of its failure.
        code: Of the problem that was answered.
        detail: What the problem's detail has in it, as a regular expression.
        message: The same of the failure's own message, where the check sent another request.
        operations: Ids of the operations that the rule holds for; empty: all.
        reason: Why the refusal is right.
    """

    check: str
    reason: str
    code: str = ""
    detail: str = ""
    message: str = ""
    operations: frozenset[str] = frozenset()

    def allows(self, check: str, operation_id: str, message: str, problem: Mapping[str, Any]) -> bool:
        return (
            check == self.check
            and (not self.code or problem.get("type") == f"urn:overlay:problem:{self.code}")
            and (not self.operations or operation_id in self.operations)
            and re.search(self.detail, str(problem.get("detail"))) is not None
            and re.search(self.message, message) is not None
        )


REJECTED = "RejectedPositiveData"
RULES = (
    RuleInWords(
        check=REJECTED,
        detail=r"beyond 2\^53 - 1|surrogate|nested too deeply|occurs twice",
        reason="RFC 7493 (I-JSON), section 2: a JSON Schema cannot express that names are unique and numbers exact",
    ),
    RuleInWords(
        check=REJECTED,
        code="invalid-request",
        detail="must not contain U\\+0000",
        reason="stated for all documents: text is stored in Postgres, which has no U+0000",
    ),
    RuleInWords(
        check=REJECTED,
        code="invalid-parameter",
        detail="must not be sent beside subscriptionId",
        operations=frozenset({"streamEvents"}),
        reason="parameters that exclude each other cannot be described (OpenAPI 3.1, section 4.8.12)",
    ),
    RuleInWords(
        check=REJECTED,
        code="invalid-parameter",
        detail="'sourceId' is missing",
        operations=frozenset({"ingestEvents"}),
        reason="required beside some media types of the body alone, which cannot be described",
    ),
    RuleInWords(
        check=REJECTED,
        code="range-not-satisfiable",
        operations=frozenset({"getObject"}),
        reason="RFC 9110, section 15.5.17: whether a range is satisfiable depends on the object",
    ),
    RuleInWords(
        check=REJECTED,
        code="invalid-request",
        detail="printable characters|must be a topic",
        reason="schemathesis draws characters that are not assigned for \\p{M} and the like",
    ),
    *(
        RuleInWords(
            check=check,
            code="too-few-holders",
            operations=frozenset({"ingestEvents"}),
            reason="a node alone has no peers that could hold a batch: 503 with Retry-After, as described",
        )
        for check in (REJECTED, "ServerError")
    ),
    RuleInWords(
        check="IgnoredAuth",
        message=r"got `400 Bad Request` .*\(invalid credentials provided\)",
        reason="RFC 9110, section 15.5.1: a malformed proof of identity is a bad request",
    ),
)


def is_allowed(check: str, operation_id: str, message: str, answer: bytes) -> bool:
    """Whether a rule allows a failure.

    Args:
        check: The class of the failure.
        answer: The body that the case was answered with.
    """
    try:
        problem = json.loads(answer)
    except ValueError:
        problem = {}
    problem = problem if isinstance(problem, dict) else {}
    return any(rule.allows(check, operation_id, message, problem) for rule in RULES)

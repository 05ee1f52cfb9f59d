"""Issues: what a rule found wrong in one event, bounded in size and the same on every machine.

Issues are part of the signed results that agents compare: their members and wording must not differ between agents,
so neither changes without a new version of the policy language.
"""

from typing import Any, Final, TypeAlias

from agents.paths import ABSENT
from protocols.canonical import canonical_json
from protocols.limits import ISSUES_PER_EVENT_MAX

Issue: TypeAlias = dict[str, Any]

ERROR: Final = "error"
SEVERITIES: Final = (ERROR, "warning", "info")
FOUND_CHARS_MAX: Final = 128
EXPECTED_BYTES_MAX: Final = 512

NAMES: Final = {bool: "boolean", int: "number", float: "number", str: "string", list: "array", dict: "object"}


def json_type(value: Any) -> str:
    return "null" if value is None else NAMES[type(value)]


def bounded(value: Any) -> Any:
    """A value as an issue shows it: short scalars as they are, others by type and length."""
    if value is ABSENT:
        return None
    if isinstance(value, (list, dict)) or (isinstance(value, str) and len(value) > FOUND_CHARS_MAX):
        return {"length": len(value), "type": json_type(value)}
    return value


def expectation(value: Any, policy_pointer: str) -> Any:
    """What a rule expects or, where that is long, the place of the rule in the policy."""
    return value if len(canonical_json(value)) <= EXPECTED_BYTES_MAX else {"policy": policy_pointer}


def issue(rule: str, path: str, expected: Any, found: Any, severity: str = ERROR) -> Issue:
    """One issue, keys in canonical order. ``path`` is a JSON pointer into the normalized data."""
    return {
        "expected": expected,
        "found": bounded(found),
        "path": path,
        "rule": rule,
        "severity": severity,
    }


def is_error(issue: Issue) -> bool:
    """Whether an issue makes its event invalid; warnings and infos do not."""
    return bool(issue["severity"] == ERROR)


def cut(issues: list[Issue]) -> None:
    """Keep as many issues as an event may have: errors first, in their order."""
    if len(issues) > ISSUES_PER_EVENT_MAX:
        kept = sorted(range(len(issues)), key=lambda index: not is_error(issues[index]))[:ISSUES_PER_EVENT_MAX]
        issues[:] = [issues[index] for index in sorted(kept)]

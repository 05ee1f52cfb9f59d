"""Filter criteria as JSON: what subscriptions keep, WebSocket clients send, and query parameters come to."""

from collections.abc import Mapping
from typing import Any, Final

from agents.expressions import Expression, compile_expression
from node.delivery.filters import NAMES, STATUSES, Filter, Options, Selection
from node.runtime.topic_patterns import Patterns
from protocols.errors import ClientFault
from protocols.messages import Level

ITEMS_MAX: Final = 64
ITEM_CHARS_MAX: Final = 256
MEMBERS: Final = (
    "topics",
    "sourceIds",
    "eventTypes",
    "minCertificationLevel",
    "status",
    "expression",
    "includeProcessingEvidence",
    "includeCertificate",
)


class InvalidCriteriaError(ClientFault):
    """Fields: ``field``, a JSON pointer into the criteria, and ``remedy``."""

    code = "invalid-filter"


def read_criteria(document: Mapping[str, Any]) -> Filter:
    """Check filter criteria and compile them.

    Args:
        document: Any of ``MEMBERS``; what is absent filters nothing. ``topics`` and ``eventTypes`` take patterns
            (see ``patterns``), ``status`` is "valid" (the default), "invalid" or "all", ``expression`` is of the
            policy language over ``NAMES``.

    Raises:
        InvalidCriteriaError: A member is unknown or wrong.
    """
    for name in document:
        if name not in MEMBERS:
            raise InvalidCriteriaError(
                f"unknown member {name[:80]!r}", field=f"/{name[:80]}", remedy=f"known are {', '.join(MEMBERS)}"
            )
    level = _word(document, "minCertificationLevel", tuple(level.word for level in Level), Level.BASIC.word)
    status = _word(document, "status", (*STATUSES, "all"), "valid")
    statuses = frozenset(STATUSES) if status == "all" else frozenset({status})
    selection = Selection(
        event_types=_patterns(document, "eventTypes"), statuses=statuses, expression=_expression(document)
    )
    options = Options(
        evidence=_flag(document, "includeProcessingEvidence"),
        certificate=_flag(document, "includeCertificate"),
        verdicts="invalid" in statuses,
    )
    return Filter(
        topics=_patterns(document, "topics"),
        source_ids=_items(document, "sourceIds"),
        level=Level[level.upper()],
        selection=selection,
        options=options,
    )


def criteria_document(wanted: Filter) -> dict[str, Any]:
    """The inverse of ``read_criteria``, without the members that say what would be so anyway."""
    selection, options = wanted.selection, wanted.options
    document = {
        "topics": None if wanted.topics is None else sorted(wanted.topics.items),
        "sourceIds": None if wanted.source_ids is None else sorted(wanted.source_ids),
        "eventTypes": None if selection.event_types is None else sorted(selection.event_types.items),
        "minCertificationLevel": None if wanted.level is Level.BASIC else wanted.level.word,
        "status": _status(selection.statuses),
        "expression": None if selection.expression is None else selection.expression.text,
        "includeProcessingEvidence": options.evidence or None,
        "includeCertificate": options.certificate or None,
    }
    return {name: value for name, value in document.items() if value is not None}


def _status(statuses: frozenset[str]) -> str | None:
    if len(statuses) == len(STATUSES):
        return "all"
    return None if statuses == {"valid"} else next(iter(statuses))


def _items(document: Mapping[str, Any], member: str) -> frozenset[str] | None:
    found = document.get(member)
    if found is None:
        return None
    if not isinstance(found, list) or not 0 < len(found) <= ITEMS_MAX:
        raise InvalidCriteriaError(
            f"{member!r} is no list of 1 to {ITEMS_MAX} texts", field=f"/{member}", remedy="leave it out for all"
        )
    for index, item in enumerate(found):
        if not isinstance(item, str) or not 0 < len(item) <= ITEM_CHARS_MAX:
            raise InvalidCriteriaError(
                f"an item of {member!r} is no text of 1 to {ITEM_CHARS_MAX} characters",
                field=f"/{member}/{index}",
                remedy="send names as texts",
            )
    return frozenset(found)


def _patterns(document: Mapping[str, Any], member: str) -> Patterns | None:
    found = _items(document, member)
    return None if found is None else Patterns(found)


def _word(document: Mapping[str, Any], member: str, words: tuple[str, ...], default: str) -> str:
    found = document.get(member, default)
    if not isinstance(found, str) or found not in words:
        raise InvalidCriteriaError(
            f"{member!r} is {str(found)[:40]!r}", field=f"/{member}", remedy=f"use one of {', '.join(words)}"
        )
    return found


def _flag(document: Mapping[str, Any], member: str) -> bool:
    found = document.get(member, False)
    if not isinstance(found, bool):
        raise InvalidCriteriaError(f"{member!r} is no boolean", field=f"/{member}", remedy="use true or false")
    return found


def _expression(document: Mapping[str, Any]) -> Expression | None:
    text = document.get("expression")
    if text is None:
        return None
    remedy = f"write a condition of the policy language over {', '.join(NAMES)}"
    if not isinstance(text, str):
        raise InvalidCriteriaError("'expression' is no text", field="/expression", remedy=remedy)
    try:
        return compile_expression(text, names=NAMES)
    except ValueError as error:
        raise InvalidCriteriaError(f"'expression': {error}", field="/expression", remedy=remedy) from error

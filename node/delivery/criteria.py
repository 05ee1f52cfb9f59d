"""Filter criteria as JSON: what subscriptions keep, WebSocket clients send, and query parameters are read into."""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import Field, StringConstraints

from agents.expressions import Expression, compile_expression
from node.delivery.filters import NAMES, STATUSES, Filter, MessageOptions, Selection
from node.runtime.document_models import DocumentModel, FieldProblem, SchemaMembers, read_document
from node.runtime.topic_patterns import Patterns
from protocols.errors import ClientFault
from protocols.messages import Level

ITEMS_MAX: Final = 64
ITEM_CHARS_MAX: Final = 256

LevelName = Literal["basic", "enhanced", "critical"]
Item = Annotated[str, StringConstraints(min_length=1, max_length=ITEM_CHARS_MAX)]
Items = Annotated[list[Item], Field(min_length=1, max_length=ITEMS_MAX)]


class InvalidCriteriaError(ClientFault):
    """Fields: ``field``, a JSON pointer into the criteria, and ``remedy``."""

    code = "invalid-filter"


class FilterCriteria(DocumentModel):
    """Which events a client wants, and what their messages contain. A member that is absent filters nothing."""

    topics: Items | None = Field(
        None,
        description="Topics or patterns of them: * stands for one part, # for any number. Not beside overlayTopics.",
    )
    source_ids: Items | None = Field(None, description="Ids of sources.")
    event_types: Items | None = Field(
        None, description="Event types or patterns of them: * stands for one part, # for any number."
    )
    min_certification_level: LevelName = Field("basic", description="The least level that events are certified at.")
    status: Literal["valid", "invalid", "all"] = Field("valid", description="The verdict on an event.")
    expression: Annotated[str, SchemaMembers(format="policy-expression")] | None = Field(
        None, description=f"A condition of the policy language over {', '.join(NAMES)}; events it is true for match."
    )
    include_processing_evidence: bool = Field(
        False, description="Messages contain the agents' statements about the event's batch."
    )
    include_certificate: bool = Field(
        False, description="Messages contain the document that proves the event offline."
    )


def read_criteria(document: Mapping[str, Any], *, pointer: str = "") -> Filter:
    """Check filter criteria and compile them.

    Args:
        document: See ``FilterCriteria``.
        pointer: Where the criteria stand in what the client sent, for errors.

    Raises:
        InvalidCriteriaError: A member is unknown or wrong.
    """
    criteria = read_document(FilterCriteria, document, _invalid, pointer=pointer)
    statuses = frozenset(STATUSES) if criteria.status == "all" else frozenset({criteria.status})
    selection = Selection(
        event_types=_patterns(criteria.event_types),
        statuses=statuses,
        expression=_compiled(criteria.expression, f"{pointer}/expression"),
    )
    options = MessageOptions(
        evidence=criteria.include_processing_evidence,
        certificate=criteria.include_certificate,
        verdicts="invalid" in statuses,
    )
    return Filter(
        topics=_patterns(criteria.topics),
        source_ids=None if criteria.source_ids is None else frozenset(criteria.source_ids),
        level=Level[criteria.min_certification_level.upper()],
        selection=selection,
        options=options,
    )


def _invalid(problem: FieldProblem) -> InvalidCriteriaError:
    return InvalidCriteriaError(str(problem), field=problem.pointer, remedy=problem.remedy)


def _patterns(items: list[str] | None) -> Patterns | None:
    return None if items is None else Patterns(frozenset(items))


def _compiled(text: str | None, pointer: str) -> Expression | None:
    if text is None:
        return None
    try:
        return compile_expression(text, names=NAMES)
    except ValueError as error:
        raise InvalidCriteriaError(
            f"{pointer}: {error}",
            field=pointer,
            remedy=f"write a condition of the policy language over {', '.join(NAMES)}",
        ) from error


def criteria_document(wanted: Filter) -> dict[str, Any]:
    """The inverse of ``read_criteria``, without members that have their default."""
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

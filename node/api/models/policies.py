"""Policies: kept by their hash, and tried on events."""

from typing import Annotated, Any

from pydantic import Field

from node.api.models.base import AnswerModel, LevelName, OneOf
from node.api.models.events import IssueDocument
from node.runtime.document_models import DocumentModel
from protocols.limits import EVENTS_PER_BATCH_MAX


class TrialRequest(DocumentModel):
    """Events to try a policy on."""

    events: list[Any] = Field(
        min_length=1,
        max_length=EVENTS_PER_BATCH_MAX,
        description="Events as in an ingest request; one that is none is reported as rejected.",
    )


class TriedEvent(AnswerModel):
    index: int
    external_id: str | None
    status: Annotated[str, OneOf(("valid", "invalid", "rejected"))]
    data: Any
    normalized_data: Any
    issues: list[IssueDocument]
    level: LevelName | None


class TrialResult(AnswerModel):
    """What a policy makes of events."""

    events: int
    valid: int
    invalid: int
    rejected: int
    context_bytes: int
    issues_by_rule: dict[str, int]
    results: list[TriedEvent]

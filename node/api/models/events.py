"""Events, their versions, and how far their certification is."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from node.api.models.base import (
    AnswerModel,
    Hex,
    LevelName,
    OneOf,
    PageQuery,
    QueryModel,
    Sha256,
    Time,
    Topics,
)
from node.api.models.batches import EvidenceDocument, OverlayJob
from node.runtime.document_models import optional_member
from storage.states import BATCH_STATES, EVENT_STATUSES

EventStatus = Annotated[str, OneOf(EVENT_STATUSES)]


class IssueDocument(AnswerModel):
    """A rule that an event broke."""

    rule: str
    path: str
    severity: str = optional_member()
    expected: Any = None
    found: Any = None


class EventSummary(AnswerModel):
    """An event in its latest version."""

    event_id: str
    source_id: str
    external_id: str | None
    event_type: str
    timestamp: str | None
    status: EventStatus
    data: Any = Field(description="As the source sent it.")
    normalized_data: Any = Field(description="Null until certified or invalid.")
    issues: list[IssueDocument]
    content_hash: Sha256 | None
    version_id: str | None
    version: int = Field(description="From 1; earlier versions are kept.")
    record_hash: Hex
    previous_record_hash: Hex | None
    batch_id: str
    ingested_at: Time
    certified_at: Time | None


class EventDocument(EventSummary):
    """An event in its latest version, with the jobs of its batch."""

    overlay_jobs: list[OverlayJob]


class EventPage(AnswerModel):
    events: list[EventSummary]
    next_after: str | None = Field(description="What the next page is asked for with; null on the last.")


class EventVersion(AnswerModel):
    version: int = Field(description="From 1.")
    version_id: str | None
    record_hash: Hex
    previous_record_hash: Hex | None
    status: Annotated[str, OneOf(sorted({*EVENT_STATUSES, *BATCH_STATES}))] = Field(
        description="As of an event; before the verdict, as of its batch."
    )
    data: Any = Field(description="As the source sent it.")
    normalized_data: Any = Field(description="Null until certified or invalid.")
    issues: list[IssueDocument]
    content_hash: Sha256 | None
    batch_id: str
    certified_at: Time | None


class EventVersions(AnswerModel):
    event_id: str
    source_id: str
    versions: list[EventVersion]


class AgreementDocument(AnswerModel):
    consensus_nodes: int
    agreement_ratio: float = Field(ge=0, le=1)


class AgentCertificate(AnswerModel):
    """One agent's signature on the batch of an event."""

    agent_id: str
    agent_identity: Hex
    certification_type: Annotated[str, OneOf(("integrity", "rejection"))]
    signature: Hex
    issued_at: Time
    overlay_evidence: AgreementDocument


class CertificationState(AnswerModel):
    status: EventStatus
    level: LevelName
    content_hash: Sha256 | None
    version_id: str | None
    certificates: list[AgentCertificate]
    processing_evidence: list[EvidenceDocument]


class CertificationDistribution(AnswerModel):
    topics: Topics
    published_nodes: int = Field(description="Award-holders that were sent the certificate.")
    confirmation_count: int = Field(description="Of them, those that checked and kept it.")
    network_latency: int | None = Field(description="Milliseconds to a confirmation, in the mean.")


class CertificationDocument(AnswerModel):
    """How far an event's certification is."""

    event_id: str
    certification: CertificationState
    overlay_distribution: CertificationDistribution


class EventQuery(PageQuery):
    status: Annotated[str, Field(pattern=f"^(any|{'|'.join(EVENT_STATUSES)})$")] = Field(
        "any", description=f"One of any, {', '.join(EVENT_STATUSES)}."
    )
    source_id: str | None = Field(None, description="Events of this source.")
    external_id: str | None = Field(None, description="Events with this external id.")


class CertificateFormatQuery(QueryModel):
    """Unknown parameters are ignored, as this route always did: links to certificates are passed around."""

    model_config = ConfigDict(extra="ignore")

    format: Literal["json", "html"] = optional_member(
        description="Has precedence over the Accept header; JSON unless HTML is named."
    )

"""Ingest requests and their answers.

Requests are parsed in worker processes by ``node.worker.parsing``, which reads a million events a minute; the models
of requests describe what it takes. A test draws documents and proves that both accept and refuse the same.
"""

from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, StringConstraints, WithJsonSchema

from agents.timestamps import read_rfc3339
from node.api.models.base import AnswerModel, LevelName, OneOf, QueryModel, Time, Topics, split_commas
from node.api.models.batches import OverlayJob
from node.api.models.problems import Problem
from node.api.models.receipts import Receipt
from node.runtime.document_models import HAS_NO_NUL, DocumentModel, optional_member
from node.worker.parsing.admission import DURABILITIES
from protocols.limits import (
    EVENT_TYPE_CHARS_MAX,
    EVENTS_PER_REQUEST_MAX,
    EXTERNAL_ID_CHARS_MAX,
    SOURCE_ID_CHARS_MAX,
    TOPIC_CHARS_MAX,
    TOPICS_PER_BATCH_MAX,
)
from protocols.topic_names import TOPIC_CHARACTER, TOPIC_RULE, is_topic

T = TypeVar("T", list[str], tuple[str, ...])

Durability = Annotated[str, OneOf(DURABILITIES)]
LineNumber = Annotated[int, Field(description="Counted from 1, blank lines too.")]


def _rfc3339(text: str) -> str:
    if read_rfc3339(text) is None:
        raise ValueError("must be an RFC 3339 time such as 2024-01-15T10:30:00Z")
    return text


def _distinct_topics(topics: T) -> T:
    if len(set(topics)) > TOPICS_PER_BATCH_MAX or not all(map(is_topic, topics)):
        raise ValueError(f"must be at most {TOPICS_PER_BATCH_MAX} topics, each {TOPIC_RULE}")
    return topics


SourceIdText = Annotated[str, StringConstraints(min_length=1, max_length=SOURCE_ID_CHARS_MAX), HAS_NO_NUL]
EventType = Annotated[str, StringConstraints(min_length=1, max_length=EVENT_TYPE_CHARS_MAX), HAS_NO_NUL]
ExternalId = Annotated[str, StringConstraints(min_length=1, max_length=EXTERNAL_ID_CHARS_MAX), HAS_NO_NUL]
Attribute = Annotated[str, StringConstraints(min_length=1), HAS_NO_NUL]
EventTime = Annotated[str, AfterValidator(_rfc3339), WithJsonSchema({"type": "string", "format": "date-time"})]
TopicName = Annotated[
    str, WithJsonSchema({"type": "string", "pattern": f"^{TOPIC_CHARACTER}{{1,{TOPIC_CHARS_MAX}}}$"})
]
DistributionTopics = Annotated[list[TopicName], AfterValidator(_distinct_topics)]
MAYBE_TOPIC: Final = f" *(?:{TOPIC_CHARACTER}{{1,{TOPIC_CHARS_MAX}}})? *"
TopicNames = Annotated[
    tuple[str, ...],
    BeforeValidator(split_commas),
    AfterValidator(_distinct_topics),
    WithJsonSchema({"type": "string", "pattern": f"^{MAYBE_TOPIC}(?:,{MAYBE_TOPIC})*$"}),
]
"""In one query parameter, separated by commas; an empty one is as one left out."""


class EventInput(DocumentModel):
    """An event as a source sends it."""

    external_id: ExternalId | None = Field(
        None, description="The source's own id: an event with a known id is a duplicate or a new version."
    )
    event_type: EventType
    timestamp: EventTime | None = Field(None, description="RFC 3339.")
    data: Any = Field(description="Any JSON value; integers within 2^53 - 1, no NaN, no U+0000.")


class ProcessingOptions(DocumentModel):
    """How the events of a request are processed; a member that is null is as one left out."""

    require_certification: bool = optional_member(
        description="Every event is certified; false asks for no level of its own."
    )
    distribution_topics: DistributionTopics | None = Field(
        None, description=f"At most {TOPICS_PER_BATCH_MAX} different ones. Default: the topics of the source."
    )
    consensus_level: LevelName | None = Field(
        None, description="The strictest of this, the source's policy and the node's setting applies."
    )
    durability: Durability | None = Field(
        None,
        description=(
            "replicated: acknowledged once OVERLAY_REPLICAS peers hold the batch too; they finish it should this "
            "node not come back."
        ),
    )


class IngestRequest(DocumentModel):
    """Events of one source."""

    source_id: SourceIdText
    events: list[EventInput] = Field(min_length=1, max_length=EVENTS_PER_REQUEST_MAX)
    processing_options: ProcessingOptions | None = None


class CloudEvent(AnswerModel):
    """A CloudEvent of version 1.0 in JSON; extensions may stand beside these members."""

    model_config = ConfigDict(extra="allow")

    id: Attribute
    source: Attribute
    specversion: Literal["1.0"]
    type: EventType


class IngestQuery(QueryModel):
    """Of bodies that have no place for it: lines and CloudEvents."""

    source_id: SourceIdText = optional_member(
        description="Required for lines and CloudEvents, whose bodies have no place for it."
    )
    consensus_level: LevelName = optional_member(description="For those: as in processingOptions.")
    durability: Durability = optional_member(description="For those: as in processingOptions.")
    distribution_topics: TopicNames = Field((), description="For those: topics, comma-separated.")


class RejectionDocument(AnswerModel):
    """Why an event was not taken."""

    index: int = Field(description="Place in the request, from 0.")
    code: Annotated[str, OneOf(("invalid-event", "conflict"))]
    field: str = Field(description="JSON pointer into the event; empty for the event itself.")
    reason: str
    remedy: str


class EventDistribution(AnswerModel):
    topics: Topics
    published_at: Time | None = Field(description="When the batch was durable and given to the overlay.")
    consensus_nodes: int = Field(description="Executors that the level asks for.")


class ProcessedEvent(AnswerModel):
    event_id: str | None
    external_id: str | None
    status: Annotated[str, OneOf(("ingested", "duplicate", "rejected"))]
    overlay_jobs: list[OverlayJob]
    overlay_distribution: EventDistribution
    rejection: RejectionDocument = optional_member()


class IngestMetadata(AnswerModel):
    source_verified: bool = Field(description="The caller proved to be the source's registered identity.")
    identity_score: Annotated[int, Field(ge=0, le=100)] | None = Field(
        description="The trust in the source, moved by what validation finds; null if not verified."
    )
    processing_latency: int = Field(description="Milliseconds from the first byte to the commit.")
    level_reachable: bool = Field(description="False: the events wait for agents to come.")
    level_shortfall: str | None = Field(description="What keeps the network from the level now.")


class IngestCounts(AnswerModel):
    accepted: int = Field(description="Taken in by this request, versions included.")
    duplicates: int
    rejected: int
    versions: int = Field(description="Of the accepted: new versions of known events.")


class BatchShare(AnswerModel):
    """A batch that holds events of the request."""

    batch_id: str
    count: int = Field(description="Events of this request in the batch.")
    durability: Durability
    holders: list[str] = Field(description="Identity keys of peers that have the batch on disk.")


class IngestAnswerDocument(AnswerModel):
    """What became of a request. Events are durable when it is sent."""

    ingestion_id: str
    processed_events: list[ProcessedEvent] = optional_member(
        description="In the order of the request; absent when minimal."
    )
    overlay_metadata: IngestMetadata = optional_member(description="Absent when minimal.")
    counts: IngestCounts
    rejected: list[int] = Field(description="Indexes of the rejected events.")
    rejections: list[RejectionDocument] = optional_member(description="Only when minimal: why each was rejected.")
    batches: list[BatchShare]
    receipts: list[Receipt] = Field(description="One per batch: the node's signature that it is durable.")


class EmptyDelivery(AnswerModel):
    """A webhook's delivery in which no event was."""

    processed_events: list[ProcessedEvent]
    counts: IngestCounts
    rejected: list[int]
    batches: list[BatchShare]
    receipts: list[Receipt]


class LineRejection(AnswerModel):
    line: LineNumber
    code: str
    field: str
    reason: str
    remedy: str


class LinesAcknowledged(AnswerModel):
    """A line of the answer to lines: what stands for several lines of the request."""

    lines: Annotated[list[LineNumber], Field(min_length=2, max_length=2)] = Field(
        description="The first and the last that this stands for."
    )
    counts: IngestCounts
    rejections: list[LineRejection]
    batches: list[BatchShare] = Field(description="As in the answer to a whole request.")
    receipts: list[Receipt] = optional_member(description="As in the answer to a whole request.")
    abridged: bool = optional_member(
        description=(
            "The client read too slowly: several became one, without batches, and with the first 1,000 rejections."
        ),
    )


class LinesEnd(AnswerModel):
    """The last line of the answer to lines."""

    done: bool = Field(description="Whether all that was sent is taken in or rejected.")
    lines: LineNumber = optional_member()
    acknowledged: int = Field(description="The last line that is durable or rejected: send on from the next.")
    counts: IngestCounts
    problem: Problem = optional_member()

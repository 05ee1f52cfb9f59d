"""What the stream of certified events is asked for, and its messages, over HTTP and over WebSocket."""

from typing import Annotated, Any, Final, Literal

from pydantic import ConfigDict, Field

from node.api.models.base import (
    AnswerModel,
    CommaSeparated,
    HeaderModel,
    Hex,
    JsonText,
    LevelName,
    OneOf,
    QueryModel,
    Time,
)
from node.api.models.batches import EvidenceDocument
from node.api.models.events import IssueDocument
from node.api.models.receipts import Certificate
from node.delivery.criteria import FilterCriteria
from node.delivery.filters import NAMES
from node.runtime.document_models import DocumentModel, SchemaMembers, optional_member

PATTERNS = "Comma-separated names of dot-separated words; '*' stands for one word, '#' for any number."
Flag = Literal["true", "false"]


Place = Annotated[str, SchemaMembers(pattern=r"^(?:\s*[0-9]{1,18}(?:\.[0-9]{1,9})?\s*)?$")]


class StreamQuery(QueryModel):
    """Which events a stream has, and from where on."""

    topics: CommaSeparated = Field((), description=f"{PATTERNS} An event with any one of them passes.")
    source_ids: CommaSeparated = Field((), description="Comma-separated.")
    event_types: CommaSeparated = Field((), description=PATTERNS)
    min_certification_level: LevelName = Field("basic", description="This level and stricter ones.")
    status: Literal["valid", "invalid", "all"] = Field(
        "valid", description="With invalid and all, an event carries its status and issues."
    )
    filter: Annotated[str, SchemaMembers(format="policy-expression")] = Field(
        "",
        description=(
            f"A condition of the policy language over {', '.join(NAMES)}. Events for which it cannot be evaluated do "
            "not pass."
        ),
    )
    include_processing_evidence: Flag = Field("false", description="Adds processingEvidence.")
    include_certificate: Flag = Field("false", description="Adds certificate, which proves the event offline.")
    subscription_id: str = optional_member(description="A subscription's filter and place; nothing beside it.")
    since: Place = Field("", description="Start after this id; 0 for everything. Default: from now on.")


class StreamHeaders(HeaderModel):
    last_event_id: Place = optional_member(
        alias="Last-Event-ID", description="Go on after this event; has precedence over since."
    )


class MessageCertification(AnswerModel):
    agent_id: str
    signature: Hex
    consensus_nodes: int


class MessageMetadata(AnswerModel):
    latency: int = Field(description="Milliseconds from the commit to the certificate.")
    reliability: float = Field(ge=0, le=1)
    source_id: str
    batch_id: str


class EventMessageDocument(AnswerModel):
    """A certified event."""

    type: Annotated[str, OneOf(("event",))]
    event_id: str
    event_type: str
    certification_level: LevelName
    timestamp: str | None
    data: Any
    status: Annotated[str, OneOf(("valid", "invalid"))] = optional_member(
        description="Only where the filter's status is invalid or all."
    )
    issues: list[IssueDocument] = optional_member(description="Only where the filter's status is invalid or all.")
    certification: MessageCertification
    overlay_metadata: MessageMetadata
    processing_evidence: list[EvidenceDocument] = optional_member(description="Only where it was asked for.")
    certificate: Certificate = optional_member(description="Only where it was asked for.")
    sequence: str = optional_member(description="Over WebSocket: the event's place in the feed.")


class SignedHead(AnswerModel):
    """Where the feed stands, signed by the node."""

    place: str
    batch_id: str = Field(description="Empty before the first batch.")
    identity_key: Hex
    protocol_id: list[int | str] = Field(alias="protocolID")
    key_id: str = Field(alias="keyID")
    signed: Hex = Field(description="Canonical JSON.")
    signature: Hex


class HeartbeatMessage(AnswerModel):
    """The node is there: a client has all it wants up to the head, or up to place where that is given."""

    type: Annotated[str, OneOf(("heartbeat",))]
    timestamp: Time
    active_subscriptions: int
    events_processed: int
    head: SignedHead
    place: str = optional_member(description="Where the client stands, if that is before the head.")


class DroppedMessage(AnswerModel):
    """The client was slower than its buffer: the connection ends, and everything up to lastEventId was sent."""

    type: Annotated[str, OneOf(("dropped",))]
    timestamp: Time
    last_event_id: str
    reason: str
    remedy: str
    acknowledged: str = optional_member(description="Over WebSocket: the last place that was acknowledged.")


class SubscribedMessage(AnswerModel):
    """The answer to subscribe: from which place the filter holds."""

    type: Annotated[str, OneOf(("subscribed",))]
    sequence: str
    filter: FilterCriteria
    id: str = optional_member()


class AcknowledgedMessage(AnswerModel):
    type: Annotated[str, OneOf(("acked",))]
    sequence: str


class CreditMessage(AnswerModel):
    type: Annotated[str, OneOf(("credit",))]
    events: int
    sequence: str


class PongMessage(AnswerModel):
    type: Annotated[str, OneOf(("pong",))]
    timestamp: Time
    sequence: str
    id: str = optional_member()


class ErrorMessage(AnswerModel):
    """What was not understood, with the members of a problem document; repeated, the connection is closed."""

    model_config = ConfigDict(extra="allow")

    type: Annotated[str, OneOf(("error",))]
    code: str
    title: str
    status: int
    detail: str
    remedy: str
    field: str = optional_member(description="JSON pointer into the client's message.")


CREDIT_MAX: Final = 1_000_000
ID_CHARS_MAX: Final = 64
MessageId = Annotated[str, Field(max_length=ID_CHARS_MAX)]


class SubscribeRequest(DocumentModel):
    """Another filter, from where the client stands or from a place on."""

    type: Literal["subscribe"]
    filter: dict[str, Any] = Field(default_factory=dict, description="Filter criteria.")
    since: str = optional_member(description="A place in the feed.")
    id: MessageId = optional_member(description="Repeated in the answer.")


class AcknowledgeRequest(DocumentModel):
    """Everything up to a place was taken."""

    type: Literal["ack"]
    sequence: str = Field(description="A sequence that was received.")


class CreditRequest(DocumentModel):
    """At most so many further events, until the next credit."""

    type: Literal["credit"]
    events: int = Field(ge=0, le=CREDIT_MAX)


class PingRequest(DocumentModel):
    type: Literal["ping"]
    id: MessageId = optional_member(description="Repeated in the answer.")


SOCKET_REQUESTS: Final = (SubscribeRequest, AcknowledgeRequest, CreditRequest, PingRequest)
"""What clients may send over WebSocket."""

StreamMessage = Annotated[
    EventMessageDocument
    | HeartbeatMessage
    | DroppedMessage
    | SubscribedMessage
    | AcknowledgedMessage
    | CreditMessage
    | PongMessage
    | ErrorMessage,
    Field(discriminator="type"),
]


class ServerSentEvent(AnswerModel):
    """An event of the stream, as the HTML standard names its fields."""

    id: str = Field(description="The place in the feed after it: send it as Last-Event-ID to go on.")
    data: Annotated[str, JsonText(StreamMessage)] = Field(description="A message, as JSON.")
    retry: int = optional_member(description="Milliseconds until a client that lost its connection comes back.")

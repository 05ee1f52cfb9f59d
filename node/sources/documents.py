"""Source documents: what clients send to create and change sources, and what they get.

Attributes of ``SourceInput`` and ``SourceChange`` are named like the columns that they set.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints

from node.runtime.document_models import (
    IS_PRINTABLE,
    DocumentModel,
    FieldProblem,
    FixedMemberError,
    SchemaMembers,
    optional_member,
    read_document,
)
from node.sources.settings import AnySourceSettings
from protocols.errors import ClientFault
from protocols.limits import SOURCE_ID_CHARS_MAX, TOPIC_CHARS_MAX, TOPICS_PER_BATCH_MAX
from protocols.topic_names import TOPIC_CHARACTER, TOPIC_RULE, is_topic

Json = dict[str, Any]
SourceType = Literal["webhook", "poll", "mqtt", "kafka", "overlay"]
SourceStatusName = Literal["starting", "running", "failing", "ended", "listening"]

SOURCE_TYPES: Final[tuple[str, ...]] = get_args(SourceType)
NAME_CHARS_MAX: Final = 256
TRUST_SCORE_DEFAULT: Final = 50


class InvalidSourceError(ClientFault):
    """Field ``field``: a JSON pointer into the source."""

    code = "invalid-request"


def _checked_topic(value: str) -> str:
    if not is_topic(value):
        raise ValueError(f"must be a topic: {TOPIC_RULE}")
    return value


def _unchanged(value: Any) -> Any:
    return value


SourceId = Annotated[str, StringConstraints(pattern=rf"^[A-Za-z0-9._:-]{{1,{SOURCE_ID_CHARS_MAX}}}$")]
SourceName = Annotated[str, StringConstraints(min_length=1, max_length=NAME_CHARS_MAX), IS_PRINTABLE]
Topic = Annotated[
    str, AfterValidator(_checked_topic), SchemaMembers(pattern=f"^{TOPIC_CHARACTER}{{1,{TOPIC_CHARS_MAX}}}$")
]
PolicyHash = Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]
IdentityKeyText = Annotated[str, StringConstraints(pattern="^0[23][0-9a-f]{64}$")]
TrustScore = Annotated[int, Field(ge=0, le=100)]
ObjectUrl = Annotated[str, StringConstraints(pattern="^XU[1-9A-HJ-NP-Za-km-z]{50}$")]
Time = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
# checked by ``settings.read`` once the type is known and secrets that are only repeated are filled in
Configuration = Annotated[Json, BeforeValidator(_unchanged, json_schema_input_type=AnySourceSettings)]

CONFIGURATION: Final = "Settings of the source's type: see the schemas of source settings."
MAPPING_POLICY: Final = "Sections of the policy: those of mapping, coercion and required fields."
VALIDATION_RULES: Final = "The other sections of the policy."
POLICY_HASH: Final = "Hash of a policy on this node, in place of mappingPolicy and validationRules."
TOPICS: Final = "Topics of the source's events, where a request names none."
IDENTITY_KEY: Final = "Compressed public key that the source is bound to; null: not bound."
TRUST_SCORE: Final = "Trust in the source; validation results move it."
ENABLED: Final = "Whether events of the source are accepted."


class SourceChange(DocumentModel):
    """A change of a source: members that are left out stay as they are."""

    name: SourceName = optional_member(description="Name for people.")
    source_type: SourceType = optional_member(description="How events come to the node.")
    configuration: Configuration = optional_member(description=CONFIGURATION)
    mapping_policy: Json = optional_member(description=MAPPING_POLICY)
    validation_rules: Json = optional_member(description=VALIDATION_RULES)
    policy_hash: PolicyHash = optional_member(description=POLICY_HASH)
    overlay_topics: list[Topic] = optional_member(max_length=TOPICS_PER_BATCH_MAX, description=TOPICS)
    identity_key: IdentityKeyText | None = optional_member(description=IDENTITY_KEY)
    trust_score: TrustScore = optional_member(description=TRUST_SCORE)
    enabled: bool = optional_member(description=ENABLED)

    def columns(self) -> Json:
        """The columns to change, by name."""
        return {name: getattr(self, name) for name in self.model_fields_set}


class SourceInput(DocumentModel):
    """A new source: members that are left out get their defaults."""

    source_id: SourceId = Field(description="Names it for good.")
    name: SourceName = Field(description="Name for people.")
    source_type: SourceType = Field(description="How events come to the node.")
    configuration: Configuration = Field(default_factory=dict, description=CONFIGURATION)
    mapping_policy: Json = Field(default_factory=dict, description=MAPPING_POLICY)
    validation_rules: Json = Field(default_factory=dict, description=VALIDATION_RULES)
    policy_hash: PolicyHash = optional_member(description=POLICY_HASH)
    overlay_topics: list[Topic] = Field(default_factory=list, max_length=TOPICS_PER_BATCH_MAX, description=TOPICS)
    identity_key: IdentityKeyText | None = Field(None, description=IDENTITY_KEY)
    trust_score: TrustScore = Field(TRUST_SCORE_DEFAULT, description=TRUST_SCORE)
    enabled: bool = Field(True, description=ENABLED)

    def columns(self) -> Json:
        """All columns that a client may set, by name."""
        return {name: getattr(self, name) for name in SourceChange.model_fields}


class SourceReplacement(SourceInput):
    """A whole source: members that are left out get their defaults."""

    source_id: SourceId = optional_member(description="The id in the address, or left out.")


class PolicyObjects(DocumentModel):
    """UHRP URLs of the objects that belong to a source or policy."""

    policy: ObjectUrl = Field(description="The policy document: GET /uhrp/{url}.")


class SourceState(DocumentModel):
    """How a source that the node reads, or that delivers webhooks, is doing; counts since the node started it."""

    status: SourceStatusName
    since: Time | None = Field(description="When the status or its detail last changed.")
    detail: str = Field(description="What the source is connected to, or why it is failing.")
    lag: int | None = Field(description="Events known to wait upstream; null: unknown.")
    held_up: bool = Field(description="Whether the source waits because the node is full.")
    received: int = Field(description="Messages or events that came from the source.")
    accepted: int = Field(description="Events that were new.")
    duplicates: int = Field(description="Events that were known already.")
    rejected: int = Field(description="Messages that are not events; GET /overlay/sources/{sourceId}/progress.")
    errors: int = Field(description="Failures to read the source, and refused deliveries.")
    last_error: str | None
    last_error_at: Time | None
    retry_at: Time | None = Field(description="When the source is tried again; null: it is not failing.")
    last_event_at: Time | None


class SourceDocument(DocumentModel):
    """A source as it is stored, with its state."""

    source_id: SourceId
    name: str
    source_type: SourceType
    configuration: Json = Field(description="Secrets are hidden; a change may repeat that.")
    mapping_policy: Json = Field(description=MAPPING_POLICY)
    validation_rules: Json = Field(description=VALIDATION_RULES)
    overlay_topics: list[str] = Field(description=TOPICS)
    identity_key: str | None = Field(description=IDENTITY_KEY)
    trust_score: int = Field(description=TRUST_SCORE)
    enabled: bool = Field(description=ENABLED)
    disabled_reason: str | None = Field(description="Why the node itself disabled it; null: it did not.")
    policy_hash: PolicyHash = Field(description="Hash of the policy that events are processed under.")
    objects: PolicyObjects
    last_activity_at: Time | None = Field(description="When the last event came; null: none yet.")
    created_at: Time
    updated_at: Time
    state: SourceState | None = Field(description="Null: the node does not read the source itself.")


class SourcePage(DocumentModel):
    """Sources in the order of their ids."""

    sources: list[SourceDocument]
    next_after: str | None = Field(description="`after` of the next page; null: this is the last one.")


class SourceRejection(DocumentModel):
    """Something that a source sent and that is not an event."""

    external_id: str | None = Field(description="The source's own id, if it states one.")
    field: str = Field(description="JSON pointer to what is wrong.")
    reason: str
    remedy: str
    head: str = Field(description="The first bytes of it.")
    rejected_at: Time


class SourceProgress(DocumentModel):
    """How far a source was read, and what it sent that is not an event."""

    source_id: SourceId
    mark: Json | None = Field(description="The position to continue from, in the form of the source's type.")
    rejections: list[SourceRejection] = Field(description="The latest first.")
    state: SourceState | None = Field(description="Null: the node does not read the source itself.")


class StoredPolicy(DocumentModel):
    """A policy that is stored on this node."""

    policy_hash: PolicyHash
    objects: PolicyObjects
    policy: Json = Field(description="The policy in its canonical form.")


def read_change(document: Mapping[str, Any]) -> SourceChange:
    """The change that a document asks for.

    Raises:
        InvalidSourceError: A member is unknown, or not as its model allows.
    """
    return read_document(SourceChange, document, _invalid)


def read_source(document: Mapping[str, Any], *, source_id: str | None = None) -> SourceInput:
    """A whole source.

    Args:
        source_id: From the address; the document may leave it out or repeat it.

    Raises:
        InvalidSourceError: A member is missing, unknown, or not as its model allows.
        FixedMemberError: The document names another source than the address.
    """
    given = document if source_id is None or "sourceId" in document else {**document, "sourceId": source_id}
    source = read_document(SourceInput, given, _invalid)
    if source_id is not None and source.source_id != source_id:
        raise FixedMemberError(
            f"/sourceId: must be {source_id[:SOURCE_ID_CHARS_MAX]!r} as in the address, found {source.source_id!r}",
            field="/sourceId",
            remedy="leave it out, or repeat the id in the address",
        )
    return source


def _invalid(problem: FieldProblem) -> InvalidSourceError:
    return InvalidSourceError(str(problem), field=problem.pointer, remedy=problem.remedy)

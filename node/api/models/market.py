"""Agents, auctions, equivocations and job templates.

A job template is checked by ``protocols.templates``, which the coordinator reads templates with too; its model
describes what that takes. A test draws templates and proves that both accept and refuse the same.
"""

from typing import Annotated, get_args

from pydantic import Field, StringConstraints

from node.api.models.base import AnswerModel, Hex, LevelName, OneOf, QueryModel, RoleName, Time
from node.runtime.document_models import DocumentModel, optional_member
from protocols.advertisement import Kind
from protocols.limits import SIGNERS_MAX, TOPIC_CHARS_MAX, TOPICS_PER_BATCH_MAX
from protocols.messages import Role
from protocols.reputation import Outcome
from protocols.templates import LIST_MAX, RETRIES_MAX, TEMPLATE_ID, TIME_MS_MAX, TIME_MS_MIN, WORD

Word = Annotated[str, StringConstraints(pattern=f"^{WORD.pattern}$")]
TemplateTopic = Annotated[str, StringConstraints(pattern=f"^[!-~]{{1,{TOPIC_CHARS_MAX}}}$")]
Score = Annotated[int, Field(ge=0, le=100)]


class AdvertisementToken(AnswerModel):
    """A SHIP or SLAP token of an agent."""

    kind: Annotated[str, OneOf(get_args(Kind))]
    name: str
    url: str


class AgentSummary(AnswerModel):
    """An agent as it advertises itself, and as this node knows it."""

    agent_id: str
    identity_key: Hex
    is_self: bool = Field(alias="self", description="Whether it is this node's own.")
    roles: list[RoleName]
    tokens: list[AdvertisementToken]
    url: str
    operator: str
    region: str
    price: int
    capacity: int
    build: str
    reputation: int
    reputation_by_role: dict[str, int]
    outcomes: dict[str, int] = Field(description="How often it agreed, dissented, was late, equivocated.")
    first_heard_at: Time
    expires_at: Time


class AgentList(AnswerModel):
    agents: list[AgentSummary]


class RoleStanding(AnswerModel):
    """How an agent did in a role."""

    reputation: int
    agreed: int
    dissented: int
    late: int
    equivocated: int
    weighed_successes: float
    weighed_failures: float
    weighed_at: Time


class BlemishDocument(AnswerModel):
    """A time when an agent did not do well."""

    role: RoleName
    outcome: Annotated[str, OneOf(get_args(Outcome))]
    batch_id: str
    at: Time


class EquivocationDocument(AnswerModel):
    """Two signed statements of one agent that contradict each other."""

    agent_id: str
    identity_key: Hex
    batch_id: str
    role: str
    first: Hex
    second: Hex
    found_here: bool
    heard_from: str | None = Field(description="Who passed it on; null where this node found it.")


class EquivocationList(AnswerModel):
    proofs: list[EquivocationDocument]


class AgentDocument(AnswerModel):
    """An agent: what it advertises, how it did here, and why its reputation is what it is.

    An agent that does not advertise any more has none of the members of its advertisement.
    """

    agent_id: str
    identity_key: Hex = optional_member()
    is_self: bool = optional_member(alias="self", description="Whether it is this node's own.")
    roles: list[RoleName] = optional_member()
    tokens: list[AdvertisementToken] = optional_member()
    url: str = optional_member()
    operator: str = optional_member()
    region: str = optional_member()
    price: int = optional_member()
    capacity: int = optional_member()
    build: str = optional_member()
    reputation: int
    reputation_by_role: dict[str, int] = optional_member()
    outcomes: dict[str, int] = optional_member()
    first_heard_at: Time = optional_member()
    expires_at: Time = optional_member()
    by_role: dict[str, RoleStanding]
    blemishes: list[BlemishDocument]
    proofs: list[EquivocationDocument]


class BidDocument(AnswerModel):
    agent_id: str
    roles: list[RoleName]
    price: int
    capacity: int
    operator: str
    region: str
    latency_ms: int
    reputation: dict[str, int]
    declined: str | None = Field(description="Why the agent offers no role; null where it offers one.")


class RankedBid(AnswerModel):
    agent_id: str
    role: RoleName
    choice: str
    scores: list[int | float | str] = Field(description="Smaller is better, in the order that the strategy weighs.")
    reason: str | None


class AuctionDocument(AnswerModel):
    """An auction of a lease: bids, scores, choice."""

    job_id: str
    lease_id: str | None
    level: LevelName
    quorum: int
    strategy: str
    closed_at: Time
    bids: list[BidDocument]
    ranking: list[RankedBid]


class AuctionList(AnswerModel):
    jobs: list[AuctionDocument]


class TemplateQuery(QueryModel):
    template_id: str = optional_member(description="Every version an operator set under this id.")


class AgentRequirements(DocumentModel):
    capabilities: list[Word] = Field(max_length=LIST_MAX, description="What an agent must advertise.")
    minimum_reputation: Score
    geographic_restrictions: Annotated[list[Word], Field(max_length=LIST_MAX)] = optional_member(
        description="Where an agent must run; anywhere if absent."
    )


class ProcessingConstraints(DocumentModel):
    max_processing_time: int = Field(ge=TIME_MS_MIN, le=TIME_MS_MAX, description="Milliseconds.")
    max_retries: int = Field(ge=0, le=RETRIES_MAX)
    require_consensus: bool


class OutputRequirements(DocumentModel):
    certification_level: LevelName
    audit_trail_required: bool
    consensus_threshold: Annotated[int, Field(ge=1, le=SIGNERS_MAX)] = optional_member(
        description="The least number of agents that must agree; the level's if absent."
    )


class JobTemplateInput(DocumentModel):
    """What an operator asks of the agents that do a kind of job."""

    template_id: str = Field(pattern=f"^{TEMPLATE_ID.pattern}$")
    job_type: Annotated[str, OneOf(role.word for role in Role)]
    overlay_topics: list[TemplateTopic] = Field(max_length=TOPICS_PER_BATCH_MAX)
    agent_requirements: AgentRequirements
    processing_constraints: ProcessingConstraints
    output_requirements: OutputRequirements


class JobTemplateDocument(JobTemplateInput):
    """A job template in its canonical form: its SHA-256 is the hash."""


class JobTemplateEntry(AnswerModel):
    """A job template, and whether it is in use."""

    template_id: str
    job_type: RoleName
    overlay_topics: list[str]
    agent_requirements: AgentRequirements
    processing_constraints: ProcessingConstraints
    output_requirements: OutputRequirements
    template_hash: Hex
    built_in: bool
    in_use: bool


class JobTemplateList(AnswerModel):
    templates: list[JobTemplateEntry]


class WithdrawnTemplate(AnswerModel):
    withdrawn: Hex = Field(description="The template's hash.")

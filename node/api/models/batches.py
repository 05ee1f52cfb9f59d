"""Batches, their jobs, and what agents stated about them."""

from typing import Annotated

from pydantic import Field

from node.api.models.base import AnswerModel, Hex, LevelName, ObjectUrl, OneOf, RoleName, Sha256, Time, Topics
from node.api.models.receipts import Receipt
from node.runtime.document_models import optional_member
from storage.states import BATCH_STATES, JOB_STATUSES


class OverlayJob(AnswerModel):
    """A step of the work on a batch."""

    job_id: str
    job_type: RoleName
    assigned_agent: str | None = Field(description="Null until the job is awarded.")
    status: Annotated[str, OneOf(JOB_STATUSES)]


class EvidenceDocument(AnswerModel):
    """What an agent signed about its work on a whole batch."""

    step: Annotated[str, OneOf(("normalization", "validation", "certification", "distribution"))]
    agent_id: str
    timestamp: Time
    processing_time: int = Field(description="Milliseconds of CPU for the whole batch.")
    input_hash: Sha256
    output_hash: Sha256
    validation_rules: list[str] = optional_member(
        description="Only for validation: the kinds of rules in the policy."
    )
    validation_result: Annotated[str, OneOf(("passed", "failed"))] = optional_member(
        description="Only for validation."
    )
    brc31_signature: Hex = Field(alias="brc31Signature")


class BatchObjects(AnswerModel):
    """Where a batch's objects are found. Records and certificate are served once the batch is certified."""

    payload: ObjectUrl | None
    certificate: ObjectUrl | None
    policy: ObjectUrl


class EventCounts(AnswerModel):
    events: int
    valid: int | None
    invalid: int | None


class Roots(AnswerModel):
    """Merkle roots of a batch."""

    input: Hex
    normalized: Hex | None
    output: Hex | None


class SignerDocument(AnswerModel):
    """An agent that signed a batch's certificate."""

    agent_id: str
    agent_identity: Hex
    build: str
    issued_at: Time


class BatchDocument(AnswerModel):
    """A batch: events of one source that are certified together."""

    batch_id: str
    source_id: str
    source_sequence: int
    state: Annotated[str, OneOf(BATCH_STATES)] = Field(
        description="split: no quorum was reached for it as a whole, so its events went on in smaller batches. "
        "merged: it waited, and its events went on in a larger one."
    )
    merged_into: str | None = Field(description="The batch that its events went on in; null unless it is merged.")
    level: LevelName
    quorum: int
    policy_hash: Hex
    objects: BatchObjects
    topics: Topics
    counts: EventCounts
    roots: Roots
    agents: list[SignerDocument]
    evidence: list[EvidenceDocument]
    dissent: list[EvidenceDocument] = Field(description="Signed statements that differ from what was certified.")
    overlay_jobs: list[OverlayJob]
    attempts: int
    reasons: list[str] = Field(description="Why attempts failed.")
    received_at: Time
    certified_at: Time | None
    receipt: Receipt | None = Field(description="Null where the records are deleted, or stand in another batch.")

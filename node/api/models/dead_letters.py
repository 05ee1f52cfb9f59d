"""Batches that ran out of attempts."""

from typing import Annotated

from pydantic import Field, StringConstraints

from node.api.models.base import PAGE_DEFAULT, AnswerModel, LevelName, PageSize, QueryModel, Time
from node.coordination.dead_letters import BEFORE


class DeadLetterQuery(QueryModel):
    limit: PageSize = Field(PAGE_DEFAULT, description="Page size.")
    before: Annotated[str, StringConstraints(pattern=f"^(?:{BEFORE.pattern})?$")] = Field(
        "", description="The nextBefore of the page before."
    )


class DeadLetterSummary(AnswerModel):
    """A batch that ran out of attempts."""

    batch_id: str
    source_id: str
    level: LevelName
    quorum: int = Field(description="How many equal results it needed.")
    events: int
    attempts: int = Field(description="Those it had.")
    reasons: list[str] = Field(description="One for each attempt: when, and why it failed.")
    received_at: Time
    state: str = Field(description="dead; another one after a replay.")
    dead_at: Time | None
    coordinator: str | None = Field(description="Whose batch it is; null where it is this node's.")


class DeadLetterPage(AnswerModel):
    dead_letters: list[DeadLetterSummary]
    next_before: str | None


class DeadLetterReplay(AnswerModel):
    asked_by: str | None = Field(description="The identity that had it tried again.")
    at: Time
    reasons: list[str] = Field(description="Why it had been dead.")


class DeadLetterDocument(DeadLetterSummary):
    """A batch that ran out of attempts, with the times it was tried again."""

    replays: list[DeadLetterReplay]


class ReplayedBatches(AnswerModel):
    replayed: list[str] = Field(description="Ids of the batches that wait again.")

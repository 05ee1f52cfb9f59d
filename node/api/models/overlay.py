"""Submissions (BRC-22), lookups (BRC-24), and descriptions of topic managers and lookup services."""

from typing import Annotated, Any, Final

from pydantic import Field, StringConstraints

from node.api.models.base import AnswerModel, HeaderModel, OneOf, QueryModel
from node.overlay.submit import TOPICS_MAX
from node.runtime.document_models import optional_member

NAME: Final = r'"[ !#-\[\]-~]*"'
TOPICS: Final = rf"^\[ *{NAME} *(?:, *{NAME} *){{0,{TOPICS_MAX - 1}}}\]$"


class SubmitHeaders(HeaderModel):
    topics: Annotated[str, StringConstraints(pattern=TOPICS)] = Field(
        alias="X-Topics", description=f'A JSON array of 1 to {TOPICS_MAX} topics: ["tm_ship"].'
    )
    includes_values: str = optional_member(
        alias="x-includes-off-chain-values",
        description="true: the body is the BEEF's length as a CompactSize, the BEEF, and the values.",
    )


class TopicAdmittance(AnswerModel):
    """What a topic did with a transaction."""

    outputs_to_admit: list[int] = Field(description="Indexes of the outputs that it admits.")
    coins_to_retain: list[int]
    coins_removed: list[int] = Field(description="Indexes of the inputs whose coins it removes.")


Admittance = Annotated[dict[str, TopicAdmittance], Field(description="By topic.")]


class LookupQuestion(AnswerModel):
    """A question to a lookup service; the service's documentation describes its queries."""

    service: str
    query: Any


class LookupEntry(AnswerModel):
    beef: list[int] = Field(description="The transaction with its ancestry, bytes as numbers.")
    output_index: int
    context: list[int] = optional_member()


class LookupResult(AnswerModel):
    """The outputs that a lookup service found."""

    type: Annotated[str, OneOf(("output-list",))]
    outputs: list[LookupEntry]


class ServiceSummary(AnswerModel):
    """A topic manager or lookup service."""

    name: str
    short_description: str


class ManagerQuery(QueryModel):
    manager: str = Field(description="Its name.")


class LookupServiceQuery(QueryModel):
    lookup_service: str = Field(description="Its name.")

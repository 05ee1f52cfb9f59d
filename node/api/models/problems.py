"""Problem documents (RFC 9457)."""

from typing import Annotated

from pydantic import ConfigDict, Field

from node.api.models.base import AnswerModel, OneOf
from node.api.problems import PROBLEMS, TYPE_PREFIX
from node.runtime.document_models import optional_member


class Problem(AnswerModel):
    """What went wrong, where, and what to do about it (RFC 9457). Other members may stand beside these."""

    model_config = ConfigDict(extra="allow")

    type: Annotated[str, OneOf([TYPE_PREFIX + code for code in PROBLEMS])]
    title: str
    status: int
    detail: str
    field: str = optional_member(description="What is at fault: a JSON pointer into the body, or a parameter's name.")
    path: str = optional_member(description="For a policy: JSON pointer into the document.")
    remedy: str = Field(description="What to do about it.")
    retry_after: int = optional_member(description="Seconds.")

"""What all settings of sources have in common."""

from typing import Final

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

HIDDEN: Final = "(hidden)"
SECRET_NAMES: Final = frozenset({"secret", "secrets", "password", "token", "keyPem", "headers"})
"""Names of members whose values, and all within them, are never shown."""


class SourceSettings(BaseModel):
    """Frozen; unknown members are refused. Attributes are snake_case, members of the document camelCase."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, alias_generator=to_camel, validate_by_name=False
    )

"""What all settings of sources have in common."""

from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from pydantic.alias_generators import to_camel

from node.worker.parsing.shaping import Format, Shape
from protocols.limits import EVENT_TYPE_CHARS_MAX

HIDDEN: Final = "(hidden)"
SECRET_NAMES: Final = frozenset({"secret", "secrets", "password", "token", "keyPem", "headers"})
"""Names of members whose values, and all within them, are never shown."""


class SourceSettings(BaseModel):
    """Frozen; unknown members are refused. Attributes are snake_case, members of the document camelCase."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, alias_generator=to_camel, validate_by_name=False
    )


Pointer = Annotated[str, StringConstraints(pattern="^(/[^/]*)*$", max_length=256)]
HeaderName = Annotated[str, StringConstraints(pattern="^[A-Za-z0-9_.-]*$", max_length=128)]


class ShapeSettings(SourceSettings):
    """Where in a message the type, id and time of its event stand; see ``node.worker.parsing.shaping.Shape``."""

    event_type: str = Field("", max_length=EVENT_TYPE_CHARS_MAX)
    event_type_path: Pointer = ""
    event_type_header: HeaderName = ""
    external_id_path: Pointer = ""
    external_id_header: HeaderName = ""
    timestamp_path: Pointer = ""
    timestamp_header: HeaderName = ""

    @property
    def shape(self) -> Shape:
        return Shape(**{name: getattr(self, name) for name in ShapeSettings.model_fields})


class EventSettings(ShapeSettings):
    """How events are read from messages; see ``node.worker.parsing.shaping.Shape``."""

    format: Format = "json"

    @property
    def shape(self) -> Shape:
        return Shape(**{name: getattr(self, name) for name in EventSettings.model_fields})

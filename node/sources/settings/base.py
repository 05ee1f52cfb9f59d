"""What the settings of all types of source have in common."""

from typing import Annotated, Final

from pydantic import ConfigDict, Field, StringConstraints

from node.runtime.document_models import DocumentModel
from node.worker.parsing.shaping import Format, Shape
from protocols.limits import EVENT_TYPE_CHARS_MAX

HIDDEN: Final = "(hidden)"
SECRET_NAMES: Final = frozenset({"secret", "secrets", "password", "token", "keyPem", "headers"})
"""Names of members whose values, and all within them, are never shown."""
PEM_CHARS_MAX: Final = 65_536


class SourceSettings(DocumentModel):
    """How a source of one type is read."""

    # lists in a stored configuration become tuples, and numbers in strings have always been accepted
    model_config = ConfigDict(strict=False)


Pointer = Annotated[str, StringConstraints(pattern="^(/[^/]*)*$", max_length=256)]
HeaderName = Annotated[str, StringConstraints(pattern="^[A-Za-z0-9_.-]*$", max_length=128)]
Pem = Annotated[
    str, StringConstraints(pattern=r"^[\t\r\n -~]*$", max_length=PEM_CHARS_MAX)
]  # ASCII, as RFC 7468 has it


class ShapeSettings(SourceSettings):
    """Where in a message the type, id and time of its event are found. A header has precedence over a path."""

    event_type: str = Field(
        "", max_length=EVENT_TYPE_CHARS_MAX, description="Type of every event that does not state its own."
    )
    event_type_path: Pointer = Field("", description="JSON pointer to the event's type.")
    event_type_header: HeaderName = Field("", description="Name of the header that holds the event's type.")
    external_id_path: Pointer = Field("", description="JSON pointer to the source's own id of the event.")
    external_id_header: HeaderName = Field("", description="Name of the header that holds the source's own id.")
    timestamp_path: Pointer = Field("", description="JSON pointer to the event's time.")
    timestamp_header: HeaderName = Field("", description="Name of the header that holds the event's time.")

    @property
    def shape(self) -> Shape:
        return Shape(**{name: getattr(self, name) for name in ShapeSettings.model_fields})


class EventSettings(ShapeSettings):
    """Where in a message the type, id and time of its event are found, and the format of messages."""

    format: Format = Field(
        "json", description="json: the message is the data. text, base64: the data is a string made of its bytes."
    )

    @property
    def shape(self) -> Shape:
        return Shape(**{name: getattr(self, name) for name in EventSettings.model_fields})

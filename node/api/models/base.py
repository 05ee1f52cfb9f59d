"""What the models have in common: their bases, and the types of members that many documents have."""

from collections.abc import Iterable
from typing import Annotated, Any, Final

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    StringConstraints,
    TypeAdapter,
    WithJsonSchema,
)
from pydantic.alias_generators import to_camel
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from node.runtime.document_models import DocumentModel, SchemaMembers
from protocols.limits import TOPIC_CHARS_MAX, TOPICS_PER_BATCH_MAX
from protocols.messages import Level, Role

PAGE_MAX: Final = 1_000
PAGE_DEFAULT: Final = 100
COMMA_SEPARATED_MAX: Final = 64

JsonObject = dict[str, Any]


class AnswerModel(BaseModel):
    """A document that the node gives. Attributes are snake_case, members camelCase."""

    model_config = ConfigDict(frozen=True, alias_generator=to_camel, validate_by_name=False)


class QueryModel(DocumentModel):
    """The query parameters of a route: strings, read as what their fields are. Unknown ones are refused."""

    model_config = ConfigDict(strict=False)
    shows_strings = True


class HeaderModel(BaseModel):
    """Headers that a route reads or sets; described only. Aliases are the headers' names."""

    model_config = ConfigDict(frozen=True, validate_by_name=False)


class OneOf:
    """The annotation of a string that is one of ``choices``: an enumeration that is listed in one other place."""

    def __init__(self, choices: Iterable[str]) -> None:
        self._choices = list(choices)

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.literal_schema(self._choices)


class JsonText:
    """The annotation of a string that holds documents of another type as JSON: the data of server-sent events."""

    def __init__(self, described: Any) -> None:
        self._described = described

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        inner = handler(TypeAdapter(self._described).core_schema)
        return {**handler(schema), "contentMediaType": "application/json", "contentSchema": inner}


def _whole_number(value: object) -> object:
    """Digits of a query parameter as a number. Nothing else is one: pydantic would also take ``1_0`` and ``1.0``."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 9:
        return int(value)
    raise PydanticCustomError("whole_number", "must be digits")


def split_commas(value: object) -> object:
    """The items of a query parameter without the spaces around them; empty ones are left out."""
    return tuple(item.strip(" ") for item in value.split(",") if item.strip(" ")) if isinstance(value, str) else value


LevelName = Annotated[str, OneOf(level.word for level in Level)]
RoleName = Annotated[str, OneOf(role.word for role in Role)]
Time = Annotated[str, WithJsonSchema({"type": "string", "format": "date-time", "description": "RFC 3339, UTC."})]
Sha256 = Annotated[str, StringConstraints(pattern="^sha256:[0-9a-f]{64}$")]
Hex = Annotated[str, Field(description="Hexadecimal."), StringConstraints(pattern="^[0-9a-f]*$")]
ObjectUrl = Annotated[
    str,
    Field(description="UHRP URL (BRC-26): GET /uhrp/{url}."),
    StringConstraints(pattern="^XU[1-9A-HJ-NP-Za-km-z]{50}$"),
]
Topic = Annotated[str, StringConstraints(max_length=TOPIC_CHARS_MAX)]
Topics = Annotated[list[Topic], Field(max_length=TOPICS_PER_BATCH_MAX)]
CommaSeparated = Annotated[
    tuple[str, ...],
    BeforeValidator(split_commas),
    Field(max_length=COMMA_SEPARATED_MAX),
    WithJsonSchema({"type": "string"}),
]
"""Names in one query parameter; an empty one is as one left out."""
IdentityKeyText = Annotated[
    str,
    Field(description="A compressed public key: a point of secp256k1, 33 bytes in lower-case hexadecimal."),
    StringConstraints(pattern="^0[23][0-9a-f]{64}$"),
    SchemaMembers(format="identity-key"),
]
HexDigest = Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]
PageSize = Annotated[int, Field(ge=1, le=PAGE_MAX), BeforeValidator(_whole_number)]


class PageQuery(QueryModel):
    limit: PageSize = Field(PAGE_DEFAULT, description="Page size.")
    after: str = Field("", description="The nextAfter of the page before.")


class LimitQuery(QueryModel):
    limit: PageSize = Field(PAGE_DEFAULT, description="Page size.")

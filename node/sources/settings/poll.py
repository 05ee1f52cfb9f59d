"""Settings of sources that are polled over HTTP."""

import re
import ssl
from typing import Annotated, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, StringConstraints, field_validator, model_validator

from node.sources.settings.base import Pem, Pointer, ShapeSettings
from node.worker.parsing.polled import BodyFormat, PollFormat

HEADERS_MAX: Final = 32
HEADER_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}")
HEADER_VALUE: Final = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]{0,4094}[\x21-\x7e])?")
OUR_HEADERS: Final = frozenset(
    {
        "accept-encoding",
        "connection",
        "content-length",
        "expect",
        "host",
        "if-modified-since",
        "if-none-match",
        "range",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
Parameter = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.\[\]$-]*$", max_length=128)]


class PollSourceSettings(ShapeSettings):
    """What is requested over HTTP, how often, and how answers become events."""

    url: str = Field(
        min_length=8,
        max_length=2_048,
        description="http or https. Shown to everybody who may see the source: credentials belong in `headers`.",
    )
    method: Literal["GET", "POST"] = Field("GET", description="HTTP method.")
    headers: dict[str, SecretStr] = Field(
        default_factory=dict,
        max_length=HEADERS_MAX,
        description="Sent to the origin of `url` only, wherever redirects and links lead. Never shown.",
    )
    body: str = Field("", max_length=65_536, description="Body of a POST, which follows no redirects.")
    interval: float = Field(60.0, ge=1, le=86_400, description="Seconds between one poll and the next.")
    jitter: float = Field(0.1, ge=0, le=1, description="Part of the interval that is drawn at random.")
    timeout: float = Field(30.0, ge=0.1, le=300, description="Seconds for one answer as a whole.")
    bytes_max: int = Field(
        4 * 1024 * 1024,
        ge=1,
        le=16 * 1024 * 1024,
        description="Size of one answer, both as it is sent and once it is decompressed.",
    )
    pages_max: int = Field(100, ge=1, le=10_000, description="Pages that one poll may request, one after the other.")
    ca_pem: Pem = Field("", description="Certificate authorities to trust instead of the public ones, PEM.")
    format: BodyFormat = Field("json", description="Format of the answers.")
    events_path: Pointer | None = Field(
        None,
        description="With format json: JSON pointer to the array of events, empty for the document itself. Left out: "
        "the document is one event.",
    )
    delimiter: str = Field(
        ",", min_length=1, max_length=1, pattern=r'^[^"\r\n]$', description="With format csv: what separates columns."
    )
    cursor_path: Pointer = Field(
        "", description="With format json: JSON pointer to the cursor in an answer that the next request sends."
    )
    cursor_field: Pointer = Field(
        "", description="JSON pointer to the value in an event whose greatest one the next request sends."
    )
    cursor_parameter: Parameter = Field("", description="Query parameter that the cursor is sent in.")
    follow_links: bool = Field(
        False, description='Whether the next page is where `Link: <...>; rel="next"` leads (RFC 8288).'
    )
    pages_from: Literal["last", "first"] = Field(
        "last",
        description="last: the first page is the oldest, and polls continue from the page that was last. first: the "
        "first page is the newest, and every poll begins there.",
    )
    lag_path: Pointer = Field(
        "", description="With format json: JSON pointer to the number of events that wait after the answer."
    )

    @property
    def reader(self) -> PollFormat:
        return PollFormat(
            shape=self.shape,
            format=self.format,
            events_path=self.events_path,
            delimiter=self.delimiter,
            cursor_path=self.cursor_path,
            cursor_field=self.cursor_field,
            lag_path=self.lag_path,
        )

    @property
    def private_headers(self) -> dict[str, str]:
        return {name: value.get_secret_value() for name, value in self.headers.items()}

    def tls(self) -> ssl.SSLContext | None:
        """The TLS context for `ca_pem`; None: certificates are verified by the public authorities."""
        return ssl.create_default_context(cadata=self.ca_pem) if self.ca_pem else None

    @field_validator("url")
    @classmethod
    def _can_be_called(cls, value: str) -> str:
        if not re.fullmatch(r"https?://[\x21-\x7e]+", value):
            raise ValueError("must be an http or https URL in ASCII")
        parts = urlsplit(value)  # its ValueErrors become errors of this field
        if "@" in parts.netloc:
            raise ValueError("must not hold credentials: send them in headers, which are not shown")
        if not parts.hostname or parts.port == 0 or parts.fragment:
            raise ValueError("must have a host, and neither port 0 nor a fragment")
        return value

    @field_validator("headers")
    @classmethod
    def _can_be_sent(cls, value: dict[str, SecretStr]) -> dict[str, SecretStr]:
        for name, text in value.items():
            if HEADER_NAME.fullmatch(name) is None or name.lower() in OUR_HEADERS:
                raise ValueError("must have names of HTTP headers, and none that the node sets itself")
            if HEADER_VALUE.fullmatch(text.get_secret_value()) is None:
                raise ValueError("must have values of 1 to 4096 printable ASCII characters")
        if len({name.lower() for name in value}) < len(value):
            raise ValueError("must not have a name twice")
        return value

    @field_validator("ca_pem")
    @classmethod
    def _can_be_trusted(cls, value: str) -> str:
        try:
            ssl.create_default_context(cadata=value or None)
        except (ssl.SSLError, ValueError):
            raise ValueError("must hold certificates in PEM") from None
        return value

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if sum(map(bool, (self.cursor_path, self.cursor_field, self.follow_links))) > 1:
            raise ValueError("must have at most one of cursorPath, cursorField and followLinks")
        if bool(self.cursor_path or self.cursor_field) != bool(self.cursor_parameter):
            raise ValueError("must have cursorParameter together with cursorPath or cursorField")
        if self.format != "json" and (self.cursor_path or self.lag_path or self.events_path is not None):
            raise ValueError("must have format json with eventsPath, cursorPath or lagPath")
        if self.external_id_header and (self.format != "json" or self.events_path is not None):
            raise ValueError("must have format json and no eventsPath with externalIdHeader, which names one event")
        if self.cursor_field and self.pages_from == "first":
            raise ValueError("must not have pagesFrom first with cursorField")
        if self.body and self.method != "POST":
            raise ValueError("must have method POST with a body")
        return self

"""Sources that are asked for news over HTTP, again and again."""

import re
import ssl
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, StringConstraints, field_validator, model_validator

from node.sources.settings.base import Pointer, ShapeSettings
from node.worker.parsing.polled import BodyFormat, Reader

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
    """What is asked, how often, and how answers become events.

    Attributes:
        url: Shown to whoever may see the source: credentials belong into ``headers``.
        headers: Sent to the origin of ``url`` alone, wherever redirects and links lead.
        body: Of a POST, which follows no redirects.
        interval: Seconds between one poll and the next; ``jitter`` is the part of them that is drawn at random.
        timeout: Seconds for one answer as a whole.
        bytes_max: Of one answer, as it comes and once it is not compressed.
        pages_max: Answers that are asked for at once, one after the other.
        ca_pem: The certificate authorities to trust in place of the public ones.
        events_path: Of format ``json``: where the array of events stands, empty for the document itself; left out,
            the document is one event.
        delimiter: Of format ``csv``.
        cursor_path: Where in an answer (``json``) the cursor stands that the next request sends.
        cursor_field: Where in an event the value stands whose greatest one the next request sends.
        cursor_parameter: The query parameter that the cursor is sent in.
        follow_links: The next page is where the answer's ``Link: <...>; rel="next"`` says (RFC 8288).
        pages_from: ``last``: the first page is the oldest, and polls go on from the page that was last. ``first``:
            the first page is the newest, and every poll begins there.
        lag_path: Where in an answer (``json``) the number of events stands that wait after it.
    """

    url: str = Field(min_length=8, max_length=2_048)
    method: Literal["GET", "POST"] = "GET"
    headers: dict[str, SecretStr] = Field(default_factory=dict, max_length=HEADERS_MAX)
    body: str = Field("", max_length=65_536)
    interval: float = Field(60.0, ge=1, le=86_400)
    jitter: float = Field(0.1, ge=0, le=1)
    timeout: float = Field(30.0, ge=0.1, le=300)
    bytes_max: int = Field(4 * 1024 * 1024, ge=1, le=16 * 1024 * 1024)
    pages_max: int = Field(100, ge=1, le=10_000)
    ca_pem: str = Field("", max_length=65_536)
    format: BodyFormat = "json"
    events_path: Pointer | None = None
    delimiter: str = Field(",", min_length=1, max_length=1, pattern=r'^[^"\r\n]$')
    cursor_path: Pointer = ""
    cursor_field: Pointer = ""
    cursor_parameter: Parameter = ""
    follow_links: bool = False
    pages_from: Literal["last", "first"] = "last"
    lag_path: Pointer = ""

    @property
    def reader(self) -> Reader:
        return Reader(
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
        """How certificates are verified; None: by the public authorities."""
        return ssl.create_default_context(cadata=self.ca_pem) if self.ca_pem else None

    @field_validator("url")
    @classmethod
    def _can_be_called(cls, value: str) -> str:
        if not re.fullmatch(r"https?://[\x21-\x7e]+", value):
            raise ValueError("is no http or https URL in ASCII")
        parts = urlsplit(value)  # its ValueErrors are reasons too
        if "@" in parts.netloc:
            raise ValueError("holds credentials: send them in headers, which are not shown")
        if not parts.hostname or parts.port == 0 or parts.fragment:
            raise ValueError("has no host, port 0, or a fragment")
        return value

    @field_validator("headers")
    @classmethod
    def _can_be_sent(cls, value: dict[str, SecretStr]) -> dict[str, SecretStr]:
        for name, text in value.items():
            if HEADER_NAME.fullmatch(name) is None or name.lower() in OUR_HEADERS:
                raise ValueError("a name is none of a header, or of one that the node sets itself")
            if HEADER_VALUE.fullmatch(text.get_secret_value()) is None:
                raise ValueError("a value is not 1 to 4096 printable ASCII characters")
        if len({name.lower() for name in value}) < len(value):
            raise ValueError("a name stands twice")
        return value

    @field_validator("ca_pem")
    @classmethod
    def _can_be_trusted(cls, value: str) -> str:
        try:
            ssl.create_default_context(cadata=value or None)
        except (ssl.SSLError, ValueError):
            raise ValueError("holds no certificates in PEM") from None
        return value

    @model_validator(mode="after")
    def _fits(self) -> "PollSourceSettings":
        if sum(map(bool, (self.cursor_path, self.cursor_field, self.follow_links))) > 1:
            raise ValueError("cursorPath, cursorField and followLinks exclude each other")
        if bool(self.cursor_path or self.cursor_field) != bool(self.cursor_parameter):
            raise ValueError("cursorParameter goes with cursorPath or cursorField, and these with it")
        if self.format != "json" and (self.cursor_path or self.lag_path or self.events_path is not None):
            raise ValueError("eventsPath, cursorPath and lagPath are of format json")
        if self.external_id_header and (self.format != "json" or self.events_path is not None):
            raise ValueError("externalIdHeader names one event: leave eventsPath out, with format json")
        if self.cursor_field and self.pages_from == "first":
            raise ValueError("pagesFrom first does not go with cursorField")
        if self.body and self.method != "POST":
            raise ValueError("body goes with method POST")
        return self

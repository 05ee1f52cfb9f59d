"""How far a polled source is read, and which request comes next. Pure."""

import hashlib
import re
from collections.abc import Mapping
from typing import Any, Final

import attrs
import httpx
import orjson

from node.runtime.guarded_http import Fetched, following
from node.sources.settings.poll import PollSourceSettings
from node.worker.parsing.polled import Polled, greater

VALIDATOR_CHARS_MAX: Final = 1_024
LINK_CHARS_MAX: Final = 8_192
# possessive throughout: a hostile header is read once from left to right
LINK: Final = re.compile(
    r"""<([^<>]*+)>((?:\s*+;\s*+[^\s=;,<>"]++(?:\s*+=\s*+(?:"(?:[^"\\]|\\.)*+"|[^\s";,]*+))?+)*+)"""
)
LINK_PARAMETER: Final = re.compile(r""";\s*+([^\s=;,<>"]++)(?:\s*+=\s*+(?:"((?:[^"\\]|\\.)*+)"|([^\s";,]*+)))?+""")


@attrs.frozen(kw_only=True)
class PollPosition:
    """How far a source has been read; commits with the events before it.

    Attributes:
        of: Digest of the settings that it belongs to: with others it is meaningless.
        cursor: The cursor that the next request sends; empty at the beginning.
        page: URL of the next request, where links lead from page to page; empty at the beginning.
        request: Digest of the request that the validators and the body's digest belong to.
        etag, last_modified: Validators of the answer to that request; empty where it gave none.
        digest: SHA-256 of the body of that answer, in hexadecimal.
    """

    of: str
    cursor: str = ""
    page: str = ""
    request: str = ""
    etag: str = ""
    last_modified: str = ""
    digest: str = ""

    def saved(self) -> dict[str, str]:
        """As it is saved: the members that are not empty."""
        return {name: value for name, value in attrs.asdict(self).items() if value}


def position_of(settings: PollSourceSettings, saved: Mapping[str, Any] | None) -> PollPosition:
    """The position to continue from; the beginning where the saved one is of other settings."""
    beginning = PollPosition(of=_digest_of(settings))
    if saved is None or saved.get("of") != beginning.of:
        return beginning
    known = {field.name for field in attrs.fields(PollPosition)}
    return PollPosition(**{name: value for name, value in saved.items() if name in known})


def request_url(settings: PollSourceSettings, position: PollPosition) -> str:
    """The URL of the request at a position."""
    url = position.page or settings.url
    if not position.cursor:
        return url
    return str(httpx.URL(url).copy_set_param(settings.cursor_parameter, position.cursor))


def validators(settings: PollSourceSettings, position: PollPosition) -> dict[str, str]:
    """The headers that let an answer state only that nothing is new (RFC 9110, section 13.1)."""
    headers = {"If-None-Match": position.etag, "If-Modified-Since": position.last_modified}
    if position.request != request_digest(settings, position) or not may_be_unchanged(settings):
        return {}
    return {name: value for name, value in headers.items() if value}


def may_be_unchanged(settings: PollSourceSettings) -> bool:
    """Whether an unchanged body means that nothing is new; beside the last page's body, a link may be new."""
    return settings.method == "GET" and not (settings.follow_links and settings.pages_from == "last")


def request_digest(settings: PollSourceSettings, position: PollPosition) -> str:
    return hashlib.sha256(request_url(settings, position).encode()).hexdigest()


def seen(settings: PollSourceSettings, position: PollPosition, answer: Fetched, polled: Polled) -> PollPosition:
    """The position once an answer's events are on disk, if the same request is to be made again."""
    return attrs.evolve(
        position,
        request=request_digest(settings, position),
        etag=_validator(answer.headers.get("etag", "")),
        last_modified=_validator(answer.headers.get("last-modified", "")),
        digest=polled.digest,
    )


def next_page(
    settings: PollSourceSettings, position: PollPosition, answer: Fetched, polled: Polled
) -> PollPosition | None:
    """The position after a page; None where no page follows it so far.

    Raises:
        OutboundFault: The answer links to a URL that may not be called.
    """
    following_page = PollPosition(of=position.of)
    if settings.follow_links:
        link = next_link(answer.headers.get("link", ""))
        if not link:
            return None
        page = str(following(answer.url, link))
        return attrs.evolve(following_page, page=page) if page != request_url(settings, position) else None
    cursor = polled.cursor
    if settings.cursor_field:
        cursor = greater(cursor, position.cursor)
    return attrs.evolve(following_page, cursor=cursor) if cursor and cursor != position.cursor else None


def next_link(header: str) -> str:
    """The target of the first link to the next page in a Link header; empty if there is none.

    Source: RFC 8288, section 3; links with an anchor belong to other documents.
    """
    for target, parameters in LINK.findall(header[:LINK_CHARS_MAX]):
        found: dict[str, str] = {}
        for name, quoted, plain in LINK_PARAMETER.findall(parameters):
            found.setdefault(name.lower(), quoted or plain)
        if "next" in found.get("rel", "").lower().split() and "anchor" not in found:
            return str(target)
    return ""


def _validator(text: str) -> str:
    return text if len(text) <= VALIDATOR_CHARS_MAX and text.isascii() and text.isprintable() else ""


def _digest_of(settings: PollSourceSettings) -> str:
    """Digest of the settings that decide what a position means, and which events are read from it on."""
    document = settings.model_dump(
        mode="json",
        exclude={"headers", "interval", "jitter", "timeout", "bytes_max", "pages_max", "ca_pem", "lag_path"},
    )
    return hashlib.sha256(orjson.dumps(document, option=orjson.OPT_SORT_KEYS)).hexdigest()

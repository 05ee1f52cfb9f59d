"""SHIP and SLAP tokens (BRC-88 as deployed): who hosts which topic or lookup service, at which URL.

The admitted form is that of the official topic managers, counterparty ``anyone``:
``<P> OP_CHECKSIG <word> <identity key> <URL> <name> <signature> OP_2DROP OP_2DROP OP_DROP`` where ``P`` is the
advertiser's child key of the token's protocol, key ID ``1``, and the signature covers the first four fields.
"""

import re
from typing import Literal
from urllib.parse import urlsplit

import attrs

from protocols import keys
from protocols.errors import ClientFault, MalformedError
from protocols.messages import Protocol
from protocols.scripts import read_pushdrop
from protocols.tokens import LOCAL_HOSTS, build_linked_token, check_link, read_url

Kind = Literal["SHIP", "SLAP"]

PROTOCOLS: dict[Kind, Protocol] = {
    "SHIP": (2, "service host interconnect"),
    "SLAP": (2, "service lookup availability"),
}
PREFIXES: dict[Kind, str] = {"SHIP": "tm_", "SLAP": "ls_"}
NAME = re.compile(r"(?=.{1,50}\Z)(?:tm_|ls_)[a-z]+(?:_[a-z]+)*")
SCHEMES = ("https", "https+bsvauth", "https+bsvauth+smf", "https+bsvauth+scrypt-offchain", "https+rtt", "wss")


@attrs.frozen(kw_only=True)
class Token:
    """A checked token."""

    kind: Kind
    identity: bytes
    url: str
    name: str


class InvalidTopicError(ClientFault):
    """A topic that has no BRC-87 name."""

    code = "invalid-topic"


def topic_manager_name(topic: str) -> str:
    """The BRC-87 name of a dotted topic: ``gitdata.events.iot`` is ``tm_gitdata_events_iot``.

    Raises:
        InvalidTopicError: the topic is not dotted lower-case words without digits, or its name is too long.
    """
    name = "tm_" + topic.replace(".", "_")
    if "_" in topic or not NAME.fullmatch(name):
        raise InvalidTopicError(
            f"the topic {topic!r:.80} has no overlay name: use lower-case words and dots, at most 47 characters",
            field="topic",
        )
    return name


def topic_of(name: str) -> str:
    """The dotted topic of a BRC-87 topic manager name; the inverse of ``topic_manager_name``."""
    if not name.startswith("tm_") or not NAME.fullmatch(name):
        raise InvalidTopicError(f"{name!r:.80} is not the name of a topic manager", field="topic")
    return name.removeprefix("tm_").replace("_", ".")


def build_token(key: keys.PrivateKey, kind: Kind, url: str, name: str) -> bytes:
    """The locking script that advertises ``name`` at ``url``."""
    return build_linked_token(key, PROTOCOLS[kind], (kind.encode(), key.identity, url.encode(), name.encode()))


def check_token(script: bytes, *, allow_local_urls: bool) -> Token:
    """Check a token as the official topic managers do.

    Args:
        allow_local_urls: Admit ``http:`` and local hosts too, for a network on one machine.

    Raises:
        MalformedError: word, URL, name or shape are not admitted. BadSignatureError: not linked to its key.
    """
    parsed = read_pushdrop(script)
    if len(parsed.fields) != 5:
        raise MalformedError("an advertisement token must have five fields")
    word, identity, raw_url, raw_name, _ = parsed.fields
    kind: Kind = "SHIP" if word == b"SHIP" else "SLAP"
    if word != kind.encode():
        raise MalformedError("the first field of an advertisement token must be SHIP or SLAP")
    _check_url(raw_url, allow_local_urls=allow_local_urls)
    name = raw_name.decode("ascii", "replace")
    if not NAME.fullmatch(name) or not name.startswith(PREFIXES[kind]):
        raise MalformedError(f"the name {name!r:.80} is not admitted")
    check_link(parsed, identity, PROTOCOLS[kind])
    return Token(kind=kind, identity=identity, url=raw_url.decode(), name=name)


def is_local(url: str) -> bool:
    """Whether a URL leads to the machine itself."""
    return urlsplit(url).hostname in LOCAL_HOSTS


def _check_url(raw: bytes, *, allow_local_urls: bool) -> None:
    url = read_url(raw)
    if url.path not in ("", "/") or url.query or url.fragment:
        raise MalformedError("the URL of a token must not have a path")
    if allow_local_urls and url.scheme in ("http", "https") and url.hostname in LOCAL_HOSTS:
        return
    if url.scheme not in SCHEMES:
        raise MalformedError(f"the URL of a token must be https, not {url.scheme!r:.20}")
    if url.hostname == "localhost":
        raise MalformedError("the URL of a token must not be that of localhost")

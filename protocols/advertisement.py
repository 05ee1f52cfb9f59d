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
from protocols.errors import BadSignatureError, ClientFault, InvalidKeyError, MalformedError
from protocols.messages import Protocol
from protocols.transactions import pushdrop, read_pushdrop

Kind = Literal["SHIP", "SLAP"]

PROTOCOLS: dict[Kind, Protocol] = {
    "SHIP": (2, "service host interconnect"),
    "SLAP": (2, "service lookup availability"),
}
PREFIXES: dict[Kind, str] = {"SHIP": "tm_", "SLAP": "ls_"}
KEY_ID = "1"
NAME = re.compile(r"(?=.{1,50}\Z)(?:tm_|ls_)[a-z]+(?:_[a-z]+)*")
SCHEMES = ("https", "https+bsvauth", "https+bsvauth+smf", "https+bsvauth+scrypt-offchain", "https+rtt", "wss")
LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")


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
        raise InvalidTopicError(f"{name!r:.80} is no topic manager's name", field="topic")
    return name.removeprefix("tm_").replace("_", ".")


def build_token(key: keys.PrivateKey, kind: Kind, url: str, name: str) -> bytes:
    """The locking script that advertises ``name`` at ``url``."""
    fields = (kind.encode(), key.identity, url.encode(), name.encode())
    signature = key.sign(PROTOCOLS[kind], KEY_ID, b"".join(fields))
    locking_key = key.derive_public(PROTOCOLS[kind], KEY_ID, "anyone", for_self=True)
    return pushdrop(locking_key, (*fields, signature))


def check_token(script: bytes, *, allow_local_urls: bool) -> Token:
    """Check a token as the official topic managers do.

    Args:
        allow_local_urls: Admit ``http:`` and local hosts too, for a network on one machine.

    Raises:
        MalformedError: word, URL, name or shape are not admitted. BadSignatureError: not linked to its key.
    """
    parsed = read_pushdrop(script)
    if len(parsed.fields) != 5:
        raise MalformedError("a token has five fields")
    word, identity, raw_url, raw_name, signature = parsed.fields
    kind: Kind = "SHIP" if word == b"SHIP" else "SLAP"
    if word != kind.encode():
        raise MalformedError("a token says SHIP or SLAP")
    url, name = _text(raw_url), _text(raw_name)
    _check_url(url, allow_local_urls=allow_local_urls)
    if not NAME.fullmatch(name) or not name.startswith(PREFIXES[kind]):
        raise MalformedError(f"the name {name!r:.80} is not admitted")
    try:
        child = keys.anyone_child(identity, PROTOCOLS[kind], KEY_ID)
    except InvalidKeyError as error:
        raise MalformedError("the identity key is no public key") from error
    signed = b"".join(parsed.fields[:4])
    if not keys.verify(identity, PROTOCOLS[kind], KEY_ID, signed, signature):
        raise BadSignatureError("the token's signature is not linked to its identity key")
    if child != parsed.locking_key:
        raise BadSignatureError("the token's locking key is not linked to its identity key")
    return Token(kind=kind, identity=identity, url=url, name=name)


def is_local(url: str) -> bool:
    """Whether a URL leads to the machine itself."""
    return urlsplit(url).hostname in LOCAL_HOSTS


def _text(field: bytes) -> str:
    try:
        return field.decode()
    except UnicodeDecodeError as error:
        raise MalformedError("a token's URL and name are UTF-8") from error


def _check_url(url: str, *, allow_local_urls: bool) -> None:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise MalformedError("a token's URL does not parse") from error
    if parts.path not in ("", "/") or parts.query or parts.fragment or not host:
        raise MalformedError("a token's URL has a host and no path")
    if allow_local_urls and parts.scheme in ("http", "https") and host in LOCAL_HOSTS:
        return
    if parts.scheme not in SCHEMES:
        raise MalformedError(f"a token's URL is https, not {parts.scheme!r:.20}")
    if host == "localhost":
        raise MalformedError("localhost is nobody's public address")

"""The kinds of values that settings have: each is parsed and checked here, and states what it accepts.

A kind is an annotated type. Its ``Accepts`` is the text that follows "Set it to" in errors and in the table of
all settings, where the type alone does not say it.
"""

import re
from collections.abc import Callable
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Any, Final, TypeAlias

import attrs
from pydantic import AfterValidator, BeforeValidator, Field, GetCoreSchemaHandler, PlainValidator, SecretStr
from pydantic_core import CoreSchema, core_schema

from node.runtime.access import CallerRole, TrustedCertifier
from protocols.messages import IdentityKey
from protocols.topic_names import TOPIC_RULE, is_topic

URL_CHARS_MAX: Final = 512

_IDENTITY: Final = "0[23][0-9a-f]{64}"
_BASE64_32: Final = "[A-Za-z0-9+/]{43}="
_FIELD: Final = "[A-Za-z0-9 _.-]{1,50}"
_ROLES: Final = "|".join(role.value for role in CallerRole)
_BIND: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s:/\[\]]+):(\d{1,5})")
_HTTP_URL: Final = re.compile(r"https?://[^\s/]+(/\S*)?")
_POSTGRES_SCHEMES: Final = ("postgresql://", "postgres://")


@attrs.frozen
class Accepts:
    """What a setting, or each item of a list, may be: for the operator to read."""

    text: str


@attrs.frozen
class Only:
    """A switch that can have one value in this version, and why."""

    value: bool
    reason: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def _check(self, value: bool) -> bool:
        if value is not self.value:
            raise ValueError(f"cannot be honoured by this version: {self.reason}")
        return value


def _refuse_empty(value: Any) -> Any:
    if value == "":  # the current directory, which nobody means by it
        raise ValueError("is empty")
    return value


FilePath: TypeAlias = Annotated[Path, BeforeValidator(_refuse_empty), Accepts("a path")]


def _refuse_flag(value: Any) -> Any:
    if isinstance(value, bool):  # Python counts true as 1
        raise ValueError("is true or false where a number is expected")
    return value


def _text(pattern: str, wanted: str) -> AfterValidator:
    """Checks a whole setting."""
    compiled = re.compile(pattern)

    def check(value: str) -> str:
        if not compiled.fullmatch(value):
            raise ValueError(f"is not {wanted}")
        return value

    return AfterValidator(check)


def _item(pattern: str, wanted: str, parse: Callable[[str], Any] = str) -> PlainValidator:
    """Checks and parses one item of a list; the error names the item."""
    compiled = re.compile(pattern)

    def check(value: Any) -> Any:
        if not isinstance(value, str) or not compiled.fullmatch(value):
            raise ValueError(f"{value!r:.200} is not {wanted}")
        return parse(value)

    return PlainValidator(check)


def _topic(value: Any) -> str:
    if not is_topic(value):
        raise ValueError(f"{value!r:.200} is not a topic: {TOPIC_RULE}")
    return str(value)


def _bind(value: str) -> str:
    match = _BIND.fullmatch(value)
    if match is None or int(match[2]) > 65_535:
        raise ValueError("is not host:port")
    return value


def _http_url(value: str) -> str:
    if not _HTTP_URL.fullmatch(value):
        raise ValueError("is not an http:// or https:// URL")
    return value


def _postgres_url(value: SecretStr) -> SecretStr:
    if not value.get_secret_value().startswith(_POSTGRES_SCHEMES):
        raise ValueError("is not a postgresql:// URL")
    return value


def _network(value: Any) -> IPv4Network | IPv6Network:
    try:
        if isinstance(value, str):  # a bare number would be an address, too
            return ip_network(value)
    except ValueError:
        pass
    raise ValueError(f"{value!r:.100} is not a network like 10.0.0.0/8 or fd00::/8, without host bits")


def _certifier(entry: str) -> TrustedCertifier:
    certifier, kind, role, *fields = entry.split(":")
    names = tuple(fields[0].split("+")) if fields else ()
    return TrustedCertifier(certifier=bytes.fromhex(certifier), type=kind, role=CallerRole(role), fields=names)


def _member_certifier(entry: str) -> tuple[IdentityKey, str]:
    certifier, _, kind = entry.partition(":")
    return bytes.fromhex(certifier), kind


Integer: TypeAlias = Annotated[int, BeforeValidator(_refuse_flag)]
Decimal: TypeAlias = Annotated[float, BeforeValidator(_refuse_flag)]
NetworkName: TypeAlias = Annotated[
    str,
    _text("[a-z0-9][a-z0-9._-]{0,62}", "the name of a network"),
    Accepts("1 to 63 lower-case letters, digits, dots, hyphens, underscores; the first a letter or digit"),
]
HostAndPort: TypeAlias = Annotated[str, AfterValidator(_bind), Accepts("host:port")]
HttpUrl: TypeAlias = Annotated[
    str, Field(max_length=URL_CHARS_MAX), AfterValidator(_http_url), Accepts("an http:// or https:// URL")
]
PostgresUrl: TypeAlias = Annotated[SecretStr, AfterValidator(_postgres_url), Accepts("a postgresql:// URL")]
Token: TypeAlias = Annotated[SecretStr, Accepts("a token")]

Multiaddr: TypeAlias = Annotated[
    str,
    _item(
        r"/(ip4|ip6|dns|dns4|dns6)/[^/\s]+/tcp/\d{1,5}(/p2p/[^/\s]+)?",
        "a TCP multiaddr like /ip4/192.0.2.1/tcp/4001",
    ),
    Accepts("multiaddrs like /ip4/192.0.2.1/tcp/4001"),
]
Identity: TypeAlias = Annotated[
    IdentityKey,
    _item(_IDENTITY, "an identity key: 66 hex digits that begin with 02 or 03", bytes.fromhex),
    Accepts("identity keys, 66 hex digits each"),
]
Topic: TypeAlias = Annotated[
    str,
    PlainValidator(_topic),
    Accepts("topics"),
]
MemberCertifier: TypeAlias = Annotated[
    tuple[IdentityKey, str],
    _item(f"{_IDENTITY}:{_BASE64_32}", "certifier:type, an identity key and 32 bytes in base64", _member_certifier),
    Accepts("certifier:type"),
]
Certifier: TypeAlias = Annotated[
    TrustedCertifier,
    _item(
        rf"{_IDENTITY}:{_BASE64_32}:({_ROLES})(:{_FIELD}(\+{_FIELD})*)?",
        "certifier:type:role:fields, an identity key, 32 bytes in base64, operator, owner or reader, "
        "and names joined by +",
        _certifier,
    ),
    Accepts("certifier:type:role or certifier:type:role:field+field"),
]
SerialNumber: TypeAlias = Annotated[
    str,
    _item(_BASE64_32, "a serial number: 32 bytes in base64"),
    Accepts("serial numbers, 32 bytes in base64 each"),
]
IpNetwork: TypeAlias = Annotated[
    IPv4Network | IPv6Network, PlainValidator(_network), Accepts("networks like 10.0.0.0/8")
]

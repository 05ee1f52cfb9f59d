"""Callback URLs of webhook subscriptions: what is accepted, before anything is sent there."""

import ipaddress
import re
from collections.abc import Sequence
from typing import Final

import attrs
import httpx

from node.runtime.guarded_network import PORTS, Network, is_allowed
from protocols.errors import ClientFault

URL_CHARS_MAX: Final = 2_048
HOST: Final = re.compile(r"[A-Za-z0-9._-]{1,253}|\[?[0-9a-fA-F:.]{2,45}\]?")


class InvalidCallbackError(ClientFault):
    """Field ``field``: a JSON pointer."""

    code = "invalid-callback"


@attrs.frozen(kw_only=True)
class CallbackTarget:
    """The parts of a callback URL that a request needs."""

    host: str
    port: int
    authority: bytes
    target: bytes
    secure: bool


def read_callback_url(url: str, allowed: Sequence[Network]) -> CallbackTarget:
    """Check a callback URL and take it apart; no name is looked up.

    Raises:
        InvalidCallbackError: It is not an http(s) URL without user and fragment, or can never be called from here.
    """
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise _refused("must be a URL") from error
    if len(url) > URL_CHARS_MAX or not url.isprintable() or " " in url:
        raise _refused(f"must be a URL of at most {URL_CHARS_MAX} printable characters")
    host, port = parsed.raw_host.decode("ascii"), parsed.port or PORTS.get(parsed.scheme, 0)
    if parsed.scheme not in PORTS or parsed.userinfo or parsed.fragment:
        raise _refused("must have the form https://host/path, without user and fragment")
    if HOST.fullmatch(host) is None or not 0 < port < 2**16:
        raise _refused("must name a host and a port from 1 to 65535")
    secure = parsed.scheme == "https"
    if not secure and not allowed:
        raise _refused("must be https: this node uses plain http only in networks that its operator allows")
    receiver = CallbackTarget(
        host=host,
        port=port,
        authority=parsed.netloc,
        target=parsed.raw_path,
        secure=secure,
    )
    try:
        literal = ipaddress.ip_address(receiver.host.strip("[]"))
    except ValueError:
        return receiver
    if not is_allowed(literal, allowed, public=secure):
        raise _refused("leads to an address that this node does not call")
    return receiver


def _refused(why: str) -> InvalidCallbackError:
    return InvalidCallbackError(
        f"/callbackUrl: {why}",
        field="/callbackUrl",
        remedy="send an https URL of a public host; OVERLAY_OUTBOUND_ALLOW allows others",
    )

"""Calls of the HTTP interface: what is sent, and whether what comes back is an answer that the node may give."""

import time
from collections.abc import Mapping
from typing import Any, Final

import attrs
import orjson

from node.runtime.keyring import Keyring
from protocols.authentication import sign_headers
from protocols.messages import IdentityKey

PROBLEM_TYPE: Final = "application/problem+json"
PROBLEM_PREFIX: Final = "urn:overlay:problem:"
PROBLEM_MEMBERS: Final = ("type", "title", "status", "detail", "remedy")
SHOWN: Final = 300
ELSEWHERE: Final = 308  # a path with an empty part leads to the one without
NO_METHOD: Final = 405  # the path is another operation's


@attrs.frozen(kw_only=True)
class Call:
    """A request.

    Attributes:
        operation: Its id in the description.
        target: Path and query, as they are sent.
        records: Events in the body.
        signer: Who signs it; None: nobody.
        spoil_signature: Whether the signature is one that does not hold.
        chunked: Whether the body is sent in pieces of unknown number.
    """

    operation: str
    method: str
    target: str
    headers: tuple[tuple[str, bytes], ...] = ()
    body: bytes | None = None
    records: int = 0
    signer: Keyring | None = None
    spoil_signature: bool = False
    chunked: bool = False


@attrs.frozen(kw_only=True)
class Answered:
    """An answer. ``body`` is empty for a stream, of which the head alone is read."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def media_type(self) -> str:
        return self.headers.get("content-type", "").partition(";")[0].strip()

    @property
    def code(self) -> str:
        """Of the problem that it is, without the prefix; empty for other answers."""
        if self.media_type != PROBLEM_TYPE:
            return ""
        try:
            return str(orjson.loads(self.body)["type"]).removeprefix(PROBLEM_PREFIX)
        except (ValueError, KeyError, TypeError):
            return ""

    def document(self) -> Any:
        """The JSON value of the body; None where it is none, or compressed."""
        if "json" not in self.media_type or "content-encoding" in self.headers:
            return None
        try:
            return orjson.loads(self.body)
        except ValueError:
            return None


class Nonces:
    """Nanoseconds since 1970, never one twice."""

    def __init__(self) -> None:
        self._last = 0

    def next(self) -> int:
        self._last = max(self._last + 1, time.time_ns())
        return self._last


def signature_headers(call: Call, node: IdentityKey, nonces: Nonces) -> dict[str, str]:
    """The headers that prove who calls."""
    if call.signer is None:
        return {}
    signed = sign_headers(
        call.signer.key,
        node,
        method=call.method,
        target=call.target,
        body=call.body or b"",
        nonce_ns=nonces.next(),
    )
    headers = dict(signed)
    if call.spoil_signature:
        headers["X-Signature"] = headers["X-Signature"][:-2] + "00"
    return headers


def fault_of(answered: Answered, described: Mapping[str, Any]) -> str:
    """What is wrong with an answer; empty if nothing is.

    Args:
        described: The answers of the operation by status, as in the node's description.
    """
    status = answered.status
    if status < 400:
        return "" if str(status) in described or status == ELSEWHERE else f"{status} is not described"
    if status >= 500 and status != 503:
        return f"{status}: {_shown(answered)}"
    if "content-encoding" in answered.headers:
        return ""
    response = described.get(str(status), described.get("404") if status == NO_METHOD else None)
    if response is None:
        return f"{status} is not described: {_shown(answered)}"
    if answered.media_type != PROBLEM_TYPE:
        return (
            ""
            if answered.media_type in response.get("content", {})
            else f"{status} is no problem: {_shown(answered)}"
        )
    document = answered.document()
    if not isinstance(document, dict) or any(not document.get(name) for name in PROBLEM_MEMBERS):
        return f"{status} is a problem without its members: {_shown(answered)}"
    if document["status"] != status:
        return f"{status} is a problem that says {document['status']}"
    examples = response["content"].get(PROBLEM_TYPE, {}).get("examples", {})
    if examples and status != NO_METHOD and answered.code not in examples:
        return f"{status} is a problem that is not described: {_shown(answered)}"
    if status in (429, 503) and "retry-after" not in answered.headers:
        return f"{status} without Retry-After: {_shown(answered)}"
    return ""


def _shown(answered: Answered) -> str:
    return f"{answered.media_type} {answered.body[:SHOWN]!r}"

"""How webhook deliveries are authenticated: signature schemes as data, and the one check that reads them. Pure.

A scheme states which header holds the signature, how it is encoded and what is signed. HMAC-SHA256 (RFC 2104)
throughout, over the body as it came, before it is parsed.
"""

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from typing import Final, Literal

import attrs

from protocols.errors import ClientFault

Encoding = Literal["hex", "base64"]
Proof = Literal["hmac", "bearer", "none"]
Greeting = Literal["", "github", "slack"]

CANDIDATES_MAX: Final = 16  # signatures of one delivery: senders sign with old and new secrets while they rotate
DIGEST_CHARS_MAX: Final = 128
SECRET_PREFIX: Final = "whsec_"  # noqa: S105  # how secrets of Standard Webhooks begin
PARTS: Final = re.compile(r"(\{body\}|\{timestamp\}|\{id\})")
SECONDS: Final = re.compile("[0-9]{1,13}", re.ASCII)
MILLIS_FROM: Final = 10**11  # a time in seconds from here on would be past the year 5000


class SignatureRefusedError(ClientFault):
    """A delivery is not authenticated. The text is for the source's operator; clients do not get the reason."""

    code = "signature-refused"


@attrs.frozen(kw_only=True)
class SignatureScheme:
    """How deliveries are signed.

    Attributes:
        header: The header that holds the signature, or the token of ``bearer``.
        prefix: Before each signature; items with another prefix are ignored.
        separator: Between several items of the header; empty where it holds one.
        template: What is signed, of ``{body}``, ``{timestamp}``, ``{id}`` and text between them.
        timestamp_header: The header that holds the delivery's time, in seconds or milliseconds since 1970.
        timestamp_prefix: Or the prefix of the time among the items of ``header``.
        id_header: The header that holds the delivery's id, where that is signed.
        tolerance_s: How far the time may be from the node's clock: the replay window.
        base64_secret: Whether a secret is the base64 of its key, after ``whsec_``.
    """

    proof: Proof = "hmac"
    header: str = ""
    prefix: str = ""
    separator: str = ""
    encoding: Encoding = "hex"
    template: str = "{body}"
    timestamp_header: str = ""
    timestamp_prefix: str = ""
    id_header: str = ""
    tolerance_s: int = 300
    base64_secret: bool = False


@attrs.frozen(kw_only=True)
class SenderPreset:
    """A kind of sender: its scheme, and where its events state their type, id and time by default.

    Attributes:
        type_header, type_path, id_header, id_path, time_path: Headers and JSON pointers; empty where there is none.
        greeting: How the sender tests an address before it sends events.
    """

    scheme: SignatureScheme
    type_header: str = ""
    type_path: str = ""
    id_header: str = ""
    id_path: str = ""
    time_path: str = ""
    greeting: Greeting = ""


PRESETS: Final[dict[str, SenderPreset]] = {
    # docs.github.com, "Validating webhook deliveries", "Webhook events and payloads"
    "github": SenderPreset(
        scheme=SignatureScheme(header="X-Hub-Signature-256", prefix="sha256="),
        type_header="X-GitHub-Event",
        id_header="X-GitHub-Delivery",
        greeting="github",
    ),
    # docs.stripe.com, "Verify webhook signatures manually"
    "stripe": SenderPreset(
        scheme=SignatureScheme(
            header="Stripe-Signature",
            prefix="v1=",
            separator=",",
            template="{timestamp}.{body}",
            timestamp_prefix="t=",
        ),
        type_path="/type",
        id_path="/id",
        time_path="/created",
    ),
    # api.slack.com, "Verifying requests from Slack"
    "slack": SenderPreset(
        scheme=SignatureScheme(
            header="X-Slack-Signature",
            prefix="v0=",
            template="v0:{timestamp}:{body}",
            timestamp_header="X-Slack-Request-Timestamp",
        ),
        type_path="/event/type",
        id_path="/event_id",
        time_path="/event_time",
        greeting="slack",
    ),
    # the specification of Standard Webhooks 1.0.0
    "standard": SenderPreset(
        scheme=SignatureScheme(
            header="webhook-signature",
            prefix="v1,",
            separator=" ",
            encoding="base64",
            template="{id}.{timestamp}.{body}",
            timestamp_header="webhook-timestamp",
            id_header="webhook-id",
            base64_secret=True,
        ),
        type_path="/type",
        id_header="webhook-id",
        time_path="/timestamp",
    ),
    "hmac": SenderPreset(scheme=SignatureScheme()),
    "bearer": SenderPreset(scheme=SignatureScheme(proof="bearer", header="Authorization", prefix="Bearer ")),
    "none": SenderPreset(scheme=SignatureScheme(proof="none")),
}


def secret_key(scheme: SignatureScheme, secret: str) -> bytes:
    """The key that a secret stands for.

    Raises:
        ValueError: It does not have the scheme's form.
    """
    if not scheme.base64_secret:
        return secret.encode()
    try:
        return base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except binascii.Error:
        raise ValueError(f"must have secrets of base64, after {SECRET_PREFIX} or alone") from None


def check_signature(
    scheme: SignatureScheme, secrets: Sequence[str], headers: Mapping[str, str], body: bytes, now_s: float
) -> None:
    """Check that a delivery was signed with one of the secrets, and recently.

    Takes time in proportion to the length of ``body``, for each secret.

    Args:
        headers: By lower-case name.

    Raises:
        SignatureRefusedError: It was not, or its time is more than ``tolerance_s`` away from ``now_s``.
    """
    if scheme.proof == "none":
        return
    items = _items(scheme, headers)
    if scheme.proof == "bearer":
        if not _is_token(scheme, secrets, items[0]):
            raise SignatureRefusedError(f"the token in {scheme.header} is not a secret of this source")
        return
    timestamp = _timestamp(scheme, headers, items, now_s)
    candidates = [
        _digest(item.removeprefix(scheme.prefix), scheme.encoding)
        for item in items
        if item.startswith(scheme.prefix) and len(item) <= DIGEST_CHARS_MAX
    ]
    values = {"{body}": body, "{timestamp}": timestamp.encode(), "{id}": _header(scheme.id_header, headers).encode()}
    parts = [values.get(part, part.encode()) for part in PARTS.split(scheme.template)]
    is_known = False
    for secret in secrets:
        digest = _hmac(secret_key(scheme, secret), parts)
        for candidate in candidates[:CANDIDATES_MAX]:
            is_known |= hmac.compare_digest(digest, candidate)
    if not is_known:
        raise SignatureRefusedError(f"no signature in {scheme.header} was made with a secret of this source")


def _items(scheme: SignatureScheme, headers: Mapping[str, str]) -> list[str]:
    text = _header(scheme.header, headers)
    return [item.strip() for item in text.split(scheme.separator)] if scheme.separator else [text.strip()]


def _header(name: str, headers: Mapping[str, str]) -> str:
    if not name:
        return ""
    found = headers.get(name.lower(), "")
    if not found:
        raise SignatureRefusedError(f"the header {name} is missing")
    return found


def _is_token(scheme: SignatureScheme, secrets: Sequence[str], item: str) -> bool:
    """Compares all secrets, so that the time it takes reveals nothing of them."""
    prefix, token = item[: len(scheme.prefix)], item[len(scheme.prefix) :].strip()
    is_known = False
    for secret in secrets:
        is_known |= hmac.compare_digest(secret.encode(), token.encode())
    return is_known and prefix.lower() == scheme.prefix.lower()  # RFC 9110, 11.1: case-insensitive


def _timestamp(scheme: SignatureScheme, headers: Mapping[str, str], items: Sequence[str], now_s: float) -> str:
    """The time of a delivery as it was signed, checked against the clock; empty where the scheme has none."""
    if scheme.timestamp_prefix:
        marked = [item for item in items if item.startswith(scheme.timestamp_prefix)]
        if len(marked) != 1:
            raise SignatureRefusedError(f"{scheme.header} must hold exactly one time")
        text = marked[0].removeprefix(scheme.timestamp_prefix)
    elif scheme.timestamp_header:
        text = _header(scheme.timestamp_header, headers)
    else:
        return ""
    if SECONDS.fullmatch(text) is None:
        raise SignatureRefusedError("the time of the delivery must be 1 to 13 digits")
    delivery_s = int(text) if int(text) < MILLIS_FROM else int(text) / 1_000
    if abs(now_s - delivery_s) > scheme.tolerance_s:
        raise SignatureRefusedError(
            f"the delivery is {round(now_s - delivery_s)} s old, at most {scheme.tolerance_s} s are taken"
        )
    return text


def _digest(text: str, encoding: Encoding) -> bytes:
    """The bytes of a signature; empty where it is not encoded properly, which equals no digest."""
    try:
        return bytes.fromhex(text) if encoding == "hex" else base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        return b""


def _hmac(key: bytes, parts: Sequence[bytes]) -> bytes:
    made = hmac.new(key, digestmod=hashlib.sha256)
    for part in parts:
        made.update(part)
    return made.digest()

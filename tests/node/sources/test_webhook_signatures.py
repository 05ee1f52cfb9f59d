"""Signature schemes: what senders' own documentation shows, and what is refused."""

import base64
import hashlib
import hmac
from datetime import UTC, datetime

import attrs
import pytest
from standardwebhooks import Webhook

from node.sources.webhook_signatures import PRESETS, SignatureRefusedError, SignatureScheme, check_signature

GITHUB, STRIPE, SLACK = PRESETS["github"].scheme, PRESETS["stripe"].scheme, PRESETS["slack"].scheme
STANDARD, BEARER = PRESETS["standard"].scheme, PRESETS["bearer"].scheme

# docs.github.com, "Validating webhook deliveries", "Testing the webhook payload validation"
GITHUB_SECRET = "It's a Secret to Everybody"
GITHUB_BODY = b"Hello, World!"
GITHUB_SIGNATURE = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"

# api.slack.com, "Verifying requests from Slack"
SLACK_SECRET = "8f742231b10e8888abcd99yyyzzz85a5"
SLACK_S = 1531420618
SLACK_BODY = (
    b"token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V"
    b"&channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text="
    b"&response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN"
    b"&trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c"
)
SLACK_SIGNATURE = "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503"


def check(
    scheme: SignatureScheme, secret: str | tuple[str, ...], headers: dict[str, str], body: bytes, now_s: float = 0.0
) -> None:
    secrets = (secret,) if isinstance(secret, str) else secret
    check_signature(scheme, secrets, {name.lower(): value for name, value in headers.items()}, body, now_s)


def refused(*args: object, **more: object) -> str:
    with pytest.raises(SignatureRefusedError) as found:
        check(*args, **more)  # type: ignore[arg-type]
    return str(found.value)


def hexed(secret: str, text: bytes) -> str:
    return hmac.new(secret.encode(), text, hashlib.sha256).hexdigest()


def test_github_as_documented() -> None:
    headers = {"X-Hub-Signature-256": GITHUB_SIGNATURE}
    check(GITHUB, GITHUB_SECRET, headers, GITHUB_BODY)
    check(GITHUB, ("the next one", GITHUB_SECRET), headers, GITHUB_BODY)
    assert "no signature" in refused(GITHUB, "another", headers, GITHUB_BODY)
    assert "no signature" in refused(GITHUB, GITHUB_SECRET, headers, GITHUB_BODY + b" ")
    assert "missing" in refused(GITHUB, GITHUB_SECRET, {}, GITHUB_BODY)
    assert "missing" in refused(GITHUB, GITHUB_SECRET, {"X-Hub-Signature-256": ""}, GITHUB_BODY)


@pytest.mark.parametrize(
    "signature", ["sha256=", "sha256=zz", GITHUB_SIGNATURE[7:], "sha1=" + GITHUB_SIGNATURE[7:], "sha256=" + "0" * 500]
)
def test_what_is_no_signature_is_none(signature: str) -> None:
    assert refused(GITHUB, GITHUB_SECRET, {"X-Hub-Signature-256": signature}, GITHUB_BODY)


def test_slack_as_documented() -> None:
    headers = {"X-Slack-Signature": SLACK_SIGNATURE, "X-Slack-Request-Timestamp": str(SLACK_S)}
    check(SLACK, SLACK_SECRET, headers, SLACK_BODY, now_s=SLACK_S)
    check(SLACK, SLACK_SECRET, headers, SLACK_BODY, now_s=SLACK_S + 300)
    for now_s in (SLACK_S + 301, SLACK_S - 301):
        assert "s old" in refused(SLACK, SLACK_SECRET, headers, SLACK_BODY, now_s=now_s)
    moved = headers | {"X-Slack-Request-Timestamp": str(SLACK_S + 1)}
    assert "no signature" in refused(SLACK, SLACK_SECRET, moved, SLACK_BODY, now_s=SLACK_S)
    assert "missing" in refused(
        SLACK, SLACK_SECRET, {"X-Slack-Signature": SLACK_SIGNATURE}, SLACK_BODY, now_s=SLACK_S
    )
    for wrong in ("now", "-1", "1" * 40, "١٢٣"):
        assert "must be 1 to 13 digits" in refused(
            SLACK, SLACK_SECRET, headers | {"X-Slack-Request-Timestamp": wrong}, SLACK_BODY, now_s=SLACK_S
        )


def test_stripe_takes_several_signatures_and_one_time() -> None:
    body, secret, at = b'{"id":"evt_1"}', "whsec_test_secret", 1_700_000_000
    good = hexed(secret, b"%d.%b" % (at, body))
    headers = {"Stripe-Signature": f"t={at},v1={'0' * 64},v1={good},v0={'1' * 64}"}
    check(STRIPE, secret, headers, body, now_s=at + 10)
    only_old = {"Stripe-Signature": f"t={at},v0={good}"}
    assert "no signature" in refused(STRIPE, secret, only_old, body, now_s=at)
    twice = {"Stripe-Signature": f"t={at},t={at},v1={good}"}
    assert "one time" in refused(STRIPE, secret, twice, body, now_s=at)
    assert "s old" in refused(STRIPE, secret, headers, body, now_s=at + 301)
    many = ",".join(["v1=" + "0" * 64] * 16)
    hidden = {"Stripe-Signature": f"t={at},{many},v1={good}"}
    assert "no signature" in refused(STRIPE, secret, hidden, body, now_s=at), "candidates are bounded"


def test_standard_webhooks_as_their_own_package_signs() -> None:
    secret = "whsec_" + base64.b64encode(b"k" * 24).decode()
    body = '{"type":"user.created","timestamp":"2024-01-01T00:00:00Z","data":{"é":1}}'
    at = datetime(2024, 1, 1, tzinfo=UTC)
    signature = Webhook(secret).sign("msg_1", at, body)
    headers = {"webhook-id": "msg_1", "webhook-timestamp": str(int(at.timestamp())), "webhook-signature": signature}
    now_s = at.timestamp()
    check(STANDARD, secret, headers, body.encode(), now_s=now_s)
    others = f"v1a,abc v1,{base64.b64encode(bytes(32)).decode()} {signature}"
    check(STANDARD, secret, headers | {"webhook-signature": others}, body.encode(), now_s=now_s)
    assert refused(STANDARD, secret, headers | {"webhook-id": "msg_2"}, body.encode(), now_s=now_s)
    assert refused(STANDARD, "whsec_" + base64.b64encode(b"j" * 24).decode(), headers, body.encode(), now_s=now_s)


def test_a_scheme_of_ones_own() -> None:
    scheme = SignatureScheme(
        header="X-Sig",
        encoding="base64",
        template="{id}|{timestamp}|{body}|end",
        timestamp_header="X-Time",
        id_header="X-Id",
    )
    body = b"{timestamp}{id}"  # what looks like a part of the template is the sender's text
    signature = base64.b64encode(hmac.new(b"s", b"7|1700000000000|%b|end" % body, hashlib.sha256).digest()).decode()
    headers = {"X-Sig": signature, "X-Id": "7", "X-Time": "1700000000000"}
    check(scheme, "s", headers, body, now_s=1_700_000_000)
    assert refused(attrs.evolve(scheme, template="{body}"), "s", headers, body, now_s=1_700_000_000)


def test_bearer() -> None:
    check(BEARER, "token", {"Authorization": "bearer token"}, b"")
    check(BEARER, ("old", "token"), {"Authorization": "Bearer token"}, b"")
    for wrong in ("Bearer tokens", "Bearer ", "token", "Basic token", "Bearer tökén"):
        assert refused(BEARER, "token", {"Authorization": wrong}, b"")

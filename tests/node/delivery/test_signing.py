"""Signatures of deliveries, checked with the official package, and the secrets they are made with."""

import base64
import datetime

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook, WebhookVerificationError

from node.delivery.cursor import Cursor
from node.delivery.signatures import make_secret, message_id, read_secret, signed_headers
from node.delivery.webhook_delivery import WebhookSecrets


def secret_of(key: bytes) -> str:
    return "whsec_" + base64.b64encode(key).decode()


def headers_of(body: bytes, *secrets: str, timestamp_s: int | None = None) -> dict[str, str]:
    now_s = int(datetime.datetime.now(datetime.UTC).timestamp()) if timestamp_s is None else timestamp_s
    headers = signed_headers("msg_1", now_s, body, [read_secret(secret) for secret in secrets])
    return {name.decode(): value.decode() for name, value in headers}


documents = st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5), max_size=3)


@given(st.binary(min_size=24, max_size=64))
def test_secrets_of_every_length_are_read_back(key: bytes) -> None:
    assert read_secret(secret_of(key)) == key


@pytest.mark.parametrize("size", [0, 1, 23, 65, 100])
def test_keys_of_other_lengths_are_refused(size: int) -> None:
    with pytest.raises(ValueError, match="a secret"):
        read_secret(secret_of(bytes(size)))


@pytest.mark.parametrize(
    "text",
    ["", "whsec_", "WHSEC_" + "A" * 44, "A" * 44, "whsec_" + "A" * 43, "whsec_" + "-" * 44, "whsec_ " + "A" * 43],
)
def test_other_texts_are_no_secrets(text: str) -> None:
    with pytest.raises(ValueError, match="a secret must"):
        read_secret(text)


def test_made_secrets_differ_and_are_long_enough() -> None:
    made = {make_secret() for _ in range(20)}
    assert len(made) == 20
    assert {len(read_secret(secret)) for secret in made} == {32}


@given(documents)
def test_the_official_package_accepts_every_body(document: dict[str, object]) -> None:
    body = orjson.dumps({name: str(value) for name, value in document.items()})
    secret = make_secret()
    assert Webhook(secret).verify(body, headers_of(body, secret)) == orjson.loads(body)


@pytest.mark.parametrize("part", ["webhook-id", "webhook-timestamp", "webhook-signature", "body"])
def test_nothing_signed_can_be_changed(part: str) -> None:
    secret, body = make_secret(), b'{"a":1}'
    headers = headers_of(body, secret)
    if part == "body":
        body = b'{"a":2}'
    elif part == "webhook-timestamp":
        headers[part] = str(int(headers[part]) + 1)
    elif part == "webhook-signature":
        flipped = "B" if headers[part][5] == "A" else "A"
        headers[part] = headers[part][:5] + flipped + headers[part][6:]
    else:
        headers[part] += "x"
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(body, headers)


def test_a_delivery_of_long_ago_is_refused_by_receivers() -> None:
    """A retry is signed as of now, so that its age does not make it invalid."""
    secret = make_secret()
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(b"{}", headers_of(b"{}", secret, timestamp_s=1_700_000_000))


def test_while_a_secret_replaces_another_both_verify_and_a_third_does_not() -> None:
    new, old, other = (make_secret() for _ in range(3))
    headers = headers_of(b"{}", new, old)
    for secret in (new, old):
        Webhook(secret).verify(b"{}", headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(other).verify(b"{}", headers)


@pytest.mark.parametrize(("now_ms", "count"), [(999, 2), (1_000, 1), (1_001, 1)])
def test_the_secret_before_signs_until_its_time_is_over(now_ms: int, count: int) -> None:
    secrets = WebhookSecrets(current=make_secret(), previous=make_secret(), previous_until_ms=1_000)
    assert len(secrets.keys(now_ms)) == count
    assert secrets.keys(now_ms)[0] == read_secret(secrets.current)
    assert secrets.current not in repr(secrets)
    assert (secrets.previous or "") not in repr(secrets)


@given(st.lists(st.builds(Cursor, st.integers(0, 99), st.integers(0, 99)), max_size=4, unique=True))
def test_a_delivery_has_one_id_for_its_subscription_and_events(cursors: list[Cursor]) -> None:
    name = message_id("sub_1", cursors)
    assert name == message_id("sub_1", list(cursors))
    assert name != message_id("sub_2", cursors)
    assert name != message_id("sub_1", [*cursors, Cursor(100, 1)])
    assert name.startswith("msg_")
    assert name.isascii()

"""Where webhooks go: over verified TLS, to addresses that may be called, whatever names lead to."""

import datetime
import ipaddress
import itertools
import socket
import ssl
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import orjson
import pytest
import trio
import trustme
from hypothesis import given
from hypothesis import strategies as st

from node.delivery.callback_url import InvalidCallbackError, read_callback_url
from node.delivery.webhook_connection import WebhookConnection, WebhookConnector, WebhookResponse
from node.runtime.guarded_network import Network
from tests.node.delivery.webhooks import LOOPBACK, certify, has_arrived, shown, subscribe
from tests.node.running import Running, running
from tests.node.webhook_receiver import (
    Receiver,
    answers,
    receiving,
)

# --- TLS ---------------------------------------------------------------------------------------------------------


def server_tls(certificate: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context


async def test_tls_is_verified(postgres_url: str) -> None:
    authority, stranger = trustme.CA(), trustme.CA()
    past = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    certificates = {
        "ok": authority.issue_cert("127.0.0.1"),
        "self-signed": stranger.issue_cert("127.0.0.1"),
        "expired": authority.issue_cert("127.0.0.1", not_after=past),
        "another name": authority.issue_cert("receiver.example"),
    }
    async with running(postgres_url, tls=client) as node:
        await node.source()
        ids = await certify(node, 2)
        for kind, certificate in certificates.items():
            async with receiving(tls=server_tls(certificate)) as receiver:
                subscription = await subscribe(node, receiver)
                if kind == "ok":
                    await receiver.until(partial(has_arrived, receiver, ids))
                    assert receiver.connections == 1
                    continue
                with trio.fail_after(20):
                    while not (state := (await shown(node, subscription))["state"])["failures"]:
                        await trio.sleep(0.02)
                assert state["lastFailure"]["reason"].startswith("TLS: its certificate is refused"), kind
                assert receiver.hooks == []
        async with receiving() as plain:
            plain.scheme = "https"
            subscription = await subscribe(node, plain)
            with trio.fail_after(20):
                while not (failure := (await shown(node, subscription))["state"])["failures"]:
                    await trio.sleep(0.02)
            assert failure["lastFailure"]["reason"].startswith("TLS:")


# --- where it may go ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "https://127.0.0.1/",
        "https://10.0.0.1/",
        "https://169.254.169.254/latest/meta-data",
        "https://[::1]/",
        "https://[::ffff:127.0.0.1]/",
        "https://[::ffff:169.254.169.254]/",
        "https://[64:ff9b::7f00:1]/",
        "https://0.0.0.0/",
        "http://example.org/",
        "http://8.8.8.8/",
        "ftp://example.org/",
        "file:///etc/passwd",
        "https://user:password@example.org/",
        "https://example.org/#part",
        "https:///path",
        "example.org",
        "https://0177.0.0.1/",
        "https://exa mple.org/",
        "https://example.org:99999/",
        "https://example.org\\@127.0.0.1/",
        "https://[fe80::1%25eth0]/",
        "https://exam'ple/",
        "https://example.org/" + 3_000 * "x",
    ],
)
def test_what_is_never_called_is_refused_at_once(url: str) -> None:
    with pytest.raises(InvalidCallbackError):
        read_callback_url(url, ())


@given(
    st.lists(st.sampled_from([*"aé☃[]:@#?/%\\ \u200bß_1'", "::1", "xn--", "..", "99999", "%zz", ".org"]), max_size=9)
)
def test_no_text_is_more_than_refused(parts: list[str]) -> None:
    with suppress(InvalidCallbackError):
        receiver = read_callback_url("https://" + "".join(parts), ())
        assert 0 < receiver.port < 65_536


def connected(url: str, allowed: Sequence[Network]) -> WebhookConnection:
    return WebhookConnection(read_callback_url(url, allowed), WebhookConnector(allowed))


async def test_it_is_refused_over_http(node: Running) -> None:
    document = {"subscriptionType": "webhook", "callbackUrl": "https://169.254.169.254/latest/meta-data"}
    answer = await node.client.post("/overlay/subscriptions", json=document)
    assert (answer.status_code, answer.json()["field"]) == (422, "/callbackUrl"), answer.text


@pytest.mark.parametrize("host", ["localhost", "2130706433", "0x7f.1", "127.1"])
async def test_no_spelling_of_this_machine_is_called(host: str) -> None:
    connection = connected(f"https://{host}:9/", ())
    answer = await connection.post([], b"{}", 5)
    assert answer.status is None
    assert answer.reason.startswith(("forbidden address", "its name is not resolved"))


class Names:
    """A resolver whose answers change, as those of a hostile name server would."""

    def __init__(self, *answers: list[str]) -> None:
        self._answers = itertools.chain(answers, itertools.repeat(answers[-1]))

    def __call__(self, host: str, port: int, *_: object) -> list[tuple[Any, ...]]:
        return [
            (socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
            for address in next(self._answers)
        ]


async def test_a_name_that_changes_its_answer_gains_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    allowed = [ipaddress.ip_network("127.0.0.2/32")]
    inside = Receiver(None)
    async with (
        receiving(Receiver(None), host="127.0.0.2") as receiver,
        receiving(inside, host="127.0.0.1", port=receiver.port),
    ):
        monkeypatch.setattr(socket, "getaddrinfo", Names(["127.0.0.2"], ["127.0.0.1"]))
        connection = connected(f"http://rebound.example:{receiver.port}/", allowed)
        assert await connection.post([], b"{}", 5) == WebhookResponse(status=204)
        assert await connection.post([], b"{}", 5) == WebhookResponse(status=204), (
            "the connection stays where it was judged"
        )
        await connection.aclose()
        refused = await connection.post([], b"{}", 5)
        assert refused.reason.startswith("forbidden address")
        assert inside.connections == 0
    assert receiver.connections == 1
    assert receiver.hooks[0].headers["host"] == f"rebound.example:{receiver.port}"


@pytest.mark.parametrize("second", ["127.0.0.1", "169.254.169.254", "::ffff:10.0.0.1", "fd00:ec2::254"])
async def test_one_address_that_may_not_be_called_is_enough(monkeypatch: pytest.MonkeyPatch, second: str) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", Names(["93.184.216.34", second]))
    answer = await connected("https://mixed.example/", ()).post([], b"{}", 5)
    assert answer.reason.startswith("forbidden address")


async def test_what_a_post_leads_to_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", Names(["10.1.2.3"]))
    answer = await connected("https://inner.example/", ()).post([], b"{}", 5)
    assert "10.1.2.3" not in answer.reason


async def test_plain_http_goes_to_named_networks_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", Names(["93.184.216.34"]))
    answer = await connected("http://public.example/", [LOOPBACK]).post([], b"{}", 5)
    assert answer.reason.startswith("forbidden address")


async def test_a_connection_that_was_closed_meanwhile_is_made_anew() -> None:
    async with receiving(Receiver(None)) as receiver:

        async def takes_and_closes(stream: trio.abc.Stream) -> bool:
            await answers(204)(stream)
            return False

        receiver.otherwise = takes_and_closes
        connection = connected(receiver.url, [LOOPBACK])
        for _ in range(3):
            assert (await connection.post([], orjson.dumps({"type": "x"}), 5)).delivered
        await connection.aclose()
    assert receiver.connections == 3

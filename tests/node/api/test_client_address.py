"""What a client is counted as."""

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.api.client_address import network_of
from node.api.forwarded import client_of
from node.api.server_limits import ServerLimits
from node.ingest.admission_control import AdmissionControl
from tests.node.running import running


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        (None, "local"),
        ("<local>", "local"),
    ],
)
def test_a_network_is_counted_as_one_client(address: str | None, network: str) -> None:
    assert network_of(address) == network


PROXIES = tuple(ip_network(each) for each in ("10.0.0.0/8", "127.0.0.1", "2001:db8:ff::/48"))


@pytest.mark.parametrize(
    ("peer", "headers", "client"),
    [
        ("10.0.0.1", {}, "10.0.0.1"),
        ("192.0.2.1", {"x-forwarded-for": "198.51.100.7"}, "192.0.2.1"),  # a client that says so itself
        ("192.0.2.1", {"forwarded": "for=198.51.100.7"}, "192.0.2.1"),
        ("10.0.0.1", {"x-forwarded-for": "198.51.100.7"}, "198.51.100.7"),
        ("::ffff:10.0.0.1", {"x-forwarded-for": "198.51.100.7"}, "198.51.100.7"),
        ("2001:db8:ff::1", {"x-forwarded-for": "2001:db8::7"}, "2001:db8::7"),
        # the last that is no proxy of ours: what stands before it is its own word
        ("10.0.0.1", {"x-forwarded-for": "203.0.113.9, 198.51.100.7"}, "198.51.100.7"),
        ("10.0.0.1", {"x-forwarded-for": "203.0.113.9, 198.51.100.7, 10.0.0.3 ,127.0.0.1"}, "198.51.100.7"),
        ("10.0.0.1", {"x-forwarded-for": "10.0.0.5, 10.0.0.4"}, "10.0.0.5"),  # all are ours
        ("10.0.0.1", {"x-forwarded-for": "198.51.100.7:4711"}, "198.51.100.7"),
        ("10.0.0.1", {"x-forwarded-for": "[2001:db8::7]:4711"}, "2001:db8::7"),
        ("10.0.0.1", {"x-forwarded-for": "[2001:db8::7]"}, "2001:db8::7"),
        ("10.0.0.1", {"x-forwarded-for": "::ffff:198.51.100.7"}, "198.51.100.7"),
        ("10.0.0.1", {"x-forwarded-for": "203.0.113.9, ::ffff:10.0.0.2"}, "203.0.113.9"),
        ("10.0.0.1", {"forwarded": "for=198.51.100.7"}, "198.51.100.7"),
        ("10.0.0.1", {"forwarded": 'For="[2001:db8::7]:4711";proto=https;by=10.0.0.1'}, "2001:db8::7"),
        (
            "10.0.0.1",
            {"forwarded": 'for=203.0.113.9, by=a;for="198.51.100.7:80" ,for=10.0.0.2'},
            "198.51.100.7",
        ),
        ("10.0.0.1", {"forwarded": 'for="a,b;\\"c", for=198.51.100.7'}, "198.51.100.7"),
        # nothing that could be believed: counted as the nearest proxy that is known
        ("10.0.0.1", {"x-forwarded-for": "unknown"}, "10.0.0.1"),
        ("10.0.0.1", {"x-forwarded-for": ""}, "10.0.0.1"),
        ("10.0.0.1", {"x-forwarded-for": "198.51.100.7, "}, "10.0.0.1"),
        ("10.0.0.1", {"x-forwarded-for": "198.51.100.999"}, "10.0.0.1"),
        ("10.0.0.1", {"x-forwarded-for": "1, 10.0.0.2"}, "10.0.0.2"),
        ("10.0.0.1", {"x-forwarded-for": "198.51.100.7:port"}, "10.0.0.1"),
        ("10.0.0.1", {"forwarded": "for=_hidden"}, "10.0.0.1"),
        ("10.0.0.1", {"forwarded": "proto=https"}, "10.0.0.1"),
        ("10.0.0.1", {"forwarded": 'for="198.51.100.7'}, "10.0.0.1"),
        ("10.0.0.1", {"forwarded": "for=198.51.100.7;"}, "10.0.0.1"),
        ("10.0.0.1", {"forwarded": "198.51.100.7"}, "10.0.0.1"),
        # two headers: the one that the proxy does not write is the client's
        ("10.0.0.1", {"forwarded": "for=203.0.113.9", "x-forwarded-for": "198.51.100.7"}, "10.0.0.1"),
        ("10.0.0.1", {"forwarded": "for=", "x-forwarded-for": "198.51.100.7"}, "10.0.0.1"),
        (
            "10.0.0.1",
            {"forwarded": "for=198.51.100.7", "x-forwarded-for": "203.0.113.9, 198.51.100.7"},
            "198.51.100.7",
        ),
        ("local", {"x-forwarded-for": "198.51.100.7"}, "local"),
    ],
)
def test_proxies_of_ours_name_the_client(peer: str, headers: dict[str, str], client: str) -> None:
    sent = [(name.encode(), value.encode()) for name, value in headers.items()]
    assert client_of(peer, sent, PROXIES) == client


def test_several_headers_of_one_name_are_one_list() -> None:
    sent = [(b"x-forwarded-for", b"203.0.113.9"), (b"x-forwarded-for", b"198.51.100.7"), (b"via", b"1.1 proxy")]
    assert client_of("10.0.0.1", sent, PROXIES) == "198.51.100.7"


def test_a_list_without_end_is_not_read_to_its_end() -> None:
    hops = ", ".join(["198.51.100.7", *["10.0.0.2"] * 5_000])
    assert client_of("10.0.0.1", [(b"x-forwarded-for", hops.encode())], PROXIES) == "10.0.0.2"


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_whatever_is_sent_names_an_address(forwarded: bytes, listed: bytes) -> None:
    sent = [(b"forwarded", forwarded), (b"x-forwarded-for", listed)]
    assert ip_address(client_of("10.0.0.1", sent, PROXIES))


async def test_budgets_count_whom_a_trusted_proxy_names(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    monkeypatch.setattr(AdmissionControl, "reserve", lambda control, origin, count, of_body: seen.append(origin))
    monkeypatch.setattr(AdmissionControl, "release", lambda *_: None)
    limits = ServerLimits(trusted_proxies=(ip_network("127.0.0.1"),))
    async with running(postgres_url, server=limits) as node:
        for listed in ("198.51.100.7", "203.0.113.9, 2001:db8::7"):
            await node.client.post("/overlay/events/ingest", json={}, headers={"X-Forwarded-For": listed})
    assert seen == ["198.51.100.7", "2001:db8::/64"]


async def test_nobody_is_believed_without_a_proxy(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    monkeypatch.setattr(AdmissionControl, "reserve", lambda control, origin, count, of_body: seen.append(origin))
    monkeypatch.setattr(AdmissionControl, "release", lambda *_: None)
    async with running(postgres_url) as node:
        named = {"X-Forwarded-For": "198.51.100.7", "Forwarded": "for=198.51.100.7"}
        await node.client.post("/overlay/events/ingest", json={}, headers=named)
    assert seen == ["127.0.0.1"]

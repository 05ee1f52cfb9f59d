"""Whom the node calls on others' word: public addresses, and what the operator allows. Nobody else."""

import ipaddress

import httpx
import pytest

from node.runtime.guarded_http import guarded_client
from node.runtime.guarded_network import ForbiddenAddressError, is_allowed, resolve
from tests.node.running import running


@pytest.mark.parametrize(
    ("address", "allowed"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1::1", True),
        ("127.0.0.1", False),
        ("127.255.255.254", False),
        ("0.0.0.0", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("192.0.2.1", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::1", False),
        ("::", False),
        ("fe80::1", False),
        ("fc00::1", False),
        ("fd00:ec2::254", False),
        ("ff02::1", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:169.254.169.254", False),
        ("64:ff9b::7f00:1", False),
        ("64:ff9b::a9fe:a9fe", False),
        ("2002:7f00:1::", False),
        ("2002:a9fe:a9fe::1", False),
    ],
)
def test_addresses(address: str, allowed: bool) -> None:
    assert is_allowed(ipaddress.ip_address(address), ()) is allowed


def test_an_operator_allows_networks() -> None:
    networks = [ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("::1/128")]
    assert is_allowed(ipaddress.ip_address("10.1.2.3"), networks)
    assert is_allowed(ipaddress.ip_address("::1"), networks)
    assert not is_allowed(ipaddress.ip_address("127.0.0.1"), networks)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "2130706433", "0x7f.1", "0177.0.0.1", "[::1]", "127.1"])
async def test_no_spelling_of_this_machine_is_called(host: str) -> None:
    with pytest.raises((ForbiddenAddressError, OSError)):
        await resolve(host.strip("[]"), 80, ())
    async with guarded_client((), 5) as client:
        with pytest.raises((ForbiddenAddressError, httpx.HTTPError, httpx.InvalidURL, OSError)):
            await client.get(f"http://{host}:9/")


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://example.org/", "gopher://example.org/"])
async def test_no_other_scheme_is_called(url: str) -> None:
    async with guarded_client((), 5) as client:
        with pytest.raises((ForbiddenAddressError, httpx.HTTPError)):
            await client.get(url)


async def test_what_is_allowed_is_called_under_its_own_name(postgres_url: str) -> None:
    async with (
        running(postgres_url) as node,
        guarded_client([ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128")], 5) as client,
    ):
        answer = await client.get(node.url.replace("127.0.0.1", "localhost") + "/healthz")
        assert answer.status_code == 200

"""Where connections go: judged addresses alone, whatever names resolve to and however often they change."""

import email.utils
import ipaddress
import ssl
from collections.abc import Awaitable, Callable
from functools import partial

import httpcore
import pytest
import trio
import trustme
from hypothesis import given
from hypothesis import strategies as st

from node.runtime.clock import clock_ms
from node.runtime.guarded_http import RETRY_AFTER_S_MAX, retry_after_s
from node.runtime.guarded_network import (
    ADDRESSES_MAX,
    Address,
    ForbiddenAddressError,
    GuardedBackend,
    Network,
    OutboundFault,
    is_allowed,
    resolve,
    tls_problem,
)
from tests.node.http_server import named

HERE = "127.0.0.2"
ALLOWED: list[Network] = [ipaddress.ip_network("127.0.0.2/31")]
PRIVATE = [
    *("0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "100.127.255.255", "127.0.0.1", "169.254.169.254"),
    *("172.31.255.255", "192.0.0.1", "192.168.0.1", "198.18.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255"),
    *("::", "::1", "fe80::1", "fc00::1", "fec0::1", "ff02::1", "2001:db8::1"),
]


def in_ipv6(address: str) -> list[str]:
    """The IPv6 addresses that lead to an IPv4 address: mapped, NAT64, 6to4."""
    number = int(ipaddress.IPv4Address(address))
    forms = (0xFFFF << 32 | number, 0x64FF9B << 96 | number, 0x2002 << 112 | number << 80)
    return [str(ipaddress.IPv6Address(form)) for form in forms]


# --- the judge -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", PRIVATE)
def test_no_address_that_is_not_public_is_called(address: str) -> None:
    assert not is_allowed(ipaddress.ip_address(address), ())


@pytest.mark.parametrize("address", [each for each in PRIVATE if ":" not in each])
def test_no_ipv6_form_of_such_an_address_is_called(address: str) -> None:
    for form in in_ipv6(address):
        assert not is_allowed(ipaddress.ip_address(form), ()), form


@given(st.ip_addresses(v=4))
def test_an_ipv6_form_is_never_called_where_its_ipv4_address_is_not(address: ipaddress.IPv4Address) -> None:
    for form in in_ipv6(str(address)):
        assert not is_allowed(ipaddress.ip_address(form), ()) or is_allowed(address, ())


@given(st.ip_addresses())
def test_public_addresses_are_not_called_where_only_named_networks_may_be(address: Address) -> None:
    assert not is_allowed(address, (), public=False)
    assert is_allowed(address, [ipaddress.ip_network(address)], public=False)


def test_a_network_that_is_allowed_is_so_in_every_form() -> None:
    for form in in_ipv6("10.1.2.3"):
        assert is_allowed(ipaddress.ip_address(form), [ipaddress.ip_network("10.0.0.0/8")])
    assert not is_allowed(ipaddress.ip_address("::a01:203"), [ipaddress.ip_network("10.0.0.0/8")])


# --- names ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", [each for each in PRIVATE if each != "127.0.0.2"])
async def test_one_such_address_among_others_is_enough_to_refuse(address: str) -> None:
    named({"mixed.test": [["93.184.216.34", address]]})
    with pytest.raises(ForbiddenAddressError, match=r"mixed\.test leads to .* not public"):
        await resolve("mixed.test", 443, ())


async def test_addresses_keep_their_order_and_come_once() -> None:
    named({"many.test": [["93.184.216.34", "1.1.1.1", "93.184.216.34"]]})
    assert [str(each) for each in await resolve("many.test", 443, ())] == ["93.184.216.34", "1.1.1.1"]


async def test_names_without_an_address_and_names_that_are_none() -> None:
    named({})
    with pytest.raises(OSError, match="not known"):
        await resolve("nowhere.test", 443, ())
    with pytest.raises(OutboundFault, match="not a valid host name"):
        await resolve("a" * 70 + ".test", 443, ())


# --- connections ---------------------------------------------------------------------------------------------------


async def listening(nursery: trio.Nursery, host: str, port: int = 0) -> int:
    """A server that says where it is."""

    async def serve(stream: trio.SocketStream) -> None:
        await stream.send_all(host.encode())
        await stream.aclose()

    return await served(nursery, serve, host, port)


async def served(
    nursery: trio.Nursery, serve: Callable[[trio.SocketStream], Awaitable[None]], host: str = HERE, port: int = 0
) -> int:
    """Serve until the nursery ends. Returns the port."""
    listeners: list[trio.SocketListener] = await nursery.start(partial(trio.serve_tcp, serve, port, host=host))
    return int(listeners[0].socket.getsockname()[1])


async def reached(backend: GuardedBackend, host: str, port: int) -> str:
    stream = await backend.connect_tcp(host, port)
    text = await stream.read(100)
    await stream.aclose()
    return text.decode()


async def test_a_name_is_looked_up_once_and_its_judged_address_called() -> None:
    """A name server that answers otherwise the second time gains nothing."""
    names = named({"rebinds.test": [[HERE], ["127.0.0.1"]]})
    async with trio.open_nursery() as nursery:
        port = await listening(nursery, HERE)
        await listening(nursery, "127.0.0.1", port)
        backend = GuardedBackend(ALLOWED)
        assert await reached(backend, "rebinds.test", port) == HERE
        assert names.asked == ["rebinds.test"]
        with pytest.raises(ForbiddenAddressError):
            await reached(backend, "rebinds.test", port)
        nursery.cancel_scope.cancel()


async def test_the_next_address_is_tried_and_only_so_many() -> None:
    allowed = [ipaddress.ip_network("127.0.0.0/8")]
    dead = [f"127.0.1.{number}" for number in range(1, ADDRESSES_MAX + 1)]
    named({"last.test": [[*dead[:-1], HERE]], "too-late.test": [[*dead, HERE]]})
    async with trio.open_nursery() as nursery:
        port = await listening(nursery, HERE)
        assert await reached(GuardedBackend(allowed), "last.test", port) == HERE
        with pytest.raises(httpcore.ConnectError, match="refused"):
            await reached(GuardedBackend(allowed), "too-late.test", port)
        nursery.cancel_scope.cancel()


async def test_what_is_not_public_is_called_by_its_number_neither() -> None:
    for host in ("127.0.0.1", "[::1]", "::ffff:127.0.0.1", "169.254.169.254"):
        with pytest.raises(ForbiddenAddressError):
            await GuardedBackend(ALLOWED).connect_tcp(host, 9)


async def test_reads_end_in_time_and_say_when_the_other_side_is_gone() -> None:
    async with trio.open_nursery() as nursery:

        async def silent(stream: trio.SocketStream) -> None:
            await stream.receive_some(1)
            await stream.aclose()

        port = await served(nursery, silent)
        stream = await GuardedBackend(ALLOWED).connect_tcp(HERE, port)
        assert not stream.is_readable
        with pytest.raises(httpcore.ReadTimeout):
            await stream.read(1, timeout=0.05)
        await stream.write(b"x")
        assert await stream.read(1, timeout=5) == b""
        assert stream.get_extra_info("is_readable")
        await stream.aclose()
        with pytest.raises(httpcore.ReadError):
            await stream.read(1)
        with pytest.raises(httpcore.WriteError):
            await stream.write(b"x")
        nursery.cancel_scope.cancel()


async def test_a_tls_handshake_that_fails_names_the_reason_and_closes() -> None:
    closed = trio.Event()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("here.test").configure_cert(context)

    async def serve(stream: trio.SocketStream) -> None:
        try:
            await trio.SSLStream(stream, context, server_side=True).do_handshake()
        except trio.BrokenResourceError:
            closed.set()

    async with trio.open_nursery() as nursery:
        port = await served(nursery, serve)
        stream = await GuardedBackend(ALLOWED).connect_tcp(HERE, port)
        with pytest.raises(httpcore.ConnectError) as failed:
            await stream.start_tls(ssl.create_default_context(), "here.test")
        assert tls_problem(failed.value).startswith("its certificate is refused: ")
        with trio.fail_after(5):
            await closed.wait()
        nursery.cancel_scope.cancel()


def test_other_errors_are_no_problem_of_tls() -> None:
    assert tls_problem(httpcore.ConnectError("refused")) == ""


# --- Retry-After ---------------------------------------------------------------------------------------------------


@given(st.integers(0, 10**12))
def test_seconds_are_taken_up_to_the_bound(seconds: int) -> None:
    assert retry_after_s(f" {seconds} ") == min(seconds, RETRY_AFTER_S_MAX)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
        ("Thursday, 01-Jan-70 00:00:00 GMT", 0.0),
        ("Thu Jan  1 00:00:00 1970", 0.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", RETRY_AFTER_S_MAX),
        ("", None),
        ("never", None),
        ("-5", None),
        ("1.5", None),
        ("1e3", None),
        ("12 s", None),
        ("\u0663", None),
        ("Fri, 99 Dec 2026 00:00:00 GMT", None),
        ("Fri, 31 Dec 99999 23:59:59 GMT", None),
    ],
)
def test_dates_of_every_form_and_what_makes_no_sense(text: str, expected: float | None) -> None:
    assert retry_after_s(text) == expected


def test_a_date_is_counted_from_now() -> None:
    later = email.utils.formatdate(clock_ms() / 1000 + 120, usegmt=True)
    wait_s = retry_after_s(later)
    assert wait_s is not None
    assert 100 < wait_s <= 120


@given(st.text(max_size=40))
def test_no_header_is_more_than_ignored(text: str) -> None:
    wait_s = retry_after_s(text)
    assert wait_s is None or 0 <= wait_s <= RETRY_AFTER_S_MAX

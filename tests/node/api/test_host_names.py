"""What a Host header may be."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.routing import Map

from node.api.host_names import is_host


@pytest.mark.parametrize(
    "host", [b"", b"x", b"node-1.example.com", b"example.com.", b"a_b:8080", b"127.0.0.1:80", b"[::1]:8080", b"x:"]
)
def test_names_and_addresses_are_hosts(host: bytes) -> None:
    assert is_host(host)


@pytest.mark.parametrize(
    "host",
    [b"a..b", b".a", b"a" * 64, b"\xff", b"a b", b"a/b", b"a@b", b"[::1", b"::1", b"x:123456", b"a." * 200, b"x:y"],
)
def test_what_is_no_host_is_refused(host: bytes) -> None:
    assert not is_host(host)


@given(st.from_regex(rb"[a-z0-9.\[\]:-]{0,80}", fullmatch=True))
def test_the_framework_takes_every_host(host: bytes) -> None:
    if is_host(host):
        Map(host_matching=False).bind(host.decode())

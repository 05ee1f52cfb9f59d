"""What is fetched from others: redirects judged one by one, bodies and waiting bounded, certificates verified."""

import datetime
import gzip
import ipaddress
import ssl
import zlib
from collections.abc import AsyncIterator, Callable
from email.utils import format_datetime
from typing import Any

import httpx
import pytest
import trio
import trustme

from node.runtime.guarded_http import Fetched, fetch, guarded_client, post, retry_after_s, shown_origin
from node.runtime.guarded_network import ForbiddenAddressError, OutboundFault
from tests.node.http_server import HERE, Asked, Said, named, serving

ALLOWED = [ipaddress.ip_network(f"{HERE}/32")]
SECRET = "hush-hush"


async def fetched(url: str, *, tls: ssl.SSLContext | None = None, **more: Any) -> Fetched:
    async with guarded_client(ALLOWED, 5, tls=tls) as client:
        return await fetch(client, url, **{"bytes_max": 1_000_000, "timeout_s": 20, **more})


def going(to: str | Callable[[Asked], str], status: int = 302) -> Callable[[Asked], Said]:
    """A server whose ``/start`` redirects, and whose other paths answer."""

    def handler(asked: Asked) -> Said:
        if asked.path != "/start":
            return Said(body=asked.path.encode())
        return Said(status=status, headers=[("Location", to if isinstance(to, str) else to(asked))])

    return handler


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_followed(status: int) -> None:
    async with serving(going("/there?x=1", status)) as server:
        answer = await fetched(f"{server.url}/start")
        assert (answer.status, answer.body, answer.url) == (200, b"/there", f"{server.url}/there?x=1")


PRIVATE = (
    "http://127.0.0.1:{port}/there",
    "http://[::1]:{port}/there",
    "http://[::ffff:127.0.0.1]:{port}/there",
    "http://[::ffff:7f00:1]:{port}/there",
    "http://[64:ff9b::7f00:1]:{port}/there",
    "http://[64:ff9b:1::7f00:1]:{port}/there",
    "http://[2002:7f00:1::]:{port}/there",
    "http://10.0.0.1:{port}/there",
    "http://169.254.169.254/latest/meta-data/",
    "http://[fd00:ec2::254]/latest/meta-data/",
    "http://0.0.0.0:{port}/there",
    "http://2130706433:{port}/there",
    "http://0x7f000001:{port}/there",
    "http://127.1:{port}/there",
    "http://localhost:{port}/there",
    "//127.0.0.1:{port}/there",
    "http://private.test:{port}/there",
    "http://mixed.test:{port}/there",
)


@pytest.mark.parametrize("target", PRIVATE)
async def test_no_redirect_leads_to_what_may_not_be_called(target: str) -> None:
    names = {"private.test": [["127.0.0.1"]], "mixed.test": [[HERE, "127.0.0.1"]], "localhost": [["127.0.0.1"]]}
    named(names | {name: [["127.0.0.1"]] for name in ("2130706433", "0x7f000001", "127.1")})
    async with serving(going(lambda asked: target.format(port=asked.headers["host"].rpartition(":")[2]))) as server:
        with pytest.raises(ForbiddenAddressError):
            await fetched(f"{server.url}/start")
        assert [asked.path for asked in server.asked] == ["/start"]


@pytest.mark.parametrize(
    "target",
    ["file:///etc/passwd", "ftp://example.org/", "gopher://x/", "data:,x", "javascript:x", "http://["],
)
async def test_no_redirect_leads_to_another_scheme(target: str) -> None:
    async with serving(going(target)) as server:
        with pytest.raises(OutboundFault):
            await fetched(f"{server.url}/start")
        assert len(server.asked) == 1


async def test_redirects_end() -> None:
    async with serving(lambda asked: Said(status=302, headers=[("Location", asked.path)])) as server:
        with pytest.raises(OutboundFault, match="more than 3 redirects"):
            await fetched(f"{server.url}/round", redirects_max=3)
        assert len(server.asked) == 4


async def test_credentials_stay_with_the_origin_they_are_for() -> None:
    """And are not handed out again by a redirect that leads back."""
    named({"a.test": [[HERE]], "b.test": [[HERE]]})

    def handler(asked: Asked) -> Said:
        port = asked.headers["host"].rpartition(":")[2]
        to = {"/start": "/near", "/near": f"http://b.test:{port}/far", "/far": f"http://a.test:{port}/back"}
        return Said(status=302, headers=[("Location", to[asked.path])]) if asked.path in to else Said()

    async with serving(handler) as server:
        secrets = {"Authorization": SECRET, "X-Key": SECRET}
        url = f"http://a.test:{server.port}/start"
        answer = await fetched(url, headers={"Accept": "text/csv"}, private_headers=secrets)
        assert answer.status == 200
    got = {asked.path: asked.headers for asked in server.asked}
    assert list(got) == ["/start", "/near", "/far", "/back"]
    assert all(headers["accept"] == "text/csv" for headers in got.values())
    assert [SECRET in headers.values() for headers in got.values()] == [True, True, False, False]
    assert got["/near"]["x-key"] == SECRET


async def test_redirects_with_credentials_of_their_own_are_refused_and_cookies_are_not_kept() -> None:
    async with serving(going(f"http://user:{SECRET}@{HERE}/x")) as server:
        with pytest.raises(OutboundFault, match="credentials") as refused:
            await fetched(f"{server.url}/start")
        assert SECRET not in str(refused.value)
    async with serving(lambda asked: Said(headers=[("Set-Cookie", "a=b; Path=/")])) as server:
        async with guarded_client(ALLOWED, 5) as client:
            for _ in range(2):
                await fetch(client, server.url, bytes_max=10, timeout_s=5)
        assert "cookie" not in server.asked[1].headers


async def test_a_post_is_never_redirected() -> None:
    async with serving(going("/there", 307)) as server, guarded_client(ALLOWED, 5) as client:
        answer = await post(client, f"{server.url}/start", content=b"body", bytes_max=10, timeout_s=5)
        assert (answer.status, answer.headers["location"]) == (307, "/there")
        assert [(asked.path, asked.body) for asked in server.asked] == [("/start", b"body")]


async def test_a_name_that_changes_its_mind_gains_nothing() -> None:
    """DNS rebinding: the connection goes to the address that was judged, and is judged anew the next time."""
    names = named({"rebinds.test": [[HERE], ["127.0.0.1"]]})
    async with serving(lambda asked: Said()) as server:
        url = f"http://rebinds.test:{server.port}/"
        assert (await fetched(url)).status == 200
        assert (server.asked[0].address, server.asked[0].headers["host"]) == (HERE, f"rebinds.test:{server.port}")
        assert names.asked == ["rebinds.test"], "it was looked up more than once"
        with pytest.raises(ForbiddenAddressError):
            await fetched(url)
        assert len(server.asked) == 1


async def test_the_next_address_of_a_name_is_tried_if_one_does_not_answer() -> None:
    named({"two.test": [["127.0.0.3", HERE]]})
    async with (
        serving(lambda asked: Said(), host=HERE) as server,
        guarded_client([ipaddress.ip_network("127.0.0.2/31")], 5) as client,
    ):
        url = f"http://two.test:{server.port}/"
        assert (await fetch(client, url, bytes_max=10, timeout_s=5)).status == 200


# --- certificates ------------------------------------------------------------------------------------------------


def context_of(certificate: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificate.configure_cert(context)
    return context


def trusting(authority: trustme.CA) -> ssl.SSLContext:
    return ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())


def self_signed(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    with authority.cert_pem.tempfile() as certificate, authority.private_key_pem.tempfile() as key:
        context.load_cert_chain(certificate, key)
    return context


async def test_certificates_are_verified_against_the_name_of_the_url() -> None:
    authority, stranger = trustme.CA(), trustme.CA()
    past = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    named({"good.test": [[HERE]]})
    good = authority.issue_cert("good.test")
    refused = {
        "self-signed": self_signed(stranger),
        "unable to get local issuer": context_of(stranger.issue_cert("good.test")),
        "expired": context_of(authority.issue_cert("good.test", not_after=past)),
        "Hostname mismatch": context_of(authority.issue_cert("other.test")),
    }
    async with serving(lambda asked: Said(body=b"ok"), tls=context_of(good)) as server:
        url = f"https://good.test:{server.port}/?key={SECRET}"
        assert (await fetched(url, tls=trusting(authority))).body == b"ok"
        with pytest.raises(OutboundFault, match="certificate is refused"):
            await fetched(url)  # the public authorities do not know it
    for why, tls in refused.items():
        async with serving(lambda asked: Said(), tls=tls) as server:
            with pytest.raises(OutboundFault, match=f"certificate is refused: .*{why}") as fault:
                await fetched(f"https://good.test:{server.port}/?key={SECRET}", tls=trusting(authority))
            assert str(fault.value).startswith(f"https://good.test:{server.port}: ")
            assert SECRET not in str(fault.value)
            assert server.asked == []


async def test_https_never_falls_back_to_http() -> None:
    authority = trustme.CA()
    tls = context_of(authority.issue_cert(HERE))
    async with serving(lambda asked: Said()) as plain, serving(going(f"{plain.url}/there"), tls=tls) as server:
        with pytest.raises(OutboundFault, match="from HTTPS back to HTTP"):
            await fetched(f"{server.url}/start", tls=trusting(authority))
        assert plain.asked == []


async def test_plain_http_where_tls_is_asked_for() -> None:
    async with serving(lambda asked: Said()) as server:
        with pytest.raises(OutboundFault, match="TLS: "):
            await fetched(server.url.replace("http:", "https:"))


# --- bodies ------------------------------------------------------------------------------------------------------


async def test_bodies_are_cut_off_at_the_bound() -> None:
    async with serving(lambda asked: Said(body=b"x" * 100_000)) as server:
        for bytes_max, is_cut in ((99_999, True), (100_000, False)):
            answer = await fetched(server.url, bytes_max=bytes_max)
            assert (len(answer.body), answer.is_cut) == (bytes_max, is_cut)


def coded(body: bytes, coding: str = "gzip") -> Callable[[Asked], Said]:
    return lambda asked: Said(headers=[("Content-Encoding", coding)], body=body)


async def test_gzip_is_read_and_a_bomb_is_cut_off() -> None:
    text = b"a line of text\n" * 10_000
    async with serving(coded(gzip.compress(text[:70_000]) + gzip.compress(text[70_000:]))) as server:
        answer = await fetched(server.url)
        assert (answer.body, answer.is_cut) == (text, False)
        assert server.asked[0].headers["accept-encoding"] == "gzip"
    bomb = gzip.compress(bytes(200_000_000), 1)
    async with serving(coded(bomb)) as server:
        answer = await fetched(server.url)
        assert (len(answer.body), answer.is_cut) == (1_000_000, True)


@pytest.mark.parametrize(
    ("body", "coding", "why"),
    [
        (gzip.compress(b"x" * 1_000)[:-3], "gzip", "not gzip: the stream ends early"),
        (b"plain", "gzip", "not gzip"),
        (gzip.compress(b"") * 100_000, "gzip", "not gzip: more than 1024 members"),
        (gzip.compress(b"x") + b"rubbish", "gzip", "not gzip"),
        (zlib.compress(b"x"), "deflate", "coded as deflate"),
        (b"x", "br", "coded as br"),
        (gzip.compress(gzip.compress(b"x")), "gzip, gzip", "coded as gzip, gzip"),
    ],
    ids=["short", "plain", "members", "rubbish", "deflate", "br", "twice"],
)
async def test_other_codings_are_refused(body: bytes, coding: str, why: str) -> None:
    async with serving(coded(body, coding)) as server:
        with pytest.raises(OutboundFault, match=why):
            await fetched(server.url)


async def drops() -> AsyncIterator[bytes]:
    while True:
        yield b"x"
        await trio.sleep(0.01)


async def test_an_answer_that_never_ends_is_given_up() -> None:
    async with serving(lambda asked: Said(pieces=drops())) as server:
        with pytest.raises(OutboundFault, match=r"no whole answer within 0\.3 s"):
            await fetched(f"{server.url}/?{SECRET}", timeout_s=0.3)


async def never(asked: Asked) -> Said:
    await trio.sleep_forever()
    raise AssertionError


async def test_faults_say_what_happened_and_no_secrets() -> None:
    named({})

    async def breaks_off() -> AsyncIterator[bytes]:
        yield b"half"

    short = [("Content-Length", "100")]
    async with (
        serving(lambda asked: Said(headers=short, pieces=breaks_off())) as short_server,
        serving(never) as silent,
        guarded_client(ALLOWED, 0.2) as impatient,
    ):
        faults = {
            f"{short_server.url}/{SECRET}?k={SECRET}": "violates HTTP: peer closed connection",
            f"http://{HERE}:1/{SECRET}": "cannot connect",
            f"http://nowhere.test/{SECRET}": "its name is not resolved",
            f"http://{'a' * 70}.test/{SECRET}": "is not a valid host name",
            f"http://user:{SECRET}@{HERE}/": "the URL holds credentials",
            f"ftp://{HERE}/{SECRET}": "are not called",
            f"http://[::1/{SECRET}": "the URL is malformed",
        }
        for url, why in faults.items():
            with pytest.raises(OutboundFault, match=why) as fault:
                await fetched(url)
            assert SECRET not in str(fault.value)
        with pytest.raises(OutboundFault, match="does not answer in time"):
            await fetch(impatient, silent.url, bytes_max=10, timeout_s=20)


def said(**headers: str) -> Fetched:
    return Fetched(status=429, headers=headers, body=b"", is_cut=False, url="")


def test_how_long_to_wait() -> None:
    now = datetime.datetime.now(datetime.UTC)
    later = format_datetime(now + datetime.timedelta(seconds=100), usegmt=True)
    earlier = format_datetime(now - datetime.timedelta(seconds=100), usegmt=True)
    assert retry_after_s("") is None
    assert retry_after_s("7") == 7
    assert retry_after_s("9" * 30) == 3_600
    assert 90 < (retry_after_s(later) or 0) <= 100
    assert retry_after_s(earlier) == 0
    for rubbish in ("soon", "-1", "1.5", "Mon, 99 Foo 2021", "\u0663"):
        assert retry_after_s(rubbish) is None


def test_places_name_no_secrets() -> None:
    assert shown_origin(f"https://u:{SECRET}@x.test:8443/{SECRET}?{SECRET}#{SECRET}") == "https://x.test:8443"
    assert shown_origin(httpx.URL("http://[::1]:80/")) == "http://[::1]"
    assert shown_origin("http://[::1") == "the URL"

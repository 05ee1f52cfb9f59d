"""GET and HEAD /uhrp over a real socket: forms of the URL, ranges, conditions, pages of other origins."""

import hashlib
import itertools
from typing import Any

import httpx
import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from node.api import objects as routes
from node.coordination.serialization import read_certificate
from node.runtime.access import Access
from protocols.certificate import verify_quorum
from protocols.uhrp import content_url, read_uhrp_url, uhrp_url
from storage import policies
from tests.node.certified_batches import AGENT, NETWORK, NODE
from tests.node.memory_transport import MemoryNetwork
from tests.node.overlay.test_objects import LARGE, member
from tests.node.running import Running, running

NOTHING = hashlib.sha256(b"nothing").digest()


async def put(node: Running, document: bytes) -> str:
    digest = hashlib.sha256(document).digest()
    await node.database.run(lambda connection: policies.put(connection, digest, document))
    return uhrp_url(digest)


async def certified_batch(node: Running) -> dict[str, Any]:
    await node.source()
    answer = await node.post(*({"externalId": f"e{n}", "eventType": "reading", "data": n} for n in range(5)))
    await node.seal(node.recorder.told[-1].manifest)
    return dict((await node.client.get(f"/overlay/batches/{answer.json()['batches'][0]['batchId']}")).json())


async def test_everything_of_a_batch_is_an_object(postgres_url: str) -> None:
    async with running(postgres_url) as node:
        batch = await certified_batch(node)
        source = (await node.client.get("/overlay/sources/s1")).json()
        assert source["objects"]["policy"] == batch["objects"]["policy"]
        found = {kind: await node.client.get(f"/uhrp/{url}") for kind, url in batch["objects"].items()}
        assert {kind: answer.headers["Content-Type"] for kind, answer in found.items()} == {
            "payload": "application/x-ndjson",
            "certificate": "application/cbor",
            "policy": "application/json",
        }
        for kind, answer in found.items():
            assert answer.status_code == 200
            assert content_url(answer.content) == batch["objects"][kind]
        certificate = read_certificate(found["certificate"].content)
        verify_quorum(certificate, network=NETWORK)
        assert certificate.statement.batch_id == batch["batchId"]
        assert len(found["payload"].content.split(b"\n")) == 5
        policy = await node.client.get(f"/overlay/policies/{batch['policyHash']}")
        assert found["policy"].content == policy.content


async def test_a_batch_that_waits_has_no_records_to_serve(postgres_url: str) -> None:
    async with running(postgres_url) as node:
        await node.source()
        answer = await node.post({"externalId": "e1", "eventType": "reading", "data": 1})
        batch = (await node.client.get(f"/overlay/batches/{answer.json()['batches'][0]['batchId']}")).json()
        assert (batch["objects"]["payload"], batch["objects"]["certificate"]) == (None, None)


async def test_every_form_of_the_url_names_the_object(postgres_url: str) -> None:
    async with running(postgres_url) as node:
        url = await put(node, b"{}")
        digest = read_uhrp_url(url).hex()
        forms = (url, f"uhrp:{url}", f"uhrp://{url}", f"UHRP://{url}", f"uhrp%3A%2F%2F{url}", digest)
        for form in (*forms, digest.upper()):
            answer = await node.client.get(f"/uhrp/{form}")
            assert (answer.status_code, answer.content) == (200, b"{}"), form
        for form in (url[:-1], url + "1", f"web+uhrp:{url}", f"{url}/x", digest[1:], "x"):
            answer = await node.client.get(f"/uhrp/{form}")
            assert (answer.status_code, answer.json()["type"]) == (400, "urn:overlay:problem:invalid-uhrp-url"), form


async def test_what_is_not_to_be_had_is_a_404_with_a_remedy(postgres_url: str) -> None:
    async with running(postgres_url) as node:
        answer = await node.client.get(f"/uhrp/{uhrp_url(NOTHING)}")
        assert answer.status_code == 404
        assert answer.json()["type"] == "urn:overlay:problem:unknown-object"
        assert answer.json()["remedy"]
        assert answer.headers["Cache-Control"] == "no-store"
        assert (await node.client.get(f"/uhrp/{uhrp_url(NOTHING)}?local=yes")).status_code == 400


async def test_headers_let_it_be_kept_for_ever_and_used_by_any_page(postgres_url: str) -> None:
    async with running(postgres_url) as node:
        url = await put(node, LARGE)
        tag = f'"{read_uhrp_url(url).hex()}"'
        get, head = await node.client.get(f"/uhrp/{url}"), await node.client.head(f"/uhrp/{url}")
        for answer, body in ((get, LARGE), (head, b"")):
            assert (answer.status_code, answer.content) == (200, body)
            assert answer.headers["Content-Length"] == str(len(LARGE))
            assert answer.headers["ETag"] == tag
            assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"
            assert answer.headers["Accept-Ranges"] == "bytes"
            assert answer.headers["Access-Control-Allow-Origin"] == "*"
            assert answer.headers["Cross-Origin-Resource-Policy"] == "cross-origin"
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
        preflight = await node.client.options(f"/uhrp/{url}", headers={"Access-Control-Request-Method": "GET"})
        assert preflight.status_code == 204
        assert "Range" in preflight.headers["Access-Control-Allow-Headers"]
        missing = await node.client.get(f"/uhrp/{uhrp_url(NOTHING)}")
        assert missing.headers["Access-Control-Allow-Origin"] == "*"
        assert (await node.client.post(f"/uhrp/{url}")).status_code == 405


async def test_conditions_are_heeded(postgres_url: str) -> None:
    async with running(postgres_url) as node:
        url = await put(node, LARGE)
        tag, path = f'"{read_uhrp_url(url).hex()}"', f"/uhrp/{url}"

        async def get(**headers: str) -> httpx.Response:
            return await node.client.get(
                path, headers={name.replace("_", "-"): each for name, each in headers.items()}
            )

        for condition in (tag, f"W/{tag}", f'"x", {tag}', "*"):
            answer = await get(If_None_Match=condition)
            assert (answer.status_code, answer.content, answer.headers["ETag"]) == (304, b"", tag)
        assert (await get(If_None_Match='"x"')).status_code == 200
        assert (await get(If_Match=tag)).status_code == 200
        assert (await get(If_Match='"x"')).status_code == 412
        assert (await get(Range="bytes=0-9", If_Range=tag)).status_code == 206
        for changed in ('"x"', f"W/{tag}", "Tue, 24 Nov 2026 00:00:00 GMT"):
            assert (await get(Range="bytes=0-9", If_Range=changed)).status_code == 200
        head = await node.client.head(path, headers={"Range": "bytes=0-9"})
        assert (head.status_code, head.headers["Content-Length"]) == (200, str(len(LARGE)))


async def test_ranges_are_those_bytes(postgres_url: str) -> None:
    async with running(postgres_url) as node:
        url = await put(node, LARGE)
        size = len(LARGE)
        for header, start, stop in (
            ("bytes=0-0", 0, 1),
            ("bytes=65535-65536", 65_535, 65_537),
            ("bytes=1000-", 1_000, size),
            ("bytes=-1000", size - 1_000, size),
            (f"bytes=0-{size * 2}", 0, size),
        ):
            answer = await node.client.get(f"/uhrp/{url}", headers={"Range": header})
            assert (answer.status_code, answer.content) == (206, LARGE[start:stop]), header
            assert answer.headers["Content-Range"] == f"bytes {start}-{stop - 1}/{size}"
        for header in (f"bytes={size}-", "bytes=-0"):
            answer = await node.client.get(f"/uhrp/{url}", headers={"Range": header})
            assert (answer.status_code, answer.headers["Content-Range"]) == (416, f"bytes */{size}")
            assert answer.json()["type"] == "urn:overlay:problem:range-not-satisfiable"
        several = await node.client.get(f"/uhrp/{url}", headers={"Range": "bytes=0-1,5-6"})
        assert (several.status_code, several.content) == (200, LARGE)


async def test_any_cut_into_ranges_joins_to_the_object(postgres_url: str) -> None:
    async with running(postgres_url) as node:
        url = await put(node, LARGE)
        portal = trio.lowlevel.current_trio_token()

        @settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
        @given(cuts=st.lists(st.integers(1, len(LARGE) - 1), max_size=6, unique=True))
        def joined(cuts: list[int]) -> None:
            places = [0, *sorted(cuts), len(LARGE)]
            ranges = [f"bytes={first}-{end - 1}" for first, end in itertools.pairwise(places)]

            async def get() -> bytes:
                answers = [await node.client.get(f"/uhrp/{url}", headers={"Range": each}) for each in ranges]
                assert {answer.status_code for answer in answers} == {206}
                return b"".join(answer.content for answer in answers)

            assert trio.from_thread.run(get, trio_token=portal) == LARGE

        await trio.to_thread.run_sync(joined)


async def test_a_changed_row_is_a_404(postgres_url: str) -> None:
    async with running(postgres_url) as node:
        url = await put(node, b'{"a":1}')
        await node.database.run(lambda connection: connection.execute("UPDATE policies SET document = 'x'"))
        for method in ("GET", "HEAD"):
            assert (await node.client.request(method, f"/uhrp/{url}")).status_code == 404


async def test_what_a_peer_has_is_served_here_unless_only_what_is_here_is_wanted(
    postgres_url: str, other_postgres_url: str
) -> None:
    network = MemoryNetwork()
    async with member(other_postgres_url, network, AGENT) as other:
        digest = await other.put(LARGE)
        async with running(postgres_url, transport=network.join(NODE.identity)) as node:
            path = f"/uhrp/{uhrp_url(digest)}"
            assert (await node.client.get(f"{path}?local=true")).status_code == 404
            answer = await node.client.get(path)
            assert (answer.status_code, answer.content) == (200, LARGE)
            assert (await node.client.get(f"{path}?local=true")).status_code == 200


async def test_objects_are_read_by_whom_the_operator_lets(postgres_url: str) -> None:
    async with running(postgres_url, access=Access()) as node:
        answer = await node.client.get(f"/uhrp/{uhrp_url(NOTHING)}")
        assert (answer.status_code, answer.json()["type"]) == (401, "urn:overlay:problem:identity-required")


async def test_a_client_that_takes_too_long_is_cut_off(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And its object is let go; the answer says its length, so that it is seen to be cut."""
    monkeypatch.setattr(routes, "TAKEN_S", -1_000.0)
    async with running(postgres_url) as node:
        url = await put(node, LARGE)
        with pytest.raises(httpx.RemoteProtocolError):
            await node.client.get(f"/uhrp/{url}")
        assert (await node.client.get("/healthz")).status_code == 200

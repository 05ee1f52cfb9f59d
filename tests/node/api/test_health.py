"""GET /healthz, /livez and /readyz: what they answer, whatever hangs behind them."""

from typing import Any

import attrs
import httpx
import pytest
import trio

from node.calling import SignedRequests
from node.health.lifecycle import Phase
from protocols.keys import PrivateKey
from storage.embedded import EmbeddedPostgres
from tests.node.running import NODE, Running, running
from tests.outage import out_of_order
from tests.storage.test_database_faults import frozen

PATIENCE_S = 30.0  # on a busy machine
ALWAYS = ("/healthz", "/livez")
CALLER = PrivateKey.from_bytes(bytes(31) + b"\5")


async def readiness(node: Running, **asked: Any) -> tuple[int, dict[str, Any]]:
    answer = await node.client.get("/readyz", **asked)
    return answer.status_code, answer.json()


async def until_codes(node: Running, *codes: str) -> dict[str, Any]:
    with trio.fail_after(PATIENCE_S):
        while True:
            status, document = await readiness(node)
            if [reason["code"] for reason in document["reasons"]] == list(codes):
                assert (status, document["status"]) == ((503, "not-ready") if codes else (200, "ready"))
                return document
            await trio.sleep(0.05)


async def test_a_node_that_is_well_has_no_reasons(postgres_url: str) -> None:
    async with running(postgres_url) as node:
        document = await until_codes(node)
        assert document == {
            "status": "ready",
            "reasons": [],
            "warnings": [],
            "checks": {name: {"ok": True, "detail": ""} for name in ("accepting", "database", "disk")},
        }
        for path in ALWAYS:
            answer = await node.client.get(path)
            assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


async def test_each_reason_says_since_when_and_what_to_do(postgres_url: str) -> None:
    async with running(postgres_url) as node:
        await until_codes(node)
        with out_of_order(postgres_url):
            document = await until_codes(node, "database-down")
            (reason,) = document["reasons"]
            assert reason["detail"] == "the database does not answer; the request can be repeated"
            assert "DATABASE_URL" in reason["remedy"]
            assert reason["since"].startswith("20")
            assert document["checks"]["database"] == {"ok": False, "detail": reason["detail"]}
            again = await node.client.get("/readyz")
            assert again.json()["reasons"][0]["since"] == reason["since"]
            assert int(again.headers["Retry-After"]) > 0
        await until_codes(node)


async def test_a_node_that_drains_says_so(postgres_url: str) -> None:
    async with running(postgres_url) as node:
        node.lifecycle.phase = Phase.DRAINING
        await until_codes(node, "draining")


@pytest.mark.parametrize("signed", [False, True])
async def test_whoever_asks_is_answered_while_the_database_is_frozen(
    signed: bool, postgres_url: str, postgres: EmbeddedPostgres
) -> None:
    """The proof of a signed request would be written down first."""
    auth = SignedRequests(CALLER, NODE.identity) if signed else None
    async with running(postgres_url) as node:
        await until_codes(node)
        async with httpx.AsyncClient(base_url=node.url, auth=auth, timeout=PATIENCE_S) as client:
            with frozen(postgres), trio.fail_after(PATIENCE_S):
                await until_codes(attrs.evolve(node, client=client), "database-slow")
                for path in ALWAYS:
                    assert (await client.get(path)).status_code == 200
        await until_codes(node)


async def test_threads_that_all_hang_do_not_matter(postgres_url: str) -> None:
    async with running(postgres_url) as node:
        limiter = trio.to_thread.current_default_thread_limiter()
        for number in range(int(limiter.total_tokens)):
            limiter.acquire_on_behalf_of_nowait(number)
        try:
            await until_codes(node)
        finally:
            for number in range(int(limiter.total_tokens)):
                limiter.release_on_behalf_of(number)


async def test_a_proof_that_is_wrong_is_not_looked_at(postgres_url: str) -> None:
    async with running(postgres_url) as node:
        headers = {"X-Identity-Key": "00", "X-Nonce": "n", "X-Signature": "s"}
        assert (await readiness(node, headers=headers))[0] in (200, 503)
        assert (await node.client.get("/overlay/node", headers=headers)).status_code in (400, 401)

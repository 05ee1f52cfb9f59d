"""A nonce is spent once: at the same moment, again later, and after a restart."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio

from node.runtime.clock import clock_ms
from node.runtime.nonces import NonceLedger, ReplayedError
from storage import nonces
from storage.database import ATTEMPTS_MAX, Database
from storage.errors import DatabaseUnavailableError
from storage.nonces import Nonce
from tests.lost_replies import lossy_way

WHO, OTHER = b"\2" + b"w" * 32, b"\3" + b"o" * 32


def nonce(text: str, identity: bytes = WHO, life_ms: int = 60_000) -> Nonce:
    return Nonce(identity=identity, nonce=text, expires_ms=clock_ms() + life_ms)


async def outcomes(ledger: NonceLedger, *spent: Nonce) -> list[bool]:
    """Whether each was taken; all are tried at once."""
    taken = [False] * len(spent)

    async def spend(index: int) -> None:
        try:
            await ledger.spend(spent[index])
        except ReplayedError:
            return
        taken[index] = True

    async with trio.open_nursery() as nursery:
        for index in range(len(spent)):
            nursery.start_soon(spend, index)
    return taken


async def test_of_equal_nonces_one_is_taken_whenever_they_come(postgres_url: str) -> None:
    with Database(postgres_url) as database:
        async with trio.open_nursery() as nursery:
            ledger = NonceLedger(database)
            nursery.start_soon(ledger.run)
            assert sum(await outcomes(ledger, *[nonce("1")] * 50)) == 1
            assert await outcomes(ledger, nonce("1"), nonce("1", OTHER), nonce("2")) == [False, True, True]
            nursery.cancel_scope.cancel()
        async with trio.open_nursery() as nursery:
            after_restart = NonceLedger(database)
            nursery.start_soon(after_restart.run)
            assert await outcomes(after_restart, nonce("1"), nonce("2", OTHER)) == [False, True]
            nursery.cancel_scope.cancel()


async def test_what_is_too_old_to_come_again_is_forgotten(postgres_url: str) -> None:
    with Database(postgres_url) as database:
        await database.run(partial(nonces.spend, nonces=[nonce("old", life_ms=-1), nonce("young")]))
        assert await database.run(partial(nonces.prune, now_ms=clock_ms())) == 1
        assert await database.run(partial(nonces.spend, nonces=[nonce("old"), nonce("young")])) == {(WHO, "old")}


async def test_without_a_database_no_request_goes_on(postgres_url: str) -> None:
    with Database(postgres_url.replace("/test_", "/gone_")) as database:
        async with trio.open_nursery() as nursery:
            ledger = NonceLedger(database)
            nursery.start_soon(ledger.run)
            with pytest.raises(DatabaseUnavailableError):
                await ledger.spend(nonce("1"))
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def serving(url: str, attempts_max: int = ATTEMPTS_MAX) -> AsyncIterator[NonceLedger]:
    with Database(url, attempts_max=attempts_max) as database:
        async with trio.open_nursery() as nursery:
            ledger = NonceLedger(database)
            nursery.start_soon(ledger.run)
            yield ledger
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("carried_out", [True, False])
async def test_a_commit_whose_answer_is_lost_spends_its_nonces_once(postgres_url: str, carried_out: bool) -> None:
    """Fails where the repeated transaction takes its own rows for those of an earlier request."""
    with lossy_way(postgres_url) as way:
        async with serving(way.url) as ledger:
            assert await outcomes(ledger, nonce("earlier")) == [True]
            way.lose("INSERT INTO auth_nonces", carried_out=carried_out)
            assert sorted(await outcomes(ledger, nonce("earlier"), nonce("1"), nonce("1"), nonce("2"))) == [
                False,
                False,
                True,
                True,
            ]
            assert way.lost == 1
            assert await outcomes(ledger, nonce("1"), nonce("2")) == [False, False]


@pytest.mark.parametrize("carried_out", [True, False])
async def test_a_request_that_was_refused_over_a_lost_answer_can_be_sent_again(
    postgres_url: str, carried_out: bool
) -> None:
    with lossy_way(postgres_url) as way:
        async with serving(way.url, attempts_max=1) as ledger:
            assert await outcomes(ledger, nonce("earlier")) == [True]
            for sent in ("earlier", "1"):
                way.lose("INSERT INTO auth_nonces", carried_out=carried_out)
                with pytest.raises(DatabaseUnavailableError):
                    await ledger.spend(nonce(sent))
            assert way.lost == 2
            assert await outcomes(ledger, nonce("earlier"), nonce("1"), nonce("1")) in (
                [False, True, False],
                [False, False, True],
            ), "what was accepted earlier is not accepted again"
            assert await outcomes(ledger, nonce("1")) == [False]


async def test_each_request_of_a_failed_group_gets_an_error_of_its_own(postgres_url: str) -> None:
    """Fails where one instance is raised in all tasks: its traceback grows with each."""
    raised: list[DatabaseUnavailableError] = []

    async def spend(ledger: NonceLedger, text: str) -> None:
        try:
            await ledger.spend(nonce(text))
        except DatabaseUnavailableError as fault:
            raised.append(fault)

    gone = postgres_url.replace("/test_", "/gone_")
    async with serving(gone, attempts_max=1) as ledger, trio.open_nursery() as nursery:
        for number in range(3):
            nursery.start_soon(spend, ledger, str(number))
    assert len(raised) == len(set(map(id, raised))) == 3
    assert {str(fault) for fault in raised} == {str(raised[0])}

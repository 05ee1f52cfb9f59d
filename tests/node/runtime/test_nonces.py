"""A nonce is spent once: at the same moment, again later, and after a restart."""

from functools import partial

import pytest
import trio

from node.runtime.clock import clock_ms
from node.runtime.nonces import NonceLedger, ReplayedError
from storage import nonces
from storage.database import Database
from storage.errors import DatabaseUnavailableError
from storage.nonces import Nonce

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

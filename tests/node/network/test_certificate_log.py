"""The log of certificates: written in groups, confirmed once on disk, served to peers page by page."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import attrs
import psycopg
import pytest
import trio

from node.network.certificate_log import CertificateLog
from node.network.inbound_fence import InboundFence
from node.network.sync_messages import (
    ENTRIES,
    ENTRIES_MAX,
    IDS,
    PROOFS,
    EntryPage,
    IdPage,
    ProofPage,
    check_entries,
    write_keys,
)
from node.runtime.containment import Quarantine
from protocols import codec
from protocols.effects import LookUpCertificate, StoreCertificate
from protocols.messages import BatchSealed, IdentityKey
from protocols.stimuli import CertificateLookedUp, CertificateStored, Stimulus
from storage import certificate_log
from storage.database import Database
from storage.errors import DatabaseUnavailableError, StatementError
from tests.network_of_keys import AGENTS, NETWORK, certified
from tests.node.memory_transport import MemoryTransport
from tests.node.running import until
from tests.outage import out_of_order

SEALED = [
    BatchSealed(network=NETWORK, certificate=certified(events=count).certificate, context=b"{}")
    for count in range(1, 5)
]
IDENTIFIERS = [each.certificate.statement.batch_id for each in SEALED]
SENDER = AGENTS[4].identity


@attrs.define
class Kept:
    log: CertificateLog
    database: Database
    reported: list[Stimulus]
    unknown: set[IdentityKey]
    worked: set[IdentityKey]
    transport: MemoryTransport

    async def store(self, *sealed: BatchSealed) -> None:
        for each in sealed:
            effect = StoreCertificate(sealed=each, sender=SENDER)
            await self.log.handlers[StoreCertificate](effect)

    async def ids(self, after: int = 0) -> IdPage:
        return codec.decode(IdPage, await self.log.answer(IDS + after.to_bytes(8, "big")))


@asynccontextmanager
async def log(url: str, kept_max: int = 100, *, runs: bool = True) -> AsyncIterator[Kept]:
    reported: list[Stimulus] = []
    unknown: set[IdentityKey] = set()
    worked: set[IdentityKey] = set()
    transport = MemoryTransport(AGENTS[0].identity)
    with Database(url, attempts_max=1) as database:
        made = CertificateLog(
            network=NETWORK,
            database=database,
            kept_max=kept_max,
            is_known=lambda identity: identity not in unknown,
            has_standing=worked.__contains__,
            enqueue=reported.append,
            fence=InboundFence(Quarantine(), transport),
            quarantine=Quarantine(),
        )
        async with trio.open_nursery() as nursery:
            if runs:
                nursery.start_soon(made.run)
            yield Kept(
                log=made,
                database=database,
                reported=reported,
                unknown=unknown,
                worked=worked,
                transport=transport,
            )
            nursery.cancel_scope.cancel()


async def test_certificates_are_confirmed_once_they_are_on_disk(postgres_url: str) -> None:
    async with log(postgres_url) as kept:
        news = kept.log.news
        await kept.store(*SEALED)
        await until(lambda: len(kept.reported) == len(SEALED))
        assert news.is_set()
        assert await kept.database.run(partial(certificate_log.unknown, batch_ids=IDENTIFIERS)) == []
        for stimulus, sealed in zip(kept.reported, SEALED, strict=True):
            statement = sealed.certificate.statement
            assert isinstance(stimulus, CertificateStored)
            assert (stimulus.batch_id, stimulus.statement_digest) == (statement.batch_id, statement.digest)
            assert stimulus.sender == SENDER
        assert kept.log.news is not news


async def test_one_that_is_known_is_confirmed_again_and_is_no_news(postgres_url: str) -> None:
    async with log(postgres_url) as kept:
        assert await kept.log.put(SEALED[:1]) == 1
        news = kept.log.news
        await kept.store(SEALED[0])
        await until(lambda: len(kept.reported) == 1)
        assert not news.is_set()
        assert await kept.log.put(SEALED[:2]) == 1


async def test_a_certificate_is_counted_for_a_signer_whatever_coordinator_it_names(postgres_url: str) -> None:
    """Fails where it counts for its coordinator, who signed nothing in it: strangers named one that stays."""
    signers = [signed.signer for signed in SEALED[0].certificate.certifications]
    another = b"\x03" * 33
    statement = attrs.evolve(SEALED[0].certificate.statement, coordinator=another)
    forged = attrs.evolve(SEALED[0], certificate=attrs.evolve(SEALED[0].certificate, statement=statement))
    async with log(postgres_url) as kept:
        kept.worked.add(another)
        await kept.log.put([forged])
        kept.worked.add(signers[-1])
        await kept.log.put(SEALED[1:2])
        found = await kept.database.run(
            lambda connection: connection.execute("SELECT signer FROM certificate_log ORDER BY number").fetchall()
        )
        assert [bytes(row[0]) for row in found] == [min(signers), certificate_log.VOUCHED]


async def test_a_certificate_of_keys_that_are_no_nodes_is_not_kept(postgres_url: str) -> None:
    async with log(postgres_url) as kept:
        kept.unknown.add(SEALED[0].certificate.certifications[1].signer)
        assert not kept.log.admits(SEALED[0].certificate)
        await kept.store(SEALED[0])
        kept.unknown.clear()
        await kept.store(SEALED[1])
        await until(lambda: len(kept.reported) == 1)
        assert await kept.log.find(IDENTIFIERS[0]) is None


async def test_nothing_is_confirmed_while_the_database_is_away(postgres_url: str) -> None:
    async with log(postgres_url, runs=False) as kept:
        await kept.store(SEALED[0])
        with out_of_order(postgres_url), pytest.raises(DatabaseUnavailableError):
            await kept.log.run()
        assert kept.reported == []


async def test_no_certificate_is_dropped_over_a_wrong_statement(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails where it is taken for a bug that the certificates reached: they were dropped and their sender struck."""

    def wrong(connection: psycopg.Connection, **values: object) -> int:
        connection.execute("INSERT INTO certificate_log VALUES (1, 2, 3")
        return 0

    monkeypatch.setattr("storage.certificate_log.put_many", wrong)
    async with log(postgres_url, runs=False) as kept:
        await kept.store(*SEALED[:2])
        with trio.fail_after(30), pytest.raises(StatementError):
            await kept.log.run()
        assert kept.transport.struck == []


async def test_the_end_of_a_batch_is_looked_up(postgres_url: str) -> None:
    async with log(postgres_url) as kept:
        await kept.log.put(SEALED[:1])
        for batch_id in IDENTIFIERS[:2]:
            effect = LookUpCertificate(batch_id=batch_id, asker=SENDER, successor="next")
            await kept.log.handlers[LookUpCertificate](effect)
        found, absent = kept.reported
        assert isinstance(found, CertificateLookedUp)
        assert isinstance(absent, CertificateLookedUp)
        assert (found.sealed, absent.sealed) == (SEALED[0], None)
        assert (found.asker, found.successor, absent.batch_id) == (SENDER, "next", IDENTIFIERS[1])


async def test_the_latest_certificates_are_kept(postgres_url: str) -> None:
    async with log(postgres_url, kept_max=2) as kept:
        for each in SEALED:
            await kept.log.put([each])
        page = await kept.ids()
        assert page.last == 4
        assert len(page.entries) == 2


async def test_a_peer_reads_the_log_by_ids_and_entries(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.network.certificate_log.LOG_PAGE_MAX", 3)
    async with log(postgres_url) as kept:
        assert await kept.ids() == IdPage(last=0, entries=())
        await kept.log.put(SEALED)
        first = await kept.ids()
        rest = await kept.ids(after=first.entries[-1][0])
        assert [len(page.entries) for page in (first, rest)] == [3, 1]
        assert (await kept.ids(after=2**40)).entries == ()
        page = codec.decode(EntryPage, await kept.log.answer(ENTRIES + write_keys(IDENTIFIERS)))
        found, problem = check_entries(page, NETWORK, set(IDENTIFIERS))
        assert {each.certificate.statement.batch_id for each in found} == set(IDENTIFIERS)
        assert problem == ""


async def test_an_answer_is_bounded_in_bytes_and_never_empty(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.network.certificate_log.ENTRIES_BYTES_MAX", 1)
    async with log(postgres_url) as kept:
        await kept.log.put(SEALED)
        page = codec.decode(EntryPage, await kept.log.answer(ENTRIES + write_keys(IDENTIFIERS)))
        assert len(page.entries) == 1, "one at least, so that a peer gets on"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"?",
        IDS,
        IDS + b"\0" * 7,
        IDS + b"\0" * 9,
        ENTRIES,
        ENTRIES + b"\0" * 31,
        ENTRIES + b"\0" * 32 * (ENTRIES_MAX + 1),
        PROOFS + b"more",
    ],
)
async def test_a_malformed_request_gets_nothing(postgres_url: str, body: bytes) -> None:
    async with log(postgres_url) as kept:
        assert await kept.log.answer(body) == b""


async def test_a_node_without_proofs_has_an_empty_page(postgres_url: str) -> None:
    async with log(postgres_url) as kept:
        assert codec.decode(ProofPage, await kept.log.answer(PROOFS)) == ProofPage(entries=())


async def test_one_that_the_database_refuses_is_its_sender_s_fault_and_the_others_are_kept(postgres_url: str) -> None:
    """A group is one statement: what is refused in it must not keep the others out."""
    statement = attrs.evolve(SEALED[1].certificate.statement, source_id="a\0b")
    refused = attrs.evolve(SEALED[1], certificate=attrs.evolve(SEALED[1].certificate, statement=statement))
    async with log(postgres_url) as kept:
        await kept.store(SEALED[0], refused, SEALED[2])
        await until(lambda: len(kept.reported) == 2)
        unknown = await kept.database.run(partial(certificate_log.unknown, batch_ids=IDENTIFIERS[:3]))
        assert unknown == [IDENTIFIERS[1]]
        assert [sender for sender, _ in kept.transport.struck] == [SENDER]
        await kept.store(SEALED[3])
        await until(lambda: len(kept.reported) == 3)


async def test_a_row_that_cannot_be_read_is_no_end_of_its_batch(postgres_url: str) -> None:
    async with log(postgres_url, runs=False) as kept:
        await kept.log.put(SEALED[:2])
        spoil = "UPDATE certificate_log SET certificate = 'rot' WHERE batch_id = %s"
        await kept.database.run(lambda connection: connection.execute(spoil, (IDENTIFIERS[0],)) and None)
        assert await kept.log.find(IDENTIFIERS[0]) is None
        assert await kept.log.find(IDENTIFIERS[1]) == SEALED[1]

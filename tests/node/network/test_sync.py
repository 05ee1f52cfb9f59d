"""Catching up from peers' logs: what is true is kept, a lie is its teller's fault, and no log holds up the others."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import attrs
import pytest
import trio

from node.network.certificate_log import CertificateLog
from node.network.inbound_fence import InboundFence
from node.network.requests import ABSENT, PRESENT
from node.network.sync import Synchronizer
from node.network.sync_messages import (
    ENTRIES,
    ENTRIES_MAX,
    IDS,
    PROOFS,
    PROOFS_MAX,
    EntryPage,
    IdPage,
    ProofPage,
    read_keys,
)
from node.runtime.clock import clock_ms
from node.runtime.containment import Quarantine
from protocols import codec
from protocols.envelope import sign, to_frame
from protocols.messages import FraudProof, IdentityKey, QuorumCertificate, Role
from storage import certificate_log
from storage.database import Database
from tests.network_of_keys import AGENTS, NETWORK, certified, witness
from tests.node.memory_transport import MemoryNetwork
from tests.node.running import ThreadWorkers, until

SELF, PEER, OTHER = (agent.identity for agent in AGENTS[:3])
CERTIFICATES = [certified(events=count).certificate for count in range(1, 6)]
HONEST = witness(CERTIFICATES[0].statement, Role.VALIDATE, AGENTS[3])
IDENTIFIERS = [each.statement.batch_id for each in CERTIFICATES]


def digest_of(certificate: QuorumCertificate) -> bytes:
    return bytes.fromhex(certificate.statement.batch_id.removeprefix("batch_"))


@attrs.define
class Log:
    """A peer's log; ``change`` spoils an answer before it is sent."""

    entries: dict[int, QuorumCertificate] = attrs.Factory(dict)
    proofs: list[tuple[bytes, bytes]] = attrs.Factory(list)
    change: Callable[[bytes, Any], Any] = lambda tag, page: page
    requests: list[bytes] = attrs.Factory(list)
    fits: int = ENTRIES_MAX
    page: int = 10_000

    async def answer(self, sender: IdentityKey, body: bytes) -> bytes:
        self.requests.append(body[:1])
        page = self.change(body[:1], self._page(body))
        return page if isinstance(page, bytes) else PRESENT + codec.encode(page)

    def _page(self, body: bytes) -> Any:
        if body[:1] == IDS:
            after = int.from_bytes(body[1:], "big")
            later = [(number, digest_of(each)) for number, each in sorted(self.entries.items()) if number > after]
            return IdPage(last=max(self.entries, default=0), entries=tuple(later[: self.page]))
        if body[:1] == ENTRIES:
            wanted = read_keys(body[1:], ENTRIES_MAX)
            found = [each for each in self.entries.values() if each.statement.batch_id in wanted]
            return EntryPage(entries=tuple((codec.encode(each), b"{}") for each in found[: self.fits]))
        assert body == PROOFS
        return ProofPage(entries=tuple(self.proofs))


@attrs.frozen(kw_only=True)
class Reading:
    sync: Synchronizer
    network: MemoryNetwork
    transport: Any
    database: Database
    proofs: list[tuple[FraudProof, IdentityKey]]
    unknown: set[IdentityKey]

    async def known(self) -> list[str]:
        missing = await self.database.run(partial(certificate_log.unknown, batch_ids=IDENTIFIERS))
        return [each for each in IDENTIFIERS if each not in missing]

    async def cursor(self, peer: IdentityKey) -> int:
        return (await self.database.run(certificate_log.cursors)).get(peer, 0)


@asynccontextmanager
async def reading(url: str, logs: dict[IdentityKey, Log], *, expects_peers: bool = True) -> AsyncIterator[Reading]:
    network = MemoryNetwork()
    transport: Any = network.join(SELF)
    network.answers = {peer: log.answer for peer, log in logs.items()}
    proofs: list[tuple[FraudProof, IdentityKey]] = []
    unknown: set[IdentityKey] = set()

    async def take(proof: FraudProof, peer: IdentityKey) -> None:
        proofs.append((proof, peer))

    with Database(url) as database:
        log = CertificateLog(
            network=NETWORK,
            database=database,
            kept_max=1_000,
            is_known=lambda identity: identity not in unknown,
            has_standing=lambda key: True,
            enqueue=lambda stimulus: None,
            fence=InboundFence(Quarantine(), transport),
            quarantine=Quarantine(),
        )
        sync = Synchronizer(
            network=NETWORK,
            database=database,
            transport=transport,
            checker=ThreadWorkers(),
            certificates=log,
            expects_peers=lambda: expects_peers,
            on_proof=take,
            fence=InboundFence(Quarantine(), transport),
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sync.run)
            yield Reading(
                sync=sync, network=network, transport=transport, database=database, proofs=proofs, unknown=unknown
            )
            nursery.cancel_scope.cancel()


def log_of(*certificates: QuorumCertificate) -> Log:
    return Log(entries=dict(enumerate(certificates, 1)))


async def until_known(at: Reading, count: int) -> None:
    with trio.fail_after(20):
        while len(await at.known()) < count:
            await trio.sleep(0.02)


async def test_a_node_learns_what_any_of_its_peers_has(postgres_url: str) -> None:
    logs = {PEER: log_of(*CERTIFICATES[:3]), OTHER: log_of(*CERTIFICATES[2:])}
    async with reading(postgres_url, logs) as at:
        await until(lambda: at.sync.freshness().synced)
        assert await at.known() == IDENTIFIERS
        fresh = at.sync.freshness()
        assert (fresh.peers, fresh.connected, fresh.alone, fresh.settles) == (2, 2, False, True)
        assert clock_ms() - fresh.as_of_ms < 60_000
        assert (await at.cursor(PEER), await at.cursor(OTHER)) == (3, 3)
        assert sum(log.requests.count(ENTRIES) for log in logs.values()) == 2


async def test_a_log_is_read_from_where_it_was_left(postgres_url: str) -> None:
    async with reading(postgres_url, {PEER: log_of(*CERTIFICATES[:2])}) as at:
        await until(lambda: at.sync.freshness().synced)
    log = log_of(*CERTIFICATES[:3])
    async with reading(postgres_url, {PEER: log}) as at:
        await until(lambda: at.sync.freshness().synced)
        assert await at.known() == IDENTIFIERS[:3]
        assert await at.cursor(PEER) == 3


@pytest.mark.parametrize("entries", [{}, {1: CERTIFICATES[3]}])
async def test_a_log_that_began_anew_is_read_from_its_start(
    postgres_url: str, entries: dict[int, QuorumCertificate]
) -> None:
    async with reading(postgres_url, {PEER: log_of(*CERTIFICATES[:3])}) as at:
        await until(lambda: at.sync.freshness().synced)
    async with reading(postgres_url, {PEER: Log(entries=entries)}) as at:
        await until(lambda: at.sync.freshness().synced)
        assert await at.cursor(PEER) == len(entries)
        assert len(await at.known()) == 3 + len(entries)


async def test_pages_are_read_to_the_end_of_the_log(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.network.sync.LOG_PAGE_MAX", 2)
    log = attrs.evolve(log_of(*CERTIFICATES), page=2)
    async with reading(postgres_url, {PEER: log}) as at:
        await until(lambda: at.sync.freshness().synced)
        assert await at.known() == IDENTIFIERS
        assert log.requests.count(IDS) == 3


async def test_certificates_that_did_not_fit_are_requested_again(postgres_url: str) -> None:
    log = attrs.evolve(log_of(*CERTIFICATES), fits=2)
    async with reading(postgres_url, {PEER: log}) as at:
        await until(lambda: at.sync.freshness().synced)
        assert await at.known() == IDENTIFIERS
        assert log.requests.count(ENTRIES) == 3


def ids(*entries: tuple[int, bytes], last: int = 9) -> Callable[[bytes, Any], Any]:
    return lambda tag, page: IdPage(last=last, entries=entries) if tag == IDS else page


FIRST = digest_of(CERTIFICATES[0])
LIES: dict[str, Callable[[bytes, Any], Any]] = {
    "numbers that fall": ids((2, FIRST), (1, FIRST)),
    "a number twice": ids((1, FIRST), (1, FIRST)),
    "a number that was read": ids((0, FIRST)),
    "a digest cut short": ids((1, FIRST[:-1])),
    "nothing": lambda tag, page: b"",
    "absent": lambda tag, page: ABSENT,
    "garbage": lambda tag, page: PRESENT + b"garbage",
    "another page": lambda tag, page: EntryPage(entries=()) if tag == IDS else page,
    "certificates of other batches": lambda tag, page: (
        EntryPage(entries=((codec.encode(CERTIFICATES[4]), b"{}"),)) if tag == ENTRIES else page
    ),
    "too many proofs": lambda tag, page: (
        ProofPage(entries=((b"", b""),) * (PROOFS_MAX + 1)) if tag == PROOFS else page
    ),
    "proofs that prove nothing": lambda tag, page: (
        ProofPage(entries=((to_frame(HONEST), to_frame(HONEST)),)) if tag == PROOFS else page
    ),
}


@pytest.mark.parametrize("lie", LIES)
async def test_a_log_that_lies_is_its_peer_s_fault_and_the_others_are_read(postgres_url: str, lie: str) -> None:
    logs = {PEER: attrs.evolve(log_of(CERTIFICATES[0]), change=LIES[lie]), OTHER: log_of(*CERTIFICATES[1:3])}
    async with reading(postgres_url, logs) as at:
        await until(lambda: bool(at.transport.struck) and at.sync.freshness().peers == 1)
        assert {peer for peer, _ in at.transport.struck} == {PEER}
        assert set(await at.known()) >= set(IDENTIFIERS[1:3])
        assert not at.sync.freshness().synced
        assert at.proofs == []


async def test_a_page_longer_than_pages_are_is_refused(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.network.sync.LOG_PAGE_MAX", 1)
    async with reading(postgres_url, {PEER: log_of(*CERTIFICATES[:2])}) as at:
        await until(lambda: bool(at.transport.struck))
        assert await at.known() == []


async def test_true_certificates_beside_a_forged_one_are_kept(postgres_url: str) -> None:
    forged = attrs.evolve(CERTIFICATES[1], certifications=CERTIFICATES[1].certifications[:1])
    async with reading(postgres_url, {PEER: log_of(CERTIFICATES[0], forged, CERTIFICATES[2])}) as at:
        await until(lambda: bool(at.transport.struck))
        await until_known(at, 2)
        assert await at.known() == [IDENTIFIERS[0], IDENTIFIERS[2]]
        assert await at.cursor(PEER) == 0, "its log is read again: another time it may be true"


async def test_certificates_of_keys_that_are_no_nodes_are_left_out(postgres_url: str) -> None:
    async with reading(postgres_url, {}) as at:
        at.unknown.add(CERTIFICATES[0].certifications[0].signer)
        at.network.answers = {PEER: log_of(*CERTIFICATES[:2]).answer}
        await until(lambda: at.sync.freshness().synced)
        assert await at.known() == []
        assert at.transport.struck == []


async def test_proofs_of_a_peer_are_handed_on_with_its_name(postgres_url: str) -> None:
    twisted = sign(AGENTS[3], attrs.evolve(HONEST.message, output_digest=bytes(32)))
    log = log_of(CERTIFICATES[0])
    log.proofs.append((to_frame(HONEST), to_frame(twisted)))
    async with reading(postgres_url, {PEER: log}) as at:
        await until(lambda: bool(at.proofs))
        ((proof, peer),) = at.proofs
        assert peer == PEER
        assert proof.first.signer == AGENTS[3].identity
        assert {proof.first.message.output_digest, proof.second.message.output_digest} == {
            HONEST.message.output_digest,
            bytes(32),
        }


async def test_a_peer_that_does_not_answer_is_asked_again(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.network.sync.RETRY_S", 0.05)
    monkeypatch.setattr("node.network.sync.LOOK_S", 0.02)
    monkeypatch.setattr("node.network.sync.REQUEST_S", 0.05)
    gate = trio.Event()
    log = log_of(CERTIFICATES[0])

    async def late(sender: IdentityKey, body: bytes) -> bytes:
        await gate.wait()
        return await log.answer(sender, body)

    async with reading(postgres_url, {}) as at:
        at.network.answers = {PEER: late}
        await until(lambda: len(at.network.asked) > 1)
        assert (at.transport.struck, at.sync.freshness().synced) == ([], False)
        gate.set()
        await until(lambda: at.sync.freshness().synced)


@pytest.mark.parametrize(("expects_peers", "alone"), [(True, False), (False, True)])
async def test_a_node_with_nobody_to_join_is_level_from_the_start(
    postgres_url: str, expects_peers: bool, alone: bool
) -> None:
    async with reading(postgres_url, {}, expects_peers=expects_peers) as at:
        fresh = at.sync.freshness()
        assert (fresh.synced, fresh.alone, fresh.settles) == (False, alone, alone)


async def test_nothing_is_requested_that_is_here(postgres_url: str) -> None:
    log = log_of(*CERTIFICATES)
    async with reading(postgres_url, {PEER: log}) as at:
        await until(lambda: at.sync.freshness().synced)
        log.requests.clear()
        assert await at.sync.fetch(PEER, IDENTIFIERS) == 0
        assert log.requests == []

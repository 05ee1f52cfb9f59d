"""Certified batches of other nodes, had of whichever peer gives the true bytes."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import attrs
import pytest

from node.network.content_exchange import OUTPUTS, ContentExchange, answer_outputs
from node.network.inbound_fence import InboundFence
from node.network.remote_batches import ASKED_MAX, BatchUnavailableError, RemoteBatches
from node.network.requests import ABSENT, PRESENT
from node.network.sync_messages import MANIFESTS, MANIFESTS_MAX, ManifestPage, read_keys, write_keys
from node.runtime.containment import Quarantine
from node.worker import compute
from protocols import codec
from protocols.envelope import sign, to_frame
from protocols.messages import IdentityKey, Manifest, Signed
from storage.database import Database
from tests.network_of_keys import AGENTS, NETWORK, certified
from tests.node.coordination.workbench import packed
from tests.node.memory_transport import MemoryNetwork
from tests.node.running import ThreadWorkers

COORDINATOR, SIGNER, OTHER, READER = (agent.identity for agent in AGENTS[:4])
BATCHES = [certified(events=count) for count in (2, 3, 4)]
FIRST = BATCHES[0]
STATEMENTS = [each.certificate.statement for each in BATCHES]
TRUE = (FIRST.output.leaves, FIRST.output.normalized)
check = partial(compute.check_outputs, packed=packed(FIRST), statement=STATEMENTS[0])


@attrs.define
class Holder:
    """A peer with these manifests and these outputs."""

    manifests: list[Signed[Manifest]] = attrs.Factory(list)
    outputs: tuple[bytes, bytes] | None = None
    change: Callable[[bytes], bytes] = lambda answer: answer
    requests: list[bytes] = attrs.Factory(list)

    async def answer(self, sender: IdentityKey, body: bytes) -> bytes:
        self.requests.append(body[:1])
        if body[:1] == MANIFESTS:
            wanted = read_keys(body[1:], MANIFESTS_MAX)
            frames = [to_frame(each) for each in self.manifests if each.message.batch_id in wanted]
            found = codec.encode(ManifestPage(entries=tuple(frames))) if frames else b""
        else:
            found = await answer_outputs(self._find)(body)
        return self.change(PRESENT + found if found else ABSENT)

    async def _find(self, batch_id: str) -> tuple[bytes, bytes] | None:
        return self.outputs if batch_id == FIRST.manifest.message.batch_id else None


@attrs.frozen(kw_only=True)
class Reading:
    remote: RemoteBatches
    transport: Any
    network: MemoryNetwork

    def asked(self) -> list[IdentityKey]:
        return [peer for peer, _ in self.network.asked]


@asynccontextmanager
async def reading(url: str, holders: dict[IdentityKey, Holder]) -> AsyncIterator[Reading]:
    network = MemoryNetwork()
    network.answers = {peer: holder.answer for peer, holder in holders.items()}
    transport: Any = network.join(READER)

    async def nothing(*_: Any) -> None:
        return None

    with Database(url) as database:
        remote = RemoteBatches(
            network=NETWORK,
            database=database,
            transport=transport,
            library=ContentExchange(transport=transport, find_policy=nothing, keep_policy=nothing),
            checker=ThreadWorkers(),
            fence=InboundFence(Quarantine(), transport),
        )
        yield Reading(remote=remote, transport=transport, network=network)


MANIFEST_OF = {each.batch_id: batch.manifest.message for each, batch in zip(STATEMENTS, BATCHES, strict=True)}


# --- manifests -----------------------------------------------------------------------------------------------


async def test_manifests_are_had_of_their_coordinator_and_kept(postgres_url: str) -> None:
    holders = {COORDINATOR: Holder(manifests=[each.manifest for each in BATCHES]), OTHER: Holder()}
    async with reading(postgres_url, holders) as at:
        assert await at.remote.manifests(STATEMENTS) == MANIFEST_OF
        assert await at.remote.manifests(STATEMENTS[:1]) == {STATEMENTS[0].batch_id: FIRST.manifest.message}
        assert at.asked() == [COORDINATOR], "what was read once is here"
        assert await at.remote.manifests([]) == {}


async def test_what_the_coordinator_does_not_give_is_asked_of_others(postgres_url: str) -> None:
    holders = {
        COORDINATOR: Holder(manifests=[FIRST.manifest]),
        OTHER: Holder(manifests=[each.manifest for each in BATCHES[1:]]),
    }
    async with reading(postgres_url, holders) as at:
        assert await at.remote.manifests(STATEMENTS) == MANIFEST_OF
        assert at.transport.struck == []


FOREIGN = sign(AGENTS[1], attrs.evolve(FIRST.manifest.message, topics=("invented",)))
LIES: dict[str, Callable[[bytes], bytes]] = {
    "one that was not requested": lambda _: page(BATCHES[2].manifest),
    "one twice": lambda _: page(FIRST.manifest, FIRST.manifest),
    "other topics": lambda _: page(FOREIGN),
    "not signed by its coordinator": lambda _: page(sign(AGENTS[1], FIRST.manifest.message)),
    "a false signature": lambda _: page(attrs.evolve(FIRST.manifest, signature=bytes(70))),
    "another message": lambda _: page(FIRST.certificate.certifications[0]),
    "garbage": lambda _: PRESENT + b"garbage",
}


def page(*signed: Signed[Any]) -> bytes:
    return PRESENT + codec.encode(ManifestPage(entries=tuple(to_frame(each) for each in signed)))


@pytest.mark.parametrize("lie", LIES)
async def test_a_peer_that_lies_about_manifests_is_struck_and_another_asked(postgres_url: str, lie: str) -> None:
    holders = {
        COORDINATOR: Holder(manifests=[FIRST.manifest], change=LIES[lie]),
        OTHER: Holder(manifests=[FIRST.manifest]),
    }
    async with reading(postgres_url, holders) as at:
        found = await at.remote.manifests(STATEMENTS[:1])
        assert found == {STATEMENTS[0].batch_id: FIRST.manifest.message}
        assert {peer for peer, _ in at.transport.struck} == {COORDINATOR}


async def test_manifests_that_nobody_has_are_left_out(postgres_url: str) -> None:
    async with reading(postgres_url, {OTHER: Holder(manifests=[BATCHES[1].manifest])}) as at:
        assert list(await at.remote.manifests(STATEMENTS)) == [STATEMENTS[1].batch_id]


async def test_manifests_that_were_read_are_given_on(postgres_url: str) -> None:
    keys = write_keys([each.batch_id for each in STATEMENTS])
    async with reading(postgres_url, {COORDINATOR: Holder(manifests=[FIRST.manifest])}) as at:
        assert await at.remote.answer(MANIFESTS + keys) == b"", "nothing is here yet"
        await at.remote.manifests(STATEMENTS)
        given = codec.decode(ManifestPage, await at.remote.answer(MANIFESTS + keys))
        assert given.entries == (to_frame(FIRST.manifest),)
        for malformed in (b"", keys[:-1], bytes(32) * (MANIFESTS_MAX + 1)):
            assert await at.remote.answer(MANIFESTS + malformed) == b""


# --- outputs -------------------------------------------------------------------------------------------------


async def test_outputs_are_had_once_and_then_here(postgres_url: str) -> None:
    holders = {COORDINATOR: Holder(outputs=TRUE)}
    async with reading(postgres_url, holders) as at:
        assert await at.remote.outputs(STATEMENTS[0].batch_id) is None
        first = await at.remote.read(FIRST.certificate, check)
        assert await at.remote.read(FIRST.certificate, check) == first
        assert await at.remote.outputs(STATEMENTS[0].batch_id) == TRUE, "for other peers, too"
        assert holders[COORDINATOR].requests == [OUTPUTS]


@pytest.mark.parametrize(
    "forged",
    [
        (TRUE[0], TRUE[1].replace(b"EWR", b"JFK")),
        (TRUE[0], b"\xff"),
        (b"", b""),
        (TRUE[1], TRUE[0]),
        (TRUE[0] + b"\n" + TRUE[0], TRUE[1]),
    ],
)
async def test_forged_outputs_are_a_fault_and_the_next_peer_is_asked(
    postgres_url: str, forged: tuple[bytes, bytes]
) -> None:
    holders = {COORDINATOR: Holder(outputs=forged), SIGNER: Holder(outputs=TRUE)}
    async with reading(postgres_url, holders) as at:
        await at.remote.read(FIRST.certificate, check)
        assert at.transport.struck == [(COORDINATOR, "forged-outputs")]
        assert at.asked() == [COORDINATOR, SIGNER], "the coordinator first, then who processed it"


async def test_outputs_that_nobody_gives_are_unavailable(postgres_url: str) -> None:
    async with reading(postgres_url, {}) as at:
        with pytest.raises(BatchUnavailableError):
            await at.remote.read(FIRST.certificate, check)
        assert at.transport.struck == []
    lying = {peer: Holder(outputs=(b"a", b"b")) for peer in (COORDINATOR, SIGNER, OTHER)}
    async with reading(postgres_url, lying) as at:
        with pytest.raises(BatchUnavailableError, match="none of 3 peers"):
            await at.remote.read(FIRST.certificate, check)
        assert {peer for peer, _ in at.transport.struck} == set(lying)
        assert await at.remote.outputs(STATEMENTS[0].batch_id) is None, "nothing forged is kept"


async def test_so_many_peers_are_asked_and_no_more(postgres_url: str) -> None:
    crowd = {b"\x02" + number.to_bytes(32, "big"): Holder() for number in range(1, 20)}
    async with reading(postgres_url, crowd) as at:
        with pytest.raises(BatchUnavailableError):
            await at.remote.read(FIRST.certificate, check)
        likely = {COORDINATOR, SIGNER}
        assert set(at.asked()) >= likely
        assert len(set(at.asked()) - likely) == ASKED_MAX

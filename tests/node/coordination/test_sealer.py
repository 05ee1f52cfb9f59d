"""How a batch ends: certified with the outputs that were certified, whatever peers hand out, or dead."""

from collections.abc import Callable

import attrs
import pytest
import trio

from node.coordination.result_cache import content_key
from node.coordination.sealer import SEAL_ROUNDS
from node.coordination.serialization import unpack_outputs
from node.runtime.clock import clock_ms
from node.runtime.workers import WorkerCrashedError
from node.worker import compute
from protocols.effects import MarkDead, ReproduceBatch
from protocols.entities import batch_entity_id
from protocols.messages import BatchSealed
from protocols.stimuli import BatchReproduced, BatchWritten, Restarted
from storage.database import Database
from storage.errors import DatabaseUnavailableError
from tests.lost_replies import lossy_way
from tests.network_of_keys import AGENTS, NETWORK, certified
from tests.node.coordination.workbench import AGENT, COORDINATOR, OTHER, Workbench, enter, packed, stored, write

BATCH = certified(quorum=3)
BATCH_ID = BATCH.manifest.message.batch_id
LEAVES, DATA = BATCH.output.leaves, BATCH.output.normalized
TRUE = (LEAVES, DATA)


def lines_of(data: bytes, change: Callable[[list[bytes]], list[bytes]]) -> bytes:
    return b"\n".join(change(data.split(b"\n")))


LIES = {
    "bad UTF-8": (LEAVES, lines_of(DATA, lambda lines: [b"\xff\xfe", *lines[1:]])),
    "no JSON": (LEAVES, lines_of(DATA, lambda lines: [b"{", *lines[1:]])),
    "another value": (LEAVES, DATA.replace(b"EWR", b"JFK", 1)),
    "wrong order": (LEAVES, lines_of(DATA, lambda lines: lines[::-1])),
    "a line twice": (LEAVES, lines_of(DATA, lambda lines: [lines[0], lines[0], *lines[2:]])),
    "a line more": (LEAVES, DATA + b"\n{}"),
    "a line less": (LEAVES, lines_of(DATA, lambda lines: lines[1:])),
    "no data": (LEAVES, b""),
    "other verdicts": (lines_of(LEAVES, lambda lines: lines[::-1]), DATA),
    "a verdict twice": (lines_of(LEAVES, lambda lines: [lines[0], *lines[:-1]]), DATA),
    "a verdict less": (lines_of(LEAVES, lambda lines: lines[1:]), DATA),
    "verdicts in bad UTF-8": (b"\xff" + LEAVES, DATA),
    "nothing": (b"", b""),
}


def differing(database: Database | None = None) -> Workbench:
    """A coordinator whose own run gives something else than the quorum certified."""
    bench = Workbench(COORDINATOR, database)
    bench.own_payloads.put(BATCH_ID, packed(BATCH))
    run = compute.run_roles(
        network=NETWORK,
        source_id=BATCH.manifest.message.source_id,
        packed=packed(BATCH),
        policy=bench.peers.policies[COORDINATOR.identity],
        context=b"{}",
        keep_outputs=True,
    )
    wrong = attrs.evolve(run, findings=attrs.evolve(run.findings, output_root=bytes(32)))
    bench.cache.put("normalization", content_key(BATCH.manifest.message, b"{}"), wrong)
    return bench


async def test_a_batch_is_stored_with_this_node_s_own_outputs(postgres_url: str) -> None:
    with Database(postgres_url) as database:
        await enter(database, BATCH)
        bench = Workbench(COORDINATOR, database)
        (written,) = await bench.carry_out(write(BATCH))
        assert isinstance(written, BatchWritten)
        assert (written.subscribers, written.earlier) == ((OTHER.identity,), None)
        assert bench.peers.asked == [COORDINATOR.identity], "no peer was asked for outputs"
        row = await stored(database, BATCH)
        assert (row.state, row.valid, row.invalid) == ("certified", 4, 1)
        (result,) = bench.certified
        assert (result.leaves, result.normalized, result.sequence) == (*TRUE, 1)
        assert result.certificate == BATCH.certificate


async def test_a_batch_that_waited_for_a_month_is_stored(postgres_url: str) -> None:
    """Fails where its time in milliseconds overflows an integer column: the node ended at every start."""
    assert clock_ms() - BATCH.manifest.message.received_ms > 2**31
    with Database(postgres_url) as database:
        await enter(database, BATCH)
        await Workbench(COORDINATOR, database).carry_out(write(BATCH))
        assert (await stored(database, BATCH)).state == "certified"


async def test_a_batch_that_has_its_end_is_not_stored_again(postgres_url: str) -> None:
    with Database(postgres_url) as database:
        await enter(database, BATCH)
        bench = Workbench(COORDINATOR, database)
        earlier = BatchSealed(network=NETWORK, certificate=BATCH.certificate)
        bench.peers.certificates[BATCH_ID] = earlier
        first, second = await bench.carry_out(write(BATCH), write(BATCH))
        assert isinstance(first, BatchWritten)
        assert isinstance(second, BatchWritten)
        assert (first.earlier, second.earlier) == (None, BATCH.certificate)
        assert len(bench.certified) == 1, "listeners are called once a batch"


@pytest.mark.parametrize("lie", LIES)
async def test_a_lying_signer_is_struck_and_the_next_one_asked(postgres_url: str, lie: str) -> None:
    """Fails where only the verdicts are checked: the data went to the database as they came, or ended the node."""
    with Database(postgres_url) as database:
        await enter(database, BATCH)
        bench = differing(database)
        bench.peers.results = {AGENTS[1].identity: LIES[lie], AGENTS[2].identity: TRUE}
        (written,) = await bench.carry_out(write(BATCH))
        assert isinstance(written, BatchWritten)
        assert bench.struck == [(AGENTS[1].identity, "forged-outputs")]
        (result,) = bench.certified
        assert (result.leaves, result.normalized) == TRUE
        assert (await stored(database, BATCH)).state == "certified"


async def test_outputs_of_peers_are_stored_as_they_were_certified(postgres_url: str) -> None:
    with Database(postgres_url) as database:
        await enter(database, BATCH)
        bench = differing(database)
        bench.peers.results = {AGENTS[2].identity: TRUE}
        await bench.carry_out(write(BATCH))
        kept = await database.run(lambda connection: _outputs(connection))
        assert unpack_outputs(kept) == TRUE
        assert AGENTS[1].identity in bench.peers.asked, "one that has none is passed over"
        assert bench.struck == []


def _outputs(connection: object) -> bytes:
    row = connection.execute("SELECT outputs FROM batches WHERE batch_id = %s", (BATCH_ID,)).fetchone()  # type: ignore[attr-defined]
    return bytes(row[0])


@pytest.mark.parametrize("lie", [None, *LIES])
async def test_without_true_outputs_nothing_is_stored(autojump_clock: object, lie: str | None) -> None:
    bench = differing()
    if lie is not None:
        bench.peers.results = {agent.identity: LIES[lie] for agent in AGENTS[1:3]}
    (owed,) = await bench.carry_out(write(BATCH))
    assert isinstance(owed, Restarted), "the batch asks for its seal again"
    assert owed.entity_id == batch_entity_id(BATCH_ID)
    assert bench.certified == []
    asked = [peer for peer in bench.peers.asked if peer != COORDINATOR.identity]
    assert len(asked) == 2 * SEAL_ROUNDS, "every signer but this node, in every round"


async def test_outputs_that_come_in_a_later_round_are_taken(autojump_clock: object) -> None:
    bench = differing()
    rounds = 0

    async def outputs(batch_id: str, holder: bytes) -> tuple[bytes, bytes] | None:
        nonlocal rounds
        rounds += 1
        return TRUE if rounds > 4 else None

    bench.peers.outputs = outputs  # type: ignore[method-assign]
    run = await bench.sealer._certified_run(write(BATCH))
    assert run is not None
    assert (run.leaves, run.normalized) == TRUE
    assert (run.findings.valid, run.findings.events) == (4, 5)
    again = await bench.sealer._certified_run(write(BATCH))
    assert again is run, "outputs are kept until they are written"
    assert rounds == 5


async def test_a_worker_that_fails_over_outputs_is_no_fault_of_the_signer() -> None:
    bench = differing()
    bench.peers.results = {agent.identity: TRUE for agent in AGENTS[1:3]}
    bench.workers.faults.append(WorkerCrashedError("gone"))
    run = await bench.sealer._certified_run(write(BATCH))
    assert run is not None
    assert bench.struck == []
    assert bench.peers.asked[-2:] == [AGENTS[1].identity, AGENTS[2].identity]


async def test_the_coordinator_of_an_adopted_batch_is_asked_last(autojump_clock: object) -> None:
    """The signers may have forgotten the batch, where its coordinator certified it too."""
    bench = differing()
    other = AGENTS[4].identity
    effect = write(BATCH)
    effect = attrs.evolve(effect, manifest=attrs.evolve(effect.manifest, coordinator=other))
    await bench.sealer._fetched(effect)
    assert bench.peers.asked[-3:] == [AGENTS[1].identity, AGENTS[2].identity, other]


async def test_outputs_beyond_their_bound_are_not_even_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.coordination.sealer.OUTPUTS_BYTES_MAX", len(LEAVES))
    bench = differing()
    bench.peers.results = {agent.identity: TRUE for agent in AGENTS[1:3]}
    calls = bench.workers.calls
    assert await bench.sealer._fetched(write(BATCH)) is None
    assert bench.workers.calls == calls


# --- certificates that others brought about ------------------------------------------------------------------


def reproduce(context: bytes = BATCH.output.context_out, root: bytes | None = None) -> ReproduceBatch:
    statement = BATCH.certificate.statement
    statement = statement if root is None else attrs.evolve(statement, output_root=root)
    certificate = attrs.evolve(BATCH.certificate, statement=statement)
    sealed = BatchSealed(network=NETWORK, certificate=certificate, context=context)
    return ReproduceBatch(sealed=sealed, manifest=BATCH.manifest.message, context=b"{}")


async def test_a_certificate_that_this_node_s_own_run_gives_is_accepted() -> None:
    bench = Workbench(COORDINATOR)
    bench.own_payloads.put(BATCH_ID, packed(BATCH))
    (checked,) = await bench.carry_out(reproduce())
    assert isinstance(checked, BatchReproduced)
    assert checked.sealed.certificate == BATCH.certificate


@pytest.mark.parametrize(
    "effect", [reproduce(root=bytes(32)), reproduce(context=b'{"last":1}'), reproduce(context=b"")]
)
async def test_a_certificate_of_another_result_is_not(effect: ReproduceBatch) -> None:
    bench = Workbench(COORDINATOR)
    bench.own_payloads.put(BATCH_ID, packed(BATCH))
    if effect.sealed.context == BATCH.output.context_out:
        assert effect.sealed.certificate != BATCH.certificate
    assert await bench.carry_out(effect) == []


async def test_a_certificate_that_cannot_be_checked_is_not_accepted() -> None:
    bench = Workbench(COORDINATOR)
    assert await bench.carry_out(reproduce()) == [], "the payload is gone"
    bench.own_payloads.put(BATCH_ID, packed(BATCH))
    bench.workers.faults.append(WorkerCrashedError("gone"))
    assert await bench.carry_out(reproduce()) == []
    bench.peers.policies.clear()
    assert await bench.carry_out(reproduce()) == [], "so is the policy"


async def test_a_certificate_is_not_checked_with_a_payload_that_a_peer_sent() -> None:
    bench = Workbench(COORDINATOR)
    bench.payloads.receive(BATCH_ID, AGENT.identity, packed(BATCH))
    assert await bench.carry_out(reproduce()) == []


# --- lost answers --------------------------------------------------------------------------------------------

LOST = [(carried_out, attempts_max) for carried_out in (True, False) for attempts_max in (1, 3)]


@pytest.mark.parametrize(("carried_out", "attempts_max"), LOST)
async def test_a_seal_whose_answer_is_lost_is_made_known_once(
    postgres_url: str, carried_out: bool, attempts_max: int
) -> None:
    """Fails where the repeated seal, finding the batch sealed, takes it for the end of an earlier one."""
    with lossy_way(postgres_url) as way, Database(way.url, attempts_max=attempts_max) as database:
        await enter(database, BATCH)
        bench = Workbench(COORDINATOR, database)
        way.lose("UPDATE batches SET state = 'certified'", carried_out=carried_out)
        if carried_out or attempts_max > 1:
            (written,) = await bench.carry_out(write(BATCH))
        else:
            with pytest.raises(DatabaseUnavailableError):
                await bench.carry_out(write(BATCH))
            assert bench.certified == []
            (written,) = await bench.carry_out(write(BATCH))
        assert way.lost == 1
        assert isinstance(written, BatchWritten)
        (result,) = bench.certified
        row = await stored(database, BATCH)
        assert result.sequence == row.seal_sequence == 1
        assert result.certified_ms == row.certified_ms
        await bench.carry_out(write(BATCH))
        assert len(bench.certified) == 1


async def test_the_end_that_another_gave_a_batch_is_not_made_known_again(postgres_url: str) -> None:
    """The first attempt is rolled back, and the batch is sealed by a node before it is tried again."""
    with Database(postgres_url) as other, lossy_way(postgres_url) as way, Database(way.url) as database:
        await enter(other, BATCH)
        await Workbench(COORDINATOR, other).carry_out(write(BATCH))
        bench = Workbench(COORDINATOR, database)
        way.lose("UPDATE batches SET state = 'certified'")
        await bench.carry_out(write(BATCH))
        assert way.lost == 1
        assert bench.certified == []


@pytest.mark.parametrize(("carried_out", "attempts_max"), LOST)
async def test_a_death_whose_answer_is_lost_is_made_known_once(
    postgres_url: str, carried_out: bool, attempts_max: int
) -> None:
    effect = MarkDead(batch_id=BATCH_ID, reasons=("attempt 1, 2024-01-15T10:30:00.123Z: no bids",))
    with lossy_way(postgres_url) as way, Database(way.url, attempts_max=attempts_max) as database:
        await enter(database, BATCH)
        bench = Workbench(COORDINATOR, database)
        way.lose("UPDATE batches SET state = 'dead'", carried_out=carried_out)
        if carried_out or attempts_max > 1:
            await bench.carry_out(effect)
        else:
            with pytest.raises(DatabaseUnavailableError):
                await bench.carry_out(effect)
            assert bench.dead == []
            await bench.carry_out(effect)
        assert way.lost == 1
        assert bench.dead == [(BATCH_ID, 5)]


async def test_an_end_is_looked_for_until_the_database_answers(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.coordination.batch_store.LOOK_S", 0.05)
    with lossy_way(postgres_url) as way, Database(way.url, attempts_max=1) as database:
        await enter(database, BATCH)
        bench = Workbench(COORDINATOR, database)
        way.lose("UPDATE batches SET state = 'certified'", cuts=True)
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(bench.carry_out, write(BATCH))
                while way.refused < 3:
                    await trio.sleep(0.01)
                assert bench.certified == []
                way.mend()
        assert [result.sequence for result in bench.certified] == [1]


# --- death ---------------------------------------------------------------------------------------------------


async def test_a_dead_batch_counts_its_events_once(postgres_url: str) -> None:
    with Database(postgres_url) as database:
        await enter(database, BATCH)
        bench = Workbench(COORDINATOR, database)
        effect = MarkDead(batch_id=BATCH_ID, reasons=("no bids", "no bids"))
        assert await bench.carry_out(effect, effect) == []
        assert bench.dead == [(BATCH_ID, 5), (BATCH_ID, 0)]
        assert (await stored(database, BATCH)).state == "dead"
        await bench.carry_out(write(BATCH))
        assert bench.certified == [], "a dead batch is not certified afterwards"

"""What a node does with the payloads, policies and results of batches that it is to process."""

from collections.abc import Sequence
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.coordination.payloads import Payloads
from node.coordination.role_runner import ORDERS_MAX
from node.runtime.caches import BytesCache
from node.runtime.fair_share import WorkersBusyError
from node.runtime.workers import UnwantedError, WorkerCrashedError, WorkerTimeoutError
from node.worker import compute
from protocols.effects import ForgetPayload, SignStatement
from protocols.envelope import digest
from protocols.messages import Level, Role
from protocols.stimuli import FailureCause, RoleFailed, RoleFinished, StatementSigned, Stimulus
from tests.network_of_keys import Certified, certified
from tests.node.coordination.workbench import AGENT, COORDINATOR, OTHER, Workbench, order, packed

BATCH = certified()
BATCH_ID = BATCH.manifest.message.batch_id
FORGED = compute.pack(b"\n".join((*BATCH.records[1:], BATCH.records[0])))


def finished(reported: Sequence[Stimulus]) -> RoleFinished:
    (only,) = reported
    assert isinstance(only, RoleFinished), only
    return only


def failed(reported: Sequence[Stimulus]) -> str:
    (only,) = reported
    assert isinstance(only, RoleFailed), only
    assert only.batch_id == BATCH_ID
    return only.reason


def agent_with_payload() -> Workbench:
    bench = Workbench(AGENT)
    bench.payloads.receive(BATCH_ID, COORDINATOR.identity, packed(BATCH))
    return bench


async def test_evidence_states_what_went_in_and_what_came_out() -> None:
    bench = agent_with_payload()
    done = finished(await bench.carry_out(order(BATCH)))
    statement = BATCH.certificate.statement
    normalized, validated = (each.message for each in done.evidence)
    assert (normalized.role, validated.role) == (Role.NORMALIZE, Role.VALIDATE)
    assert (normalized.input_digest, normalized.output_digest) == (statement.input_root, statement.normalized_root)
    assert (validated.input_digest, validated.output_digest) == (statement.normalized_root, statement.output_root)
    assert {each.context_out for each in (normalized, validated)} == {digest(BATCH.output.context_out)}
    assert (validated.valid, validated.invalid) == (statement.valid, statement.invalid)
    assert {each.signer for each in done.evidence} == {AGENT.identity}


async def test_evidence_is_for_the_roles_that_were_ordered() -> None:
    bench = agent_with_payload()
    done = finished(await bench.carry_out(order(BATCH, roles=(Role.VALIDATE, Role.CERTIFY))))
    assert [each.message.role for each in done.evidence] == [Role.VALIDATE]


async def test_the_same_work_is_not_done_twice() -> None:
    bench = agent_with_payload()
    first = finished(await bench.carry_out(order(BATCH)))
    second = finished(await bench.carry_out(order(BATCH)))
    assert bench.workers.calls == 1
    assert first.findings == second.findings
    assert second.evidence[0].message.processing_us == 0, "nothing was computed for it"


@pytest.mark.parametrize(("level", "refused"), [(0, False), (2, False), (3, True)])
async def test_a_batch_below_the_level_that_its_policy_wants_is_refused(level: int, refused: bool) -> None:
    bench = agent_with_payload()

    async def execute(call: Any, is_wanted: Any) -> compute.Run:
        return attrs.evolve(call(), level=level)

    bench.workers.execute = execute  # type: ignore[assignment, method-assign]
    reported = await bench.carry_out(order(BATCH))
    if refused:
        assert Level.CRITICAL.word in failed(reported)
    else:
        finished(reported)


async def test_a_batch_without_payload_or_policy_fails() -> None:
    bench = Workbench(AGENT)
    assert failed(await bench.carry_out(order(BATCH))) == "the payload is not here"
    bench.payloads.receive(BATCH_ID, COORDINATOR.identity, packed(BATCH))
    bench.peers.policies.clear()
    assert "policy" in failed(await bench.carry_out(order(BATCH)))
    assert bench.peers.asked == [COORDINATOR.identity], "the node that ordered the work has it"
    assert bench.struck == []


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        (WorkerTimeoutError("slow"), FailureCause.BATCH),
        (WorkerCrashedError("gone"), FailureCause.BATCH),
        (WorkersBusyError("full"), FailureCause.NODE),
        (UnwantedError("too late"), FailureCause.UNWANTED),
    ],
)
async def test_a_worker_that_fails_is_told_from_the_batch_and_nobody_is_struck(
    fault: Exception, cause: FailureCause
) -> None:
    bench = agent_with_payload()
    bench.workers.faults.append(fault)
    reported = await bench.carry_out(order(BATCH))
    assert failed(reported) == str(fault)
    assert [each.cause for each in reported if isinstance(each, RoleFailed)] == [cause]
    assert bench.struck == []
    finished(await bench.carry_out(order(BATCH)))


@pytest.mark.parametrize("payload", [FORGED, b"no zstd", compute.pack(b"no record"), compute.pack(BATCH.records[0])])
async def test_a_payload_that_its_manifest_does_not_name_counts_against_its_sender(payload: bytes) -> None:
    bench = Workbench(AGENT)
    bench.payloads.receive(BATCH_ID, COORDINATOR.identity, payload)
    failed(await bench.carry_out(order(BATCH)))
    assert bench.struck == [(COORDINATOR.identity, "forged-payload")]
    bench.payloads.receive(BATCH_ID, COORDINATOR.identity, packed(BATCH))
    finished(await bench.carry_out(order(BATCH)))  # no result of the forged one was kept


async def test_no_peer_replaces_the_payload_that_another_sent() -> None:
    """Fails where payloads are kept by batch alone: a manifest is signed once and can be sent by anybody."""
    bench = agent_with_payload()
    bench.payloads.receive(BATCH_ID, OTHER.identity, FORGED)
    finished(await bench.carry_out(order(BATCH)))
    assert bench.struck == []


async def test_no_peer_replaces_the_payload_of_this_node_s_own_batch() -> None:
    bench = Workbench(COORDINATOR)
    bench.own_payloads.put(BATCH_ID, packed(BATCH))
    bench.payloads.receive(BATCH_ID, OTHER.identity, FORGED)
    finished(await bench.carry_out(order(BATCH, sender=COORDINATOR)))
    assert bench.struck == []


async def test_a_batch_whose_manifest_counts_other_events_fails() -> None:
    wrong = attrs.evolve(BATCH.manifest.message, events=4)
    batch = attrs.evolve(BATCH, manifest=attrs.evolve(BATCH.manifest, message=wrong))
    bench = Workbench(AGENT)
    bench.payloads.receive(wrong.batch_id, COORDINATOR.identity, packed(BATCH))
    (reported,) = await bench.carry_out(order(batch))
    assert isinstance(reported, RoleFailed)
    assert bench.struck == [(COORDINATOR.identity, "forged-payload")]


async def test_outputs_are_computed_again_for_a_coordinator_that_differs() -> None:
    bench = agent_with_payload()
    assert await bench.runner.outputs(BATCH_ID) is None, "nothing was ordered yet"
    await bench.carry_out(order(BATCH))
    assert await bench.runner.outputs(BATCH_ID) == (BATCH.output.leaves, BATCH.output.normalized)
    await bench.carry_out(ForgetPayload(batch_id=BATCH_ID))
    assert await bench.runner.outputs(BATCH_ID) is None, "it was forgotten"


async def test_outputs_of_an_order_whose_payload_is_gone_are_not_to_be_had() -> None:
    bench = agent_with_payload()
    await bench.carry_out(order(BATCH))
    bench.payloads.forget(BATCH_ID)
    assert await bench.runner.outputs(BATCH_ID) is None


async def test_a_statement_is_signed_by_its_digest() -> None:
    statement = BATCH.certificate.statement
    (signed,) = await Workbench(AGENT).carry_out(SignStatement(statement=statement))
    assert isinstance(signed, StatementSigned)
    message = signed.certification.message
    assert (message.batch_id, message.statement_digest) == (statement.batch_id, statement.digest)
    assert signed.certification.signer == AGENT.identity


async def test_orders_are_remembered_within_a_bound() -> None:
    bench = agent_with_payload()
    await bench.carry_out(order(BATCH))
    for number in range(ORDERS_MAX):
        message = attrs.evolve(BATCH.manifest.message, source_sequence=2 + number)
        signed = attrs.evolve(BATCH.manifest, message=message)
        other: Certified = attrs.evolve(BATCH, manifest=signed)
        bench.runner._keep_order(order(other).order)
    assert await bench.runner.outputs(BATCH_ID) is None, "the oldest order made room"


# --- payloads ------------------------------------------------------------------------------------------------


async def absent(batch_id: str) -> bytes | None:
    return None


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from([b"x", b"y", b"z"]), st.binary(max_size=40))),
    st.integers(min_value=1, max_value=60),
)
def test_received_payloads_stay_within_their_bound(received: list[tuple[str, bytes, bytes]], bytes_max: int) -> None:
    payloads = Payloads(own=BytesCache(1), find=absent, strike=lambda peer, why: None, received_bytes_max=bytes_max)
    for batch_id, sender, data in received:
        payloads.receive(batch_id, sender, data)
        assert payloads.received_bytes <= max(bytes_max, len(data))
    for batch_id in "abc":
        payloads.forget(batch_id)
    assert payloads.received_bytes == 0


async def test_a_rejected_payload_is_struck_once() -> None:
    struck: list[bytes] = []
    payloads = Payloads(own=BytesCache(1), find=absent, strike=lambda peer, why: struck.append(peer))
    payloads.receive("b", b"peer", b"data")
    payloads.reject("b", b"other")
    payloads.reject("b", b"peer")
    payloads.reject("b", b"peer")
    assert struck == [b"peer"]
    assert await payloads.sent_by(b"peer", "b") is None


async def test_a_payload_from_the_database_is_read_once() -> None:
    reads: list[str] = []

    async def find(batch_id: str) -> bytes | None:
        reads.append(batch_id)
        return b"stored" if batch_id == "known" else None

    payloads = Payloads(own=BytesCache(100), find=find, strike=lambda peer, why: None)
    assert await payloads.own("known") == b"stored"
    assert await payloads.sent_by(b"peer", "known") == b"stored", "nothing came from this peer"
    assert reads == ["known"]
    assert await payloads.own("unknown") is None
    payloads.forget("known")
    await payloads.own("known")
    assert reads == ["known", "unknown", "known"]


async def test_a_peer_that_floods_pushes_out_its_own_payloads_alone() -> None:
    payloads = Payloads(own=BytesCache(1), find=absent, strike=lambda peer, why: None, received_bytes_max=100)
    payloads.receive("batch_1", AGENT.identity, bytes(30))
    for number in range(50):
        payloads.receive(f"batch_{number}", OTHER.identity, bytes(10))
    assert payloads.received_bytes <= 100
    assert await payloads.sent_by(AGENT.identity, "batch_1") == bytes(30)
    assert await payloads.sent_by(OTHER.identity, "batch_0") is None
    assert await payloads.sent_by(OTHER.identity, "batch_49") == bytes(10)
    payloads.receive("batch_2", AGENT.identity, bytes(95))
    assert await payloads.sent_by(AGENT.identity, "batch_2") == bytes(95), "the latest one is kept whatever its size"

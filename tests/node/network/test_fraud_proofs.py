"""Fraud proofs from peers: those that prove something reach the driver, once each; the others are a peer's fault."""

from collections.abc import Collection

import attrs
import pytest

from node.coordination.driver import Driver
from node.network.fraud_proofs import FraudProofs
from protocols.envelope import sign
from protocols.errors import MalformedError
from protocols.messages import Evidence, FraudProof, IdentityKey, Signed
from protocols.rules import Rules
from tests.network_of_keys import AGENTS, NETWORK, KeySigner, certified
from tests.node.running import Forgetful

SELF, CULPRIT, SENDER = AGENTS[2], AGENTS[0], AGENTS[1]


def answer(signer: KeySigner, output: bytes, batch_id: str | None = None) -> Signed[Evidence]:
    honest = certified().certificate.evidence[0].message
    message = attrs.evolve(honest, output_digest=output, batch_id=batch_id or honest.batch_id)
    return sign(signer, message)


def proof_against(signer: KeySigner, batch_id: str | None = None) -> FraudProof:
    answers = [answer(signer, bytes([number]) * 32, batch_id) for number in (1, 2)]
    first, second = sorted(answers, key=lambda signed: signed.message.outcome)
    return FraudProof(network=NETWORK, first=first, second=second)


def proofs_at(known: Collection[IdentityKey]) -> tuple[FraudProofs, Driver]:
    driver = Driver(Rules(network=NETWORK, self_key=SELF.identity), Forgetful())
    return FraudProofs(driver=driver, is_known=lambda identity: identity in known), driver


async def test_a_proof_is_submitted_once() -> None:
    proofs, driver = proofs_at({CULPRIT.identity, SENDER.identity})
    for _ in range(3):
        await proofs.take(proof_against(CULPRIT), SENDER.identity)
    assert driver.depth == 1
    await proofs.take(proof_against(SENDER), CULPRIT.identity)
    assert driver.depth == 2


async def test_a_proof_against_a_key_that_is_not_a_nodes_is_dropped() -> None:
    proofs, driver = proofs_at({SENDER.identity})
    await proofs.take(proof_against(CULPRIT), SENDER.identity)
    assert driver.depth == 0


async def test_a_proof_against_this_node_is_submitted_like_any_other() -> None:
    proofs, driver = proofs_at({SELF.identity})
    await proofs.take(proof_against(SELF), SENDER.identity)
    assert driver.depth == 1


@pytest.mark.parametrize(
    ("first", "second", "problem"),
    [
        (answer(CULPRIT, b"\1" * 32), answer(CULPRIT, b"\1" * 32), "the same"),
        (answer(CULPRIT, b"\1" * 32), answer(SENDER, b"\2" * 32), "two signers"),
        (answer(CULPRIT, b"\1" * 32), answer(CULPRIT, b"\2" * 32, "batch_2"), "two questions"),
    ],
)
async def test_what_proves_nothing_is_its_senders_fault(
    first: Signed[Evidence], second: Signed[Evidence], problem: str
) -> None:
    proofs, driver = proofs_at({CULPRIT.identity})
    with pytest.raises(MalformedError, match=f"a fraud proof is invalid: .*{problem}"):
        await proofs.take(FraudProof(network=NETWORK, first=first, second=second), SENDER.identity)
    assert driver.depth == 0

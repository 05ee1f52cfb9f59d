"""Two answers to one question prove something against whoever signed both, to anybody, and nothing else does."""

import attrs
import pytest

from node.coordination.serialization import evidence_bytes
from node.network.sync_messages import ProofPage, read_proofs
from protocols import envelope
from protocols.coordination import advance
from protocols.effects import ReportPeer, StoreProof
from protocols.entities import Entity, EntityId, Grant, Lease
from protocols.errors import PeerFault
from protocols.messages import Award, Evidence, FraudProof, Level, Role, Signed
from protocols.proofs import proof_of, proof_problem
from protocols.roles import WORK_ROLES
from protocols.rules import Rules
from protocols.stimuli import ProofReceived
from tests.network_of_keys import AGENTS, NETWORK, KeySigner, certified, witness

CULPRIT, HONEST, SELF = AGENTS[:3]
STATEMENT = certified().certificate.statement
FIRST = witness(STATEMENT, Role.VALIDATE, CULPRIT)


def answer(signer: KeySigner = CULPRIT, **changes: object) -> Signed[Evidence]:
    return envelope.sign(signer, attrs.evolve(FIRST.message, **changes))  # type: ignore[arg-type]


SECOND = answer(output_digest=bytes(32))
PROOF = proof_of(FIRST, SECOND)
HEARD = ProofReceived(now_ms=1, proof=PROOF, heard_from=HONEST.identity)


def test_a_contradiction_has_one_form() -> None:
    assert proof_of(SECOND, FIRST) == PROOF
    assert proof_problem(PROOF) == ""


@pytest.mark.parametrize(
    ("first", "second", "problem"),
    [
        (FIRST, answer(finished_ms=7, processing_us=9), "the answers are the same"),
        (FIRST, answer(HONEST, output_digest=bytes(32)), "the answers have two signers"),
        (FIRST, answer(batch_id="batch_other", output_digest=bytes(32)), "the answers are to two questions"),
        (FIRST, answer(context_in=bytes(32), output_digest=bytes(32)), "the answers are to two questions"),
    ],
)
def test_what_proves_nothing(first: Signed[Evidence], second: Signed[Evidence], problem: str) -> None:
    assert proof_problem(proof_of(first, second)) == problem


def test_another_order_is_another_form_and_refused() -> None:
    turned = FraudProof(network=NETWORK, first=PROOF.second, second=PROOF.first)
    assert proof_problem(turned) == "the answers are not in their order"


def test_a_page_of_proofs_is_checked_signature_by_signature() -> None:
    frames = evidence_bytes(PROOF.first), evidence_bytes(PROOF.second)
    assert read_proofs(ProofPage(entries=(frames,)), NETWORK) == [PROOF]
    forged = frames[1][:-40] + bytes([frames[1][-40] ^ 1]) + frames[1][-39:]
    for entries in [((frames[0], forged),), ((frames[0], frames[0]),), (frames,) * 257]:
        with pytest.raises(PeerFault):
            read_proofs(ProofPage(entries=entries), NETWORK)


def lease(*agents: KeySigner) -> dict[EntityId, Entity]:
    awards = tuple(
        Award(
            network=NETWORK,
            lease_id="lease_1",
            announcement_id="job_1",
            agent=agent.identity,
            roles=WORK_ROLES,
            batches=10,
            expires_ms=10,
        )
        for agent in agents
    )
    grant = Grant(lease_id="lease_1", awards=awards, expires_ms=10, batches_left=10)
    held = Lease(level=Level.ENHANCED, quorum=2, grant=grant)
    return {held.entity_id: held}


def grant_after(stimulus: ProofReceived, *agents: KeySigner) -> Grant | None:
    (changed,) = advance(lease(*agents), [stimulus], RULES).changed or lease(*agents).values()
    assert isinstance(changed, Lease)
    return changed.grant


RULES = Rules(network=NETWORK, self_key=SELF.identity)


def test_a_proof_from_another_counts_like_one_found_here() -> None:
    effects = advance({}, [HEARD], RULES).effects
    said = PROOF.first.message
    assert effects == (
        StoreProof(proof=PROOF, heard_from=HONEST.identity),
        ReportPeer(peer=CULPRIT.identity, role=said.role, outcome="equivocated", batch_id=said.batch_id),
    )


def test_the_culprit_gets_no_further_batch() -> None:
    assert grant_after(HEARD, CULPRIT, HONEST) is None
    assert grant_after(HEARD, HONEST, SELF) is not None


def test_what_this_node_told_is_not_kept_twice() -> None:
    own = attrs.evolve(HEARD, heard_from=SELF.identity)
    assert advance({}, [own], RULES).effects == ()
    assert grant_after(own, CULPRIT, HONEST) is None, "and its own leases let the culprit go too"

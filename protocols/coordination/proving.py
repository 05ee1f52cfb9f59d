"""Proofs against agents, found here or received: stored and gossiped, and the agent is awarded no more work."""

import attrs

from protocols.coordination.workspace import Workspace
from protocols.effects import Publish, ReportPeer, StoreProof
from protocols.entities import Lease
from protocols.messages import Evidence, FraudProof, IdentityKey, Signed
from protocols.proofs import proof_of
from protocols.stimuli import ProofReceived


def found(work: Workspace, first: Signed[Evidence], second: Signed[Evidence]) -> None:
    """Store and gossip a contradiction that this node found."""
    proof = proof_of(first, second)
    _keep(work, proof, None)
    work.emit(Publish(message=proof))


def on_proof(work: Workspace, stimulus: ProofReceived) -> None:
    """A proof from another node counts like one found here: it needs no trust in its sender."""
    if stimulus.heard_from != work.rules.self_key:
        _keep(work, stimulus.proof, stimulus.heard_from)
    _dismiss(work, stimulus.proof.first.signer)


def _keep(work: Workspace, proof: FraudProof, heard_from: IdentityKey | None) -> None:
    message = proof.first.message
    work.emit(
        StoreProof(proof=proof, heard_from=heard_from),
        ReportPeer(peer=proof.first.signer, role=message.role, outcome="equivocated", batch_id=message.batch_id),
    )


def _dismiss(work: Workspace, culprit: IdentityKey) -> None:
    """No further batch goes out under a lease that it has a part in: the next auction leaves it out."""
    for lease in work.every(Lease):
        if lease.grant is not None and any(award.agent == culprit for award in lease.grant.awards):
            work.put(attrs.evolve(lease, grant=None))

"""What a simulated network promises whatever the faults were: every batch ends once, with a true certificate."""

import hashlib
from typing import TYPE_CHECKING

from protocols.levels import LEVELS
from protocols.messages import (
    QuorumCertificate,
    Role,
)
from tests.simulation.answers import truth

if TYPE_CHECKING:
    from tests.simulation.drivers import Node
    from tests.simulation.world import World


def check(world: "World") -> None:
    """The promises, whatever the faults were."""
    chains: dict[tuple[bytes, str], bytes] = {}
    for batch_id in world.left_behind():
        assert world.sealed_by(batch_id), "a replicated batch outlives its coordinator"
    for node in world.nodes.values():
        for batch_id in node.taken_in:
            if node.gone:
                continue
            assert batch_id in node.sealed or batch_id in node.buried, "every acknowledged batch ends"
            assert not (batch_id in node.sealed and batch_id in node.buried), "and ends once"
            if batch_id in node.sealed:
                _check_certificate(node.sealed[batch_id])
        _check_chains(node, chains)
    for node in world.nodes.values():
        if not node.equivocates and not node.lies:
            assert all(len(digests) == 1 for digests in node.certified.values()), "one batch, one signature"
        for first, second in node.proofs:
            assert first.signer == second.signer
            assert world.nodes[first.signer].equivocates, "no proof against an honest node"
        for evidence in node.dissent:
            culprit = world.nodes[evidence.signer]
            assert culprit.lies or culprit.equivocates, "no dissent of an honest node"


def _check_certificate(certificate: QuorumCertificate) -> None:
    statement = certificate.statement
    signers = {each.signer for each in certificate.certifications}
    assert len(signers) >= statement.quorum >= LEVELS[statement.level].quorum
    assert all(each.message.statement_digest == statement.digest for each in certificate.certifications)
    for role in (Role.NORMALIZE, Role.VALIDATE):
        backing = {e.signer for e in certificate.evidence if e.message.role is role}
        assert len(backing) >= statement.quorum, f"evidence for {role.word} is short"


def _check_chains(node: "Node", chains: dict[tuple[bytes, str], bytes]) -> None:
    """The roots are the true ones for a context that an earlier batch of the source left behind."""
    contexts: dict[str, dict[bytes, bytes]] = {}
    for batch_id, (manifest, stateful) in node.taken_in.items():
        known = contexts.setdefault(manifest.message.source_id, {hashlib.sha256(b"{}").digest(): b"{}"})
        certificate = node.sealed.get(batch_id)
        if certificate is None:
            continue
        context = known.get(certificate.statement.context_in)
        assert context is not None, "the context came from nowhere"
        found = truth(batch_id, context)
        assert certificate.statement.output_root == found.output_root, "a wrong result was certified"
        if stateful:
            known[certificate.statement.context_out] = found.context_out

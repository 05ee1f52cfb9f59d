"""Proofs against agents: two signed answers of one agent to one question. A proof is checked without other data."""

from protocols.messages import Evidence, FraudProof, Signed


def proof_of(first: Signed[Evidence], second: Signed[Evidence]) -> FraudProof:
    """The one form of a contradiction, whichever answer came first."""
    ordered = sorted((first, second), key=lambda answer: answer.message.outcome)
    return FraudProof(network=first.message.network, first=ordered[0], second=ordered[1])


def proof_problem(proof: FraudProof) -> str:
    """Why two answers whose signatures are checked prove nothing; empty if they do."""
    first, second = proof.first, proof.second
    if first.signer != second.signer:
        return "the answers have two signers"
    if first.message.question != second.message.question:
        return "the answers are to two questions"
    if first.message.outcome == second.message.outcome:
        return "the answers are the same"
    if first.message.outcome > second.message.outcome:
        return "the answers are not in their order"
    return ""

"""Fraud proofs from peers, by gossip or from their logs: checked, and submitted to the driver once."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

import structlog

from node.coordination.driver import Driver
from node.runtime.clock import clock_ms
from protocols.errors import MalformedError
from protocols.messages import FraudProof, IdentityKey, Role
from protocols.proofs import proof_problem
from protocols.stimuli import ProofReceived

log = structlog.get_logger(__name__)

REMEMBERED_MAX: Final = 4_096


class FraudProofs:
    """Takes proofs of equivocation."""

    def __init__(self, *, driver: Driver, is_known: Callable[[IdentityKey], bool]) -> None:
        """``is_known``: whether an identity is a node of this network."""
        self._driver = driver
        self._is_known = is_known
        self._taken: OrderedDict[tuple[IdentityKey, str, Role], None] = OrderedDict()

    async def take(self, proof: FraudProof, sender: IdentityKey) -> None:
        """Check a proof whose signatures are valid, and submit it unless it was taken before.

        A proof against an identity that this node does not know is dropped: keys are made in a moment.

        Raises:
            MalformedError: it proves nothing; its sender is at fault.
        """
        problem = proof_problem(proof)
        if problem:
            raise MalformedError(f"a fraud proof is invalid: {problem}")
        culprit = proof.first
        key = (culprit.signer, culprit.message.batch_id, culprit.message.role)
        if key in self._taken or not self._is_known(culprit.signer):
            return
        self._taken[key] = None
        if len(self._taken) > REMEMBERED_MAX:
            self._taken.popitem(last=False)
        if culprit.signer == self._driver.rules.self_key:
            log.error("node.accused", batch=culprit.message.batch_id, role=culprit.message.role.word)
        await self._driver.submit(ProofReceived(now_ms=clock_ms(), proof=proof, heard_from=sender))

"""A node whose agent says two things: what it found, and for some batches something else, both signed.

``python -m tests.faults.equivocating_node run --config FILE`` is the node's own command with one method exchanged.
"""

import hashlib
import sys

import attrs

from node.cli import main
from node.relay import Relay
from protocols.envelope import sign
from protocols.job import Send
from protocols.messages import Role, WorkResult

SHARE = 4  # one batch of so many


async def deliver_twice(relay: Relay, effect: Send) -> None:
    """The honest result first, then one that contradicts it."""
    await deliver(relay, effect)
    said = effect.message
    signer = relay._signer
    if not isinstance(said, WorkResult) or effect.to == signer.identity:
        return
    if hashlib.sha256(said.batch_id.encode()).digest()[0] % SHARE:
        return
    other = tuple(
        sign(signer, attrs.evolve(each.message, output_digest=hashlib.sha256(each.message.output_digest).digest()))
        for each in said.evidence
        if each.message.role is Role.VALIDATE
    )
    await deliver(relay, attrs.evolve(effect, message=attrs.evolve(said, evidence=other)))


deliver = Relay._deliver

if __name__ == "__main__":
    Relay._deliver = deliver_twice  # type: ignore[method-assign]
    sys.exit(main())

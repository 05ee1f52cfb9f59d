"""A node whose agent equivocates: of some batches it signs two different results, and sends both.

``python -m tests.faults.equivocating_node run --config FILE`` is the node's own command with one class exchanged.
The first answer is the honest one, so that it counts until the second is there.
"""

import contextlib
import hashlib
import sys
from typing import Final

import attrs

from node.cli import main
from node.network.sender import Sender
from node.network.transport import PeerUnreachableError
from protocols.effects import Send
from protocols.envelope import Signer, sign, to_frame
from protocols.messages import Evidence, Role, Signed, WorkResult

SHARE: Final = 4  # one batch in so many, by its id


def twisted(signer: Signer, honest: WorkResult) -> WorkResult | None:
    """Another answer to the same question, for the batches that it is given for."""
    if hashlib.sha256(honest.batch_id.encode()).digest()[0] % SHARE:
        return None
    evidence = tuple(_other(signer, each.message) for each in honest.evidence if each.message.role is Role.VALIDATE)
    return attrs.evolve(honest, evidence=evidence) if evidence else None


def _other(signer: Signer, said: Evidence) -> Signed[Evidence]:
    output = hashlib.sha256(b"another story than " + said.output_digest).digest()
    return sign(signer, attrs.evolve(said, output_digest=output))


class EquivocatingSender(Sender):
    """The way out of the node, on which a second result follows the first."""

    async def _deliver(self, effect: Send) -> None:
        await super()._deliver(effect)
        if not isinstance(effect.message, WorkResult) or effect.to == self._signer.identity:
            return
        second = twisted(self._signer, effect.message)
        if second is not None:
            with contextlib.suppress(PeerUnreachableError):
                await self._transport.send(effect.to, to_frame(sign(self._signer, second)))


if __name__ == "__main__":
    from node.wiring import network

    assert vars(network)["Sender"] is Sender, "the module that makes the node's sender"
    vars(network)["Sender"] = EquivocatingSender
    sys.exit(main())

"""How a batch moves from stage to stage at its coordinator. Read this before the other modules.

Theory of operation
===================

A batch is taken in (``BatchCommitted``), processed by agents under a lease, certified by a quorum of them, written
down with its certificate, and made known to everybody concerned. It is one value, ``entities.Batch``, driven by
stimuli: messages of other nodes, reports of this node's own effects, and alarms. Messages are lost, repeated,
reordered and late, and peers may lie, so a stimulus that a stage has no use for is normal and changes nothing.
``ACCEPTED`` lists what each stage has a use for and is the only place that decides it: handlers get their batch from
``awaiting`` and check no stage for themselves.

===========  ========================================  ==================================================
stage        stimulus                                  next stage
===========  ========================================  ==================================================
CHAINED      (the batch before it is agreed upon)      LEASING
ASKING       AlarmRang, StatusReceived                 ASKING again, or LEASING when no holder works on it
LEASING      (there is a grant, and it is its turn)    PROCESSING
PROCESSING   ResultReceived, RefusalReceived           CERTIFYING at a quorum of evidence
PROCESSING   AlarmRang, WorkStatusReceived             BACKOFF when the attempt is over or hopeless
CERTIFYING   CertificationReceived, ResultReceived     SEALING at a quorum of signatures
CERTIFYING   AlarmRang, RefusalReceived,               BACKOFF when the attempt is over or hopeless
             WorkStatusReceived
SEALING      BatchWritten                              SEALED
SEALED       ConfirmationReceived, ResultReceived,     removed when all have confirmed, or at the alarm
             WorkStatusReceived, AlarmRang
BACKOFF      AlarmRang                                 LEASING, at the head of its line
PROCESSING,  (the last attempt failed)                 DEAD
CERTIFYING
DEAD         BatchReplayed                             LEASING, or CHAINED if it never was agreed upon
all waiting  CertificateReceived, BatchReproduced      SEALING, with the certificate of a holder
===========  ========================================  ==================================================

- CHAINED: a stateful batch starts from the context that the batch before it in its source leaves behind, so the
  batches of one source run one at a time (``chains``). As soon as a quorum agrees on one, the next may start.
- ASKING: an earlier run of this node took the batch in, so its holders may have finished it meanwhile.
- LEASING: it waits for its turn: for a lease, which an auction brings (``leases``), for agents with room
  (``accounts``), and for a place among the batches in flight, of which there are as many as agents keep up with
  (``flow``, ``window``).
- PROCESSING: each executor runs the roles and sends evidence, which one ballot a role counts (``quorum``). Executors
  that stay silent are asked again, then replaced; those that say where the order is are waited for (``asking``, and
  ``desk`` for the agent's side). At a quorum in both ballots the statement is fixed.
- CERTIFYING: the executors compare the statement with their own result and sign it. It is durable before it leaves
  the node, so that no second one can be made for the same batch. Evidence is still counted: if a contradiction takes
  the quorum away again, further executors are asked, or the attempt fails.
- SEALING: the certificate is complete and is being written to disk; nobody has been notified.
- SEALED: it is durable, and sent to executors, holders and subscribers. Late evidence counts for its signer's
  reputation and changes the certificate no more.
- BACKOFF: an attempt failed by a cause in the batch, or was postponed for lack of agents (``attempts``).
- DEAD: all attempts failed by a cause in the batch. It waits for an operator.

A holder that finishes a batch in its coordinator's place (``adoption``) runs the same machine, from LEASING on.
"""

from collections.abc import Mapping
from typing import Final

from protocols.coordination.workspace import Workspace
from protocols.entities import Batch, Stage, batch_entity_id
from protocols.stimuli import (
    AlarmRang,
    BatchReplayed,
    BatchReproduced,
    BatchWritten,
    CertificateReceived,
    CertificationReceived,
    ConfirmationReceived,
    RefusalReceived,
    ResultReceived,
    StatusReceived,
    Stimulus,
    WorkStatusReceived,
)

_OTHERS_FINISHED: Final = (CertificateReceived, BatchReproduced)
_FROM_AGENTS: Final = (ResultReceived, RefusalReceived, WorkStatusReceived)

ACCEPTED: Final[Mapping[Stage, frozenset[type[Stimulus]]]] = {
    Stage.CHAINED: frozenset(),
    Stage.ASKING: frozenset((AlarmRang, StatusReceived, *_OTHERS_FINISHED)),
    Stage.LEASING: frozenset(_OTHERS_FINISHED),
    Stage.PROCESSING: frozenset((AlarmRang, *_FROM_AGENTS, *_OTHERS_FINISHED)),
    Stage.CERTIFYING: frozenset((AlarmRang, *_FROM_AGENTS, CertificationReceived, *_OTHERS_FINISHED)),
    Stage.SEALING: frozenset((AlarmRang, ResultReceived, WorkStatusReceived, BatchWritten)),
    Stage.SEALED: frozenset((AlarmRang, ResultReceived, WorkStatusReceived, ConfirmationReceived)),
    Stage.BACKOFF: frozenset((AlarmRang, *_OTHERS_FINISHED)),
    Stage.DEAD: frozenset((BatchReplayed,)),
}


def accepts(batch: Batch, stimulus: type[Stimulus]) -> bool:
    """Whether the stage of a batch has a use for a kind of stimulus."""
    return stimulus in ACCEPTED[batch.stage]


def awaiting(work: Workspace, batch_id: str, stimulus: Stimulus) -> Batch | None:
    """The batch that a stimulus is about; None if there is none here, or its stage has no use for the stimulus."""
    batch = work.find(Batch, batch_entity_id(batch_id))
    return batch if batch is not None and accepts(batch, type(stimulus)) else None

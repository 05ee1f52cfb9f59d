"""Any order of events at one node: Hypothesis picks what happens next, and the invariants hold after every step.

Peers 4 and 5 lie, and may contradict themselves; messages are repeated and late; the node crashes at any point.
"""

from typing import TypeVar

import attrs
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from protocols.effects import (
    ReproduceBatch,
    WriteBatch,
)
from protocols.entities import EntityId, Stage, lease_entity_id
from protocols.messages import (
    Announcement,
    BatchHeld,
    BatchProgress,
    BatchQuery,
    BatchStatus,
    Bid,
    IdentityKey,
    Level,
    SealConfirmed,
    WorkPhase,
    WorkRefused,
    WorkStatus,
)
from protocols.proofs import proof_of
from protocols.roles import WORK_ROLES, Role
from protocols.stimuli import (
    AlarmRang,
    BatchReplayed,
    BatchReproduced,
    BatchWritten,
    BidReceived,
    CertificateReceived,
    CertificationReceived,
    ConfirmationReceived,
    HoldConfirmed,
    PeerAppeared,
    ProofReceived,
    QueryReceived,
    RefusalReceived,
    ResultReceived,
    StatusReceived,
    Stimulus,
    WorkStatusReceived,
)
from tests.protocols import invariants
from tests.protocols.model_node import (
    HOLDERS,
    LIARS,
    NETWORK,
    PEERS,
    SELF,
    ModelNode,
    Taken,
    certification_of,
    manifest_of,
    result_of,
    sealed_elsewhere,
    signed,
)
from tests.simulation.answers import truth

BATCHES_MAX = 9
HISTORY_MAX = 60
ATTEMPT = (Stage.PROCESSING, Stage.CERTIFYING)
DATA = st.data()


T = TypeVar("T")


def some_of(items: list[T]) -> st.SearchStrategy[list[T]]:
    """One to four of the latest."""
    return st.lists(st.sampled_from(items[-8:]), min_size=1, max_size=4)


class Machine(RuleBasedStateMachine):
    """The node, the clock, and what was sent to the node before."""

    def __init__(self) -> None:
        super().__init__()
        self.node = ModelNode()
        self.history: list[Stimulus] = []

    def hear(self, stimulus: Stimulus) -> None:
        """A message from outside: it may come again later."""
        self.history.append(stimulus)
        del self.history[:-HISTORY_MAX]
        self.node.step(stimulus)

    @property
    def now_ms(self) -> int:
        return self.node.now_ms

    @rule(ms=st.integers(1, 5_000))
    def wait(self, ms: int) -> None:
        self.node.now_ms += ms
        self.node.effects = ()

    @precondition(lambda self: self.node.alarms)
    @rule(data=DATA, late_ms=st.sampled_from([0, 0, 1, 400]))
    def ring(self, data: st.DataObject, late_ms: int) -> None:
        """The alarm that is due first rings, on time or late."""
        first = sorted(self.node.alarms, key=lambda alarm: alarm[1])[:4]
        entity_id, at_ms = data.draw(st.sampled_from(first))
        self.node.now_ms = max(self.node.now_ms, at_ms + late_ms)
        self.ring_one(entity_id, at_ms)

    def ring_one(self, entity_id: EntityId, at_ms: int) -> None:
        self.node.alarms.discard((entity_id, at_ms))
        self.node.now_ms = max(self.node.now_ms, at_ms)
        self.node.step(AlarmRang(now_ms=self.now_ms, entity_id=entity_id))

    @precondition(lambda self: self.node.entities)
    @rule(data=DATA)
    def ring_for_nothing(self, data: st.DataObject) -> None:
        """An alarm that was set for an earlier stage."""
        entity_id = data.draw(st.sampled_from(sorted(self.node.entities)))
        self.node.step(AlarmRang(now_ms=self.now_ms, entity_id=entity_id))

    @precondition(lambda self: self.history)
    @rule(data=DATA)
    def repeat(self, data: st.DataObject) -> None:
        stimulus = data.draw(st.sampled_from(self.history))
        self.node.step(attrs.evolve(stimulus, now_ms=self.now_ms))

    @rule(chance=st.integers(0, 3))
    def crash(self, chance: int) -> None:
        """A crash loses much of what was reached, so one rule in four is one."""
        if chance == 0:
            self.node.restart()

    @invariant()
    def everything_holds(self) -> None:
        invariants.check_all(self.node)


class Coordinating(Machine):
    """Batches of this node: its peers bid, work, sign and confirm, or do not."""

    @precondition(lambda self: len(self.node.taken) < BATCHES_MAX)
    @rule(
        source=st.sampled_from(["a", "b"]),
        stateful=st.booleans(),
        replicated=st.booleans(),
        level=st.sampled_from([Level.ENHANCED, Level.CRITICAL]),
    )
    def commit(self, source: str, stateful: bool, replicated: bool, level: Level) -> None:
        taken = Taken(
            manifest=manifest_of(SELF, source, len(self.node.taken), level),
            stateful=stateful,
            holders=HOLDERS if replicated else (),
        )
        self.node.taken[taken.manifest.message.batch_id] = taken
        self.node.step(taken.committed(self.now_ms))

    @precondition(lambda self: self.node.pending())
    @rule(data=DATA)
    def commit_again(self, data: st.DataObject) -> None:
        """What the recovery does with batches whose stimulus may be lost."""
        batch_id = data.draw(st.sampled_from(self.node.pending()))
        if batch_id in self.node.taken:
            self.node.step(self.node.taken[batch_id].committed(self.now_ms))

    @initialize(source=st.sampled_from(["a", "b"]), stateful=st.booleans(), replicated=st.booleans())
    def begin(self, source: str, stateful: bool, replicated: bool) -> None:
        """Most of what can go wrong comes after the first auction."""
        self.commit(source, stateful, replicated, Level.ENHANCED)
        self._auction(self.node.announced[-1], set(PEERS), ())

    @precondition(lambda self: self.node.announced)
    @rule(
        data=DATA,
        peers=st.sets(st.sampled_from(PEERS), min_size=2),
        known=st.sampled_from([(), tuple((role, 80) for role in Role)]),
    )
    def auction(self, data: st.DataObject, peers: set[IdentityKey], known: tuple[tuple[Role, int], ...]) -> None:
        """Some peers bid for an announcement, and its auction ends."""
        self._auction(data.draw(st.sampled_from(self.node.announced[-3:])), peers, known, data)

    def _auction(
        self,
        announcement: Announcement,
        peers: set[IdentityKey],
        known: tuple[tuple[Role, int], ...],
        data: st.DataObject | None = None,
    ) -> None:
        for peer in sorted(peers):
            bid = Bid(
                network=NETWORK,
                announcement_id=announcement.announcement_id,
                roles=WORK_ROLES,
                capacity=data.draw(st.integers(1, 3)) if data is not None else 9,
                price=0,
                operator=peer.hex(),
                region="",
                reason="",
            )
            self.hear(BidReceived(now_ms=self.now_ms, bid=signed(peer, bid), reputations=known))
        alarm = lease_entity_id(announcement.level, announcement.quorum), announcement.closes_ms
        if alarm in self.node.alarms:
            self.ring_one(*alarm)

    @precondition(lambda self: self.node.orders)
    @rule(data=DATA, lies=st.booleans())
    def answer(self, data: st.DataObject, lies: bool) -> None:
        """Agents answer orders; a liar may tell one story to one order and another to its repeat."""
        for agent, order in data.draw(some_of(self.node.orders)):
            result = result_of(agent, order, lies=lies and agent in LIARS)
            self.hear(ResultReceived(now_ms=self.now_ms, result=result))

    @precondition(lambda self: self.node.orders)
    @rule(data=DATA)
    def refuse(self, data: st.DataObject) -> None:
        agent, order = data.draw(st.sampled_from(self.node.orders[-8:]))
        refusal = WorkRefused(network=NETWORK, batch_id=order.manifest.message.batch_id, reason="busy")
        self.hear(RefusalReceived(now_ms=self.now_ms, refusal=signed(agent, refusal)))

    @precondition(lambda self: self.node.orders)
    @rule(
        data=DATA,
        phase=st.sampled_from(WorkPhase),
        wait_ms=st.sampled_from([0, 1, 900, 80_000]),
        running_ms=st.sampled_from([0, 10, 40_000]),
        credit=st.integers(0, 3),
    )
    def say_where(self, data: st.DataObject, phase: WorkPhase, wait_ms: int, running_ms: int, credit: int) -> None:
        """Agents say where orders are: queued, running, no room; truly or not."""
        for agent, order in data.draw(some_of(self.node.orders)):
            status = WorkStatus(
                network=NETWORK,
                batch_id=order.manifest.message.batch_id,
                phase=phase,
                ahead=0,
                running_ms=running_ms,
                wait_ms=wait_ms,
                credit=credit,
                reason="",
            )
            self.hear(WorkStatusReceived(now_ms=self.now_ms, status=signed(agent, status)))

    @rule(peer=st.sampled_from(PEERS))
    def appear(self, peer: IdentityKey) -> None:
        self.hear(PeerAppeared(now_ms=self.now_ms, peer=peer))

    @precondition(lambda self: any(batch.stage in ATTEMPT for batch in self.node.batches()))
    @rule(data=DATA)
    def stay_silent(self, data: st.DataObject) -> None:
        """Nobody answers any more until the attempt is over."""
        batch = data.draw(st.sampled_from([batch for batch in self.node.batches() if batch.stage in ATTEMPT]))
        self.ring_one(batch.entity_id, max(batch.attempt_ends_ms, batch.alarm_ms))

    @precondition(lambda self: self.node.certify_orders)
    @rule(data=DATA)
    def certify(self, data: st.DataObject) -> None:
        for agent, order in data.draw(some_of(self.node.certify_orders)):
            signature = certification_of(agent, order.statement)
            self.hear(CertificationReceived(now_ms=self.now_ms, certification=signature))

    @precondition(lambda self: self.node.owed.get(WriteBatch))
    @rule(data=DATA, reported=st.sampled_from([True, True, False]))
    def write(self, data: st.DataObject, reported: bool) -> None:
        """The batch is on disk; the report of it may be lost in a crash."""
        effect: WriteBatch = data.draw(st.sampled_from(self.node.owed[WriteBatch]))
        batch_id = effect.certificate.statement.batch_id
        earlier = self.node.written.setdefault(batch_id, effect.certificate)
        assert earlier.statement == effect.certificate.statement, "a batch is written twice, differently"
        if not reported:
            self.node.restart()
            return
        kept = None if earlier is effect.certificate else earlier
        self.node.step(BatchWritten(now_ms=self.now_ms, batch_id=batch_id, subscribers=PEERS[5:], earlier=kept))

    @precondition(lambda self: self.node.sealed)
    @rule(data=DATA)
    def confirm(self, data: st.DataObject) -> None:
        for peer, sealed in data.draw(some_of(self.node.sealed)):
            statement = sealed.certificate.statement
            message = SealConfirmed(network=NETWORK, batch_id=statement.batch_id, statement_digest=statement.digest)
            self.hear(ConfirmationReceived(now_ms=self.now_ms, confirmation=signed(peer, message)))

    @precondition(lambda self: self.node.dead & self.node.taken.keys())
    @rule(data=DATA)
    def replay(self, data: st.DataObject) -> None:
        """An operator has a dead batch tried again."""
        batch_id = data.draw(st.sampled_from(sorted(self.node.dead & self.node.taken.keys())))
        self.node.dead.discard(batch_id)
        taken = self.node.taken[batch_id]
        self.node.step(
            BatchReplayed(now_ms=self.now_ms, manifest=taken.manifest, stateful=taken.stateful, holders=taken.holders)
        )

    @precondition(lambda self: len(self.history) > 1)
    @rule(data=DATA)
    def accuse(self, data: st.DataObject) -> None:
        """Another node found that a liar contradicts itself."""
        if not self.node.orders:
            return
        liar = data.draw(st.sampled_from(sorted(LIARS)))
        order = self.node.orders[-1][1]
        stories = [result_of(liar, order, lies=lies).message.evidence[-1] for lies in (False, True)]
        self.hear(ProofReceived(now_ms=self.now_ms, proof=proof_of(*stories), heard_from=PEERS[0]))


class Replicating(Machine):
    """The holders of this node's batches: they keep them, say how far they are, and may finish them."""

    @precondition(lambda self: self.node.taken)
    @rule(data=DATA, holder=st.sampled_from(HOLDERS))
    def hold(self, data: st.DataObject, holder: IdentityKey) -> None:
        batch_id = data.draw(st.sampled_from(sorted(self.node.taken)))
        message = BatchHeld(network=NETWORK, batch_id=batch_id)
        self.hear(HoldConfirmed(now_ms=self.now_ms, held=signed(holder, message)))

    @precondition(lambda self: self.node.taken)
    @rule(data=DATA, peer=st.sampled_from(PEERS), progress=st.sampled_from(BatchProgress))
    def report(self, data: st.DataObject, peer: IdentityKey, progress: BatchProgress) -> None:
        batch_id = data.draw(st.sampled_from(sorted(self.node.taken)))
        message = BatchStatus(network=NETWORK, batch_id=batch_id, progress=progress)
        self.hear(StatusReceived(now_ms=self.now_ms, status=signed(peer, message)))

    @precondition(lambda self: self.node.taken)
    @rule(data=DATA, peer=st.sampled_from(PEERS))
    def ask(self, data: st.DataObject, peer: IdentityKey) -> None:
        batch_id = data.draw(st.sampled_from([*sorted(self.node.taken), "batch_unknown"]))
        message = BatchQuery(network=NETWORK, batch_id=batch_id)
        self.hear(QueryReceived(now_ms=self.now_ms, query=signed(peer, message)))

    @precondition(lambda self: any(batch.holders for batch in self.node.batches()))
    @rule(data=DATA, sender=st.sampled_from(PEERS))
    def finish_elsewhere(self, data: st.DataObject, sender: IdentityKey) -> None:
        """A holder has the batch certified, from the context that it starts from."""
        batch = data.draw(st.sampled_from([batch for batch in self.node.batches() if batch.holders]))
        sealed = sealed_elsewhere(batch.manifest.message, batch.context)
        self.hear(CertificateReceived(now_ms=self.now_ms, sealed=signed(sender, sealed)))

    @precondition(lambda self: self.node.owed.get(ReproduceBatch))
    @rule(data=DATA)
    def reproduce(self, data: st.DataObject) -> None:
        effect: ReproduceBatch = data.draw(st.sampled_from(self.node.owed[ReproduceBatch]))
        found = truth(effect.manifest.batch_id, effect.context)
        if found.output_root == effect.sealed.certificate.statement.output_root:
            self.node.step(BatchReproduced(now_ms=self.now_ms, sealed=effect.sealed))


class StepMachine(Coordinating, Replicating):
    pass


StepMachine.TestCase.settings = settings(
    max_examples=60,
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
test_step_keeps_its_invariants = StepMachine.TestCase

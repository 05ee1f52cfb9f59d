"""The nodes of a simulated world: their drivers, crashes and restarts, and the deliveries between them."""

import hashlib
import heapq
import itertools
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from random import Random
from typing import Any

import attrs

from protocols.coordination import advance, durable_mark, recover
from protocols.effects import (
    Effect,
)
from protocols.entities import Entity, EntityId, batch_entity_id
from protocols.messages import (
    BatchSealed,
    Evidence,
    HoldBatch,
    IdentityKey,
    Level,
    Manifest,
    QuorumCertificate,
    Signed,
)
from protocols.rules import Rules
from protocols.stimuli import (
    PeerAppeared,
    ReplicaStored,
    Restarted,
    Stimulus,
)
from tests.simulation.answers import NETWORK, stimulus_of

QUIET_MS = 60_000


def _appeared(peer: IdentityKey, now_ms: int) -> Stimulus:
    return PeerAppeared(now_ms=now_ms, peer=peer)


@attrs.frozen(kw_only=True)
class Faults:
    """Chances per message, per commit, per second; and who misbehaves how."""

    drop: float = 0.0
    duplicate: float = 0.0
    delay_ms: int = 50
    commit_fails: float = 0.0
    crashes_per_node: int = 0
    skew_ms: int = 0
    liars: int = 0
    equivocators: int = 0
    liars_differ: bool = False
    replicated: float = 0.0
    gone: int = 0
    partitions: int = 0


@attrs.frozen(kw_only=True)
class Costs:
    """What a batch costs an agent, whose node computes one after the other."""

    batch_us: int
    event_us: int = 0

    def of(self, events: int) -> int:
        return self.batch_us + self.event_us * events


@attrs.define
class Node:
    key: IdentityKey
    rules: Rules
    skew_ms: int = 0
    up: bool = True
    lies: int = 0
    equivocates: bool = False
    epoch: int = 0
    entities: dict[EntityId, Entity] = attrs.Factory(dict)  # in memory
    stored: dict[EntityId, Entity] = attrs.Factory(dict)  # on disk
    marks: dict[EntityId, object] = attrs.Factory(dict)
    gone: bool = False  # for good
    taken_in: dict[str, tuple[Signed[Manifest], bool]] = attrs.Factory(dict)  # ingest's own commits
    holders: dict[str, tuple[IdentityKey, ...]] = attrs.Factory(dict)  # with them
    acknowledged: set[str] = attrs.Factory(set)
    replicas: dict[str, Signed[HoldBatch]] = attrs.Factory(dict)
    adopted: dict[str, Signed[HoldBatch]] = attrs.Factory(dict)
    ends: dict[str, BatchSealed] = attrs.Factory(dict)  # certificates received or made, with the contexts
    sealed: dict[str, QuorumCertificate] = attrs.Factory(dict)
    buried: dict[str, tuple[str, ...]] = attrs.Factory(dict)
    dissent: list[Signed[Evidence]] = attrs.Factory(list)
    proofs: list[tuple[Signed[Evidence], Signed[Evidence]]] = attrs.Factory(list)
    certified: dict[str, set[bytes]] = attrs.Factory(dict)  # own signatures: batch -> statement digests
    busy_until_us: int = 0  # its workers have work until then
    computed: Counter[str] = attrs.Factory(Counter)  # how often it computed each batch
    judged: Counter[tuple[IdentityKey, str]] = attrs.Factory(Counter)  # what it reported of others


class Drivers(ABC):
    """A heap of what is to happen, and the driver of each node; what effects do is for the subclass."""

    def __init__(
        self,
        seed: int,
        *,
        nodes: int,
        faults: Faults,
        level: Level = Level.ENHANCED,
        subscribed: bool = False,
        costs: Costs | None = None,
    ) -> None:
        """Args:
        subscribed: Every node follows the topics of every batch.
        costs: What batches cost agents; without, each takes a moment, however many there are.
        """
        self.costs = costs
        self.random = Random(seed)
        self.subscribed = subscribed
        self.faults = faults
        self.level = level
        self.now_ms = 1_000_000
        self.started_ms = self.now_ms
        self.trace = hashlib.sha256()
        self.sent = Counter[str]()
        self._heap: list[tuple[int, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._cuts: list[tuple[frozenset[IdentityKey], int]] = []
        self.nodes: dict[IdentityKey, Node] = {}
        for index in range(nodes):
            key = b"\x02" + hashlib.sha256(b"%d %d" % (seed, index)).digest()
            rules = Rules(network=NETWORK, self_key=key, operator=f"operator {index}", attempts_max=12)
            skew = self.random.randint(-faults.skew_ms, faults.skew_ms)
            self.nodes[key] = Node(key=key, rules=rules, skew_ms=skew)
        bad = list(self.nodes.values())[: faults.liars + faults.equivocators]
        for index, node in enumerate(bad):
            node.lies = (index + 1 if faults.liars_differ else 1) if index < faults.liars else 0
            node.equivocates = index >= faults.liars

    def at(self, delay_ms: int, action: Callable[[], None]) -> None:
        heapq.heappush(self._heap, (self.now_ms + delay_ms, next(self._order), action))

    @property
    def stormy(self) -> bool:
        return self.now_ms < self.started_ms + QUIET_MS

    def chance(self, probability: float) -> bool:
        return self.stormy and self.random.random() < probability

    def tell(self, node: Node, make: Callable[[int], Stimulus], delay_ms: int = 0) -> None:
        """Put a stimulus into a node's inbox; it is lost when the node goes down before."""
        epoch = node.epoch

        def deliver() -> None:
            if node.up and node.epoch == epoch:
                self._drive(node, make(self.now_ms + node.skew_ms))

        self.at(delay_ms, deliver)

    def _drive(self, node: Node, stimulus: Stimulus) -> None:
        """The driver: step, commit, then act; a failed commit takes the process down with nothing sent."""
        transition = advance(node.entities, (stimulus,), node.rules)
        marks = {entity.entity_id: durable_mark(entity) for entity in transition.changed}
        urgent = [e for e in transition.changed if marks[e.entity_id] not in (None, node.marks.get(e.entity_id))]
        self.trace.update(repr((self.now_ms, node.key[:4], type(stimulus).__name__)).encode())
        if urgent and self.chance(10 * self.faults.commit_fails):
            self.crash(node, self.random.randint(100, 5_000))
            return
        for entity in urgent:
            node.stored[entity.entity_id] = entity
            node.marks[entity.entity_id] = marks[entity.entity_id]
        for entity in transition.changed:
            node.entities[entity.entity_id] = entity
        for entity_id in transition.removed:
            del node.entities[entity_id]
            if self.random.random() < 0.5:  # deletions may wait
                node.stored.pop(entity_id, None)
                node.marks.pop(entity_id, None)
        if self.chance(self.faults.commit_fails):  # committed, and down before any effect
            self.crash(node, self.random.randint(100, 5_000))
            return
        for effect in transition.effects:
            self._carry_out(node, effect)

    def crash(self, node: Node, down_ms: int) -> None:
        if node.up:
            node.up = False
            node.epoch += 1
            self.at(down_ms, lambda: self.restart(node))

    def lose(self, node: Node) -> None:
        """A node goes down and never comes back."""
        node.up, node.gone = False, True
        node.epoch += 1

    def restart(self, node: Node) -> None:
        if node.gone:
            return
        node.up = True
        node.epoch += 1
        node.busy_until_us = 0
        self.appear((node,), self.nodes.values())
        known = (*node.taken_in, *node.adopted)
        pending = [key for key in known if key not in node.sealed and key not in node.buried]
        node.entities = {entity.entity_id: entity for entity in recover(node.stored.values(), pending)}
        node.marks = {key: durable_mark(entity) for key, entity in node.entities.items()}
        for batch_id in pending:
            if batch_id in node.taken_in and batch_entity_id(batch_id) not in node.entities:
                self._commit_news(node, batch_id, recovered=True)
        for hold in node.replicas.values():
            self.tell(node, lambda now, hold=hold: ReplicaStored(now_ms=now, hold=hold))  # type: ignore[misc]
        for entity_id in list(node.entities):
            make = lambda now, key=entity_id: Restarted(now_ms=now, entity_id=key)  # noqa: E731
            self.tell(node, make)

    def partition(self, side: set[IdentityKey], lasts_ms: int) -> None:
        """Cut the nodes of ``side`` off from the others for a time."""
        cut = (frozenset(side), self.now_ms + lasts_ms)
        self._cuts.append(cut)
        self.at(lasts_ms, partial(self._heal, cut))

    def _heal(self, cut: tuple[frozenset[IdentityKey], int]) -> None:
        self._cuts.remove(cut)
        inside = [node for node in self.nodes.values() if node.key in cut[0]]
        outside = [node for node in self.nodes.values() if node.key not in cut[0]]
        self.appear(inside, outside)
        self.appear(outside, inside)

    def appear(self, nodes: Iterable[Node], others: Iterable[Node]) -> None:
        """Others find that nodes can be reached again, as discovery does within a second."""
        for other in others:
            for node in nodes:
                if node is not other:
                    self.tell(other, partial(_appeared, node.key), 500)

    def _is_cut(self, sender: Node, to: Node) -> bool:
        return self.stormy and any((sender.key in side) != (to.key in side) for side, _ in self._cuts)

    def _deliver(self, sender: Node, to: Node, signed: Signed[Any]) -> None:
        if self._is_cut(sender, to):
            return
        if to is sender:
            self.tell(to, lambda now: stimulus_of(now, signed), 1)
            return
        copies = 1 + self.chance(self.faults.duplicate)
        for _ in range(copies):
            if not self.chance(self.faults.drop):
                spread = self.faults.delay_ms if self.stormy else 20
                delay = self.random.randint(1, spread)
                if self.chance(0.02):
                    delay += self.random.randint(0, 20 * spread)
                self.at(delay, partial(self._arrive, to, signed))

    def _arrive(self, node: Node, signed: Signed[Any]) -> None:
        if node.up:
            self._drive_signed(node, signed)

    def _drive_signed(self, node: Node, signed: Signed[Any]) -> None:
        self._drive(node, stimulus_of(self.now_ms + node.skew_ms, signed))

    @abstractmethod
    def _carry_out(self, node: Node, effect: Effect) -> None:
        """Do what an effect asks for."""

    @abstractmethod
    def _commit_news(self, node: Node, batch_id: str, *, recovered: bool = False) -> None:
        """Tell the driver of a batch that is durable."""

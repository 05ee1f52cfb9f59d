"""What must hold for a simulated network once its faults are over, read from the databases of its nodes."""

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from agents.roles import execute
from node.coordination.serialization import read_certificate, read_manifest
from node.worker import compute
from protocols.canonical import sha256
from protocols.certificate import verify_quorum
from protocols.entities import Batch, Lease
from protocols.messages import IdentityKey, QuorumCertificate
from tests.simulation.member import NETWORK, Member

if TYPE_CHECKING:
    from tests.simulation.network import NetworkOfNodes


class Inspection:
    """Reads the databases of a network's nodes, those that are gone included."""

    def __init__(self, network: "NetworkOfNodes") -> None:
        self._network = network

    def is_quiet(self) -> bool:
        """All that was acknowledged has its end on a node that lives, and those have no batch without one."""
        if any(member.requests is None for member in self._network.members if not member.gone):
            return False
        left = [
            self.rows(member, "SELECT batch_id FROM batches WHERE state = 'pending'") for member in self._living()
        ]
        return not any(left) and set(self._network.acknowledged) <= set(self._ends())

    def _living(self) -> list[Member]:
        return [member for member in self._network.members if not member.gone]

    def rows(self, member: Member, query: str) -> list[tuple[Any, ...]]:
        with self._network.connections[member.url].transaction():
            return self._network.connections[member.url].execute(query.encode()).fetchall()

    def _ends(self) -> dict[str, set[str]]:
        """The certified batches of each event, as far as nodes that live know their certificates."""
        certified: set[str] = set()
        for member in self._living():
            for query in (
                "SELECT batch_id FROM batches WHERE state = 'certified'",
                "SELECT batch_id FROM certificate_log WHERE certificate IS NOT NULL",
            ):
                certified.update(batch_id for (batch_id,) in self.rows(member, query))
        ends: dict[str, set[str]] = defaultdict(set)
        for member in self._network.members:
            query = "SELECT i.event_digest, b.batch_id FROM event_index i JOIN batches b ON b.number = i.batch"
            for digest, batch_id in self.rows(member, query):
                if batch_id in certified:
                    ends["event_" + bytes(digest).hex()].add(batch_id)
        return ends

    async def check_served(self) -> None:
        """A client finds its events at the node that took them, with their end, and the data that was posted."""
        for event_id, (home, data) in sorted(self._network.acknowledged.items())[::7]:
            if not self._network.members[home].gone:
                status, answer = await self._network.members[home].call("GET", f"/overlay/events/{event_id}")
                assert status == 200, f"seed {self._network.seed}: {event_id}: {status} {answer}"
                assert answer["status"] in ("certified", "invalid"), answer
                assert answer["data"] == data, answer

    def check(self) -> int:
        """Every event in one certificate, every certificate true. Returns how many batches were certified."""
        ends = self._ends()
        for event_id in self._network.acknowledged:
            assert len(ends[event_id]) == 1, f"seed {self._network.seed}: {event_id} in {ends[event_id]}"
        certificates: dict[str, QuorumCertificate] = {}
        batches: dict[tuple[IdentityKey, str], dict[int, tuple[str, bytes, bytes]]] = defaultdict(dict)
        for member in self._network.members:
            rows = self.rows(
                member,
                """SELECT b.batch_id, b.state, b.manifest, b.payload, p.document, b.certificate FROM batches b
                   JOIN policies p USING (policy_hash) WHERE b.state <> 'merged'""",
            )
            for batch_id, state, manifest, payload, policy, data in rows:
                assert state != "dead", f"seed {self._network.seed}: {batch_id} is dead at {member.index}"
                signed = read_manifest(bytes(manifest), NETWORK)
                said = signed.message
                packed = bytes(payload), bytes(policy)
                batches[said.coordinator, said.source_id][said.source_sequence] = (batch_id, *packed)
                if data is not None:
                    self._note_certificate(certificates, read_certificate(bytes(data)))
            for (data,) in self.rows(member, "SELECT certificate FROM certificate_log WHERE certificate IS NOT NULL"):
                self._note_certificate(certificates, read_certificate(bytes(data)))
        self._check_truth(certificates, batches)
        for line in sorted(f"{key} {value.statement.digest.hex()}" for key, value in certificates.items()):
            self._network.note(line)
        return len(certificates)

    def _note_certificate(self, found: dict[str, QuorumCertificate], certificate: QuorumCertificate) -> None:
        verify_quorum(certificate, network=NETWORK)
        statement = certificate.statement
        other = found.setdefault(statement.batch_id, certificate)
        assert other.statement == statement, f"seed {self._network.seed}: two certificates of {statement.batch_id}"

    def _check_truth(
        self,
        certificates: dict[str, QuorumCertificate],
        batches: dict[tuple[IdentityKey, str], dict[int, tuple[str, bytes, bytes]]],
    ) -> None:
        """Run every source anew from its first record: the roots that were certified are the ones found."""
        for (_, source_id), by_sequence in batches.items():
            context = b"{}"
            for _, (batch_id, packed, policy) in sorted(by_sequence.items()):
                if batch_id not in certificates:
                    continue  # of a node that is gone, and never acknowledged
                statement = certificates[batch_id].statement
                output = execute(
                    network=NETWORK,
                    source_id=source_id,
                    payload=compute.unpack(packed),
                    policy=policy,
                    context=context,
                )
                assert statement.context_in == sha256(context), (
                    f"seed {self._network.seed}: {batch_id} out of its order"
                )
                assert statement.output_root == output.output_root, f"seed {self._network.seed}: {batch_id} is wrong"
                context = output.context_out

    def state(self) -> str:
        """What stands in the way: the batches without an end, what their coordinators know of the agents."""
        lines = [str(self._network.faults)]
        for member in self._network.members:
            lines.append(f"{member.index} {member.identity.hex()[:8]} gone={member.gone} lives={member.lives}")
            pending = self.rows(member, "SELECT batch_id FROM batches WHERE state <> 'certified'")
            for entity in () if member.node is None else member.node.state.driver.entities():
                if isinstance(entity, Batch) and (entity.batch_id,) in pending:
                    agents = [award.agent.hex()[:8] for award in entity.awards]
                    lines.append(f"  {entity.batch_id[:14]} {entity.stage.name} {agents} {entity.reasons}")
                elif isinstance(entity, Lease):
                    lines.append(f"  {entity.level.name} waiting={len(entity.waiting)} failures={entity.failures}")
            if pending:
                known = """SELECT encode(agent, 'hex'), role, agreed, dissented, late, equivocated
                           FROM reputations ORDER BY 1, 2"""
                lines += [f"  {batch_id[:14]} pending" for (batch_id,) in pending]
                lines += [f"  {row[0][:8]} {row[1:]}" for row in self.rows(member, known)]
                auctions = "SELECT record FROM auctions ORDER BY at_ms DESC LIMIT 2"
                lines += [f"  {record}" for (record,) in self.rows(member, auctions)]
        return "\n".join(lines)

"""Requests of one node to another by stream, one form for each tag, and what a hostile peer answers them with."""

from collections.abc import Callable
from typing import Final

import orjson

from node.network.content_exchange import OUTPUTS, POLICY
from node.network.requests import ABSENT, PRESENT
from node.network.sync_messages import (
    ENTRIES,
    ENTRIES_MAX,
    IDS,
    MANIFESTS,
    MANIFESTS_MAX,
    NUMBER_MAX,
    PROOFS,
    EntryPage,
    IdPage,
    ManifestPage,
    ProofPage,
)
from node.overlay.objects.wire import (
    ADVERTS,
    DIGESTS_MAX,
    PART,
    PART_BYTES_MAX,
    Part,
    PartRequest,
    write_adverts,
    write_adverts_request,
    write_part,
    write_part_request,
)
from protocols import codec
from protocols.envelope import to_frame
from protocols.identifiers import BATCH_ID, batch_digest
from protocols.messages import FraudProof, Manifest
from scripts.fuzzing.coherent import Batches
from scripts.fuzzing.messages import Messages
from scripts.fuzzing.values import Draw
from scripts.fuzzing.world import World
from storage.objects import Kind

ANSWER_BYTES_MAX: Final = 64 * 1024
UNKNOWN: Final = (b"", b"\0", b"Z", b"\xff", b"~" * 300)


class Asks:
    """Draws requests and answers."""

    def __init__(self, world: World, messages: Messages) -> None:
        self._world = world
        self._messages = messages
        self._batches = Batches(world)
        self._requests: dict[bytes, Callable[[Draw], bytes]] = {
            IDS: lambda draw: draw.number(2**64 - 1).to_bytes(8, "big"),
            ENTRIES: lambda draw: self._digests(draw, ENTRIES_MAX),
            PROOFS: lambda draw: b"",
            MANIFESTS: lambda draw: self._digests(draw, MANIFESTS_MAX),
            POLICY: lambda draw: self._digest(draw),
            OUTPUTS: lambda draw: self._batch_id(draw).encode(),
            PART: self._part_request,
            ADVERTS: lambda draw: write_adverts_request([self._digest(draw)] * (1 + draw.below(DIGESTS_MAX)))[1:],
        }
        self._answers: dict[bytes, Callable[[Draw], bytes]] = {
            IDS: self._id_page,
            ENTRIES: self._entry_page,
            PROOFS: self._proof_page,
            MANIFESTS: self._manifest_page,
            POLICY: lambda draw: draw.pick(list(self._world.policies.values())),
            OUTPUTS: lambda draw: draw.below(9).to_bytes(4, "big") + self._batches.payload(draw).packed,
            PART: lambda draw: write_part(
                Part(kind=draw.pick(list(Kind)), size=draw.number(2**64 - 1), data=draw.bytes(ANSWER_BYTES_MAX))
            ),
            ADVERTS: lambda draw: write_adverts([draw.bytes(300) for _ in range(draw.size(DIGESTS_MAX))]),
        }

    @property
    def tags(self) -> tuple[bytes, ...]:
        """The tags of requests that are drawn."""
        return tuple(self._requests)

    def request(self, draw: Draw, tag: bytes) -> bytes:
        """A request of a tag, now and then with another body than the tag has."""
        if draw.chance(0.03):
            return draw.pick(UNKNOWN) + draw.bytes(300)
        if draw.chance(0.05):
            return tag + draw.bytes(2_048)
        return tag + self._requests[tag](draw)

    def answer(self, draw: Draw, request: bytes) -> bytes:
        """An answer to a request of the node."""
        make = self._answers.get(request[:1])
        if make is None or draw.chance(0.02):
            return draw.pick((ABSENT, PRESENT, b"", PRESENT + draw.bytes(ANSWER_BYTES_MAX)))
        return PRESENT + make(draw)

    def _batch_id(self, draw: Draw) -> str:
        found = self._world.live.pick(draw, "batch")
        return str(found) if draw.chance(0.8) and found is not None else draw.text(200)

    def _digest(self, draw: Draw) -> bytes:
        match draw.below(4):
            case 0:
                return draw.pick(list(self._world.policies))
            case 1 | 2:
                found = self._batch_id(draw)
                return batch_digest(found) if BATCH_ID.fullmatch(found) else bytes(32)
            case _:
                return draw.rng.randbytes(32)

    def _digests(self, draw: Draw, most: int) -> bytes:
        return b"".join(self._digest(draw) for _ in range(1 + draw.size(most)))

    def _part_request(self, draw: Draw) -> bytes:
        length = draw.number(PART_BYTES_MAX) if draw.chance(0.9) else draw.number(2**32 - 1)
        request = PartRequest(digest=self._digest(draw), offset=draw.number(2**64 - 1), length=length)
        return write_part_request(request)[1:]

    def _id_page(self, draw: Draw) -> bytes:
        held = [self._batches.certificate(draw, self._world.agents[0]) for _ in range(draw.size(200))]
        numbers = sorted({draw.number(NUMBER_MAX, 1) for _ in held})
        if draw.chance(0.05):
            numbers.reverse()
        entries = tuple(zip(numbers, (batch_digest(each.statement.batch_id) for each in held), strict=False))
        return codec.encode(IdPage(last=draw.number(NUMBER_MAX), entries=entries))

    def _entry_page(self, draw: Draw) -> bytes:
        held = [self._batches.certificate(draw, self._world.agents[0]) for _ in range(draw.size(ENTRIES_MAX))]
        contexts = (b"", b"{}", b"\0", draw.bytes(1_000), orjson.dumps({"a": draw.text()}))
        return codec.encode(EntryPage(entries=tuple((codec.encode(each), draw.pick(contexts)) for each in held)))

    def _proof_page(self, draw: Draw) -> bytes:
        agent = draw.pick(self._world.agents)
        proofs = [self._messages.signed(draw, FraudProof, agent)[0].message for _ in range(draw.size(8))]
        entries = tuple(
            (to_frame(each.first), to_frame(each.second)) for each in proofs if isinstance(each, FraudProof)
        )
        return codec.encode(ProofPage(entries=entries))

    def _manifest_page(self, draw: Draw) -> bytes:
        signers = [draw.pick(self._world.agents) for _ in range(draw.size(8))]
        frames = tuple(to_frame(self._messages.signed(draw, Manifest, each)[0]) for each in signers)
        return codec.encode(ManifestPage(entries=frames))

"""Every well-formed message of the catalogue with hostile values: any text, number and size within its limits.

Signatures hold, inner ones too: what is drawn here is what a peer with a key of its own can send.
"""

import typing
from collections.abc import Sequence
from typing import Any

import attrs
from hypothesis import reject
from hypothesis import strategies as st

from node.runtime.clock import clock_ms
from protocols.envelope import sign, to_frame
from protocols.errors import InvalidKeyError
from protocols.limits import EVENTS_PER_BATCH_MAX, SIGNERS_MAX
from protocols.messages import (
    MESSAGES,
    Advertisement,
    Announcement,
    CertifiedNotice,
    FraudProof,
    HoldBatch,
    IdentityKey,
    Level,
    Manifest,
    Message,
    QuorumCertificate,
    Role,
    Signed,
    WorkOrder,
)
from protocols.messages.fields import DURATION_MS_MAX, MS_MAX
from tests.network_of_keys import AGENTS, NETWORK, KeySigner, certified, certify, witness
from tests.node.coordination.workbench import packed

GOSSIPED = (Advertisement, Announcement, CertifiedNotice, FraudProof)
BATCHES = [certified(events=count) for count in (1, 2, 5)]
NUMBER_MAX = 2**63 - 1
TEXTS = [
    "",
    "a\0b",
    "\0",
    "\ud7ff\ue000",
    "\U0010ffff" * 8,
    "x" * 512,
    "{}",
    "%s %(a)s",
    "'; --",
    "\x1b[2J",
    "\u202e",
]
ADDRESSES = ["/ip4/127.0.0.1/tcp/1", "/ip4/127.0.0.1/tcp/1\0", "/dns4/a\u0301/tcp/1", "/ip6/::/tcp/70000", "/p2p/x"]

TEXT = st.sampled_from(TEXTS) | st.text(max_size=40)
SHORT_TEXT = st.text(min_size=1, max_size=128)
DIGEST = st.sampled_from([bytes(32), b"\xff" * 32, *(each.manifest.message.input_root for each in BATCHES)])
BYTES = st.sampled_from([b"", b"{}", b"\0", b"[1e400]", b"\xff" * 300]) | st.binary(max_size=40)
LIMITS = {
    "quorum": SIGNERS_MAX,
    **dict.fromkeys(("events", "valid", "invalid"), EVENTS_PER_BATCH_MAX),
    **dict.fromkeys(("capacity", "credit", "ahead"), 2**31),
    **dict.fromkeys(("wanted_ms", "status_ms", "running_ms", "wait_ms"), DURATION_MS_MAX),
    **dict.fromkeys(("issued_ms", "expires_ms", "closes_ms", "received_ms", "finished_ms"), MS_MAX),
}


@attrs.frozen
class Sent:
    """A frame, and how it comes."""

    sender: IdentityKey
    frame: bytes
    by_gossip: bool
    message: Message = attrs.field(repr=False)


class HostilePeers:
    """Draws what the agents of ``network_of_keys`` could send to a node."""

    def __init__(self, node: IdentityKey) -> None:
        self.subjects = [each.manifest.message.batch_id for each in BATCHES] + ["job", "lease"]
        self.keys = [node, *(agent.identity for agent in AGENTS)]

    def sent(self) -> st.SearchStrategy[Sent]:
        """Frames of all kinds."""
        return st.sampled_from(MESSAGES).flatmap(
            lambda cls: st.builds(self._send, self._of(cls), st.sampled_from(AGENTS), st.booleans(), BYTES)
        )

    def _send(self, message: Message, signer: KeySigner, honest: bool, attachment: bytes) -> Sent:
        if not isinstance(message, WorkOrder | HoldBatch):
            attachment = b""
        elif honest:
            attachment = packed(BATCHES[0])
        frame = to_frame(_sign(signer, message), attachment)
        return Sent(signer.identity, frame, isinstance(message, GOSSIPED), message)

    def _of(self, hint: Any, name: str = "") -> st.SearchStrategy[Any]:
        if hint is QuorumCertificate:
            return self._certificates()
        if hint is Manifest:
            return st.sampled_from([each.manifest.message for each in BATCHES]) | self._class(Manifest)
        if typing.get_origin(hint) is Signed:
            return st.builds(_signed, self._of(typing.get_args(hint)[0]), st.sampled_from(AGENTS))
        if attrs.has(hint):
            return self._class(hint)
        arguments = typing.get_args(hint)
        if type(None) in arguments:
            return st.none() | self._of(arguments[0])
        if typing.get_origin(hint) is tuple:
            return st.lists(self._of(arguments[0], name), max_size=3).map(tuple)
        return self._plain(hint, name)

    def _class(self, cls: type[Any]) -> st.SearchStrategy[Any]:
        hints = typing.get_type_hints(cls)
        fields = {field.name: self._of(hints[field.name], field.name) for field in attrs.fields(cls)}
        return st.builds(cls, **fields)

    def _plain(self, hint: Any, name: str) -> st.SearchStrategy[Any]:
        if hint is int:
            return _numbers(LIMITS.get(name, NUMBER_MAX))
        if hint is str:
            return self._text(name)
        if hint is bytes:
            return self._bytes(name)
        return st.booleans() if hint is bool else st.sampled_from(list(hint))

    def _text(self, name: str) -> st.SearchStrategy[str]:
        if name == "network":
            return st.just(NETWORK)
        if name == "topics":
            return SHORT_TEXT
        if name == "addresses":
            return st.sampled_from(ADDRESSES) | TEXT
        if name.endswith("_id") or name == "after":
            return st.integers(0, 63).map(lambda number: self.subjects[number % len(self.subjects)]) | TEXT
        return TEXT

    def _bytes(self, name: str) -> st.SearchStrategy[bytes]:
        if name in ("agent", "coordinator", "holders"):
            return st.sampled_from(self.keys)
        return BYTES if name in ("context", "tokens", "membership") else DIGEST

    @staticmethod
    @st.composite
    def _drawn(draw: st.DrawFn, subjects: Sequence[str], keys: Sequence[IdentityKey]) -> QuorumCertificate:
        true = certified().certificate.statement
        level, quorum = draw(st.sampled_from([(Level.BASIC, 1), (Level.ENHANCED, 2)]))
        statement = attrs.evolve(
            true,
            batch_id=draw(st.sampled_from(list(subjects)) | TEXT.filter(lambda text: 0 < len(text) < 100)),
            coordinator=draw(st.sampled_from(list(keys))),
            source_id=draw(TEXT),
            level=level,
            quorum=quorum,
        )
        build, at_ms = draw(TEXT), draw(_numbers(MS_MAX))
        signers = AGENTS[:2]
        return QuorumCertificate(
            statement=statement,
            certifications=tuple(
                sign(each, attrs.evolve(certify(statement, each).message, build=build, issued_ms=at_ms))
                for each in signers
            ),
            evidence=tuple(
                sign(
                    each,
                    attrs.evolve(witness(statement, role, each).message, build=build, processing_us=NUMBER_MAX),
                )
                for role in (Role.NORMALIZE, Role.VALIDATE)
                for each in signers
            ),
        )

    def _certificates(self) -> st.SearchStrategy[QuorumCertificate]:
        return self._drawn(self.subjects, self.keys)


def _signed(message: Message, signer: KeySigner) -> Signed[Message]:
    own = [agent for agent in AGENTS if agent.identity == getattr(message, "coordinator", None)]
    return _sign(own[0] if own else signer, message)


def _sign(signer: KeySigner, message: Message) -> Signed[Message]:
    try:
        return sign(signer, message)
    except InvalidKeyError:  # its subject is empty, or too long to be signed
        reject()


def _numbers(largest: int) -> st.SearchStrategy[int]:
    now_ms = clock_ms()
    likely = (0, 1, 2, 3, 1_000, 2**31, 2**53, now_ms, now_ms + 60_000, largest - 1, largest)
    return st.sampled_from([each for each in likely if each <= largest]) | st.integers(0, largest)

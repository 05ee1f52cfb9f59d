"""Every message of the catalogue, well formed and signed, with hostile values in any of its fields.

Fields are drawn by their types and validators, so a message that is new to the catalogue is drawn without a change
here. What makes some kinds plausible enough to be acted upon stands in ``coherent``.
"""

import typing
from functools import cached_property
from typing import Any, Final

import attrs

from node.runtime.keyring import Keyring
from protocols.envelope import sign
from protocols.errors import InvalidKeyError
from protocols.messages import (
    MESSAGES,
    Advertisement,
    Announcement,
    FraudProof,
    HoldBatch,
    Manifest,
    Message,
    QuorumCertificate,
    Signed,
    WorkOrder,
)
from protocols.messages.fields import MS_MAX, TEXT_CHARS_MAX, AtMost, are_topics, is_digest, is_key, is_text
from scripts.fuzzing.coherent import Batches, coherent
from scripts.fuzzing.values import Draw
from scripts.fuzzing.world import Live, World, key_of

COHERENT: Final = (0.6, 0.9)
"""The part of the messages that begin coherent, and of their values the part that stays."""
COHERENT_OF: Final[dict[type[Any], tuple[float, float]]] = {
    Advertisement: (0.9, 0.98),
    FraudProof: (0.98, 0.995),
    HoldBatch: (0.9, 0.95),
    Manifest: (0.95, 0.98),
    WorkOrder: (0.9, 0.95),
}
"""Of those for which a sender is struck otherwise: after a few strikes a peer is not listened to."""
NUL: Final = 0.0005
REUSED: Final = 0.85  # of inner signed messages, the part that was drawn before
INNER_MAX: Final = 64  # of each class that are drawn for reuse
ITEMS_MAX: Final = 128
BYTES_MAX: Final = 262_144
NUMBER_MAX: Final = 2**63 - 1
TOPICS: Final = ("gitdata.events.ingest", "gitdata.events.certified", "gitdata.events.normalize", "a.b", "*", "#", "")
ADDRESSES: Final = (
    "/ip4/127.0.0.1/tcp/1", "/ip4/192.0.2.1/tcp/4001", "/ip6/::1/tcp/65535", "/dns4/localhost/tcp/1",
    "/ip4/127.0.0.1/tcp/70000", "/p2p/x", "/ip4/0.0.0.0/udp/1/quic",
)  # fmt: skip
ATTACHED: Final = frozenset({HoldBatch, WorkOrder})
SUBJECTS: Final = {"batch_id": "batch", "after": "batch", "announcement_id": "announcement", "lease_id": "lease"}


class Messages:
    """Draws messages of peers."""

    def __init__(self, world: World, *, nul: float = NUL) -> None:
        """``nul``: The part of the texts that have U+0000, for which a sender is struck."""
        self._world = world
        self._nul = nul
        self._batches = Batches(world)
        self._inner: dict[tuple[type[Message], int], Signed[Message]] = {}

    def signed(self, draw: Draw, cls: type[Message], signer: Keyring) -> tuple[Signed[Message], bytes]:
        """A signed message of a class, and its attachment."""
        while True:
            message, attachment = self._message(draw, cls, signer)
            try:
                return sign(signer, message), attachment
            except InvalidKeyError:
                continue  # its subject is empty, or too long to be signed

    def _message(self, draw: Draw, cls: type[Any], signer: Keyring) -> tuple[Any, bytes]:
        usual: dict[str, Any] = {}
        attachment = b""
        begins, stays = COHERENT_OF.get(cls, COHERENT)
        if draw.chance(begins):
            usual, attachment = coherent(draw, cls, signer, self._batches)
        if cls in ATTACHED and not attachment:
            attachment = self._batches.payload(draw).packed if draw.chance(0.99) else draw.bytes(300)
        hints = _hints(cls)
        values = {}
        for field in attrs.fields(cls):
            if field.name in usual and draw.chance(stays):
                values[field.name] = usual[field.name]
            else:
                values[field.name] = self._value(draw, hints[field.name], field, signer)
        return cls(**values), attachment

    def _value(self, draw: Draw, hint: Any, field: "attrs.Attribute[Any]", signer: Keyring) -> Any:
        arguments = typing.get_args(hint)
        if type(None) in arguments:
            return None if draw.chance(0.5) else self._value(draw, arguments[0], field, signer)
        if hint is QuorumCertificate:
            return self._batches.certificate(draw, signer)
        if typing.get_origin(hint) is Signed:
            return self._signed(draw, arguments[0], signer)
        if attrs.has(hint):
            return self._message(draw, hint, signer)[0]
        if typing.get_origin(hint) is tuple:
            count = draw.size(min(_bound(field, ITEMS_MAX), ITEMS_MAX))
            return tuple(self._item(draw, arguments[0], field, signer) for _ in range(count))
        return self._plain(draw, hint, field)

    def _item(self, draw: Draw, hint: Any, field: "attrs.Attribute[Any]", signer: Keyring) -> Any:
        if hint is str:
            if are_topics in _validators(field):
                return draw.pick(TOPICS[:-1]) if draw.chance(0.5) else draw.text(128, 1, nul=False)
            return draw.pick(ADDRESSES if field.name == "addresses" else TOPICS) if draw.chance(0.5) else draw.text()
        if hint is bytes:
            return self._key(draw) if field.name.endswith("holders") else draw.bytes(300)
        return self._value(draw, hint, field, signer)

    def _signed(self, draw: Draw, cls: type[Message], signer: Keyring) -> Signed[Message]:
        """One that the node sent, one that was drawn before, or a new one."""
        heard = self._world.live.pick(draw, f"signed {cls.__name__}")
        if draw.chance(0.3) and heard is not None:
            return typing.cast(Signed[Message], heard)
        number = draw.below(INNER_MAX)
        if not draw.chance(REUSED):
            return self.signed(draw, cls, draw.pick((signer, *self._world.agents)))[0]
        made = self._inner.get((cls, number))
        if made is None:
            own = Draw(f"{self._world.seed} inner {cls.__name__} {number}")
            made = self._inner[cls, number] = self.signed(own, cls, own.pick(self._world.agents))[0]
        return made

    def _plain(self, draw: Draw, hint: Any, field: "attrs.Attribute[Any]") -> Any:
        if hint is int:
            return self._number(draw, field)
        if hint is str:
            return self._text(draw, field)
        if hint is bytes:
            return self._bytes(draw, field)
        return draw.chance(0.5) if hint is bool else draw.pick(list(hint))

    def _number(self, draw: Draw, field: "attrs.Attribute[Any]") -> int:
        most = _bound(field, NUMBER_MAX)
        if most == MS_MAX and draw.chance(0.7):
            return self._world.now_ms + draw.pick((-60_000, -1, 0, 1, 300, 60_000, 3_600_000))
        return draw.number(most)

    def _text(self, draw: Draw, field: "attrs.Attribute[Any]") -> str:
        if field.name == "network":
            return self._world.network if draw.chance(0.998) else draw.text()
        subject = self._world.live.pick(draw, SUBJECTS.get(field.name, ""))
        if draw.chance(0.7) and subject is not None:
            return str(subject)
        most = TEXT_CHARS_MAX if is_text in _validators(field) else _bound(field, TEXT_CHARS_MAX)
        text = draw.text(most, nul=False)
        if text and draw.chance(self._nul):
            at = draw.below(len(text))
            return f"{text[:at]}\0{text[at + 1 :]}"
        return text

    def _bytes(self, draw: Draw, field: "attrs.Attribute[Any]") -> bytes:
        validators = _validators(field)
        if is_key in validators:
            return self._key(draw)
        if is_digest in validators:
            return self._digest(draw)
        if draw.chance(0.5):
            return draw.pick((b"", b"{}", b"[]", b"\0", b"[1e400]", b'{"a":{}}', b"\xff" * 300))
        return draw.bytes(min(_bound(field, BYTES_MAX), BYTES_MAX if draw.chance(0.02) else 300))

    def _key(self, draw: Draw) -> bytes:
        match draw.below(6):
            case 0 | 1:
                return self._world.node
            case 2 | 3:
                return draw.pick(self._world.agents).identity
            case 4:
                return key_of(f"{self._world.seed} other {draw.below(1_000)}").identity
            case _:
                return draw.pick((b"\2", b"\3")) + draw.pick((bytes(32), b"\xff" * 32, draw.rng.randbytes(32)))

    def _digest(self, draw: Draw) -> bytes:
        match draw.below(4):
            case 0:
                return draw.pick((bytes(32), b"\xff" * 32))
            case 1:
                return draw.pick(self._policy_hashes)
            case 2:
                return self._batches.payload(draw).root
            case _:
                return draw.rng.randbytes(32)

    @cached_property
    def _policy_hashes(self) -> list[bytes]:
        return list(self._world.policies)


def remember(live: Live, message: Message) -> None:
    """Keep what the node said, for items to name: the signed messages in a message, and what it is about."""
    for name in (field.name for field in attrs.fields(type(message))):
        value: Any = getattr(message, name)
        for each in value if isinstance(value, tuple) else (value,):
            if isinstance(each, Signed):
                live.add(f"signed {type(each.message).__name__}", each)
    if isinstance(message, Announcement):
        live.add("announcement", message.announcement_id)
    for kind in ("lease", "batch"):
        subject = getattr(message, f"{kind}_id", None)
        if subject:
            live.add(kind, subject)


def classes() -> tuple[type[Message], ...]:
    """The classes that are drawn: the whole catalogue."""
    return MESSAGES


_HINTS: Final[dict[type[Any], dict[str, Any]]] = {}


def _hints(cls: type[Any]) -> dict[str, Any]:
    if cls not in _HINTS:
        _HINTS[cls] = typing.get_type_hints(cls)
    return _HINTS[cls]


def _validators(field: "attrs.Attribute[Any]") -> tuple[Any, ...]:
    """The validators of a field, each by itself."""
    return tuple(getattr(field.validator, "_validators", (field.validator,)))


def _bound(field: "attrs.Attribute[Any]", otherwise: int) -> int:
    """The greatest number, or length, that a field allows."""
    return next((each.bound for each in _validators(field) if isinstance(each, AtMost)), otherwise)

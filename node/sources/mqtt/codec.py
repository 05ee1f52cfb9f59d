"""The subscriber's side of MQTT 3.1.1 and 5: bytes in, packets out, and the other way. No socket, no clock.

A subscriber needs little of MQTT: it connects, subscribes, receives messages and acknowledges them. It keeps no state
of a message of QoS 2 between PUBREC and PUBREL: the caller acknowledges only what is on disk, and recognizes a
repeated message by its content. So a PUBREL is always answered with PUBCOMP.

Sections are those of MQTT 5 (OASIS, 2019); 3.1.1 has the same packets without properties.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, Literal, TypeAlias

import attrs

from protocols.errors import PeerFault
from protocols.limits import EVENT_BYTES_MAX

Version = Literal[4, 5]  # as CONNECT states it: 4 is MQTT 3.1.1

CONNECT, CONNACK, PUBLISH, PUBACK, PUBREC, PUBREL, PUBCOMP = range(1, 8)
SUBSCRIBE, SUBACK, UNSUBSCRIBE, UNSUBACK, PINGREQ, PINGRESP, DISCONNECT, AUTH = range(8, 16)

MESSAGE_BYTES_MAX: Final = 4 * EVENT_BYTES_MAX + 1  # longer ones are cut to this size, too long for an event
PUBLISH_BYTES_MAX: Final = MESSAGE_BYTES_MAX + 128 * 1024  # with its topic and properties
CONTROL_BYTES_MAX: Final = 64 * 1024  # of any other packet
TEXT_BYTES_MAX: Final = 65_535
LENGTH_BYTES_MAX: Final = 4
USER_PROPERTIES_MAX: Final = 64  # of a message; further ones are ignored

PING: Final = bytes((PINGREQ << 4, 0))
DISCONNECT_PACKET: Final = bytes((DISCONNECT << 4, 0))

# identifiers of properties (section 2.2.2.2) by the form of their values
ONE_BYTE: Final = frozenset((0x01, 0x17, 0x19, 0x24, 0x25, 0x28, 0x29, 0x2A))
TWO_BYTES: Final = frozenset((0x13, 0x21, 0x22, 0x23))
FOUR_BYTES: Final = frozenset((0x02, 0x11, 0x18, 0x27))
TEXTS: Final = frozenset((0x03, 0x08, 0x09, 0x12, 0x15, 0x16, 0x1A, 0x1C, 0x1F))
SUBSCRIPTION: Final = 0x0B
USER: Final = 0x26
SESSION_EXPIRY: Final = 0x11
SERVER_KEEP_ALIVE: Final = 0x13
REASON_TEXT: Final = 0x1F
RECEIVE_MAXIMUM: Final = 0x21

NO_PROPERTIES: Final[Mapping[str, str]] = {}


class BrokenProtocolError(PeerFault):
    """A broker violated MQTT."""

    code = "malformed"


@attrs.frozen(kw_only=True)
class Connected:
    """CONNACK. ``keep_alive_s``: what the server demands instead of the interval in CONNECT."""

    code: int
    session_present: bool = False
    keep_alive_s: int | None = None
    text: str = ""


@attrs.frozen(kw_only=True)
class Published:
    """PUBLISH.

    Attributes:
        packet_id: 0 with QoS 0.
        properties: User properties by lower-case name, the first of each.
    """

    topic: str
    payload: bytes
    qos: int
    packet_id: int
    properties: Mapping[str, str]


@attrs.frozen(kw_only=True)
class Released:
    """PUBREL."""

    packet_id: int


@attrs.frozen(kw_only=True)
class SubscriptionAnswer:
    """SUBACK or UNSUBACK. ``codes``: one for each filter, in their order; none for UNSUBACK in 3.1.1."""

    packet_id: int
    codes: tuple[int, ...]


@attrs.frozen(kw_only=True)
class PingAnswer:
    """PINGRESP."""


@attrs.frozen(kw_only=True)
class Disconnected:
    """DISCONNECT of the server, in MQTT 5 only."""

    code: int
    text: str = ""


Packet: TypeAlias = Connected | Published | Released | SubscriptionAnswer | PingAnswer | Disconnected


@attrs.frozen(kw_only=True)
class Login:
    """The content of CONNECT; a session is always resumed where there is one.

    Attributes:
        session_expiry_s, receive_maximum: For MQTT 5.
        password: Not shown by ``repr``.
    """

    client_id: str
    keep_alive_s: int
    session_expiry_s: int
    receive_maximum: int
    username: str = ""
    password: str | None = attrs.field(default=None, repr=False)


# --- what is sent ------------------------------------------------------------------------------------------------


def connect(login: Login, version: Version) -> bytes:
    """Section 3.1. Clean start is off."""
    flags = (0x80 if login.username else 0) | (0x40 if login.password is not None else 0)
    body = _text("MQTT") + bytes((version, flags)) + login.keep_alive_s.to_bytes(2, "big")
    if version == 5:
        properties = bytes((SESSION_EXPIRY,)) + login.session_expiry_s.to_bytes(4, "big")
        properties += bytes((RECEIVE_MAXIMUM,)) + login.receive_maximum.to_bytes(2, "big")
        body += _length(len(properties)) + properties
    body += _text(login.client_id)
    if login.username:
        body += _text(login.username)
    if login.password is not None:
        body += _text(login.password)
    return _packet(CONNECT << 4, body)


def subscribe(packet_id: int, filters: Sequence[str], qos: int, version: Version) -> bytes:
    """Section 3.8. With QoS 1 and 2, MQTT 5: retained messages only for a subscription that the session has not."""
    options = qos | (0x10 if version == 5 and qos else 0)
    body = packet_id.to_bytes(2, "big") + (b"\x00" if version == 5 else b"")
    return _packet(SUBSCRIBE << 4 | 2, body + b"".join(_text(each) + bytes((options,)) for each in filters))


def unsubscribe(packet_id: int, filters: Sequence[str], version: Version) -> bytes:
    """Section 3.10."""
    body = packet_id.to_bytes(2, "big") + (b"\x00" if version == 5 else b"")
    return _packet(UNSUBSCRIBE << 4 | 2, body + b"".join(map(_text, filters)))


def acknowledge(messages: Sequence[Published]) -> bytes:
    """PUBACK for QoS 1, PUBREC for QoS 2, in the order in which the messages came (section 4.6)."""
    kinds = (0, PUBACK << 4, PUBREC << 4)
    return b"".join(
        bytes((kinds[each.qos], 2, each.packet_id >> 8, each.packet_id & 0xFF)) for each in messages if each.qos
    )


def complete(packet_id: int) -> bytes:
    """PUBCOMP, section 3.7."""
    return bytes((PUBCOMP << 4, 2)) + packet_id.to_bytes(2, "big")


def _packet(first: int, body: bytes) -> bytes:
    return bytes((first,)) + _length(len(body)) + body


def _length(value: int) -> bytes:
    """A variable byte integer, section 1.5.5."""
    encoded = bytearray()
    while True:
        value, low = divmod(value, 128)
        encoded.append(low | (0x80 if value else 0))
        if not value:
            return bytes(encoded)


def _text(value: str) -> bytes:
    encoded = value.encode()
    assert len(encoded) <= TEXT_BYTES_MAX, "the settings bound it"
    return len(encoded).to_bytes(2, "big") + encoded


# --- what is received --------------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class _Cut:
    """A message too long to be held: its beginning, and how many bytes of it are still to come."""

    first: int
    kept: bytes
    left: int


class PacketReader:
    """Makes packets of bytes. Holds at most one packet, and of a message that is too long only its beginning."""

    def __init__(self, version: Version) -> None:
        self._version = version
        self._buffer = bytearray()
        self._cut: _Cut | None = None

    def feed(self, data: bytes) -> list[Packet]:
        """The packets that are complete with these bytes.

        Raises:
            BrokenProtocolError: The bytes violate MQTT; nothing more can be read.
        """
        self._buffer += data
        found: list[Packet] = []
        with memoryview(self._buffer) as held:
            at = self._read(held, found)
        del self._buffer[:at]
        return found

    def _read(self, held: memoryview, found: list[Packet]) -> int:
        """Append the packets that are complete. Returns how many bytes were used."""
        at = 0
        while True:
            if self._cut is not None:
                passed = min(self._cut.left, len(held) - at)
                at += passed
                self._cut = attrs.evolve(self._cut, left=self._cut.left - passed)
                if self._cut.left:
                    return at
                found.append(_decoded(self._cut.first, self._cut.kept, self._version, is_cut=True))
                self._cut = None
            header = _header(held, at)
            if header is None:
                return at
            start, length = header
            first, kept = held[at], min(length, PUBLISH_BYTES_MAX)
            if first >> 4 != PUBLISH and length > CONTROL_BYTES_MAX:
                raise BrokenProtocolError(
                    f"a packet of type {first >> 4} has {length} bytes, at most {CONTROL_BYTES_MAX} are allowed"
                )
            if len(held) < start + kept:
                return at
            body = bytes(held[start : start + kept])
            at = start + kept
            if kept < length:
                self._cut = _Cut(first=first, kept=body, left=length - kept)
            else:
                found.append(_decoded(first, body, self._version))


def _header(held: memoryview, at: int) -> tuple[int, int] | None:
    """Where the body of the packet at ``at`` begins, and its length; None while that is not known (section 2.1)."""
    length = shift = 0
    for place in range(at + 1, min(len(held), at + 1 + LENGTH_BYTES_MAX)):
        length |= (held[place] & 0x7F) << shift
        if held[place] < 0x80:
            return place + 1, length
        shift += 7
    if len(held) > at + LENGTH_BYTES_MAX:
        raise BrokenProtocolError(f"the length of a packet has more than {LENGTH_BYTES_MAX} bytes")
    return None


def _decoded(first: int, body: bytes, version: Version, *, is_cut: bool = False) -> Packet:
    try:
        if first >> 4 == PUBLISH:
            return _published(first, body, version, is_cut)
        return _control(first, body, version)
    except IndexError:
        raise BrokenProtocolError(f"a packet of type {first >> 4} is too short") from None


def _published(first: int, body: bytes, version: Version, is_cut: bool) -> Published:
    """Section 3.3. Invalid UTF-8 in topics and properties is replaced: such a message must not block others."""
    qos = first >> 1 & 3
    if qos == 3:
        raise BrokenProtocolError("a message has QoS 3")
    at = 2 + (body[0] << 8 | body[1])
    topic = body[2:at].decode(errors="replace")
    packet_id, properties = 0, NO_PROPERTIES
    if qos:
        packet_id = body[at] << 8 | body[at + 1]
        at += 2
        if not packet_id:
            raise BrokenProtocolError("a message has the packet identifier 0")
    if version == 5:
        at, end = _block(body, at)
        if end > at and not (is_cut and end > len(body)):
            properties = _user_properties(body[at:end])
        at = end
    if at > len(body) and not is_cut:
        raise BrokenProtocolError("a message is too short")
    payload = body[at:]
    if is_cut:  # whatever it was: too long for an event in every format
        payload = payload.ljust(MESSAGE_BYTES_MAX, b"\0")
    return Published(topic=topic, payload=payload, qos=qos, packet_id=packet_id, properties=properties)


def _control(first: int, body: bytes, version: Version) -> Packet:
    kind = first >> 4
    if kind == CONNACK:
        properties = _known_properties(body, 2) if version == 5 and len(body) > 2 else {}
        keep_alive, text = properties.get(SERVER_KEEP_ALIVE), properties.get(REASON_TEXT, "")
        return Connected(
            code=body[1],
            session_present=bool(body[0] & 1),
            keep_alive_s=keep_alive if isinstance(keep_alive, int) else None,
            text=str(text),
        )
    if kind == PUBREL:
        return Released(packet_id=body[0] << 8 | body[1])
    if kind in (SUBACK, UNSUBACK):
        start = _block(body, 2)[1] if version == 5 else 2
        return SubscriptionAnswer(packet_id=body[0] << 8 | body[1], codes=tuple(body[start:]))
    if kind == PINGRESP:
        return PingAnswer()
    if kind == DISCONNECT and version == 5:
        text = _known_properties(body, 1).get(REASON_TEXT, "") if len(body) > 1 else ""
        return Disconnected(code=body[0] if body else 0, text=str(text))
    raise BrokenProtocolError(f"a packet has type {kind}, which servers do not send to subscribers")


def _block(body: bytes, at: int) -> tuple[int, int]:
    """Where properties begin and end (section 2.2.2.1)."""
    length = shift = 0
    for place in range(at, at + LENGTH_BYTES_MAX):
        length |= (body[place] & 0x7F) << shift
        if body[place] < 0x80:
            return place + 1, place + 1 + length
        shift += 7
    raise BrokenProtocolError(f"the length of properties has more than {LENGTH_BYTES_MAX} bytes")


def _known_properties(body: bytes, at: int) -> dict[int, int | str]:
    start, end = _block(body, at)
    return {name: value for name, value in _properties(body[start:end]) if not isinstance(value, tuple)}


def _user_properties(block: bytes) -> Mapping[str, str]:
    found: dict[str, str] = {}
    for _, value in _properties(block):
        if isinstance(value, tuple) and len(found) < USER_PROPERTIES_MAX:
            found.setdefault(value[0].lower(), value[1])
    return found


def _properties(block: bytes) -> Iterator[tuple[int, int | str | tuple[str, str]]]:
    """Identifiers and values; a user property is a pair."""
    at = 0
    while at < len(block):
        name = block[at]
        at += 1
        size = 1 if name in ONE_BYTE else 2 if name in TWO_BYTES else 4 if name in FOUR_BYTES else 0
        if size:
            yield name, int.from_bytes(block[at : at + size], "big")
            at += size
        elif name in TEXTS:
            value, at = _text_at(block, at)
            yield name, value
        elif name == USER:
            key, at = _text_at(block, at)
            value, at = _text_at(block, at)
            yield name, (key, value)
        elif name == SUBSCRIPTION:
            at = _block(block, at)[0]
        else:
            raise BrokenProtocolError(f"a property has the unknown identifier 0x{name:02x}")
    if at > len(block):
        raise BrokenProtocolError("properties are too short")


def _text_at(block: bytes, at: int) -> tuple[str, int]:
    end = at + 2 + (block[at] << 8 | block[at + 1])
    return block[at + 2 : end].decode(errors="replace"), end

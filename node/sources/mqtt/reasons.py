"""The meaning of brokers' codes in plain words (MQTT 3.1.1, sections 3.2.2.3 and 3.9.3; MQTT 5, section 2.4)."""

from typing import Final

REFUSED_FROM: Final = 0x80
TEXT_CHARS_MAX: Final = 200

RETURN_CODES: Final = {
    1: "it does not support this version of MQTT",
    2: "it refuses the client id",
    3: "it is not available now",
    4: "the username or the password is wrong",
    5: "this user is not allowed to connect",
}

REASON_CODES: Final = {
    0x00: "it disconnected without an error",
    0x80: "it gives no reason",
    0x81: "it found a packet malformed",
    0x82: "it found a violation of the protocol",
    0x83: "its implementation refuses the request",
    0x84: "it does not support this version of MQTT",
    0x85: "it refuses the client id",
    0x86: "the username or the password is wrong",
    0x87: "this user is not allowed to do that",
    0x88: "it is not available now",
    0x89: "it is busy",
    0x8A: "this client is banned",
    0x8B: "it is shutting down",
    0x8C: "it requires another authentication method",
    0x8D: "it received nothing for longer than the keep-alive interval",
    0x8E: "another client connected under the same client id",
    0x8F: "it does not accept this topic filter",
    0x90: "it does not accept this topic name",
    0x91: "the packet identifier is in use",
    0x93: "it received more messages at once than it accepts",
    0x95: "a packet was too large",
    0x96: "messages came too fast",
    0x97: "a quota is exhausted",
    0x98: "an operator ended the connection",
    0x99: "the payload does not have the announced format",
    0x9A: "it does not support retained messages",
    0x9B: "it does not support this QoS",
    0x9C: "another server is to be used",
    0x9D: "the server has moved",
    0x9E: "it does not support shared subscriptions",
    0x9F: "connections come too fast",
    0xA0: "the connection was open for the longest time allowed",
    0xA1: "it does not support subscription identifiers",
    0xA2: "it does not support subscriptions with wildcards",
}


def connection_refused(code: int, version: int, text: str = "") -> str:
    """Why a broker refused a connection; ``text`` is the broker's own."""
    known = REASON_CODES if version == 5 and code >= REFUSED_FROM else RETURN_CODES
    return _sentence(known, code, text)


def reason(code: int, text: str = "") -> str:
    """The meaning of a reason code of MQTT 5, or of a refused subscription in 3.1.1."""
    return _sentence(REASON_CODES, code, text)


def _sentence(known: dict[int, str], code: int, text: str) -> str:
    meaning = known.get(code, "for an unknown reason")
    own = "".join(char for char in text if char.isprintable())[:TEXT_CHARS_MAX]
    return f"{meaning} (0x{code:02x}{': ' + own if own else ''})"

"""What brokers' codes say (MQTT 3.1.1, sections 3.2.2.3 and 3.9.3; MQTT 5, section 2.4), in an operator's words."""

from typing import Final

REFUSED_FROM: Final = 0x80
TEXT_CHARS_MAX: Final = 200

RETURN_CODES: Final = {
    1: "it does not speak this version of MQTT",
    2: "it refuses the client id",
    3: "it is not available now",
    4: "the username or the password is wrong",
    5: "this user may not connect",
}

REASON_CODES: Final = {
    0x00: "it said goodbye",
    0x80: "it gives no reason",
    0x81: "it found a packet malformed",
    0x82: "it found the protocol broken",
    0x83: "it does not do what was asked",
    0x84: "it does not speak this version of MQTT",
    0x85: "it refuses the client id",
    0x86: "the username or the password is wrong",
    0x87: "this user may not do that",
    0x88: "it is not available now",
    0x89: "it is busy",
    0x8A: "this client is banned",
    0x8B: "it is shutting down",
    0x8C: "it wants another authentication method",
    0x8D: "it heard nothing for too long",
    0x8E: "another client connected under the same client id",
    0x8F: "it takes no such topic filter",
    0x90: "it takes no such topic name",
    0x91: "the packet identifier is in use",
    0x93: "it was sent more messages than it takes at once",
    0x95: "a packet was too large",
    0x96: "messages came too fast",
    0x97: "a quota is exhausted",
    0x98: "an operator ended the connection",
    0x99: "the payload is not in the form that was announced",
    0x9A: "it keeps no retained messages",
    0x9B: "it does not offer this QoS",
    0x9C: "another server is to be used",
    0x9D: "the server has moved",
    0x9E: "it offers no shared subscriptions",
    0x9F: "connections come too fast",
    0xA0: "the connection was open for the longest time allowed",
    0xA1: "it offers no subscription identifiers",
    0xA2: "it offers no subscriptions with wildcards",
}


def connection_refused(code: int, version: int, said: str = "") -> str:
    """Why a broker did not take a connection; ``said`` is the broker's own text."""
    known = REASON_CODES if version == 5 and code >= REFUSED_FROM else RETURN_CODES
    return _sentence(known, code, said)


def reason(code: int, said: str = "") -> str:
    """What a reason code of MQTT 5 says, or a refused subscription of 3.1.1."""
    return _sentence(REASON_CODES, code, said)


def _sentence(known: dict[int, str], code: int, said: str) -> str:
    text = known.get(code, "for a reason unknown here")
    own = "".join(char for char in said if char.isprintable())[:TEXT_CHARS_MAX]
    return f"{text} (0x{code:02x}{': ' + own if own else ''})"

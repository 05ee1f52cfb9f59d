"""Hostile values out of a seed: any Unicode, any number, any size within a bound. Equal seeds give equal values."""

import random
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeVar

import orjson

T = TypeVar("T")

TEXTS: Final = (
    "",
    " ",
    "\0",
    "a\0b",
    "\x01\x1f\x7f\x80\x9f",
    "\ufeff",
    "\uffff\ufffe",
    "\ud7ff\ue000",
    "\U0010ffff",
    "\u202e\u2066\u200b",
    "e\u0301\u0327" * 4,
    "\u1e9e\u0130\u0131\ufb01",
    "\U0001f469\u200d\U0001f469\u200d\U0001f467",
    "\r\n\r\n",
    "\u2028\u2029\x85",
    "'; DROP TABLE overlay_events; --",
    "%s%n%(a)s{0.__class__}${7*7}",
    "../../../../etc/passwd",
    "<script>alert(1)</script>",
    "\x1b[2J\x1b]0;a\x07",
    "null",
    "NaN",
    "-0",
    "1e400",
    "__proto__",
    "$ref",
    "0" * 64,
    "9999-12-31T23:59:59.999999999Z",
    "0000-00-00T00:00:00Z",
    "2016-12-31T23:59:60Z",
    "2024-02-30T25:61:61+99:99",
    "/",
    "//a/~2/~",
    "*",
    "#",
    "a" * 128,
    "ä" * 255,
)
RANGES: Final = ((0x20, 0x7E), (0xA0, 0x24F), (0x300, 0x36F), (0x590, 0x6FF), (0x3040, 0x9FFF), (0x10000, 0x10FFFF))
"""Of code points that texts are made of; none of them has the surrogates."""
NUMBERS: Final = (
    0, 1, 2, 3, 7, 255, 256, 65_535, 65_536, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 10**12, 2**53 - 1, 2**53, 2**53 + 1,
    2**63 - 1, 2**63, 2**64 - 1, 2**64, 10**30,
)  # fmt: skip
RAW: Final = tuple(
    orjson.Fragment(text)
    for text in (
        b"-0", b"-0.0", b"1e400", b"-1e400", b"1e-400", b"5e-324", b"1.7976931348623157e308", b"6.02214076e23",
        b"1E+2",
        b"123456789012345678901234567890", b"0.1000000000000000055511151231257827", b"-9223372036854775809",
        b"18446744073709551616", b"9" * 400, b'"\\ud800"', b'"\\udc00\\ud800"', b'"\\u0000"', b'{"a\\u0000b":1}',
        b'{"":{"":[]}}', b"[" * 60 + b"]" * 60,
    )
)  # fmt: skip
"""JSON texts that no value of Python stands for."""
UNPAIRED: Final = ("", "a", "id", "type", "data", "value", "__proto__", "\u202e", "a.b", "/a~1", "ключ")


class Draw:
    """Draws values."""

    def __init__(self, seed: str) -> None:
        self.rng = random.Random(seed)  # noqa: S311 -- equal seeds give equal values

    def chance(self, part: float) -> bool:
        return self.rng.random() < part

    def below(self, bound: int) -> int:
        """0 to ``bound - 1``."""
        return int(self.rng.random() * bound)

    def pick(self, choices: Sequence[T]) -> T:
        return choices[int(self.rng.random() * len(choices))]

    def weighted(self, weights: Mapping[T, float]) -> T:
        at = self.rng.random() * sum(weights.values())
        for choice, weight in weights.items():
            at -= weight
            if at < 0:
                return choice
        return choice

    def size(self, most: int, *, usual: int = 3) -> int:
        """A length: small as a rule, now and then any up to ``most``."""
        if self.chance(0.02):
            return self.pick((most, self.below(most + 1)))
        return min(most, self.below(usual + 1))

    def text(self, most: int = 64, least: int = 0, *, nul: bool = True) -> str:
        """A text of ``least`` to ``most`` code points, without surrogates."""
        made = self._text(most)
        if not nul:
            made = made.replace("\0", "\u2400")
        if len(made) < least:
            made += "x" * (least - len(made))
        return made[:most]

    def _text(self, most: int) -> str:
        if self.chance(0.3):
            return self.pick(TEXTS)
        if self.chance(0.02):
            return self.pick(("x", "\u0301", "\U0001f600", "\x7f", " ")) * most
        low, high = self.pick(RANGES)
        return "".join(chr(low + self.below(high - low + 1)) for _ in range(self.below(min(most, 24) + 1)))

    def number(self, most: int = 2**63 - 1, least: int = 0) -> int:
        """An integer of ``least`` to ``most``, often at an edge."""
        if self.chance(0.1):
            return most
        if self.chance(0.1):
            return least
        span = most - least + 1
        drawn = self.pick(NUMBERS) if self.chance(0.5) else self.rng.getrandbits(1 + self.below(span.bit_length()))
        return least + drawn % span

    def real(self) -> Any:
        """Any JSON number."""
        if self.chance(0.1):
            return self.pick(RAW[:14])
        if self.chance(0.5):
            return self.pick((-1, 1)) * (self.pick(NUMBERS) % 2**64 >> 1)
        return self.pick((self.rng.uniform(-1e3, 1e3), self.rng.random() * 10 ** self.rng.randint(-300, 300)))

    def json(self, depth: int = 3) -> Any:
        """Any JSON value, to be written by ``to_json``."""
        kind = self.below(12 if depth else 8)
        if kind < 3:
            return self.text()
        if kind < 6:
            return self.real()
        if kind == 6:
            return self.pick((None, True, False))
        if kind == 7:
            return self.pick(RAW)
        if kind < 10:
            return {self.key(): self.json(depth - 1) for _ in range(self.size(40, usual=4))}
        return [self.json(depth - 1) for _ in range(self.size(200, usual=4))]

    def key(self) -> str:
        return self.pick(UNPAIRED) if self.chance(0.7) else self.text(32)

    def bytes(self, most: int = 64) -> bytes:
        return self.rng.randbytes(self.size(most, usual=min(most, 64)))


def to_json(value: Any) -> bytes:
    return orjson.dumps(value)

"""Conversion of units with exact factors and one rounding.

The shortest decimal form of a number (the one RFC 8785 writes) is multiplied and added exactly, then divided with
one rounding, half to even, to ``SIGNIFICANT_DIGITS``; the result is the double nearest to that decimal. Decimal
arithmetic of a fixed precision is the same on every machine, which binary arithmetic with fused operations is not.
39.02 degF is 3.9 degC, and not 3.9000000000000012.
"""

import decimal
import math
from collections.abc import Callable
from fractions import Fraction
from typing import Final

SIGNIFICANT_DIGITS: Final = 12

# Sums of doubles span at most 308 + 324 + 17 digits: at this precision only the division rounds.
EXACT: Final = decimal.Context(prec=1_000, rounding=decimal.ROUND_HALF_EVEN)
ROUNDED: Final = decimal.Context(prec=SIGNIFICANT_DIGITS, rounding=decimal.ROUND_HALF_EVEN)
SAFE_INTEGER: Final = 2**53 - 1

# unit -> (quantity, factor, offset): value in the base unit = value * factor + offset. All are exact by
# definition (international mile, foot, inch and avoirdupois pound; knot 1852 m/h; inHg at 0 degC, 3386.389 Pa).
UNITS: Final[dict[str, tuple[str, Fraction, Fraction]]] = {
    "K": ("temperature", Fraction(1), Fraction(0)),
    "degC": ("temperature", Fraction(1), Fraction("273.15")),
    "degF": ("temperature", Fraction(5, 9), Fraction("459.67") * Fraction(5, 9)),
    "m/s": ("speed", Fraction(1), Fraction(0)),
    "km/h": ("speed", Fraction(1000, 3600), Fraction(0)),
    "mph": ("speed", Fraction("0.44704"), Fraction(0)),
    "knot": ("speed", Fraction(1852, 3600), Fraction(0)),
    "ft/s": ("speed", Fraction("0.3048"), Fraction(0)),
    "Pa": ("pressure", Fraction(1), Fraction(0)),
    "hPa": ("pressure", Fraction(100), Fraction(0)),
    "mbar": ("pressure", Fraction(100), Fraction(0)),
    "kPa": ("pressure", Fraction(1000), Fraction(0)),
    "inHg": ("pressure", Fraction("3386.389"), Fraction(0)),
    "m": ("length", Fraction(1), Fraction(0)),
    "km": ("length", Fraction(1000), Fraction(0)),
    "mi": ("length", Fraction("1609.344"), Fraction(0)),
    "ft": ("length", Fraction("0.3048"), Fraction(0)),
    "in": ("length", Fraction("0.0254"), Fraction(0)),
    "cm": ("length", Fraction(1, 100), Fraction(0)),
    "mm": ("length", Fraction(1, 1000), Fraction(0)),
    "nmi": ("length", Fraction(1852), Fraction(0)),
    "yd": ("length", Fraction("0.9144"), Fraction(0)),
    "bar": ("pressure", Fraction(100_000), Fraction(0)),
    "atm": ("pressure", Fraction(101_325), Fraction(0)),
    "psi": ("pressure", Fraction("0.45359237") * Fraction("9.80665") / Fraction("0.0254") ** 2, Fraction(0)),
    "kg": ("mass", Fraction(1), Fraction(0)),
    "g": ("mass", Fraction(1, 1000), Fraction(0)),
    "mg": ("mass", Fraction(1, 1_000_000), Fraction(0)),
    "t": ("mass", Fraction(1000), Fraction(0)),
    "lb": ("mass", Fraction("0.45359237"), Fraction(0)),
    "oz": ("mass", Fraction("0.45359237") / 16, Fraction(0)),
    "m3": ("volume", Fraction(1), Fraction(0)),
    "L": ("volume", Fraction(1, 1000), Fraction(0)),
    "mL": ("volume", Fraction(1, 1_000_000), Fraction(0)),
    "galUS": ("volume", 231 * Fraction("0.0254") ** 3, Fraction(0)),
    "m2": ("area", Fraction(1), Fraction(0)),
    "ha": ("area", Fraction(10_000), Fraction(0)),
    "acre": ("area", 4840 * Fraction("0.9144") ** 2, Fraction(0)),
    "s": ("time", Fraction(1), Fraction(0)),
    "ms": ("time", Fraction(1, 1000), Fraction(0)),
    "min": ("time", Fraction(60), Fraction(0)),
    "h": ("time", Fraction(3600), Fraction(0)),
    "d": ("time", Fraction(86_400), Fraction(0)),
    "J": ("energy", Fraction(1), Fraction(0)),
    "kJ": ("energy", Fraction(1000), Fraction(0)),
    "kWh": ("energy", Fraction(3_600_000), Fraction(0)),
    "Wh": ("energy", Fraction(3_600), Fraction(0)),
    "W": ("power", Fraction(1), Fraction(0)),
    "kW": ("power", Fraction(1000), Fraction(0)),
    "MW": ("power", Fraction(1_000_000), Fraction(0)),
    "V": ("voltage", Fraction(1), Fraction(0)),
    "mV": ("voltage", Fraction(1, 1000), Fraction(0)),
    "A": ("current", Fraction(1), Fraction(0)),
    "mA": ("current", Fraction(1, 1000), Fraction(0)),
    "Hz": ("frequency", Fraction(1), Fraction(0)),
    "kHz": ("frequency", Fraction(1000), Fraction(0)),
    "MHz": ("frequency", Fraction(1_000_000), Fraction(0)),
    "1": ("ratio", Fraction(1), Fraction(0)),
    "%": ("ratio", Fraction(1, 100), Fraction(0)),
    "ppm": ("ratio", Fraction(1, 1_000_000), Fraction(0)),
    "m/s2": ("acceleration", Fraction(1), Fraction(0)),
    "gn": ("acceleration", Fraction("9.80665"), Fraction(0)),
}


def plain(value: float) -> int | float:
    """An integral double as an integer, since their JSON form is the same: ``4.0`` is written ``4``."""
    return int(value) if value.is_integer() and abs(value) <= SAFE_INTEGER else value


def writable(value: float) -> bool:
    """Whether a number's JSON form can be read back: from 2^53 to 1e21 it would be too large an integer."""
    return abs(value) <= SAFE_INTEGER or 1e21 <= abs(value) < math.inf


def converter(source: str, target: str) -> Callable[[int | float], int | float]:
    """The function from numbers in one unit to numbers in another of the same quantity.

    Raises:
        ValueError: A unit is unknown, or they measure different quantities.
    """
    for unit in (source, target):
        if unit not in UNITS:
            raise ValueError(f"the unit {unit!r} is not known; known are {', '.join(UNITS)}")
    quantity, factor, offset = UNITS[source]
    quantity_to, factor_to, offset_to = UNITS[target]
    if quantity != quantity_to:
        raise ValueError(f"the units must measure the same: {source} measures {quantity}, {target} {quantity_to}")
    slope, shift = factor / factor_to, (offset - offset_to) / factor_to
    divisor = slope.denominator * shift.denominator
    times = decimal.Decimal(int(slope * divisor))
    plus = decimal.Decimal(int(shift * divisor))
    by = decimal.Decimal(divisor)

    def convert(value: int | float) -> int | float:
        exact = EXACT.fma(decimal.Decimal(repr(value)), times, plus)
        return plain(float(ROUNDED.divide(exact, by)))

    return convert

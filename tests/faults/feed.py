"""Real weather without end: a station's year as configs/samples has it, then the same readings a year later.

What every reading must come out as is worked out here, by hand and not by the agents' code.
"""

import enum
from collections.abc import Iterator, Sequence
from decimal import ROUND_HALF_EVEN, Context, Decimal
from functools import cache
from typing import Any, Final

import attrs
import orjson

from scripts.demo import STATIONS, readings

FIRST_YEAR: Final = 2013
ID_MEMBER: Final = "id"  # of the data that a webhook has
YEAR: Final = b"@@@@"  # stands for the year in what is encoded once
EXACT: Final = Context(prec=60)
ROUNDED: Final = Context(prec=12, rounding=ROUND_HALF_EVEN)

# as sent, as certified, factor, what is taken off first, least, most
FIELDS: Final = (
    ("temp", "temperatureC", Decimal(5), Decimal(9), Decimal(32), -89.2, 56.7),
    ("dewp", "dewPointC", Decimal(5), Decimal(9), Decimal(32), -100, 35),
    ("humid", "humidityPercent", Decimal(1), Decimal(1), Decimal(0), 0, 100),
    ("wind_dir", "windDirectionDeg", Decimal(1), Decimal(1), Decimal(0), 0, 360),
    ("wind_speed", "windSpeedMps", Decimal("0.44704"), Decimal(1), Decimal(0), 0, 96.2),
    ("wind_gust", "windGustMps", Decimal("0.44704"), Decimal(1), Decimal(0), 0, 113.3),
    ("precip", "precipitationMm", Decimal("25.4"), Decimal(1), Decimal(0), 0, 401),
    ("pressure", "pressureHpa", Decimal(1), Decimal(1), Decimal(0), 870, 1084.8),
    ("visib", "visibilityKm", Decimal("1.609344"), Decimal(1), Decimal(0), 0, 120),
)
UNCHANGED: Final = (Decimal(1), Decimal(1), Decimal(0))
REQUIRED: Final = frozenset(("temperatureC", "dewPointC", "humidityPercent", "windSpeedMps"))


class Form(enum.Enum):
    """How a client of the feed sends its events."""

    REQUEST = "request"  # one JSON document to the ingest API
    LINES = "lines"  # JSON lines of a known length
    STREAM = "stream"  # JSON lines without one, acknowledged in pieces
    WEBHOOK = "webhook"  # deliveries to the source's webhook, each an array of the data alone


@attrs.frozen(kw_only=True)
class Reading:
    """A row of the sample: what is sent, what it must become, but for the year; and how it must be judged.

    Attributes:
        encoded: The event, and by itself its data with an id, as a webhook has it.
    """

    event: dict[str, Any]
    encoded: bytes
    delivered: bytes
    normalized: dict[str, Any]
    valid: bool


@attrs.frozen(kw_only=True)
class Expected:
    """What an event must stand as at the end."""

    data: dict[str, Any]
    normalized: dict[str, Any]
    status: str


@cache
def station(name: str) -> dict[str, Reading]:
    """A station's readings, by what follows the year in their external id."""
    found = {}
    for origin, event in readings():
        if origin == name:
            suffix = event["externalId"].removeprefix(f"{name}-{FIRST_YEAR}")
            found[suffix] = _reading(event)
    return found


def _reading(event: dict[str, Any]) -> Reading:
    data = event["data"]
    normalized: dict[str, Any] = {"station": data["origin"]}
    valid = True
    for source, target, factor, divisor, offset, least, most in FIELDS:
        value = data[source]
        if value is None:
            normalized[target] = None
            valid = valid and target not in REQUIRED
            continue
        exact = EXACT.divide(EXACT.multiply(EXACT.subtract(Decimal(repr(value)), offset), factor), divisor)
        # a unit's conversion is rounded to 12 digits; a value without one is taken as it is
        converted = value if (factor, divisor, offset) == UNCHANGED else float(ROUNDED.plus(exact))
        normalized[target] = converted
        valid = valid and least <= converted <= most
    delivered = {ID_MEMBER: event["externalId"], **data}
    return Reading(
        event=event,
        encoded=_of_any_year(event),
        delivered=_of_any_year(delivered),
        normalized=normalized,
        valid=valid,
    )


def _of_any_year(document: dict[str, Any]) -> bytes:
    return orjson.dumps(document).replace(str(FIRST_YEAR).encode() + b"-", YEAR + b"-")


class Feed:
    """One source on one node: readings in the order of time, each with an id of its own."""

    def __init__(self, source_id: str, name: str, form: Form = Form.REQUEST) -> None:
        assert name in STATIONS, "the sample has readings of three stations"
        self.source_id = source_id
        self.station = name
        self.form = form
        self._readings = station(name)

    def batches(self, size: int) -> Iterator[tuple[list[str], bytes]]:
        """(external ids, request body), year after year; a batch is of one year, and may be short at its end."""
        suffixes = list(self._readings)
        year = FIRST_YEAR
        while True:
            for start in range(0, len(suffixes), size):
                taken = suffixes[start : start + size]
                body = self._body([self._readings[suffix] for suffix in taken])
                yield [f"{self.station}-{year}{suffix}" for suffix in taken], body.replace(YEAR, str(year).encode())
            year += 1

    def _body(self, readings: Sequence[Reading]) -> bytes:
        if self.form is Form.WEBHOOK:
            return b'{"readings":[' + b",".join(reading.delivered for reading in readings) + b"]}"
        events = [reading.encoded for reading in readings]
        if self.form is not Form.REQUEST:
            return b"".join(event + b"\n" for event in events)
        head = orjson.dumps({"sourceId": self.source_id, "processingOptions": {"consensusLevel": "enhanced"}})[:-1]
        return head + b',"events":[' + b",".join(events) + b"]}"

    def expected(self, external_id: str) -> Expected:
        """What a reading with this id must stand as. Raises KeyError for one that there never was."""
        year, suffix = external_id[len(self.station) + 1 :][:4], external_id[len(self.station) + 5 :]
        reading = self._readings[suffix]
        time = f"{year}{suffix}"
        data = {**reading.event["data"], "time_hour": time}
        if self.form is Form.WEBHOOK:
            data[ID_MEMBER] = external_id
        return Expected(
            data=data,
            normalized={**reading.normalized, "observedAt": time},
            status="certified" if reading.valid else "invalid",
        )

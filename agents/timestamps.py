"""Timestamps of many formats become RFC 3339 in UTC: ``2013-01-01T06:00:00Z``, with a fraction only if there is one.

Offsets are fixed or follow an explicit rule (POSIX TZ, ``EST5EDT,M3.2.0,M11.1.0``): the meaning of a *named* zone
comes from a database that differs between machines and years, so two honest agents could disagree. Civil times that
a change of the clocks skips do not exist; of those that occur twice the first is meant. Leap seconds are refused,
since the arithmetic here cannot represent them.
"""

import datetime
import re
from collections.abc import Callable
from typing import Any, Final

from agents.units import SAFE_INTEGER

TOKENS: Final = {
    "YYYY": "(?P<year>[0-9]{4})",
    "MM": "(?P<month>[0-9]{2})",
    "DD": "(?P<day>[0-9]{2})",
    "HH": "(?P<hour>[0-9]{2})",
    "mm": "(?P<minute>[0-9]{2})",
    "ss": "(?P<second>[0-9]{2})",
    "SSS": "(?P<fraction>[0-9]{1,9})",
    "Z": "(?P<zone>[Zz]|[+-][0-9]{2}:?[0-9]{2})",
}
TOKEN: Final = re.compile("YYYY|MM|DD|HH|mm|ss|SSS|Z|.", re.DOTALL)
RFC3339: Final = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})[Tt ]([0-9]{2}):([0-9]{2}):([0-9]{2})"
    r"(?:\.([0-9]{1,9}))?([Zz]|[+-][0-9]{2}:[0-9]{2})"
)
PLAIN: Final = re.compile("[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")
UNIX: Final = re.compile(r"(-?[0-9]{1,12})(?:\.([0-9]{1,9}))?")
UNIX_MS: Final = re.compile(r"(-?[0-9]{1,16})")
EPOCH: Final = datetime.datetime(1970, 1, 1)  # all arithmetic here is in UTC
FORMAT_CHARS_MAX: Final = 64

Reader = Callable[[Any], str | None]
Zone = Callable[[datetime.datetime], int | None]

HOURS: Final = r"[+-]?[0-9]{1,2}(?::[0-9]{2})?"
POSIX: Final = re.compile(
    rf"(?:[A-Za-z]{{3,6}}|<[A-Za-z0-9+-]{{3,6}}>)(?P<standard>{HOURS})"
    rf"(?:[A-Za-z]{{3,6}}|<[A-Za-z0-9+-]{{3,6}}>)(?P<daylight>{HOURS})?,(?P<begin>[^,]+),(?P<end>[^,]+)"
)
CHANGE: Final = re.compile(rf"M([0-9]{{1,2}})\.([0-9])\.([0-9])(?:/({HOURS}))?")


def offset_minutes(text: str) -> int:
    """Minutes east of UTC of ``Z``, ``+02:00`` or ``+0200``.

    Raises:
        ValueError: Not such an offset.
    """
    if text in ("Z", "z"):
        return 0
    match = re.fullmatch("([+-])([0-9]{2}):?([0-9]{2})", text)
    if match is None or int(match[2]) > 23 or int(match[3]) > 59:
        raise ValueError(
            "a time zone must be an offset like 'Z' or '+02:00', or a rule like EST5EDT,M3.2.0,M11.1.0 "
            "(named zones differ between machines)"
        )
    minutes = 60 * int(match[2]) + int(match[3])
    return -minutes if match[1] == "-" else minutes


def instant(parts: tuple[int, int, int, int, int, int], fraction: str | None, minutes_east: int) -> str | None:
    """The RFC 3339 UTC text of a civil time at an offset; None where it does not exist."""
    try:
        moment = datetime.datetime(*parts)
        if minutes_east:
            moment -= datetime.timedelta(minutes=minutes_east)
    except (ValueError, OverflowError):
        return None
    digits = fraction.rstrip("0") if fraction else ""
    return f"{moment.isoformat()}.{digits}Z" if digits else f"{moment.isoformat()}Z"


def read_rfc3339(value: Any) -> str | None:
    if type(value) is not str:
        return None
    if PLAIN.fullmatch(value) is not None:  # by far the most common form, and the one that is written
        try:
            datetime.datetime.fromisoformat(value[:-1])
        except ValueError:
            return None
        return value
    match = RFC3339.fullmatch(value)
    if match is None:
        return None
    year, month, day, hour, minute, second, fraction, zone = match.groups()
    try:
        east = 0 if zone == "Z" else offset_minutes(zone)
    except ValueError:
        return None
    parts = (int(year), int(month), int(day), int(hour), int(minute), int(second))
    return instant(parts, fraction, east)


def since_epoch(seconds: int, nanoseconds: int) -> str | None:
    try:
        moment = EPOCH + datetime.timedelta(seconds=seconds)
    except OverflowError:
        return None
    digits = f"{nanoseconds:09d}".rstrip("0")
    return f"{moment.isoformat()}.{digits}Z" if digits else f"{moment.isoformat()}Z"


def numeral(value: Any) -> str | None:
    """The decimal text of a number or a numeric string; doubles in their shortest form."""
    if type(value) is str:
        return value
    if type(value) is int or (type(value) is float and abs(value) < SAFE_INTEGER):
        return repr(value).removesuffix(".0")
    return None


def read_unix(value: Any) -> str | None:
    match = UNIX.fullmatch(numeral(value) or "")
    if match is None:
        return None
    nanoseconds = int((match[2] or "").ljust(9, "0"))
    total = abs(int(match[1])) * 10**9 + nanoseconds
    return since_epoch(*divmod(-total if match[1].startswith("-") else total, 10**9))


def read_unix_ms(value: Any) -> str | None:
    match = UNIX_MS.fullmatch(numeral(value) or "")
    if match is None:
        return None
    seconds, milliseconds = divmod(int(match[1]), 1_000)
    return since_epoch(seconds, milliseconds * 10**6)


def epoch_ms(text: str) -> int | None:
    """Milliseconds since 1970 of RFC 3339 text; None if it is not RFC 3339."""
    utc = read_rfc3339(text)
    if utc is None:
        return None
    whole, _, fraction = utc.removesuffix("Z").partition(".")
    since = datetime.datetime.fromisoformat(whole) - EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000 + int(fraction.ljust(3, "0")[:3] or 0)


def zone_rule(text: str) -> Zone:
    """The function from a civil time to minutes east of UTC, None where the time does not exist.

    Args:
        text: A fixed offset or a POSIX TZ rule.

    Raises:
        ValueError: ``text`` is neither.
    """
    match = POSIX.fullmatch(text)
    if match is None:
        fixed = offset_minutes(text)
        return lambda moment: fixed
    standard = -clock_minutes(match["standard"])
    daylight = standard + 60 if match["daylight"] is None else -clock_minutes(match["daylight"])
    begin, end = change_rule(match["begin"]), change_rule(match["end"])
    shift = datetime.timedelta(minutes=daylight - standard)
    if shift <= datetime.timedelta(0):
        raise ValueError("the second zone of a time zone rule must be the one with the clocks put forward")

    def east(moment: datetime.datetime) -> int | None:
        forward, back = begin(moment.year), end(moment.year)
        if forward <= moment < forward + shift:
            return None
        if forward < back:
            return daylight if forward <= moment < back else standard
        return standard if back <= moment < forward else daylight

    return east


def change_rule(text: str) -> Callable[[int], datetime.datetime]:
    """When the clocks change in a year: ``M3.2.0/2``, the second Sunday of March at two, in the time until then."""
    match = CHANGE.fullmatch(text)
    if match is None:
        raise ValueError(
            "a change of the clocks must have the form M3.2.0 or M3.2.0/2: month, week (5 for the last), weekday"
        )
    month, week, weekday = int(match[1]), int(match[2]), int(match[3])
    at = datetime.timedelta(minutes=120 if match[4] is None else clock_minutes(match[4]))
    if not 1 <= month <= 12 or not 1 <= week <= 5 or weekday > 6:
        raise ValueError("a month must be 1 to 12, a week 1 to 5, a weekday 0 (Sunday) to 6")

    def when(year: int) -> datetime.datetime:
        first = datetime.datetime(year, month, 1)
        day = 1 + (weekday - first.isoweekday()) % 7 + 7 * (week - 1)
        while True:
            try:
                return datetime.datetime(year, month, day) + at
            except ValueError:  # the fifth is the last
                day -= 7

    return when


def clock_minutes(text: str) -> int:
    sign = -1 if text.startswith("-") else 1
    hours, _, minutes = text.lstrip("+-").partition(":")
    return sign * (60 * int(hours) + int(minutes or 0))


def pattern_reader(pattern: str, timezone: str | None) -> Reader:
    """A reader for a pattern such as ``YYYY-MM-DD HH:mm:ss``.

    Raises:
        ValueError: The pattern is wrong, or has no offset; the text says what is allowed.
    """
    tokens = TOKEN.findall(pattern)
    known = [token for token in tokens if token in TOKENS]
    if len(pattern) > FORMAT_CHARS_MAX or len(set(known)) != len(known):
        raise ValueError(f"a format may have each token once and at most {FORMAT_CHARS_MAX} characters")
    if not {"YYYY", "MM", "DD"} <= set(known):
        raise ValueError("a format must be 'rfc3339', 'unix' or 'unixMs', or have at least YYYY, MM and DD")
    strays = [token for token in tokens if token not in {*TOKENS, "T"} and token.isalpha()]
    if strays:
        raise ValueError(f"{strays[0]!r} is not a token; known tokens are {', '.join(TOKENS)}")
    if timezone is None and "Z" not in known:
        raise ValueError("the format has no offset (token Z); set 'timezone', such as 'Z' or '+02:00'")
    compiled = re.compile("".join(TOKENS.get(token, re.escape(token)) for token in tokens))
    east_default = zone_rule(timezone or "Z")

    def read_pattern(value: Any) -> str | None:
        match = compiled.fullmatch(value) if type(value) is str else None
        if match is None:
            return None
        named = match.groupdict()
        year, month, day = int(named["year"]), int(named["month"]), int(named["day"])
        hour, minute, second = (int(named.get(name) or 0) for name in ("hour", "minute", "second"))
        try:
            civil = datetime.datetime(year, month, day, hour, minute, second)
            east = offset_minutes(named["zone"]) if "zone" in named else east_default(civil)
        except ValueError:
            return None
        if east is None:
            return None
        return instant((year, month, day, hour, minute, second), named.get("fraction"), east)

    return read_pattern


READERS: Final[dict[str, Reader]] = {"rfc3339": read_rfc3339, "unix": read_unix, "unixMs": read_unix_ms}


def timestamp_reader(formats: tuple[str, ...], timezone: str | None) -> Reader:
    """A reader that tries each format in order and returns RFC 3339 UTC text, or None.

    Raises:
        ValueError: A format or the timezone is wrong.
    """
    if timezone is not None:
        zone_rule(timezone)
    readers = tuple(READERS[name] if name in READERS else pattern_reader(name, timezone) for name in formats)
    if len(readers) == 1:
        return readers[0]

    def read_first(value: Any) -> str | None:
        for reader in readers:
            if (text := reader(value)) is not None:
                return text
        return None

    return read_first

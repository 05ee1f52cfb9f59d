"""The state of rules about a source's past: the *context*, carried from batch to batch under the input root.

It is canonical JSON by kind of rule, by rule, as ``[key, value]`` entries, the least recently updated first. Its size
is bounded: of many keys the oldest are dropped. Only valid events update it, so an event that is invalid, repeated or
late leaves it as it was. It is a function of the batch and the context before, so every agent gets the same, whenever
and however often it runs the batch.
"""

import hashlib
from collections.abc import Callable
from typing import Any, Final, TypeAlias

import orjson

from agents.issues import FOUND_CHARS_MAX, Issue, is_error, issue, json_type
from agents.paths import ABSENT, Segments, pointer, read
from agents.policy import CompiledPolicy
from agents.rules import DuplicateRule, LookBackRule, MemoryRule, MonotonicRule, RateRule, StepRule
from agents.timestamps import epoch_ms
from protocols.canonical import canonical_json, parse_json
from protocols.errors import InvalidJsonError, MalformedError, NotCanonicalizableError
from protocols.limits import CONTEXT_BYTES_MAX

Last: TypeAlias = dict[bytes, tuple[list[Any], Any]]  # canonical key -> key, what is remembered; oldest first
Move: TypeAlias = tuple[Last, bytes, list[Any], Any]  # into which, under which encoded key, the key, what to remember
Look: TypeAlias = Callable[[Any, Any], "tuple[Issue | None, Any]"]
"""From an event's data and what is remembered (None for nothing) to an issue and what to remember (``ABSENT``: no
more than before)."""

EMPTY_CONTEXT: Final = b"{}"
ORDERED: Final = {"type": ["number", "string"]}
TIME: Final = {"type": "timestamp"}
KEPT_BYTES_MAX: Final = 4_096  # of one event in ``memory``
FINGERPRINT_CHARS: Final = 16


class History:
    """The past of a source while one batch is validated."""

    def __init__(self, policy: CompiledPolicy, context: bytes) -> None:
        """Read a context.

        Raises:
            MalformedError: Not the canonical bytes of a context; the sender is at fault.
        """
        past = read_context(context)
        self._watches: list[tuple[LookBackRule, str, Look, Last]] = []
        for rule in policy.watches:
            section, make = KINDS[type(rule)]
            self._watches.append((rule, section, make(rule), past.get(section, {}).get(rule.name, {})))
        self._memory = next(
            ((rule, last) for rule, _, _, last in self._watches if isinstance(rule, MemoryRule)), None
        )

    def __bool__(self) -> bool:
        return bool(self._watches)

    def last(self, data: Any) -> Any:
        """What ``memory`` keeps of the event before with the same key; absent if there was none."""
        if self._memory is None:
            return ABSENT
        rule, known = self._memory
        found = known.get(encoded_key(key_of(rule, data)))
        return ABSENT if found is None else found[1]["kept"]

    def check(self, data: Any, issues: list[Issue]) -> None:
        """Add the issues of rules about the past; update the context if the event has no error."""
        moves = self.look(data, issues)
        if not any(map(is_error, issues)):
            self.keep(moves)

    def look(self, data: Any, issues: list[Issue]) -> list[Move]:
        """Add the issues of rules about the past; what the event changes, if it has no error."""
        moves: list[Move] = []
        for rule, _, look, last in self._watches:
            key = key_of(rule, data)
            encoded = encoded_key(key)
            known = last.get(encoded)
            found, move = look(data, None if known is None else known[1])
            if found is not None and not any(seen["path"] == found["path"] for seen in issues if is_error(seen)):
                issues.append(found)
            if move is not ABSENT:
                moves.append((last, encoded, key, move))
        return moves

    def keep(self, moves: list[Move]) -> None:
        for last, encoded, key, move in moves:
            last.pop(encoded, None)  # to the end: the order of the entries is their age
            last[encoded] = (key, move)

    def entries(self, number: int) -> Last:
        """What is remembered for a rule about the past, by its place in the policy's ``watches``."""
        return self._watches[number][3]

    def context(self) -> bytes:
        """The context after the batch: canonical, within its bound, the oldest keys forgotten first."""
        if not self._watches:
            return EMPTY_CONTEXT
        share = CONTEXT_BYTES_MAX // len(self._watches)
        sections: dict[str, dict[str, Any]] = {}
        for rule, section, _, last in self._watches:
            kept = newest(last, share - len(canonical_json(rule.name)) - 64)
            if kept:
                sections.setdefault(section, {})[rule.name] = kept
        return canonical_json(sections) if sections else EMPTY_CONTEXT


# --- the kinds ---------------------------------------------------------------------------------------------------


def monotonic(rule: MonotonicRule) -> Look:
    place = pointer(rule.field)

    def look(data: Any, last: Any) -> tuple[Issue | None, Any]:
        value = read(data, rule.field)
        if value is None or value is ABSENT:
            return None, ABSENT
        expected = refusal(rule, last, value)
        if expected is None:
            return None, value
        return issue("monotonicity", place, expected, value, rule.severity), ABSENT

    return look


def step(rule: StepRule) -> Look:
    place = pointer(rule.field)

    def look(data: Any, last: Any) -> tuple[Issue | None, Any]:
        value = read(data, rule.field)
        if type(value) is not int and type(value) is not float:
            return None, ABSENT
        at_ms = 0 if rule.time is None else time_of(data, rule.time)
        if at_ms is None:
            return None, ABSENT
        if last is None:
            return None, [value, at_ms]
        before, before_ms = last
        if at_ms < before_ms:  # late: the later event was compared already
            return None, ABSENT
        far = rule.per_ms is not None and at_ms - before_ms > rule.per_ms
        if far or abs(float(value) - float(before)) <= rule.maximum:
            return None, [value, at_ms]
        return issue("step", place, {**rule.expected, "last": before}, value, rule.severity), [value, at_ms]

    return look


def rate(rule: RateRule) -> Look:
    place = pointer(rule.time)

    def look(data: Any, last: Any) -> tuple[Issue | None, Any]:
        at_ms = time_of(data, rule.time)
        if at_ms is None:
            return None, ABSENT
        times = [] if last is None else last
        within = sum(1 for each in times if abs(at_ms - each) < rule.window_ms)
        found = None
        if within >= rule.count:
            found = issue("rate", place, rule.expected, within + 1, rule.severity)
        newest_ms = max([at_ms, *times])
        kept = sorted(each for each in [*times, at_ms] if newest_ms - each < rule.window_ms)
        return found, kept[-rule.count - 1 :]

    return look


def duplicate(rule: DuplicateRule) -> Look:
    place = pointer(rule.fields[0])

    def look(data: Any, last: Any) -> tuple[Issue | None, Any]:
        values = [read(data, field) for field in rule.fields]
        if any(value is ABSENT for value in values):
            return None, ABSENT
        at_ms = 0 if rule.time is None else time_of(data, rule.time)
        if at_ms is None:
            return None, ABSENT
        print_of = hashlib.sha256(canonical_json(values)).hexdigest()[:FINGERPRINT_CHARS]
        known = [] if last is None else last
        for each, then_ms in known:
            if each == print_of and (not rule.window_ms or abs(at_ms - then_ms) < rule.window_ms):
                return issue("duplicate", place, rule.expected, values[0], rule.severity), ABSENT
        kept = [*known, [print_of, at_ms]]
        if rule.window_ms:
            newest_ms = max(each[1] for each in kept)
            kept = [each for each in kept if newest_ms - each[1] < rule.window_ms]
        return None, kept[-rule.events :]

    return look


def memory(rule: MemoryRule) -> Look:
    def look(data: Any, last: Any) -> tuple[Issue | None, Any]:
        at_ms = 0 if rule.time is None else time_of(data, rule.time)
        if at_ms is None or (last is not None and at_ms < last["at"]):
            return None, ABSENT
        kept: dict[str, Any] = {}
        for path in rule.keep:
            value = read(data, path)
            if value is not ABSENT:
                into = kept
                for name in path[:-1]:
                    into = into.setdefault(name, {})
                into[path[-1]] = value
        if len(canonical_json(kept)) > KEPT_BYTES_MAX:
            kept = {}
        return None, {"at": at_ms, "kept": kept}

    return look


def refusal(rule: MonotonicRule, last: Any, value: Any) -> dict[str, Any] | None:
    """What is expected instead of ``value``; None where it may follow ``last``."""
    kind = json_type(value)
    if kind not in ("number", "string"):
        return ORDERED
    if kind == "string" and len(value) > FOUND_CHARS_MAX:
        return {"maxLength": FOUND_CHARS_MAX}
    if last is None:
        return None
    if json_type(last) != kind:
        return {"type": json_type(last)}
    before, now = last, value
    if rule.is_timestamp and kind == "string":
        # 00.5Z sorts before 00Z as text; without the Z the longer fraction is the later time.
        before, now = last.removesuffix("Z"), value.removesuffix("Z")
    if now > before or (now == before and not rule.strict):
        return None
    return {"greaterThan": last} if rule.strict else {"atLeast": last}


def time_of(data: Any, place: Segments) -> int | None:
    """Milliseconds since 1970, of a timestamp or an integer."""
    value = read(data, place)
    if type(value) is int:
        return value
    return epoch_ms(value) if type(value) is str else None


# --- keys and bytes ----------------------------------------------------------------------------------------------


def key_of(rule: LookBackRule, data: Any) -> list[Any]:
    return [key_part(read(data, part)) for part in rule.key]


def key_part(value: Any) -> Any:
    """A key's value as the context keeps it: short scalars as they are, others by their hash."""
    if type(value) is str and len(value) <= FOUND_CHARS_MAX:
        return value
    if value is ABSENT:
        return None
    if isinstance(value, (str, list, dict)):
        return {"sha256": hashlib.sha256(canonical_json(value)).hexdigest()}
    return value


def encoded_key(key: list[Any]) -> bytes:
    """Canonical JSON of a key. Most keys are plain strings, of which any JSON encoder makes the same."""
    for part in key:
        if type(part) is not str:
            return canonical_json(key)
    return orjson.dumps(key)


def newest(last: Last, bytes_max: int) -> list[list[Any]]:
    """The newest entries that fit, oldest first."""
    entries: list[list[Any]] = []
    for encoded, (key, value) in reversed(last.items()):
        bytes_max -= len(encoded) + len(canonical_json(value)) + 4  # brackets and commas
        if bytes_max < 0:
            break
        entries.append([key, value])
    return entries[::-1]


def read_context(context: bytes) -> dict[str, dict[str, Last]]:
    """By kind of rule, by rule."""
    if context == EMPTY_CONTEXT:
        return {}
    if len(context) > CONTEXT_BYTES_MAX:
        raise MalformedError(f"a context may have at most {CONTEXT_BYTES_MAX} bytes, this one has {len(context)}")
    try:
        value: Any = parse_json(context)
        canonical = canonical_json(value) == context
    except (InvalidJsonError, NotCanonicalizableError) as error:
        raise MalformedError(f"the context is not valid JSON: {error}") from error
    if not canonical or not isinstance(value, dict) or not set(value) <= set(FORMS):
        raise MalformedError(f"the context must be a canonical object with keys of {', '.join(FORMS)}")
    return {section: read_section(value[section], FORMS[section]) for section in value}


def read_section(value: Any, fits: Callable[[Any], bool]) -> dict[str, Last]:
    if not isinstance(value, dict):
        raise MalformedError("a section of the context must be an object")
    for entries in value.values():
        if not isinstance(entries, list) or not all(
            isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], list) and fits(entry[1])
            for entry in entries
        ):
            raise MalformedError("the entries of the context must be [key, value] pairs of their kind")
    return {name: {encoded_key(key): (key, last) for key, last in entries} for name, entries in value.items()}


def is_number(value: Any) -> bool:
    return json_type(value) == "number"


def is_time(value: Any) -> bool:
    return type(value) is int


KINDS: Final[dict[type, tuple[str, Callable[[Any], Look]]]] = {
    MonotonicRule: ("monotonic", monotonic),
    StepRule: ("steps", step),
    RateRule: ("rates", rate),
    DuplicateRule: ("duplicates", duplicate),
    MemoryRule: ("memory", memory),
}
FORMS: Final[dict[str, Callable[[Any], bool]]] = {
    "monotonic": lambda value: json_type(value) in ("number", "string"),
    "steps": lambda value: isinstance(value, list) and len(value) == 2 and is_number(value[0]) and is_time(value[1]),
    "rates": lambda value: isinstance(value, list) and all(map(is_time, value)),
    "duplicates": lambda value: (
        isinstance(value, list)
        and all(
            isinstance(each, list) and len(each) == 2 and isinstance(each[0], str) and is_time(each[1])
            for each in value
        )
    ),
    "memory": lambda value: (
        isinstance(value, dict)
        and set(value) == {"at", "kept"}
        and is_time(value["at"])
        and isinstance(value["kept"], dict)
    ),
}

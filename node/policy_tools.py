"""``overlay-node policy``: check a policy, test it on events, compare two policies.

These commands run in a process of their own, beside no node, so they load an operator's functions themselves.
"""

import csv
import gzip
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from agents.policy import policy_document, policy_hash
from node.worker.plugins import catalogue
from node.worker.policy_files import read_policy
from node.worker.policy_trials import Tried, tried_document, try_policy
from protocols.errors import ClientFault, InvalidPolicyError, OverlayError
from protocols.json_errors import json_flaw

OK, FAILED, USAGE = 0, 1, 2
COLOURS: Final = {"valid": "green", "invalid": "red", "rejected": "magenta", "warning": "yellow", "info": "cyan"}
FORMATS: Final = "write JSON lines, a JSON array, an object with 'events', or CSV (.csv), as they are or gzip (.gz)"
VALUE_CHARS_MAX: Final = 60
LINE_CHARS_MAX: Final = 1_000


class UnreadableFileError(ClientFault):
    """A file that cannot be read, or has the wrong contents."""

    code = "unreadable"


def load(file: Path) -> bytes:
    """The canonical document of a policy file.

    Raises:
        UnreadableFileError, InvalidPolicyError, MissingFunctionError: The text has the place and the reason.
    """
    try:
        value = read_policy(file.read_bytes(), yaml=file.suffix in (".yaml", ".yml"))
    except OSError as error:
        raise UnreadableFileError(f"{file}: {error.strerror}") from error
    named = isinstance(value, dict) and "functions" in value
    return policy_document(value, catalogue() if named else ())


def read_events(file: Path) -> list[Any]:
    """The events of a file, as they would be posted.

    Raises:
        UnreadableFileError: It has none, or is not in a known format.
    """
    try:
        packed = file.read_bytes()
        text = (gzip.decompress(packed) if file.suffix == ".gz" else packed).decode("utf-8-sig")
        if Path(file.name.removesuffix(".gz")).suffix == ".csv":
            events: Any = [_of_row(number, row) for number, row in enumerate(csv.DictReader(text.splitlines()), 1)]
        else:
            events = _read_json(text)
    except OSError as error:
        raise UnreadableFileError(f"{file}: {error.strerror or error}") from error
    except ValueError as error:
        raise UnreadableFileError(f"{file}: {error}; {FORMATS}") from error
    if isinstance(events, dict):
        events = events.get("events", [events])
    if not isinstance(events, list) or not events:
        raise UnreadableFileError(f"{file}: has no events; {FORMATS}")
    return [_whole(number, event) for number, event in enumerate(events, 1)]


def _read_json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return [_read_line(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]


def _read_line(number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        raise ValueError(f"line {number} is not JSON: {json_flaw(str(error))}") from None


def _of_row(number: int, row: dict[str, str]) -> dict[str, Any]:
    return {"externalId": f"row {number}", "eventType": "row", "data": row}


def _whole(number: int, event: Any) -> Any:
    """Complete an event: an object without an event's members is its data."""
    if isinstance(event, dict) and "data" in event and "eventType" in event:
        return event
    return {"externalId": f"line {number}", "eventType": "event", "data": event}


def check(file: Path, *, canonical: bool) -> int:
    """``policy check``: exit code 0 if the policy is valid, 1 with the place and the reason if not."""
    try:
        document = load(file)
    except OverlayError as error:
        return _report(file, error)
    if canonical:
        print(document.decode())
        return OK
    sections = [name for name in json.loads(document) if name != "version"]
    _console().print(Text(f"{file}: valid", style="green"))
    _console().print(f"hash      {policy_hash(document)}\nsize      {len(document)} bytes, canonical")
    _console().print(f"sections  {', '.join(sections) or 'none: events are kept as they are'}")
    return OK


def test(file: Path, sample: Path, *, show_all: bool, limit: int, as_json: bool) -> int:
    """``policy test``: show each event before and after, its verdict and the rules that decided. Exit code 0."""
    try:
        document, events = load(file), read_events(sample)
        tried, _ = try_policy(document, events)
    except OverlayError as error:
        return _report(file, error)
    if as_json:
        print(json.dumps([tried_document(each) for each in tried], ensure_ascii=False))
        return OK
    console = _console()
    shown = [each for each in tried if show_all or each.issues or each.level]
    for each in shown[:limit]:
        _show(console, each)
    if len(shown) > limit:
        console.print(f"... and {len(shown) - limit} more (--limit)")
    _totals(console, tried)
    return OK


def diff(before: Path, after: Path, sample: Path, *, limit: int) -> int:
    """``policy diff``: exit code 0 if every event has the same result under both policies, 1 if some differ."""
    try:
        old, new, events = load(before), load(after), read_events(sample)
        pairs = list(zip(try_policy(old, events)[0], try_policy(new, events)[0], strict=True))
    except OverlayError as error:
        return _report(after, error)
    console = _console()
    changed = [(a, b) for a, b in pairs if _outcome(a) != _outcome(b)]
    for a, b in changed[:limit]:
        console.print(_head(a.external_id or f"event {a.index}", a.status) + Text(" -> ") + _status(b.status))
        for line in _changes(a, b):
            console.print(line)
    if len(changed) > limit:
        console.print(f"... and {len(changed) - limit} more (--limit)")
    turned = Counter((a.status, b.status) for a, b in changed if a.status != b.status)
    console.print(
        f"{len(changed)} of {len(pairs)} events differ"
        + "".join(f"; {count} {was} -> {now}" for (was, now), count in sorted(turned.items()))
    )
    return FAILED if changed else OK


def _outcome(each: Tried) -> tuple[Any, ...]:
    return each.status, each.after, [_key(issue) for issue in each.issues], each.level


def _changes(a: Tried, b: Tried) -> Iterator[Text]:
    if a.after != b.after:
        for path, was, now in _differences(a.after, b.after, ""):
            yield Text(f"  {path or '(data)'}: {_value(was)} -> {_value(now)}", style="cyan")
    if a.level != b.level:
        yield Text(f"  level: {a.level or 'as the source'} -> {b.level or 'as the source'}", style="cyan")
    old, new = [_key(issue) for issue in a.issues], [_key(issue) for issue in b.issues]
    for issue in a.issues:
        if _key(issue) not in new:
            yield Text("  - ", style="red") + _issue(issue)
    for issue in b.issues:
        if _key(issue) not in old:
            yield Text("  + ", style="green") + _issue(issue)


def _differences(was: Any, now: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(was, dict) and isinstance(now, dict):
        for name in sorted({*was, *now}):
            if was.get(name, ...) != now.get(name, ...):
                yield from _differences(was.get(name, ...), now.get(name, ...), f"{path}/{name}")
    else:
        yield path, was, now


def _key(issue: dict[str, Any]) -> tuple[str, ...]:
    """Which rule decided where. How the rule words what it expects is not compared."""
    return str(issue["rule"]), str(issue["path"]), str(issue["severity"])


def _show(console: Console, each: Tried) -> None:
    console.print(_head(each.external_id or f"event {each.index}", each.status))
    for name, value in (("before", each.before), ("after ", each.after)):
        console.print(Text(f"  {name}  {json.dumps(value, ensure_ascii=False)[:LINE_CHARS_MAX]}", style="dim"))
    if each.level:
        console.print(Text(f"  asks for level {each.level}", style="cyan"))
    for issue in each.issues:
        console.print(Text("  ") + _issue(issue))


def _totals(console: Console, tried: Sequence[Tried]) -> None:
    statuses = Counter(each.status for each in tried)
    totals = ", ".join(
        f"{statuses[status]} {status}" for status in ("valid", "invalid", "rejected") if statuses[status]
    )
    console.print(f"{len(tried)} events: {totals}")
    counts = Counter((issue["rule"], issue["path"], issue["severity"]) for each in tried for issue in each.issues)
    if counts:
        table = Table("rule", "path", "severity", "events", title="Issues by rule", title_justify="left")
        for (rule, path, severity), count in sorted(counts.items(), key=lambda entry: (-entry[1], entry[0])):
            table.add_row(rule, path or "(event)", severity, f"{count:,}")
        console.print(table)


def _head(name: str, status: str) -> Text:
    return Text(name, style="bold") + Text("  ") + _status(status)


def _status(status: str) -> Text:
    return Text(status, style=COLOURS[status])


def _issue(issue: dict[str, Any]) -> Text:
    severity = str(issue.get("severity", "error"))
    line = Text(f"{issue['rule']}", style=COLOURS.get(severity, "red"))
    line.append(
        f" at {issue['path'] or '(event)'}: found {_value(issue['found'])}, expected {_value(issue['expected'])}"
    )
    return line


def _value(value: Any) -> str:
    if value is ...:
        return "absent"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= VALUE_CHARS_MAX else f"{text[:VALUE_CHARS_MAX]}..."


def _report(file: Path, error: OverlayError) -> int:
    if isinstance(error, UnreadableFileError):  # its text names the file, which may be another
        print(f"overlay-node: {error}", file=sys.stderr)
        return USAGE
    path = error.fields.get("path") if isinstance(error, InvalidPolicyError) else None
    print(f"overlay-node: {file}{f' ({path})' if path else ''}: {error}", file=sys.stderr)
    return FAILED


def _console() -> Console:
    return Console(highlight=False, soft_wrap=True)

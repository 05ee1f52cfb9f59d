"""An event's certificate as a page: what the document states, and how to check it. The page has no script.

Names and values come from the sender of the event: the template escapes them, and what a reader would not see
(control characters, reversed text) is shown as an escape.
"""

import shlex
from collections.abc import Mapping
from functools import cache
from typing import Any, Final, NamedTuple

import orjson
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from node.api.static_files import STATIC, static_text

Document = Mapping[str, Any]


class Fact(NamedTuple):
    """A line of the page; ids are set in one width, to be compared and copied."""

    label: str
    value: str
    is_id: bool = False


PAGE_POLICY: Final = (
    "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
JSON_CHARS_MAX: Final = 20_000  # more of the data is read in the document
OBJECTS: Final = {
    "payload": "Batch records",
    "certificate": "Batch certificate",
    "policy": "Source policy",
}


def render(document: Document, *, objects: Document, operators: Mapping[str, str]) -> bytes:
    """The page.

    Args:
        document: A certificate document.
        objects: UHRP URLs of the batch's objects, by kind.
        operators: What signers advertise as their operators, by identity key in hex.
    """
    leaf, statement = document["event"], document["statement"]
    certified = document["status"] == "certified"
    page = _template().render(
        verdict="Certified" if certified else "Rejected",
        status="certified" if certified else "rejected",
        name=_name(leaf),
        network=document["network"],
        json_url=f"/overlay/events/{leaf['eventId']}/certificate?format=json",
        issues=[_issue(issue) for issue in leaf["issues"]],
        event=_event(leaf),
        data=_pretty(document["data"]),
        record=_pretty(document["record"]) if "record" in document else "",
        agreement=_agreement(document, statement),
        signers=[_signer(entry, document, operators) for entry in document["signatures"]],
        objects=[(OBJECTS[kind], url) for kind, url in objects.items()],
        command=_command(document),
        script=static_text("verify_certificate.mjs").decode(),
    )
    return page.encode()


@cache
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(STATIC),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("certificate.html")


def _visible(value: Any) -> Any:
    """Text without what a reader would not see; what the template itself made is left as it is."""
    if type(value) is not str or value.isprintable():
        return value
    return "".join(each if each.isprintable() or each == "\n" else ascii(each)[1:-1] for each in value)


def _name(leaf: Document) -> str:
    return str(leaf["externalId"] if leaf.get("externalId") is not None else leaf["eventId"])


def _event(leaf: Document) -> list[Fact]:
    return [
        Fact("Type", leaf["eventType"]),
        Fact("Time", leaf["timestamp"] if leaf["timestamp"] is not None else "none given"),
        Fact("Event", leaf["eventId"], is_id=True),
        Fact("Version", leaf["versionId"], is_id=True),
        Fact("Content hash", leaf["contentHash"], is_id=True),
    ]


def _agreement(document: Document, statement: Document) -> list[Fact]:
    place, events = document["proof"]["index"] + 1, statement["events"]
    return [
        Fact("Level", document["level"]),
        Fact("Quorum", f"{len(document['signatures'])} signed, {document['quorum']} needed"),
        Fact("Source", statement["sourceId"]),
        Fact(
            "Place in batch", f"{place} of {events}; {statement['valid']} certified, {statement['invalid']} rejected"
        ),
        Fact("Batch", document["batchId"], is_id=True),
        Fact("Policy", document["policyHash"], is_id=True),
        Fact("Merkle root", statement["outputRoot"], is_id=True),
    ]


def _issue(issue: Document) -> dict[str, str]:
    shown = {name: _compact(issue.get(name)) for name in ("found", "expected")}
    return {"rule": str(issue.get("rule")), "path": str(issue.get("path")) or "the event itself", **shown}


def _signer(entry: Document, document: Document, operators: Mapping[str, str]) -> dict[str, Any]:
    identity = entry["identityKey"]
    steps = [each["step"] for each in document["evidence"] if each["identityKey"] == identity]
    return {
        "identity": identity,
        "operator": operators.get(identity, ""),
        "steps": [*steps, "certification"],
        "issued": entry["issuedAt"],
        "build": entry["build"],
    }


def _command(document: Document) -> str:
    trust = [f"--trust {entry['identityKey']}" for entry in document["signatures"]]
    first = f"overlay-node verify certificate.json --network {shlex.quote(document['network'])}"
    return " \\\n  ".join([first, *trust])


def _compact(value: Any) -> str:
    return _shortened(orjson.dumps(value).decode())


def _pretty(value: Any) -> str:
    return _shortened(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode())


def _shortened(text: str) -> str:
    return text if len(text) <= JSON_CHARS_MAX else f"{text[:JSON_CHARS_MAX]}\n... the certificate has all of it"

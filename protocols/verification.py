"""Checks a certificate or a receipt offline: with the document alone, no node, no network, no database.

The bytes that were signed stand in the document. They are checked first; then the document is made anew from
them and compared with the one at hand, so that every member of it is covered, and a change has a place.
"""

from collections.abc import Iterator
from itertools import islice
from typing import Any, TypeVar

import attrs

from protocols import codec, envelope
from protocols.canonical import canonical_json, parse_json, sha256
from protocols.certificate import (
    CERTIFICATE_TYPE,
    RECEIPT_TYPE,
    agent_id,
    certificate_document,
    certification_problem,
    evidence_problem,
    proof_document,
    quorum_problem,
    receipt_document,
)
from protocols.errors import OverlayError
from protocols.identifiers import event_id
from protocols.limits import SIGNERS_MAX
from protocols.merkle import leaf_hash, root_from_path, root_of_leaves
from protocols.messages import Certification, Evidence, Manifest, Message, QuorumCertificate, Signed, Statement

M = TypeVar("M", bound=Message)

DOCUMENT_BYTES_MAX = 8 * 1024 * 1024
DIFFERENCES_MAX = 100  # as many are listed: who changed the whole document need not read it back
LINE_CHARS_MAX = 1_000
UNTRUSTED = (
    "The signatures prove which keys signed, not whose keys they are. Compare the identity keys above with those "
    "your operators published, or name the ones you trust (--trust KEY)."
)


@attrs.frozen(kw_only=True)
class CheckResult:
    """The result for one part of the document: what is wrong with it, empty if nothing is."""

    part: str
    problem: str = ""

    @property
    def ok(self) -> bool:
        return not self.problem


@attrs.frozen(kw_only=True)
class Report:
    """All results, with the facts that hold if every one of them is ok."""

    kind: str
    checks: tuple[CheckResult, ...]
    facts: tuple[tuple[str, str], ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return bool(self.checks) and all(check.ok for check in self.checks)

    @property
    def failed(self) -> tuple[str, ...]:
        """The parts that do not hold."""
        return tuple(check.part for check in self.checks if not check.ok)


class _Malformed(Exception):
    def __init__(self, part: str, problem: str) -> None:
        super().__init__(problem)
        self.check = CheckResult(part=part, problem=problem)


def verify_document(data: bytes, *, network: str | None = None, trusted: frozenset[bytes] | None = None) -> Report:
    """Check a certificate or receipt. Never raises: what cannot be read is a check that fails.

    Args:
        network: The network it must be of; None takes any.
        trusted: Identity keys (33 bytes) of whom the reader trusts: the quorum is then counted among them.
    """
    if len(data) > DOCUMENT_BYTES_MAX:
        return _failure("document", f"larger than {DOCUMENT_BYTES_MAX} bytes")
    try:
        document = parse_json(data)
    except OverlayError as error:
        return _failure("document", str(error))
    kind = document.get("type") if isinstance(document, dict) else None
    if not isinstance(document, dict) or kind not in (CERTIFICATE_TYPE, RECEIPT_TYPE):
        return _failure("type", f"neither {CERTIFICATE_TYPE} nor {RECEIPT_TYPE}")
    check = _check_certificate if kind == CERTIFICATE_TYPE else _check_receipt
    try:
        return check(document, network, trusted)
    except _Malformed as found:
        return Report(kind=str(kind), checks=(found.check,))


def render(report: Report) -> str:
    """The report for a person, one line a check.

    Names and values come from the document, so whoever wrote it chose them: what a terminal would obey or a
    reader not see (control characters, line ends, reversed text) is shown as an escape.
    """
    lines = [f"{report.kind}: {'VERIFIED' if report.ok else 'NOT VALID'}"]
    lines += [
        f"  {'ok  ' if check.ok else 'FAIL'}  {check.part}{check.problem and ': ' + check.problem}"
        for check in report.checks
    ]
    if report.ok:
        width = max((len(name) for name, _ in report.facts), default=0)
        lines += [f"  {name:<{width}}  {value}" for name, value in report.facts]
        lines += [f"  note: {warning}" for warning in report.warnings]
    return "\n".join(_printable(line) for line in lines)


def _printable(line: str) -> str:
    line = line if len(line) <= LINE_CHARS_MAX else f"{line[:LINE_CHARS_MAX]}..."
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in line)


def _failure(part: str, problem: str) -> Report:
    return Report(kind="document", checks=(CheckResult(part=part, problem=problem),))


# --- certificates -------------------------------------------------------------------------------------------


def _check_certificate(document: dict[str, Any], network: str | None, trusted: frozenset[bytes] | None) -> Report:
    statement = _decode(Statement, _member(document, "statement", dict), "statement")
    signatures = _signed_list(Certification, document, "signatures", SIGNERS_MAX)
    evidence = _signed_list(Evidence, document, "evidence", 2 * SIGNERS_MAX)
    certificate = QuorumCertificate(statement=statement, certifications=tuple(signatures), evidence=tuple(evidence))
    checks = [
        *_check_signatures("signatures", signatures),
        *_check_signatures("evidence", evidence),
        *_check_said("signatures", [certification_problem(each.message, statement) for each in signatures]),
        *_check_said("evidence", [evidence_problem(each.message, statement) for each in evidence]),
        CheckResult(part="quorum", problem=quorum_problem(certificate)),
        *_check_event(document, statement),
        *_check_copy(document, certificate),
        _check_network(statement.network, network),
    ]
    if trusted is not None:
        checks.append(_check_trust({signed.signer for signed in signatures}, trusted, statement.quorum))
    return Report(
        kind=CERTIFICATE_TYPE,
        checks=tuple(checks),
        facts=_certificate_facts(document, certificate),
        warnings=() if trusted is not None else (UNTRUSTED,),
    )


def _check_event(document: dict[str, Any], statement: Statement) -> Iterator[CheckResult]:
    """The chain from the data to the statement: data, event, proof, root."""
    leaf = _member(document, "event", dict)
    hashed = _hex(_member(document, "proof", dict), "leafHash", "proof", 32)
    yield CheckResult(part="data", problem=_data_problem(document, leaf))
    if "record" in document:
        same = leaf_hash(_canonical(document["record"], "record")).hex() == leaf.get("recordHash")
        yield CheckResult(part="record", problem="" if same else "its hash is not the event's recordHash")
    yield CheckResult(part="event", problem=_event_problem(document, leaf, statement, hashed))
    yield _check_proof(document["proof"], statement.events, statement.output_root)


def _check_proof(proof: dict[str, Any], size: int, root: bytes) -> CheckResult:
    """Whether a leaf hash leads to a root that was signed, in a tree of a size that was signed."""
    index, path = proof.get("index"), proof.get("path")
    if type(index) is not int or type(proof.get("size")) is not int or not isinstance(path, list):
        raise _Malformed("proof", "index and size must be integers, path an array")
    siblings = [_hex({"path": each}, "path", "proof", 32) for each in path]
    try:
        found = root_from_path(_hex(proof, "leafHash", "proof", 32), index, size, siblings)
    except OverlayError as error:
        return CheckResult(part="proof", problem=str(error))
    return CheckResult(part="proof", problem="" if found == root else "it leads to another root")


def _data_problem(document: dict[str, Any], leaf: dict[str, Any]) -> str:
    if "data" not in document:
        return "missing"
    content = "sha256:" + sha256(_canonical(document["data"], "data")).hex()
    return "" if content == leaf.get("contentHash") else "its hash is not the event's contentHash"


def _event_problem(document: dict[str, Any], leaf: dict[str, Any], statement: Statement, hashed: bytes) -> str:
    if leaf_hash(_canonical(leaf, "event")) != hashed:
        return "its hash is not the proof's leafHash"
    external = leaf.get("externalId")
    if isinstance(external, str) and event_id(statement.network, statement.source_id, external) != leaf.get(
        "eventId"
    ):
        return "the eventId is not of this network, source and externalId"
    return ""


def _check_copy(document: dict[str, Any], certificate: QuorumCertificate) -> list[CheckResult]:
    """The document made anew must be the document at hand, member by member."""
    proof = document["proof"]
    again = certificate_document(
        certificate,
        leaf=document["event"],
        data=document.get("data"),
        record=document.get("record"),
        index=proof["index"],
        path=[bytes.fromhex(each) for each in proof["path"]],
    )
    return _compare(again, document)


def _certificate_facts(document: dict[str, Any], certificate: QuorumCertificate) -> tuple[tuple[str, str], ...]:
    statement, leaf = certificate.statement, document["event"]
    facts = [
        ("event", f"{leaf.get('eventId')}"),
        ("external id", f"{leaf.get('externalId')}"),
        ("verdict", f"{document.get('status')} at level {statement.level.word}"),
        ("network", statement.network),
        ("source", statement.source_id),
        ("policy", statement.policy_hash.hex()),
        ("quorum", f"{len(certificate.certifications)} signatures, {statement.quorum} needed"),
    ]
    facts += [("signed by", f"{each.signer.hex()} ({each.message.build})") for each in certificate.certifications]
    issues = leaf.get("issues")
    for issue in issues if isinstance(issues, list) else []:
        if isinstance(issue, dict):
            facts.append(
                (
                    "issue",
                    f"{issue.get('rule')} at {issue.get('path')}: found {issue.get('found')}, "
                    f"expected {issue.get('expected')}",
                )
            )
    return tuple(facts)


# --- receipts -----------------------------------------------------------------------------------------------


def _check_receipt(document: dict[str, Any], network: str | None, trusted: frozenset[bytes] | None) -> Report:
    manifest = _signed(Manifest, _member(document, "coordinator", dict), "coordinator")
    statement_made = manifest.message
    hashes = None
    checks = _check_signatures("coordinator", [manifest])
    same = manifest.signer == statement_made.coordinator
    checks.append(CheckResult(part="coordinator", problem="" if same else "not signed by the coordinator it names"))
    if "recordHashes" in document:
        hashes = [_hex({"h": each}, "h", "recordHashes", 32) for each in _member(document, "recordHashes", list)]
        right = len(hashes) == statement_made.events and root_of_leaves(hashes) == statement_made.input_root
        checks.append(CheckResult(part="recordHashes", problem="" if right else "they do not give the inputRoot"))
    again = receipt_document(manifest, hashes)
    if "proof" in document:
        proof = _member(document, "proof", dict)
        checks.append(_check_proof(proof, statement_made.events, statement_made.input_root))
        siblings = [bytes.fromhex(each) for each in proof["path"]]
        again["proof"] = proof_document(
            bytes.fromhex(proof["leafHash"]), proof["index"], statement_made.events, siblings
        )
    checks += _compare(again, document)
    checks.append(_check_network(statement_made.network, network))
    if trusted is not None:
        checks.append(_check_trust({manifest.signer}, trusted, 1))
    facts = (
        ("batch", statement_made.batch_id),
        ("source", statement_made.source_id),
        ("events", str(statement_made.events)),
        ("durable since", str(document.get("receivedAt"))),
        ("durability", statement_made.durability),
        ("signed by", f"{manifest.signer.hex()} ({agent_id(manifest.signer)})"),
    )
    return Report(
        kind=RECEIPT_TYPE, checks=tuple(checks), facts=facts, warnings=() if trusted is not None else (UNTRUSTED,)
    )


# --- parts --------------------------------------------------------------------------------------------------


def _check_signatures(part: str, signed: list[Signed[M]]) -> list[CheckResult]:
    checks = []
    for at, each in enumerate(signed):
        good = envelope.is_valid(each)
        name = part if part == "coordinator" else f"{part}[{at}]"
        checks.append(
            CheckResult(part=name, problem="" if good else "the signature is not of these bytes by this key")
        )
    return checks


def _check_said(part: str, problems: list[str]) -> list[CheckResult]:
    """Checks for the signed messages that speak of something else than the statement."""
    return [CheckResult(part=f"{part}[{at}]", problem=problem) for at, problem in enumerate(problems) if problem]


def _check_network(found: str, wanted: str | None) -> CheckResult:
    problem = "" if wanted is None or wanted == found else f"it is of {found!r}, not of {wanted!r}"
    return CheckResult(part="network", problem=problem)


def _check_trust(signers: set[bytes], trusted: frozenset[bytes], quorum: int) -> CheckResult:
    known = len(signers & trusted)
    problem = "" if known >= quorum else f"{known} of the {quorum} needed signers are trusted"
    return CheckResult(part="trust", problem=problem)


def _compare(again: dict[str, Any], document: dict[str, Any]) -> list[CheckResult]:
    """Checks for the members that differ, or one that says none does."""
    found = [
        CheckResult(part=path, problem=problem)
        for path, problem in islice(_differences(again, document, ""), DIFFERENCES_MAX)
    ]
    return found or [CheckResult(part="readable fields")]


def _differences(expected: Any, found: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(expected, dict) and isinstance(found, dict):
        for name in sorted(expected.keys() | found.keys()):
            place = f"{path}.{name}" if path else name
            if name not in found:
                yield place, "missing"
            elif name not in expected:
                yield place, "unknown member"
            else:
                yield from _differences(expected[name], found[name], place)
    elif isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        for at, (one, other) in enumerate(zip(expected, found, strict=True)):
            yield from _differences(one, other, f"{path}[{at}]")
    elif _as_json(expected) != _as_json(found):
        yield path, "not what the signed bytes say"


def _as_json(value: Any) -> bytes:
    """Equal exactly when the JSON is: 1 and true differ, 1 and 1.0 do not."""
    return _canonical(value, "document")


def _canonical(value: Any, part: str) -> bytes:
    try:
        return canonical_json(value)
    except OverlayError as error:
        raise _Malformed(part, str(error)) from error


def _member(document: dict[str, Any], name: str, kind: type) -> Any:
    value = document.get(name)
    if not isinstance(value, kind):
        raise _Malformed(name, f"must be {'an object' if kind is dict else 'an array'}")
    return value


def _hex(entry: dict[str, Any], name: str, part: str, size: int | None = None) -> bytes:
    value = entry.get(name)
    try:
        raw = bytes.fromhex(value) if isinstance(value, str) and value == value.lower() else None
    except ValueError:
        raw = None
    if raw is None or " " in str(value) or (size is not None and len(raw) != size):
        raise _Malformed(part, f"{name} must be {'' if size is None else f'{size} bytes of '}lower-case hex")
    return raw


def _decode(cls: type[Any], entry: dict[str, Any], part: str) -> Any:
    try:
        return codec.decode(cls, _hex(entry, "signed", part))
    except OverlayError as error:
        raise _Malformed(part, f"signed: {error}") from error


def _signed(cls: type[M], entry: Any, part: str) -> Signed[M]:
    if not isinstance(entry, dict):
        raise _Malformed(part, "must be an object")
    body = _hex(entry, "signed", part)
    signer, signature = _hex(entry, "identityKey", part, 33), _hex(entry, "signature", part)
    try:
        return envelope.assemble(cls, body, signer, signature)
    except OverlayError as error:
        raise _Malformed(part, str(error)) from error


def _signed_list(cls: type[M], document: dict[str, Any], name: str, bound: int) -> list[Signed[M]]:
    entries = _member(document, name, list)
    if len(entries) > bound:
        raise _Malformed(name, f"must have at most {bound} entries")
    return [_signed(cls, entry, f"{name}[{at}]") for at, entry in enumerate(entries)]

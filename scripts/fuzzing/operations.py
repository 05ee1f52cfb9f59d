"""Requests of every operation that a node describes, with hostile paths, queries, headers and bodies.

Derived from the node's own description, so an operation that is new there is drawn without a change here.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote, urlencode

import attrs

from node.runtime.keyring import Keyring
from scripts.fuzzing import policies
from scripts.fuzzing.calls import Call
from scripts.fuzzing.records import header_value
from scripts.fuzzing.schemas import SchemaValues, matching, spoiled
from scripts.fuzzing.transactions import submission
from scripts.fuzzing.values import RAW, Draw, to_json
from scripts.fuzzing.world import World, key_of

JSON_TYPE: Final = "application/json"
HEADERS: Final = (
    "Accept", "Accept-Encoding", "Accept-Language", "Authorization", "Content-Encoding", "Content-Type", "Cookie",
    "If-Match", "If-Modified-Since", "If-None-Match", "If-Range", "Last-Event-ID", "Origin", "Prefer", "Range",
    "X-Forwarded-For", "X-Request-Id", "ce-id", "ce-specversion", "x-bsv-auth-identity-key", "x-bsv-auth-nonce",
    "x-bsv-auth-version", "x-bsv-auth-signature", "X-Authrite", "X-Authrite-Signature", "X-Identity-Key", "X-Nonce",
    "X-Signature", "X-Topics",
)  # fmt: skip
HEADER_VALUES: Final = (
    b"", b"*/*", b"gzip", b"bytes=0-", b"bytes=-18446744073709551616", b"9" * 400, b"a, b;q=1e400", b'["tm_ship"]',
    b"application/json; charset=utf-7", b"multipart/form-data", b"[::1", b"\xff\xfe", b"{" * 400, b"0", b'W/"a"',
)  # fmt: skip
PATH_TEXTS: Final = (
    "a%00b", "%00", "%ed%a0%80", "%ff%fe", "%F4%90%80%80", "..%2f..%2fetc", "%2e%2e", "a" * 2_000, "%", "%zz", "a;b",
    "-0", "1e400", "18446744073709551616",
)  # fmt: skip
"""Encoded already, or wrongly."""
DOCUMENT_METHODS: Final = frozenset({"POST", "PUT", "PATCH", "DELETE"})
INGESTING: Final = frozenset({"ingestEvents", "takeDelivery"})  # drawn as records, and here as any other operation


@attrs.frozen(kw_only=True)
class Described:
    """An operation, as the node describes it."""

    operation: str
    method: str
    path: str
    parameters: Sequence[Mapping[str, Any]]
    contents: Mapping[str, Mapping[str, Any]]
    answers: Mapping[str, Any]
    messages: Sequence[Mapping[str, Any]]  # that a client may send over WebSocket

    def named(self, place: str) -> list[Mapping[str, Any]]:
        """The parameters of a place: path, query, header."""
        return [each for each in self.parameters if each["in"] == place]


def described(document: Mapping[str, Any]) -> dict[str, Described]:
    """The operations of a description, by id."""
    found = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            found[operation["operationId"]] = Described(
                operation=operation["operationId"],
                method=method.upper(),
                path=path,
                parameters=operation.get("parameters", ()),
                contents=operation.get("requestBody", {}).get("content", {}),
                answers=operation["responses"],
                messages=operation.get("x-websocket-client-messages", ()),
            )
    return found


class Operations:
    """Draws calls."""

    def __init__(self, world: World, document: Mapping[str, Any], *, operator: Keyring, upstream: str) -> None:
        """``upstream``: URL of a server that the node may call."""
        self.described = described(document)
        self._world = world
        self._operator = operator
        self._upstream = upstream
        makers: dict[str, Callable[[Draw], Any]] = {
            "mappingPolicy": lambda draw: self._part(draw, mapping=True),
            "validationRules": lambda draw: self._part(draw, mapping=False),
            "filter": policies.expression,
            "expression": policies.expression,
            "url": self._url,
            "callbackUrl": self._url,
            "policyHash": lambda draw: draw.pick(list(world.policies)).hex(),
            "subscriptionStatus": lambda draw: draw.pick(("active", "paused")),
            "identityKey": lambda draw: draw.pick(world.agents).identity.hex(),
            "topics": lambda draw: [draw.pick(("tm_ship", "tm_slap", "gitdata.events.ingest", "#"))],
        }
        self._values = SchemaValues(document, makers)

    @property
    def changing(self) -> tuple[str, ...]:
        """The operations that send documents, or change what there is."""
        return tuple(name for name, each in self.described.items() if each.method in DOCUMENT_METHODS - INGESTING)

    @property
    def sockets(self) -> tuple[str, ...]:
        """The operations that take WebSocket handshakes."""
        return tuple(name for name, each in self.described.items() if each.messages)

    def call(self, draw: Draw, operation: str, *, signed: float) -> Call:
        """A call. ``signed``: the part that an operator signs."""
        each = self.described[operation]
        path, kept = self._path(draw, each)
        query = self._query(draw, each)
        headers = self._headers(draw, each)
        body: bytes | None = None
        if each.contents:
            media_type = draw.pick(tuple(each.contents))
            body, more = self._body(draw, each, media_type)
            names = {name for name, _ in headers}
            headers += [pair for pair in [("Content-Type", media_type.encode()), *more] if pair[0] not in names]
        signer = self._signer(draw, signed)
        if kept and each.method != "GET" and operation not in INGESTING:
            signer = None
        return Call(
            operation=operation,
            method=each.method,
            target=path + (f"?{query}" if query else ""),
            headers=tuple(headers),
            body=body,
            signer=signer,
            spoil_signature=signer is not None and draw.chance(0.05),
        )

    def socket_messages(self, draw: Draw, operation: str) -> list[bytes]:
        """Texts that a client sends over WebSocket."""
        choices = self.described[operation].messages
        found = []
        for _ in range(1 + draw.below(12)):
            message = self._values.draw(draw, draw.pick(choices))
            found.append(to_json(spoiled(draw, message) if draw.chance(0.3) else message))
        if draw.chance(0.1):
            found.append(draw.pick((b"", b"{", b"[" * 500, b"null", b"\xff", b'"' + b"a" * 70_000 + b'"')))
        return found

    def _path(self, draw: Draw, each: Described) -> tuple[str, bool]:
        """The path, and whether it names something that must stay."""
        schemas = {parameter["name"]: parameter["schema"] for parameter in each.named("path")}
        kept = False

        def value(match: "re.Match[str]") -> str:
            nonlocal kept
            name = match[1]
            found = self._world.live.pick(draw, name)
            if draw.chance(0.7) and found is not None:
                kept = kept or self._world.stays(str(found))
                return quote(str(found), safe="")
            if draw.chance(0.4):
                return draw.pick(PATH_TEXTS)
            if "pattern" in schemas.get(name, {}) and draw.chance(0.5):
                return quote(matching(draw, schemas[name]["pattern"]), safe="")
            return quote(draw.text(200), safe="") or "-"

        return re.sub(r"\{(\w+)\}", value, each.path), kept

    def _query(self, draw: Draw, each: Described) -> str:
        pairs = []
        for parameter in each.named("query"):
            if draw.chance(0.6 if parameter.get("required") else 0.35):
                value = self._values.draw(draw, parameter["schema"], parameter["name"])
                if draw.chance(0.25):
                    value = draw.text(300) if draw.chance(0.5) else draw.pick(PATH_TEXTS)
                found = self._world.live.pick(draw, parameter["name"])
                pairs.append((parameter["name"], found if draw.chance(0.5) and found is not None else value))
        if draw.chance(0.05):
            pairs.append((draw.key(), draw.text()))
        return urlencode([(name, _query_text(value)) for name, value in pairs], errors="replace")

    def _headers(self, draw: Draw, each: Described) -> list[tuple[str, bytes]]:
        found: dict[str, bytes] = {}
        for parameter in each.named("header"):
            if draw.chance(0.9 if parameter.get("required") else 0.3):
                found[parameter["name"]] = _header_text(self._values.draw(draw, parameter["schema"]))
        if draw.chance(0.12):
            value = draw.pick(HEADER_VALUES) if draw.chance(0.6) else header_value(draw)
            found[draw.pick(HEADERS)] = value
        return list(found.items())

    def _body(self, draw: Draw, each: Described, media_type: str) -> tuple[bytes, list[tuple[str, bytes]]]:
        """The body, and headers that belong to it."""
        content = each.contents[media_type]
        if content["schema"].get("format") == "binary":
            body, topics = submission(draw, self._world)
            return body, [("X-Topics", topics)]
        value = self._document(draw, each, content)
        if each.operation == "putPolicy" and draw.chance(0.8):
            value = policies.drawn(draw)
        elif draw.chance(0.4):
            value = spoiled(draw, value)
        if "form" in media_type:
            pairs = value if isinstance(value, dict) else {"payload": value}
            return urlencode({name: _query_text(part) for name, part in pairs.items()}, errors="replace").encode(), []
        return to_json(value), []

    def _document(self, draw: Draw, each: Described, content: Mapping[str, Any]) -> Any:
        examples = [example["value"] for example in content.get("examples", {}).values()]
        from_example = bool(examples) and draw.chance(0.25)
        value: Any = draw.pick(examples) if from_example else self._values.draw(draw, content["schema"])
        if isinstance(value, dict) and value.get("sourceType") and draw.chance(0.8):
            value = {**value, "configuration": self._configuration(draw, value["sourceType"])}
        return value

    def _configuration(self, draw: Draw, source_type: Any) -> Any:
        schemas = self._values.resolved({"$ref": "#/components/schemas"})
        schema = schemas.get(f"{str(source_type).capitalize()}SourceSettings")
        return {} if schema is None or draw.chance(0.3) else self._values.draw(draw, schema)

    def _part(self, draw: Draw, *, mapping: bool) -> Any:
        policy = policies.drawn(draw)
        if not isinstance(policy, dict):
            return policy
        return policies.split(policy)["mappingPolicy" if mapping else "validationRules"]

    def _url(self, draw: Draw) -> str:
        match draw.below(4):
            case 0 | 1:
                return self._upstream + draw.pick(("/json", "/lines", "/csv", "/feed", "/hook", "/", "/%00"))
            case 2:
                return draw.pick(
                    (
                        "http://127.0.0.1:1/",
                        "https://[::1]/",
                        "http://0.0.0.0",
                        "ftp://a/",
                        "http://a@b/",
                        "http://é/",
                    )
                )
            case _:
                return draw.text(200)

    def _signer(self, draw: Draw, signed: float) -> Keyring | None:
        if draw.chance(signed):
            return self._operator
        match draw.below(8):
            case 0:
                return draw.pick(self._world.agents)
            case 1:
                return key_of(f"{self._world.seed} caller {draw.below(100)}")
            case _:
                return None


def _query_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return to_json(value).decode()


def _header_text(value: Any) -> bytes:
    text = value.encode() if isinstance(value, str) else to_json(value)
    return bytes(byte for byte in text if byte >= 0x20 and byte != 0x7F).strip()[:2_000]


__all__ = ["RAW", "Described", "Operations", "described"]

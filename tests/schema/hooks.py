"""What schemathesis loads: signs requests as the caller of a run, draws what no schema describes, keeps the seeds."""

import json
import os
import time
from typing import Any

import requests
import schemathesis
from hypothesis import strategies as st
from requests.auth import AuthBase
from schemathesis.auths import GLOBAL_AUTH_STORAGE
from schemathesis.core.failures import Failure
from schemathesis.core.transport import Response

from node.sources.settings import SETTINGS
from node.sources.settings import read as read_settings
from protocols.authentication import sign_headers
from protocols.beef import write_beef
from protocols.errors import ClientFault
from protocols.keys import PrivateKey
from protocols.uhrp import uhrp_url
from tests.made_transactions import beefs, chain
from tests.schema.rules_in_words import is_allowed
from tests.schema.seeding import seeds

NODE = bytes.fromhex(os.environ["SCHEMA_NODE"])
CALLER = os.environ["SCHEMA_CALLER"]  # a secret key; empty: anonymous
OPERATOR = os.environ["SCHEMA_OPERATOR"]
KNOWN: dict[str, list[str]] = json.loads(os.environ["SCHEMA_KNOWN"])
LINE = '{"externalId":"l-%d","eventType":"reading","data":{"value":1}}\n'
EXPRESSIONS = ("data.value > 30", "level == 'basic'", "data.unit == 'celsius' && data.value < 0")
CHANGES = ("PUT", "PATCH", "DELETE")


class SignedRequests(AuthBase):
    """Signs each request as it is sent, in its headers."""

    def __init__(self, key: PrivateKey) -> None:
        self.key = key
        self._last_ns = 0

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        self._last_ns = max(self._last_ns + 1, time.time_ns())
        body = request.body or b""
        signed = sign_headers(
            self.key,
            NODE,
            method=request.method or "",
            target=request.path_url,
            body=body.encode() if isinstance(body, str) else body,
            nonce_ns=self._last_ns,
        )
        request.headers.update(signed)
        return request


def _signer(secret: str) -> SignedRequests | None:
    return SignedRequests(PrivateKey(bytes.fromhex(secret))) if secret else None


caller, operator = _signer(CALLER), _signer(OPERATOR)
SEEDS = seeds(None if caller is None else caller.key.identity.hex())
if caller is not None:
    GLOBAL_AUTH_STORAGE.set_from_requests(caller)


def _identity(number: int) -> str:
    return PrivateKey(number.to_bytes(32, "big")).identity.hex()


digests = st.binary(min_size=32, max_size=32)
lines = st.lists(st.integers(0, 99), min_size=1, max_size=4).map(lambda ids: "".join(LINE % each for each in ids))
schemathesis.openapi.format("identity-key", st.integers(2, 10_000).map(_identity))
schemathesis.openapi.format("uhrp-url", digests.map(uhrp_url) | digests.map(bytes.hex))
schemathesis.openapi.format("policy-expression", st.sampled_from(EXPRESSIONS))
schemathesis.openapi.media_type("application/octet-stream", (st.integers(2, 9).map(chain) | beefs()).map(write_beef))
schemathesis.openapi.media_type("application/x-ndjson", lines.map(str.encode))


def before_load_schema(context: Any, raw_schema: dict[str, Any]) -> None:
    """Give parameters the ids of what is on this node as examples."""
    for methods in raw_schema["paths"].values():
        for operation in methods.values():
            for parameter in operation.get("parameters", ()):
                known = KNOWN.get(parameter["name"])
                if known:
                    parameter["examples"] = {str(number): {"value": value} for number, value in enumerate(known)}


def map_case(context: Any, case: Any) -> Any:
    """Let what is to be accepted keep rules that are stated in words: else one of them would refuse all of it."""
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return case
    operation_id = case.operation.definition.raw["operationId"]
    if operation_id in ("createSource", "changeSource", "replaceSource") and isinstance(case.body, dict):
        _fit(case.body, is_put=operation_id == "replaceSource")
    if operation_id == "streamEvents" and len(case.query or {}) > 1:
        case.query.pop("subscriptionId", None)
    if operation_id == "submit" and case.meta.phase.name.value == "fuzzing":  # others have topics as they are drawn
        case.headers["X-Topics"] = KNOWN["X-Topics"][0]
    return case


def _fit(source: dict[str, Any], *, is_put: bool) -> None:
    """Make the members of a source fit each other. Nothing is read from addresses that were drawn."""
    if is_put:
        source.pop("sourceId", None)
    if "policyHash" in source:
        source["policyHash"] = KNOWN["policyHash"][0]
    if "mappingPolicy" in source or "validationRules" in source:
        source.pop("policyHash", None)
    fitting = next((name for name in SETTINGS if _is_of(name, source.get("configuration", {}))), None)
    if "sourceType" in source and fitting is not None:
        source |= {"sourceType": fitting, "enabled": source.get("enabled", True) and fitting == "webhook"}


def _is_of(source_type: str, configuration: Any) -> bool:
    try:
        read_settings(source_type, configuration)
    except (ClientFault, TypeError, ValueError):
        return False
    return True


def after_call(context: Any, case: Any, response: Response) -> None:
    """Bring a seed back that a request changed, but for series of requests, which are about that."""
    if case.method not in CHANGES or response.status_code >= 300 or _is_stateful(case):
        return
    url = str(response.request.url)
    for seed in SEEDS:
        if url.partition("?")[0].endswith(seed.path):
            base, signer = url.partition(seed.path)[0], caller if seed.by_caller else operator
            requests.delete(base + seed.path, auth=signer, timeout=30)
            requests.post(base + seed.collection, json=seed.document, auth=signer, timeout=30).raise_for_status()


def _is_stateful(case: Any) -> bool:
    return case.meta is not None and case.meta.phase.name.value == "stateful"


def filter_failure(context: Any, failure: Failure, case: Any, response: Response) -> bool:
    """Drop what a rule in words allows."""
    operation_id = case.operation.definition.raw["operationId"]
    return not is_allowed(type(failure).__name__, operation_id, failure.message, response.content)


for hook in (before_load_schema, map_case, after_call, filter_failure):
    schemathesis.hook(hook)

"""Policies: store one, read it by its hash, try it on events."""

import re
from functools import partial
from pathlib import Path
from typing import Final

from quart import Response, request
from werkzeug.exceptions import UnsupportedMediaType

from node.api.models.base import HexDigest, JsonObject
from node.api.models.policies import TrialRequest, TrialResult
from node.api.operations import Answer, Body, Document, Operation, Resource, json_answer, links_to
from node.api.services import Services
from node.api.wire import JSON_TYPE, account_of, answer, read_body
from node.sources import policies as stored
from node.sources.documents import StoredPolicy
from node.worker.policy_files import YAML_TYPES, read_policy
from node.worker.policy_trials import trial_document
from protocols.errors import ClientFault, MalformedError
from protocols.limits import POLICY_BYTES_MAX

HASH: Final = re.compile("[0-9a-f]{64}")
SCHEMA: Final = Path(__file__).parent / "policy.schema.json"
SCHEMA_TYPE: Final = "application/schema+json"
BAD_DOCUMENT: Final = (
    "invalid-json",
    "invalid-request",
    "unsupported-media-type",
    "invalid-policy",
    "body-too-large",
    "too-costly",
    "allowance-used",
)
EXAMPLE_POLICY: Final = {
    "required": ["sensorId", "value"],
    "bounds": [{"field": "value", "min": -90, "max": 60}],
}
EXAMPLE_TRIAL: Final = {"events": [{"externalId": "r-1", "eventType": "reading", "data": {"value": 23.5}}]}

policies = Resource("policies", lambda services: services)


@policies.post(
    "/overlay/policies",
    Operation(
        operation_id="putPolicy",
        tag="sources",
        summary="Store a policy, for sources to name by its hash",
        body=Body(content=dict.fromkeys((JSON_TYPE, *YAML_TYPES), JsonObject), examples={JSON_TYPE: EXAMPLE_POLICY}),
        answers={
            201: json_answer(
                "Its hash, and its canonical form.",
                StoredPolicy,
                links=links_to("policyHash", "/policyHash", "getPolicy", "testPolicy"),
                Location="Its address.",
            )
        },
        problems=(*BAD_DOCUMENT, "missing-function"),
    ),
)
async def put_policy(services: Services) -> Response:
    yaml = request.mimetype in YAML_TYPES
    encoded = request.headers.get("Content-Encoding", "identity") != "identity"
    if encoded or not (yaml or request.mimetype == JSON_TYPE):
        raise UnsupportedMediaType
    body = await read_body(request, services.settings.body_timeout_s, POLICY_BYTES_MAX)
    value = await services.ingest.run_beside(partial(read_policy, body, yaml=yaml), account=account_of(request))
    kept = await services.database.run(partial(stored.store, policy=value))
    response = answer(kept.to_json(), 201)
    response.headers["Location"] = f"/overlay/policies/{kept.policy_hash}"
    return response


@policies.get(
    "/overlay/policies/<policy_hash>",
    Operation(
        operation_id="getPolicy",
        tag="sources",
        summary="A policy document in its canonical form: its SHA-256 is the hash",
        path={"policy_hash": HexDigest},
        answers={200: json_answer("The document.", JsonObject)},
        problems=("unknown-policy",),
    ),
)
async def get_policy(services: Services, policy_hash: str) -> Response:
    return Response(await _find(services, policy_hash), content_type=JSON_TYPE)


@policies.post(
    "/overlay/policies/<policy_hash>/test",
    Operation(
        operation_id="testPolicy",
        tag="sources",
        summary="Try a policy on events: what each would become, and which rule decided",
        path={"policy_hash": HexDigest},
        body=Document(model=TrialRequest, example=EXAMPLE_TRIAL),
        answers={200: json_answer("Each event before and after, with its issues.", TrialResult)},
        problems=("unknown-policy", *BAD_DOCUMENT),
    ),
)
async def test_policy(services: Services, policy_hash: str, document: TrialRequest) -> Response:
    policy = await _find(services, policy_hash)
    try:
        trial = partial(trial_document, policy, document.events)
        return answer(await services.ingest.run_beside(trial, account=account_of(request)))
    except MalformedError as error:
        raise ClientFault(str(error), field="/events") from error


@policies.get(
    "/overlay/policy-schema",
    Operation(
        operation_id="getPolicySchema",
        tag="sources",
        summary="The JSON Schema of policies",
        answers={200: Answer(description="JSON Schema 2020-12.", content={SCHEMA_TYPE: JsonObject})},
    ),
)
async def get_schema(_: Services) -> Response:
    return Response(SCHEMA.read_bytes(), content_type=SCHEMA_TYPE)


async def _find(services: Services, policy_hash: str) -> bytes:
    if HASH.fullmatch(policy_hash) is None:
        raise stored.UnknownPolicyError("the policy hash must be 64 hex digits")
    return await services.database.run(partial(stored.find, digest=bytes.fromhex(policy_hash)))

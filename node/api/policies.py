"""Policies: store one, read it by its hash, try it on events."""

import re
from functools import partial
from pathlib import Path
from typing import Final

from quart import Blueprint, Response, request
from werkzeug.exceptions import UnsupportedMediaType

from node.api.services import Services
from node.api.wire import JSON_TYPE, answer, read_body, read_document
from node.sources import policies
from node.worker.policy_files import YAML_TYPES, read_policy
from node.worker.policy_trials import trial_document
from protocols.errors import ClientFault, MalformedError
from protocols.limits import EVENTS_PER_BATCH_MAX, POLICY_BYTES_MAX

HASH: Final = re.compile("[0-9a-f]{64}")
SCHEMA: Final = Path(__file__).parent / "policy.schema.json"
SCHEMA_TYPE: Final = "application/schema+json"


def routes(services: Services) -> Blueprint:
    blueprint = Blueprint("policies", __name__)
    database, timeout_s = services.database, services.settings.body_timeout_s
    schema = SCHEMA.read_bytes()

    @blueprint.post("/overlay/policies")
    async def put_policy() -> Response:
        yaml = request.mimetype in YAML_TYPES
        encoded = request.headers.get("Content-Encoding", "identity") != "identity"
        if encoded or not (yaml or request.mimetype == JSON_TYPE):
            raise UnsupportedMediaType
        body = await read_body(request, timeout_s, POLICY_BYTES_MAX)
        value = await services.ingest.run_beside(partial(read_policy, body, yaml=yaml))
        kept = await database.run(partial(policies.store, policy=value))
        response = answer(kept.to_json(), 201)
        response.headers["Location"] = f"/overlay/policies/{kept.policy_hash}"
        return response

    @blueprint.get("/overlay/policies/<policy_hash>")
    async def get_policy(policy_hash: str) -> Response:
        return Response(await find(policy_hash), content_type=JSON_TYPE)

    @blueprint.post("/overlay/policies/<policy_hash>/test")
    async def test_policy(policy_hash: str) -> Response:
        document = await find(policy_hash)
        events = (await read_document(request, timeout_s)).get("events")
        if not isinstance(events, list) or not 1 <= len(events) <= EVENTS_PER_BATCH_MAX:
            raise ClientFault(
                "/events: is no array of events", field="/events", remedy=f"send 1 to {EVENTS_PER_BATCH_MAX} events"
            )
        try:
            return answer(await services.ingest.run_beside(partial(trial_document, document, events)))
        except MalformedError as error:
            raise ClientFault(str(error), field="/events") from error

    @blueprint.get("/overlay/policy-schema")
    async def get_schema() -> Response:
        return Response(schema, content_type=SCHEMA_TYPE)

    async def find(policy_hash: str) -> bytes:
        if HASH.fullmatch(policy_hash) is None:
            raise policies.UnknownPolicyError("the policy hash must be 64 hex digits")
        return await database.run(partial(policies.find, digest=bytes.fromhex(policy_hash)))

    return blueprint

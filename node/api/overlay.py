"""POST /submit (BRC-22), POST /lookup (BRC-24), what there is of both, and its documentation."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final

import orjson
import trio
from quart import Blueprint, Response, request

from node.api.services import Services
from node.api.wire import (
    JSON_TYPE,
    OFF_CHAIN_BYTES_MAX,
    SUBMISSION_BYTES_MAX,
    InvalidParameterError,
    answer,
    only_parameters,
    read_body,
    require_json,
)
from node.overlay.certificate_lookup import CertificateLookup
from node.overlay.lookup import LookupOutput, LookupService
from node.overlay.services import OverlayServices
from node.overlay.submit import TOPICS_MAX, Accepted
from protocols.canonical import parse_json
from protocols.certificate import rfc3339
from protocols.errors import ClientFault, MalformedError, OverlayError, WorldFault
from protocols.overlay_bodies import read_submission, write_lookup_answer
from protocols.topics import TopicManager

BINARY_TYPE: Final = "application/octet-stream"
QUERY_BYTES_MAX: Final = 64 * 1024
QUERY_DEPTH_MAX: Final = 8
HEADER_CHARS_MAX: Final = 4_096
INLINE_OUTPUTS_MAX: Final = 8


class InvalidSubmissionError(ClientFault):
    code = "invalid-submission"


class NotSyncedError(WorldFault):
    """An empty answer would look like a true one."""

    code = "not-synced"


def routes(services: Services) -> Blueprint:
    blueprint = Blueprint("overlay", __name__)
    overlay, timeout_s = services.overlay, services.settings.body_timeout_s

    @blueprint.post("/submit")
    async def submit() -> Response:
        topics = read_topics(request.headers.get("X-Topics"))
        body = await read_body(request, timeout_s, SUBMISSION_BYTES_MAX)
        has_values = request.headers.get("x-includes-off-chain-values", "").lower() == "true"
        try:
            submission = read_submission(body, has_off_chain_values=has_values)
        except MalformedError as error:
            raise InvalidSubmissionError(
                f"the body is not as its headers say: {error}",
                field="x-includes-off-chain-values",
                remedy="send the BEEF; or its length as a CompactSize, the BEEF and the values",
            ) from error
        if submission.off_chain_values is not None and len(submission.off_chain_values) > OFF_CHAIN_BYTES_MAX:
            raise InvalidSubmissionError(f"off-chain values have at most {OFF_CHAIN_BYTES_MAX} bytes", field="body")
        accepted = await overlay.submissions.submit(submission.beef, topics, submission.off_chain_values)
        response = answer(steak(accepted))
        if accepted.unchecked:
            response.headers["X-Overlay-Unchecked"] = ", ".join(sorted(accepted.unchecked))
        return response

    @blueprint.post("/lookup")
    async def lookup() -> Response:
        require_json(request)
        question = parse_json(await read_body(request, timeout_s, QUERY_BYTES_MAX), depth_max=QUERY_DEPTH_MAX)
        match question:
            case {"service": str(service), "query": query}:
                found = await overlay.lookup(service, query)
            case _:
                raise ClientFault(
                    "the question names no service and query",
                    field="/service",
                    remedy='send {"service": "ls_ship", "query": {"topics": ["tm_ship"]}}',
                )
        fresh = services.freshness()
        if not found and service == CertificateLookup.name and not fresh.settles:
            raise NotSyncedError(
                "nothing is known here, but this node has not caught up with its peers", retryAfter=2
            )
        aggregated = request.headers.get("X-Aggregation", "").lower() == "yes"
        binary = aggregated or request.accept_mimetypes.best == BINARY_TYPE
        response = await _lookup_answer(found, binary=binary)
        response.headers["X-Overlay-Synced"] = str(fresh.settles).lower()
        if fresh.as_of_ms:
            response.headers["X-Overlay-Fresh-As-Of"] = rfc3339(fresh.as_of_ms)
        return response

    _describe(blueprint, overlay)
    return blueprint


def _describe(blueprint: Blueprint, overlay: OverlayServices) -> None:
    """The routes that say what there is."""

    @blueprint.get("/listTopicManagers")
    async def list_topic_managers() -> Response:
        managers = overlay.submissions.managers.values()
        return answer({each.name: _about(each.name, each.documentation) for each in managers})

    @blueprint.get("/listLookupServiceProviders")
    async def list_lookup_services() -> Response:
        return answer({each.name: _about(each.name, each.documentation) for each in overlay.lookups.values()})

    @blueprint.get("/getDocumentationForTopicManager")
    async def document_topic_manager() -> Response:
        only_parameters(request, "manager")
        return _documentation(overlay.submissions.managers, "manager")

    @blueprint.get("/getDocumentationForLookupServiceProvider")
    async def document_lookup_service() -> Response:
        only_parameters(request, "lookupService")
        return _documentation(overlay.lookups, "lookupService")


def read_topics(header: str | None) -> list[str]:
    """The topics in ``X-Topics``, a JSON array of names.

    Raises:
        InvalidSubmissionError: it is none.
    """
    try:
        topics = parse_json((header or "")[:HEADER_CHARS_MAX].encode("latin-1", "replace"), depth_max=2)
    except OverlayError:
        topics = None
    if isinstance(topics, list) and 0 < len(topics) <= TOPICS_MAX and all(isinstance(each, str) for each in topics):
        return [str(topic) for topic in topics]
    raise InvalidSubmissionError(
        "X-Topics is no JSON array of topics",
        field="X-Topics",
        remedy=f'send X-Topics: ["tm_ship"], at most {TOPICS_MAX} names',
    )


def steak(accepted: Accepted) -> dict[str, Any]:
    """The answer by topic, as broadcasters read it: one that admits or removes something acknowledges."""
    return {
        topic: {
            "outputsToAdmit": list(result.admitted),
            "coinsToRetain": [],
            "coinsRemoved": list(result.removed),
        }
        for topic, result in accepted.topics.items()
    }


async def _lookup_answer(outputs: Sequence[LookupOutput], *, binary: bool) -> Response:
    render = partial(write_lookup_answer if binary else _as_json, outputs)
    data = render() if len(outputs) <= INLINE_OUTPUTS_MAX else await trio.to_thread.run_sync(render)
    response = Response(data, content_type=BINARY_TYPE if binary else JSON_TYPE)
    response.headers["Vary"] = "Accept, X-Aggregation"
    return response


def _as_json(outputs: Sequence[LookupOutput]) -> bytes:
    return orjson.dumps(
        {
            "type": "output-list",
            "outputs": [
                {"beef": list(each.beef), "outputIndex": each.output_index}
                | ({} if each.context is None else {"context": list(each.context)})
                for each in outputs
            ],
        }
    )


def _about(name: str, documentation: str) -> dict[str, str]:
    return {"name": name, "shortDescription": documentation.strip().split("\n\n")[1].split(":")[0]}


def _documentation(known: Mapping[str, TopicManager] | Mapping[str, LookupService], parameter: str) -> Response:
    name = request.args.get(parameter, "")
    found = known.get(name)
    if found is None:
        raise InvalidParameterError(
            f"{parameter!r} names none that is here", field=parameter, remedy=f"use one of {', '.join(known)}"
        )
    return Response(found.documentation, content_type="text/markdown; charset=utf-8")

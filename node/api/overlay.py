"""POST /submit (BRC-22), POST /lookup (BRC-24), what there is of both, and its documentation."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final

import orjson
import trio
from quart import Response, request

from node.api.models.overlay import (
    Admittance,
    LookupQuestion,
    LookupResult,
    LookupServiceQuery,
    ManagerQuery,
    ServiceSummary,
    SubmitHeaders,
)
from node.api.operations import Answer, Body, Operation, Resource, json_answer
from node.api.services import Services
from node.api.wire import (
    JSON_TYPE,
    OFF_CHAIN_BYTES_MAX,
    SUBMISSION_BYTES_MAX,
    answer,
    parse_document,
    read_body,
    require_json,
)
from node.overlay.certificate_lookup import CertificateLookup
from node.overlay.lookup import LookupOutput, LookupService
from node.overlay.services import UnknownServiceError
from node.overlay.submit import TOPICS_MAX, Accepted
from protocols.certificate import rfc3339
from protocols.errors import ClientFault, MalformedError, OverlayError, WorldFault
from protocols.overlay_bodies import read_submission, write_lookup_answer
from protocols.topics import TopicManager

BINARY_TYPE: Final = "application/octet-stream"
QUERY_BYTES_MAX: Final = 64 * 1024
QUERY_DEPTH_MAX: Final = 8
HEADER_CHARS_MAX: Final = 4_096
INLINE_OUTPUTS_MAX: Final = 8
EXAMPLE_QUESTION: Final = {"service": "ls_ship", "query": {"topics": ["tm_ship"]}}
FOR_PEOPLE: Final = Answer(description="For people.", content={"text/markdown": str})
Summaries = dict[str, ServiceSummary]


class InvalidSubmissionError(ClientFault):
    code = "invalid-submission"


class UnknownManagerError(ClientFault):
    code = "unknown-topic-manager"


class NotSyncedError(WorldFault):
    """An empty answer would look like a true one."""

    code = "not-synced"


overlay = Resource("overlay", lambda services: services)


@overlay.post(
    "/submit",
    Operation(
        operation_id="submit",
        tag="overlay services",
        summary="BRC-22: a transaction for topics; on disk before the answer",
        description=(
            "A repeat is answered as the first time. X-Overlay-Unchecked in the answer names what this node had no "
            "means to check: scripts, merkle-paths."
        ),
        headers=SubmitHeaders,
        body=Body(content={BINARY_TYPE: bytes}),
        answers={
            200: json_answer(
                "By topic, what it admits and removes.",
                Admittance,
                X_Overlay_Unchecked="What was not checked, comma-separated.",
            )
        },
        problems=(
            "invalid-submission",
            "invalid-beef",
            "invalid-transaction",
            "unknown-topics",
            "double-spend",
            "topic-full",
            "body-too-large",
            "overloaded",
        ),
    ),
)
async def submit(services: Services) -> Response:
    topics = read_topics(request.headers.get("X-Topics"))
    body = await read_body(request, services.settings.body_timeout_s, SUBMISSION_BYTES_MAX)
    has_values = request.headers.get("x-includes-off-chain-values", "").lower() == "true"
    try:
        submission = read_submission(body, has_off_chain_values=has_values)
    except MalformedError as error:
        raise InvalidSubmissionError(
            f"the body is not as its headers describe it: {error}",
            field="x-includes-off-chain-values",
            remedy="send the BEEF; or its length as a CompactSize, the BEEF and the values",
        ) from error
    if submission.off_chain_values is not None and len(submission.off_chain_values) > OFF_CHAIN_BYTES_MAX:
        raise InvalidSubmissionError(f"off-chain values must be at most {OFF_CHAIN_BYTES_MAX} bytes", field="body")
    accepted = await services.overlay.submissions.submit(submission.beef, topics, submission.off_chain_values)
    response = answer(steak(accepted))
    if accepted.unchecked:
        response.headers["X-Overlay-Unchecked"] = ", ".join(sorted(accepted.unchecked))
    return response


@overlay.post(
    "/lookup",
    Operation(
        operation_id="lookup",
        tag="overlay services",
        summary="BRC-24: the outputs that a lookup service finds",
        body=Body(content={JSON_TYPE: LookupQuestion}, examples={JSON_TYPE: EXAMPLE_QUESTION}),
        answers={
            200: Answer(
                description="An output-list; as octet-stream where X-Aggregation is yes.",
                content={JSON_TYPE: LookupResult, BINARY_TYPE: bytes},
                headers={
                    "X-Overlay-Synced": "Whether the node has caught up with its peers.",
                    "X-Overlay-Fresh-As-Of": "When it last had.",
                },
            )
        },
        problems=(
            "invalid-json",
            "invalid-request",
            "invalid-query",
            "invalid-uhrp-url",
            "unknown-service",
            "unsupported-media-type",
            "body-too-large",
            "not-synced",
        ),
    ),
)
async def lookup(services: Services) -> Response:
    require_json(request)
    body = await read_body(request, services.settings.body_timeout_s, QUERY_BYTES_MAX)
    service, query = read_question(parse_document(body, depth_max=QUERY_DEPTH_MAX))
    found = await services.overlay.lookup(service, query)
    fresh = services.freshness()
    if not found and service == CertificateLookup.name and not fresh.settles:
        raise NotSyncedError("nothing is known here, but this node has not caught up with its peers", retryAfter=2)
    aggregated = request.headers.get("X-Aggregation", "").lower() == "yes"
    binary = aggregated or request.accept_mimetypes.best == BINARY_TYPE
    response = await _lookup_answer(found, binary=binary)
    response.headers["X-Overlay-Synced"] = str(fresh.settles).lower()
    if fresh.as_of_ms:
        response.headers["X-Overlay-Fresh-As-Of"] = rfc3339(fresh.as_of_ms)
    return response


@overlay.get(
    "/listTopicManagers",
    Operation(
        operation_id="listTopicManagers",
        tag="overlay services",
        summary="Topics managed here",
        answers={200: json_answer("By name.", Summaries)},
    ),
)
async def list_topic_managers(services: Services) -> Response:
    managers = services.overlay.submissions.managers.values()
    return answer({each.name: _about(each.name, each.documentation) for each in managers})


@overlay.get(
    "/listLookupServiceProviders",
    Operation(
        operation_id="listLookupServiceProviders",
        tag="overlay services",
        summary="Lookup services here",
        answers={200: json_answer("By name.", Summaries)},
    ),
)
async def list_lookup_services(services: Services) -> Response:
    return answer({each.name: _about(each.name, each.documentation) for each in services.overlay.lookups.values()})


@overlay.get(
    "/getDocumentationForTopicManager",
    Operation(
        operation_id="getDocumentationForTopicManager",
        tag="overlay services",
        summary="What a topic admits",
        query=ManagerQuery,
        answers={200: FOR_PEOPLE},
        problems=("unknown-topic-manager",),
    ),
)
async def document_topic_manager(services: Services, query: ManagerQuery) -> Response:
    return _documentation(services.overlay.submissions.managers, "manager", query.manager, UnknownManagerError)


@overlay.get(
    "/getDocumentationForLookupServiceProvider",
    Operation(
        operation_id="getDocumentationForLookupServiceProvider",
        tag="overlay services",
        summary="What a lookup service takes and answers",
        query=LookupServiceQuery,
        answers={200: FOR_PEOPLE},
        problems=("unknown-service",),
    ),
)
async def document_lookup_service(services: Services, query: LookupServiceQuery) -> Response:
    return _documentation(services.overlay.lookups, "lookupService", query.lookup_service, UnknownServiceError)


def read_question(question: Any) -> tuple[str, Any]:
    """The service and the query of a lookup; members beside them are ignored, as BRC-24 has it.

    Raises:
        ClientFault: One of the two is missing.
    """
    match question:
        case {"service": str(service), "query": query}:
            return service, query
        case _:
            raise ClientFault(
                "`service` must be a string, and `query` must be there",
                field="/service",
                remedy='send {"service": "ls_ship", "query": {"topics": ["tm_ship"]}}',
            )


def read_topics(header: str | None) -> list[str]:
    """The topics in ``X-Topics``, a JSON array of names.

    Raises:
        InvalidSubmissionError: It is something else.
    """
    try:
        topics = parse_document((header or "")[:HEADER_CHARS_MAX].encode("latin-1", "replace"), depth_max=2)
    except OverlayError:
        topics = None
    if isinstance(topics, list) and 0 < len(topics) <= TOPICS_MAX and all(isinstance(each, str) for each in topics):
        return [str(topic) for topic in topics]
    raise InvalidSubmissionError(
        f"X-Topics must be a JSON array of 1 to {TOPICS_MAX} topics",
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


def _documentation(
    known: Mapping[str, TopicManager] | Mapping[str, LookupService],
    parameter: str,
    name: str,
    unknown: type[ClientFault],
) -> Response:
    found = known.get(name)
    if found is None:
        raise unknown(
            f"{parameter!r} is {name[:40]!r}, which is not served here",
            field=parameter,
            remedy=f"use one of {', '.join(known)}",
        )
    return Response(found.documentation, content_type="text/markdown; charset=utf-8")

"""GET events, one event, its certification, its certificate; GET a batch."""

from functools import partial

import trio
from quart import Request, Response, request

from node.api import certificate_page
from node.api.models.base import LimitQuery
from node.api.models.batches import BatchDocument
from node.api.models.events import (
    CertificateFormatQuery,
    CertificationDocument,
    EventDocument,
    EventPage,
    EventQuery,
    EventVersions,
)
from node.api.models.receipts import Certificate
from node.api.operations import OTHER, Answer, Operation, Resource, json_answer
from node.api.services import Services
from node.api.wire import JSON_TYPE, answer
from node.delivery import history

HTML_TYPE = "text/html"
MISSING = ("unknown-event", "event-expired")

events = Resource("events", lambda services: services)


@events.get(
    "/overlay/events",
    Operation(
        operation_id="listEvents",
        tag="events",
        summary="Events by id, filtered; those of a batch under way show up when it is sealed",
        query=EventQuery,
        answers={200: json_answer("A page.", EventPage)},
    ),
)
async def list_events(services: Services, query: EventQuery) -> Response:
    call = partial(
        history.page,
        status=query.status,
        source_id=query.source_id,
        external_id=query.external_id,
        after=query.after,
        limit=query.limit,
    )
    return answer(await services.database.run(call))


@events.get(
    f"/overlay/events/<{OTHER}('ingest', 'stream'):event_id>",
    Operation(
        operation_id="getEvent",
        tag="events",
        summary="An event in its latest version",
        answers={200: json_answer("The event.", EventDocument)},
        problems=MISSING,
    ),
)
async def get_event(services: Services, event_id: str) -> Response:
    return answer(await services.database.run(partial(history.event_document_of, event_id=event_id)))


@events.get(
    "/overlay/events/<event_id>/certification",
    Operation(
        operation_id="getCertification",
        tag="events",
        summary="How far an event's certification is",
        answers={200: json_answer("Its state.", CertificationDocument)},
        problems=MISSING,
    ),
)
async def get_certification(services: Services, event_id: str) -> Response:
    call = partial(history.certification, event_id=event_id, network=services.settings.network)
    return answer(await services.database.run(call))


@events.get(
    "/overlay/events/<event_id>/versions",
    Operation(
        operation_id="listVersions",
        tag="events",
        summary="The versions of an event, the latest first",
        query=LimitQuery,
        answers={200: json_answer("The chain.", EventVersions)},
        problems=MISSING,
    ),
)
async def list_versions(services: Services, event_id: str, query: LimitQuery) -> Response:
    call = partial(history.versions_document, event_id=event_id, limit=query.limit)
    return answer(await services.database.run(call))


@events.get(
    "/overlay/events/<event_id>/certificate",
    Operation(
        operation_id="getCertificate",
        tag="events",
        summary="The certificate, or certificate of rejection, to keep; for a browser, a page about it",
        query=CertificateFormatQuery,
        answers={
            200: Answer(
                description="Verifies offline.",
                content={JSON_TYPE: Certificate, HTML_TYPE: str},
                headers={"Vary": "Accept."},
            )
        },
        problems=(*MISSING, "not-certified", "event-dead"),
    ),
)
async def get_certificate(services: Services, event_id: str, query: CertificateFormatQuery) -> Response:
    document, objects = await services.database.run(partial(history.certificate_and_objects, event_id=event_id))
    is_page = query.format == "html" if query.format else _prefers_page(request)
    response = await _page(services, document, objects) if is_page else answer(document)
    response.headers["Vary"] = "Accept"
    return response


@events.get(
    "/overlay/batches/<batch_id>",
    Operation(
        operation_id="getBatch",
        tag="batches",
        summary="A batch: state, roots, agents, evidence, dissent, receipt",
        answers={200: json_answer("The batch.", BatchDocument)},
        problems=("unknown-batch",),
    ),
)
async def get_batch(services: Services, batch_id: str) -> Response:
    call = partial(history.batch_document, batch_id=batch_id, network=services.settings.network)
    return answer(await services.database.run(call))


async def _page(services: Services, document: history.Document, objects: history.Document) -> Response:
    operators = {agent["identityKey"]: agent["operator"] for agent in services.network_view.agents()}
    page = partial(certificate_page.render, document, objects=objects, operators=operators)
    response = Response(await trio.to_thread.run_sync(page), content_type="text/html; charset=utf-8")
    response.headers["Content-Security-Policy"] = certificate_page.PAGE_POLICY
    return response


def _prefers_page(asked: Request) -> bool:
    """Whether the Accept header prefers the page: browsers name text/html, other clients get JSON."""
    return asked.accept_mimetypes.best_match((JSON_TYPE, HTML_TYPE), JSON_TYPE) == HTML_TYPE

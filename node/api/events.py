"""GET events, one event, its certification, its certificate; GET a batch."""

from functools import partial

import trio
from quart import Blueprint, Request, Response, request

from node.api import certificate_page
from node.api.services import Services
from node.api.wire import JSON_TYPE, answer, choice_parameter, only_parameters, page_size
from node.delivery import history

STATUSES = ("any", "pending", "certified", "invalid", "dead")


def routes(services: Services) -> Blueprint:
    blueprint = Blueprint("events", __name__)
    database, network = services.database, services.settings.network

    @blueprint.get("/overlay/events")
    async def list_events() -> Response:
        only_parameters(request, "status", "sourceId", "externalId", "after", "limit")
        call = partial(
            history.page,
            status=choice_parameter(request, "status", STATUSES, "any"),
            source_id=request.args.get("sourceId"),
            external_id=request.args.get("externalId"),
            after=request.args.get("after", ""),
            limit=page_size(request),
        )
        return answer(await database.run(call))

    @blueprint.get("/overlay/events/<event_id>")
    async def get_event(event_id: str) -> Response:
        return answer(await database.run(partial(history.event_document_of, event_id=event_id)))

    @blueprint.get("/overlay/events/<event_id>/certification")
    async def get_certification(event_id: str) -> Response:
        call = partial(history.certification, event_id=event_id, network=network)
        return answer(await database.run(call))

    @blueprint.get("/overlay/events/<event_id>/versions")
    async def list_versions(event_id: str) -> Response:
        only_parameters(request, "limit")
        call = partial(history.versions_document, event_id=event_id, limit=page_size(request))
        return answer(await database.run(call))

    @blueprint.get("/overlay/events/<event_id>/certificate")
    async def get_certificate(event_id: str) -> Response:
        wanted = choice_parameter(request, "format", ("json", "html"), _preferred(request))
        document, objects = await database.run(partial(history.certificate_and_objects, event_id=event_id))
        response = answer(document) if wanted == "json" else await page_of(document, objects)
        response.headers["Vary"] = "Accept"
        return response

    async def page_of(document: history.Document, objects: history.Document) -> Response:
        operators = {agent["identityKey"]: agent["operator"] for agent in services.network_view.agents()}
        page = partial(certificate_page.render, document, objects=objects, operators=operators)
        response = Response(await trio.to_thread.run_sync(page), content_type="text/html; charset=utf-8")
        response.headers["Content-Security-Policy"] = certificate_page.PAGE_POLICY
        return response

    @blueprint.get("/overlay/batches/<batch_id>")
    async def get_batch(batch_id: str) -> Response:
        return answer(await database.run(partial(history.batch_document, batch_id=batch_id, network=network)))

    return blueprint


def _preferred(asked: Request) -> str:
    """What a client wants by its Accept header: a browser names text/html, anybody else gets JSON."""
    best = asked.accept_mimetypes.best_match((JSON_TYPE, "text/html"), JSON_TYPE)
    return "html" if best == "text/html" else "json"

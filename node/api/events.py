"""GET events, one event, its certification, its certificate; GET a batch."""

from functools import partial

from quart import Blueprint, Response, request

from node import history
from node.api.services import Services
from node.api.wire import answer, choice_parameter, only_parameters, page_size

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

    @blueprint.get("/overlay/events/<event_id>/certificate")
    async def get_certificate(event_id: str) -> Response:
        call = partial(history.certificate_document, event_id=event_id, network=network)
        return answer(await database.run(call))

    @blueprint.get("/overlay/batches/<batch_id>")
    async def get_batch(batch_id: str) -> Response:
        return answer(await database.run(partial(history.batch_document, batch_id=batch_id, network=network)))

    return blueprint

"""GET an event, its certification, its certificate; GET a batch."""

from functools import partial

from quart import Blueprint, Response

from node import history
from node.api.services import Services
from node.api.wire import answer


def routes(services: Services) -> Blueprint:
    blueprint = Blueprint("events", __name__)
    database, network = services.database, services.settings.network

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

"""POST /overlay/sources/{sourceId}/webhook: what senders push to a source."""

from quart import Blueprint, Response, g, request

from node.api.acknowledging import acknowledgement, coding_of, wants_minimal
from node.api.services import Services
from node.api.wire import answer, read_body
from node.ingest.responses import IngestAnswer
from node.runtime.access import Need
from node.sources import Webhooks


def routes(services: Services) -> Blueprint:
    blueprint = Blueprint("webhooks", __name__)
    settings, access = services.settings, services.access
    bytes_max = settings.body_bytes_max
    webhooks = Webhooks(
        database=services.database, ingest=services.ingest, manager=services.sources, bytes_max=bytes_max
    )

    @blueprint.post("/overlay/sources/<source_id>/webhook")
    async def take_delivery(source_id: str) -> Response:
        coding = coding_of(request)
        endpoint = await webhooks.endpoint(source_id)
        if not endpoint.is_proven and not access.permits(g.caller, Need.SEND):
            raise access.refusal(g.caller, Need.SEND)
        with services.ingest.admission.budget() as budget:
            body = await read_body(request, settings.body_timeout_s, bytes_max, budget)
            found = await webhooks.receive(
                endpoint,
                body,
                headers={name.lower(): value for name, value in request.headers.items()},
                media_type=request.mimetype,
                coding=coding,
            )
        if isinstance(found, IngestAnswer):
            return await acknowledgement(found, minimal=wants_minimal(request))
        return answer(found, 202 if "counts" in found else 200)

    return blueprint

"""Sources: create, read, list, change, replace."""

from functools import partial

from quart import Blueprint, Response, g, request

from node import source_documents as documents
from node.api.services import Services
from node.api.wire import answer, only_parameters, page_size, read_document


def routes(services: Services) -> Blueprint:
    blueprint = Blueprint("sources", __name__)
    database, timeout_s = services.database, services.settings.body_timeout_s

    @blueprint.post("/overlay/sources")
    async def create_source() -> Response:
        values = documents.whole(await read_document(request, timeout_s))
        made = await database.run(partial(documents.create, values=values, caller=g.caller))
        response = answer(made, 201)
        response.headers["Location"] = f"/overlay/sources/{made['sourceId']}"
        return response

    @blueprint.get("/overlay/sources")
    async def list_sources() -> Response:
        only_parameters(request, "after", "limit")
        call = partial(documents.page, after=request.args.get("after", ""), limit=page_size(request))
        return answer(await database.run(call))

    @blueprint.get("/overlay/sources/<source_id>")
    async def get_source(source_id: str) -> Response:
        return answer(await database.run(partial(documents.get, source_id=source_id)))

    @blueprint.patch("/overlay/sources/<source_id>")
    async def change_source(source_id: str) -> Response:
        values = documents.read_values(await read_document(request, timeout_s))
        return answer(
            await database.run(partial(documents.change, source_id=source_id, values=values, caller=g.caller))
        )

    @blueprint.put("/overlay/sources/<source_id>")
    async def replace_source(source_id: str) -> Response:
        values = documents.whole(await read_document(request, timeout_s), source_id=source_id)
        return answer(
            await database.run(partial(documents.change, source_id=source_id, values=values, caller=g.caller))
        )

    return blueprint

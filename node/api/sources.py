"""Sources: create, read, list, change, replace, delete; how those that this node reads are doing."""

from functools import partial
from typing import Any

from quart import Blueprint, Response, g, request

from node.api.services import Services
from node.api.wire import answer, only_parameters, page_size, read_document
from node.sources import documents


def routes(services: Services) -> Blueprint:
    blueprint = Blueprint("sources", __name__)
    database, timeout_s = services.database, services.settings.body_timeout_s
    manager = services.sources

    def with_state(source: dict[str, Any]) -> dict[str, Any]:
        has_door = source["enabled"] and source["sourceType"] == "webhook" and source["configuration"].get("scheme")
        state = manager.endpoint_state if has_door else manager.state
        return {**source, "state": state(source["sourceId"])}

    @blueprint.post("/overlay/sources")
    async def create_source() -> Response:
        values = documents.whole(await read_document(request, timeout_s))
        made = await database.run(partial(documents.create, values=values, caller=g.caller))
        manager.changed(made["sourceId"])
        response = answer(with_state(made), 201)
        response.headers["Location"] = f"/overlay/sources/{made['sourceId']}"
        return response

    @blueprint.get("/overlay/sources")
    async def list_sources() -> Response:
        only_parameters(request, "after", "limit")
        call = partial(documents.page, after=request.args.get("after", ""), limit=page_size(request))
        page = await database.run(call)
        return answer({**page, "sources": [with_state(source) for source in page["sources"]]})

    @blueprint.get("/overlay/sources/<source_id>")
    async def get_source(source_id: str) -> Response:
        return answer(with_state(await database.run(partial(documents.get, source_id=source_id))))

    @blueprint.patch("/overlay/sources/<source_id>")
    async def change_source(source_id: str) -> Response:
        values = documents.read_values(await read_document(request, timeout_s))
        call = partial(documents.change, source_id=source_id, values=values, caller=g.caller)
        changed = await database.run(call)
        manager.changed(source_id)
        return answer(with_state(changed))

    @blueprint.put("/overlay/sources/<source_id>")
    async def replace_source(source_id: str) -> Response:
        values = documents.whole(await read_document(request, timeout_s), source_id=source_id)
        call = partial(documents.change, source_id=source_id, values=values, caller=g.caller)
        changed = await database.run(call)
        manager.changed(source_id)
        return answer(with_state(changed))

    @blueprint.delete("/overlay/sources/<source_id>")
    async def delete_source(source_id: str) -> Response:
        await database.run(partial(documents.delete, source_id=source_id, caller=g.caller))
        manager.forget_endpoint(source_id)
        manager.changed(source_id)
        return Response(b"", status=204)

    @blueprint.get("/overlay/sources/<source_id>/progress")
    async def get_progress(source_id: str) -> Response:
        progress = await database.run(partial(documents.progress, source_id=source_id))
        source = await database.run(partial(documents.get, source_id=source_id))
        return answer({**progress, "state": with_state(source)["state"]})

    @blueprint.delete("/overlay/sources/<source_id>/progress")
    async def rewind_source(source_id: str) -> Response:
        await database.run(partial(documents.rewind, source_id=source_id, caller=g.caller))
        manager.restart(source_id)
        return Response(b"", status=204)

    return blueprint

"""Sources: create, read, list, change, replace, delete; how those that this node reads are doing."""

from functools import partial

from quart import Blueprint, Response, g, request

from node.api.services import Services
from node.api.wire import answer, only_parameters, page_size, read_document
from node.sources import registry
from node.sources.documents import SourceDocument, SourceState, read_change, read_source


def routes(services: Services) -> Blueprint:
    blueprint = Blueprint("sources", __name__)
    database, timeout_s = services.database, services.settings.body_timeout_s
    manager = services.sources

    def state(source: SourceDocument) -> SourceState | None:
        takes_webhooks = source.enabled and source.source_type == "webhook" and source.configuration.get("scheme")
        return (manager.endpoints.state if takes_webhooks else manager.state)(source.source_id)

    def with_state(source: SourceDocument) -> SourceDocument:
        return source.model_copy(update={"state": state(source)})

    @blueprint.post("/overlay/sources")
    async def create_source() -> Response:
        source = read_source(await read_document(request, timeout_s))
        created = await database.run(partial(registry.create, source=source, caller=g.caller))
        manager.changed(created.source_id)
        response = answer(with_state(created).to_json(), 201)
        response.headers["Location"] = f"/overlay/sources/{created.source_id}"
        return response

    @blueprint.get("/overlay/sources")
    async def list_sources() -> Response:
        only_parameters(request, "after", "limit")
        call = partial(registry.page, after=request.args.get("after", ""), limit=page_size(request))
        page = await database.run(call)
        page = page.model_copy(update={"sources": [with_state(source) for source in page.sources]})
        return answer(page.to_json())

    @blueprint.get("/overlay/sources/<source_id>")
    async def get_source(source_id: str) -> Response:
        return answer(with_state(await database.run(partial(registry.get, source_id=source_id))).to_json())

    @blueprint.patch("/overlay/sources/<source_id>")
    async def change_source(source_id: str) -> Response:
        change = read_change(await read_document(request, timeout_s))
        call = partial(registry.change, source_id=source_id, change=change, caller=g.caller)
        changed = await database.run(call)
        manager.changed(source_id)
        return answer(with_state(changed).to_json())

    @blueprint.put("/overlay/sources/<source_id>")
    async def replace_source(source_id: str) -> Response:
        source = read_source(await read_document(request, timeout_s), source_id=source_id)
        call = partial(registry.change, source_id=source_id, change=source, caller=g.caller)
        changed = await database.run(call)
        manager.changed(source_id)
        return answer(with_state(changed).to_json())

    @blueprint.delete("/overlay/sources/<source_id>")
    async def delete_source(source_id: str) -> Response:
        await database.run(partial(registry.delete, source_id=source_id, caller=g.caller))
        manager.endpoints.forget(source_id)
        manager.changed(source_id)
        return Response(b"", status=204)

    @blueprint.get("/overlay/sources/<source_id>/progress")
    async def get_progress(source_id: str) -> Response:
        progress = await database.run(partial(registry.progress, source_id=source_id))
        source = await database.run(partial(registry.get, source_id=source_id))
        return answer(progress.model_copy(update={"state": state(source)}).to_json())

    @blueprint.delete("/overlay/sources/<source_id>/progress")
    async def rewind_source(source_id: str) -> Response:
        await database.run(partial(registry.rewind, source_id=source_id, caller=g.caller))
        manager.restart(source_id)
        return Response(b"", status=204)

    return blueprint

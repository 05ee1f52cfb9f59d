"""Sources: create, read, list, change, replace, delete; how those that this node reads are doing."""

from functools import partial
from typing import Final

from quart import Response, g

from node.api.models.base import JsonObject, PageQuery
from node.api.operations import Answer, Document, Operation, Resource, json_answer, links_to
from node.api.services import Services
from node.api.wire import answer
from node.sources import registry
from node.sources.documents import (
    SourceChange,
    SourceDocument,
    SourceId,
    SourceInput,
    SourcePage,
    SourceProgress,
    SourceReplacement,
    SourceState,
    read_change,
    read_source,
)

EXAMPLE: Final = {
    "sourceId": "iot-sensors-farm-001",
    "name": "Farm 1",
    "sourceType": "webhook",
    "mappingPolicy": {"required": ["sensorId", "value"]},
    "validationRules": {"bounds": [{"field": "value", "min": -90, "max": 60}]},
    "overlayTopics": ["gitdata.events.iot"],
}
NAMED: Final = {"source_id": SourceId}
SAVED: Final = json_answer("The source.", SourceDocument)
CREATED: Final = json_answer(
    "The source.",
    SourceDocument,
    links=links_to(
        "sourceId",
        "/sourceId",
        "getSource",
        "changeSource",
        "replaceSource",
        "deleteSource",
        "getProgress",
        "rewindSource",
        "takeDelivery",
    ),
    Location="Its address.",
)
BAD_DOCUMENT: Final = (
    "invalid-json",
    "invalid-request",
    "unsupported-media-type",
    "invalid-configuration",
    "invalid-policy",
    "body-too-large",
)

sources = Resource("sources", lambda services: services)


@sources.post(
    "/overlay/sources",
    Operation(
        operation_id="createSource",
        tag="sources",
        summary="Register a source",
        body=Document(model=SourceInput, example=EXAMPLE, read=read_source),
        answers={201: CREATED},
        problems=("source-exists", "unknown-policy", *BAD_DOCUMENT),
    ),
)
async def create_source(services: Services, document: SourceInput) -> Response:
    created = await services.database.run(partial(registry.create, source=document, caller=g.caller))
    services.sources.changed(created.source_id)
    response = _answer(services, created, 201)
    response.headers["Location"] = f"/overlay/sources/{created.source_id}"
    return response


@sources.get(
    "/overlay/sources",
    Operation(
        operation_id="listSources",
        tag="sources",
        summary="Sources by id",
        query=PageQuery,
        answers={200: json_answer("A page.", SourcePage)},
    ),
)
async def list_sources(services: Services, query: PageQuery) -> Response:
    page = await services.database.run(partial(registry.page, after=query.after, limit=query.limit))
    page = page.model_copy(update={"sources": [_with_state(services, source) for source in page.sources]})
    return answer(page.to_json())


@sources.get(
    "/overlay/sources/<source_id>",
    Operation(
        operation_id="getSource",
        tag="sources",
        summary="A source",
        path=NAMED,
        answers={200: SAVED},
        problems=("unknown-source",),
    ),
)
async def get_source(services: Services, source_id: str) -> Response:
    return _answer(services, await services.database.run(partial(registry.get, source_id=source_id)))


@sources.patch(
    "/overlay/sources/<source_id>",
    Operation(
        operation_id="changeSource",
        tag="sources",
        summary="Change the fields sent",
        path=NAMED,
        body=Document(model=SourceChange, example={"enabled": False}, read=read_change),
        answers={200: SAVED},
        problems=("unknown-source", "unknown-policy", *BAD_DOCUMENT),
    ),
)
async def change_source(services: Services, source_id: str, document: SourceChange) -> Response:
    return await _changed(services, source_id, document)


@sources.put(
    "/overlay/sources/<source_id>",
    Operation(
        operation_id="replaceSource",
        tag="sources",
        summary="Replace a source: fields not sent get their defaults",
        path=NAMED,
        body=Document(model=SourceReplacement, example=EXAMPLE, read=dict),  # read with the id in the address, below
        answers={200: SAVED},
        problems=("unknown-source", "unknown-policy", "fixed-member", *BAD_DOCUMENT),
    ),
)
async def replace_source(services: Services, source_id: str, document: JsonObject) -> Response:
    return await _changed(services, source_id, read_source(document, source_id=source_id))


@sources.delete(
    "/overlay/sources/<source_id>",
    Operation(
        operation_id="deleteSource",
        tag="sources",
        summary="Delete a source; its events stay",
        path=NAMED,
        answers={204: Answer(description="It is deleted.")},
        problems=("unknown-source",),
    ),
)
async def delete_source(services: Services, source_id: str) -> Response:
    await services.database.run(partial(registry.delete, source_id=source_id, caller=g.caller))
    services.sources.endpoints.forget(source_id)
    services.sources.changed(source_id)
    return Response(b"", status=204)


@sources.get(
    "/overlay/sources/<source_id>/progress",
    Operation(
        operation_id="getProgress",
        tag="sources",
        summary="How far a source that this node reads was read, and what it sent that is no event",
        path=NAMED,
        answers={200: json_answer("As of now.", SourceProgress)},
        problems=("unknown-source",),
    ),
)
async def get_progress(services: Services, source_id: str) -> Response:
    progress = await services.database.run(partial(registry.progress, source_id=source_id))
    source = await services.database.run(partial(registry.get, source_id=source_id))
    return answer(progress.model_copy(update={"state": _state(services, source)}).to_json())


@sources.delete(
    "/overlay/sources/<source_id>/progress",
    Operation(
        operation_id="rewindSource",
        tag="sources",
        summary="Read a source from its beginning again; events that are known are repeats",
        path=NAMED,
        answers={204: Answer(description="It is read from its beginning.")},
        problems=("unknown-source",),
    ),
)
async def rewind_source(services: Services, source_id: str) -> Response:
    await services.database.run(partial(registry.rewind, source_id=source_id, caller=g.caller))
    services.sources.restart(source_id)
    return Response(b"", status=204)


async def _changed(services: Services, source_id: str, change: SourceChange | SourceInput) -> Response:
    call = partial(registry.change, source_id=source_id, change=change, caller=g.caller)
    changed = await services.database.run(call)
    services.sources.changed(source_id)
    return _answer(services, changed)


def _answer(services: Services, source: SourceDocument, status: int = 200) -> Response:
    return answer(_with_state(services, source).to_json(), status)


def _with_state(services: Services, source: SourceDocument) -> SourceDocument:
    return source.model_copy(update={"state": _state(services, source)})


def _state(services: Services, source: SourceDocument) -> SourceState | None:
    manager = services.sources
    takes_webhooks = source.enabled and source.source_type == "webhook" and source.configuration.get("scheme")
    return (manager.endpoints.state if takes_webhooks else manager.state)(source.source_id)

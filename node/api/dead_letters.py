"""/overlay/dead-letters: batches that ran out of attempts, for operators."""

from quart import Blueprint, Response, g, request

from node.api.services import Services
from node.api.wire import answer, only_parameters, page_size


def routes(services: Services) -> Blueprint:
    blueprint = Blueprint("dead_letters", __name__)
    letters = services.dead_letters

    @blueprint.get("/overlay/dead-letters")
    async def list_dead_letters() -> Response:
        only_parameters(request, "limit", "before")
        return answer(await letters.page(request.args.get("before", ""), page_size(request)))

    @blueprint.get("/overlay/dead-letters/<batch_id>")
    async def get_dead_letter(batch_id: str) -> Response:
        return answer(await letters.get(batch_id))

    @blueprint.post("/overlay/dead-letters/<batch_id>/replay")
    async def replay_dead_letter(batch_id: str) -> Response:
        return answer(await letters.replay(batch_id, g.caller.identity), 202)

    @blueprint.post("/overlay/dead-letters/replay")
    async def replay_dead_letters() -> Response:
        return answer(await letters.replay_all(g.caller.identity), 202)

    return blueprint

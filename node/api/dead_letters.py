"""/overlay/dead-letters: batches that ran out of attempts, for operators."""

from quart import Response, g

from node.api.models.dead_letters import DeadLetterDocument, DeadLetterPage, DeadLetterQuery, ReplayedBatches
from node.api.operations import OTHER, Operation, Resource, json_answer
from node.api.services import Services
from node.api.wire import answer
from node.coordination.dead_letters import REPLAYED_AT_ONCE, DeadLetters


def _dead_letters(services: Services) -> DeadLetters:
    return services.dead_letters


dead_letters = Resource("dead_letters", _dead_letters)


@dead_letters.get(
    "/overlay/dead-letters",
    Operation(
        operation_id="listDeadLetters",
        tag="batches",
        summary="Batches that ran out of attempts, the latest first",
        query=DeadLetterQuery,
        answers={200: json_answer("A page.", DeadLetterPage)},
    ),
)
async def list_dead_letters(letters: DeadLetters, query: DeadLetterQuery) -> Response:
    return answer(await letters.page(query.before, query.limit))


@dead_letters.get(
    f"/overlay/dead-letters/<{OTHER}('replay'):batch_id>",
    Operation(
        operation_id="getDeadLetter",
        tag="batches",
        summary="Why a batch is dead, attempt by attempt, and when it was tried again",
        answers={200: json_answer("The batch.", DeadLetterDocument)},
        problems=("unknown-dead-letter",),
    ),
)
async def get_dead_letter(letters: DeadLetters, batch_id: str) -> Response:
    return answer(await letters.get(batch_id))


@dead_letters.post(
    "/overlay/dead-letters/<batch_id>/replay",
    Operation(
        operation_id="replayDeadLetter",
        tag="batches",
        summary="Have a dead batch tried again, with all its attempts",
        answers={202: json_answer("It waits again.", ReplayedBatches)},
        problems=("unknown-dead-letter", "not-dead", "overloaded"),
    ),
)
async def replay_dead_letter(letters: DeadLetters, batch_id: str) -> Response:
    return answer(await letters.replay(batch_id, g.caller.identity), 202)


@dead_letters.post(
    "/overlay/dead-letters/replay",
    Operation(
        operation_id="replayDeadLetters",
        tag="batches",
        summary=f"Have the latest {REPLAYED_AT_ONCE} dead batches tried again",
        answers={202: json_answer("They wait again.", ReplayedBatches)},
        problems=("overloaded",),
    ),
)
async def replay_dead_letters(letters: DeadLetters) -> Response:
    return answer(await letters.replay_all(g.caller.identity), 202)

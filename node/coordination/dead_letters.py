"""Batches that ran out of attempts, for operators: why they did, and replays."""

import re
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final

import trio

from node.coordination.serialization import read_manifest
from node.runtime.clock import clock_ms
from protocols.certificate import rfc3339
from protocols.errors import ClientFault
from protocols.messages import IdentityKey, Level, Manifest
from protocols.stimuli import BatchReplayed, Stimulus
from storage import batches, dead_letters
from storage.database import Database
from storage.dead_letters import DeadLetter

Document = dict[str, Any]

REPLAYED_AT_ONCE: Final = 100
BEFORE: Final = re.compile("([0-9]{1,15})_(batch_[0-9a-f]{64})")


class UnknownDeadLetterError(ClientFault):
    code = "unknown-dead-letter"


class NotDeadError(ClientFault):
    """The batch has its end, or is on its way to it. Fields ``batchId``, ``state``."""

    code = "not-dead"


class UnknownPageError(ClientFault):
    code = "invalid-parameter"


class DeadLetters:
    """Lists, inspects, replays."""

    def __init__(
        self,
        *,
        network: str,
        database: Database,
        submit: Callable[[Stimulus], Awaitable[None]],
        enter: Callable[[Manifest], None],
        refuse_if_full: Callable[[], None],
    ) -> None:
        """Args:
        submit: Hands a stimulus to the driver.
        enter: Counts a batch in that waits for its end again.
        refuse_if_full: Raises OverloadedError while as many are unsettled as may be.
        """
        self._network = network
        self._database = database
        self._submit = submit
        self._enter = enter
        self._refuse_if_full = refuse_if_full

    async def page(self, before: str, limit: int) -> Document:
        """The latest first. ``before`` is what an earlier page named as ``nextBefore``; empty for the first.

        Raises:
            UnknownPageError: no page named it.
        """
        named = BEFORE.fullmatch(before)
        if before and named is None:
            raise UnknownPageError(
                "`before` must be a value that an earlier page gave as `nextBefore`",
                field="before",
                remedy="send nextBefore unchanged",
            )
        before_ms, batch_id = (2**62, "") if named is None else (int(named[1]), named[2])
        found = await self._database.run(
            partial(dead_letters.page, before_ms=before_ms, before_id=batch_id, limit=limit)
        )
        last = f"{found[-1].dead_ms}_{found[-1].batch_id}" if len(found) == limit else None
        return {"deadLetters": [_summary(each) for each in found], "nextBefore": last}

    async def get(self, batch_id: str) -> Document:
        """All that is known about a batch that is dead, or was until it was replayed.

        Raises:
            UnknownDeadLetterError: it never was dead on this node.
        """
        letter = await self._database.run(partial(dead_letters.get, batch_id=batch_id))
        if letter is None:
            raise UnknownDeadLetterError(
                f"no batch {batch_id[:100]!r} is or was dead on this node", batchId=batch_id[:100]
            )
        lives = await self._database.run(partial(dead_letters.replays, batch_id=batch_id))
        return {
            **_summary(letter),
            "replays": [
                {
                    "askedBy": None if each.asked_by is None else each.asked_by.hex(),
                    "at": rfc3339(each.at_ms),
                    "reasons": each.reasons,
                }
                for each in lives
            ],
        }

    async def replay(self, batch_id: str, asked_by: IdentityKey | None) -> Document:
        """Retry one, with all its attempts.

        Raises:
            NotDeadError: there is nothing to replay. UnknownDeadLetterError: no such batch.
        """
        replayed = await self._replay([batch_id], asked_by)
        if not replayed:
            row = await self._database.run(lambda connection: batches.get(connection, batch_id))
            if row is None:
                raise UnknownDeadLetterError(f"this node has no batch {batch_id[:100]!r}", batchId=batch_id[:100])
            raise NotDeadError(
                f"the batch is {row.state}" if row.state != "dead" else "only its coordinator can replay the batch",
                batchId=batch_id,
                state=row.state,
            )
        return {"replayed": replayed}

    async def replay_all(self, asked_by: IdentityKey | None) -> Document:
        """Retry the latest ``REPLAYED_AT_ONCE``; a further call takes the next.

        Raises:
            OverloadedError: as many events are unsettled as may be.
        """
        latest = partial(dead_letters.page, before_ms=2**62, before_id="", limit=REPLAYED_AT_ONCE)
        found = await self._database.run(latest)
        own = [each.batch_id for each in found if each.coordinator is None]
        return {"replayed": await self._replay(own, asked_by)}

    async def _replay(self, batch_ids: Sequence[str], asked_by: IdentityKey | None) -> list[str]:
        """Change the rows first: batches that a crash keeps from the driver are submitted at the next start."""
        self._refuse_if_full()
        work = partial(dead_letters.replay, batch_ids=batch_ids, asked_by=asked_by, now_ms=clock_ms())
        with trio.CancelScope(shield=True):  # a client that leaves must not keep the stimulus from the driver
            replayed = await self._database.run(work)
            for each in replayed:
                signed = read_manifest(each.manifest, self._network)
                self._enter(signed.message)
                stimulus = BatchReplayed(
                    now_ms=clock_ms(), manifest=signed, stateful=each.stateful, holders=each.holders
                )
                await self._submit(stimulus)
        return [each.batch_id for each in replayed]


def _summary(letter: DeadLetter) -> Document:
    return {
        "batchId": letter.batch_id,
        "sourceId": letter.source_id,
        "level": Level(letter.level).word,
        "quorum": letter.quorum,
        "events": letter.events,
        "attempts": letter.attempts,
        "reasons": letter.reasons,
        "receivedAt": rfc3339(letter.received_ms),
        "state": letter.state,
        "deadAt": None if letter.dead_ms is None else rfc3339(letter.dead_ms),
        "coordinator": None if letter.coordinator is None else letter.coordinator.hex(),
    }

"""Batches that wait to be held by peers: a request is answered once all of its batches are."""

from collections.abc import Collection, Mapping

import attrs
import trio

from protocols.messages import IdentityKey


@attrs.define
class _Wait:
    done: trio.Event = attrs.Factory(trio.Event)
    holders: tuple[IdentityKey, ...] = ()


class Replications:
    """Batches that are to be replicated and are not yet. Those of an earlier run of the node count as such."""

    def __init__(self) -> None:
        self._waits: dict[str, _Wait] = {}

    def expect(self, batch_id: str) -> None:
        """A batch was committed that is to be replicated. Bounded as the batches without an end are."""
        self._waits.setdefault(batch_id, _Wait())

    def waits(self, batch_id: str) -> bool:
        return batch_id in self._waits

    def held(self, batch_id: str, holders: tuple[IdentityKey, ...]) -> None:
        """Enough peers hold a batch; or it has its end and needs no holders any more: none are named."""
        wait = self._waits.pop(batch_id, None)
        if wait is not None:
            wait.holders = holders
            wait.done.set()

    async def wait(
        self, batch_ids: Collection[str], timeout_s: float
    ) -> Mapping[str, tuple[IdentityKey, ...]] | None:
        """Who holds each of these batches, once all are held; None where that takes too long."""
        waits = {batch_id: self._waits[batch_id] for batch_id in batch_ids if batch_id in self._waits}
        with trio.move_on_after(timeout_s):
            for wait in waits.values():
                await wait.done.wait()
            return {batch_id: wait.holders for batch_id, wait in waits.items()}
        return None

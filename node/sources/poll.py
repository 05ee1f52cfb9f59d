"""Reads sources by polling them over HTTP.

The events of an answer are submitted together with the position after it: both are on disk, or neither. So a crash
repeats at most one request, whose events are recognized as duplicates by their ids.
"""

import random
from functools import partial
from typing import Final, TypedDict

import httpx
import trio

from node.runtime.guarded_http import (
    REDIRECTS,
    Fetched,
    fetch,
    guarded_client,
    post,
    retry_after_s,
    same_origin,
    shown_origin,
)
from node.runtime.guarded_network import OutboundFault
from node.runtime.workers import WorkerCrashedError, WorkerTimeoutError
from node.sources.intake import SourceConnector, SourceFault, SourceIntake
from node.sources.positions import (
    PollPosition,
    may_be_unchanged,
    next_page,
    position_of,
    request_digest,
    request_url,
    seen,
    validators,
)
from node.sources.settings.poll import PollSourceSettings
from node.worker.parsing.polled import Polled, read_body, unpacked
from node.worker.parsing.text import UnreadableBodyError

OK: Final = 200
NOTHING: Final = frozenset({204, 304})
LASTING: Final = frozenset({400, 401, 403, 404, 405, 406, 407, 410, 414, 415, 421, 422, 431, 451, 501})
ACCEPT: Final = {
    "json": "application/json, */*;q=0.5",
    "ndjson": "application/x-ndjson, application/jsonl, */*;q=0.5",
    "csv": "text/csv, */*;q=0.5",
    "feed": "application/atom+xml, application/rss+xml, application/xml;q=0.9, */*;q=0.5",
}


async def run(intake: SourceIntake) -> None:
    """Poll a source until cancelled.

    Raises:
        SourceFault: It does not answer as it should; ``retryAfter`` in seconds where it asks for a pause.
        WorldFault: Its events could not be submitted.
    """
    settings = intake.settings
    assert isinstance(settings, PollSourceSettings), "settings are read by the source type"
    async with guarded_client(intake.outbound_allowed, settings.timeout, tls=settings.tls()) as client:
        poller = Poller(intake, settings, client)
        while True:
            detail = await poller.poll()
            intake.connected(detail)
            jitter = settings.jitter * random.random()  # noqa: S311  # spreads load, guards nothing
            await trio.sleep(settings.interval * (1 - jitter))


CONNECTOR: Final = SourceConnector(run=run)


class Poller:
    """Polls one source, from its saved position on."""

    def __init__(self, intake: SourceIntake, settings: PollSourceSettings, client: httpx.AsyncClient) -> None:
        self._intake = intake
        self._settings = settings
        self._client = client
        self._position = position_of(settings, intake.position)
        self._continues = settings.pages_from == "last"

    async def poll(self) -> str:
        """Request new events, page after page up to the bound. Returns the detail to show."""
        here = self._position
        start: PollPosition | None = None  # where every poll begins that reads the newest page first
        for _ in range(self._settings.pages_max):
            answer = await self._request(here)
            polled = None if answer is None else await self._read(answer, here)
            if answer is None or polled is None or (polled.is_same and may_be_unchanged(self._settings)):
                self._report_lag(None, is_last=True)
                break
            after = self._next_position(here, answer, polled)
            stays = seen(self._settings, here, answer, polled)
            start = start or stays
            await self._submit(polled, (after or stays) if self._continues else None)
            self._intake.connected()
            self._report_lag(polled, is_last=after is None)
            if after is None or (self._continues and not polled.events and not polled.is_same):
                break
            here = after
        else:
            await self._save_start(start)
            rest = "the next poll continues" if self._continues else "older pages are not read"
            return f"more than {self._settings.pages_max} pages: {rest}"
        await self._save_start(start)
        return ""

    async def _request(self, here: PollPosition) -> Fetched | None:
        """The answer to the request at a position; None where nothing is new."""
        settings, url = self._settings, request_url(self._settings, here)
        headers = {"Accept": ACCEPT[settings.format], **validators(settings, here)}
        private_headers = settings.private_headers if same_origin(url, settings.url) else {}
        bounds: _Bounds = {"bytes_max": settings.bytes_max, "timeout_s": settings.timeout}
        try:
            if settings.method == "POST":
                sent = httpx.Headers(headers)
                sent.update(private_headers)
                answer = await post(self._client, url, content=settings.body.encode(), headers=sent, **bounds)
            else:
                answer = await fetch(self._client, url, headers=headers, private_headers=private_headers, **bounds)
        except OutboundFault as fault:
            raise SourceFault(str(fault)) from fault
        if answer.status in NOTHING:
            return None
        if answer.status != OK:
            raise self._refusal(answer)
        if answer.is_cut:
            raise self._lasting_fault(
                f"{shown_origin(answer.url)}: the body has more than {settings.bytes_max} bytes"
            )
        return answer

    async def _read(self, answer: Fetched, here: PollPosition) -> Polled:
        is_again = here.request == request_digest(self._settings, here)
        call = partial(
            read_body,
            answer.body,
            self._settings.reader,
            headers=answer.headers,
            digest_before=here.digest if is_again else "",
        )
        try:
            return await self._intake.compute(call, len(answer.body))
        except UnreadableBodyError as error:
            raise self._lasting_fault(f"{shown_origin(answer.url)}: the body {error}") from error
        except (WorkerTimeoutError, WorkerCrashedError) as error:
            raise self._lasting_fault(
                f"{shown_origin(answer.url)}: the body cannot be read within the limits: {error}"
            ) from error

    def _next_position(self, here: PollPosition, answer: Fetched, polled: Polled) -> PollPosition | None:
        try:
            return next_page(self._settings, here, answer, polled)
        except OutboundFault as fault:
            raise self._lasting_fault(str(fault)) from fault

    async def _submit(self, polled: Polled, after: PollPosition | None) -> None:
        """Submit the events of a page; the last of them with the position after it."""
        saved = None if after is None else after.saved()
        for number, part in enumerate(polled.parts, start=1):
            await self._intake.take(unpacked(part), position=saved if number == len(polled.parts) else None)
        if after is not None:
            if not polled.parts and saved != self._intake.position:
                await self._intake.take([], position=saved)
            self._position = after

    async def _save_start(self, start: PollPosition | None) -> None:
        """Save where the next poll begins, once all pages of this one are on disk."""
        if not self._continues and start is not None:
            await self._intake.take([], position=start.saved())
            self._position = start

    def _report_lag(self, polled: Polled | None, *, is_last: bool) -> None:
        stated = None if polled is None else polled.lag
        if stated is not None or not self._settings.lag_path:
            self._intake.report_lag(stated if stated is not None else 0 if is_last else None)

    def _refusal(self, answer: Fetched) -> SourceFault:
        text = f"{shown_origin(answer.url)} answers {answer.status}"
        if answer.status in REDIRECTS:
            return self._lasting_fault(f"{text}, a redirect that is not followed")
        asked_s = retry_after_s(answer.headers.get("retry-after", ""))
        if asked_s is not None:
            return SourceFault(f"{text} and asks to wait {asked_s:.0f} s", retryAfter=asked_s)
        return self._lasting_fault(text) if answer.status in LASTING else SourceFault(text)

    def _lasting_fault(self, text: str) -> SourceFault:
        """A fault that will not pass soon: the source is requested again at the next regular poll."""
        return SourceFault(text, retryAfter=self._settings.interval)


class _Bounds(TypedDict):
    bytes_max: int
    timeout_s: float

"""Reads sources by asking for news over HTTP.

What an answer says is handed on first, with the position after it as the mark: both are on disk, or neither. So a
crash at any moment repeats a request at most, and its events are duplicates by their ids.
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
    place,
    post,
    retry_after_s,
    same_origin,
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
        SourceFault: It does not answer, or not with what it should; ``retryAfter`` where it asks for patience, s.
        WorldFault: Its events could not be handed on.
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
    """One source, from where its mark says it is."""

    def __init__(self, intake: SourceIntake, settings: PollSourceSettings, client: httpx.AsyncClient) -> None:
        self._intake = intake
        self._settings = settings
        self._client = client
        self._position = position_of(settings, intake.position)
        self._goes_on = settings.pages_from == "last"

    async def poll(self) -> str:
        """Ask for what is new, page after page up to the bound. Returns what is to be shown."""
        here = self._position
        start: PollPosition | None = None  # where every poll begins that reads the newest page first
        for _ in range(self._settings.pages_max):
            answer = await self._ask(here)
            polled = None if answer is None else await self._read(answer, here)
            if answer is None or polled is None or (polled.is_same and may_be_unchanged(self._settings)):
                self._lags(None, is_last=True)
                break
            after = self._after(here, answer, polled)
            stays = seen(self._settings, here, answer, polled)
            start = start or stays
            await self._hand_on(polled, (after or stays) if self._goes_on else None)
            self._intake.connected()
            self._lags(polled, is_last=after is None)
            if after is None or (self._goes_on and not polled.events and not polled.is_same):
                break
            here = after
        else:
            await self._begin_at(start)
            rest = "the next poll goes on" if self._goes_on else "older pages are not read"
            return f"more than {self._settings.pages_max} pages: {rest}"
        await self._begin_at(start)
        return ""

    async def _ask(self, here: PollPosition) -> Fetched | None:
        """The answer to the request at a position; None where it says that nothing is new."""
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
            raise self._patient_fault(f"{place(answer.url)}: the body has more than {settings.bytes_max} bytes")
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
            return await self._intake.compute(call)
        except UnreadableBodyError as error:
            raise self._patient_fault(f"{place(answer.url)}: the body {error}") from error
        except (WorkerTimeoutError, WorkerCrashedError) as error:
            raise self._patient_fault(f"{place(answer.url)}: the body is too much to read: {error}") from error

    def _after(self, here: PollPosition, answer: Fetched, polled: Polled) -> PollPosition | None:
        try:
            return next_page(self._settings, here, answer, polled)
        except OutboundFault as fault:
            raise self._patient_fault(str(fault)) from fault

    async def _hand_on(self, polled: Polled, after: PollPosition | None) -> None:
        """Hand a page's events on; the last of them with the position after it."""
        mark = None if after is None else after.mark()
        for number, part in enumerate(polled.parts, start=1):
            await self._intake.take(unpacked(part), position=mark if number == len(polled.parts) else None)
        if after is not None:
            if not polled.parts and mark != self._intake.position:
                await self._intake.take([], position=mark)
            self._position = after

    async def _begin_at(self, start: PollPosition | None) -> None:
        """Remember where the next poll begins, once all pages of this one are taken."""
        if not self._goes_on and start is not None:
            await self._intake.take([], position=start.mark())
            self._position = start

    def _lags(self, polled: Polled | None, *, is_last: bool) -> None:
        said = None if polled is None else polled.lag
        if said is not None or not self._settings.lag_path:
            self._intake.report_lag(said if said is not None else 0 if is_last else None)

    def _refusal(self, answer: Fetched) -> SourceFault:
        text = f"{place(answer.url)} answers {answer.status}"
        if answer.status in REDIRECTS:
            return self._patient_fault(f"{text}, a redirect that is not followed")
        asked_s = retry_after_s(answer.headers.get("retry-after", ""))
        if asked_s is not None:
            return SourceFault(f"{text} and asks to wait {asked_s:.0f} s", retryAfter=asked_s)
        return self._patient_fault(text) if answer.status in LASTING else SourceFault(text)

    def _patient_fault(self, text: str) -> SourceFault:
        """Of what will hardly be otherwise in a moment: asked again when it would have been anyway."""
        return SourceFault(text, retryAfter=self._settings.interval)


class _Bounds(TypedDict):
    bytes_max: int
    timeout_s: float

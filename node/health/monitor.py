"""Runs every probe in the background, so that a health request never waits for a probe that hangs."""

from collections.abc import Mapping, Sequence
from math import inf
from typing import Final

import trio

from node.runtime.clock import clock_ms
from node.runtime.conditions import Condition, Finding, HealthReport, LastingFinding, Probe, ProbeReport
from node.runtime.containment import Quarantine
from protocols.errors import OverlayError

EVERY_S: Final = 2.0
ANSWER_S: Final = 1.6  # what a question waits for looks, at most
OVERDUE_S: Final = 0.1  # past its deadline, a look that has not ended cannot be cancelled: it hangs


class HealthMonitor:
    """What is wrong with the node, as its probes found it last."""

    def __init__(self, quarantine: Quarantine, probes: Sequence[Probe] = ()) -> None:
        """``quarantine``: Contains a probe that fails by a bug: it must not end what it looks after."""
        self._quarantine = quarantine
        self._watches: list[_Watch] = []
        self._added = trio.Event()
        self.add(*probes)

    def add(self, *probes: Probe) -> None:
        """Look with these too, from now on."""
        known = {condition.code for watch in self._watches for condition in watch.probe.conditions}
        for probe in probes:
            codes = {condition.code for condition in probe.conditions}
            assert not codes & known, f"{probe.name} finds what another probe finds"
            known |= codes
            self._watches.append(_Watch(probe, self._quarantine))
        self._added.set()

    async def run(self) -> None:
        """Look again and again until cancelled."""
        started = 0
        async with trio.open_nursery() as nursery:
            while True:
                self._added = trio.Event()
                for watch in self._watches[started:]:
                    nursery.start_soon(watch.run)
                started = len(self._watches)
                await self._added.wait()

    async def report(self) -> HealthReport:
        """What the probes find now. Takes at most ``ANSWER_S``, whatever hangs; questions at once share the looks."""
        asked_s = trio.current_time()
        with trio.move_on_after(ANSWER_S):
            async with trio.open_nursery() as nursery:
                for watch in self._watches:
                    nursery.start_soon(watch.look_since, asked_s - watch.probe.fresh_s)
        return self.latest()

    def latest(self) -> HealthReport:
        """What the probes found last."""
        return HealthReport(probes=tuple(watch.report() for watch in self._watches))

    def held(self) -> Mapping[str, bool]:
        """Of every condition that was ever registered, by its code: whether it holds."""
        found = {each.condition.code for watch in self._watches for each in watch.findings()}
        return {
            condition.code: condition.code in found for watch in self._watches for condition in watch.probe.conditions
        }


class _Watch:
    """One probe, its look under way, and what its last one found."""

    def __init__(self, probe: Probe, quarantine: Quarantine) -> None:
        self.probe = probe
        self._quarantine = quarantine
        self._found: Sequence[Finding] = (probe.silent.found(f"{probe.name}: not looked at yet"),)
        self._since_ms: dict[Condition, int] = {}
        self._wanted = trio.Event()
        self._ended = trio.Event()
        self._looking_since_s: float | None = None
        self._looked_at_s = -inf

    async def run(self) -> None:
        """Look at once, then whenever it is wanted, and once in a while."""
        while True:
            self._wanted = trio.Event()
            self._looking_since_s = began_s = trio.current_time()
            found = await self._look()
            self._found, self._looked_at_s, self._looking_since_s = found, began_s, None
            self._note_since(found)
            ended, self._ended = self._ended, trio.Event()
            ended.set()
            with trio.move_on_after(EVERY_S):
                await self._wanted.wait()

    async def look_since(self, at_s: float) -> None:
        """Wait for the end of a look that began at ``at_s`` or later; not for one that hangs."""
        while self._looked_at_s < at_s and not self._hangs():
            self._wanted.set()
            await self._ended.wait()

    def report(self) -> ProbeReport:
        findings = self.findings()
        self._note_since(findings)
        lasting = (LastingFinding(finding=each, since_ms=self._since_ms[each.condition]) for each in findings)
        return ProbeReport(probe=self.probe, findings=tuple(lasting))

    def findings(self) -> Sequence[Finding]:
        """Those of the last look, and that the one under way hangs."""
        silent = self.probe.silent
        if not self._hangs() or any(each.condition is silent for each in self._found):
            return self._found
        return (*self._found, self._silence())

    def _note_since(self, findings: Sequence[Finding]) -> None:
        now_ms = clock_ms()
        self._since_ms = {each.condition: self._since_ms.get(each.condition, now_ms) for each in findings}

    def _hangs(self) -> bool:
        since_s = self._looking_since_s
        return since_s is not None and trio.current_time() > since_s + self.probe.deadline_s + OVERDUE_S

    async def _look(self) -> Sequence[Finding]:
        probe = self.probe
        found: Sequence[Finding] = (self._silence(),)
        with trio.move_on_after(probe.deadline_s), self._quarantine.contain("probe", probe.name, b""):
            try:
                found = await probe.look()
            except OverlayError as fault:
                found = (probe.silent.found(str(fault)),)
        return found

    def _silence(self) -> Finding:
        return self.probe.silent.found(f"{self.probe.name}: no answer within {self.probe.deadline_s:g} s")

"""What each agent owes this coordinator, and how much more it takes: nothing is ordered beyond an agent's credit."""

from collections.abc import Iterable
from typing import Final

import attrs

from protocols.coordination import window
from protocols.coordination.workspace import Workspace
from protocols.entities import Batch, Stage
from protocols.load import FLOW_ID, Account, AskState, Flow
from protocols.messages import IdentityKey

CREDIT: Final = 8  # of an agent that has not said how much it takes
ACCOUNTS_MAX: Final = 512
OWED: Final = (AskState.SILENT, AskState.QUEUED, AskState.RUNNING)
OWING: Final = (Stage.PROCESSING, Stage.CERTIFYING, Stage.SEALING, Stage.SEALED)


def flow_of(work: Workspace) -> Flow:
    return work.find(Flow, FLOW_ID) or Flow(window=window.first(work.rules))


def has_room(flow: Flow, agent: IdentityKey, now_ms: int) -> bool:
    """Whether one more order may be sent to an agent."""
    account = _find(flow, agent)
    return account is None or (account.outstanding < account.credit and account.closed_until_ms <= now_ms)


def outstanding(flow: Flow, agent: IdentityKey) -> int:
    """How many answers an agent owes."""
    account = _find(flow, agent)
    return 0 if account is None else account.outstanding


def reopens_ms(flow: Flow, agent: IdentityKey) -> int:
    """Until when an agent said that it has no room; 0 where it did not."""
    account = _find(flow, agent)
    return 0 if account is None else account.closed_until_ms


def announce(work: Workspace, credits: Iterable[tuple[IdentityKey, int]]) -> None:
    """Note how much agents take; each takes at least one."""
    flow = flow_of(work)
    for agent, credit in credits:
        flow = _with(flow, attrs.evolve(_account(flow, agent), credit=max(1, credit)))
    work.put(flow)


def learn(work: Workspace, agent: IdentityKey, credit: int) -> None:
    """Note how much an agent takes, if anything was ever ordered of it."""
    flow = flow_of(work)
    known = _find(flow, agent)
    if known is not None and known.credit != max(1, credit):
        announce(work, ((agent, credit),))


def close(work: Workspace, agent: IdentityKey, until_ms: int) -> None:
    """Note that an agent has no room for a while."""
    flow = flow_of(work)
    flow = _with(flow, attrs.evolve(_account(flow, agent), closed_until_ms=until_ms))
    work.put(flow)
    wait_for_room(work, flow)


def wait_for_room(work: Workspace, flow: Flow) -> None:
    """Have the flow looked at when the next agent that had no room may be asked again."""
    until_ms = min((each.closed_until_ms for each in flow.accounts if each.closed_until_ms > work.now_ms), default=0)
    if until_ms:
        work.alarm(FLOW_ID, until_ms)


def moved(flow: Flow, before: Batch | None, after: Batch | None) -> Flow:
    """The flow after the orders of a batch changed: more of them, or some answered."""
    owed, owes = _debtors(before), _debtors(after)
    if owed == owes:
        return flow
    for agent in owed - owes:
        account = _account(flow, agent)
        flow = _with(flow, attrs.evolve(account, outstanding=max(0, account.outstanding - 1)))
    for agent in owes - owed:
        account = _account(flow, agent)
        flow = _with(flow, attrs.evolve(account, outstanding=account.outstanding + 1))
    return flow


def _debtors(batch: Batch | None) -> frozenset[IdentityKey]:
    if batch is None or batch.stage not in OWING:
        return frozenset()
    return frozenset(ask.agent for ask in batch.asks if ask.state in OWED)


def _find(flow: Flow, agent: IdentityKey) -> Account | None:
    return next((account for account in flow.accounts if account.agent == agent), None)


def _account(flow: Flow, agent: IdentityKey) -> Account:
    return _find(flow, agent) or Account(agent=agent, credit=CREDIT)


def _with(flow: Flow, account: Account) -> Flow:
    others = [each for each in flow.accounts if each.agent != account.agent]
    if len(others) >= ACCOUNTS_MAX:
        idle = next((each for each in others if not each.outstanding), others[0])
        others.remove(idle)
    accounts = tuple(sorted((*others, account), key=lambda each: each.agent))
    return attrs.evolve(flow, accounts=accounts)

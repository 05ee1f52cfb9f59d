"""Leasing: announce, collect bids, award; and the agent's side of it. Bid once, work many times.

A lease serves every batch of one level and quorum. It is renewed while the old one still has time and batches
left, so a steady stream never waits for an auction. A level is not lowered: while too few agents bid for a
role, the batches wait and the auction is held again.
"""

import hashlib
import itertools

import attrs

from protocols.award import SHADOWS_MAX, chosen, judge
from protocols.coordination import accounts
from protocols.coordination.workspace import Workspace
from protocols.effects import Publish, RecordAuction, Send
from protocols.entities import (
    Auction,
    Batch,
    BidDecision,
    Choice,
    EntityId,
    Grant,
    HeldAward,
    Lease,
    Pace,
    ReceivedBid,
    Reserve,
    held_entity_id,
    lease_entity_id,
)
from protocols.levels import LevelRule, is_enough, rule_for
from protocols.limits import BIDS_PER_AUCTION_MAX
from protocols.messages import Announcement, Award, IdentityKey, Level, Role
from protocols.reputation import NEWCOMER
from protocols.roles import WORK_ROLES
from protocols.stimuli import AwardReceived, BidReceived, PeerAppeared

LEASE_MS_MAX = 3_600_000
THIN_PARTS = 8  # a lease with too few agents is auctioned again after such a part of its time
WINDOW_DOUBLINGS_MAX = 4  # up to 16 times as long: 4.8 s by default
JITTER_MS = 250
GRACE_MS = 60_000  # clocks differ, and a batch awarded in time may be asked for again later


def in_force(work: Workspace, level: Level, quorum: int, wanting: EntityId) -> Grant | None:
    """The grant that batches can be dispatched under; without one, note ``wanting``, hold an auction, return None."""
    lease = work.find(Lease, lease_entity_id(level, quorum)) or Lease(level=level, quorum=quorum)
    grant = lease.grant
    if grant is not None and grant.expires_ms > work.now_ms and grant.batches_left > 0:
        return grant
    if grant is not None or wanting not in lease.waiting:
        _hold_auction(work, attrs.evolve(lease, grant=None, waiting=(wanting,)))
    return None


def spend(work: Workspace, level: Level, quorum: int) -> None:
    """Take one batch off the grant in force, and renew the lease in time."""
    lease = work.find(Lease, lease_entity_id(level, quorum))
    assert lease is not None, "only a grant in force is spent"
    assert lease.grant is not None, "only a grant in force is spent"
    spent = attrs.evolve(lease.grant, batches_left=lease.grant.batches_left - 1)
    lease = attrs.evolve(lease, grant=spent)
    if _is_running_out(work, spent) or _is_thin(work, lease, spent):
        _hold_auction(work, lease)
    else:
        work.put(lease)


def revoke(work: Workspace, level: Level, quorum: int, lease_id: str) -> None:
    """Forget a grant whose holders failed a batch, so the next batch gets a fresh auction."""
    lease = work.find(Lease, lease_entity_id(level, quorum))
    if lease is not None and lease.grant is not None and lease.grant.lease_id == lease_id:
        work.put(attrs.evolve(lease, grant=None))


def observe(work: Workspace, level: Level, quorum: int, took_ms: int) -> None:
    """Learn from an answer how long answers take (RFC 6298, section 2)."""
    lease = work.find(Lease, lease_entity_id(level, quorum))
    if lease is None:
        return
    took_us, pace = 1_000 * max(0, took_ms), lease.pace
    if pace is None:
        pace = Pace(mean_us=took_us, deviation_us=took_us // 2)
    else:
        deviation_us = (3 * pace.deviation_us + abs(pace.mean_us - took_us)) // 4
        pace = Pace(mean_us=(7 * pace.mean_us + took_us) // 8, deviation_us=deviation_us)
    work.put(attrs.evolve(lease, pace=pace))


def is_pace_known(work: Workspace, level: Level, quorum: int) -> bool:
    """Whether an answer came at this level and quorum: then it is known how long they take."""
    lease = work.find(Lease, lease_entity_id(level, quorum))
    return lease is not None and lease.pace is not None


def patience_ms(work: Workspace, level: Level, quorum: int) -> int:
    """How long to wait for an agent before it is replaced: far longer than is usual, within bounds."""
    return min(_longest_ms(work, level), 2 * usual_ms(work, level, quorum))


def usual_ms(work: Workspace, level: Level, quorum: int) -> int:
    """Within how long nearly all answers come, within bounds."""
    lease = work.find(Lease, lease_entity_id(level, quorum))
    longest_ms = _longest_ms(work, level)
    if lease is None or lease.pace is None:
        return longest_ms
    usual_ms = (lease.pace.mean_us + 4 * lease.pace.deviation_us) // 1_000
    return min(longest_ms, max(work.rules.patience_ms_min // 2, usual_ms))


def _longest_ms(work: Workspace, level: Level) -> int:
    return work.rules.attempt_ms_at(level) // 3


def substitute(work: Workspace, batch: Batch, failed: IdentityKey) -> Award | None:
    """Award the next in the ranking in place of an agent that failed a batch, for this batch and later ones.

    None when nobody is left that offered the same roles and, where the level wants distinct operators, has
    another operator than the rest.
    """
    found = _standing(work, batch, failed)
    if found is None:
        return None
    lease, grant, award = found
    present = {kept.agent for kept in batch.awards}  # some of them called up for this batch alone
    standing = next((kept for kept in grant.awards if kept.agent == failed), None)
    if standing is None:  # another batch was faster: its substitute serves this one too
        return next((kept for kept in grant.awards if kept.agent not in present and kept.roles == award.roles), None)
    reserve = _reserve_for(grant, batch, award, standing)
    if reserve is None:
        return None
    called = attrs.evolve(standing, agent=reserve.agent)
    rest = [
        (kept, operator) for kept, operator in zip(grant.awards, grant.operators, strict=True) if kept is not standing
    ]
    kept_awards = sorted([*rest, (called, reserve.operator)], key=lambda entry: entry[0].agent)
    grant = attrs.evolve(
        grant,
        awards=tuple(kept for kept, _ in kept_awards),
        operators=tuple(operator for _, operator in kept_awards),
        reserves=tuple(each for each in grant.reserves if each is not reserve),
        shadows=tuple(each for each in grant.shadows if each.agent != reserve.agent),
    )
    work.put(attrs.evolve(lease, grant=grant))
    work.emit(Send(to=called.agent, message=called))
    return called


def stand_in(work: Workspace, batch: Batch, busy: IdentityKey) -> Award | None:
    """Award the next in the ranking in place of an agent that has no room, for this batch alone; None as above."""
    found = _standing(work, batch, busy)
    if found is None:
        return None
    _, grant, award = found
    standing = next((kept for kept in grant.awards if kept.agent == busy), None)
    reserve = _reserve_for(grant, batch, award, standing)
    return None if reserve is None else attrs.evolve(award, agent=reserve.agent)


def _standing(work: Workspace, batch: Batch, agent: IdentityKey) -> tuple[Lease, Grant, Award] | None:
    """The lease that a batch was dispatched under with its grant, and an agent's award; None if it is over."""
    manifest = batch.manifest.message
    lease = work.find(Lease, lease_entity_id(manifest.level, manifest.quorum))
    grant = lease.grant if lease is not None else None
    award = next((award for award in batch.awards if award.agent == agent), None)
    if lease is None or grant is None or grant.lease_id != batch.lease_id or award is None:
        return None
    return lease, grant, award


def _reserve_for(grant: Grant, batch: Batch, award: Award, standing: Award | None) -> Reserve | None:
    """The best reserve with the roles of an award that has no part in the batch yet."""
    manifest = batch.manifest.message
    pairs = zip(grant.awards, grant.operators, strict=True)
    others = {operator for kept, operator in pairs if kept is not standing}
    taken = others if rule_for(manifest.level, manifest.quorum).distinct_operators else set()
    present = {kept.agent for kept in batch.awards}
    able = (
        each
        for each in grant.reserves
        if set(award.roles) <= set(each.roles) and each.operator not in taken and each.agent not in present
    )
    return next(able, None)


def call_up(work: Workspace, batch: Batch, count: int) -> tuple[Award, ...]:
    """Award up to ``count`` reserves beside the executors, for this batch alone."""
    manifest = batch.manifest.message
    lease = work.find(Lease, lease_entity_id(manifest.level, manifest.quorum))
    grant = lease.grant if lease is not None else None
    if grant is None or grant.lease_id != batch.lease_id:
        return ()
    distinct = rule_for(manifest.level, manifest.quorum).distinct_operators
    taken = set(grant.operators)
    present = {award.agent for award in batch.awards}
    called: list[Award] = []
    for reserve in grant.reserves:
        if (
            reserve.agent in present
            or (distinct and reserve.operator in taken)
            or not set(WORK_ROLES) <= set(reserve.roles)
        ):
            continue
        taken.add(reserve.operator)
        called.append(attrs.evolve(grant.awards[0], agent=reserve.agent, roles=WORK_ROLES))
        if len(called) == count:
            break
    return tuple(called)


def on_bid(work: Workspace, stimulus: BidReceived) -> None:
    message = stimulus.bid.message
    lease = work.find(Lease, _lease_of(message.announcement_id))
    auction = lease.auction if lease is not None else None
    if lease is None or auction is None or auction.announcement_id != message.announcement_id:
        return
    known = any(seen.bid.signer == stimulus.bid.signer for seen in auction.bids)
    if known or len(auction.bids) >= BIDS_PER_AUCTION_MAX:
        return
    latency_ms = max(0, work.now_ms - (auction.closes_ms - _window_ms(work, lease)))
    seen = ReceivedBid(
        bid=stimulus.bid, latency_ms=latency_ms, reputations=stimulus.reputations, topics=stimulus.topics
    )
    work.put(attrs.evolve(lease, auction=attrs.evolve(auction, bids=(*auction.bids, seen))))


def on_alarm(work: Workspace, lease: Lease) -> None:
    """Close the auction that is due."""
    if lease.auction is None:
        if lease.waiting:
            _hold_auction(work, lease, due=True)
        else:  # a renewal came to nothing: the next batch that wants one has an auction held
            work.put(attrs.evolve(lease, failures=0))
        return
    if work.now_ms < lease.auction.closes_ms:
        work.alarm(lease.entity_id, lease.auction.closes_ms)
        return
    grant = _award(work, lease)
    if grant is None:
        failures = 1 if lease.is_eager else lease.failures + 1
        work.put(attrs.evolve(lease, auction=None, failures=failures, is_eager=False))
        work.alarm(lease.entity_id, work.now_ms + backoff_ms(work, failures))
        return
    work.put(attrs.evolve(lease, auction=None, grant=grant, waiting=(), failures=0, is_eager=False))


def on_peer(work: Workspace, stimulus: PeerAppeared) -> None:
    """Hold the auctions at once that failed for lack of agents: one more may be there now.

    Many coordinators hear of a peer at the same moment, so each waits for its own share of ``JITTER_MS``. An auction
    that is being held may have been announced before the peer could hear it: if it fails, the next one follows soon.
    """
    for lane_id in accounts.flow_of(work).lanes:
        level, quorum = lane_id.split(":")[1:]
        lease = work.find(Lease, f"lease:{level}:{quorum}")
        if lease is None or not lease.waiting or not (lease.failures or lease.auction):
            continue
        if lease.auction is not None:
            work.put(attrs.evolve(lease, is_eager=True))
        else:
            work.put(attrs.evolve(lease, failures=1))
            seed = work.rules.self_key + stimulus.peer + work.now_ms.to_bytes(8, "big")
            work.alarm(lease.entity_id, work.now_ms + JITTER_MS * hashlib.sha256(seed).digest()[0] // 256)


def on_restart(work: Workspace, lease: Lease) -> None:
    """An auction does not outlive the process: bids for it may be lost."""
    lease = attrs.evolve(lease, auction=None)
    if not lease.waiting:
        work.put(attrs.evolve(lease, failures=0))  # no alarm of an earlier failure outlives the process either
    if lease.waiting:
        _hold_auction(work, lease, due=True)


def on_award(work: Workspace, stimulus: AwardReceived) -> None:
    hold(work, stimulus.award.signer, stimulus.award.message)


def hold(work: Workspace, coordinator: IdentityKey, award: Award) -> HeldAward | None:
    """Keep an award made to this node. None if it is for another node, for roles not held here, or expired."""
    rules = work.rules
    if award.agent != rules.self_key or not set(award.roles) <= set(rules.roles):
        return None
    if not work.now_ms < award.expires_ms + GRACE_MS <= work.now_ms + LEASE_MS_MAX + 2 * GRACE_MS:
        return None
    held = work.find(HeldAward, held_entity_id(award.lease_id))
    if held is None:
        held = HeldAward(coordinator=coordinator, award=award)
        work.put(held)
        work.alarm(held.entity_id, award.expires_ms + GRACE_MS)
    return held if held.coordinator == coordinator else None


def on_held_alarm(work: Workspace, held: HeldAward) -> None:
    if work.now_ms >= held.award.expires_ms + GRACE_MS:
        work.drop(held.entity_id)
    else:
        work.alarm(held.entity_id, held.award.expires_ms + GRACE_MS)


def backoff_ms(work: Workspace, failures: int) -> int:
    """Exponential backoff, bounded, with a hash of node, count and time as jitter in place of randomness."""
    rules = work.rules
    base = min(rules.backoff_ms << min(failures, 16), rules.backoff_max_ms)
    seed = rules.self_key + failures.to_bytes(4, "big") + work.now_ms.to_bytes(8, "big")
    return base // 2 + base * hashlib.sha256(seed).digest()[0] // 512


def _is_running_out(work: Workspace, grant: Grant) -> bool:
    rules = work.rules
    return grant.expires_ms - work.now_ms < rules.lease_ms // 3 or 4 * grant.batches_left < rules.lease_batches


def _window_ms(work: Workspace, lease: Lease) -> int:
    """How long bids are accepted: longer after each failure, since bidders may be far away."""
    return work.rules.bid_window_ms << min(lease.failures, WINDOW_DOUBLINGS_MAX)


def _hold_auction(work: Workspace, lease: Lease, *, due: bool = False) -> None:
    if lease.auction is not None or (lease.failures and not due):
        work.put(lease)  # one is being held, or its alarm will hold it
        return
    rules = work.rules
    seed = f"{rules.network} {rules.self_key.hex()} {lease.entity_id} {lease.round} {work.now_ms}"
    closes_ms = work.now_ms + _window_ms(work, lease)
    announcement_id = f"job_{lease.level.word}_{lease.quorum}_{hashlib.sha256(seed.encode()).hexdigest()}"
    auction = Auction(announcement_id=announcement_id, closes_ms=closes_ms)
    lease = attrs.evolve(lease, round=lease.round + 1, auction=auction)
    work.put(lease)
    work.alarm(lease.entity_id, closes_ms)
    announcement = Announcement(
        network=rules.network,
        announcement_id=auction.announcement_id,
        roles=WORK_ROLES,
        level=lease.level,
        quorum=lease.quorum,
        lease_ms=rules.lease_ms,
        batches=rules.lease_batches,
        price_max=rules.price_max,
        closes_ms=closes_ms,
    )
    work.emit(Publish(message=announcement))


def _is_thin(work: Workspace, lease: Lease, grant: Grant) -> bool:
    """Whether a grant has too few agents for a role and is old enough to try again: absent agents may be back.

    At just the quorum, the next one to go away would hold everything up.
    """
    wanted = rule_for(lease.level, lease.quorum).executors
    thin = any(sum(role in award.roles for award in grant.awards) < wanted for role in WORK_ROLES)
    return thin and grant.expires_ms - work.now_ms < work.rules.lease_ms - work.rules.lease_ms // THIN_PARTS


def _lease_of(announcement_id: str) -> EntityId:
    """The lease that an announcement of this node is for: its id names level and quorum."""
    return "lease:" + ":".join(announcement_id.split("_")[1:3])


def _award(work: Workspace, lease: Lease) -> Grant | None:
    auction = lease.auction
    assert auction is not None, "only an auction that was held can be awarded"
    rule = rule_for(lease.level, lease.quorum)
    judged = {role: _judge(work, lease, auction, rule, role) for role in WORK_ROLES}
    holders = {role: chosen(each, Choice.EXECUTOR) for role, each in judged.items()}
    enough = all(is_enough(lease.level, lease.quorum, len(agents)) for agents in holders.values())
    awards = _awards(work, auction.announcement_id, holders) if enough else ()
    work.emit(
        RecordAuction(
            announcement_id=auction.announcement_id,
            level=lease.level,
            quorum=lease.quorum,
            strategy=work.rules.strategy,
            bids=auction.bids,
            judged=tuple(entry for each in judged.values() for entry in each),
            lease_id=awards[0].lease_id if awards else "",
        )
    )
    if not awards:
        return None
    shadows = _awards(
        work,
        auction.announcement_id,
        {role: _newcomers(auction, judged[role], holders) for role in (Role.NORMALIZE, Role.VALIDATE)},
    )
    work.emit(*(Send(to=award.agent, message=award) for award in (*awards, *shadows)))
    offers = ((seen.bid.signer, seen.bid.message) for seen in auction.bids)
    accounts.announce(work, [(bidder, offer.capacity) for bidder, offer in offers if offer.roles])
    operators = {seen.bid.signer: seen.bid.message.operator for seen in auction.bids}
    first = awards[0]
    return Grant(
        lease_id=first.lease_id,
        awards=awards,
        expires_ms=first.expires_ms,
        batches_left=first.batches,
        operators=tuple(operators[award.agent] for award in awards),
        reserves=_reserves(auction, judged, {award.agent for award in awards}),
        shadows=shadows,
    )


def _judge(work: Workspace, lease: Lease, auction: Auction, rule: LevelRule, role: Role) -> tuple[BidDecision, ...]:
    return judge(
        auction.bids,
        role=role,
        template=work.rules.template(role, lease.level),
        rule=rule,
        strategy=work.rules.strategy,
        seed=auction.announcement_id,
    )


def _newcomers(
    auction: Auction, judged: tuple[BidDecision, ...], holders: dict[Role, tuple[IdentityKey, ...]]
) -> tuple[IdentityKey, ...]:
    """The newcomers that shadow the work to earn a reputation: those on probation, else a reserve without a record.

    Without that an agent that is never chosen stays a stranger for good, and may be called up as one.
    """
    busy = {agent for agents in holders.values() for agent in agents}
    known = {seen.bid.signer: seen for seen in auction.bids}
    unknown = (
        each.bidder
        for each in judged
        if each.choice is Choice.RESERVE and known[each.bidder].reputation_in(each.role) == NEWCOMER
    )
    on_probation = chosen(judged, Choice.SHADOW) or tuple(itertools.islice(unknown, SHADOWS_MAX))
    return tuple(agent for agent in on_probation if agent not in busy)


def _reserves(
    auction: Auction, judged: dict[Role, tuple[BidDecision, ...]], awarded: set[IdentityKey]
) -> tuple[Reserve, ...]:
    """The bidders that could do all roles and were not awarded, by their rank for the first role."""
    able = set.intersection(
        *({each.bidder for each in entries if each.choice is Choice.RESERVE} for entries in judged.values())
    )
    operators = {seen.bid.signer: seen.bid.message.operator for seen in auction.bids}
    return tuple(
        Reserve(agent=agent, roles=WORK_ROLES, operator=operators[agent])
        for agent in chosen(judged[WORK_ROLES[0]], Choice.RESERVE)
        if agent in able - awarded
    )


def _awards(work: Workspace, announcement_id: str, holders: dict[Role, tuple[IdentityKey, ...]]) -> tuple[Award, ...]:
    lease_id = "lease_" + hashlib.sha256(announcement_id.encode()).hexdigest()
    return tuple(
        Award(
            network=work.rules.network,
            lease_id=lease_id,
            announcement_id=announcement_id,
            agent=agent,
            roles=tuple(role for role, chosen in holders.items() if agent in chosen),
            batches=work.rules.lease_batches,
            expires_ms=work.now_ms + work.rules.lease_ms,
        )
        for agent in sorted({key for chosen in holders.values() for key in chosen})
    )

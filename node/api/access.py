"""The access table: who may use which route, and how long its body may be. Other routes are for operators only."""

from typing import Final

import attrs

from node.api.wire import DOCUMENT_BYTES_MAX, SUBMISSION_BYTES_MAX
from node.runtime.access import Need
from protocols.limits import POLICY_BYTES_MAX


@attrs.frozen
class Rule:
    """What a route asks for.

    Attributes:
        group: For ``Need.READ``: the word of OVERLAY_PUBLIC_READS that opens it.
        body_bytes_max: None: the node's setting for bodies of events.
    """

    need: Need
    group: str = ""
    body_bytes_max: int | None = DOCUMENT_BYTES_MAX


OPEN: Final = Rule(Need.NOTHING)
OPERATORS: Final = Rule(Need.OPERATE)

RULES: Final[dict[str, Rule]] = {
    "ingest.ingest_events": Rule(Need.SEND, body_bytes_max=None),
    "webhooks.take_delivery": Rule(Need.NOTHING, body_bytes_max=None),  # proven by the source's own secret
    "events.list_events": Rule(Need.READ, "events"),
    "events.get_event": Rule(Need.READ, "events"),
    "events.get_certification": Rule(Need.READ, "events"),
    "events.get_certificate": Rule(Need.READ, "events"),
    "events.list_versions": Rule(Need.READ, "events"),
    "events.get_batch": Rule(Need.READ, "events"),
    "stream.stream_events": Rule(Need.READ, "stream"),
    # who may read the stream may have subscriptions; the routes check whose each is, and what needs a proven identity
    "subscriptions.create_subscription": Rule(Need.READ, "stream"),
    "subscriptions.list_subscriptions": Rule(Need.READ, "stream"),
    "subscriptions.get_subscription": Rule(Need.READ, "stream"),
    "subscriptions.change_subscription": Rule(Need.READ, "stream"),
    "subscriptions.replace_subscription": Rule(Need.READ, "stream"),
    "subscriptions.delete_subscription": Rule(Need.READ, "stream"),
    "subscriptions.replay_subscription": Rule(Need.READ, "stream"),
    "subscriptions.test_subscription": Rule(Need.READ, "stream"),
    "subscriptions.rotate_secret": Rule(Need.READ, "stream"),
    "stream.stream_socket": Rule(Need.READ, "stream"),
    "sources.create_source": Rule(Need.OWN),
    "sources.change_source": Rule(Need.OWN),
    "sources.replace_source": Rule(Need.OWN),
    "sources.delete_source": Rule(Need.OWN),
    "sources.rewind_source": Rule(Need.OWN),
    "sources.get_progress": Rule(Need.OWN),
    "sources.list_sources": Rule(Need.READ, "sources"),
    "sources.get_source": Rule(Need.READ, "sources"),
    "policies.get_policy": Rule(Need.READ, "sources"),
    "policies.put_policy": Rule(Need.OWN, body_bytes_max=POLICY_BYTES_MAX),
    "policies.test_policy": Rule(Need.OWN),
    "policies.get_schema": OPEN,
    "objects.get_object": Rule(Need.READ, "objects"),
    "network.get_node": OPEN,
    "network.get_caller": OPEN,
    "network.list_agents": Rule(Need.READ, "network"),
    "network.list_peers": Rule(Need.READ, "network"),
    "overlay.submit": Rule(Need.NOTHING, body_bytes_max=SUBMISSION_BYTES_MAX),
    "overlay.lookup": Rule(Need.READ, "lookup"),
    "overlay.list_topic_managers": Rule(Need.READ, "lookup"),
    "overlay.list_lookup_services": Rule(Need.READ, "lookup"),
    "overlay.document_topic_manager": Rule(Need.READ, "lookup"),
    "overlay.document_lookup_service": Rule(Need.READ, "lookup"),
    "market.get_agent": Rule(Need.READ, "network"),
    "market.list_jobs": Rule(Need.READ, "network"),
    "market.get_job": Rule(Need.READ, "network"),
    "market.list_proofs": Rule(Need.READ, "network"),
    "market.list_templates": Rule(Need.READ, "network"),
    "market.get_template": Rule(Need.READ, "network"),
    "market.put_template": OPERATORS,
    "market.withdraw_template": OPERATORS,
    "dead_letters.list_dead_letters": OPERATORS,
    "dead_letters.get_dead_letter": OPERATORS,
    "dead_letters.replay_dead_letter": OPERATORS,
    "dead_letters.replay_dead_letters": OPERATORS,
    "health.healthz": OPEN,
    "health.livez": OPEN,
    "health.readyz": OPEN,
    "health.metrics": Rule(Need.READ, "metrics"),
    "health.stats": Rule(Need.READ, "metrics"),
    "docs.openapi": OPEN,
    "docs.page": OPEN,
    "docs.page_part": OPEN,
    "authentication.handshake": OPEN,
    "authentication.authrite_handshake": OPEN,
}


def rule_of(endpoint: str | None) -> Rule:
    """The rule of a route; without a route (``None``) any caller gets 404 or 405."""
    return OPEN if endpoint is None else RULES.get(endpoint, OPERATORS)

"""What is on a node before schemathesis comes, and comes back where it is changed or deleted.

Without it most requests would be about what is not there. Ids are those of the examples that are described.
"""

import time
from collections.abc import Callable
from typing import Any, Final

import attrs
import httpx

SOURCE: Final = "farm-of-the-test"
EXAMPLE: Final = "iot-sensors-farm-001"  # of requests in the description
SUBSCRIPTION: Final = "sub_of_the_test"
POLICY: Final = {"required": ["value"], "bounds": [{"field": "value", "min": -90, "max": 60}]}
TEMPLATE: Final = {
    "templateId": "validate-test",
    "jobType": "validate",
    "overlayTopics": ["gitdata.events.validate"],
    "agentRequirements": {"capabilities": ["validate"], "minimumReputation": 0},
    "processingConstraints": {"maxProcessingTime": 5000, "maxRetries": 3, "requireConsensus": True},
    "outputRequirements": {"certificationLevel": "basic", "auditTrailRequired": True},
}
EVENTS: Final = [
    {"externalId": "r-1", "eventType": "reading", "data": {"value": 23.5}},
    {"externalId": "r-2", "eventType": "reading", "data": {"value": 99}},
]
CERTIFIED_S: Final = 60.0
Send = Callable[[str, str, Any], httpx.Response]


@attrs.frozen(kw_only=True)
class Seed:
    """Something that an operator creates, or the caller itself.

    Attributes:
        collection: Where it is created.
        path: Its own.
        by_caller: Whether the caller creates it.
    """

    collection: str
    path: str
    document: dict[str, Any]
    by_caller: bool = False


def seeds(identity: str | None) -> list[Seed]:
    """What comes back. ``identity``: the caller's; an anonymous one cannot name its subscription.

    Events may be posted to the source by anybody; an owner may change it only where it is bound to the owner.
    """
    found = [Seed(collection="/overlay/sources", path=f"/overlay/sources/{SOURCE}", document=source(SOURCE))]
    if identity is not None:
        document = {"subscriptionId": SUBSCRIPTION, "subscriptionType": "sse"}
        path = f"/overlay/subscriptions/{SUBSCRIPTION}"
        found.append(Seed(collection="/overlay/subscriptions", path=path, document=document, by_caller=True))
    return found


def source(source_id: str) -> dict[str, Any]:
    return {"sourceId": source_id, "name": "A farm", "sourceType": "webhook", "configuration": {"scheme": "none"}}


def plant(operator: Send, caller: Send, identity: str | None, *, may_create: bool) -> dict[str, list[str]]:
    """Create everything. Returns values by the name of the parameter that takes them.

    Args:
        may_create: Whether the caller creates the source of the examples, in one of them.
    """
    if not may_create:
        operator("POST", "/overlay/sources", source(EXAMPLE)).raise_for_status()
    for seed in seeds(identity):
        (caller if seed.by_caller else operator)("POST", seed.collection, seed.document).raise_for_status()
    policy = operator("POST", "/overlay/policies", POLICY).json()
    template = operator("POST", "/overlay/job-templates", TEMPLATE).json()
    taken = operator("POST", "/overlay/events/ingest", {"sourceId": SOURCE, "events": EVENTS}).json()
    event_ids = [event["eventId"] for event in taken["processedEvents"]]
    batch_id = taken["batches"][0]["batchId"]
    ends_s = time.monotonic() + CERTIFIED_S
    while operator("GET", f"/overlay/events/{event_ids[0]}", None).json()["status"] == "pending":
        assert time.monotonic() < ends_s, "a node alone certifies at level basic"
        time.sleep(0.05)
    agents = operator("GET", "/overlay/agents", None).json()["agents"]
    jobs = operator("GET", "/overlay/jobs", None).json()["jobs"]
    return {
        "sourceId": [SOURCE],
        "subscriptionId": [SUBSCRIPTION],
        "eventId": event_ids,
        "batchId": [batch_id],
        "policyHash": [policy["policyHash"]],
        "templateHash": [template["templateHash"]],
        "agentId": [agent["agentId"] for agent in agents],
        "jobId": [job["jobId"] for job in jobs[:1]],
        "name": [policy["objects"]["policy"]],
        "manager": ["tm_ship"],
        "lookupService": ["ls_ship"],
        "since": ["0"],
        "Last-Event-ID": ["0"],
        "X-Topics": ['["tm_ship"]'],
    }

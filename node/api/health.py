"""GET /healthz, /livez, /readyz, /metrics, /overlay/stats: how the node is."""

from typing import Final

from quart import Response

from node.api.models.base import JsonObject
from node.api.models.node import HealthDocument, Readiness, Stats
from node.api.operations import Answer, Operation, Resource, json_answer
from node.api.services import Services
from node.api.wire import answer
from node.delivery.history import node_stats
from node.runtime.conditions import HealthReport, LastingFinding, Severity
from protocols.certificate import rfc3339

RETRY_AFTER_S: Final = 2
METRICS_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

health = Resource("health", lambda services: services)


@health.get(
    "/healthz",
    Operation(
        operation_id="getHealth",
        tag="node",
        summary="Whether the process serves",
        answers={200: json_answer("It does.", HealthDocument)},
    ),
)
async def healthz(_: Services) -> Response:
    """The process serves requests; nothing else is looked at."""
    return answer({"status": "ok"})


@health.get(
    "/livez",
    Operation(
        operation_id="getLiveness",
        tag="node",
        summary="Whether the process turns",
        answers={200: json_answer("It does: it can answer.", HealthDocument)},
    ),
)
async def livez(_: Services) -> Response:
    return answer({"status": "ok"})


@health.get(
    "/readyz",
    Operation(
        operation_id="getReadiness",
        tag="node",
        summary="Whether the node can do its work, and what is wrong with it",
        description="Whoever asks needs no identity, and a proof of one is not looked at.",
        answers={
            200: json_answer("Ready; there may be warnings.", Readiness),
            503: json_answer("Not ready, for the reasons.", Readiness, Retry_After="Seconds."),
        },
    ),
)
async def readyz(services: Services) -> Response:
    """Answered within 2 s, whatever hangs."""
    report = await services.readiness()
    if report.is_ready:
        return answer(readiness_document(report))
    response = answer(readiness_document(report), 503)
    response.headers["Retry-After"] = str(RETRY_AFTER_S)
    return response


def readiness_document(report: HealthReport) -> JsonObject:
    return {
        "status": "ready" if report.is_ready else "not-ready",
        "reasons": [_reason(each) for each in report.of(Severity.BLOCKING)],
        "warnings": [_reason(each) for each in report.of(Severity.WARNING)],
        "checks": {
            each.probe.name: {
                "ok": each.is_ready,
                "detail": "; ".join(lasting.finding.detail for lasting in each.findings),
            }
            for each in report.probes
        },
    }


def _reason(lasting: LastingFinding) -> JsonObject:
    condition = lasting.finding.condition
    return {
        "code": condition.code,
        "detail": lasting.finding.detail,
        "since": rfc3339(lasting.since_ms),
        "remedy": condition.remedy,
    }


@health.get(
    "/metrics",
    Operation(
        operation_id="getMetrics",
        tag="node",
        summary="Prometheus metrics",
        answers={200: Answer(description="Text format 0.0.4.", content={"text/plain": str})},
    ),
)
async def metrics(services: Services) -> Response:
    return Response(services.metrics(), content_type=METRICS_TYPE)


@health.get(
    "/overlay/stats",
    Operation(
        operation_id="getStats",
        tag="node",
        summary="What became of the events taken in here",
        answers={200: json_answer("From the database.", Stats)},
    ),
)
async def stats(services: Services) -> Response:
    return answer(await services.database.run(node_stats))

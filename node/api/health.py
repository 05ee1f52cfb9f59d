"""GET /healthz, /readyz, /metrics, /overlay/stats: how the node is."""

from typing import Final

from quart import Response

from node.api.models.node import HealthDocument, Readiness, Stats
from node.api.operations import Answer, Operation, Resource, json_answer
from node.api.services import Services
from node.api.wire import answer
from node.delivery.history import node_stats

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
    "/readyz",
    Operation(
        operation_id="getReadiness",
        tag="node",
        summary="Whether the node can do its work",
        answers={200: json_answer("Ready.", Readiness), 503: json_answer("Not ready.", Readiness)},
    ),
)
async def readyz(services: Services) -> Response:
    checks = await services.readiness()
    ready = all(check.ok for check in checks)
    document = {
        "status": "ready" if ready else "not-ready",
        "checks": {check.name: {"ok": check.ok, "detail": check.detail} for check in checks},
    }
    return answer(document, 200 if ready else 503)


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

"""GET /healthz, /readyz, /metrics, /overlay/stats: how the node is."""

from quart import Blueprint, Response

from node.api.services import Services
from node.api.wire import answer
from node.delivery.history import node_stats

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def routes(services: Services) -> Blueprint:
    blueprint = Blueprint("health", __name__)

    @blueprint.get("/healthz")
    async def healthz() -> Response:
        """The process serves requests; nothing else is looked at."""
        return answer({"status": "ok"})

    @blueprint.get("/readyz")
    async def readyz() -> Response:
        checks = await services.readiness()
        ready = all(check.ok for check in checks)
        document = {
            "status": "ready" if ready else "not-ready",
            "checks": {check.name: {"ok": check.ok, "detail": check.detail} for check in checks},
        }
        return answer(document, 200 if ready else 503)

    @blueprint.get("/metrics")
    async def metrics() -> Response:
        return Response(services.metrics(), content_type=METRICS_TYPE)

    @blueprint.get("/overlay/stats")
    async def stats() -> Response:
        return answer(await services.database.run(node_stats))

    return blueprint

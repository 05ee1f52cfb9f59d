"""POST /overlay/sources/{sourceId}/webhook: what senders push to a source."""

from typing import Final

from pydantic import BaseModel, ConfigDict
from quart import Response, g, request

from node.api.acknowledging import acknowledgement, coding_of, wants_minimal
from node.api.models.base import HeaderModel, JsonObject
from node.api.models.ingest import EmptyDelivery, IngestAnswerDocument
from node.api.operations import Body, Operation, Resource, json_answer
from node.api.services import Services
from node.api.wire import JSON_TYPE, account_of, answer, budget_of, read_body
from node.ingest.responses import IngestAnswer
from node.runtime.access import Need
from node.runtime.document_models import optional_member
from node.sources import Webhooks
from node.sources.documents import SourceId

EXAMPLE_DELIVERY: Final = {"ref": "refs/heads/main", "repository": {"full_name": "lighthouse/lamp"}}


class WebhookHeaders(HeaderModel):
    prefer: str = optional_member(
        alias="Prefer", description="return=minimal leaves the per-event lists out (RFC 7240)."
    )


class FormDelivery(BaseModel):
    """A delivery in the form of an HTML form."""

    model_config = ConfigDict(extra="allow")

    payload: str = optional_member(description="The document; without it all fields are, as one object.")


class WebhookRoutes:
    """What the route works with."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self.webhooks = Webhooks(
            database=services.database,
            ingest=services.ingest,
            manager=services.sources,
            bytes_max=services.settings.body_bytes_max,
        )


webhooks = Resource("webhooks", WebhookRoutes)


@webhooks.post(
    "/overlay/sources/<source_id>/webhook",
    Operation(
        operation_id="takeDelivery",
        tag="sources",
        summary="Take in what a sender pushes, signed with the source's secret",
        description=(
            "Schemes of GitHub, Stripe, Slack, Standard Webhooks, a bearer token, or an HMAC-SHA256 of the "
            "operator's description: see the configuration of webhook sources. The signature is checked over the "
            "body as it came. A repeated delivery is a duplicate by its external id. Refusals are counted in the "
            "source's state, with their reason."
        ),
        path={"source_id": SourceId},
        headers=WebhookHeaders,
        body=Body(
            content={JSON_TYPE: object, "application/x-www-form-urlencoded": FormDelivery},
            examples={JSON_TYPE: EXAMPLE_DELIVERY},
            required=False,  # a delivery without a body is kept as one that is no event
        ),
        answers={
            200: json_answer("No event was in it: a sender tried the address, as GitHub and Slack do.", JsonObject),
            202: json_answer("Durable, as at the ingest API.", IngestAnswerDocument | EmptyDelivery),
        },
        problems=(
            "invalid-request",
            "invalid-json",
            "signature-refused",
            "identity-required",
            "source-bound",
            "source-disabled",
            "no-webhook",
            "unknown-source",
            "request-timeout",
            "body-too-large",
            "too-costly",
            "too-many-events",
            "unsupported-media-type",
            "overloaded",
            "allowance-used",
            "ingestion-disabled",
        ),
    ),
)
async def take_delivery(context: WebhookRoutes, source_id: str) -> Response:
    settings, access = context.services.settings, context.services.access
    coding = coding_of(request)
    endpoint = await context.webhooks.endpoint(source_id)
    if not endpoint.is_proven and not access.permits(g.caller, Need.SEND):
        raise access.refusal(g.caller, Need.SEND)
    with budget_of(context.services.ingest, request):
        body = await read_body(request, settings.body_timeout_s, settings.body_bytes_max)
        found = await context.webhooks.receive(
            endpoint,
            body,
            headers={name.lower(): value for name, value in request.headers.items()},
            media_type=request.mimetype,
            coding=coding,
            account=account_of(request),
        )
    if isinstance(found, IngestAnswer):
        return await acknowledgement(found, minimal=wants_minimal(request))
    return answer(found, 202 if "counts" in found else 200)

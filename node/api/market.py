"""GET /overlay/agents/{id}, /overlay/jobs, /overlay/proofs; /overlay/job-templates: the market, and its rules."""

import re
from typing import Annotated, Final

from pydantic import StringConstraints
from quart import Response

from node.api.models.base import HexDigest, JsonObject, LimitQuery
from node.api.models.market import (
    AgentDocument,
    AuctionDocument,
    AuctionList,
    EquivocationList,
    JobTemplateDocument,
    JobTemplateEntry,
    JobTemplateInput,
    JobTemplateList,
    TemplateQuery,
    WithdrawnTemplate,
)
from node.api.operations import Document, Operation, Resource, json_answer, links_to
from node.api.services import Services
from node.api.wire import JSON_TYPE, answer
from node.coordination.market import Market, UnknownAgentError, UnknownTemplateError

AGENT: Final = re.compile("(?:agent_)?(0[23][0-9a-f]{64})")
HASH: Final = re.compile("[0-9a-f]{64}")
AgentId = Annotated[str, StringConstraints(pattern=f"^{AGENT.pattern}$")]
EXAMPLE_TEMPLATE: Final = {
    "templateId": "validate-iot",
    "jobType": "validate",
    "overlayTopics": ["gitdata.events.validate"],
    "agentRequirements": {"capabilities": ["validate"], "minimumReputation": 70},
    "processingConstraints": {"maxProcessingTime": 5000, "maxRetries": 3, "requireConsensus": True},
    "outputRequirements": {"certificationLevel": "enhanced", "auditTrailRequired": True, "consensusThreshold": 2},
}
MISSING: Final = ("unknown-template",)


def _market(services: Services) -> Market:
    return services.market


market = Resource("market", _market)


@market.get(
    "/overlay/agents/<agent_id>",
    Operation(
        operation_id="getAgent",
        tag="market",
        summary="An agent: what it offers, how it did here, and why its reputation is what it is",
        path={"agent_id": AgentId},
        answers={200: json_answer("As this node sees it.", AgentDocument)},
        problems=("unknown-agent",),
    ),
)
async def get_agent(known: Market, agent_id: str) -> Response:
    named = AGENT.fullmatch(agent_id)
    if named is None:
        raise UnknownAgentError(f"{agent_id[:100]!r} must be agent_ and an identity key of 66 hex digits")
    return answer(await known.agent(bytes.fromhex(named[1])))


@market.get(
    "/overlay/jobs",
    Operation(
        operation_id="listJobs",
        tag="market",
        summary="The latest auctions",
        query=LimitQuery,
        answers={200: json_answer("Latest first.", AuctionList)},
    ),
)
async def list_jobs(known: Market, query: LimitQuery) -> Response:
    return answer({"jobs": await known.jobs(query.limit)})


@market.get(
    "/overlay/jobs/<job_id>",
    Operation(
        operation_id="getJob",
        tag="market",
        summary="An auction by its job or lease: bids, scores, choice",
        answers={200: json_answer("How it ended.", AuctionDocument)},
        problems=("unknown-job",),
    ),
)
async def get_job(known: Market, job_id: str) -> Response:
    return answer(await known.job(job_id))


@market.get(
    "/overlay/proofs",
    Operation(
        operation_id="listProofs",
        tag="market",
        summary="Equivocations: two signed statements of one agent that contradict each other",
        answers={200: json_answer("Latest first.", EquivocationList)},
    ),
)
async def list_proofs(known: Market) -> Response:
    return answer({"proofs": await known.proofs()})


@market.get(
    "/overlay/job-templates",
    Operation(
        operation_id="listTemplates",
        tag="market",
        summary="The job templates in use, or every version of one",
        query=TemplateQuery,
        answers={200: json_answer("Templates.", JobTemplateList)},
    ),
)
async def list_templates(known: Market, query: TemplateQuery) -> Response:
    template_id = query.template_id
    found = await known.templates() if template_id is None else await known.versions(template_id)
    return answer({"templates": found})


@market.post(
    "/overlay/job-templates",
    Operation(
        operation_id="putTemplate",
        tag="market",
        summary="Keep a job template and use it from the next auction on",
        body=Document(model=JobTemplateInput, example=EXAMPLE_TEMPLATE, read=dict),  # protocols.templates checks it
        answers={
            201: json_answer(
                "The template.",
                JobTemplateEntry,
                links=links_to("templateHash", "/templateHash", "getTemplate", "withdrawTemplate"),
                Location="Its address.",
            )
        },
        problems=("invalid-json", "invalid-request", "invalid-template", "body-too-large", "unsupported-media-type"),
    ),
)
async def put_template(known: Market, document: JsonObject) -> Response:
    made = await known.put_template(document)
    response = answer(made, 201)
    response.headers["Location"] = f"/overlay/job-templates/{made['templateHash']}"
    return response


@market.get(
    "/overlay/job-templates/<template_hash>",
    Operation(
        operation_id="getTemplate",
        tag="market",
        summary="A version of a job template in its canonical form: its SHA-256 is the hash",
        path={"template_hash": HexDigest},
        answers={200: json_answer("The document.", JobTemplateDocument)},
        problems=MISSING,
    ),
)
async def get_template(known: Market, template_hash: str) -> Response:
    template = await known.template(_digest(template_hash))
    response = Response(template.canonical, content_type=JSON_TYPE)
    response.headers["Cache-Control"] = "max-age=31536000, immutable"
    return response


@market.delete(
    "/overlay/job-templates/<template_hash>",
    Operation(
        operation_id="withdrawTemplate",
        tag="market",
        summary="Take a version out of use: the one before it comes back, or the one built in",
        path={"template_hash": HexDigest},
        answers={200: json_answer("Withdrawn.", WithdrawnTemplate)},
        problems=MISSING,
    ),
)
async def withdraw_template(known: Market, template_hash: str) -> Response:
    await known.withdraw_template(_digest(template_hash))
    return answer({"withdrawn": template_hash})


def _digest(text: str) -> bytes:
    if HASH.fullmatch(text) is None:
        raise UnknownTemplateError("the hash of a template must be 64 hex digits")
    return bytes.fromhex(text)

"""GET /overlay/agents/{id}, /overlay/jobs, /overlay/proofs; /overlay/job-templates: the market, and its rules."""

import re

from quart import Blueprint, Response, request

from node.api.services import Services
from node.api.wire import InvalidParameterError, answer, only_parameters, page_size, read_document
from node.coordination.market import UnknownAgentError

AGENT = re.compile("(?:agent_)?(0[23][0-9a-f]{64})")
HASH = re.compile("[0-9a-f]{64}")


def routes(services: Services) -> Blueprint:
    blueprint = Blueprint("market", __name__)
    market = services.market

    @blueprint.get("/overlay/agents/<agent_id>")
    async def get_agent(agent_id: str) -> Response:
        named = AGENT.fullmatch(agent_id)
        if named is None:
            raise UnknownAgentError(f"{agent_id[:100]!r} names no agent: agent_ and an identity key do")
        return answer(await market.agent(bytes.fromhex(named[1])))

    @blueprint.get("/overlay/jobs")
    async def list_jobs() -> Response:
        only_parameters(request, "limit")
        return answer({"jobs": await market.jobs(page_size(request))})

    @blueprint.get("/overlay/jobs/<job_id>")
    async def get_job(job_id: str) -> Response:
        return answer(await market.job(job_id))

    @blueprint.get("/overlay/proofs")
    async def list_proofs() -> Response:
        return answer({"proofs": await market.proofs()})

    @blueprint.get("/overlay/job-templates")
    async def list_templates() -> Response:
        only_parameters(request, "templateId")
        template_id = request.args.get("templateId")
        found = await market.templates() if template_id is None else await market.versions(template_id)
        return answer({"templates": found})

    @blueprint.post("/overlay/job-templates")
    async def put_template() -> Response:
        made = await market.put_template(await read_document(request, services.settings.body_timeout_s))
        response = answer(made, 201)
        response.headers["Location"] = f"/overlay/job-templates/{made['templateHash']}"
        return response

    @blueprint.get("/overlay/job-templates/<template_hash>")
    async def get_template(template_hash: str) -> Response:
        template = await market.template(_digest(template_hash))
        response = Response(template.canonical, content_type="application/json")
        response.headers["Cache-Control"] = "max-age=31536000, immutable"
        return response

    @blueprint.delete("/overlay/job-templates/<template_hash>")
    async def withdraw_template(template_hash: str) -> Response:
        await market.withdraw_template(_digest(template_hash))
        return answer({"withdrawn": template_hash})

    return blueprint


def _digest(text: str) -> bytes:
    if HASH.fullmatch(text) is None:
        raise InvalidParameterError("the hash of a template is 64 hex digits", field="templateHash")
    return bytes.fromhex(text)

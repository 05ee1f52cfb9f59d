"""The market as the API shows and changes it: agents and the reasons for their reputation, auctions, templates."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

import attrs

from node.coordination.driver import Driver
from node.coordination.reputations import Reputations
from protocols.canonical import parse_json
from protocols.certificate import agent_id, rfc3339
from protocols.errors import ClientFault
from protocols.messages import IdentityKey
from protocols.templates import BUILT_IN, JobTemplate, read_template
from storage import auctions, peers, reputations, templates
from storage.database import Database
from storage.templates import StoredTemplate

Document = dict[str, Any]

LISTED_MAX: Final = 200


class UnknownJobError(ClientFault):
    code = "unknown-job"


class UnknownTemplateError(ClientFault):
    code = "unknown-template"


class UnknownAgentError(ClientFault):
    code = "unknown-agent"


class Market:
    """Reads and writes of the market's tables; a changed template is in use from the next auction on."""

    def __init__(
        self,
        *,
        database: Database,
        driver: Driver,
        reputations: Reputations,
        agent: Callable[[IdentityKey], Document | None],
    ) -> None:
        """``agent``: what an agent advertises, as the list of agents shows it."""
        self._database = database
        self._driver = driver
        self._reputations = reputations
        self._agent = agent

    async def load(self) -> None:
        """Bring the operator's templates into use."""
        rows = await self._database.run(templates.in_use)
        own = tuple(read_template(parse_json(row.document)) for row in rows)
        self._driver.rules = attrs.evolve(self._driver.rules, templates=own)

    # --- agents ------------------------------------------------------------------------------------------------

    async def agent(self, identity: IdentityKey) -> Document:
        """What an agent offers, its outcomes here by role, and its latest failures.

        Raises:
            UnknownAgentError: it never advertised to this node nor worked for it.
        """
        advertised = self._agent(identity)
        counts = self._reputations.counts(identity)
        if advertised is None and not counts:
            raise UnknownAgentError(f"{agent_id(identity)} never advertised here nor worked for this node")
        scores = self._reputations.by_role(identity)
        incidents, proofs = await self._database.run(partial(_record, identity))
        return {
            **(advertised or {"agentId": agent_id(identity), "identityKey": identity.hex()}),
            "reputation": self._reputations.overall(identity),
            "byRole": {
                role.word: {
                    "reputation": scores[role],
                    "agreed": seen.agreed,
                    "dissented": seen.dissented,
                    "late": seen.late,
                    "equivocated": seen.equivocated,
                    "weighedSuccesses": round(seen.successes, 3),
                    "weighedFailures": round(seen.failures, 3),
                    "weighedAt": rfc3339(seen.at_ms),
                }
                for role, seen in sorted(counts.items())
            },
            "blemishes": [
                {
                    "role": each.role,
                    "outcome": each.outcome,
                    "batchId": each.batch_id,
                    "at": rfc3339(each.at_ms),
                }
                for each in incidents
            ],
            "proofs": proofs,
        }

    async def proofs(self) -> list[Document]:
        """Equivocations: two signed statements of one agent that contradict each other."""
        return await self._database.run(lambda connection: _proofs(connection, None))

    # --- auctions ----------------------------------------------------------------------------------------------

    async def jobs(self, limit: int) -> Sequence[Document]:
        """The latest auctions, latest first."""
        return [dict(each) for each in await self._database.run(partial(auctions.latest, limit=limit))]

    async def job(self, name: str) -> Document:
        """An auction by its job or its lease.

        Raises:
            UnknownJobError: there was none, or long ago.
        """
        found = await self._database.run(partial(auctions.get, name=name))
        if found is None:
            raise UnknownJobError(f"no job or lease {name[:100]!r} is known here")
        return dict(found)

    # --- templates ---------------------------------------------------------------------------------------------

    async def templates(self) -> list[Document]:
        """The templates in use, an operator's own before those built in."""
        own = {(each.role, each.level): each for each in self._driver.rules.templates}
        return [
            _shown(own.get(key, template), built_in=key not in own, in_use=True)
            for key, template in sorted(BUILT_IN.items())
        ]

    async def versions(self, template_id: str) -> list[Document]:
        """Every version an operator set under an id, the latest first."""
        rows = await self._database.run(partial(templates.versions, template_id=template_id, limit=LISTED_MAX))
        used = {each.digest for each in self._driver.rules.templates}
        return [
            _shown(read_template(parse_json(row.document)), built_in=False, in_use=row.digest in used) for row in rows
        ]

    async def template(self, digest: bytes) -> JobTemplate:
        """A template by its hash.

        Raises:
            UnknownTemplateError: no version of any template has it.
        """
        for template in BUILT_IN.values():
            if template.digest == digest:
                return template
        row = await self._database.run(partial(templates.get, digest=digest))
        if row is None:
            raise UnknownTemplateError(f"no template {digest.hex()} is known here")
        return read_template(parse_json(row.document))

    async def put_template(self, document: object) -> Document:
        """Store a template and use it from the next auction on.

        Raises:
            InvalidTemplateError: the document is not a template.
        """
        template = read_template(document)
        row = StoredTemplate(
            digest=template.digest,
            template_id=template.template_id,
            job_type=template.role.word,
            level=template.level.word,
            document=template.canonical,
        )
        await self._database.run(partial(templates.put, template=row))
        await self.load()
        return _shown(template, built_in=False, in_use=True)

    async def withdraw_template(self, digest: bytes) -> None:
        """Take a template out of use: the version before it comes back, or the one built in.

        Raises:
            UnknownTemplateError: it was not set by an operator.
        """
        if not await self._database.run(partial(templates.withdraw, digest=digest)):
            raise UnknownTemplateError(f"template {digest.hex()} was not set by an operator")
        await self.load()


def _record(identity: IdentityKey, connection: Any) -> tuple[list[reputations.Incident], list[Document]]:
    return reputations.incidents_of(connection, identity), _proofs(connection, identity)


def _proofs(connection: Any, identity: IdentityKey | None) -> list[Document]:
    return [
        {
            "agentId": agent_id(row.signer),
            "identityKey": row.signer.hex(),
            "batchId": row.batch_id,
            "role": row.role,
            "first": row.first.hex(),
            "second": row.second.hex(),
            "foundHere": row.heard_from is None,
            "heardFrom": None if row.heard_from is None else agent_id(row.heard_from),
        }
        for row in peers.equivocations(connection, identity, LISTED_MAX)
    ]


def _shown(template: JobTemplate, *, built_in: bool, in_use: bool) -> Document:
    return {
        **template.document,
        "templateHash": template.digest.hex(),
        "builtIn": built_in,
        "inUse": in_use,
    }

"""Job templates: what an operator requires of agents that do a job, with the fields of the specification.

A template is a JSON document, addressed by the hash of its canonical form; ``templateId`` names the line of its
versions. There is one built in for each of the four job types at each of the three levels; an operator's template
replaces the one of its job type and level.
"""

import re
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, Final

import attrs

from protocols.canonical import canonical_json, sha256
from protocols.errors import ClientFault
from protocols.levels import LEVELS
from protocols.limits import SIGNERS_MAX, TOPICS_PER_BATCH_MAX
from protocols.messages import Digest, Level, Role
from protocols.topic_names import TOPIC_RULE, is_topic

TEMPLATE_ID: Final = re.compile("[A-Za-z0-9._-]{1,64}")
WORD: Final = re.compile("[A-Za-z0-9._:-]{1,64}")
LIST_MAX: Final = 32
TIME_MS_MIN, TIME_MS_MAX = 100, 600_000
RETRIES_MAX: Final = 100


class InvalidTemplateError(ClientFault):
    """Field: ``field``, a JSON pointer; ``remedy``."""

    code = "invalid-template"


@attrs.frozen(kw_only=True)
class JobTemplate:
    """A template, checked. Times in milliseconds, reputation 0 to 100.

    Attributes:
        capabilities: What an agent must advertise: roles by word, or topics it serves.
        regions: Where it must run; empty: anywhere.
        retries_max: Attempts after the first.
        threshold: The least number of agents that must agree; None leaves it to the level.
    """

    template_id: str
    role: Role
    topics: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()
    reputation_min: int = 0
    regions: tuple[str, ...] = ()
    time_ms_max: int = 30_000
    retries_max: int = 2
    consensus_required: bool = True
    level: Level = Level.ENHANCED
    audit_trail_required: bool = True
    threshold: int | None = None

    @cached_property
    def document(self) -> dict[str, Any]:
        """The JSON form of the specification."""
        requirements: dict[str, Any] = {
            "capabilities": list(self.capabilities),
            "minimumReputation": self.reputation_min,
        }
        if self.regions:
            requirements["geographicRestrictions"] = list(self.regions)
        output: dict[str, Any] = {
            "certificationLevel": self.level.word,
            "auditTrailRequired": self.audit_trail_required,
        }
        if self.threshold is not None:
            output["consensusThreshold"] = self.threshold
        return {
            "templateId": self.template_id,
            "jobType": self.role.word,
            "overlayTopics": list(self.topics),
            "agentRequirements": requirements,
            "processingConstraints": {
                "maxProcessingTime": self.time_ms_max,
                "maxRetries": self.retries_max,
                "requireConsensus": self.consensus_required,
            },
            "outputRequirements": output,
        }

    @cached_property
    def canonical(self) -> bytes:
        return canonical_json(self.document)

    @cached_property
    def digest(self) -> Digest:
        return sha256(self.canonical)

    @property
    def quorum(self) -> int:
        """How many agents must agree, at least."""
        return max(LEVELS[self.level].quorum, self.threshold or 0) if self.consensus_required else 1


def built_in(role: Role, level: Level) -> JobTemplate:
    """The template of a job type and level while an operator has set none."""
    return JobTemplate(
        template_id=f"{role.word}-{level.word}",
        role=role,
        topics=(f"gitdata.events.{role.word}",),
        capabilities=(role.word,),
        reputation_min={Level.BASIC: 0, Level.ENHANCED: 30, Level.CRITICAL: 40}[level],
        consensus_required=level is not Level.BASIC,
        level=level,
    )


BUILT_IN: Final[Mapping[tuple[Role, Level], JobTemplate]] = {
    (role, level): built_in(role, level) for role in Role for level in Level
}


def read_template(value: object) -> JobTemplate:
    """A template from its JSON value.

    Raises:
        InvalidTemplateError: a field is missing, unknown, or not what it should be.
    """
    document = _Fields(value, "")
    requirements = _Fields(document.take("agentRequirements"), "/agentRequirements")
    constraints = _Fields(document.take("processingConstraints"), "/processingConstraints")
    output = _Fields(document.take("outputRequirements"), "/outputRequirements")
    template = JobTemplate(
        template_id=document.text("templateId", TEMPLATE_ID),
        role=Role[document.word("jobType", [role.word for role in Role]).upper()],
        topics=document.texts("overlayTopics", is_topic, TOPIC_RULE, TOPICS_PER_BATCH_MAX),
        capabilities=requirements.texts("capabilities", _is_word, WORD.pattern, LIST_MAX),
        reputation_min=requirements.number("minimumReputation", 0, 100),
        regions=requirements.texts("geographicRestrictions", _is_word, WORD.pattern, LIST_MAX, missing=()),
        time_ms_max=constraints.number("maxProcessingTime", TIME_MS_MIN, TIME_MS_MAX),
        retries_max=constraints.number("maxRetries", 0, RETRIES_MAX),
        consensus_required=constraints.flag("requireConsensus"),
        level=Level[output.word("certificationLevel", [level.word for level in Level]).upper()],
        audit_trail_required=output.flag("auditTrailRequired"),
        threshold=output.number("consensusThreshold", 1, SIGNERS_MAX) if "consensusThreshold" in output else None,
    )
    for fields in (document, requirements, constraints, output):
        fields.finish()
    return template


def _is_word(text: str) -> bool:
    return WORD.fullmatch(text) is not None


class _Fields:
    """Takes the members of an object one by one; a member that is left over is unknown."""

    def __init__(self, value: object, path: str) -> None:
        if not isinstance(value, dict):
            raise InvalidTemplateError(f"{path or '/'}: must be an object", field=path, remedy="send an object")
        self._left = dict(value)
        self._path = path

    def __contains__(self, name: str) -> bool:
        return name in self._left

    def take(self, name: str) -> Any:
        if name not in self._left:
            raise self._wrong(name, "is missing", "send it")
        return self._left.pop(name)

    def text(self, name: str, form: re.Pattern[str]) -> str:
        value = self.take(name)
        if not isinstance(value, str) or not form.fullmatch(value):
            raise self._wrong(name, "has a wrong form", f"send a string like {form.pattern}")
        return value

    def word(self, name: str, words: list[str]) -> str:
        value = self.take(name)
        if value not in words:
            raise self._wrong(name, "is not known", f"send one of {', '.join(words)}")
        return str(value)

    def texts(
        self,
        name: str,
        accepts: Callable[[str], bool],
        rule: str,
        most: int,
        missing: tuple[str, ...] | None = None,
    ) -> tuple[str, ...]:
        if missing is not None and name not in self._left:
            return missing
        value = self.take(name)
        if not isinstance(value, list) or len(value) > most:
            raise self._wrong(
                name, f"must be an array of at most {most} strings", f"send an array of at most {most} strings"
            )
        if not all(isinstance(item, str) and accepts(item) for item in value):
            raise self._wrong(name, "has an item of a wrong form", f"send strings: {rule}")
        return tuple(value)

    def number(self, name: str, least: int, most: int) -> int:
        value = self.take(name)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise self._wrong(name, "is out of range", f"send an integer from {least} to {most}")
        return value

    def flag(self, name: str) -> bool:
        value = self.take(name)
        if not isinstance(value, bool):
            raise self._wrong(name, "is neither true nor false", "send true or false")
        return value

    def finish(self) -> None:
        for name in self._left:
            raise self._wrong(name[:80], "is unknown", "leave it out")

    def _wrong(self, name: str, what: str, remedy: str) -> InvalidTemplateError:
        path = f"{self._path}/{name}"
        return InvalidTemplateError(f"{path}: {what}", field=path, remedy=remedy)

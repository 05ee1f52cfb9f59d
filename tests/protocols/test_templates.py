"""Job templates: what is built in, what is read back as it was written, what is refused and how."""

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.messages import Level, Role
from protocols.templates import BUILT_IN, InvalidTemplateError, JobTemplate, read_template

DOCUMENT: dict[str, Any] = {
    "templateId": "validate-iot",
    "jobType": "validate",
    "overlayTopics": ["gitdata.events.validate"],
    "agentRequirements": {
        "capabilities": ["validate"],
        "minimumReputation": 70,
        "geographicRestrictions": ["eu-west"],
    },
    "processingConstraints": {"maxProcessingTime": 5_000, "maxRetries": 3, "requireConsensus": True},
    "outputRequirements": {"certificationLevel": "enhanced", "auditTrailRequired": True, "consensusThreshold": 3},
}

TEMPLATES = st.builds(
    JobTemplate,
    template_id=st.from_regex("[A-Za-z0-9._-]{1,64}", fullmatch=True),
    role=st.sampled_from(Role),
    capabilities=st.lists(st.sampled_from(["normalize", "gpu"]), max_size=3).map(tuple),
    reputation_min=st.integers(0, 100),
    regions=st.lists(st.sampled_from(["eu", "us"]), max_size=2).map(tuple),
    time_ms_max=st.integers(100, 600_000),
    retries_max=st.integers(0, 100),
    consensus_required=st.booleans(),
    level=st.sampled_from(Level),
    audit_trail_required=st.booleans(),
    threshold=st.none() | st.integers(1, 16),
)


def test_the_documents_fields_are_the_specifications() -> None:
    assert read_template(DOCUMENT).document == DOCUMENT


@given(TEMPLATES)
def test_what_is_written_is_read_back(template: JobTemplate) -> None:
    assert read_template(template.document) == template
    assert read_template(template.document).digest == template.digest


def test_there_is_one_built_in_for_each_job_type_and_level() -> None:
    assert len(BUILT_IN) == 12
    for (role, level), template in BUILT_IN.items():
        assert (template.role, template.level) == (role, level)
        assert read_template(template.document) == template
    assert len({template.digest for template in BUILT_IN.values()}) == 12


def test_the_quorum_is_the_stricter_of_level_and_threshold() -> None:
    template = read_template(DOCUMENT)
    assert template.quorum == 3
    weak = copy.deepcopy(DOCUMENT)
    weak["outputRequirements"]["consensusThreshold"] = 1
    assert read_template(weak).quorum == 2


@pytest.mark.parametrize(
    ("path", "value", "field"),
    [
        (("templateId",), "", "/templateId"),
        (("jobType",), "guess", "/jobType"),
        (("overlayTopics",), "a", "/overlayTopics"),
        (("overlayTopics",), ["a b"], "/overlayTopics"),
        (("agentRequirements",), None, "/agentRequirements"),
        (("agentRequirements", "minimumReputation"), 101, "/agentRequirements/minimumReputation"),
        (("agentRequirements", "minimumReputation"), True, "/agentRequirements/minimumReputation"),
        (("agentRequirements", "capabilities"), [1], "/agentRequirements/capabilities"),
        (("processingConstraints", "maxProcessingTime"), 1, "/processingConstraints/maxProcessingTime"),
        (("processingConstraints", "requireConsensus"), "yes", "/processingConstraints/requireConsensus"),
        (("outputRequirements", "certificationLevel"), "total", "/outputRequirements/certificationLevel"),
        (("outputRequirements", "consensusThreshold"), 0, "/outputRequirements/consensusThreshold"),
        (("outputRequirements", "colour"), "red", "/outputRequirements/colour"),
        (("note",), "x", "/note"),
    ],
)
def test_what_is_wrong_is_named(path: tuple[str, ...], value: Any, field: str) -> None:
    document = copy.deepcopy(DOCUMENT)
    place = document
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    with pytest.raises(InvalidTemplateError) as caught:
        read_template(document)
    assert caught.value.fields["field"] == field
    assert caught.value.fields["remedy"]


@pytest.mark.parametrize("name", list(DOCUMENT))
def test_nothing_may_be_missing(name: str) -> None:
    document = {key: value for key, value in DOCUMENT.items() if key != name}
    with pytest.raises(InvalidTemplateError, match=f"/{name}: is missing"):
        read_template(document)

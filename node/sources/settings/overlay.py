"""Settings of sources that are the certified batches of other nodes."""

from typing import Annotated, Final, Literal

from pydantic import Field, StringConstraints

from node.sources.settings.base import SourceSettings
from protocols.limits import SOURCE_ID_CHARS_MAX, TOPIC_CHARS_MAX
from protocols.messages import IdentityKey, Level

Pattern = Annotated[str, StringConstraints(pattern=r"^[^\s,]+$", max_length=TOPIC_CHARS_MAX)]
Identity = Annotated[str, StringConstraints(pattern="^0[23][0-9a-f]{64}$")]
SourceId = Annotated[str, StringConstraints(min_length=1, max_length=SOURCE_ID_CHARS_MAX)]
LIST_MAX: Final = 64
HOUR_S: Final = 3_600


class OverlaySourceSettings(SourceSettings):
    """Which certified batches of other nodes are read, and what becomes of their events."""

    # patterns are those of node.runtime.topic_patterns
    topics: tuple[Pattern, ...] = Field(
        ("#",),
        min_length=1,
        max_length=LIST_MAX,
        description="Topics and patterns of topics. A batch is read if any of its topics matches; one without topics "
        "is never read.",
    )
    source_ids: tuple[SourceId, ...] = Field(
        (), max_length=LIST_MAX, description="Sources, by their ids at the nodes that took the events in. Empty: all."
    )
    coordinators: tuple[Identity, ...] = Field(
        (),
        max_length=LIST_MAX,
        description="Identity keys of nodes to trust: only their batches are read. Empty: those of all. Every signer "
        "of a certificate must be known to this node or be in this list.",
    )
    min_certification_level: Literal["basic", "enhanced", "critical"] = Field(
        "basic", description="Batches of a lower level are not read."
    )
    status: Literal["valid", "invalid", "all"] = Field("valid", description="Which events of a batch are read.")
    include_reference: bool = Field(
        False, description='Makes the data `{"certified": origin of the event, "data": as certified there}`.'
    )
    wait_seconds: int = Field(
        HOUR_S,
        ge=0,
        le=7 * 24 * HOUR_S,
        description="How long a batch that no peer sends is asked for, before it is rejected.",
    )

    @property
    def level(self) -> Level:
        return Level[self.min_certification_level.upper()]

    @property
    def coordinator_keys(self) -> frozenset[IdentityKey]:
        return frozenset(map(bytes.fromhex, self.coordinators))

"""Sources that are other nodes' certified batches."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from node.sources.settings.base import SourceSettings
from protocols.limits import SOURCE_ID_CHARS_MAX, TOPIC_CHARS_MAX
from protocols.messages import IdentityKey, Level

Pattern = Annotated[str, StringConstraints(pattern=r"^[^\s,]+$", max_length=TOPIC_CHARS_MAX)]
Identity = Annotated[str, StringConstraints(pattern="^0[23][0-9a-f]{64}$")]
SourceId = Annotated[str, StringConstraints(min_length=1, max_length=SOURCE_ID_CHARS_MAX)]
LIST_MAX = 64
HOUR_S = 3_600


class OverlaySourceSettings(SourceSettings):
    """Which batches are read, and what becomes of their events.

    Attributes:
        topics: Names and patterns (``node.runtime.topic_patterns``); a batch is read for any one of its topics, and
            never without topics.
        source_ids: Of the nodes that took the events in; empty: all.
        coordinators: Identity keys of nodes that are trusted: only their batches are read; empty: those of all. Who
            signs a certificate must be known here, or stand in this list.
        status: Which events of a batch.
        include_reference: Data become ``{"certified": where they come from, "data": as certified there}``.
        wait_seconds: How long a batch whose bytes nobody gives is asked for, before it is given up and shown.
    """

    topics: tuple[Pattern, ...] = Field(("#",), min_length=1, max_length=LIST_MAX)
    source_ids: tuple[SourceId, ...] = Field((), max_length=LIST_MAX)
    coordinators: tuple[Identity, ...] = Field((), max_length=LIST_MAX)
    min_certification_level: Literal["basic", "enhanced", "critical"] = "basic"
    status: Literal["valid", "invalid", "all"] = "valid"
    include_reference: bool = False
    wait_seconds: int = Field(HOUR_S, ge=0, le=7 * 24 * HOUR_S)

    @property
    def level(self) -> Level:
        return Level[self.min_certification_level.upper()]

    @property
    def coordinator_keys(self) -> frozenset[IdentityKey]:
        return frozenset(map(bytes.fromhex, self.coordinators))

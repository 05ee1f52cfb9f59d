"""What a client wants of the feed, and what its messages contain.

A batch has one source, one level and one set of topics, so these are decided per batch; type, verdict and
expression are decided per event. Filters that are equal share everything that is made for them.
"""

from collections.abc import Mapping
from typing import Any, Final

import attrs

from agents.expressions import EvaluationError, Expression
from node.coordination.certified_result import CertifiedResult
from node.runtime.topic_patterns import Patterns
from protocols.messages import Level

STATUSES: Final = ("valid", "invalid")
NAMES: Final = ("data", "eventType", "eventId", "sourceId", "timestamp", "level", "issues")  # of an expression


def _text(expression: Expression | None) -> str | None:
    return None if expression is None else expression.text


@attrs.frozen(kw_only=True, cache_hash=True)
class MessageOptions:
    """What a client's messages contain: equal options, equal bytes.

    Attributes:
        verdicts: The messages name status and issues: for clients that asked for rejected events too.
        certificate: Each message carries the document that proves its event offline.
    """

    evidence: bool = False
    certificate: bool = False
    verdicts: bool = False


@attrs.frozen(kw_only=True, cache_hash=True)
class Selection:
    """Which events of a batch a client wants. None stands for all."""

    event_types: Patterns | None = None
    statuses: frozenset[str] = frozenset({"valid"})
    expression: Expression | None = attrs.field(default=None, eq=_text)

    def matches_leaf(self, leaf: Mapping[str, Any]) -> bool:
        """By verdict and type alone.

        Args:
            leaf: What was certified of the event, see ``agents.roles``.
        """
        return leaf["status"] in self.statuses and (
            self.event_types is None or self.event_types.allow(leaf["eventType"])
        )

    def holds(self, scope: Mapping[str, Any]) -> bool:
        """Whether the expression is true; where it cannot be evaluated, the event does not match.

        Args:
            scope: A value for each of ``NAMES``.
        """
        if self.expression is None:
            return True
        try:
            return self.expression.holds(scope)
        except EvaluationError:
            return False


@attrs.frozen(kw_only=True, cache_hash=True)
class Filter:
    """What a client wants. None stands for all; a batch matches with any one of its topics."""

    topics: Patterns | None = None
    source_ids: frozenset[str] | None = None
    level: Level = Level.BASIC
    selection: Selection = attrs.Factory(Selection)
    options: MessageOptions = attrs.Factory(MessageOptions)

    def matches(self, sealed: CertifiedResult) -> bool:
        """Whether a batch may have events for the client."""
        statement = sealed.certificate.statement
        return (
            statement.level >= self.level
            and (self.source_ids is None or statement.source_id in self.source_ids)
            and (self.topics is None or self.topics.allow_any(sealed.topics))
        )

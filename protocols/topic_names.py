"""Which strings are topics of the feed: one rule for settings, sources, templates and requests.

Topics in messages of peers are bounded by their length alone (``messages.fields.are_topics``), so that what another
node accepted is not refused.
"""

from typing import Final

from protocols.limits import TOPIC_CHARS_MAX

TOPIC_RULE: Final = f"1 to {TOPIC_CHARS_MAX} printable characters without spaces and commas"
TOPIC_CHARACTER: Final = r"(?:(?!,)[\p{L}\p{M}\p{N}\p{P}\p{S}])"
"""The same for a character, as a regular expression of ECMA-262 with Unicode properties."""


def is_topic(value: object) -> bool:
    """Whether a value keeps ``TOPIC_RULE``. Commas separate topics in settings and queries, so none has one."""
    return (
        isinstance(value, str)
        and 0 < len(value) <= TOPIC_CHARS_MAX
        and value.isprintable()
        and " " not in value
        and "," not in value
    )

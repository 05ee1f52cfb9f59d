"""Whatever a document holds, it is refused with a reason or it runs."""

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agents.policy import policy_document
from agents.roles import execute
from protocols.errors import InvalidPolicyError
from protocols.identifiers import record_line

WORDS = st.sampled_from(
    [
        "a", "b", "a.b", "/a/0", "@timestamp", "number", "integer", "boolean", "string", "timestamp",
        "enum", "rfc3339", "unix", "YYYY-MM-DD", "Z", "+02:00", "degF", "degC", "keep", "drop", "lower",
        "object", "array", "date-time", "#/$defs/a", "^[a-z]+$", "(a|b)*", "enhanced", "version"
    ]
)  # fmt: skip
SCALARS = WORDS | st.none() | st.booleans() | st.integers(-3, 70) | st.floats(-1e9, 1e9) | st.text(max_size=3)
ANY = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=5,
)


def some(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """An object with any of these keys, mostly of the right type and now and then of any."""
    return st.fixed_dictionaries({}, optional={key: value | ANY for key, value in fields.items()})


def with_all(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(fields)


PATHS = st.sampled_from(["a", "b", "a.b", "/c/0", "d"])
TYPES = st.sampled_from(["number", "integer", "boolean", "string", "timestamp", "enum"])
SCHEMAS = st.recursive(
    some(
        type=st.sampled_from(["object", "array", "number", "string"]),
        enum=st.lists(SCALARS, max_size=3),
        pattern=st.sampled_from(["^a+$", "(a|b)*c", "[", "(?!a)"]),
        minimum=st.floats(-9, 9),
        multipleOf=st.sampled_from([0, 1, 0.1]),
        format=WORDS,
        required=st.lists(WORDS, max_size=2, unique=True),
        uniqueItems=st.booleans(),
    ),
    lambda inner: (
        st.dictionaries(
            st.sampled_from(["not", "items", "if", "then", "else", "contains", "additionalProperties"]), inner
        )
        | st.builds(lambda keyword, parts: {keyword: parts}, st.sampled_from(["allOf", "oneOf"]), st.lists(inner))
        | st.builds(lambda parts: {"properties": parts}, st.dictionaries(WORDS, inner, max_size=3))
        | st.builds(lambda part: {"$defs": {"a": part}, "$ref": "#/$defs/a"}, inner)
    ),
    max_leaves=6,
)
COERCIONS = with_all(field=PATHS, type=TYPES) | some(
    each=PATHS,
    field=PATHS,
    type=TYPES,
    nullValues=st.lists(SCALARS, max_size=2),
    unit=some(**{"from": WORDS, "to": WORDS}),
    formats=st.lists(WORDS, max_size=2),
    values=st.lists(WORDS, max_size=2),
)
EXPRESSIONS = st.sampled_from(
    [
        "data.a > 1", "has(data.b)", "data.c.exists(x, x == 3)", "data.a + data.b", "data['a'] == 'x'",
        "last.a != data.a", "tables.t[data.d].x > 0", "data.a / data.b > 0.5", "data.d.matches('^2')",
        "event.type == 't'", "data.c[0] in [1, 3]",
        "data.a ? true : false", "!data.b", "size(data.c) > 0", "data.", "a +", "millis(data.d) > 0", "1 / 0 == 1",
    ]
)  # fmt: skip
SEVERITIES = st.sampled_from(["error", "warning", "info", "fatal"])
KEYS = st.lists(PATHS, max_size=2)
CHECKS = st.builds(
    lambda name, check, severity: {"name": name, "check": check, "severity": severity},
    st.sampled_from(["one", "two"]),
    EXPRESSIONS,
    SEVERITIES,
)
WATCHES: dict[str, st.SearchStrategy[Any]] = {
    "steps": st.lists(with_all(field=PATHS, max=st.integers(0, 3), key=KEYS), max_size=2),
    "rates": st.lists(with_all(time=PATHS, count=st.integers(0, 3), seconds=st.integers(0, 9)), max_size=2),
    "duplicates": st.lists(with_all(fields=st.lists(PATHS, max_size=2), events=st.integers(1, 3)), max_size=2),
    "memory": with_all(key=KEYS, keep=st.lists(PATHS, min_size=1, max_size=2)),
}
POLICIES = some(
    tables=st.dictionaries(st.just("t"), st.dictionaries(WORDS, ANY, max_size=2), max_size=1),
    allowed=st.lists(with_all(field=PATHS, values=st.lists(SCALARS, max_size=2)), max_size=2),
    rules=st.lists(CHECKS, max_size=2),
    certification=some(level=WORDS, levels=st.lists(with_all(when=EXPRESSIONS, level=WORDS), max_size=2)),
    **WATCHES,
    version=st.just(1),
    mapping=some(fields=st.lists(with_all(**{"from": PATHS, "to": PATHS}), max_size=3), unmapped=WORDS),
    coercion=st.lists(COERCIONS, max_size=3),
    required=st.lists(PATHS, max_size=3),
    schema=SCHEMAS,
    bounds=st.lists(with_all(field=PATHS, min=st.integers(-5, 5)), max_size=3),
    monotonic=st.lists(with_all(field=PATHS, key=st.lists(PATHS, max_size=2)), max_size=3),
)
EVENTS: list[Any] = [
    {"a": "1", "b": 2, "c": [3], "d": "2013-01-01"},
    {"a": {"b": "a"}, "c": [{}], "d": None},
    ["a", "a"],
    "a",
    7,
    None,
]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(POLICIES)
def test_a_policy_is_refused_or_runs(value: dict[str, Any]) -> None:
    try:
        policy = policy_document(value)
    except InvalidPolicyError:
        return
    lines = [
        record_line(data=event, event_type="t", external_id=None, previous=None, timestamp=None) for event in EVENTS
    ]
    context = b"{}"
    for _ in range(2):
        output = execute(network="n", source_id="s", payload=b"\n".join(lines), policy=policy, context=context)
        assert output.events == len(EVENTS)
        apart, leaves = context, []
        for line in lines:
            one = execute(network="n", source_id="s", payload=line, policy=policy, context=apart)
            apart = one.context_out
            leaves.append(one.leaves)
        assert (b"\n".join(leaves), apart) == (output.leaves, output.context_out), "where batches end is no matter"
        context = output.context_out

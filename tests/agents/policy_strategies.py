"""Hypothesis strategies for policies of every kind of rule, and for records that fit them more or less.

Policies name few fields and records have the same ones, so that most rules find something to decide.
"""

from typing import Any

from hypothesis import strategies as st

from protocols.errors import NotCanonicalizableError
from protocols.identifiers import record_line

NAMES = ["a", "b", "c", "name", "x.y", "ü"]
TEXTS = [
    "", "NA", "x", "EWR", "ewr ", " jfk", "ok", "OK", "true", "Yes", "no", "1", "01", "1.0", "-0", "2.50", " 7 ",
    "1e3", "1e-7", "1e400", "0.1", "ü", "u\u0308", "\ufb01", "\u2028", "\x00", "\x1f\x7f", '"', "\\", '","', "a,b",
    "\U0001f600", "e-1", "re-open", "3f1e-4", ":1e-5", "[1.0,", "2013-01-01", "l" * 64, "L" * 65, "long, " * 40,
]  # fmt: skip
TIMES = [
    "2013-01-01T05:00:00Z", "2013-01-01T06:00:00Z", "2013-01-01T06:00:00.5Z", "2013-01-01T06:00:00.50Z",
    "2013-01-01T06:30:00+01:00", "2013-01-01t06:00:00z", "2013-02-29T00:00:00Z", "2013-01-01T24:00:00Z",
    "0000-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "2013-01-01 06:00:00", "2013-01-01T06:00:60Z",
    "2013-01-01T06:00:00.123456789Z", "2013-01-01T06:00:00.0Z", "2013-03-10 02:30:00", "2013-01-01T06:00Z",
]  # fmt: skip
NUMBERS = [
    0, 1, 2, 3, 7, -1, 40, 100, 2**53 - 1, -(2**53) + 1, 0.5, -0.5, 1.5, 2.25, 1e-5, 9.9e-6, 1e-7, 1e21, 1e22, 5e-324,
    1.7976931348623157e308, 1356998400, 1356998400.25, 1356998400000,
]  # fmt: skip
SCALARS = (
    st.sampled_from([True, False, None])
    | st.sampled_from(NUMBERS)
    | st.sampled_from(TEXTS)
    | st.sampled_from(TIMES)
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(-1e6, 1e6)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=3),
    max_leaves=6,
)
PATHS = st.sampled_from(["a", "b", "c", "name", "n.a", "a.b", "b.a.c", "c.a", "/x.y", "ü", "/a/0", "/b/1/a"])
SEVERITIES = st.sampled_from(["error", "error", "warning", "info"])


def parts(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """An object with any of these members."""
    return st.fixed_dictionaries({}, optional=fields)


def whole(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(fields)


def merged(*objects: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return st.tuples(*objects).map(lambda each: {key: value for one in each for key, value in one.items()})


def unique(
    entries: st.SearchStrategy[dict[str, Any]], key: str, count: int
) -> st.SearchStrategy[list[dict[str, Any]]]:
    return st.lists(entries, max_size=count, unique_by=lambda entry: entry[key])


# --- events ------------------------------------------------------------------------------------------------------

LIKELY: dict[str, st.SearchStrategy[Any]] = {
    "a": st.sampled_from([1, 2, 3.5, 40, 0.25, None, "1", "NA", True]) | VALUES,
    "b": st.sampled_from(["EWR", "JFK", "ok", "x", "OK", None]) | VALUES,
    "c": st.sampled_from(TIMES[:4]) | VALUES,
    "name": st.lists(st.fixed_dictionaries({"a": st.sampled_from([1, 2.5, "3"]), "b": SCALARS}), max_size=3)
    | st.none()
    | VALUES,
    "n": st.fixed_dictionaries({}, optional={"a": SCALARS, "b": st.sampled_from(["1", 2])}) | st.none() | VALUES,
    "x.y": VALUES,
    "ü": VALUES,
}
PLAIN = st.fixed_dictionaries(
    {
        "a": st.sampled_from([1, 2, 3.5, 40, 0.25]),
        "b": st.sampled_from(["EWR", "JFK", "ok"]),
        "c": st.integers(0, 59).map(lambda minute: f"2013-01-01T06:{minute:02d}:00Z"),
    },
    optional={"name": st.just([{"a": 1, "b": 2.5}]), "x.y": st.just(1.25), "ü": st.just("ü")},
)
NESTED = st.fixed_dictionaries(
    {
        "a": st.fixed_dictionaries({"b": st.sampled_from([1, 2.5, "7"])}, optional={"c": SCALARS}),
        "b": st.fixed_dictionaries({"a": st.fixed_dictionaries({}, optional={"c": SCALARS})}),
        "c": st.lists(st.fixed_dictionaries({"a": st.sampled_from([1, 2])}), max_size=2),
    }
)
DATA = st.fixed_dictionaries({}, optional=LIKELY) | PLAIN | PLAIN | NESTED | VALUES
KINDS = st.sampled_from(["reading", "alarm", "t", "ü", "e-1"])
EXTERNALS = st.none() | st.sampled_from(["x", "EWR-1", 'quo"te', "ü", "\U0001f600", ""]) | st.integers(0, 99).map(str)
PREVIOUS = st.sampled_from([None, None, None, "ab" * 32])
TIMESTAMPS = st.none() | st.sampled_from(TIMES) | st.text(max_size=3)


@st.composite
def lines(draw: st.DrawFn) -> bytes:
    """A record in canonical form."""
    try:
        return record_line(
            data=draw(DATA),
            event_type=draw(KINDS),
            external_id=draw(EXTERNALS),
            previous=draw(PREVIOUS),
            timestamp=draw(TIMESTAMPS),
        )
    except NotCanonicalizableError:
        return record_line(data={}, event_type="t", external_id="none", previous=None, timestamp=None)


# --- expressions -------------------------------------------------------------------------------------------------

READS = st.sampled_from(
    [
        "data.a", "data.b", "data.c", "data.name", "data.a.b", "data.b.a.c", "data.none", 'data["x.y"]', 'data["a"]',
        "data.name[0].a", "data.c[0]", "data.n.a", "event.type", "event.externalId", "event.timestamp", "event.other",
        "tables.t", "tables.t.EWR.high", "tables.t[data.b].high", "data", "size(data)",
    ]
)  # fmt: skip
LITERALS = st.sampled_from(
    ["0", "1", "2.5", "40", "'EWR'", "'x'", "true", "false", "null", "[1, 2]", "['EWR', 'ok']", "[]"]
)


def binary(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    signs = st.sampled_from(["||", "&&", "==", "!=", "<", "<=", ">", ">=", "in", "+", "-", "*", "/", "%"])
    return st.builds("({} {} {})".format, inner, signs, inner)


def loops(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    kinds, bodies = st.sampled_from(["exists", "all", "filter", "map"]), st.sampled_from(
        ["{v} > 1", "{v}.a == 1", "{v}.a + 1", "{v} != null", "{v}", "{v}.b.startsWith('x')", "has({v}.a)",
         "data.a > {v}", "data.name.exists(w, w.a == {v}.a)", "{v} in ['x', 'ok']"]
    )  # fmt: skip
    return st.builds(
        lambda subject, kind, variable, body: f"{subject}.{kind}({variable}, {body.format(v=variable)})",
        st.sampled_from(["data.name", "data.c", "[1, 2, data.a]", "data.b"]),
        kinds,
        st.sampled_from(["v", "u"]),
        bodies,
    )


def calls(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    one = st.sampled_from(["size", "abs", "floor", "ceil", "round", "min", "max", "sum", "millis"])
    methods = st.sampled_from(["startsWith", "endsWith", "contains"])
    return (
        st.builds("{}({})".format, one, inner)
        | st.builds("{}({}, {})".format, st.sampled_from(["round", "min", "max", "abs"]), inner, inner)
        | st.builds("({}).{}({})".format, inner, methods, inner)
        | st.builds("({}).{}()".format, inner, st.sampled_from(["lower", "upper", "trim", "size"]))
        | st.builds("({}).matches('{}')".format, inner, st.sampled_from(["^E", "a|b", "^[0-9]+$"]))
        | st.builds("has({})".format, st.sampled_from(["data.a", "data.a.b", "event.type", "tables.t", "data.name"]))
    )


EXPRESSIONS = st.recursive(
    READS | LITERALS,
    lambda inner: (
        binary(inner)
        | binary(inner)
        | calls(inner)
        | loops(inner)
        | st.builds("(!{})".format, inner)
        | st.builds("(-{})".format, inner)
        | st.builds("({} ? {} : {})".format, inner, inner, inner)
        | st.builds("({})[{}]".format, inner, inner)
        | st.builds("[{}, {}]".format, inner, inner)
    ),
    max_leaves=8,
)
USUAL = st.sampled_from(
    [
        "data.a < 50", "data.a <= 40 && data.b != 'x'", "data.b in ['EWR', 'JFK', 'ok']", "data.a + 1 > data.a",
        "data.c > '2012'", "event.type == 'reading'", "has(data.b)", "data.name.all(v, v.a >= 1)", "size(data.b) > 1",
        "data.b.matches('^[A-Z]')", "data.a in [1, 2, 3.5]", "tables.t[data.b].high > data.a", "!(data.a == 7)",
        "abs(data.a - 20) < 30", "data.a * 2 / 4 == data.a / 2", "data.a % 2 != 5",
        "data.b == 'EWR' ? data.a < 50 : true",
    ]
)  # fmt: skip
LAST = st.sampled_from(
    [
        "data.a >= last.a",
        "last.a == null || data.a != last.a",
        "abs(data.a - last.a) < 30",
        "data.b == last.b",
        "has(last.a)",
    ]
)
CONDITIONS = USUAL | EXPRESSIONS

# --- policies ----------------------------------------------------------------------------------------------------

DEFAULTS = st.sampled_from([None, 0, 1, True, False, "x", "", 1.5, 1e-7, 1e21, "EWR"])
SOURCES = PATHS | st.sampled_from(["@timestamp", "@eventType", "@externalId", "a", "b", "c", "a", "b", "c"])
EACH = st.lists(
    merged(
        whole(**{"from": st.sampled_from(["a", "b"]), "to": st.sampled_from(["a", "z", "b.z"])}),
        parts(default=DEFAULTS),
    ),
    min_size=1,
    max_size=2,
    unique_by=lambda part: part["to"],
)
TARGETS = st.sampled_from(["a", "b", "c", "name", "n.a", "n.b", "n.m.c", "/x.y", "ü", "\U0001f600", "\ufb33"])
FIELDS = (
    merged(whole(**{"from": SOURCES, "to": TARGETS}), parts(default=DEFAULTS))
    | whole(value=DEFAULTS, to=TARGETS)
    | whole(**{"from": st.sampled_from(["name", "c"]), "to": TARGETS, "each": EACH, "columns": st.just(["a", "b"])})
)
SAME = st.lists(st.sampled_from(["a", "b", "c", "name"]), min_size=1, max_size=4, unique=True).map(
    lambda names: [{"from": name, "to": name} for name in names]
)
MAPPINGS = parts(fields=SAME | unique(FIELDS, "to", 5), unmapped=st.sampled_from(["keep", "drop"]))
NULLS = st.lists(st.sampled_from(["NA", "", 0, True, "x"]), max_size=2, unique_by=str)
COERCED = PATHS | st.sampled_from(["a", "b", "c", "n.a", "n", "a", "b", "c"])
KINDS_OF_COERCION = [
    whole(type=st.just("number")),
    whole(type=st.just("number"), unit=st.just({"from": "degF", "to": "degC"})),
    whole(type=st.just("number"), unit=st.just({"from": "mph", "to": "m/s"})),
    whole(type=st.just("integer")),
    whole(
        type=st.just("decimal"), scale=st.integers(0, 3), rounding=st.sampled_from(["exact", "half-up", "half-even"])
    ),
    whole(type=st.just("boolean")),
    whole(type=st.just("boolean"), trueValues=st.just(["yes", 1, "ok"]), falseValues=st.just(["no", 0])),
    merged(
        whole(type=st.just("string")),
        parts(trim=st.booleans(), case=st.sampled_from(["lower", "upper"]), unicode=st.sampled_from(["NFC", "NFKC"])),
    ),
    merged(
        whole(type=st.just("timestamp")),
        parts(
            formats=st.lists(
                st.sampled_from(["rfc3339", "unix", "unixMs", "YYYY-MM-DD HH:mm:ss"]),
                min_size=1,
                max_size=2,
                unique=True,
            ),
            timezone=st.sampled_from(["Z", "+02:00", "EST5EDT,M3.2.0,M11.1.0"]),
        ),
    ),
    merged(
        whole(type=st.just("enum"), values=st.just(["ok", "x", "EWR"])),
        parts(aliases=st.just({"true": "ok", "yes": "x"}), ignoreCase=st.booleans()),
    ),
]
COERCIONS = merged(st.one_of(KINDS_OF_COERCION), whole(field=COERCED), parts(nullValues=NULLS))
COERCIONS_WITHIN = merged(
    st.one_of(KINDS_OF_COERCION),
    whole(each=st.sampled_from(["name", "c", "a.b"])),
    parts(field=st.sampled_from(["a", "b"])),
)
REQUIRED = PATHS | merged(whole(field=PATHS), parts(when=CONDITIONS, severity=SEVERITIES))
LIMITS = st.sampled_from([-1, 0, 1, 2.5, 40, 100, 1e6])
BOUNDS = st.builds(
    lambda field, low, high, severity: {"field": field, "min": min(low, high), "max": max(low, high)} | severity,
    PATHS,
    LIMITS,
    LIMITS,
    parts(severity=SEVERITIES),
) | merged(whole(field=PATHS, min=LIMITS), parts(severity=SEVERITIES))
ALLOWED = merged(
    whole(field=PATHS, values=st.lists(SCALARS, min_size=1, max_size=3)), parts(severity=SEVERITIES)
) | whole(field=PATHS, table=st.just("t"))
MEMBERS = st.sampled_from(
    [
        True, False, {}, {"type": "number"}, {"type": ["number", "null"]}, {"type": "string"}, {"type": "integer"},
        {"type": ["string", "null"], "minLength": 1}, {"pattern": "^[A-Z]"},
        {"type": "string", "format": "date-time"}, {"format": "date-time"},
        {"minimum": 0, "maximum": 50}, {"multipleOf": 0.5}, {"$ref": "#/$defs/short"},
        {"type": "array", "items": {"type": "object", "required": ["a"]}}, {"enum": ["EWR", "JFK", 1, None]},
        {"type": "object", "properties": {"b": {"type": "number"}}}, {"type": "boolean"}, {"const": 1}, {"not": {}},
    ]
)  # fmt: skip
SCHEMAS = merged(
    whole(**{"$defs": st.just({"short": {"maxLength": 5}})}),
    parts(
        type=st.sampled_from(["object", ["object", "null"], "array"]),
        properties=st.dictionaries(st.sampled_from(["a", "b", "c", "name", "n", "ü"]), MEMBERS, max_size=4),
        required=st.lists(st.sampled_from(["a", "b", "n"]), max_size=2, unique=True),
        title=st.just("t"),
        additionalProperties=st.sampled_from([True, False, {"type": "string"}]),
        minProperties=st.integers(0, 2),
        **{"if": st.just({"required": ["a"]}), "then": st.just({"required": ["b"]})},
    ),
)
CHECKS = merged(
    whole(check=CONDITIONS), parts(when=CONDITIONS, severity=SEVERITIES, field=PATHS, message=st.just("m"))
)


def named(checks: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[list[dict[str, Any]]]:
    return st.lists(checks, max_size=3).map(
        lambda found: [{"name": f"rule {number}", **check} for number, check in enumerate(found)]
    )


KEYS = st.lists(st.sampled_from(["a", "b", "n.a", "none"]), max_size=2)
MONOTONIC = merged(
    whole(field=st.sampled_from(["c", "a", "n.a", "b"]), key=KEYS), parts(strict=st.booleans(), severity=SEVERITIES)
)
PAST: dict[str, st.SearchStrategy[Any]] = {
    "monotonic": st.lists(MONOTONIC, max_size=2, unique_by=lambda rule: (rule["field"], str(rule["key"]))),
    "steps": st.lists(
        merged(
            whole(field=st.sampled_from(["a", "n.a"]), max=st.sampled_from([0, 2, 30]), key=KEYS),
            parts(severity=SEVERITIES) | whole(time=st.just("c"), seconds=st.sampled_from([60, 3600])),
        ),
        max_size=1,
    ),
    "rates": st.lists(
        merged(whole(time=st.just("c"), count=st.integers(1, 3), seconds=st.sampled_from([60, 600]), key=KEYS),
               parts(severity=SEVERITIES)), max_size=1
    ),
    "duplicates": st.lists(
        merged(whole(fields=st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=2, unique=True),
                     key=KEYS),
               parts(events=st.integers(1, 4), severity=SEVERITIES)), max_size=1
    ),
}  # fmt: skip
STATELESS: dict[str, st.SearchStrategy[Any]] = {
    "mapping": MAPPINGS,
    "coercion": st.lists(COERCIONS | COERCIONS | COERCIONS_WITHIN, max_size=4),
    "required": st.lists(REQUIRED, max_size=2),
    "schema": SCHEMAS,
    "bounds": st.lists(BOUNDS, max_size=2),
    "allowed": st.lists(ALLOWED, max_size=1),
    "rules": named(CHECKS),
    "certification": parts(
        rules=named(CHECKS),
        levels=st.lists(whole(when=CONDITIONS, level=st.sampled_from(["basic", "enhanced", "critical"])), max_size=2),
    ),
}
TABLES = st.just({"t": {"EWR": {"high": 45}, "JFK": {"high": 2}, "ok": {}}})
POLICIES = merged(whole(tables=TABLES), parts(**STATELESS))
STATEFUL = merged(
    whole(tables=TABLES),
    parts(**STATELESS, **PAST),
    st.one_of([parts(**{name: rule}) for name, rule in PAST.items()]),
)
REMEMBERING = merged(
    whole(
        tables=TABLES,
        memory=merged(whole(key=KEYS, keep=st.just(["a", "b"])), parts(time=st.just("c"))),
        rules=named(merged(whole(check=LAST | CONDITIONS), parts(when=LAST | CONDITIONS, severity=SEVERITIES))),
    ),
    parts(**{name: rule for name, rule in (STATELESS | PAST).items() if name != "rules"}),
)

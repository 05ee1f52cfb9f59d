"""The grammar of expressions: precedence, trees, places in errors, and the limits at their edges."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.syntax import (
    ARGUMENTS_MAX,
    DEPTH_MAX,
    NODES_MAX,
    PRECEDENCE,
    ArrayOf,
    Binary,
    BuiltInCall,
    Comprehension,
    Conditional,
    Constant,
    InstalledCall,
    Member,
    Parser,
    PatternMatch,
    Presence,
    Reference,
    Tree,
    Unary,
    tokens,
)

NAMES = ("data", "last")
FUNCTIONS = ("acme.f", "acme.g.h", "lonely")
A, B, C = Reference(("data", "a")), Reference(("data", "b")), Reference(("data", "c"))


def parse(text: str) -> Tree:
    return Parser(text, NAMES, FUNCTIONS).parse()


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("data.a", A),
        (" data . a ", A),
        ("(data).a", Member(Reference(("data",)), Constant("a"))),
        ("data.a[0].b", Member(Member(A, Constant(0)), Constant("b"))),
        ('data["a"]', Member(Reference(("data",)), Constant("a"))),
        ("1.50", Constant(1.5)),
        ("4.0", Constant(4)),
        ("'it\\'s'", Constant("it's")),
        ("null", Constant(None)),
        ("[1, data.a]", ArrayOf((Constant(1), A))),
        ("-data.a", Unary("-", A)),
        ("!-data.a", Unary("!", Unary("-", A))),
        ("-data.a.size()", Unary("-", BuiltInCall("size", (A,), is_method=True))),
        ("size(data.a)", BuiltInCall("size", (A,))),
        ("acme.f(data.a, 1)", InstalledCall("acme.f", (A, Constant(1)))),
        ("acme.g.h()", InstalledCall("acme.g.h", ())),
        ("lonely(1).a", Member(InstalledCall("lonely", (Constant(1),)), Constant("a"))),
        ("has(data.a.b)", Presence(("data", "a", "b"))),
        ("data.a.matches('x+')", PatternMatch(A, "x+")),
        ("data.a.exists(x, x)", Comprehension("exists", A, "x", Reference(("x",)))),
        ("data.a ? data.b : data.c", Conditional(A, B, C)),
        ("data.a ? data.b : data.c ? data.a : data.b", Conditional(A, B, Conditional(C, A, B))),
        ("data.a - data.b - data.c", Binary("-", Binary("-", A, B), C)),
        ("data.a + data.b * data.c", Binary("+", A, Binary("*", B, C))),
        ("(data.a + data.b) * data.c", Binary("*", Binary("+", A, B), C)),
        ("data.a || data.b && data.c", Binary("||", A, Binary("&&", B, C))),
        ("data.a == data.b + data.c", Binary("==", A, Binary("+", B, C))),
        ("data.a in data.b == data.c", Binary("==", Binary("in", A, B), C)),
        ("!data.a == data.b", Binary("==", Unary("!", A), B)),
        ("data.a || data.b ? data.c : data.a", Conditional(Binary("||", A, B), C, A)),
    ],
)
def test_a_text_has_one_tree(text: str, tree: Tree) -> None:
    assert parse(text) == tree


def written(tree: Tree) -> str:
    """A tree as text, with no more parentheses than it needs."""
    match tree:
        case Constant(value):
            return json.dumps(value)
        case Reference(path):
            return ".".join(path)
        case Presence(path):
            return f"has({'.'.join(path)})"
        case Member(subject, key):
            inner = written(subject)
            plain = isinstance(subject, Member | BuiltInCall | InstalledCall | ArrayOf | Reference)
            return f"{inner if plain else f'({inner})'}[{written(key)}]"
        case ArrayOf(items):
            return f"[{', '.join(map(written, items))}]"
        case Conditional(test, yes, no):
            return f"{operand(test, 1)} ? {written(yes)} : {written(no)}"
        case Unary(sign, inner):
            return sign + operand(inner, 6)
        case Binary(sign, left, right):
            rank = PRECEDENCE[sign]
            return f"{operand(left, rank)} {sign} {operand(right, rank + 1)}"
        case BuiltInCall(name, (subject, *rest), True):
            return f"({written(subject)}).{name}({', '.join(map(written, rest))})"
        case BuiltInCall(name, arguments) | InstalledCall(name, arguments):
            return f"{name}({', '.join(map(written, arguments))})"
        case PatternMatch(subject, pattern):
            return f"({written(subject)}).matches({json.dumps(pattern)})"
        case Comprehension(kind, subject, variable, body):
            return f"({written(subject)}).{kind}({variable}, {written(body)})"


def operand(tree: Tree, rank_min: int) -> str:
    rank = {Conditional: 0, Unary: 6}.get(type(tree), PRECEDENCE[tree.sign] if isinstance(tree, Binary) else 7)
    return written(tree) if rank >= rank_min else f"({written(tree)})"


CONSTANTS = st.sampled_from([None, True, False, 0, 7, 1.5, "", "a'b", 'q"\\']).map(Constant)
LEAVES: st.SearchStrategy[Any] = (
    CONSTANTS
    | st.sampled_from([A, B, C, Reference(("last",)), Reference(("data", "d", "e"))])
    | st.just(Presence(("data", "a")))
)
TREES = st.recursive(
    LEAVES,
    lambda inner: (
        st.builds(Binary, st.sampled_from(sorted(PRECEDENCE)), inner, inner)
        | st.builds(Unary, st.sampled_from("!-"), inner)
        | st.builds(Conditional, inner, inner, inner)
        | st.builds(Member, inner, inner)
        | st.lists(inner, max_size=3).map(lambda items: ArrayOf(tuple(items)))
        | st.lists(inner, max_size=3).map(lambda items: InstalledCall("acme.f", tuple(items)))
        | st.lists(inner, max_size=3).map(lambda items: BuiltInCall("min", tuple(items)))
        | st.builds(lambda subject, other: BuiltInCall("contains", (subject, other), True), inner, inner)
        | inner.map(lambda subject: PatternMatch(subject, "^a"))
        | st.builds(Comprehension, st.sampled_from(["all", "map"]), inner, st.just("x"), LEAVES)
    ),
    max_leaves=12,
)


@given(TREES)
def test_any_tree_is_read_back_from_its_text(tree: Tree) -> None:
    assert parse(written(tree)) == tree


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "at character 1: expected a value, found the end"),
        ("data.a +", "at character 9: expected a value, found the end"),
        ("data.a data.b", "at character 8: expected an operator or the end, found 'data'"),
        ("data..a", "at character 6: expected a name, found '.'"),
        ("data.a ? 1", "at character 11: expected ':', found the end"),
        ("[1 2]", "at character 4: expected ',', found 2"),
        ("size(1", "at character 7: expected ',', found the end"),
        ("dta.a", "at character 1: the name 'dta' is not known here; known are data, last"),
        ("data.a.exists(x, y)", "at character 18: the name 'y' is not known here; known are data, last, x"),
        ("acme.f", "the name 'acme' is not known here"),
        ("acme.x(1)", "the name 'acme' is not known here"),
        ("data.a.nope()", "the method 'nope' is not known; known are startsWith"),
        ("data.a.exists(1, true)", "at character 15: expected a name, found 1"),
        ("data.a.exists(x, data.b.all(x, x))", "the name 'x' is taken"),
        ("data.a.matches('a' + 'b')", "at character 20: expected '\\)', found '\\+'"),
        ("data.a = 1", "at character 7: unexpected '= 1'"),
        ("'open", 'at character 1: unexpected "\'open"'),
        ("'\\x41'", "at character 1: unknown escape \\\\x; known are"),
        ("9007199254740993", "at character 1: the number is too large for JSON"),
        ("data.a in", "at character 10: expected a value, found the end"),
        ("in data.a", "the name 'in' is not known here"),
    ],
)
def test_an_error_has_its_place_and_what_is_expected(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse(text)


def test_limits_hold_at_their_edges() -> None:
    parse(" + ".join(["1"] * (NODES_MAX // 2)))
    with pytest.raises(ValueError, match=f"more than {NODES_MAX} parts"):
        parse(" + ".join(["1"] * (NODES_MAX // 2 + 1)))
    parse("(" * (DEPTH_MAX - 1) + "1" + ")" * (DEPTH_MAX - 1))
    with pytest.raises(ValueError, match=f"nested deeper than {DEPTH_MAX}"):
        parse("(" * DEPTH_MAX + "1" + ")" * DEPTH_MAX)
    parse("!" * DEPTH_MAX + "data.a")
    with pytest.raises(ValueError, match=f"nested deeper than {DEPTH_MAX}"):
        parse("!" * (DEPTH_MAX + 1) + "data.a")
    parse(f"min({', '.join('1' * ARGUMENTS_MAX)})")
    with pytest.raises(ValueError, match=f"more than {ARGUMENTS_MAX} arguments"):
        parse(f"min({', '.join('1' * (ARGUMENTS_MAX + 1))})")


def test_roots_are_the_names_that_are_read() -> None:
    parser = Parser("data.a.exists(x, x > last.b) || has(last.c)", NAMES, ())
    parser.parse()
    assert parser.roots == {"data", "last"}
    bound = Parser("[1].all(x, has(x.a))", NAMES, ())
    bound.parse()
    assert bound.roots == set(), "a variable is not a root"


@given(st.text(max_size=40))
def test_any_text_has_tokens_or_a_place(text: str) -> None:
    found, reason = None, ""
    try:
        found = tokens(text)
    except ValueError as error:
        reason = str(error)
    if found is None:
        assert reason.startswith("at character ")
    else:
        assert found[-1].kind == "end"
        assert [token.place for token in found] == sorted(token.place for token in found)

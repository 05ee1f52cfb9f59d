"""The grammar of expressions: a text becomes a tree, or is refused with the place and what is expected there.

Precedence climbing over tokens: ``PRECEDENCE`` is the table of binary operators, all left-associative; ``? :`` binds
least, then these, then ``!`` and ``-``, then ``.name``, ``[index]`` and calls. The parser knows the names and
functions that exist and enforces the limits of an expression: its parts, its depth, its arguments.
"""

import re
from collections.abc import Collection, Iterator
from typing import Any, Final, NoReturn, TypeAlias, get_args

import attrs

from agents.units import plain, writable
from agents.values import BUILT_IN, METHODS

NODES_MAX: Final = 512
DEPTH_MAX: Final = 32
ARGUMENTS_MAX: Final = 8

TOKEN: Final = re.compile(
    r"""\s*(?:(?P<number>(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)
           |(?P<text>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
           |(?P<name>[A-Za-z_][A-Za-z0-9_]*)
           |(?P<sign>\|\||&&|==|!=|<=|>=|[-+*/%<>!?:.,()\[\]]))""",
    re.VERBOSE,
)
ESCAPES: Final = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\", '"': '"', "'": "'", "/": "/"}
WORDS: Final[dict[str, Any]] = {"true": True, "false": False, "null": None}
RANKS: Final = (("||",), ("&&",), ("==", "!=", "<", "<=", ">", ">=", "in"), ("+", "-"), ("*", "/", "%"))
PRECEDENCE: Final = {sign: rank for rank, signs in enumerate(RANKS, 1) for sign in signs}
COMPREHENSIONS: Final = ("exists", "all", "filter", "map")


@attrs.frozen
class Constant:
    value: Any


@attrs.frozen
class Reference:
    """A path from a name: absent where any part of it is."""

    path: tuple[str, ...]


@attrs.frozen
class Member:
    """``subject[key]``, or ``.name`` of something that is not a path."""

    subject: "Tree"
    key: "Tree"


@attrs.frozen
class ArrayOf:
    items: "tuple[Tree, ...]"


@attrs.frozen
class Conditional:
    test: "Tree"
    yes: "Tree"
    no: "Tree"


@attrs.frozen
class Unary:
    sign: str
    operand: "Tree"


@attrs.frozen
class Binary:
    sign: str
    left: "Tree"
    right: "Tree"


@attrs.frozen
class Presence:
    """``has(path)``."""

    path: tuple[str, ...]


@attrs.frozen
class BuiltInCall:
    """A built-in function, or a method, whose subject is its first argument."""

    name: str
    arguments: "tuple[Tree, ...]"
    is_method: bool = False


@attrs.frozen
class InstalledCall:
    """A function of an installed package, by its full name."""

    name: str
    arguments: "tuple[Tree, ...]"


@attrs.frozen
class PatternMatch:
    subject: "Tree"
    pattern: str


@attrs.frozen
class Comprehension:
    """``subject.kind(variable, body)``; ``kind`` is one of ``COMPREHENSIONS``."""

    kind: str
    subject: "Tree"
    variable: str
    body: "Tree"


Tree: TypeAlias = (
    Constant
    | Reference
    | Member
    | ArrayOf
    | Conditional
    | Unary
    | Binary
    | Presence
    | BuiltInCall
    | InstalledCall
    | PatternMatch
    | Comprehension
)


def parts(tree: Tree) -> Iterator[Tree]:
    """A tree and all trees in it, each after the one that it is in."""
    waiting = [tree]
    while waiting:
        part = waiting.pop()
        yield part
        for value in attrs.astuple(part, recurse=False):
            inner = value if isinstance(value, tuple) else (value,)
            waiting += [each for each in inner if isinstance(each, get_args(Tree))]


def member_of_data(tree: Tree) -> str | None:
    """The name, if a tree is ``data["name"]``."""
    match tree:
        case Member(Reference(("data",)), Constant(str(name))):
            return name
    return None


@attrs.frozen
class Lexeme:
    """``kind`` is ``number``, ``text``, ``name``, ``sign`` or ``end``; ``place`` a character, 0-based."""

    kind: str
    value: Any
    place: int

    def is_sign(self, sign: str) -> bool:
        return self.kind == "sign" and bool(self.value == sign)


def tokens(text: str) -> list[Lexeme]:
    """Split a text into tokens, the last one of kind ``end``.

    Raises:
        ValueError: A character that begins no token, a number that JSON cannot hold, an unknown escape.
    """
    found: list[Lexeme] = []
    at = 0
    end = len(text.rstrip())
    while at < end:
        match = TOKEN.match(text, at)
        if match is None:
            raise ValueError(f"at character {at + 1}: unexpected {text[at : at + 10].strip()!r}")
        kind = str(match.lastgroup)
        value: Any = match[kind]
        if kind == "number":
            value = plain(float(value))
            if not writable(value):
                raise ValueError(f"at character {match.start(kind) + 1}: the number is too large for JSON")
        elif kind == "text":
            value = unescaped(value[1:-1], match.start(kind))
        found.append(Lexeme(kind, value, match.start(kind)))
        at = match.end()
    return [*found, Lexeme("end", None, len(text))]


def unescaped(text: str, place: int) -> str:
    def one(match: re.Match[str]) -> str:
        if match[1] not in ESCAPES:
            raise ValueError(
                f"at character {place + 1}: unknown escape \\{match[1]}; known are \\n \\t \\r \\\\ \\/ \\\" \\'"
            )
        return ESCAPES[match[1]]

    return re.sub(r"\\(.)", one, text)


class TokenStream:
    """Tokens with a position."""

    def __init__(self, text: str) -> None:
        self._tokens = tokens(text)
        self._at = 0

    def peek(self) -> Lexeme:
        return self._tokens[self._at]

    def next(self) -> Lexeme:
        token = self._tokens[self._at]
        self._at += 1
        return token

    def accept(self, sign: str) -> bool:
        """Take a sign if it is next."""
        found = self.peek().is_sign(sign)
        self._at += found
        return found

    def expect(self, sign: str) -> None:
        if not self.accept(sign):
            self.refuse(repr(sign))

    def name(self) -> str:
        if self.peek().kind != "name":
            self.refuse("a name")
        return str(self.next().value)

    def accept_call(self, first: str, known: Collection[str]) -> str | None:
        """Take the rest of a dotted name and the bracket after it, if the whole name is among ``known``."""
        name, at = first, self._at
        while self._tokens[at].is_sign(".") and self._tokens[at + 1].kind == "name":
            name, at = f"{name}.{self._tokens[at + 1].value}", at + 2
        if name not in known or not self._tokens[at].is_sign("("):
            return None
        self._at = at + 1
        return name

    def refuse(self, expected: str) -> NoReturn:
        token = self.peek()
        found = "the end" if token.kind == "end" else repr(token.value)
        raise ValueError(f"at character {token.place + 1}: expected {expected}, found {found}")


class Parser:
    """Parses one expression. ``roots`` are the names that it reads, of those given."""

    def __init__(self, text: str, names: Collection[str], functions: Collection[str]) -> None:
        """``names``: that it may read. ``functions``: full names of installed ones, beside those built in."""
        self._tokens = TokenStream(text)
        self._names = frozenset(names)
        self._bound: list[str] = []
        self._functions = functions
        self._nodes = 0
        self._depth = 0
        self.roots: set[str] = set()

    def parse(self) -> Tree:
        """The tree of the whole text.

        Raises:
            ValueError: It is not an expression, reads an unknown name, or is too large; the text says where.
        """
        tree = self._expression()
        if self._tokens.peek().kind != "end":
            self._tokens.refuse("an operator or the end")
        return tree

    def _counted(self, tree: Tree) -> Tree:
        self._nodes += 1
        if self._nodes > NODES_MAX:
            raise ValueError(f"the expression has more than {NODES_MAX} parts; write several rules")
        return tree

    def _expression(self) -> Tree:
        self._depth += 1
        if self._depth > DEPTH_MAX:
            raise ValueError(f"the expression is nested deeper than {DEPTH_MAX}")
        tree = self._binary(1)
        if self._tokens.accept("?"):
            yes = self._expression()
            self._tokens.expect(":")
            tree = self._counted(Conditional(tree, yes, self._expression()))
        self._depth -= 1
        return tree

    def _binary(self, rank_min: int) -> Tree:
        left = self._unary()
        while True:
            token = self._tokens.peek()
            is_operator = token.kind == "sign" or (token.kind == "name" and token.value == "in")
            rank = PRECEDENCE.get(token.value, 0) if is_operator else 0
            if rank < rank_min:
                return left
            self._tokens.next()
            left = self._counted(Binary(token.value, left, self._binary(rank + 1)))

    def _unary(self) -> Tree:
        signs: list[str] = []
        while self._tokens.peek().is_sign("!") or self._tokens.peek().is_sign("-"):
            signs.append(self._tokens.next().value)
            if len(signs) > DEPTH_MAX:
                raise ValueError(f"the expression is nested deeper than {DEPTH_MAX}")
        tree = self._postfix()
        for sign in reversed(signs):
            tree = self._counted(Unary(sign, tree))
        return tree

    def _postfix(self) -> Tree:
        is_path = self._tokens.peek().kind == "name"  # (data).a is a member of a value, not a path
        tree = self._primary()
        while True:
            if self._tokens.accept("."):
                name = self._tokens.name()
                if self._tokens.accept("("):
                    tree, is_path = self._counted(self._method(tree, name)), False
                elif is_path and isinstance(tree, Reference):
                    tree = self._counted(Reference((*tree.path, name)))
                else:
                    tree = self._counted(Member(tree, Constant(name)))
            elif self._tokens.accept("["):
                index = self._expression()
                self._tokens.expect("]")
                tree, is_path = self._counted(Member(tree, index)), False
            else:
                return tree

    def _primary(self) -> Tree:
        token = self._tokens.peek()
        if token.kind == "name":
            self._tokens.next()
            if token.value in WORDS:
                return self._counted(Constant(WORDS[token.value]))
            return self._named(token.value, token.place)
        if token.kind in ("number", "text"):
            self._tokens.next()
            return self._counted(Constant(token.value))
        if self._tokens.accept("("):
            tree = self._expression()
            self._tokens.expect(")")
            return tree
        if self._tokens.accept("["):
            return self._counted(ArrayOf(self._arguments("]", NODES_MAX)))
        return self._tokens.refuse("a value")

    def _named(self, name: str, place: int) -> Tree:
        if name == "has" and self._tokens.accept("("):
            return self._presence()
        if name in BUILT_IN and self._tokens.accept("("):
            return self._counted(BuiltInCall(name, self._arguments(")")))
        installed = self._tokens.accept_call(name, self._functions)
        if installed is not None:
            return self._counted(InstalledCall(installed, self._arguments(")")))
        if name not in self._names and name not in self._bound:
            known = ", ".join(sorted((*self._names, *self._bound)))
            raise ValueError(f"at character {place + 1}: the name {name!r} is not known here; known are {known}")
        self._note_root(name)
        return self._counted(Reference((name,)))

    def _note_root(self, name: str) -> None:
        if name not in self._bound:
            self.roots.add(name)

    def _presence(self) -> Tree:
        token = self._tokens.peek()
        if token.kind != "name" or (token.value not in self._names and token.value not in self._bound):
            self._tokens.refuse("a path like data.a")
        path = [self._tokens.name()]
        self._note_root(path[0])
        while self._tokens.accept("."):
            path.append(self._tokens.name())
        if len(path) < 2:
            self._tokens.refuse("'.' and a name")
        self._tokens.expect(")")
        return self._counted(Presence(tuple(path)))

    def _arguments(self, closing: str, count_max: int = ARGUMENTS_MAX) -> tuple[Tree, ...]:
        found: list[Tree] = []
        while not self._tokens.accept(closing):
            if found:
                self._tokens.expect(",")
            found.append(self._expression())
            if len(found) > count_max:
                raise ValueError(f"more than {count_max} arguments")
        return tuple(found)

    def _method(self, subject: Tree, name: str) -> Tree:
        if name in COMPREHENSIONS:
            return self._comprehension(subject, name)
        if name == "matches":
            token = self._tokens.peek()
            if token.kind != "text":
                self._tokens.refuse("a pattern as a literal string")
            self._tokens.next()
            self._tokens.expect(")")
            return PatternMatch(subject, token.value)
        if name not in METHODS:
            known = ", ".join((*METHODS, "matches", *COMPREHENSIONS))
            raise ValueError(f"the method {name!r} is not known; known are {known}")
        return BuiltInCall(name, (subject, *self._arguments(")")), is_method=True)

    def _comprehension(self, subject: Tree, kind: str) -> Tree:
        variable = self._tokens.name()
        if variable in self._names or variable in self._bound:
            raise ValueError(f"the name {variable!r} is taken; use another for the elements")
        self._tokens.expect(",")
        self._bound.append(variable)
        body = self._expression()
        self._bound.pop()
        self._tokens.expect(")")
        return Comprehension(kind, subject, variable, body)

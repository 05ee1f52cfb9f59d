"""Expressions over an event: the syntax of CEL, the numbers of JSON, a bounded cost, the same result everywhere.

``data.gust >= data.wind && data.station in ["EWR", "JFK"]``. What there is:

* literals, ``data.a.b``, ``data["a"]``, ``list[0]``, ``[1, 2]``, ``c ? a : b``
* ``||``, ``&&``, ``!`` from left to right; ``== != < <= > >= in``; ``+ - * / %``
* ``has(data.a)``, ``size(x)``, ``abs floor ceil round min max sum``, ``millis(timestamp)``
* ``s.startsWith(t) s.endsWith(t) s.contains(t) s.matches("pattern") s.lower() s.upper() s.trim()``
* ``list.exists(x, ...) list.all(x, ...) list.filter(x, ...) list.map(x, ...)``
* functions of installed packages by their full name, ``acme.heat_index(data.t, data.h)``

Numbers are doubles as in JSON: ``40`` and ``40.0`` are one number, ``7 / 2`` is 3.5. A value that is absent or null
where one is needed makes the expression have no value (``AbsentValueError``): rules skip such events, which are for
``required``. Patterns run on a linear-time engine. There is no clock, no randomness and no way to loop but over
lists, whose elements count against ``STEPS_MAX``.
"""

from collections.abc import Mapping
from typing import Any, Final

import attrs

from agents.evaluation import BUDGET, STEPS_MAX, Function, Matcher, Scope, Term, compile_tree, matcher
from agents.syntax import DEPTH_MAX, NODES_MAX, Parser, PatternMatch, Tree, parts
from agents.values import AbsentValueError, EvaluationError, truth

__all__ = [
    "DEPTH_MAX",
    "EXPRESSION_CHARS_MAX",
    "NODES_MAX",
    "STEPS_MAX",
    "AbsentValueError",
    "EvaluationError",
    "Expression",
    "Scope",
    "compile_expression",
]

EXPRESSION_CHARS_MAX: Final = 2_048


@attrs.frozen(kw_only=True)
class Expression:
    """A compiled expression.

    Attributes:
        text: As written.
        roots: The names that it reads, of those that it may read.
        tree: Its syntax. matchers: the tests for the patterns in it.
    """

    text: str
    roots: frozenset[str]
    tree: Tree = attrs.field(repr=False)
    matchers: Mapping[str, Matcher] = attrs.field(repr=False)
    _run: Term

    def value(self, scope: Mapping[str, Any]) -> Any:
        """The value for what ``scope`` holds by name.

        Raises:
            AbsentValueError: A value that is needed is absent or null. EvaluationError: types do not fit, a number is
                too large, the steps are used up, or a function of an installed package failed.
        """
        return self._run({**scope, BUDGET: [STEPS_MAX]})

    def holds(self, scope: Mapping[str, Any]) -> bool:
        """Whether it is true; raises as ``value``, also where it is neither true nor false."""
        return truth(self.value(scope))


def compile_expression(
    text: str, *, names: tuple[str, ...], functions: Mapping[str, Function] | None = None
) -> Expression:
    """Check and compile an expression.

    Args:
        names: What it may read.
        functions: Callables by their full name, beside those that are built in.

    Raises:
        ValueError: It is wrong; the text says where and what is allowed.
    """
    if len(text) > EXPRESSION_CHARS_MAX:
        raise ValueError(f"an expression has at most {EXPRESSION_CHARS_MAX} characters, this one {len(text)}")
    parser = Parser(text, names, functions or {})
    tree = parser.parse()
    matchers = {part.pattern: matcher(part.pattern) for part in parts(tree) if isinstance(part, PatternMatch)}
    run = compile_tree(tree, functions or {}, matchers)
    return Expression(text=text, roots=frozenset(parser.roots), tree=tree, matchers=matchers, run=run)

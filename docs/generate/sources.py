"""The source of ops as it is shown: bodies, rules and what they call, without docstrings."""

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterable, Iterator
from types import CodeType
from typing import Any

from opsgrad._op import Op

ROLES = ("derivative", "vjp", "jvp", "jacobian")
SHOWN = "opsgrad.ops"
"""The package whose helpers are shown with the ops that call them."""


def rules(op: Any) -> list[Callable[..., Any]]:
    """Return the rules as they are written: an elementwise op has one, of which others are made."""
    roles = ROLES[:1] if op.has_rule("derivative") else ROLES[1:]
    found = [op.rule(role).function for role in roles if op.has_rule(role)]
    return list(dict.fromkeys(found))  # one function may serve as two rules


def definition(thing: Any) -> str:
    """Return the source of a function or class, without the docstring of a function."""
    source = textwrap.dedent(inspect.getsource(thing))
    node = ast.parse(source).body[0]
    if not isinstance(node, ast.FunctionDef) or ast.get_docstring(node) is None:
        return source.strip()
    lines, docstring = source.splitlines(), node.body[0]
    del lines[docstring.lineno - 1 : docstring.end_lineno]
    return "\n".join(lines).strip()


def helpers(functions: Iterable[Callable[..., Any]]) -> list[Any]:
    """Return the functions and classes of the ops' own modules that `functions` come to call."""
    found: dict[Any, None] = {}
    waiting = list(functions)
    while waiting:
        for thing in _called(waiting.pop(0)):
            if thing not in found:
                found[thing] = None
                waiting += _functions(thing)
    return list(found)


def _functions(thing: Any) -> list[Callable[..., Any]]:
    if inspect.isclass(thing):
        return [one for one in vars(thing).values() if inspect.isfunction(one)]
    return [thing]


def _called(function: Any) -> Iterator[Any]:
    for name in _names(function.__code__):
        thing = function.__globals__.get(name)
        ours = str(getattr(thing, "__module__", "")).startswith(SHOWN)
        if ours and not isinstance(thing, Op) and (inspect.isfunction(thing) or _is_own(thing)):
            yield thing


def _is_own(thing: Any) -> bool:
    return inspect.isclass(thing)


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)

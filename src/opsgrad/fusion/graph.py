"""What a trace records: a graph of elementwise functions and of reductions along the rows."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

REDUCTIONS = ("sum", "max", "min")
OVER_ROWS = "over rows"

EXPENSIVE = frozenset(
    ("divide", "exp", "exp2", "expm1", "log", "log1p", "log2", "pow", "sqrt", "tanh")
)
"""Functions worth keeping a result of, rather than computing it twice."""


class Node(NamedTuple):
    """One step of a computation on a table of rows and columns."""

    kind: str
    """"input", "constant", "length" (of a row), "index" (along the row), one of `REDUCTIONS`,
    "pick" (the entry at an index, 0 where there is none), "over rows" (the sum over them), or the
    array API's name of an elementwise function."""
    arguments: tuple[int, ...]
    """The numbers of the nodes that it works on."""
    detail: Any
    """The number of an input, the value of a constant."""
    dtype: np.dtype[Any]
    rows: bool
    """Whether it differs from row to row."""
    columns: bool
    """Whether it differs along the row."""


class Graph:
    """The nodes of a trace in order of computation; equal ones are one."""

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self.dtype = dtype
        self.nodes: list[Node] = []
        self._known: dict[tuple[Any, ...], int] = {}

    def input(self, number: int, dtype: np.dtype[Any], rows: bool, columns: bool) -> int:
        """Return the node of an input."""
        return self._put(Node("input", (), number, dtype, rows, columns))

    def constant(self, value: float, dtype: np.dtype[Any]) -> int:
        """Return the node of a number."""
        # repr tells 0.0 from -0.0, and NaN equals itself.
        return self._put(Node("constant", (), value, dtype, False, False), repr(value))

    def length(self) -> int:
        """Return the node of the length of a row, an integer."""
        return self._put(Node("length", (), None, np.dtype(np.int64), False, False))

    def index(self) -> int:
        """Return the node of the index along the row."""
        return self._put(Node("index", (), None, np.dtype(np.int64), False, True))

    def apply(self, kind: str, arguments: tuple[int, ...], dtype: np.dtype[Any]) -> int:
        """Return the node of an elementwise function or a reduction."""
        given = [self.nodes[number] for number in arguments]
        rows = any(node.rows for node in given) and kind != OVER_ROWS
        columns = any(node.columns for node in given) and kind not in REDUCTIONS
        return self._put(Node(kind, arguments, None, dtype, rows, columns))

    def _put(self, node: Node, key: Any = None) -> int:
        known = (node.kind, node.arguments, node.detail if key is None else key, node.dtype)
        if known not in self._known:
            self._known[known] = len(self.nodes)
            self.nodes.append(node)
        return self._known[known]

    def cone(self, roots: tuple[int, ...], stop: Callable[[int], bool]) -> Iterator[int]:
        """Yield the nodes that `roots` are computed from, in order, going no further at `stop`."""
        found: set[int] = set()
        todo = list(roots)
        while todo:
            number = todo.pop()
            if number not in found:
                found.add(number)
                if not stop(number):
                    todo.extend(self.nodes[number].arguments)
        yield from sorted(found)

"""Sums of e^(x - max x) that are found in the same pass along the row as the maximum.

While the maximum is not known, entries are counted against the largest so far, and sums are scaled
when it grows [1]_. That is right only for sums that depend on the maximum in no other way, so these
are recognized by the very formula of their terms.

.. [1] Milakov, M., Gimelshein, N. (2018). "Online normalizer calculation for softmax".
   arXiv:1805.02867.
"""

from typing import Any, NamedTuple

from opsgrad.fusion.graph import Graph
from opsgrad.fusion.program import Phase, Program

Mask = int | bool
"""Which entries are counted: those where a node holds, all or none."""

SHIFT = ("subtract", "x", "top")
MINUS = ("subtract", SHIFT, "x")
ERROR = ("subtract", ("subtract", "x", ("subtract", SHIFT, MINUS)), ("add", "top", MINUS))
TERM = ("multiply", ("exp", SHIFT), ("add", 1.0, ("where", ("isfinite", ERROR), ERROR, 0.0)))
"""e^(x - top), with the rounding error of the difference taken back: `term` of rows.cuh."""
BELOW = ("less", "x", "top")


class OnlineSum(NamedTuple):
    """A sum of terms."""

    number: int
    """Of its node."""
    below: Mask
    """Which entries below the maximum it counts."""
    at_top: Mask
    """Which of those that are the maximum."""


class Online(NamedTuple):
    """A maximum and sums for which the row need not be read again."""

    top: int
    """The node of the maximum."""
    entry: int
    """That of which it is the maximum."""
    sums: tuple[OnlineSum, ...]

    @property
    def conditions(self) -> tuple[int, ...]:
        """The nodes that masks are made of."""
        masks = [mask for one in self.sums for mask in (one.below, one.at_top)]
        return tuple(mask for mask in masks if not isinstance(mask, bool))


def online(program: Program, number: int) -> Online | None:
    """Return how a phase finds what the next one would read the row again for, if it can."""
    first, *rest = program.phases[number:]
    if not rest or first.stored or rest[0].stored:
        return None
    tops = (n for n in first.reductions if program.graph.nodes[n].kind == "max")
    return next((found for top in tops if (found := _found(program.graph, top, rest[0]))), None)


def _found(graph: Graph, top: int, phase: Phase) -> Online | None:
    (entry,) = graph.nodes[top].arguments
    names = {"x": entry, "top": top}
    terms = [n for n in phase.steps if _is(graph, n, TERM, names)]
    if not terms:
        return None
    recognized = _Recognized(graph, names, terms[0])
    try:
        return Online(top, entry, tuple(map(recognized.sum, phase.reductions)))
    except _UnknownError:
        return None


def _is(graph: Graph, number: int, formula: Any, names: dict[str, int]) -> bool:
    """Whether a node is what a formula says, which is written as nested tuples."""
    if isinstance(formula, str):
        return names[formula] == number
    node = graph.nodes[number]
    if isinstance(formula, float):
        return node.kind == "constant" and node.detail == formula
    kind, *given = formula
    return node.kind == kind and all(
        _is(graph, n, one, names) for n, one in zip(node.arguments, given, strict=True)
    )


class _UnknownError(Exception):
    """A sum is not of the kind that is looked for."""


class _Recognized(NamedTuple):
    """What sums are made of that can be found with the maximum."""

    graph: Graph
    names: dict[str, int]
    """The node of the maximum, and that of which it is one."""
    term: int

    def sum(self, number: int) -> OnlineSum:
        """Return what a reduction counts."""
        node = self.graph.nodes[number]
        if node.kind != "sum":
            raise _UnknownError
        (terms,) = node.arguments
        return OnlineSum(number, self._mask(terms, below=True), self._mask(terms, below=False))

    def _mask(self, terms: int, *, below: bool) -> Mask:
        """Return where the terms are not 0, of the entries below the maximum or of the others."""
        if terms == self.term:
            return True
        if _is(self.graph, terms, 0.0, {}):
            return False
        node = self.graph.nodes[terms]
        if node.kind != "where":
            raise _UnknownError
        condition, one, other = node.arguments
        holds = self._holds(condition, below)
        if isinstance(holds, bool):
            return self._mask(one if holds else other, below=below)
        if one == self.term and _is(self.graph, other, 0.0, {}):
            return holds
        raise _UnknownError

    def _holds(self, condition: int, below: bool) -> Mask:
        """Return a condition of these entries in terms of what does not depend on the maximum."""
        if _is(self.graph, condition, BELOW, self.names):
            return below
        node = self.graph.nodes[condition]
        if node.kind == "logical_and":
            one, other = [self._holds(n, below) for n in node.arguments]
            if one is False or other is False:
                return False
            if one is True or other is True:
                return other if one is True else one
        if self.names["top"] in self.graph.cone((condition,), lambda _: False):
            raise _UnknownError
        return condition

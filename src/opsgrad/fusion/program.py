"""A row program: a trace cut into phases, each one pass along the row.

A reduction is known only when the row has been read to its end, so what depends on it belongs to a
later phase. Expensive values that a later phase needs are kept instead of being computed again: in
the row of an output that is not written yet where there is one, else in a row of scratch memory.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from opsgrad.fusion.graph import EXPENSIVE, OVER_ROWS, REDUCTIONS, Graph, Node
from opsgrad.fusion.trace import Kind, Trace

WIDTH = {np.dtype(np.float32): 16, np.dtype(np.float64): 8}
"""How many numbers a vector holds."""
UNROLL = 4
"""How many vectors are computed side by side."""
SHORT = 256
"""Rows of up to so many entries are taken four at a time: from 512 on four rows no longer lie in
the first cache together."""

TILE = 16
"""So many strips of `UNROLL` vectors across rows are taken together where they are taken in tiles:
what is read together fills 4 KB."""
TOGETHER = 32
"""So many rows are added up, one by one, where a sum runs over rows; then their sums, by pairs."""


class Place(NamedTuple):
    """A row in memory that a node's values along the row are kept in."""

    output: bool
    """Whether it is that of an output; else one of scratch memory."""
    number: int


class Guard(NamedTuple):
    """A condition known for a whole row, without which a value is not used."""

    condition: int
    """Its node."""
    holds: bool
    """Whether the value is used where the condition holds, or where it does not."""


class Phase(NamedTuple):
    """One pass along the row; all entries are numbers of nodes."""

    steps: tuple[int, ...]
    """What is computed or loaded for each entry of the row, in order."""
    reductions: tuple[int, ...]
    """What is reduced."""
    kept: tuple[tuple[int, Place], ...]
    """What is written down for later phases."""
    stored: tuple[int, ...]
    """The numbers of the outputs that are written."""
    guard: Guard | None
    """Where the pass is needed; elsewhere it may be skipped, whatever its reductions are then."""


class Program(NamedTuple):
    """What runs for each row."""

    graph: Graph
    phases: tuple[Phase, ...]
    outputs: tuple[int, ...]
    kinds: tuple[Kind, ...]
    places: dict[int, Place]
    """Where the nodes that are kept are."""
    scratch: int
    """The number of rows of scratch memory."""

    @property
    def key(self) -> str:
        """Return all that machine code depends on, which a text for readers need not have."""
        return repr((self.graph.dtype, self.graph.nodes, *self[1:]))

    @property
    def row_values(self) -> tuple[int, ...]:
        """What phases find of a row and what they need of it, whatever is told from that aside."""
        nodes = self.graph.nodes
        found = {number for phase in self.phases for number in phase.reductions}
        todo = [self.outputs[number] for phase in self.phases for number in phase.stored]
        todo += [n for phase in self.phases for step in phase.steps for n in nodes[step].arguments]
        while todo:
            node = nodes[number := todo.pop()]
            if node.columns or not node.arguments:
                continue
            if node.dtype == self.graph.dtype:
                found.add(number)
            else:
                todo.extend(node.arguments)
        return tuple(sorted(found))

    @property
    def divisors(self) -> tuple[int, ...]:
        """Which of these values of the row something along it is divided by."""
        nodes = self.graph.nodes
        steps = {step for phase in self.phases for step in phase.steps}
        found = {nodes[step].arguments[1] for step in steps if nodes[step].kind == "divide"}
        return tuple(number for number in self.row_values if number in found)

    @property
    def tile_values(self) -> int:
        """How many numbers each row of a tile needs memory for."""
        values = len(self.row_values) + 2 * len(self.divisors)  # two parts of their inverses
        return values + max((len(phase.reductions) for phase in self.phases), default=0)

    def __str__(self) -> str:
        """Return the program as a reader wants it: a line for each step."""
        return "\n".join(_Listing(self).lines())


def with_picks(trace: Trace) -> Trace:
    """Return a trace in which sums of a single entry are that entry.

    A loss takes the value of each row's label as the sum of where(index == label, value, 0), which
    the array API has on every library. A kernel need not read the row for it.
    """
    graph = Graph(trace.graph.dtype)
    graph.nodes = [_picked(trace.graph, node) for node in trace.graph.nodes]
    return trace._replace(graph=graph)


def in_parts(trace: Trace) -> Trace:
    """Return a trace that has sums over all rows as a program computes them.

    Sums over the rows of each column become outputs that rows are added to, of the kind `COLUMN`;
    that of everything becomes the sums of the rows.
    """
    outputs, kinds = list(trace.outputs), list(trace.kinds)
    for number, node in enumerate(trace.outputs):
        if trace.graph.nodes[node].kind == OVER_ROWS:
            (outputs[number],) = trace.graph.nodes[node].arguments
            if kinds[number] is Kind.NUMBER:
                kinds[number] = Kind.ROW
    return trace._replace(outputs=tuple(outputs), kinds=tuple(kinds))


def _picked(graph: Graph, node: Node) -> Node:
    """Return a sum as a pick if its terms are 0 at all entries but one."""
    if node.kind == "sum":
        (terms,) = node.arguments
        term = graph.nodes[terms]
        if term.kind == "where" and graph.nodes[term.arguments[2]].detail == 0.0:
            for place in _only_place(graph, term.arguments[0]):
                return node._replace(kind="pick", arguments=(terms, place))
    return node


def _only_place(graph: Graph, condition: int) -> Iterator[int]:
    """Yield numbers of the row that the index along the row must equal for a condition to hold."""
    node = graph.nodes[condition]
    if node.kind == "logical_and":
        for one in node.arguments:
            yield from _only_place(graph, one)
    elif node.kind == "equal":
        one, other = node.arguments
        for index, place in ((one, other), (other, one)):
            if graph.nodes[index].kind == "index" and not graph.nodes[place].columns:
                yield place


def schedule(trace: Trace, *, scratch: bool = True, keep: bool = True) -> Program:
    """Cut a trace into phases.

    Without scratch memory some things are computed again, and everything if nothing is to be kept.
    """
    again: set[int] = set() if keep else set(range(len(trace.graph.nodes)))
    while True:
        program = _schedule(trace, again)
        in_scratch = {node for node, place in program.places.items() if not place.output}
        if scratch or not in_scratch:
            return program
        again |= in_scratch


def _schedule(trace: Trace, again: set[int]) -> Program:
    graph = trace.graph
    level = _levels(graph)
    tables = [
        (number, node)
        for number, (node, kind) in enumerate(zip(trace.outputs, trace.kinds, strict=True))
        if kind in (Kind.TABLE, Kind.COLUMN)
    ]
    needed = set(graph.cone(trace.outputs, lambda number: False))
    reductions = [n for n in sorted(needed) if graph.nodes[n].kind in REDUCTIONS]
    last = max([level[node] for _, node in tables] + [level[n] - 1 for n in reductions], default=-1)
    computed: set[int] = set()
    kept: set[int] = set()
    drafts = []
    for phase in range(last + 1):
        reduced = tuple(n for n in reductions if level[n] == phase + 1)
        stored = tuple(number for number, node in tables if level[node] == phase)
        roots = tuple(graph.nodes[n].arguments[0] for n in reduced)
        roots += tuple(trace.outputs[number] for number in stored)
        dear = {n for n in _expensive(graph, kept) if graph.nodes[n].dtype == graph.dtype} - again
        steps, reloaded = _steps(graph, roots, computed & dear)
        kept.update(reloaded)
        drafts.append((steps, reduced, stored))
        computed.update(steps)
    places = _places(trace, drafts, kept)
    guards = _guards(trace)
    phases = []
    done: set[int] = set()
    for steps, reduced, stored in drafts:
        fresh = tuple((n, places[n]) for n in steps if n in places and n not in done)
        done.update(steps)
        guard = None
        if not (fresh or stored):  # what is written is there for whoever reads it
            common = frozenset.intersection(*(guards[n] for n in reduced))
            guard = min(common, default=None)
        phases.append(Phase(steps, reduced, fresh, stored, guard))
    scratch = 1 + max((p.number for p in places.values() if not p.output), default=-1)
    return Program(graph, tuple(phases), trace.outputs, trace.kinds, places, scratch)


def _levels(graph: Graph) -> list[int]:
    """Return how many reductions lie below each node, one on top of the other."""
    level: list[int] = []
    for node in graph.nodes:
        below = max((level[n] for n in node.arguments), default=0)
        level.append(below + (node.kind in REDUCTIONS))
    return level


def _guards(trace: Trace) -> dict[int, frozenset[Guard]]:
    """Return for each node that is needed what holds in every row where it is used.

    That is so for what goes through one side of a `where` alone whose condition is the same along
    the row. No branch is worth a condition of labels: hardly any label names no class.
    """
    graph = trace.graph
    guards: dict[int, frozenset[Guard]] = dict.fromkeys(trace.outputs, frozenset())
    for number in reversed(list(graph.cone(trace.outputs, lambda number: False))):
        node = graph.nodes[number]
        for place, argument in enumerate(node.arguments):
            here = guards[number]
            if node.kind == "where" and place > 0 and _guards_rows(graph, node.arguments[0]):
                here |= {Guard(node.arguments[0], place == 1)}
            guards[argument] = guards.get(argument, here) & here
    return guards


def _guards_rows(graph: Graph, condition: int) -> bool:
    """Whether a condition is the same along the row and depends on more than labels."""
    if graph.nodes[condition].columns:
        return False
    cone = graph.cone((condition,), lambda number: False)
    return any(graph.nodes[n].dtype == graph.dtype and graph.nodes[n].rows for n in cone)


def _expensive(graph: Graph, kept: set[int]) -> set[int]:
    """Return the nodes along the row that take an expensive function to compute again.

    What is kept already need not be, and to divide it, or an input, by a number of the row costs
    less than to keep the quotient too.
    """
    found: set[int] = set()
    for number, node in enumerate(graph.nodes):
        if not node.columns:
            continue
        dear = node.kind in EXPENSIVE
        if node.kind == "divide" and not graph.nodes[node.arguments[1]].columns:
            dividend = node.arguments[0]
            dear = dividend not in kept and graph.nodes[dividend].kind != "input"
        if number in kept or dear or any(n in found and n not in kept for n in node.arguments):
            found.add(number)
    return found


def _steps(
    graph: Graph, roots: tuple[int, ...], available: set[int]
) -> tuple[tuple[int, ...], list[int]]:
    """Return what a phase computes along the row, in order, and what of it is there already."""
    nodes = graph.nodes
    cone = graph.cone(roots, lambda n: n in available or not nodes[n].columns)
    steps = tuple(n for n in cone if nodes[n].columns)
    return steps, [n for n in steps if n in available]


def _places(
    trace: Trace,
    drafts: list[tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]],
    kept: set[int],
) -> dict[int, Place]:
    """Return where each kept node goes: an output's row that is written last, or scratch."""
    places: dict[int, Place] = {}
    written = {
        number: phase
        for phase, (_, _, stored) in enumerate(drafts)
        for number in stored
        if trace.kinds[number] is Kind.TABLE
    }
    free = dict(written)
    scratch = 0
    for node in sorted(kept):
        last = max(phase for phase, (steps, _, _) in enumerate(drafts) if node in steps)
        own = [n for n, one in enumerate(trace.outputs) if one == node and n in written]
        if own:
            places[node] = Place(True, own[0])
            continue
        fitting = [number for number, phase in free.items() if phase >= last]
        if fitting:
            places[node] = Place(True, fitting[0])
            del free[fitting[0]]
        else:
            places[node] = Place(False, scratch)
            scratch += 1
    return places


class _Listing:
    """A program in words."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.nodes = program.graph.nodes
        self.shown: set[int] = set()

    def lines(self) -> Iterator[str]:
        """Yield the lines."""
        for count, phase in enumerate(self.program.phases):
            taken = (n for n in phase.steps + phase.reductions for n in self.nodes[n].arguments)
            yield from self._once((*taken, *(self.program.outputs[n] for n in phase.stored)))
            yield from self._header(count, phase.guard)
            yield from self._phase(phase)
        for number, kind in enumerate(self.program.kinds):
            if kind not in (Kind.TABLE, Kind.COLUMN):
                node = self.program.outputs[number]
                yield from self._once((node,))
                yield f"  output{number} = {self._name(node)}"

    def _header(self, count: int, guard: Guard | None) -> Iterator[str]:
        where = ""
        if guard is not None:
            yield from self._once((guard.condition,))
            where = f", where {'' if guard.holds else 'not '}{self._name(guard.condition)}"
        yield f"phase {count}, along the row{where}:"

    def _once(self, roots: Iterable[int]) -> Iterator[str]:
        """Yield the steps that are taken once for a row, for what `roots` need."""
        nodes = self.nodes
        cone = self.program.graph.cone(tuple(roots), lambda n: n in self.shown or nodes[n].columns)
        for number in cone:
            fresh = not nodes[number].columns and number not in self.shown
            if fresh and nodes[number].arguments:
                self.shown.add(number)
                yield f"  {self._step(number)}"

    def _phase(self, phase: Phase) -> Iterator[str]:
        again = {n for n in phase.steps if n in self.program.places and n in self.shown}
        for number in phase.steps:
            if number in again:
                yield f"    {self._name(number)} as kept"
            elif self.nodes[number].arguments:
                yield f"    {self._step(number)}"
        self.shown.update(phase.steps)
        for number, place in phase.kept:
            where = "output" if place.output else "scratch"
            yield f"    keep {self._name(number)} in {where}{place.number}"
        for number in phase.reductions:
            self.shown.add(number)
            yield f"  {self._step(number)}"
        for number in phase.stored:
            sign = "+=" if self.program.kinds[number] is Kind.COLUMN else "="
            yield f"    output{number} {sign} {self._name(self.program.outputs[number])}"

    def _written_out(self, number: int) -> str:
        """Return a value along the row in terms of the inputs and of what the row has."""
        node = self.nodes[number]
        if not node.columns or not node.arguments:
            return self._name(number)
        return f"{node.kind}({', '.join(map(self._written_out, node.arguments))})"

    def _name(self, number: int) -> str:
        node = self.nodes[number]
        if node.kind == "constant":
            return repr(node.detail)
        if node.kind in ("input", "length", "index"):
            return f"{node.kind}{'' if node.detail is None else node.detail}"
        return f"{'v' if node.columns else 's'}{number}"

    def _step(self, number: int) -> str:
        node = self.nodes[number]
        if node.kind == "pick":
            terms, place = node.arguments
            return f"{self._name(number)} = {self._written_out(terms)} at {self._name(place)}"
        return f"{self._name(number)} = {node.kind}({', '.join(map(self._name, node.arguments))})"

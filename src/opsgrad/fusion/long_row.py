"""A single row so long that threads share it: every phase becomes a program of its own.

The row is cut into parts, which are the rows of these programs. What a phase reduces, each part has
one number of; they are combined here, and the phases that follow take the result as an input. Where
the cuts are depends on the length alone: results are the same for any number of threads.
"""

import ctypes
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from opsgrad.fusion import threads
from opsgrad.fusion.graph import OVER_ROWS, REDUCTIONS, Graph
from opsgrad.fusion.program import Guard, Phase, Program, schedule
from opsgrad.fusion.trace import Input, Kind, Trace

Array = np.ndarray[Any, Any]

PART = 1 << 15
"""How many entries are taken for a row: they fit in the second cache, and do for a thread."""
FROM = 1 << 20
"""From so many entries on a single row is cut: two threads then take 0.6 times as long as one for
softmax, as long for l1_norm. Several rows take one thread each, which looks at them fewer times."""

_WHOLE = frozenset(("index", "length", "pick", OVER_ROWS))
"""What a part does not know of the row, or of the other rows."""
_COMBINED = {"sum": np.add.reduce, "max": np.maximum.reduce, "min": np.minimum.reduce}


class Stage(NamedTuple):
    """A program that runs on the parts of a row; all arrays are numbered together.

    First the inputs of the whole, then its outputs, then numbers: what its reductions give.
    """

    program: Program
    inputs: tuple[Input, ...]
    sources: tuple[int, ...]
    """The array that each of its inputs is."""
    targets: tuple[int, ...]
    """The array that each of its outputs is."""
    reductions: tuple[str, ...]
    """How the first of its outputs, a number for each part, are combined."""
    needed: int | None = None
    """The array of the number that is 0 where the stage may be left out."""


def stages(trace: Trace, inputs: Sequence[Input | None]) -> tuple[Stage, ...] | None:
    """Return a trace as stages, or None if its rows cannot be cut."""
    nodes = [trace.graph.nodes[n] for n in trace.graph.cone(trace.outputs, lambda number: False)]
    kinds = {one.kind for one in inputs if one is not None} | set(trace.kinds)
    if Kind.COLUMN in kinds or Kind.NUMBER in trace.kinds:
        return None
    if any(node.kind in _WHOLE for node in nodes):
        return None
    if any(node.kind in REDUCTIONS and node.dtype != trace.graph.dtype for node in nodes):
        return None
    return tuple(_Cutter(trace, inputs).stages())


class _Cutter:
    """Makes the stages of one trace."""

    def __init__(self, trace: Trace, inputs: Sequence[Input | None]) -> None:
        self.trace = trace
        self.inputs = inputs
        self.program = schedule(trace, scratch=False)
        # The arrays that nodes are in once they have been computed.
        self.known: dict[int, int] = {}
        self.outputs = len(inputs)
        self.numbers = self.outputs + len(trace.outputs)

    def stages(self) -> "list[Stage]":
        made: list[Stage] = []
        for phase in self.program.phases:
            needed = None
            if phase.guard is not None:
                needed = self.numbers
                made.append(self._of_guard(phase.guard))
            made.append(self._of_phase(phase)._replace(needed=needed))
        rows = [n for n, kind in enumerate(self.trace.kinds) if kind is not Kind.TABLE]
        if rows:
            nodes = [self.trace.outputs[number] for number in rows]
            made.append(self._stage(nodes, [self.outputs + number for number in rows], ()))
        return made

    def _of_guard(self, guard: Guard) -> Stage:
        """Return the stage that finds a number that is 0 where what is guarded is not needed."""
        graph = self.trace.graph
        one, zero = graph.constant(1.0, graph.dtype), graph.constant(0.0, graph.dtype)
        either = (one, zero) if guard.holds else (zero, one)
        needed = graph.apply("where", (guard.condition, *either), graph.dtype)
        self.numbers += 1
        return self._stage([needed], [self.numbers - 1], ())

    def _of_phase(self, phase: Phase) -> Stage:
        nodes = self.trace.graph.nodes
        begin = self.numbers
        self.numbers += len(phase.reductions)
        written = {place.number: node for node, place in phase.kept}
        written |= {number: self.trace.outputs[number] for number in phase.stored}
        stage = self._stage(
            [*phase.reductions, *written.values()],
            [*range(begin, self.numbers), *(self.outputs + number for number in written)],
            tuple(nodes[number].kind for number in phase.reductions),
        )
        self.known |= {node: begin + count for count, node in enumerate(phase.reductions)}
        self.known |= {node: self.outputs + place.number for node, place in phase.kept}
        return stage

    def _stage(
        self, nodes: Sequence[int], targets: Sequence[int], reductions: tuple[str, ...]
    ) -> Stage:
        """Return the stage that computes nodes from what is known."""
        graph, sources = Graph(self.trace.graph.dtype), list[int]()
        copies: dict[int, int] = {}
        for number in self.trace.graph.cone(tuple(nodes), self.known.__contains__):
            node = self.trace.graph.nodes[number]
            if number in self.known or node.kind == "input":
                copies[number] = graph.input(len(sources), node.dtype, node.rows, node.columns)
                sources.append(self.known.get(number, node.detail))
            elif node.kind == "constant":
                copies[number] = graph.constant(node.detail, node.dtype)
            else:
                arguments = tuple(copies[argument] for argument in node.arguments)
                copies[number] = graph.apply(node.kind, arguments, node.dtype)
        outputs = tuple(copies[number] for number in nodes)
        kinds = tuple(Kind.TABLE if graph.nodes[n].columns else Kind.ROW for n in outputs)
        inputs = tuple(Input(self._kind(place), self._dtype(place)) for place in sources)
        program = schedule(Trace(graph, outputs, kinds, None), keep=False)
        return Stage(program, inputs, tuple(sources), tuple(targets), reductions)

    def _kind(self, place: int) -> Kind:
        given = self.inputs[place] if place < self.outputs else None
        if given is not None:
            return given.kind
        return Kind.TABLE if place < self.outputs + len(self.trace.outputs) else Kind.ROW

    def _dtype(self, place: int) -> np.dtype[Any]:
        given = self.inputs[place] if place < self.outputs else None
        return self.trace.graph.dtype if given is None else given.dtype


class Staged(NamedTuple):
    """The stages of a program, and the addresses of their kernels."""

    stages: tuple[Stage, ...]
    kernels: tuple[int, ...]

    def run(self, arrays: Sequence[Any]) -> None:
        """Compute the row; `arrays` are inputs and outputs, contiguous, or None."""
        dtype = self.stages[0].program.graph.dtype
        length = max(a.size for a in arrays if a is not None)
        numbers = np.zeros(self._most() - len(arrays), dtype)
        places = [0 if a is None else a.ctypes.data for a in arrays]
        places += [numbers[count:].ctypes.data for count in range(len(numbers))]
        for stage, kernel in zip(self.stages, self.kernels, strict=True):
            if stage.needed is not None and numbers[stage.needed - len(arrays)] == 0:
                continue
            cut = _Cut(stage, places, length, dtype)
            cut.run(kernel)
            for reduction, parts, place in zip(
                stage.reductions, cut.partial, stage.targets, strict=False
            ):
                with np.errstate(all="ignore"):
                    numbers[place - len(arrays)] = _COMBINED[reduction](parts)

    def _most(self) -> int:
        """Return how many arrays there are, with the numbers."""
        return 1 + max(place for stage in self.stages for place in stage.targets)


class _Cut:
    """A stage on the parts of the row."""

    def __init__(
        self, stage: Stage, places: Sequence[int], length: int, dtype: np.dtype[Any]
    ) -> None:
        kinds = [*(one.kind for one in stage.inputs), *stage.program.kinds]
        self.parts, self.rest = divmod(length if Kind.TABLE in kinds else 1, PART)
        reductions = len(stage.reductions)
        self.partial = np.empty((reductions, self.parts + (self.rest > 0)), dtype)
        self.places = [places[number] for number in (*stage.sources, *stage.targets)]
        # From part to part, and from entry to entry.
        self.strides = [
            (PART * dtype.itemsize, dtype.itemsize) if kind is Kind.TABLE else (0, 0)
            for kind in kinds
        ]
        begin = len(stage.sources)
        for number in range(reductions):
            self.places[begin + number] = self.partial[number].ctypes.data
            self.strides[begin + number] = (dtype.itemsize, 0)

    def run(self, kernel: int) -> None:
        """Run the kernel of the stage."""
        self._run(kernel, 0, self.parts, PART)
        if self.rest:
            self._run(kernel, self.parts, 1, self.rest)

    def _run(self, kernel: int, first: int, parts: int, length: int) -> None:
        pairs = zip(self.places, self.strides, strict=True)
        places = [place + first * stride for place, (stride, _) in pairs]
        pointers = (ctypes.c_void_p * len(places))(*places)
        strides = [number for pair in self.strides for number in pair]
        threads.run(kernel, parts, length, pointers, (ctypes.c_int64 * len(strides))(*strides))

"""The CPU engine: bodies and rules on NumPy arrays, each as one compiled loop over the data."""

import ctypes
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from opsgrad.fusion import direct, long_row, memory, threads
from opsgrad.fusion.form import Form, Learnt
from opsgrad.fusion.program import (
    SHORT,
    TILE,
    TOGETHER,
    UNROLL,
    WIDTH,
    Program,
    in_parts,
    schedule,
    with_picks,
)
from opsgrad.fusion.tables import Geometry, Task, inputs_of, nested, shapes_of, table_of, trace_of
from opsgrad.fusion.trace import Input, Kind, Trace, UntraceableError

Array = np.ndarray[Any, Any]

SCRATCH = 1 << 20
"""The most bytes of scratch memory that a thread may have; beyond, things are computed again."""
PIECE = 1 << 13
"""How many entries of an elementwise op are taken for a row: enough to be handed to a thread."""
GRAIN = 1 << 13
"""The fewest entries worth handing to another thread."""
PAGE = 1 << 12
LONG = 64
"""From so many entries on, each a multiple of `PAGE` from the last, rows are taken in tiles."""
ALONE = 1 << 14
"""Below so many entries the caller computes alone, and keeps the interpreter's lock."""
MOST_CALLS = 256


class Whole(NamedTuple):
    """A kernel for whole rows."""

    address: int
    entry: Callable[..., None]
    """It, and the team, as a function of NumPy's own objects."""


Kernel = Whole | long_row.Staged
Compiled = tuple[Program, Kernel, Trace]


class Fused:
    """A body or rule as a callable on NumPy arrays; it compiles what it needs when it needs it."""

    def __init__(self, task: Task, compile_from: int) -> None:
        self.task = task
        self.compile_from = compile_from
        self._calls: dict[Any, _Call | None] = {}
        self._compiled: dict[Any, Compiled] = {}
        self._cuts: dict[Any, Compiled | None] = {}
        self._direct: Callable[..., Any] | None = None

    def __call__(self, *arrays: Array | None) -> Any:
        """Run the task on arrays in its data type, labels being int64; None if that cannot be."""
        if self._direct is not None and (out := self._direct(*arrays)) is not None:
            return out
        key = _layout(arrays)
        try:
            call = self._calls[key]
        except KeyError:
            call = self._prepare(key, arrays)
        return None if call is None else call(arrays)

    def learnt(self, arrays: tuple[Array | None, ...], form: Form) -> Learnt | None:
        """Return how to call the task directly for arrays that it has just run on, if it can be."""
        call = self._calls.get(_layout(arrays))
        return None if call is None else call.learnt(arrays, form)

    def _prepare(self, key: Any, arrays: tuple[Array | None, ...]) -> "_Call | None":
        geometry = table_of(self.task, arrays)
        call = None
        if geometry is not None:
            entries = math.prod(geometry.table)
            variant = (geometry.kinds, geometry.across)
            if entries < self.compile_from and not any(
                known[:2] == variant for known in list(self._compiled)
            ):
                return None  # not kept: the kernel may be there next time
            contiguous = all(
                a is not None and a.flags.c_contiguous and a.flags.aligned for a in arrays
            )
            # What sums up everything has no axes; an argument may, of which it is the gradient.
            pairs = zip(arrays, geometry.kinds, strict=True)
            axes = any(kind is Kind.NUMBER and a is not None and a.ndim for a, kind in pairs)
            call = self._call(geometry, contiguous, sums_up=not axes)
            learnt = None if call is None else call.learnt(arrays, call.form)
            if call is not None and learnt is not None:
                call.direct, self._direct = learnt(None), learnt(self._direct)
        if len(self._calls) >= MOST_CALLS:
            self._calls.clear()
        self._calls[key] = call
        return call

    def _call(self, geometry: Geometry, contiguous: bool, *, sums_up: bool) -> "_Call | None":
        length = PIECE if geometry.flat else geometry.table[geometry.axis]
        try:
            program, kernel, traced = self._cut(geometry) or self._kernel(geometry, length)
        except (UntraceableError, RuntimeError):  # LLVM, or the system, may refuse
            return None
        if Kind.NUMBER in traced.kinds and not sums_up:
            return None
        return _Call(self.task, geometry, program, kernel, traced, contiguous)

    def _kernel(self, geometry: Geometry, length: int) -> Compiled:
        row = length * _rows_at_once(self.task, geometry) * self.task.dtype.itemsize
        paged = _paged(geometry, self.task.dtype.itemsize)
        for roomy in (True, False):
            key = (geometry.kinds, geometry.across, paged, roomy)
            if key not in self._compiled:
                self._compiled[key] = self._compile(geometry, roomy)
            if self._compiled[key][0].scratch * row <= SCRATCH:
                break
        return self._compiled[key]

    def _cut(self, geometry: Geometry) -> Compiled | None:
        """Return what computes a long row in parts; None for other rows."""
        entries = math.prod(geometry.table)
        single = entries == geometry.table[geometry.axis] and not geometry.flat
        if not single or entries < long_row.FROM:
            return None
        if geometry.kinds not in self._cuts:
            self._cuts[geometry.kinds] = self._compile_cut(geometry)
        return self._cuts[geometry.kinds]

    def _compile_cut(self, geometry: Geometry) -> Compiled | None:
        traced, picked = self._traced(geometry)
        stages = long_row.stages(picked, inputs_of(self.task, geometry.kinds))
        if stages is None:
            return None
        kernels = [self._load(stage.program, stage.inputs, "along")[0] for stage in stages]
        cut = long_row.Staged(stages, tuple(kernels))
        return schedule(picked, scratch=False), cut, traced

    def _traced(self, geometry: Geometry) -> tuple[Trace, Trace]:
        """Return what the task computes, as it says and as a program does it."""
        inputs = inputs_of(self.task, geometry.kinds)
        traced = trace_of(self.task, inputs, sums_over_rows=True)
        reduces = self.task.parameters.get("reduction", "none") != "none"
        return traced, with_picks(in_parts(traced.summed() if reduces else traced))

    def _compile(self, geometry: Geometry, roomy: bool) -> Compiled:
        inputs = inputs_of(self.task, geometry.kinds)
        traced, picked = self._traced(geometry)
        program = schedule(picked, scratch=roomy)
        tiled = not program.scratch and _paged(geometry, self.task.dtype.itemsize)
        way = "across" if geometry.across else "flat" if geometry.flat else "along"
        kernel, call = self._load(program, inputs, "tiled" if tiled else way)
        count = len(inputs) + len(program.outputs)
        pointer = ctypes.c_void_p
        entry = ctypes.CFUNCTYPE(None, *[pointer] * 3, ctypes.c_int64, *[pointer] * (1 + count))
        return program, Whole(kernel, entry(call)), traced

    def _load(self, program: Program, inputs: Sequence[Input | None], way: str) -> tuple[int, ...]:
        """Return the addresses of a program's kernel and of its entry; `way` is how it is laid."""
        from opsgrad.fusion import compiler

        width = WIDTH[self.task.dtype]

        def text() -> str:
            from opsgrad.fusion.across import StripPrinter, TilePrinter
            from opsgrad.fusion.llvm import Printer

            if way == "across":
                return StripPrinter(program, inputs, width).print()
            if way == "tiled":
                return TilePrinter(program, inputs, width).print()
            return Printer(program, inputs, width, flat=way == "flat").print()

        key = f"{program.key}\n{list(inputs)}\n{self.task.dtype} {width} {way}"
        return compiler.load_all(key, text, (compiler.KERNEL, compiler.CALL))


def _rows_at_once(task: Task, geometry: Geometry) -> int:
    """Return how many rows are computed at a time, at most."""
    if geometry.across:
        return UNROLL * WIDTH[task.dtype]
    return 1 if geometry.flat or geometry.table[geometry.axis] > SHORT else UNROLL


def _paged(geometry: Geometry, size: int) -> bool:
    """Return whether the entries of a row, of `size` bytes, are multiples of a page apart."""
    if not geometry.across or geometry.table[geometry.axis] < LONG:
        return False
    return math.prod(geometry.table[geometry.axis :][1:]) * size % PAGE == 0


_NOTHING = np.empty(0)
"""In the place of an array that is left out."""


class _Call:
    """A compiled task for arrays of given shapes and strides."""

    def __init__(
        self,
        task: Task,
        geometry: Geometry,
        program: Program,
        kernel: Kernel,
        traced: Trace,
        contiguous: bool,
    ) -> None:
        self.task = task
        self.geometry = geometry
        self.kernel = kernel
        self.structure = traced.structure
        table, axis = geometry.table, geometry.axis
        shapes = shapes_of(geometry)
        self.reduction = task.parameters.get("reduction", "none")
        self.values = float(math.prod(shapes[traced.kinds[0]]))
        self.kinds = (*geometry.kinds, *program.kinds)
        size = task.dtype.itemsize
        entries = math.prod(table)
        if geometry.flat:
            self.length = min(PIECE, entries)
            self.rows, self.rest = divmod(entries, self.length)
            self.outer = 1
        else:
            self.length, self.rest = table[axis], 0
            self.outer = math.prod(table[: len(table) + axis]) if geometry.across else 1
            self.rows = entries // self.length // self.outer
        if geometry.flat:
            shapes[Kind.ROW] = (self.rows + (self.rest > 0),)
        shapes[Kind.COLUMN] = (-(-self.rows // TOGETHER), self.length)
        self.over_rows = [
            number for number, kind in enumerate(traced.kinds) if kind in (Kind.COLUMN, Kind.NUMBER)
        ]
        self.shapes = [shapes[kind] for kind in program.kinds]
        large = any(memory.is_large(shape, task.dtype) for shape in self.shapes)
        self.empty: Callable[..., Array] = memory.empty if large else np.empty
        strides: list[int] = []
        for number, kind in enumerate(self.kinds):
            output = number >= len(geometry.kinds)
            strides.extend(self._strides(kind, self._size(number), output=output))
        self.strides = (ctypes.c_int64 * len(strides))(*strides)
        across = TOGETHER if Kind.COLUMN in program.kinds else _rows_at_once(task, geometry)
        self.grain = across * -(-GRAIN // (self.length * across))
        self.scratch = program.scratch * self.length * size * across
        if not program.scratch and _paged(geometry, size):
            self.scratch = program.tile_values * TILE * across * size
        block = (
            self.rows,
            self.length,
            self.rest,
            ctypes.addressof(self.strides),
            self.scratch,
            self.grain,
        )
        self.block = (ctypes.c_int64 * len(block))(*block)
        self.block_at = ctypes.addressof(self.block)
        self.contiguous = contiguous
        self.small = entries < ALONE
        self.single = self.structure == 0
        self.direct: Callable[..., Any] | None = None

    def _size(self, number: int) -> int:
        """Return the bytes of an entry of an input or output."""
        names = self.task.names
        return (
            8
            if number < len(names) and names[number] in self.task.labels
            else self.task.dtype.itemsize
        )

    def _strides(self, kind: Kind | None, size: int, *, output: bool) -> tuple[int, int]:
        """Return the strides of a contiguous array from row to row and from entry to entry."""
        across = self.geometry.across
        if output and kind is Kind.COLUMN:  # sums of rows: a table of its own
            return size * self.length, size
        if kind is Kind.TABLE:
            return (size, size * self.rows) if across else (size * self.length, size)
        if kind in (Kind.ROW, Kind.ROW_KEPT):
            return size, 0
        return (0, size) if kind is Kind.COLUMN else (0, 0)

    def __call__(self, arrays: tuple[Array | None, ...]) -> Any:
        """Run the kernel on arrays of this geometry."""
        if self.direct is not None:
            if not self.small:
                threads.crew()  # without one there is no direct call
            if (out := self.direct(*arrays)) is not None:
                return out
        if not self.contiguous:
            pairs = zip(arrays, self.kinds, strict=False)
            arrays = tuple([_NOTHING if a is None else _contiguous(a, kind) for a, kind in pairs])
        outputs = [self.empty(shape, self.task.dtype) for shape in self.shapes]
        if isinstance(self.kernel, long_row.Staged):
            self.kernel.run((*arrays, *outputs))
        elif self.outer > 1:
            self._run_parts(self.kernel.address, (*arrays, *outputs))
        else:
            helpers, team, run, _ = threads.crew()
            scratch = threads.memory_of_thread(self.scratch) if self.scratch else None
            every = (*map(id, arrays), *map(id, outputs))
            self.kernel.entry(self.block_at, run, team, helpers, scratch, *every)
        return self._result(outputs)

    @property
    def form(self) -> Form:
        """Return the form of a direct call that returns what the task does."""
        return Form(size=None if self.single else len(self.shapes))

    def learnt(self, arrays: tuple[Array | None, ...], form: Form) -> Learnt | None:
        """Return how to call the kernel directly for arrays of this geometry, if it can be.

        Not where the results are nested.
        """
        flat = self.single or self.structure == tuple(range(len(self.shapes)))
        if not (flat and self.outer == 1 and self._as_they_are(arrays)):
            return None
        if isinstance(self.kernel, long_row.Staged):
            return None
        if form.shapes and not self._has_shapes(form.shapes):
            return None
        launch = direct.Launch(
            self.kernel.address,
            self.rows,
            self.length,
            self.rest,
            list(self.strides),
            self.scratch,
            0 if self.small else self.grain,
            {"none": None, "sum": 1.0, "mean": self.values}[self.reduction],
        )
        dtype = np.dtype(self.task.dtype.type)  # which lasts: one that was unpickled need not
        outputs = [
            direct.Output(shape, dtype, number in self.over_rows)
            for number, shape in enumerate(self.shapes)
        ]
        if len(arrays) + len(outputs) > direct.MOST_ARRAYS:
            return None
        return functools.partial(direct.joined, direct.entry(launch, arrays, outputs, form))

    def _has_shapes(self, expected: tuple[tuple[int, ...] | None, ...]) -> bool:
        if len(expected) != len(self.shapes):
            return False
        return all(
            wanted is None or wanted == (shape[1:] if number in self.over_rows else shape)
            for number, (wanted, shape) in enumerate(zip(expected, self.shapes, strict=True))
        )

    def _as_they_are(self, arrays: tuple[Array | None, ...]) -> bool:
        """Whether the kernel takes the arrays as they lie in memory."""
        pairs = zip(arrays, self.kinds, strict=False)
        return all(a is None or _contiguous(a, kind) is a for a, kind in pairs)

    def _run_parts(self, address: int, arrays: Sequence[Any]) -> None:
        """Run a kernel on each of the parts that lie one after the other in all arrays."""
        for part in range(self.outer):
            offsets = [
                0 if kind in (None, Kind.NUMBER, Kind.COLUMN) else part * (a.nbytes // self.outer)
                for kind, a in zip(self.kinds, arrays, strict=True)
            ]
            places = [a.ctypes.data + offset for a, offset in zip(arrays, offsets, strict=True)]
            pointers = (ctypes.c_void_p * len(places))(*places)
            threads.run(
                address,
                self.rows,
                self.length,
                pointers,
                self.strides,
                self.scratch,
                self.grain,
            )

    def _result(self, outputs: list[Any]) -> Any:
        """Return the outputs as the task does; the first is the value, which may be reduced."""
        if self.reduction != "none":
            total = _sum(outputs[0])
            outputs[0] = total if self.reduction == "sum" else total / self.values
        for number in self.over_rows:
            outputs[number] = _sum_of_rows(outputs[number])
        return outputs[0] if self.single else nested(self.structure, outputs)


@np.errstate(all="ignore")
def _sum(values: Array) -> Any:
    return np.add.reduce(values, axis=None)


@np.errstate(all="ignore")
def _sum_of_rows(parts: Array) -> Any:
    """Return the sum along the first axis, by pairs."""
    while len(parts) > 1:
        half = len(parts) // 2
        rest = parts[2 * half :]
        parts = np.concatenate([parts[:half] + parts[half : 2 * half], rest])
    return parts[0]


def _layout(arrays: tuple[Array | None, ...]) -> Any:
    """Return what of the arrays a call depends on."""
    return tuple([None if a is None else (a.shape, a.strides) for a in arrays])


def _contiguous(array: Array, kind: Kind | None) -> Array:
    if kind is Kind.NUMBER or (array.flags.c_contiguous and array.flags.aligned):
        return array
    return np.array(array, order="C")

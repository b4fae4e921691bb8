"""The CPU engine: bodies and rules on NumPy arrays, each as one compiled loop over the data."""

import ctypes
import math
from collections.abc import Callable
from typing import Any, cast

import numpy as np

from opsgrad._arrays import reduced
from opsgrad._typing import Namespace
from opsgrad.fusion import threads
from opsgrad.fusion.program import UNROLL, WIDTH, Program, schedule
from opsgrad.fusion.tables import Geometry, Task, inputs_of, nested, shapes_of, table_of, trace_of
from opsgrad.fusion.trace import Kind, Trace, UntraceableError

Array = np.ndarray[Any, Any]

SCRATCH = 1 << 20
"""The most bytes of scratch memory that a thread may have; beyond, things are computed again."""
PIECE = 1 << 13
"""How many entries of an elementwise op are taken for a row: enough to be handed to a thread."""
GRAIN = 1 << 13
"""The fewest entries worth handing to another thread."""
DIRECT = 1 << 14
"""Below so many entries a call goes straight to the kernel: its time is all overhead."""
MOST_CALLS = 256


class Fused:
    """A body or rule as a callable on NumPy arrays; it compiles what it needs when it needs it."""

    def __init__(self, task: Task, fallback: Callable[..., Any], compile_from: int) -> None:
        self.task = task
        self.fallback = fallback
        self.compile_from = compile_from
        self._calls: dict[Any, _Call | None] = {}
        self._compiled: dict[Any, tuple[Program, Any, Trace]] = {}

    def __call__(self, *arrays: Array | None) -> Any:
        """Run the task on arrays in its data type, labels being int64."""
        key = tuple([None if a is None else (a.shape, a.strides) for a in arrays])
        try:
            call = self._calls[key]
        except KeyError:
            call = self._prepare(key, arrays)
        return self.fallback(*arrays) if call is None else call(arrays)

    def _prepare(self, key: Any, arrays: tuple[Array | None, ...]) -> "_Call | None":
        geometry = table_of(self.task, arrays)
        call = None
        if geometry is not None:
            entries = math.prod(geometry.table)
            variant = (geometry.kinds, geometry.across)
            if entries < self.compile_from and not any(
                known[:2] == variant for known in self._compiled
            ):
                return None  # not kept: the kernel may be there next time
            contiguous = all(
                a is not None and a.flags.c_contiguous and a.flags.aligned for a in arrays
            )
            call = self._call(geometry, contiguous)
        if len(self._calls) >= MOST_CALLS:
            self._calls.clear()
        self._calls[key] = call
        return call

    def _call(self, geometry: Geometry, contiguous: bool) -> "_Call | None":
        length = PIECE if geometry.flat else geometry.table[geometry.axis]
        try:
            program, kernel, traced = self._kernel(geometry, length)
        except (UntraceableError, RuntimeError):  # LLVM, or the system, may refuse
            return None
        return _Call(self.task, geometry, program, kernel, traced, contiguous)

    def _kernel(self, geometry: Geometry, length: int) -> tuple[Program, Any, Trace]:
        row = length * _rows_at_once(self.task, geometry) * self.task.dtype.itemsize
        for roomy in (True, False):
            key = (geometry.kinds, geometry.across, roomy)
            if key not in self._compiled:
                self._compiled[key] = self._compile(geometry, roomy)
            if self._compiled[key][0].scratch * row <= SCRATCH:
                break
        return self._compiled[key]

    def _compile(self, geometry: Geometry, roomy: bool) -> tuple[Program, Any, Trace]:
        from opsgrad.fusion import compiler

        inputs = inputs_of(self.task, geometry.kinds)
        traced = trace_of(self.task, inputs)
        program = schedule(traced, scratch=roomy)
        width = WIDTH[self.task.dtype]

        def text() -> str:
            from opsgrad.fusion.llvm import Lanes, Printer

            lanes = Lanes.ROWS if geometry.across else Lanes.COLUMNS
            return Printer(program, inputs, lanes, width).print()

        key = f"{program}\n{inputs}\n{self.task.dtype} {width} {geometry.across}"
        kernel, call = compiler.load_all(key, text, (compiler.KERNEL, compiler.CALL))
        count = len(inputs) + len(program.outputs)
        direct = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 3, *[ctypes.c_void_p] * (2 + count))
        return program, (kernel, direct(call)), traced


def _rows_at_once(task: Task, geometry: Geometry) -> int:
    return UNROLL * WIDTH[task.dtype] if geometry.across else 1


_SIGNATURE = ctypes.CFUNCTYPE(
    None, *[ctypes.c_int64] * 3, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p
)


class _Call:
    """A compiled task for arrays of given shapes and strides."""

    def __init__(
        self,
        task: Task,
        geometry: Geometry,
        program: Program,
        kernel: Any,
        traced: Trace,
        contiguous: bool,
    ) -> None:
        self.task = task
        self.geometry = geometry
        self.program = program
        self.address, self.direct = kernel
        self.kernel = _SIGNATURE(self.address)
        self.structure = traced.structure
        table, axis = geometry.table, geometry.axis
        self.shapes = shapes_of(geometry, program.kinds)
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
        strides: list[int] = []
        for number, kind in enumerate(self.kinds):
            strides.extend(self._strides(kind, self._size(number)))
        self.strides = (ctypes.c_int64 * len(strides))(*strides)
        across = _rows_at_once(task, geometry)
        self.grain = across * -(-GRAIN // (self.length * across))
        self.strides_at = ctypes.addressof(self.strides)
        self.scratch = program.scratch * self.length * size * across

        self.simple = (
            contiguous
            and not self.rest
            and self.outer == 1
            and not self.scratch
            and task.parameters.get("reduction", "none") == "none"
            and entries < DIRECT
        )
        self.single = self.structure == 0

    def _size(self, number: int) -> int:
        """Return the bytes of an entry of an input or output."""
        names = self.task.names
        return (
            8
            if number < len(names) and names[number] in self.task.labels
            else self.task.dtype.itemsize
        )

    def _strides(self, kind: Kind | None, size: int) -> tuple[int, int]:
        """Return the strides of a contiguous array from row to row and from entry to entry."""
        across = self.geometry.across
        if kind is Kind.TABLE:
            return (size, size * self.rows) if across else (size * self.length, size)
        if kind in (Kind.ROW, Kind.ROW_KEPT):
            return size, 0
        return (0, size) if kind is Kind.COLUMN else (0, 0)

    def __call__(self, arrays: tuple[Array | None, ...]) -> Any:
        """Run the kernel on arrays of this geometry."""
        if self.simple:
            outputs = [np.empty(shape, self.task.dtype) for shape in self.shapes]
            self.direct(
                0,
                self.rows,
                self.length,
                self.strides_at,
                None,
                *map(id, arrays),
                *map(id, outputs),
            )
            return outputs[0] if self.single else nested(self.structure, outputs)
        given = [
            None if a is None else _contiguous(a, k)
            for a, k in zip(arrays, self.kinds, strict=False)
        ]
        outputs = [np.empty(shape, self.task.dtype) for shape in self.shapes]
        every = (*given, *outputs)
        pointers = (ctypes.c_void_p * len(every))(
            *[0 if a is None else a.ctypes.data for a in every]
        )
        for outer in range(self.outer):
            if outer:
                for number, (kind, array) in enumerate(zip(self.kinds, every, strict=True)):
                    if array is not None and kind not in (Kind.NUMBER, Kind.COLUMN):
                        pointers[number] = array.ctypes.data + outer * (array.nbytes // self.outer)
            threads.run(
                self.address,
                self.rows,
                self.length,
                pointers,
                self.strides,
                self.scratch,
                self.grain,
            )
        if self.rest:  # nothing of an elementwise op is kept
            self.kernel(self.rows, self.rows + 1, self.rest, pointers, self.strides, None)
        result = nested(self.structure, outputs)
        reduction = self.task.parameters.get("reduction", "none")
        if reduction == "none":
            return result
        with np.errstate(all="ignore"):
            return reduced(cast("Namespace", np), result, reduction)


def _contiguous(array: Array, kind: Kind | None) -> Array:
    if kind is Kind.NUMBER or (array.flags.c_contiguous and array.flags.aligned):
        return array
    return np.array(array, order="C")

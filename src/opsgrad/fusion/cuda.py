"""The CUDA engine: bodies and rules on arrays of a GPU, each as one generated kernel."""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from opsgrad.fusion.cuda_source import BY_VALUE, SIZES, Shape, Source, overhead, printed, weight
from opsgrad.fusion.program import schedule, with_picks
from opsgrad.fusion.tables import Geometry, Task, inputs_of, nested, shapes_of, table_of, trace_of
from opsgrad.fusion.trace import Kind, Trace, UntraceableError

Array = Any

OPTIONS = ("-std=c++17", "-fmad=false", "-ftz=false", "-prec-div=true", "-prec-sqrt=true")
"""How kernels are compiled: every rounding is where the program has it, and nothing is flushed."""

REGISTERS = 65536
"""What a multiprocessor has for the threads of all its blocks."""
HELD = 32
"""The most entries of a row for a thread, where there is a choice."""
MOST_HELD = 64
"""The most that a thread holds at all: beyond, kernels take seconds to compile."""
AT_EASE = 16
"""As many a thread holds before a row is given more threads."""
COUNTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
"""Into how many chunks per thread rows are cut: more kinds would be more kernels to compile."""
PEELED_FROM = 8
"""Rows of so many chunks may begin within one; shorter ones are read in smaller pieces."""
MOST_BLOCKS = 1 << 30
"""Of a kernel; what is left over is done in further turns."""
MOST_CALLS = 256


Room = Callable[[int], int]
"""From the number of threads in a block to that of entries for which each has registers."""


class Launcher(Protocol):
    """What an array library does for the engine, on one device."""

    capability: int
    """Of the device: 90 for 9.0."""

    def empty(self, shape: tuple[int, ...], dtype: str) -> Array:
        """Return a new array in C order; in bfloat16 what kernels take is its `bits`."""

    def contiguous(self, array: Array) -> Array:
        """Return an array in C order with the same entries."""

    def address(self, array: Array) -> int:
        """Return where an array begins."""

    def compiled(self, source: Source) -> Callable[[tuple[int], tuple[int], tuple[Any, ...]], Any]:
        """Return what starts a kernel: takes a grid, a block, and arrays and NumPy's integers.

        Compiler, driver and an installation that lacks one may raise anything.
        """

    def spills(self, kernel: Any) -> bool:
        """Whether a kernel keeps in memory what it has no registers for."""

    def reduced(self, array: Array, reduction: str) -> Array:
        """Return the mean or the sum of an array."""


class Variant(NamedTuple):
    """All that a kernel depends on beside the task."""

    kinds: tuple[Kind | None, ...]
    storage: tuple[str, ...]
    shape: Shape
    keep: bool


class Fused:
    """A body or rule as a callable on arrays of a GPU; it compiles what it needs when asked."""

    def __init__(self, task: Task, name: str) -> None:
        self.task = task
        self.name = name
        self.failure: str | None = None
        """Why arrays that could have had a kernel have none, once that has happened."""
        self._calls: dict[Any, Call | None] = {}
        self._traces: dict[Any, Trace] = {}
        self._kernels: dict[Any, Any] = {}

    def __call__(
        self, launcher: Launcher, arrays: Sequence[Array | float | None], result: str
    ) -> Any:
        """Run the task on arrays, and on numbers as floats; None where there is no kernel.

        Its results are stored as `result`, but a residual, and a first one that is reduced, in the
        data type that is computed in.
        """
        address = launcher.address
        key = (
            launcher,
            result,
            *[
                None
                if a is None or isinstance(a, float)
                else (a.shape, a.strides, a.dtype, address(a) % 16)
                for a in arrays
            ],
        )
        try:
            call = self._calls[key]
        except KeyError:
            if len(self._calls) >= MOST_CALLS:
                self._calls.clear()
            call = self._calls[key] = self.prepared(launcher, arrays, result)
        return None if call is None else call(launcher, arrays)

    def prepared(
        self, launcher: Launcher, arrays: Sequence[Array | None], result: str
    ) -> "Call | None":
        """Return what runs on arrays of these shapes, strides and data types, if anything does."""
        geometry = table_of(self.task, arrays)
        if geometry is None:
            return None
        try:
            traced = self._trace(geometry.kinds)
        except UntraceableError:
            return None
        plan = _Plan(self.task, geometry, traced, result, arrays, launcher)
        for variant in plan.variants():
            kernel = self._kernel(launcher, variant, traced)
            if not isinstance(kernel, str):
                return Call(plan, variant, kernel)
        self.failure = kernel
        return None

    def _kernel(self, launcher: Launcher, variant: Variant, traced: Trace) -> Any:
        """Return a compiled kernel, or say why there is none."""
        key = (launcher, variant)
        if key not in self._kernels:
            source = source_of(self.task, variant, traced, self.name)
            try:
                kernel: Any = launcher.compiled(source)
                # A kernel that reads the row again is the last resort, whatever it takes.
                if variant.shape.chunks and launcher.spills(kernel):
                    kernel = "it takes more registers than there are"
            except Exception as error:  # no reason to raise where the body can run
                kernel = _first_line(error)
            self._kernels[key] = kernel
        return self._kernels[key]

    def _trace(self, kinds: tuple[Kind | None, ...]) -> Trace:
        if kinds not in self._traces:
            self._traces[kinds] = trace_of(self.task, inputs_of(self.task, kinds))
        return self._traces[kinds]


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return ": ".join([type(error).__name__, *lines[:1]])


def source_of(task: Task, variant: Variant, traced: Trace, name: str) -> Source:
    """Print the kernel of a task."""
    # Where the row is read again for each pass, one entry of it is better read by itself.
    reads_again = variant.shape.chunks == 0
    program = schedule(with_picks(traced) if reads_again else traced, keep=variant.keep)
    inputs = inputs_of(task, variant.kinds)
    return printed(program, inputs, variant.storage, variant.shape, name)


# -- the shape of a kernel -------------------------------------------------------------------------


class _Plan:
    """What a kernel has to be for arrays of given shapes, data types and alignment."""

    def __init__(
        self,
        task: Task,
        geometry: Geometry,
        traced: Trace,
        result: str,
        arrays: Sequence[Array | None],
        launcher: Launcher,
    ) -> None:
        self.task, self.geometry, self.traced = task, geometry, traced
        self.copied = tuple(_needs_copy(a, k) for a, k in zip(arrays, geometry.kinds, strict=True))
        self.capability = launcher.capability
        self.reduction = task.parameters.get("reduction", "none")
        first = result if self.reduction == "none" else task.dtype.name
        others = task.dtype.name if task.residual else result
        self.stored = (first, *[others] * (len(traced.outputs) - 1))
        self.storage = (*map(_storage, arrays), *self.stored)
        self.kinds = (*geometry.kinds, *traced.kinds)
        # Copies and results are new arrays, which are aligned.
        self.offsets = [
            0 if storage in ("", BY_VALUE) or copied else launcher.address(a) % 16
            for a, storage, copied in zip(arrays, self.storage, self.copied, strict=False)
        ] + [0] * len(traced.outputs)
        table, axis = geometry.table, geometry.axis
        self.entries = math.prod(table)
        self.length = self.entries if geometry.flat else table[axis]
        self.inner = 1 if axis == -1 else math.prod(table[axis + 1 :])
        self.rows = self.entries // self.length
        self.chunk, self.peeled = (1, False) if self.inner > 1 else self._chunk()
        # What a row takes of whole chunks at most, counted in entries.
        self.span = self.length + (self.chunk - 1 if self.peeled else 0)

    def variants(self) -> Iterator[Variant]:
        """Yield the kernels that could be used, the best first, and last one that always can."""
        kinds = self.geometry.kinds
        if self.geometry.flat:
            # Only the entries of a few chunks are held; there is nothing else to read.
            for count in (2, 1):
                shape = Shape("flat", 256, 256, 1, self.chunk, count)
                yield Variant(kinds, self.storage, shape, True)
            return
        for keep in (True, False):
            program = schedule(self.traced, keep=keep)
            size = max(weight(program, self.storage, self.chunk), 0.75)
            room = functools.partial(_room, size=size, spent=overhead(program))
            for shape in self._shapes(room):
                yield Variant(kinds, self.storage, shape, keep)
        yield Variant(kinds, self.storage, self._stream(), False)

    def _shapes(self, room: Room) -> Iterator[Shape]:
        if self.inner > 1:
            yield from self._columns(room)
            return
        chunk = self.chunk
        most = min(HELD, room(128))
        if self.length <= 32 * most:
            group = 1
            while group < 32 and self.length > 2 * group * chunk:
                group *= 2
            count = _count(self.span, group * chunk)
            if count * chunk <= most:
                yield Shape("rows", 128, group, 1, chunk, count, peeled=self.peeled)
        for cluster in (1, 2, 4, 8) if self.capability >= 90 else (1,):
            for threads, held in _sizes(room, cluster):
                count = _count(self.span, threads * cluster * chunk)
                if count * chunk <= held:
                    shape = Shape("rows", threads, threads, cluster, chunk, count)
                    yield shape._replace(peeled=self.peeled)

    def _columns(self, room: Room) -> Iterator[Shape]:
        wide = self._wide()
        for threads, held in _sizes(room, 1):
            count = _count(self.length, threads // wide)
            if count <= held:
                yield Shape("columns", threads, threads // wide, 1, 1, count, wide)

    def _stream(self) -> Shape:
        if self.inner > 1:
            wide = self._wide()
            return Shape("columns", 512, 512 // wide, 1, 1, 0, wide)
        threads = 256 if self.length <= 1 << 14 else 512
        return Shape("rows", threads, threads, 1, self.chunk, 0, peeled=self.peeled)

    def _wide(self) -> int:
        wide = 2
        while wide < 32 and wide < self.inner:
            wide *= 2
        return wide

    def _chunk(self) -> tuple[int, bool]:
        """Return how many entries are read at once, and whether rows may begin within a chunk."""
        along = [
            (SIZES[storage], offset)
            for kind, storage, offset in zip(self.kinds, self.storage, self.offsets, strict=True)
            if kind in (Kind.TABLE, Kind.COLUMN)
        ]
        chunk = 16 // min((size for size, _ in along), default=4)
        while any(offset % min(16, chunk * size) for size, offset in along):
            chunk //= 2
        if self.geometry.flat or self.length % chunk == 0:
            return chunk, False
        if self.length >= PEELED_FROM * chunk and Kind.COLUMN not in self.kinds:
            return chunk, True
        return math.gcd(self.length, chunk), False

    def blocks(self, shape: Shape) -> int:
        """Return how many blocks a kernel takes."""
        if shape.layout == "flat":
            count = -(-self.entries // shape.reach)
        elif shape.layout == "columns":
            count = self.rows // self.inner * -(-self.inner // shape.wide)
        else:
            count = -(-self.rows // (shape.threads // shape.group)) * shape.cluster
        return min(count, MOST_BLOCKS)


def _storage(array: Array | float | None) -> str:
    if array is None:
        return ""
    return BY_VALUE if isinstance(array, float) else str(array.dtype)


def _needs_copy(array: Array | None, kind: Kind | None) -> bool:
    return array is not None and kind is not Kind.NUMBER and not array.flags.c_contiguous


def _count(length: int, step: int) -> int:
    """Return how many chunks a thread has; for more than the most, too many."""
    needed = -(-length // step)
    return next((count for count in COUNTS if count >= needed), 1 << 31)


def _sizes(room: Room, cluster: int) -> Iterator[tuple[int, int]]:
    """Yield numbers of threads for a row, and how many entries each may hold."""
    if cluster == 1:
        for threads in (128, 256, 512):
            yield threads, min(AT_EASE, room(threads))
    for threads in (1024, 512):
        yield threads, min(MOST_HELD, room(threads))


def _room(threads: int, *, size: float, spent: int) -> int:
    """Return how many entries a thread may hold, each of so many registers."""
    return int((min(255, REGISTERS // threads) - spent) / size)


# -- a call ----------------------------------------------------------------------------------------


class Call:
    """A compiled task for arrays of given shapes, data types and alignment."""

    def __init__(self, plan: _Plan, variant: Variant, kernel: Any) -> None:
        self.kernel = kernel
        self.variant = variant
        self.grid = (plan.blocks(variant.shape),)
        self.block = (variant.shape.threads,)
        self.numbers = (
            np.int64(plan.rows),
            np.int64(plan.length),
            np.int64(plan.inner),
        )
        self.copied = plan.copied if any(plan.copied) else None
        self.structure = plan.traced.structure
        shapes = shapes_of(plan.geometry)
        self.shapes = [shapes[kind] for kind in plan.traced.kinds]
        self.stored = plan.stored
        self.by_value = BY_VALUE in plan.storage
        self.as_bits = "bfloat16" in plan.storage
        self.reduction = plan.reduction

    def __call__(self, launcher: Launcher, arrays: Sequence[Array | None]) -> Any:
        """Run the kernel on arrays of this geometry."""
        if self.copied:
            arrays = [
                launcher.contiguous(a) if copied else a
                for a, copied in zip(arrays, self.copied, strict=True)
            ]
        outputs = [
            launcher.empty(shape, stored)
            for shape, stored in zip(self.shapes, self.stored, strict=True)
        ]
        given = [a for a in (*arrays, *outputs) if a is not None]
        if self.by_value:
            given = [_bits(a) if isinstance(a, float) else a for a in given]
        if self.as_bits:
            given = [a.bits if hasattr(a, "bits") else a for a in given]
        self.kernel(self.grid, self.block, (*given, *self.numbers))
        if self.reduction != "none":  # of the value, which comes first
            outputs[0] = launcher.reduced(outputs[0], self.reduction)
        return nested(self.structure, outputs)


def _bits(number: float) -> np.int64:
    """Return a number as kernels take it: beside pointers, they take 64-bit integers alone."""
    return np.float64(number).view(np.int64)

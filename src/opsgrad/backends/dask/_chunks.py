"""What a task does with its chunks. Nothing here needs Dask: it runs in the workers."""

import functools
import importlib
import itertools
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from opsgrad._signature import Role
from opsgrad._typing import Array, DType
from opsgrad.backends import get_backend
from opsgrad.backends.protocol import Kernel, Work, quiet


def run_on_chunks(work: Work, chunks: tuple[Array | None, ...]) -> Any:
    """Run a body or rule on chunks as on NumPy arrays, by a kernel where there is one.

    A kernel is made of the body or rule by each process that comes to need it, and kept there.
    """
    backend = get_backend("numpy")
    if all(map(_fits, itertools.repeat(work), work.names, chunks)):
        kernel = backend.kernel(work)
        if isinstance(kernel, Kernel):
            return kernel.call(*chunks)
    return backend.run(work.function, chunks, work.parameters)


def _fits(work: Work, name: str, chunk: Any) -> bool:
    """Whether a chunk is what its Dask array said: a kernel would not notice another data type."""
    if chunk is None:
        return True
    labels = any(one.name == name and one.role is Role.LABELS for one in work.arguments)
    return type(chunk) is np.ndarray and chunk.dtype == (np.int64 if labels else work.dtype)


@dataclass(frozen=True, slots=True)
class Recipe:
    """A body or rule, which pickles as the name of its op where that can be imported.

    Rules are private functions, which could only be pickled by value, as a new function each time.
    """

    op: str
    role: str
    function: Callable[..., Any]

    def address(self) -> tuple[str, str, str] | None:
        """Return the module, op and role under which other processes find the function."""
        module = self.function.__module__
        # Another process has a `__main__` of its own.
        if module == "__main__" or _found(module, self.op, self.role) is not self.function:
            return None
        return module, self.op, self.role

    def __reduce__(self) -> Any:
        address = self.address()
        if address is not None:
            return _by_name, address
        import cloudpickle

        return _by_value, (self.op, self.role, cloudpickle.dumps(self.function))


def _found(module: str, op: str, role: str) -> Callable[..., Any] | None:
    try:
        found = getattr(sys.modules.get(module) or importlib.import_module(module), op)
        function: Callable[..., Any] = found.whole(role).function
    except Exception:  # whatever goes by that name is no op with that rule
        return None
    return function


@functools.cache
def _by_name(module: str, op: str, role: str) -> Recipe:
    function = _found(module, op, role)
    if function is None:
        raise ImportError(f"{op}: the module {module} has no such op with a {role} rule here")
    return Recipe(op, role, function)


@functools.lru_cache(256)  # the same function for the same bytes, so that it is compiled once
def _by_value(op: str, role: str, pickled: bytes) -> Recipe:
    import cloudpickle

    return Recipe(op, role, cloudpickle.loads(pickled))


@dataclass(frozen=True, slots=True)
class Block:
    """A task: a body or rule on the chunks that belong together."""

    work: Work
    present: tuple[bool, ...]
    """Which of the arrays are there; the others are None."""
    single: bool
    """Whether there is one result, to be returned itself instead of in a tuple."""

    @property
    def recipe(self) -> Recipe:
        """The body or rule, as other processes find it."""
        return Recipe(self.work.op, self.work.role, self.work.function)

    def __reduce__(self) -> Any:
        rest = self.work._asdict()
        del rest["op"], rest["role"], rest["function"]
        return _block, (self.recipe, rest, self.present, self.single)

    def __call__(self, *chunks: Any) -> Any:
        """Return the results for these chunks."""
        given = iter(chunks)
        arrays = tuple(_only(next(given)) if there else None for there in self.present)
        out = run_on_chunks(self.work, arrays)
        results = out if isinstance(out, tuple) else (out,)
        return np.asarray(results[0]) if self.single else results


def _block(
    recipe: Recipe, rest: Mapping[str, Any], present: tuple[bool, ...], single: bool
) -> Block:
    work = Work(op=recipe.op, role=recipe.role, function=recipe.function, **rest)
    return Block(work, present, single)


def _only(chunk: Any) -> Array:
    """Return the chunk; along an axis that the result lacks, Dask passes the list of them."""
    while isinstance(chunk, list):
        (chunk,) = chunk
    return chunk


@dataclass(frozen=True, slots=True)
class Pick:
    """A task: one of the results of a `Block`, with axes put before it."""

    number: int
    axes: int

    def __call__(self, results: tuple[Array, ...]) -> Array:
        """Return the result."""
        result = np.asarray(results[self.number])
        return result[(None,) * self.axes] if self.axes else result


@dataclass(frozen=True, slots=True)
class Reduce:
    """A task: a reduction of a chunk, or of the reductions of several put together."""

    name: str
    """"sum", "max" or "min"."""
    dtype: DType

    def __call__(self, chunk: Array, axis: tuple[int, ...], keepdims: bool) -> Array:
        """Return the chunk reduced along `axis`."""
        # NumPy's own functions, but for a sum along one axis, which ours adds pairwise.
        place = axis[0] if len(axis) == 1 else axis
        with quiet():
            if self.name == "sum":
                sum_ = get_backend("numpy").namespace.sum
                return sum_(chunk, axis=place, keepdims=keepdims, dtype=self.dtype)
            reduce = np.max if self.name == "max" else np.min
            return reduce(chunk, axis=place, keepdims=keepdims, initial=self._neutral())

    def _neutral(self) -> Any:
        """Return what an empty chunk counts for: chunks of unknown size may turn out empty."""
        if np.issubdtype(self.dtype, np.floating):
            return -np.inf if self.name == "max" else np.inf
        info = np.iinfo(self.dtype)
        return info.min if self.name == "max" else info.max


@dataclass(frozen=True, slots=True)
class Contract:
    """A task: the product of two chunks, summed over some of their axes, which stay at length 1."""

    axes: tuple[tuple[int, ...], tuple[int, ...]]

    def __call__(self, one: Any, other: Any) -> Array:
        """Return the product, with an axis at its end for each axis summed over."""
        one, other = _only(one), _only(other)
        first, second = self.axes
        count = len(first)
        left = np.moveaxis(one, first, range(-count, 0))
        right = np.moveaxis(other, second, range(count))
        inner = math.prod(right.shape[:count])
        outer = left.shape[: left.ndim - count], right.shape[count:]
        # Not `tensordot`: a chunk of one column times a chunk of one number goes to a BLAS routine
        # that skips a factor of 0, and loses NaN.
        with quiet():
            product = np.matmul(
                left.reshape(math.prod(outer[0]), inner), right.reshape(inner, math.prod(outer[1]))
            )
        return product.reshape(*outer[0], *outer[1], *(1,) * count)


Operand = tuple[str, Any]
"""("leaf", number), ("step", number) or ("constant", value)."""


class Step(NamedTuple):
    """An elementwise step."""

    function: Any
    """A function, or the name of one of the array API standard."""
    operands: tuple[Operand, ...]
    keywords: tuple[tuple[str, Any], ...]
    done_with: tuple[int, ...]
    """The steps whose results nothing needs after this one."""


@dataclass(frozen=True, slots=True)
class Steps:
    """A task: elementwise steps, each on chunks and on what steps before it gave."""

    steps: tuple[Step, ...]
    results: tuple[Operand, ...]

    def __call__(self, *leaves: Array) -> Any:
        """Return the result, a tuple of several."""
        done: dict[int, Array] = {}
        with quiet():
            for number, step in enumerate(self.steps):
                values = [_value(operand, leaves, done) for operand in step.operands]
                done[number] = standard(step.function)(*values, **dict(step.keywords))
                for other in step.done_with:  # a chunk is large: free it, so that it is used again
                    values.clear()
                    del done[other]
        results = tuple(_value(operand, leaves, done) for operand in self.results)
        return results if len(results) > 1 else results[0]


def _value(operand: Operand, leaves: Sequence[Array], done: Mapping[int, Array]) -> Any:
    kind, value = operand
    if kind == "constant":
        return value
    return leaves[value] if kind == "leaf" else done[value]


@dataclass(frozen=True, slots=True)
class Partial:
    """A task: several reductions of what steps on chunks give, which share the steps."""

    steps: Steps
    reduces: tuple[Reduce, ...]
    axes: tuple[int, ...]

    def __call__(self, *leaves: Array) -> tuple[Array, ...]:
        """Return the reductions, with their axes at length 1."""
        results = zip(self.reduces, self.steps(*leaves), strict=True)
        return tuple(reduce(result, self.axes, keepdims=True) for reduce, result in results)


@dataclass(frozen=True, slots=True)
class Combine:
    """A task: the results of several `Partial` or `Combine` tasks as those of one."""

    reduces: tuple[Reduce, ...]

    def __call__(self, parts: Any, axis: tuple[int, ...], keepdims: bool) -> tuple[Array, ...]:
        """Return the reductions of all the parts, a nested list of tuples."""
        place = axis[0]  # all of the reduced axes have length 1: any of them will do
        together = zip(*_flat(parts), strict=True)
        return tuple(
            reduce(np.concatenate(chunks, axis=place), (place,), keepdims=True)
            for reduce, chunks in zip(self.reduces, together, strict=True)
        )


def _flat(parts: Any) -> list[tuple[Array, ...]]:
    return [parts] if isinstance(parts, tuple) else [one for part in parts for one in _flat(part)]


def as_it_is(parts: Any, axis: tuple[int, ...], keepdims: bool) -> Any:
    """Return the results of a `Partial` task: the first step of a tree that is there already."""
    return parts


@dataclass(frozen=True, slots=True)
class Part:
    """A task: one of the results of a `Combine`, without some of its axes of length 1."""

    number: int
    dropped: tuple[int, ...]

    def __call__(self, results: Any) -> Array:
        """Return the result."""
        return np.squeeze(_only(results)[self.number], axis=self.dropped)


def standard(function: Any) -> Callable[..., Any]:
    """Return the NumPy function for a name of the standard; operators are functions already."""
    if isinstance(function, str):
        named: Callable[..., Any] = getattr(get_backend("numpy").namespace, function)
        return named
    called: Callable[..., Any] = function
    return called

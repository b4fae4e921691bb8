"""A body on Dask arrays function by function, where one chunk does not hold a whole slice.

Elementwise steps are put off and run together, chunk by chunk, when a reduction or the result asks
for them: so a body becomes one layer for each of its phases, and NumPy keeps its floating-point
events to itself in the workers. Sums, maxima and minima are trees over the chunks, products sums of
those of the chunks. Everything else is Dask's own function.
"""

import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import array_api_compat.dask.array as compat
import dask.array as da
import numpy as np
from dask.array.core import broadcast_shapes
from dask.base import tokenize

from opsgrad._typing import Array, DType
from opsgrad.backends.dask._chunks import Contract, Operand, Reduce, Step, Steps, standard
from opsgrad.backends.protocol import quiet

_NAMES = """
    abs acos acosh add asin asinh astype atan atan2 atanh bitwise_and bitwise_invert
    bitwise_left_shift bitwise_or bitwise_right_shift bitwise_xor ceil clip conj copysign cos cosh
    divide equal exp expm1 floor floor_divide full_like greater greater_equal hypot imag isfinite
    isinf isnan less less_equal log log10 log1p log2 logaddexp logical_and logical_not logical_or
    logical_xor maximum minimum multiply negative nextafter not_equal ones_like positive pow real
    reciprocal remainder round sign signbit sin sinh sqrt square subtract tan tanh trunc where
    zeros_like
"""
"""What the standard has of functions that look at each entry by itself."""

ELEMENTWISE = frozenset(_NAMES.split())


def run_in_phases(
    function: Callable[..., Any], arrays: tuple[Array | None, ...], parameters: Mapping[str, Any]
) -> Any:
    """Run a body or rule, or another function of a namespace and arrays, on Dask arrays."""
    taken = [None if array is None else PhasedArray.of(array) for array in arrays]
    out = function(phases, *taken, **parameters)
    return tuple(map(_finished, out)) if isinstance(out, tuple) else _finished(out)


def reduce_chunks(
    array: Any, name: str, axis: Any, *, keepdims: bool, dtype: DType | None = None
) -> Any:
    """Reduce a Dask array: every chunk, then those results in a tree."""
    dtype = array.dtype if dtype is None else dtype
    reduce = Reduce(name, np.dtype(dtype))
    every = range(array.ndim) if axis is None else (axis if isinstance(axis, tuple) else (axis,))
    axes = tuple(sorted(place % array.ndim for place in every))
    ndim = array.ndim if keepdims else array.ndim - len(axes)
    return da.reduction(
        array,
        chunk=reduce,
        aggregate=reduce,
        axis=axes,
        keepdims=keepdims,
        dtype=dtype,
        name=f"{name}-{tokenize(array.name, axes, keepdims, dtype)}",
        meta=np.empty((0,) * ndim, dtype),
    )


class PhasedArray:
    """A Dask array that may be still to be built, from elementwise steps on others.

    It has what bodies use of an array: the operators, `shape`, `dtype`, `ndim`, `device`, indexing;
    and everything else that the Dask array has.
    """

    device = "cpu"

    def __init__(
        self,
        meta: Array,
        shape: tuple[int, ...],
        step: tuple[Any, tuple[Any, ...], tuple[tuple[str, Any], ...]] | None = None,
        built: Any = None,
    ) -> None:
        self._meta = meta
        self.shape = shape
        self._step = step
        self._built = built

    @classmethod
    def of(cls, array: Any) -> "PhasedArray":
        """Return a Dask array as one of these."""
        return cls(np.empty((0,) * array.ndim, array.dtype), tuple(array.shape), built=array)

    @classmethod
    def put_off(cls, function: Any, operands: tuple[Any, ...], **keywords: Any) -> "PhasedArray":
        """Return the result of an elementwise step that is still to be taken."""
        taken = tuple(map(_taken, operands))
        arrays = [one for one in taken if isinstance(one, PhasedArray)]
        with quiet():
            metas = [one._meta if isinstance(one, PhasedArray) else one for one in taken]
            meta = np.asarray(standard(function)(*metas, **keywords))
        shape = broadcast_shapes(*(one.shape for one in arrays))
        return cls(meta, tuple(shape), (function, taken, tuple(keywords.items())))

    @property
    def dtype(self) -> DType:
        """The data type."""
        return self._meta.dtype

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    def build(self) -> Any:
        """Return the Dask array: one layer for all the steps since the last one built."""
        if self._built is None:
            leaves, steps = _program(self)
            indices = [range(self.ndim - leaf.ndim, self.ndim) for leaf in leaves]
            self._built = da.blockwise(
                steps,
                range(self.ndim),
                *(part for pair in zip(leaves, indices, strict=True) for part in pair),
                name=f"steps-{tokenize(steps.steps, [leaf.name for leaf in leaves])}",
                dtype=self.dtype,
                meta=self._meta,
            )
        return self._built

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _wrapped(getattr(self.build(), name))

    def __getitem__(self, index: Any) -> "PhasedArray":
        return PhasedArray.of(self.build()[_unwrapped(index)])

    def __bool__(self) -> bool:
        return bool(self.build())

    def __float__(self) -> float:
        return float(self.build())

    def __array_namespace__(self, api_version: str | None = None) -> Any:
        return phases

    def __matmul__(self, other: Any) -> Any:
        return phases.matmul(self, other)

    def __rmatmul__(self, other: Any) -> Any:
        return phases.matmul(other, self)

    __hash__ = object.__hash__


def _operator(function: Callable[..., Any]) -> Callable[..., Any]:
    def method(self: PhasedArray, *others: Any) -> PhasedArray:
        return PhasedArray.put_off(function, (self, *others))

    return method


def _reflected(function: Callable[..., Any]) -> Callable[..., Any]:
    def method(self: PhasedArray, other: Any) -> PhasedArray:
        return PhasedArray.put_off(function, (other, self))

    return method


_BINARY = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "and", "or", "xor")
_OTHERS = ("lt", "le", "gt", "ge", "eq", "ne", "neg", "pos", "abs", "invert", "lshift", "rshift")

for _name in _BINARY:
    _function = getattr(operator, f"__{_name}__")
    setattr(PhasedArray, f"__{_name}__", _operator(_function))
    setattr(PhasedArray, f"__r{_name}__", _reflected(_function))
for _name in _OTHERS:
    setattr(PhasedArray, f"__{_name}__", _operator(getattr(operator, f"__{_name}__")))


def _taken(operand: Any) -> Any:
    return PhasedArray.of(operand) if isinstance(operand, da.Array) else operand


def _finished(value: Any) -> Any:
    return value.build() if isinstance(value, PhasedArray) else value


def _program(result: PhasedArray) -> tuple[list[Any], Steps]:
    """Return the built arrays that a result comes from, and the steps that lead from them to it."""
    leaves: list[Any] = []
    steps: list[tuple[Any, tuple[Operand, ...], tuple[tuple[str, Any], ...]]] = []
    places: dict[int, Operand] = {}
    last: dict[int, int] = {}
    for one in _in_order(result):
        if one._built is not None:
            places[id(one)] = ("leaf", len(leaves))
            leaves.append(one._built)
            continue
        assert one._step is not None
        function, operands, keywords = one._step
        taken = tuple(
            places[id(operand)] if isinstance(operand, PhasedArray) else ("constant", operand)
            for operand in operands
        )
        last |= {value: len(steps) for kind, value in taken if kind == "step"}
        places[id(one)] = ("step", len(steps))
        steps.append((function, taken, keywords))
    return leaves, Steps(
        tuple(
            Step(*step, tuple(old for old, new in last.items() if new == number))
            for number, step in enumerate(steps)
        )
    )


def _in_order(result: PhasedArray) -> Iterator[PhasedArray]:
    """Yield what a result is made of, each array once, after those that it is made of itself."""
    seen: set[int] = set()
    stack = [(result, False)]
    while stack:
        one, ready = stack.pop()
        if ready:
            yield one
        elif id(one) not in seen:
            seen.add(id(one))
            stack.append((one, True))
            if one._built is None and one._step is not None:
                operands = [o for o in one._step[1] if isinstance(o, PhasedArray)]
                stack.extend((operand, False) for operand in reversed(operands))


def _wrapped(value: Any) -> Any:
    """Return what Dask gave, with its arrays as ours."""
    if isinstance(value, da.Array):
        return PhasedArray.of(value)
    if isinstance(value, tuple | list) and any(isinstance(one, da.Array) for one in value):
        return type(value)(map(_wrapped, value))
    if callable(value) and not isinstance(value, type):
        return lambda *a, **k: _wrapped(value(*_unwrapped(a), **_unwrapped(k)))
    return value


def _unwrapped(value: Any) -> Any:
    """Return arguments for Dask, with our arrays as its own."""
    if isinstance(value, PhasedArray):
        return value.build()
    if isinstance(value, dict):
        return {name: _unwrapped(one) for name, one in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(map(_unwrapped, value))
    return value


class _Phases:
    """The namespace: elementwise functions put off, reductions and products by chunks."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        function = _step(name) if name in ELEMENTWISE else _wrapped(getattr(compat, name))
        setattr(self, name, function)
        return function

    def sum(
        self, x: Any, /, *, axis: Any = None, dtype: DType | None = None, keepdims: bool = False
    ) -> Any:
        x = _taken(x)
        dtype = np.sum(x._meta, dtype=dtype).dtype
        return self._reduced("sum", x, axis, keepdims, dtype)

    def max(self, x: Any, /, *, axis: Any = None, keepdims: bool = False) -> Any:
        return self._reduced("max", _taken(x), axis, keepdims, None)

    def min(self, x: Any, /, *, axis: Any = None, keepdims: bool = False) -> Any:
        return self._reduced("min", _taken(x), axis, keepdims, None)

    def _reduced(
        self, name: str, x: PhasedArray, axis: Any, keepdims: bool, dtype: DType | None
    ) -> PhasedArray:
        if x.ndim == 0 or axis == ():
            return x if dtype is None else PhasedArray.put_off("astype", (x, dtype))
        return PhasedArray.of(reduce_chunks(x.build(), name, axis, keepdims=keepdims, dtype=dtype))

    def matmul(self, one: Any, other: Any, /) -> Any:
        one, other = _taken(one), _taken(other)
        if other.ndim == 2:
            return self.tensordot(one, other, axes=((one.ndim - 1,), (0,)))
        return _wrapped(compat.matmul)(one, other)

    def tensordot(self, one: Any, other: Any, /, *, axes: Any = 2) -> Any:
        one, other = _taken(one), _taken(other)
        if isinstance(axes, int):
            axes = range(one.ndim - axes, one.ndim), range(axes)
        first = tuple(place % one.ndim for place in axes[0])
        second = tuple(place % other.ndim for place in axes[1])
        return PhasedArray.of(_contracted(one.build(), other.build(), first, second))


def _contracted(one: Any, other: Any, first: tuple[int, ...], second: tuple[int, ...]) -> Any:
    """Return the tensor product of two Dask arrays, summed over pairs of their axes."""
    left = list(range(one.ndim))
    right = list(range(one.ndim, one.ndim + other.ndim))
    for a, b in zip(first, second, strict=True):
        right[b] = left[a]
    free = [*(i for i in left if i not in first), *(i for i in right if i >= one.ndim)]
    contract = Contract((first, second))
    dtype = np.result_type(one.dtype, other.dtype)
    products = da.blockwise(
        contract,
        (*free, *first),
        one,
        left,
        other,
        right,
        adjust_chunks=dict.fromkeys(first, _one),
        name=f"product-{tokenize(one.name, other.name, first, second)}",
        dtype=dtype,
        meta=np.empty((0,) * (len(free) + len(first)), dtype),
    )
    if not first:
        return products
    axes = tuple(range(len(free), products.ndim))
    return reduce_chunks(products, "sum", axes, keepdims=False)


def _one(length: float) -> int:
    return 1


def _step(name: str) -> Callable[..., Any]:
    def function(*operands: Any, **keywords: Any) -> Any:
        return PhasedArray.put_off(name, operands, **keywords)

    return function


phases = cast("Any", _Phases())

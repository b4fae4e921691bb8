"""A body on Dask arrays function by function, where one chunk does not hold a whole slice.

Elementwise steps are put off and run together, chunk by chunk, when a reduction or the result asks
for them: so a body becomes one layer for each of its phases, and NumPy keeps its floating-point
events to itself in the workers. Sums, maxima and minima are trees over the chunks; those that can
be had in one pass over them are. A product is the sum of those of the chunks. Everything else is
Dask's own function, which may warn.

What two phases need is computed in both, not stored: storing it would take the memory of another
array or two. Softmax of rows of 4,000,000 entries in 16 chunks takes 1.5 to 2 times as long as in
one chunk, logsumexp and the norms as long.
"""

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import array_api_compat.dask.array as compat
import dask.array as da
import numpy as np
from dask.array.core import broadcast_shapes
from dask.base import tokenize

from opsgrad._typing import Array, DType
from opsgrad.backends.dask._chunks import (
    Combine,
    Contract,
    Operand,
    Part,
    Partial,
    Reduce,
    Step,
    Steps,
    as_it_is,
    standard,
)
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
    xp = _Phases()
    out = function(xp, *taken, **parameters)
    results = out if isinstance(out, tuple) else (out,)
    xp.forget_all_but(_needed(results))
    built = tuple(one.build() if isinstance(one, PhasedArray) else one for one in results)
    return built if isinstance(out, tuple) else built[0]


def reduce_chunks(
    array: Any, name: str, axis: Any, *, keepdims: bool, dtype: DType | None = None
) -> Any:
    """Reduce a Dask array: every chunk, then those results in a tree."""
    dtype = array.dtype if dtype is None else dtype
    reduce = Reduce(name, np.dtype(dtype))
    axes = _places(axis, array.ndim)
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


def _places(axis: Any, ndim: int) -> tuple[int, ...]:
    """Return the axes that a reduction's `axis` stands for."""
    every = range(ndim) if axis is None else (axis if isinstance(axis, tuple) else (axis,))
    return tuple(sorted(place % ndim for place in every))


class Reduction(NamedTuple):
    """A reduction that is still to be built."""

    name: str
    operand: "PhasedArray"
    axes: tuple[int, ...]
    keepdims: bool
    dtype: DType
    waiting: dict[int, "PhasedArray"]
    """The reductions that wait in the same run, by identity, this one among them."""

    def shares_pass(self, other: "Reduction") -> bool:
        """Whether one pass over the chunks does for both."""
        return self.axes == other.axes and self.operand.shape == other.operand.shape


class PhasedArray:
    """A Dask array that may be still to be built, by a reduction or elementwise steps on others.

    It has what bodies use of an array: the operators, `shape`, `dtype`, `ndim`, `device`, indexing;
    and everything else that the Dask array has.
    """

    device = "cpu"

    def __init__(
        self,
        meta: Array,
        shape: tuple[int, ...],
        step: tuple[Any, tuple[Any, ...], tuple[tuple[str, Any], ...]] | None = None,
        reduction: Reduction | None = None,
        built: Any = None,
    ) -> None:
        self._meta = meta
        self.shape = shape
        self._step = step
        self._reduction = reduction
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
        if self._built is None and self._reduction is not None:
            _build_reductions(self, self._reduction)
        elif self._built is None:
            leaves, steps = _program([self])
            name = f"steps-{_token(steps, leaves)}"
            self._built = _on_leaves(steps, leaves, self.ndim, name, self._meta)
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


def _program(results: Sequence[PhasedArray]) -> tuple[list[Any], Steps]:
    """Return the built arrays that results come from, and the steps that lead from them there."""
    leaves: list[Any] = []
    steps: list[tuple[Any, tuple[Operand, ...], tuple[tuple[str, Any], ...]]] = []
    places: dict[int, Operand] = {}
    last: dict[int, int] = {}
    for one in _in_order(results):
        if one._built is not None or one._step is None:
            places[id(one)] = ("leaf", len(leaves))
            leaves.append(one.build())
            continue
        function, operands, keywords = one._step
        taken = tuple(
            places[id(operand)] if isinstance(operand, PhasedArray) else ("constant", operand)
            for operand in operands
        )
        last |= {value: len(steps) for kind, value in taken if kind == "step"}
        places[id(one)] = ("step", len(steps))
        steps.append((function, taken, keywords))
    wanted = tuple(places[id(one)] for one in results)
    for _, value in wanted:
        last.pop(value, None)
    return leaves, Steps(
        tuple(
            Step(*step, tuple(old for old, new in last.items() if new == number))
            for number, step in enumerate(steps)
        ),
        wanted,
    )


def _token(steps: Steps, leaves: Sequence[Any]) -> str:
    token: str = tokenize(steps.steps, steps.results, [leaf.name for leaf in leaves])
    return token


def _on_leaves(
    function: Any,
    leaves: Sequence[Any],
    ndim: int,
    name: str,
    meta: Array,
    reduced: Sequence[int] = (),
) -> Any:
    """Return a layer whose tasks run a function on chunks of arrays that broadcast."""
    indices = [range(ndim - leaf.ndim, ndim) for leaf in leaves]
    return da.blockwise(
        function,
        range(ndim),
        *(part for pair in zip(leaves, indices, strict=True) for part in pair),
        name=name,
        adjust_chunks=dict.fromkeys(reduced, _one),
        dtype=meta.dtype,
        meta=meta,
    )


def _build_reductions(wanted: PhasedArray, reduction: Reduction) -> None:
    """Build a reduction, and in the same pass over the chunks those that wait for such a pass."""
    for one in _in_order([reduction.operand]):
        if one._step is None:
            one.build()
    waiting = reduction.waiting
    ready = [
        (one, one._reduction)
        for one in waiting.values()
        if one._reduction is not None
        and one._reduction.shares_pass(reduction)
        and not any(id(below) in waiting for below in _in_order([one._reduction.operand]))
    ]
    if len(ready) == 1:
        wanted._built = reduce_chunks(
            reduction.operand.build(),
            reduction.name,
            reduction.axes,
            keepdims=reduction.keepdims,
            dtype=reduction.dtype,
        )
    else:
        _build_together([one for one, _ in ready], [own for _, own in ready])
    for one, _ in ready:
        del waiting[id(one)]


def _build_together(arrays: Sequence[PhasedArray], reductions: Sequence[Reduction]) -> None:
    """Build several reductions along the same axes: one task for each chunk, and one tree."""
    axes, operand = reductions[0].axes, reductions[0].operand
    leaves, steps = _program([one.operand for one in reductions])
    reduces = tuple(Reduce(one.name, np.dtype(one.dtype)) for one in reductions)
    token = tokenize(_token(steps, leaves), reduces, axes)
    partial, combine = Partial(steps, reduces, axes), Combine(reduces)
    parts = _on_leaves(partial, leaves, operand.ndim, f"parts-{token}", operand._meta, axes)
    tree = da.reduction(
        parts,
        chunk=as_it_is,
        aggregate=combine,
        axis=axes,
        keepdims=True,
        concatenate=False,
        dtype=operand.dtype,
        name=f"combined-{token}",
        meta=operand._meta,
    )
    every = range(operand.ndim)
    for number, (array, own) in enumerate(zip(arrays, reductions, strict=True)):
        dropped = () if own.keepdims else axes
        array._built = da.blockwise(
            Part(number, dropped),
            [place for place in every if place not in dropped],
            tree,
            every,
            name=f"{own.name}-{number}-{token}",
            dtype=array.dtype,
            meta=array._meta,
        )


def _needed(results: Sequence[Any]) -> set[int]:
    """Return the identities of all that results are made of, and of what that is made of."""
    needed: set[int] = set()
    stack = [one for one in results if isinstance(one, PhasedArray)]
    while stack:
        one = stack.pop()
        if id(one) in needed:
            continue
        needed.add(id(one))
        below = one._step[1] if one._step is not None else ()
        stack += [operand for operand in below if isinstance(operand, PhasedArray)]
        if one._reduction is not None:
            stack.append(one._reduction.operand)
    return needed


def _in_order(results: Sequence[PhasedArray]) -> Iterator[PhasedArray]:
    """Yield what results are made of, each array once, after those that it is made of itself."""
    seen: set[int] = set()
    stack = [(result, False) for result in reversed(results)]
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

    def __init__(self) -> None:
        self._waiting: dict[int, PhasedArray] = {}

    def forget_all_but(self, needed: set[int]) -> None:
        """Let no reduction that nothing needs share another one's pass."""
        for one in self._waiting.keys() - needed:
            del self._waiting[one]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _step(name) if name in ELEMENTWISE else _wrapped(getattr(compat, name))

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
        dtype = x.dtype if dtype is None else dtype
        if x.ndim == 0 or axis == ():
            return PhasedArray.put_off("astype", (x, dtype))
        axes = _places(axis, x.ndim)
        shape = tuple(
            1 if place in axes else length
            for place, length in enumerate(x.shape)
            if keepdims or place not in axes
        )
        reduction = Reduction(name, x, axes, keepdims, dtype, self._waiting)
        array = PhasedArray(np.empty((0,) * len(shape), dtype), shape, reduction=reduction)
        self._waiting[id(array)] = array
        return array

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


phases = _Phases()

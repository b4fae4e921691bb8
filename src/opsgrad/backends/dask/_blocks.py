"""A body or rule as one layer: each task runs it on the chunks that belong together.

This is for work that is row by row and whose chunks hold whole rows, and for elementwise work. What
comes out of each task is found by running the function once on small NumPy arrays whose lengths
stand for those of the chunks.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import dask.array as da
import numpy as np
from dask.base import tokenize

from opsgrad._arrays import known, reduced
from opsgrad._signature import Argument, Role, Shape
from opsgrad._typing import DType
from opsgrad.backends import get_backend
from opsgrad.backends.dask._chunks import Block, Pick
from opsgrad.backends.dask._phases import reduce_chunks, run_in_phases
from opsgrad.backends.protocol import Work, frozen, thawed

Symbol = int
"""An index of `dask.array.blockwise`: arrays that share it have chunks that belong together."""

TANGENT = "tangent of "

MOST_SHARED = 2**27
"""Bytes up to which weights that come in several chunks are put together for every task: Dask's own
default for the size of a chunk."""


class Layout(NamedTuple):
    """How the arrays of one call, those that are there, lie beside each other."""

    symbols: tuple[tuple[Symbol, ...], ...]
    """The symbols of each array's axes."""
    batch: tuple[Symbol, ...]
    """Those that tell the tasks apart."""
    place: int | None
    """Where among the batch axes the mixed axis goes; None in elementwise work."""
    samples: tuple[Shape, ...]
    """A small shape for each array, with equal lengths where theirs are equal."""
    lengths: Mapping[int, int]
    """From the lengths of mixed and shared axes in `samples` to the real ones."""


class Result(NamedTuple):
    """How one result of a task makes part of a Dask array."""

    symbols: tuple[Symbol, ...]
    new: dict[Symbol, int]
    """Lengths of the axes that no array has."""
    dtype: DType
    before: int = 0
    """How many axes the chunk lacks at its front."""
    total: tuple[int, ...] = ()
    """The axes to sum over, each of length 1 in a chunk."""


def run_in_blocks(work: Work, arrays: tuple[Any, ...]) -> Any:
    """Run work on Dask arrays, one task for each part of the batch; None if it does not split so.

    Returns what the function returns.
    """
    parameters = dict(work.parameters)
    reduction = parameters.pop("reduction", "none")
    if "reduction" in work.parameters:
        parameters["reduction"] = "none"
    there = [
        (name, _gathered(work, name, array))
        for name, array in zip(work.names, arrays, strict=True)
        if array is not None
    ]
    layout = _elementwise(there) if work.elementwise else _rowwise(work, there)
    if layout is None:
        return None
    outline = _outline(work, parameters, tuple(a is not None for a in arrays), there, layout)
    results = None if outline is None else _results(work, there, layout, *outline)
    if outline is None or results is None:
        return None
    block = Block(
        work._replace(parameters=parameters),
        tuple(array is not None for array in arrays),
        single=len(results) == 1 and not results[0].total,
    )
    out = _built(work, block, there, layout, results)
    if reduction != "none":
        return run_in_phases(reduced, out, {"reduction": reduction})
    return out if outline[0] else out[0]


def _gathered(work: Work, name: str, array: Any) -> Any:
    """Return weights in one chunk, which every task needs; the others as they are."""
    shared = not work.elementwise and _role(name, work.arguments) is Role.SHARED
    small = shared and array.npartitions > 1 and array.nbytes <= MOST_SHARED
    return array.rechunk(-1) if small else array


# -- how the arrays lie ----------------------------------------------------------------------------


def _elementwise(there: Sequence[tuple[str, Any]]) -> Layout | None:
    """Return the layout of arrays that broadcast."""
    rank = max(array.ndim for _, array in there)
    batch = tuple(range(rank))
    symbols = tuple(batch[rank - array.ndim :] for _, array in there)
    samples = tuple(
        tuple(
            length if length in (0, 1) else symbol + 2
            for symbol, length in zip(own, array.shape, strict=True)
        )
        for own, (_, array) in zip(symbols, there, strict=True)
    )
    return Layout(symbols, batch, None, samples, {})


def _rowwise(work: Work, there: Sequence[tuple[str, Any]]) -> Layout | None:
    """Return the layout of arrays of which one axis is mixed; None if it is split somewhere."""
    roles = [_role(name, work.arguments) for name, _ in there]
    axis = work.parameters.get("axis", -1)
    ranks = [
        array.ndim + (role is Role.LABELS)
        for role, (_, array) in zip(roles, there, strict=True)
        if role is not Role.SHARED
    ]
    rank = max(ranks, default=0)
    place = rank + axis
    if place < 0:
        return None
    batch = tuple(symbol for symbol in range(rank) if symbol != place)
    symbols: list[tuple[Symbol, ...]] = []
    fresh = rank
    for role, (_, array) in zip(roles, there, strict=True):
        if role is Role.SHARED:
            own = tuple(range(fresh, fresh + array.ndim))
        elif array.ndim == rank and role is not Role.LABELS:
            own = (*batch[:place], fresh, *batch[place:])
        elif array.ndim == rank - 1:
            own = batch
        else:
            return None
        fresh += array.ndim
        if not _whole(array, own, rank):
            return None
        symbols.append(own)
    if not _fit([array for _, array in there], symbols, batch):
        return None
    return _with_samples(there, symbols, batch, place, rank)


def _role(name: str, arguments: Sequence[Argument]) -> Role:
    """Return the role of an argument or of its tangent; results and cotangents are values."""
    roles = {argument.name: argument.role for argument in arguments}
    return roles.get(name.removeprefix(TANGENT), Role.VALUES)


def _whole(array: Any, symbols: tuple[Symbol, ...], rank: int) -> bool:
    """Whether each chunk holds all of the axes that are no batch axes, of known length."""
    return all(
        symbol < rank or (blocks == 1 and known(length))
        for symbol, blocks, length in zip(symbols, array.numblocks, array.shape, strict=True)
    )


def _fit(
    arrays: Sequence[Any], symbols: Sequence[tuple[Symbol, ...]], batch: tuple[Symbol, ...]
) -> bool:
    """Whether the arrays have the same batch axes."""
    lengths: dict[Symbol, Any] = {}
    for array, own in zip(arrays, symbols, strict=True):
        for symbol, length in zip(own, array.shape, strict=True):
            if symbol in batch and known(length) and lengths.setdefault(symbol, length) != length:
                return False
    return True


def _with_samples(
    there: Sequence[tuple[str, Any]],
    symbols: Sequence[tuple[Symbol, ...]],
    batch: tuple[Symbol, ...],
    place: int,
    rank: int,
) -> Layout:
    """Return the layout, with small lengths in place of the real ones: 0 and 1 stay as they are."""
    real = sorted(
        {
            length
            for (_, array), own in zip(there, symbols, strict=True)
            for symbol, length in zip(own, array.shape, strict=True)
            if symbol not in batch
        }
        - {0, 1}
    )
    small = {0: 0, 1: 1} | {length: rank + 3 + k for k, length in enumerate(real)}
    samples = tuple(
        tuple(
            symbol + 2 if symbol in batch else small[length]
            for symbol, length in zip(own, array.shape, strict=True)
        )
        for own, (_, array) in zip(symbols, there, strict=True)
    )
    return Layout(tuple(symbols), batch, place, samples, {v: k for k, v in small.items()})


# -- what comes out --------------------------------------------------------------------------------


def _outline(
    work: Work,
    parameters: Mapping[str, Any],
    present: tuple[bool, ...],
    there: Sequence[tuple[str, Any]],
    layout: Layout,
) -> tuple[bool, tuple[tuple[Shape, DType], ...]] | None:
    """Return whether the function returns a tuple, and the small shapes and data types of it."""
    dtypes = tuple(np.dtype(array.dtype) for _, array in there)
    call = work.function, frozen(parameters), present, layout.samples, dtypes
    try:
        return _on_samples(*call)
    except TypeError:  # a parameter without a hash
        return _on_samples.__wrapped__(*call)


@functools.lru_cache(1024)
def _on_samples(
    function: Callable[..., Any],
    parameters: Any,
    present: tuple[bool, ...],
    shapes: tuple[Shape, ...],
    dtypes: tuple[DType, ...],
) -> tuple[bool, tuple[tuple[Shape, DType], ...]] | None:
    samples = iter([np.ones(s, d) for s, d in zip(shapes, dtypes, strict=True)])
    arrays = tuple(next(samples) if given else None for given in present)
    try:
        out = get_backend("numpy").run(function, arrays, thawed(parameters))
    except Exception:  # it does not take such arrays: let it meet the real ones
        return None
    results = out if isinstance(out, tuple) else (out,)
    outline = tuple((tuple(np.shape(one)), np.asarray(one).dtype) for one in results)
    return isinstance(out, tuple), outline


def _results(
    work: Work,
    there: Sequence[tuple[str, Any]],
    layout: Layout,
    several: bool,
    outline: Sequence[tuple[Shape, DType]],
) -> list[Result] | None:
    """Return how the results make Dask arrays; None if their shapes do not say it."""
    results = []
    for number, (shape, dtype) in enumerate(outline):
        if layout.place is None:
            result = _elementwise_result(work, there, layout, number, shape, dtype)
        elif work.role == "vjp" and _gradient_of(work, number) is Role.SHARED:
            result = _shared_gradient(layout, shape, dtype)
        else:
            result = _rows_result(layout, layout.place, shape, dtype)
        if result is None:
            return None
        results.append(result)
    return results


def _gradient_of(work: Work, number: int) -> Role | None:
    """Return the role of the argument by which a VJP rule's result is the gradient."""
    differentiable = [argument for argument in work.arguments if argument.differentiable]
    return differentiable[number].role if number < len(differentiable) else None


def _rows_result(layout: Layout, place: int, shape: Shape, dtype: DType) -> Result | None:
    """Return the result that has the batch axes, with the mixed axis or without it."""
    batch = tuple(symbol + 2 for symbol in layout.batch)
    if shape == batch:
        return Result(layout.batch, {}, dtype)
    length = layout.lengths.get(shape[place]) if len(shape) == len(batch) + 1 else None
    if length is None or shape[:place] + shape[place + 1 :] != batch:
        return None
    symbol = _fresh(layout)
    return Result((*layout.batch[:place], symbol, *layout.batch[place:]), {symbol: length}, dtype)


def _shared_gradient(layout: Layout, shape: Shape, dtype: DType) -> Result | None:
    """Return the result that is one task's part of a gradient, to be summed over all of them."""
    if any(length not in layout.lengths for length in shape):
        return None
    new = {_fresh(layout) + k: layout.lengths[length] for k, length in enumerate(shape)}
    before = len(layout.batch)
    return Result((*layout.batch, *new), new, dtype, before, tuple(range(before)))


def _fresh(layout: Layout) -> Symbol:
    return max((*layout.batch, *(max(own, default=0) for own in layout.symbols))) + 1


def _elementwise_result(
    work: Work,
    there: Sequence[tuple[str, Any]],
    layout: Layout,
    number: int,
    shape: Shape,
    dtype: DType,
) -> Result | None:
    """Return the result of all the axes, or the gradient by an array that was broadcast."""
    if work.role == "vjp":
        array = there[number][1]
        before = len(layout.batch) - array.ndim
        lengths = _lengths(there)
        total = tuple(
            symbol
            for symbol in layout.batch
            if symbol < before or (array.shape[symbol - before] == 1 and lengths[symbol] != 1)
        )
        return Result(layout.batch, {}, dtype, before, total)
    broadcast = np.broadcast_shapes(*layout.samples)
    return Result(layout.batch, {}, dtype) if shape == broadcast else None


def _lengths(there: Sequence[tuple[str, Any]]) -> list[Any]:
    return list(da.core.broadcast_shapes(*(array.shape for _, array in there)))


# -- the layers ------------------------------------------------------------------------------------


def _built(
    work: Work,
    block: Block,
    there: Sequence[tuple[str, Any]],
    layout: Layout,
    results: Sequence[Result],
) -> tuple[Any, ...]:
    """Return the Dask arrays: a layer that runs the blocks, and one for each of several results."""
    operands = [
        part for (_, a), own in zip(there, layout.symbols, strict=True) for part in (a, own)
    ]
    address = block.recipe.address() or block.recipe.function
    named = frozen(block.work.parameters), block.present, [array.name for _, array in there]
    name = f"{work.op}-{work.role}-{tokenize(address, *named)}"
    if block.single:
        return (_layer(block, results[0], operands, name),)
    blocks = _layer(block, Result(layout.batch, {}, results[0].dtype), operands, name)
    return tuple(
        _summed(
            _layer(Pick(number, result.before), result, [blocks, layout.batch], f"{name}-{number}"),
            result,
        )
        for number, result in enumerate(results)
    )


def _layer(function: Any, result: Result, operands: Sequence[Any], name: str) -> Any:
    return da.blockwise(
        function,
        result.symbols,
        *operands,
        name=name,
        new_axes=result.new,
        adjust_chunks={result.symbols[place]: _one for place in result.total},
        dtype=result.dtype,
        meta=np.empty((0,) * len(result.symbols), result.dtype),
    )


def _one(length: float) -> int:
    return 1


def _summed(array: Any, result: Result) -> Any:
    """Return the sum over the axes of the batch that the result is to lack, or have at length 1."""
    front = tuple(place for place in result.total if place < result.before)
    if front:
        array = reduce_chunks(array, "sum", front, keepdims=False)
    rest = tuple(place - len(front) for place in result.total if place >= result.before)
    return reduce_chunks(array, "sum", rest, keepdims=True) if rest else array

"""Array helpers of the mechanism: shapes, sums back to them, reductions of losses, diagonals."""

import math
from typing import Any

from array_api_compat import device

from opsgrad._signature import Reduction, Shape
from opsgrad._typing import Array, Namespace


def known(length: Any) -> bool:
    """Whether a length is known; a lazy array may hold NaN or None instead."""
    return length is not None and length == length


def same_shape(one: Shape, other: Shape) -> bool:
    """Whether two shapes agree, taking every unknown length to fit."""
    return one == other or (
        len(one) == len(other)
        and all(a == b or not (known(a) and known(b)) for a, b in zip(one, other, strict=True))
    )


def without_axis(shape: Shape, axis: int) -> Shape:
    """Return `shape` without the entry at `axis`, which counts from the end."""
    place = axis + len(shape)
    return shape[:place] + shape[place + 1 :]


def sum_to_shape(xp: Namespace, values: Array, shape: Shape) -> Array:
    """Sum `values` over the axes along which an argument of `shape` was broadcast."""
    for _ in range(values.ndim - len(shape)):
        values = xp.sum(values, axis=0)
    for axis in range(len(shape)):
        if shape[axis] == 1 and values.shape[axis] != 1:
            values = xp.sum(values, axis=axis, keepdims=True)
    return values


def zero_product(xp: Namespace, factor: Array, slope: Array) -> Array:
    """Return ``factor * slope``, and 0 where a zero factor meets an infinite slope."""
    out = factor * slope
    return xp.where((factor == 0) & xp.isinf(slope), xp.zeros_like(out), out)


def reduced(xp: Namespace, values: Array, reduction: Reduction) -> Array:
    """Reduce the values of the single examples; the mean of none is NaN."""
    if reduction == "none":
        return values
    total = xp.sum(values)
    if reduction == "sum":
        return total
    if all(known(length) for length in values.shape):
        return total / float(math.prod(values.shape))
    return total / xp.sum(xp.ones_like(values))


def spread(
    xp: Namespace, g: Array, like: Array | None, /, *, reduction: Reduction, shape: Shape
) -> Array:
    """Spread the cotangent of a reduced loss over the examples: the transpose of `reduced`.

    With `like`, an array of one entry for each example, the result is laid out as that is.
    """
    if like is None:
        count = float(math.prod(shape))
        return xp.broadcast_to(g if reduction == "sum" else g / count, shape)
    ones = xp.ones_like(like, dtype=g.dtype)
    if reduction == "mean":
        every = all(known(length) for length in shape)
        g = g / (float(math.prod(shape)) if every else xp.sum(ones))
    return g * ones


def diagonal_matrices(xp: Namespace, diagonal: Array) -> Array:
    """Return the matrices with the last axis of `diagonal` on their diagonal, and zero off it."""
    return with_diagonal(xp, xp.zeros_like(diagonal[..., None, :]), diagonal)


def with_diagonal(xp: Namespace, matrices: Array, diagonal: Array) -> Array:
    """Return `matrices`, broadcast to be square, with `diagonal` put in."""
    index = xp.arange(diagonal.shape[-1], device=device(diagonal))
    return xp.where(index[:, None] == index[None, :], diagonal[..., None], matrices)

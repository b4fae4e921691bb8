"""The row of the affine map."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import mpmath
import numpy as np

from opsgrad.conformance.row import Arrays, Misfit, Point, Row
from opsgrad.conformance.table._points import INF, NAN
from opsgrad.conformance.table._sampling import Shape, normal

OUTPUTS = 3


def dense(x: list[Any], w: list[list[Any]], b: list[Any] | None = None) -> list[Any]:
    """Return sum_i x_i w_ij + b_j."""
    outputs = [mpmath.fdot(x, column) for column in zip(*w, strict=True)]
    return outputs if b is None else [y + c for y, c in zip(outputs, b, strict=True)]


def dense_scale(x: list[Any], w: list[list[Any]], b: list[Any] | None = None) -> list[Any]:
    """Return sum_i |x_i w_ij| + |b_j|."""
    magnitudes = [[abs(entry) for entry in row] for row in w]
    offsets = None if b is None else [abs(entry) for entry in b]
    return dense([abs(entry) for entry in x], magnitudes, offsets)


def sample_dense(rng: np.random.Generator, shape: Shape, axis: int) -> Arrays:
    """Sample rows, weights for three outputs, and biases."""
    return normal(rng, shape), normal(rng, (shape[-1], OUTPUTS)), normal(rng, (OUTPUTS,))


def _misfits() -> Iterator[Misfit]:
    x, w, b = (5, 4), (4, 3), (3,)

    def misfit(why: str, shapes: tuple[Shape, ...], *words: str) -> Misfit:
        return Misfit(shapes=shapes, words=words, why=why)

    layout = ("w", "(out, in)", "(in, out)")
    yield misfit("x 0-d", ((), w, b), "x", "()")
    yield misfit("x 0-d, no b", ((), w), "x", "()")
    yield misfit("w laid out (out, in)", (x, (3, 4), b), *layout, "transpose")
    yield misfit("w laid out (out, in), no b", (x, (3, 4)), *layout)
    yield misfit("w laid out (out, in), one row", ((4,), (3, 4), b), *layout)
    yield misfit("w of another length", (x, (3, 3), b), "w", "(in, out)", "(3, 3)", "4")
    yield misfit("w 1-d", (x, (4,), b), "w", "(in, out)", "(4,)")
    yield misfit("w 3-d", (x, (1, 4, 3), b), "w", "(in, out)", "(1, 4, 3)")
    yield misfit("w 0-d", (x, ()), "w", "(in, out)", "()")
    yield misfit("w a stack", ((2, 5, 4), (2, 4, 3), b), "w", "(in, out)")
    yield misfit("b too long", (x, w, (4,)), "b", "(4,)", "(3,)")
    yield misfit("b too short", (x, w, (2,)), "b", "(2,)", "(3,)")
    yield misfit("b of one entry", (x, w, (1,)), "b", "(1,)", "(3,)")
    yield misfit("b 0-d", (x, w, ()), "b", "()", "(3,)")
    yield misfit("b a row", (x, w, (1, 3)), "b", "(1, 3)")
    yield misfit("b a column", (x, w, (3, 1)), "b", "(3, 1)")
    yield misfit("b for each example", (x, w, (5, 3)), "b", "(5, 3)")
    yield misfit("w and b swapped", (x, b, w), "w", "(3,)")


DENSE = Row(
    name="dense",
    unit="matrix",
    arguments=("x", "w", "b"),
    oracle=dense,
    sample=sample_dense,
    misfits=tuple(_misfits()),
    # Sums of products, in whatever order the matrix product takes.
    value_ulp=4.0,
    gradient_ulp=4.0,
    value_scale=dense_scale,
    specials=(
        Point(
            arrays=([1.0, 2.0], [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], [10.0, 20.0, 30.0]),
            value=[19.0, 32.0, 45.0],
            cotangent=[1.0, 2.0, 4.0],
            gradients=(
                [17.0, 38.0],
                [[1.0, 2.0, 4.0], [2.0, 4.0, 8.0]],
                [1.0, 2.0, 4.0],
            ),
            tangents=([1.0, -1.0], [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]], [0.0, 8.0, 0.0]),
            derivative=[-2.0, 5.0, -1.0],
            why="x w + b for one row",
        ),
        Point(
            arrays=([1.0, 2.0], [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]),
            value=[9.0, 12.0, 15.0],
            cotangent=[1.0, 2.0, 4.0],
            gradients=([17.0, 38.0], [[1.0, 2.0, 4.0], [2.0, 4.0, 8.0]]),
            tangents=([1.0, -1.0], [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]),
            derivative=[-2.0, -3.0, -1.0],
            why="without biases",
        ),
        Point(
            arrays=([[1.0, 2.0], [3.0, 4.0]], [[1.0], [2.0]], [5.0]),
            value=[[10.0], [16.0]],
            cotangent=[[1.0], [10.0]],
            gradients=([[1.0, 2.0], [10.0, 20.0]], [[31.0], [42.0]], [11.0]),
            why="the gradients of weights and biases are summed over the batch",
        ),
        Point(
            arrays=([[[1.0, 2.0]], [[3.0, 4.0]]], [[1.0], [2.0]], [5.0]),
            value=[[[10.0]], [[16.0]]],
            cotangent=[[[1.0]], [[10.0]]],
            gradients=([[[1.0, 2.0]], [[10.0, 20.0]]], [[31.0], [42.0]], [11.0]),
            why="every axis of x but the last is a batch axis",
        ),
        Point(
            arrays=([[1.0, 2.0], [3.0, 4.0]], [[0.0, 0.0], [0.0, 0.0]], [0.0, 0.0]),
            value=[[0.0, 0.0], [0.0, 0.0]],
            cotangent=[[1.0, 2.0], [3.0, 4.0]],
            gradients=([[0.0, 0.0], [0.0, 0.0]], [[10.0, 14.0], [14.0, 20.0]], [4.0, 6.0]),
            why="zero weights pass no gradient to the layer below",
        ),
        Point(
            arrays=(np.zeros((2, 0)), np.zeros((0, 3)), [1.0, 2.0, 3.0]),
            value=[[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]],
            cotangent=[[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]],
            gradients=(np.zeros((2, 0)), np.zeros((0, 3)), [2.0, 4.0, 6.0]),
            why="no inputs: the biases",
        ),
        Point(
            arrays=(np.zeros((0, 2)), [[1.0], [2.0]], [5.0]),
            value=np.zeros((0, 1)),
            gradients=(np.zeros((0, 2)), [[0.0], [0.0]], [0.0]),
            why="no rows: no gradient for weights and biases",
        ),
        Point(
            arrays=([[INF, 1.0], [NAN, 1.0], [1.0, 1.0]], [[1.0], [2.0]], [5.0]),
            value=[[INF], [NAN], [8.0]],
            gradients=([[1.0, 2.0], [1.0, 2.0], [1.0, 2.0]], [[NAN], [3.0]], [3.0]),
            why="a row with infinities or NaN leaves its neighbours alone",
        ),
    ),
    sizes=((64, 10), (512, 512), (4096, 1000)),
)

ROWS = (DENSE,)

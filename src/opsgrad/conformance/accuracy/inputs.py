"""Inputs over the whole floating-point range, dense where the functions change their nature."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from opsgrad.conformance.row import Row

Rng: TypeAlias = np.random.Generator
Floats: TypeAlias = npt.NDArray[np.float64]
Arrays: TypeAlias = tuple[npt.NDArray[Any], ...]
Draw: TypeAlias = Callable[[Rng, int, int], Floats]

LENGTHS = (2, 5, 100, 1000)
QUICK_LENGTHS = (20,)
OUTPUTS = 3
# Around these, or their negatives, an exponential saturates or underflows in one data type or the
# other, or a library changes its formula.
TRANSITIONS = (np.log(2.0), 1.0, 5.5, 9.0, 15.94, 17.0, 19.06, 20.0, 36.7, 44.0, 88.0, 103.0, 709.0)


@dataclass(frozen=True)
class Case:
    """Arguments for one call, rows along the last axis, with a cotangent and tangents.

    `kinds` names where each row comes from; there is none for elementwise ops.
    """

    arrays: Arrays
    cotangent: npt.NDArray[Any]
    tangents: tuple[npt.NDArray[Any] | None, ...]
    kinds: tuple[str, ...] = ()


def cases(row: Row, dtype: str, *, quick: bool = False) -> list[Case]:
    """Return the inputs for an op, the same each time."""
    rng = np.random.default_rng([20260, sum(map(ord, row.name))])
    if row.unit == "element":
        return [_elementwise(row, rng, dtype, quick)]
    lengths = QUICK_LENGTHS if quick else LENGTHS
    if row.unit == "matrix":
        return [_dense(rng, n, dtype, quick) for n in lengths]
    return [_rows(row, rng, n, dtype, quick) for n in lengths]


def _finished(arrays: Arrays, g: Any, rng: Rng, dtype: str, kinds: tuple[str, ...]) -> Case:
    cast = tuple(a if a.dtype.kind in "iu" else a.astype(dtype) for a in arrays)
    tangents = tuple(
        None if a.dtype.kind in "iu" else directions(rng, a.shape, dtype) for a in arrays
    )
    return Case(cast, np.asarray(g, dtype=dtype), tangents, kinds)


def directions(rng: Rng, shape: tuple[int, ...], dtype: str) -> npt.NDArray[Any]:
    """Draw cotangents or tangents: by turns normal, nearly constant along a row, one entry only."""
    g = rng.standard_normal(shape)
    if len(shape) == 2:
        eps = float(np.finfo(dtype).eps)
        g[1::4] = 1.0 + 1e3 * eps * g[1::4]
        g[2::4] = 1.0 + 2.0 * eps * np.round(g[2::4])
        g[3::4] *= np.arange(shape[1]) == rng.integers(0, shape[1], size=(len(g[3::4]), 1))
    return g.astype(dtype)


def _elementwise(row: Row, rng: Rng, dtype: str, quick: bool) -> Case:
    x = points(rng, dtype, 300 if quick else 5000)
    rng.shuffle(x)
    others = {
        "alpha": rng.uniform(-0.5, 1.5, x.size),
        "target": np.where(rng.random(x.size) < 0.5, x * (1 + 1e-3 * rng.random(x.size)), x[::-1]),
        "targets": np.where(rng.random(x.size) < 0.5, -1.0, 1.0),
    }
    arrays = (x, *(others[role] for role in row.arguments[1:]))
    return _finished(arrays, rng.standard_normal(x.size), rng, dtype, ())


def points(rng: Rng, dtype: str, count: int) -> Floats:
    """Return numbers of either sign and of every magnitude, denser near the transitions."""
    info = np.finfo(dtype)
    low, high = np.log10(float(info.tiny)) + 2, np.log10(float(info.max)) - 2
    range_of_exp = 1.05 * np.log(float(info.max))
    near = np.repeat(TRANSITIONS, max(8, count // 50))
    magnitudes = np.concatenate(
        [
            10.0 ** rng.uniform(low, high, count),
            10.0 ** rng.uniform(-6.0, 3.0, 2 * count),
            rng.uniform(0.0, range_of_exp, count),
            near * (1.0 + 1e-2 * rng.standard_normal(near.size)),
            near * (1.0 + float(info.eps) * rng.integers(-8, 9, near.size)),
        ]
    )
    return magnitudes * np.where(rng.random(magnitudes.size) < 0.5, -1.0, 1.0)


def _normal(size: float, offset: float = 0.0) -> Draw:
    return lambda rng, rows, n: size * rng.standard_normal((rows, n)) + offset


def _range_of_exp(rng: Rng, rows: int, n: int) -> Floats:
    return rng.uniform(-1.0, 1.0, (rows, 1)) * rng.uniform(-1.0, 1.0, (rows, n)) * 750.0


def _dominant(rng: Rng, rows: int, n: int) -> Floats:
    x = rng.standard_normal((rows, n))
    x[np.arange(rows), rng.integers(0, n, rows)] += rng.uniform(3.0, 120.0, rows)
    return x


def _near_ties(rng: Rng, rows: int, n: int) -> Floats:
    x = 3.0 + 2.0**-20 * rng.integers(0, 8, (rows, n))
    return np.where(rng.random((rows, n)) < 0.5, x, x - rng.exponential(3.0, (rows, n)))


def _near_zero_result(rng: Rng, rows: int, n: int) -> Floats:
    """Draw rows with one maximum and the others far below it, at every distance."""
    x = -(10.0 ** rng.uniform(-6.0, 2.8, (rows, 1))) - rng.random((rows, n))
    x[np.arange(rows), rng.integers(0, n, rows)] = 0.0
    return x


LOGITS: dict[str, Draw] = {
    "N(0, 1)": _normal(1.0),
    "N(0, 10²)": _normal(10.0),
    "N(0, 100²)": _normal(100.0),
    "N(0, 1) + 1e4": _normal(1.0, 1e4),
    "N(0, 10²) + 1e4": _normal(10.0, 1e4),
    "N(0, 100²) + 1e4": _normal(100.0, 1e4),
    "N(0, 1) - 1e6": _normal(1.0, -1e6),
    "the range of exp": _range_of_exp,
    "one dominant entry": _dominant,
    "near-ties": _near_ties,
    "ties": lambda rng, rows, n: np.round(rng.standard_normal((rows, n))),
    "one decimal": lambda rng, rows, n: np.round(rng.standard_normal((rows, n)), 1),
    "one maximum at 0": _near_zero_result,
    "1e20 N(0, 1)": _normal(1e20),
}


def _powers_of_ten(low: float, high: float) -> Draw:
    def draw(rng: Rng, rows: int, n: int) -> Floats:
        signs = np.where(rng.random((rows, n)) < 0.5, -1.0, 1.0)
        return signs * 10.0 ** rng.uniform(low, high, (rows, n))

    return draw


VECTORS: dict[str, Draw] = {
    "N(0, 1)": _normal(1.0),
    "1e30 N(0, 1)": _normal(1e30),
    "1e-30 N(0, 1)": _normal(1e-30),
    "1e-3 to 1e3": _powers_of_ten(-3.0, 3.0),
    "1e-30 to 1e30": _powers_of_ten(-30.0, 30.0),
    "1 + N(0, 1)/1000": _normal(1e-3, 1.0),
    "equal entries": lambda rng, rows, n: np.tile(rng.standard_normal((rows, 1)), n),
    "one dominant entry": _dominant,
}
VECTORS_OF_FLOAT64: dict[str, Draw] = {
    "1e300 N(0, 1)": _normal(1e300),
    "1e-300 N(0, 1)": _normal(1e-300),
}


def _softmax(x: Floats) -> Floats:
    e: Floats = np.exp(x - np.max(x, axis=-1, keepdims=True))
    return np.asarray(np.maximum(e / np.sum(e, axis=-1, keepdims=True), 1e-30))


def _probabilities(size: float) -> Draw:
    return lambda rng, rows, n: _softmax(_normal(size)(rng, rows, n))


def _logarithm_of(draw: Draw) -> Draw:
    return lambda rng, rows, n: np.log(draw(rng, rows, n))


PROBABILITIES: dict[str, Draw] = {
    f"softmax of N(0, {size:g}²)": _probabilities(size) for size in (1.0, 5.0, 20.0)
}
LOG_PROBABILITIES: dict[str, Draw] = {
    name: _logarithm_of(draw) for name, draw in PROBABILITIES.items()
}
SLICES: dict[str, dict[str, Draw]] = {
    "x": LOGITS,
    "logits": LOGITS,
    "scores": LOGITS,
    "probs": PROBABILITIES,
    "log_probs": LOG_PROBABILITIES,
}


def _rows(row: Row, rng: Rng, n: int, dtype: str, quick: bool) -> Case:
    draws = SLICES[row.arguments[0]]
    if row.name.endswith("_norm"):
        draws = {**VECTORS, **(VECTORS_OF_FLOAT64 if dtype == "float64" else {})}
    each = 4 if quick else max(4, min(48, 2000 // n))
    x = np.concatenate([draw(rng, each, n) for draw in draws.values()])
    kinds = tuple(name for name in draws for _ in range(each))
    others: dict[str, Callable[[], npt.NDArray[Any]]] = {
        "labels": lambda: _labels(rng, x),
        "targets": lambda: _probabilities(3.0)(rng, len(x), n),
    }
    arrays = (x, *(others[role]() for role in row.arguments[1:]))
    reduces = row.reduces_axis
    g = rng.standard_normal(len(x)) if reduces else directions(rng, x.shape, dtype)
    return _finished(arrays, g, rng, dtype, kinds)


def _labels(rng: Rng, x: Floats) -> npt.NDArray[np.int64]:
    """Draw labels: by turns any class, and the one of the largest entry."""
    labels = rng.integers(0, x.shape[1], size=len(x), dtype=np.int64)
    labels[::2] = np.argmax(x[::2], axis=-1)
    return labels


def _dense(rng: Rng, n: int, dtype: str, quick: bool) -> Case:
    rows = 8 if quick else 64
    arrays = rng.standard_normal((rows, n)), rng.standard_normal((n, OUTPUTS))
    bias, g = rng.standard_normal(OUTPUTS), rng.standard_normal((rows, OUTPUTS))
    return _finished((*arrays, bias), g, rng, dtype, ("N(0, 1)",) * rows)

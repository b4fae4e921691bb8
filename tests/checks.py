"""The comparisons that tests of ops make: with the oracle, and of an op with itself."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import mpmath
import numpy as np
import pytest
from libraries import Library, to_numpy

import opsgrad as og
from opsgrad.conformance import TABLE, Row, reference

Arrays = Sequence[np.ndarray]


def rows_with(*features: str) -> list[Any]:
    """Return pytest parameters for the rows that have any of `features`, or all rows."""
    chosen = [row for row in TABLE.values() if any(getattr(row, f) for f in features)]
    return [pytest.param(row, id=row.name) for row in chosen]


def sample(
    row: Row,
    rng: np.random.Generator,
    shape: tuple[int, ...],
    axis: int = -1,
    dtype: str = "float64",
) -> list[np.ndarray]:
    """Return smooth arguments for a row's op, integers as they are and the rest in `dtype`."""
    arrays = row.sample(rng, shape, axis)
    return [a if a.dtype.kind in "iu" else a.astype(dtype) for a in arrays]


def own_params(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters that are the op's own, without those that many ops share."""
    return {k: v for k, v in params.items() if k not in ("axis", "keepdims", "reduction")}


def direction(rng: np.random.Generator, like: np.ndarray) -> np.ndarray | None:
    """Return a random cotangent or tangent for an array, None for integers."""
    if like.dtype.kind in "iu":
        return None
    return np.asarray(rng.standard_normal(like.shape)).astype(like.dtype)


def errors_in_ulp(
    got: np.ndarray, exact: np.ndarray, scale: np.ndarray, *, flushes: bool = False
) -> float:
    """Return the largest error in units in the last place of the exact result, or of its scale.

    Where the library flushes subnormal numbers to zero, nothing below the smallest normal one
    counts.
    """
    info = np.finfo(got.dtype)
    exact, scale = np.asarray(exact, dtype=object), np.asarray(scale, dtype=object)
    assert got.shape == exact.shape
    worst = 0.0
    for one, right, size in zip(np.ravel(got), exact.ravel(), scale.ravel(), strict=True):
        error = abs(mpmath.mpf(float(one)) - right)
        if flushes and error <= float(info.tiny):
            continue
        binade = max(math.frexp(max(abs(float(size)), abs(float(right))))[1], int(info.minexp) + 1)
        worst = max(worst, float(error / mpmath.ldexp(1, binade - 1 - int(info.nmant))))
    return worst


@functools.cache
def _function(role: str, op: Any, params: tuple[tuple[str, Any], ...]) -> Callable[..., Any]:
    """Return a function of arrays alone; the same one each time, so that jit compiles it once."""
    keywords = dict(params)

    def value(*arrays: Any) -> Any:
        return op(*arrays, **keywords)

    def vjp(*arrays_and_cotangent: Any) -> Any:
        *arrays, g = arrays_and_cotangent
        return og.vjp(op, *arrays, **keywords)[1](g)

    def jvp(*both: Any) -> Any:
        count = len(both) // 2
        return og.jvp(op, both[:count], both[count:], **keywords)[1]

    return {"value": value, "vjp": vjp, "jvp": jvp}[role]


def call(op: Any, library: Library, arrays: Arrays, params: Mapping[str, Any]) -> Any:
    """Return the op's value on a library, in NumPy."""
    function = _function("value", op, tuple(params.items()))
    return to_numpy(library.run(function, *map(library.put, arrays)))


def call_vjp(
    op: Any, library: Library, arrays: Arrays, cotangent: Any, params: Mapping[str, Any]
) -> Any:
    """Return the op's gradients on a library, in NumPy."""
    function = _function("vjp", op, tuple(params.items()))
    return to_numpy(library.run(function, *map(library.put, (*arrays, cotangent))))


def call_jvp(
    op: Any, library: Library, arrays: Arrays, tangents: Sequence[Any], params: Mapping[str, Any]
) -> Any:
    """Return the tangent of the op's value on a library, in NumPy."""
    function = _function("jvp", op, tuple(params.items()))
    return to_numpy(library.run(function, *map(library.put, (*arrays, *tangents))))


def check_against_oracle(
    row: Row,
    library: Library,
    arrays: Arrays,
    rng: np.random.Generator,
    *,
    op: Any = None,
    only: str = "value vjp jvp",
    **params: Any,
) -> None:
    """Hold an op's value, VJP and JVP to the oracle, within the row's ULPs."""
    op = op or row.op
    own = own_params(params)
    exact = reference.value(row, arrays, **params)
    excess = library.excess.get((row.name, str(arrays[0].dtype)), 0.0)
    slack = math.log2(max(2, exact.size)) if params.get("reduction", "none") != "none" else 0.0

    def hold(got: Any, right: Any, scale: Any, bound: float, role: str) -> None:
        error = errors_in_ulp(got, right, scale, flushes=library.flushes_subnormals)
        assert error <= bound, f"{row.name} {role} {params}: {error:.2f} ULP, allowed {bound}"

    if "value" in only:
        scale = reference.value_scale(row, arrays, **params)
        bound = row.value_bound(**own) + excess + slack
        hold(call(op, library, arrays, params), exact, scale, bound, "value")
    bound = row.gradient_ulp + slack
    dtype = arrays[0].dtype
    if "vjp" in only:
        g = np.asarray(rng.standard_normal(exact.shape)).astype(dtype)
        right = reference.vjp(row, arrays, g, **params)
        scales = reference.vjp_scale(row, arrays, g, **params)
        gradients = call_vjp(op, library, arrays, g, params)
        assert len(gradients) == len(arrays)
        for gradient, one, scale in zip(gradients, right, scales, strict=True):
            assert (gradient is None) == (one is None)
            if gradient is not None:
                hold(gradient, one, scale, bound, "vjp")
    if "jvp" in only:
        tangents = [direction(rng, array) for array in arrays]
        right = reference.jvp(row, arrays, tangents, **params)
        scale = reference.jvp_scale(row, arrays, tangents, **params)
        if row.derivative_ulp is not None:
            bound = row.derivative_ulp + slack
        hold(call_jvp(op, library, arrays, tangents, params), right, scale, bound, "jvp")


def check_adjoint(op: Any, arrays: Arrays, rng: np.random.Generator, **params: Any) -> None:
    """Hold <g, J u> to <Jᵀ g, u>, within 4 eps of the sums of the terms' magnitudes."""
    y, pull = og.vjp(op, *arrays, **params)
    tangents = [direction(rng, array) for array in arrays]
    g = np.asarray(rng.standard_normal(np.shape(y))).astype(y.dtype)
    forward = og.jvp(op, tuple(arrays), tuple(tangents), **params)[1]
    pairs = [(p, u) for p, u in zip(pull(g), tangents, strict=True) if u is not None]
    left = math.fsum((np.float64(g) * forward).ravel())
    right = math.fsum(math.fsum((np.float64(p) * u).ravel()) for p, u in pairs)
    size = np.sum(np.abs(g) * np.abs(forward), dtype=float)
    size += sum(np.sum(np.abs(p) * np.abs(u), dtype=float) for p, u in pairs)
    eps = float(np.finfo(y.dtype).eps)
    most = max((float(np.max(np.abs(u), initial=0.0)) for _, u in pairs), default=0.0)
    floor = 16 * eps**2 * float(np.max(np.abs(g), initial=0.0)) * most
    assert abs(left - right) <= 4 * eps * size + floor, f"{op}: {left} != {right}"

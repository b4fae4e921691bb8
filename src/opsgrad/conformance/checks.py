"""The comparisons that tests of ops make: with the oracle, and of an op with itself."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import mpmath
import numpy as np
import numpy.typing as npt

import opsgrad as og
from opsgrad.conformance import reference
from opsgrad.conformance.excess import excess
from opsgrad.conformance.row import Row
from opsgrad.conformance.target import Target

Arrays: TypeAlias = Sequence[Any]


def sample(
    row: Row,
    rng: np.random.Generator,
    shape: tuple[int, ...],
    axis: int = -1,
    dtype: str = "float64",
) -> list[npt.NDArray[Any]]:
    """Return smooth arguments for a row's op, integers as they are and the rest in `dtype`."""
    arrays = row.sample(rng, shape, axis)
    return [a if a.dtype.kind in "iu" else a.astype(dtype) for a in arrays]


def own_params(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters that are the op's own, without those that many ops share."""
    return {k: v for k, v in params.items() if k not in ("axis", "keepdims", "reduction")}


def direction(rng: np.random.Generator, like: npt.NDArray[Any]) -> npt.NDArray[Any] | None:
    """Return a random cotangent or tangent for an array, None for integers."""
    if like.dtype.kind in "iu":
        return None
    return np.asarray(rng.standard_normal(like.shape)).astype(like.dtype)


def errors_in_ulp(
    got: npt.NDArray[Any],
    exact: npt.NDArray[Any],
    scale: npt.NDArray[Any],
    *,
    of_scale: bool = False,
    flushes: bool = False,
) -> float:
    """Return the largest error in units in the last place of the exact result, or of its scale.

    With `of_scale` the unit is the machine epsilon times the scale instead, up to twice as large.
    Where the library flushes subnormal numbers to zero, nothing below the smallest normal one
    counts.
    """
    info = np.finfo(got.dtype)
    exact, scale = np.asarray(exact, dtype=object), np.asarray(scale, dtype=object)
    assert got.shape == exact.shape
    worst = 0.0
    for one, right, size in zip(np.ravel(got), exact.ravel(), scale.ravel(), strict=True):
        found = mpmath.mpf(float(one))
        if found == right or (mpmath.isnan(found) and mpmath.isnan(right)):
            continue
        error = abs(found - right)
        if mpmath.isnan(error):  # which is no less than anything, as `max` has it
            return math.inf
        if flushes and error <= float(info.tiny):
            continue
        largest = max(abs(float(size)), abs(float(right)))
        binade = max(math.frexp(largest)[1], int(info.minexp) + 1)
        unit = mpmath.ldexp(1, binade - 1 - int(info.nmant))
        if of_scale:
            unit = max(unit, mpmath.mpf(largest) * float(info.eps))
        worst = max(worst, float(error / unit))
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


@functools.cache
def _value_and_grad(
    op: Any, params: tuple[tuple[str, Any], ...], floating: tuple[bool, ...]
) -> Callable[..., Any]:
    numbers = tuple(number for number, one in enumerate(floating) if one)
    both = functools.partial(og.value_and_grad(op, numbers), **dict(params))

    def value_and_grad(*arrays: Any) -> Any:
        value, gradients = both(*arrays)
        given = iter(gradients)
        return value, tuple(next(given) if one else None for one in floating)

    return value_and_grad


Call: TypeAlias = tuple[Callable[..., Any], Arrays]
"""A function of arrays alone, and the arrays to call it with."""


def value_call(op: Any, arrays: Arrays, params: Mapping[str, Any]) -> Call:
    """Return the call that gives the op's value."""
    return _function("value", op, tuple(params.items())), arrays


def vjp_call(op: Any, arrays: Arrays, cotangent: Any, params: Mapping[str, Any]) -> Call:
    """Return the call that gives the op's gradients."""
    return _function("vjp", op, tuple(params.items())), (*arrays, cotangent)


def jvp_call(op: Any, arrays: Arrays, tangents: Arrays, params: Mapping[str, Any]) -> Call:
    """Return the call that gives the tangent of the op's value."""
    return _function("jvp", op, tuple(params.items())), (*arrays, *tangents)


def value_and_grad_call(op: Any, arrays: Arrays, params: Mapping[str, Any]) -> Call:
    """Return the call that gives the op's value and, for each array, the gradient of its sum."""
    floating = tuple(np.asarray(array).dtype.kind == "f" for array in arrays)
    return _value_and_grad(op, tuple(params.items()), floating), arrays


def call(op: Any, target: Target, arrays: Arrays, params: Mapping[str, Any]) -> Any:
    """Return the op's value on a target, in NumPy."""
    function, given = value_call(op, arrays, params)
    return target.run(function, *given)


def call_vjp(
    op: Any, target: Target, arrays: Arrays, cotangent: Any, params: Mapping[str, Any]
) -> Any:
    """Return the op's gradients on a target, in NumPy."""
    function, given = vjp_call(op, arrays, cotangent, params)
    return target.run(function, *given)


def call_jvp(
    op: Any, target: Target, arrays: Arrays, tangents: Arrays, params: Mapping[str, Any]
) -> Any:
    """Return the tangent of the op's value on a target, in NumPy."""
    function, given = jvp_call(op, arrays, tangents, params)
    return target.run(function, *given)


def call_value_and_grad(
    op: Any, target: Target, arrays: Arrays, params: Mapping[str, Any]
) -> tuple[Any, tuple[Any, ...]]:
    """Return the op's value and, for each array, the gradient of its sum, all in NumPy."""
    function, given = value_and_grad_call(op, arrays, params)
    value, gradients = target.run(function, *given)
    return value, gradients


def check_against_oracle(
    row: Row,
    target: Target,
    arrays: Arrays,
    rng: np.random.Generator,
    *,
    op: Any = None,
    only: str = "value vjp jvp",
    **params: Any,
) -> None:
    """Hold an op's value, VJP and JVP to the oracle, within the row's ULPs.

    `op` stands in for the row's own, for planting mistakes.
    """
    op = op or row.op
    if "value" in only:
        check_value(row, op, target, arrays, params)
    if "vjp" in only:
        check_vjp(row, op, target, arrays, rng, params)
    if "jvp" in only:
        check_jvp(row, op, target, arrays, rng, params)


def check_value(
    row: Row, op: Any, target: Target, arrays: Arrays, params: Mapping[str, Any]
) -> None:
    """Hold an op's value to the oracle."""
    exact = reference.value(row, arrays, **params)
    scale = reference.value_scale(row, arrays, **params)
    got = call(op, target, arrays, params)
    _hold(row, "value", target, arrays, params, got, exact, scale)


def check_vjp(
    row: Row,
    op: Any,
    target: Target,
    arrays: Arrays,
    rng: np.random.Generator,
    params: Mapping[str, Any],
) -> None:
    """Hold an op's gradients, for a random cotangent, to the oracle's differences."""
    shape = reference.value(row, arrays, **params).shape
    g = np.asarray(rng.standard_normal(shape)).astype(arrays[0].dtype)
    _hold_gradients(row, target, arrays, params, call_vjp(op, target, arrays, g, params), g)


def _hold_gradients(
    row: Row,
    target: Target,
    arrays: Arrays,
    params: Mapping[str, Any],
    gradients: Sequence[Any],
    g: npt.NDArray[Any],
) -> None:
    exact = reference.vjp(row, arrays, g, **params)
    scales = list(reference.vjp_scale(row, arrays, g, **params))
    scales[0] = scales[0] + floor_of(row, arrays, g, params)
    for gradient, right, scale in zip(gradients, exact, scales, strict=True):
        assert (gradient is None) == (right is None)
        if gradient is not None:
            _hold(row, "vjp", target, arrays, params, gradient, right, scale)


def check_value_and_grad(
    row: Row, target: Target, arrays: Arrays, *, op: Any = None, **params: Any
) -> None:
    """Hold what `value_and_grad` gives to the oracle, within the ULPs of value and VJP."""
    exact = reference.value(row, arrays, **params)
    scale = reference.value_scale(row, arrays, **params)
    value, gradients = call_value_and_grad(op or row.op, target, arrays, params)
    _hold(row, "value", target, arrays, params, value, exact, scale)
    g = np.ones(exact.shape, arrays[0].dtype)
    _hold_gradients(row, target, arrays, params, gradients, g)


def check_jvp(
    row: Row,
    op: Any,
    target: Target,
    arrays: Arrays,
    rng: np.random.Generator,
    params: Mapping[str, Any],
) -> None:
    """Hold an op's tangent, for random tangents of its arrays, to the oracle's difference."""
    tangents = [direction(rng, array) for array in arrays]
    exact = reference.jvp(row, arrays, tangents, **params)
    scale = reference.jvp_scale(row, arrays, tangents, **params)
    scale = scale + floor_of(row, arrays, tangents[0], params)
    got = call_jvp(op, target, arrays, tangents, params)
    _hold(row, "jvp", target, arrays, params, got, exact, scale)


def floor_of(row: Row, arrays: Arrays, along: Any, params: Mapping[str, Any]) -> Any:
    """Return what a row with a floor adds to its scale: that times its goal is 16 eps² y max|g|."""
    if not row.has_floor:
        return 0.0
    most = float(np.max(np.abs(along), initial=0.0))
    eps = float(np.finfo(arrays[0].dtype).eps)
    return reference.value(row, arrays, **params) * (16.0 / row.gradient_ulp * eps * most)


def bound_of(row: Row, role: str, target: Target, dtype: str, params: Mapping[str, Any]) -> float:
    """Return the allowed error in ULP: the row's goal, and the library's excess."""
    if role == "value":
        goal = row.value_bound(**own_params(params))
    elif role == "jvp" and row.derivative_ulp is not None:
        goal = row.derivative_ulp
    else:
        goal = row.gradient_ulp
    return goal + excess(target, row.name, dtype)


def _hold(
    row: Row,
    role: str,
    target: Target,
    arrays: Arrays,
    params: Mapping[str, Any],
    got: Any,
    exact: Any,
    scale: Any,
) -> None:
    expected = np.result_type(*(a.dtype for a in arrays if a.dtype.kind == "f"))
    assert got.dtype == expected, (
        f"{row.name} {role} {dict(params)} on {target}: {got.dtype}, expected {expected}"
    )
    allowed = bound_of(row, role, target, str(arrays[0].dtype), params)
    if params.get("reduction", "none") != "none":
        allowed += math.log2(max(2, arrays[0].size))  # the sum over the examples
    error = errors_in_ulp(
        got,
        exact,
        scale,
        of_scale=row.states_scale(role),
        flushes=target.capabilities.flushes_subnormals,
    )
    assert error <= allowed, (
        f"{row.name} {role} {dict(params)} on {target}: {error:.2f} ULP, allowed {allowed:.2f}; "
        f"for {_brief([np.asarray(array).tolist() for array in arrays])} "
        f"got {_brief(np.asarray(got).tolist())}, "
        f"expected {_brief(reference.to_float64(exact).tolist())}"
    )


def _brief(numbers: Any, most: int = 500) -> str:
    text = str(numbers)
    return text if len(text) <= most else f"{text[:most]} …"


def check_adjoint(
    op: Any, target: Target, arrays: Arrays, rng: np.random.Generator, **params: Any
) -> None:
    """Hold <g, J u> to <Jᵀ g, u>, within 4 eps of the sums of the terms' magnitudes."""
    tangents = [direction(rng, array) for array in arrays]
    forward = call_jvp(op, target, arrays, tangents, params)
    g = np.asarray(rng.standard_normal(np.shape(forward))).astype(forward.dtype)
    gradients = call_vjp(op, target, arrays, g, params)
    pairs = [(p, u) for p, u in zip(gradients, tangents, strict=True) if u is not None]
    left = math.fsum((np.float64(g) * forward).ravel())
    right = math.fsum(math.fsum((np.float64(p) * u).ravel()) for p, u in pairs)
    size = np.sum(np.abs(g) * np.abs(forward), dtype=float)
    size += sum(np.sum(np.abs(p) * np.abs(u), dtype=float) for p, u in pairs)
    eps = float(np.finfo(forward.dtype).eps)
    most = max((float(np.max(np.abs(u), initial=0.0)) for _, u in pairs), default=0.0)
    floor = 16 * eps**2 * float(np.max(np.abs(g), initial=0.0)) * most
    assert abs(left - right) <= 4 * eps * size + floor, f"{op}: {left} != {right}"

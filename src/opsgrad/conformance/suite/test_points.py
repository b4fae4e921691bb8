"""Kinks, ties, infinities, NaN, empty axes: one contract, the same on every library."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from opsgrad.conformance.checks import (
    Call,
    jvp_call,
    own_params,
    value_and_grad_call,
    value_call,
    vjp_call,
)
from opsgrad.conformance.excess import excess
from opsgrad.conformance.row import Point, Row
from opsgrad.conformance.table import TABLE
from opsgrad.conformance.target import Target

POINTS = [
    pytest.param(row, number, id=f"{row.name}-{number}")
    for row in TABLE.values()
    for number in range(len(row.points))
]


def put(array: Any, dtype: str, role: str) -> npt.NDArray[Any]:
    """Return an entry of a point as an array: labels as integers, the rest in `dtype`."""
    return np.asarray(array, dtype="int64" if role == "labels" else dtype)


def calls_at(row: Row, point: Point, dtype: str, op: Any) -> dict[str, Call]:
    """Return the calls whose results a point states, by role."""
    arrays = [
        put(array, dtype, role) for array, role in zip(point.arrays, row.arguments, strict=False)
    ]
    calls = {"value": value_call(op, arrays, point.params)}
    if point.gradients is not None:
        calls["vjp"] = vjp_call(op, arrays, cotangent_of(point, dtype), point.params)
        if point.cotangent is None:
            calls["value_and_grad"] = value_and_grad_call(op, arrays, point.params)
    if point.tangents is not None and point.derivative is not None:
        calls["jvp"] = jvp_call(op, arrays, tangents_of(point, dtype), point.params)
    return calls


def cotangent_of(point: Point, dtype: str) -> npt.NDArray[Any]:
    """Return what the pullback is given."""
    ones = np.ones(np.shape(point.value))
    return np.asarray(ones if point.cotangent is None else point.cotangent, dtype=dtype)


def tangents_of(point: Point, dtype: str) -> list[npt.NDArray[Any] | None]:
    """Return what the JVP is given."""
    given = point.tangents or ()
    return [None if tangent is None else put(tangent, dtype, "x") for tangent in given]


def results_at(
    row: Row, points: Sequence[Point], target: Target, dtype: str, op: Any
) -> list[dict[str, Any]]:
    """Return what the op gives at points, by role.

    It runs with every floating-point event of the caller's an exception: the library leaks none.
    """
    every = [calls_at(row, point, dtype, op) for point in points]
    with np.errstate(all="raise"):
        results = iter(target.run_all([call for calls in every for call in calls.values()]))
    return [{role: next(results) for role in calls} for calls in every]


@functools.cache
def traced_results(name: str, target: Target) -> dict[int, dict[str, Any]]:
    """Return the results at all points of an op, compiled as one: a fourth of the time."""
    row, dtype = TABLE[name], target.dtypes[0]
    points = {number: point for number, point in enumerate(row.points) if fits(point, dtype)}
    results = results_at(row, [*points.values()], target, dtype, row.op)
    return dict(zip(points, results, strict=True))


def fits(point: Point, dtype: str) -> bool:
    """Whether a data type has a point's numbers."""
    return dtype == "float64" or not point.float64_only


def check_point(row: Row, point: Point, target: Target, dtype: str, *, op: Any = None) -> None:
    """Hold the op to what the point states: exactly where it is not finite, else to the ULP."""
    (results,) = results_at(row, [point], target, dtype, op or row.op)
    check_results(row, point, target, dtype, results)


def check_results(
    row: Row, point: Point, target: Target, dtype: str, results: Mapping[str, Any]
) -> None:
    """Hold what the op gave at a point to what the point states."""
    eps = float(np.finfo(dtype).eps)
    tiny = float(np.finfo(dtype).tiny) if target.capabilities.flushes_subnormals else 0.0

    def hold(got: Any, expected: Any, role: str, ulps: float, along: Any = 0.0) -> None:
        most = np.max(np.abs(along), initial=0.0, where=np.abs(along) < 1e30)
        floor = 16 * eps**2 * float(most) if row.has_floor else 0.0
        expected = np.asarray(expected, dtype=dtype)
        assert got.dtype == dtype
        assert got.shape == expected.shape, (role, point.why)
        np.testing.assert_allclose(
            got,
            expected,
            rtol=ulps * eps,
            atol=max(tiny, floor),
            err_msg=f"{role}: {point.why}",
        )

    bound = row.value_bound(**own_params(point.params)) + 2
    bound += excess(target, row.name, dtype)
    hold(results["value"], point.value, "value", bound)
    every = {"vjp": results["vjp"]} if "vjp" in results else {}
    if "value_and_grad" in results:
        value, every["value_and_grad"] = results["value_and_grad"]
        hold(value, point.value, "value_and_grad", bound)
    for role, gradients in every.items():
        g = cotangent_of(point, dtype)
        for gradient, expected in zip(gradients, point.gradients or (), strict=True):
            if expected is not None:
                hold(gradient, expected, role, row.gradient_ulp + 2, g)
    if "jvp" in results:
        tangent = tangents_of(point, dtype)[0]
        hold(results["jvp"], point.derivative, "jvp", row.gradient_ulp + 2, tangent)


@pytest.mark.parametrize(("row", "number"), POINTS)
def test_point(row: Row, number: int, target: Target, dtype: str) -> None:
    """The contract of numerics.md, sections 3 and 4: value, VJP and JVP at a hand-checked point."""
    point = row.points[number]
    if target.traced and dtype != target.dtypes[0]:
        pytest.skip(
            "eager calls of a library that traces are compiled too: one data type is enough"
        )
    if not fits(point, dtype):
        pytest.skip("the point is made of numbers that only float64 has")
    if target.traced:
        check_results(row, point, target, dtype, traced_results(row.name, target)[number])
    else:
        check_point(row, point, target, dtype)

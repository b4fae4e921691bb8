"""Kinks, ties, infinities, NaN, empty axes: one contract, the same on every library."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from opsgrad.conformance.checks import (
    call,
    call_jvp,
    call_value_and_grad,
    call_vjp,
    own_params,
)
from opsgrad.conformance.excess import excess
from opsgrad.conformance.row import Point, Row
from opsgrad.conformance.table import TABLE
from opsgrad.conformance.target import Target

POINTS = [
    pytest.param(row, point, id=f"{row.name}-{number}")
    for row in TABLE.values()
    for number, point in enumerate((*row.kinks, *row.specials))
]


def put(array: Any, dtype: str, role: str) -> npt.NDArray[Any]:
    """Return an entry of a point as an array: labels as integers, the rest in `dtype`."""
    return np.asarray(array, dtype="int64" if role == "labels" else dtype)


def loud(function: Any, *arguments: Any) -> Any:
    """Call with every floating-point event of the caller's an exception: the library leaks none."""
    with np.errstate(all="raise"):
        return function(*arguments)


def check_point(row: Row, point: Point, target: Target, dtype: str, *, op: Any = None) -> None:
    """Hold the op to what the point states: exactly where it is not finite, else to the ULP."""
    op = op or row.op
    arrays = [
        put(array, dtype, role) for array, role in zip(point.arrays, row.arguments, strict=False)
    ]
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
    hold(loud(call, op, target, arrays, point.params), point.value, "value", bound)
    if point.gradients is not None:
        ones = np.ones(np.shape(point.value))
        g = np.asarray(ones if point.cotangent is None else point.cotangent, dtype=dtype)
        every = [("vjp", loud(call_vjp, op, target, arrays, g, point.params))]
        if point.cotangent is None:
            value, gradients = loud(call_value_and_grad, op, target, arrays, point.params)
            hold(value, point.value, "value_and_grad", bound)
            every.append(("value_and_grad", gradients))
        for role, gradients in every:
            for gradient, expected in zip(gradients, point.gradients, strict=True):
                if expected is not None:
                    hold(gradient, expected, role, row.gradient_ulp + 2, g)
    if point.tangents is not None and point.derivative is not None:
        tangents = [
            None if tangent is None else put(tangent, dtype, "x") for tangent in point.tangents
        ]
        got = loud(call_jvp, op, target, arrays, tangents, point.params)
        hold(got, point.derivative, "jvp", row.gradient_ulp + 2, tangents[0])


@pytest.mark.parametrize(("row", "point"), POINTS)
def test_point(row: Row, point: Point, target: Target, dtype: str) -> None:
    """The contract of numerics.md, sections 3 and 4: value, VJP and JVP at a hand-checked point."""
    if target.traced and dtype != target.dtypes[0]:
        pytest.skip(
            "eager calls of a library that traces are compiled too: one data type is enough"
        )
    if point.float64_only and dtype != "float64":
        pytest.skip("the point is made of numbers that only float64 has")
    check_point(row, point, target, dtype)

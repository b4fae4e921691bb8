"""Kinks, ties, infinities, NaN, empty axes: one contract, the same on every library."""

from typing import Any

import numpy as np
import pytest
from checks import call, call_jvp, call_vjp, own_params
from libraries import Library

from opsgrad.conformance import TABLE, Point, Row

POINTS = [
    pytest.param(row, point, id=f"{row.name}-{number}")
    for row in TABLE.values()
    for number, point in enumerate((*row.kinks, *row.specials))
]


def put(array: Any, dtype: str, role: str) -> np.ndarray:
    return np.asarray(array, dtype="int64" if role == "labels" else dtype)


def loud(function: Any, *arguments: Any) -> Any:
    """Call with every floating-point event of the caller's an exception: the library leaks none."""
    with np.errstate(all="raise"):
        return function(*arguments)


def check_point(row: Row, point: Point, library: Library, dtype: str, *, op: Any = None) -> None:
    """Hold the op to what the point states: exactly where it is not finite, else to the ULP."""
    op = op or row.op
    arrays = [
        put(array, dtype, role) for array, role in zip(point.arrays, row.arguments, strict=False)
    ]
    eps = float(np.finfo(dtype).eps)
    tiny = float(np.finfo(dtype).tiny) if library.flushes_subnormals else 0.0

    def hold(got: Any, expected: Any, role: str, ulps: float) -> None:
        expected = np.asarray(expected, dtype=dtype)
        assert got.dtype == dtype
        assert got.shape == expected.shape, (role, point.why)
        np.testing.assert_allclose(
            got, expected, rtol=ulps * eps, atol=tiny, err_msg=f"{role}: {point.why}"
        )

    bound = row.value_bound(**own_params(point.params)) + 2
    bound += library.excess.get((row.name, dtype), 0.0)
    hold(loud(call, op, library, arrays, point.params), point.value, "value", bound)
    if point.gradients is not None:
        ones = np.ones(np.shape(point.value))
        g = np.asarray(ones if point.cotangent is None else point.cotangent, dtype=dtype)
        gradients = loud(call_vjp, op, library, arrays, g, point.params)
        for gradient, expected in zip(gradients, point.gradients, strict=True):
            if expected is not None:
                hold(gradient, expected, "vjp", row.gradient_ulp + 2)
    if point.tangents is not None and point.derivative is not None:
        tangents = [
            None if tangent is None else put(tangent, dtype, "x") for tangent in point.tangents
        ]
        got = loud(call_jvp, op, library, arrays, tangents, point.params)
        hold(got, point.derivative, "jvp", row.gradient_ulp + 2)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(("row", "point"), POINTS)
def test_point(row: Row, point: Point, library: Library, dtype: str) -> None:
    if library.name == ("jax-jit" if dtype == "float32" else "jax"):
        pytest.skip("traced and eager JAX share their compiler: each takes one of the data types")
    if point.float64_only and dtype != "float64":
        pytest.skip("the point is made of numbers that only float64 has")
    check_point(row, point, library, dtype)

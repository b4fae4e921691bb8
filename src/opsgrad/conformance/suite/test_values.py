"""Every op's value, VJP and JVP against the oracle."""

import numpy as np
import pytest

from opsgrad.conformance.checks import check_against_oracle, check_value_and_grad, sample
from opsgrad.conformance.row import Row
from opsgrad.conformance.suite.rows import rows_with
from opsgrad.conformance.target import Target


def test_against_oracle(row: Row, target: Target, rng: np.random.Generator, dtype: str) -> None:
    """The row's goals hold for all parameter sets, traced too where the library traces."""
    for params in row.variants:
        arrays = sample(row, rng, (3, 5), dtype=dtype)
        check_against_oracle(row, target, arrays, rng, **params)


@pytest.mark.parametrize("row", rows_with("has_axis"))
def test_first_axis(row: Row, eager_target: Target, rng: np.random.Generator) -> None:
    """They hold along the first axis."""
    arrays = sample(row, rng, (4, 3), axis=0, dtype=eager_target.dtypes[0])
    check_against_oracle(row, eager_target, arrays, rng, axis=0, **row.variants[-1])


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("row", rows_with("has_reduction"))
def test_reduction(
    row: Row, eager_target: Target, rng: np.random.Generator, reduction: str
) -> None:
    """They hold for reduced losses."""
    arrays = sample(row, rng, (3, 5), dtype=eager_target.dtypes[0])
    check_against_oracle(row, eager_target, arrays, rng, reduction=reduction, **row.variants[0])


def test_value_and_gradients_together(
    row: Row, target: Target, rng: np.random.Generator, dtype: str
) -> None:
    """`value_and_grad` keeps to the goals of value and VJP, whatever the reduction."""
    for reduction in ("none", "mean", "sum") if row.has_reduction else ("none",):
        params = dict(row.variants[-1])
        if row.has_reduction:
            params["reduction"] = reduction
        arrays = sample(row, rng, (3, 5), dtype=dtype)
        check_value_and_grad(row, target, arrays, **params)


@pytest.mark.parametrize("row", rows_with("has_keepdims"))
def test_keepdims(row: Row, eager_target: Target, rng: np.random.Generator) -> None:
    """They hold where the reduced axis is kept."""
    arrays = sample(row, rng, (4, 3), axis=0, dtype=eager_target.dtypes[0])
    params = {"axis": 0, "keepdims": True, **row.variants[0]}
    check_against_oracle(row, eager_target, arrays, rng, **params)


@pytest.mark.parametrize("shape", [(1,), (6,), (2, 1, 3), (2, 1, 2, 3)], ids=str)
def test_every_number_of_axes(
    row: Row, eager_target: Target, rng: np.random.Generator, shape: tuple[int, ...]
) -> None:
    """They hold for arrays of one to four axes."""
    arrays = sample(row, rng, shape, dtype=eager_target.dtypes[0])
    check_against_oracle(row, eager_target, arrays, rng, **row.variants[0])


@pytest.mark.parametrize("axis", [0, 1, -2])
@pytest.mark.parametrize("row", rows_with("has_axis"))
def test_every_axis(row: Row, eager_target: Target, rng: np.random.Generator, axis: int) -> None:
    """They hold along any axis, counted from either end."""
    arrays = sample(row, rng, (2, 3, 4), axis, dtype=eager_target.dtypes[0])
    check_against_oracle(row, eager_target, arrays, rng, axis=axis, **row.variants[0])


@pytest.mark.parametrize(
    "row", [param for param in rows_with("name") if param.values[0].unit == "element"]
)
def test_numbers(row: Row, eager_target: Target, rng: np.random.Generator) -> None:
    """They hold for 0-d arrays."""
    dtype = eager_target.dtypes[0]
    arrays = [array.reshape(-1)[0].reshape(()) for array in sample(row, rng, (1,), dtype=dtype)]
    check_against_oracle(row, eager_target, arrays, rng, **row.variants[0])


@pytest.mark.parametrize(("axis", "shape"), [(-1, (1, 1000)), (0, (1000, 2))], ids=str)
@pytest.mark.parametrize("row", rows_with("has_axis"))
def test_long_rows_in_float32(
    row: Row, eager_target: Target, rng: np.random.Generator, axis: int, shape: tuple[int, ...]
) -> None:
    """Sums of 1,000 terms keep to the goals, along the contiguous axis and across it."""
    if axis == 0 and not eager_target.capabilities.exact_sums:
        pytest.skip("the library adds one by one across the contiguous axis")
    arrays = sample(row, rng, shape, axis, "float32")
    check_against_oracle(row, eager_target, arrays, rng, axis=axis, only="value", **row.variants[0])

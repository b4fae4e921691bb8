"""Every op's value, VJP and JVP against the oracle, on every library."""

import numpy as np
import pytest
from checks import check_against_oracle, rows_with, sample
from libraries import LIBRARIES, Library, library_parameters

from opsgrad.conformance import Row

# Under jit the same code is traced as in an eager call, which is compiled too: once is enough.
some_libraries = pytest.mark.parametrize(
    "library", library_parameters("numpy", "array-api-strict", "torch", "jax", "dask")
)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_against_oracle(row: Row, library: Library, rng: np.random.Generator, dtype: str) -> None:
    for params in row.variants:
        arrays = sample(row, rng, (3, 5), dtype=dtype)
        check_against_oracle(row, library, arrays, rng, **params)


@some_libraries
@pytest.mark.parametrize("row", rows_with("has_axis"))
def test_first_axis(row: Row, library: Library, rng: np.random.Generator) -> None:
    arrays = sample(row, rng, (4, 3), axis=0)
    check_against_oracle(row, library, arrays, rng, axis=0, **row.variants[-1])


@pytest.mark.parametrize("axis", [0, 1, -2])
@pytest.mark.parametrize("row", rows_with("has_axis"))
def test_every_axis(row: Row, rng: np.random.Generator, axis: int) -> None:
    arrays = sample(row, rng, (2, 3, 4), axis)
    check_against_oracle(row, LIBRARIES["numpy"], arrays, rng, axis=axis, **row.variants[0])


@some_libraries
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("row", rows_with("has_reduction"))
def test_reduction(row: Row, library: Library, rng: np.random.Generator, reduction: str) -> None:
    arrays = sample(row, rng, (3, 5))
    check_against_oracle(row, library, arrays, rng, reduction=reduction, **row.variants[0])


@some_libraries
@pytest.mark.parametrize("row", rows_with("has_keepdims"))
def test_keepdims(row: Row, library: Library, rng: np.random.Generator) -> None:
    arrays = sample(row, rng, (4, 3), axis=0)
    params = {"axis": 0, "keepdims": True, **row.variants[0]}
    check_against_oracle(row, library, arrays, rng, **params)


@pytest.mark.parametrize("shape", [(1,), (6,), (2, 1, 3), (2, 1, 2, 3)], ids=str)
def test_every_number_of_axes(row: Row, rng: np.random.Generator, shape: tuple[int, ...]) -> None:
    for params in row.variants:
        check_against_oracle(row, LIBRARIES["numpy"], sample(row, rng, shape), rng, **params)


def test_numbers(library: Library, rng: np.random.Generator) -> None:
    """Elementwise ops take 0-d arrays."""
    for row in (p.values[0] for p in rows_with("name")):
        if row.unit == "element":
            arrays = [a.reshape(-1)[0].reshape(()) for a in sample(row, rng, (1,))]
            check_against_oracle(row, library, arrays, rng, **row.variants[0])


@pytest.mark.parametrize(("axis", "shape"), [(-1, (1, 1000)), (0, (1000, 2))], ids=str)
@pytest.mark.parametrize("row", rows_with("has_axis"))
def test_long_rows_in_float32(
    row: Row, rng: np.random.Generator, axis: int, shape: tuple[int, ...]
) -> None:
    """Sums of 1,000 terms keep to the goals, along the contiguous axis and across it."""
    arrays = sample(row, rng, shape, axis, "float32")
    numpy = LIBRARIES["numpy"]
    check_against_oracle(row, numpy, arrays, rng, axis=axis, only="value", **row.variants[0])

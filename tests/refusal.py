"""What the tests of bad input share with the suite's, with ops called by their names."""

from typing import Any

from opsgrad.conformance import TABLE
from opsgrad.conformance.bad_input import (
    BATCH,
    CLASSES,
    OUT_OF_RANGE,
    SHAPE,
    Builtin,
    TooEarlyError,
    all_refused,
    case,
    complaint,
    nothing_runs,
    refused,
    replaced,
    routes,
)

__all__ = [
    "BATCH",
    "CLASSES",
    "OUT_OF_RANGE",
    "SHAPE",
    "Builtin",
    "TooEarlyError",
    "all_refused",
    "complaint",
    "good",
    "nothing_runs",
    "parameters",
    "refused",
    "replaced",
    "routes",
    "zero_dimensional",
]


def good(name: str, dtype: Any = "float64", shape: tuple[int, ...] = SHAPE) -> tuple[Any, ...]:
    """Return arrays that the op takes; labels stay int64."""
    return case.good(TABLE[name], dtype, shape)


def zero_dimensional(name: str) -> tuple[Any, ...]:
    """Return arrays without any axis, one for each argument."""
    return case.zero_dimensional(TABLE[name])


def parameters(name: str) -> tuple[str, ...]:
    """Return the names of the op's own parameters."""
    return case.parameters(TABLE[name])

"""By how much a library's own functions exceed one unit in the last place.

The goals of `Row` suppose functions that are right to 1 ULP. What a library's exp, log1p, tanh, pow
and sum are worse than that is no fault of an op made of them: it is measured first and added to the
op's bound. Engines that compile the ops with functions of their own get none.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, TypeAlias

import mpmath
import numpy as np
import numpy.typing as npt

from opsgrad.conformance.target import Target

_Floats: TypeAlias = npt.NDArray[Any]

_EXP = ("exp",)
_EXP_SUM = ("exp", "sum")
_LOG = ("exp", "sum", "log1p")
USES: dict[str, tuple[str, ...]] = {
    "sigmoid": _EXP,
    "tanh": ("tanh", "exp"),
    "softplus": ("exp", "log1p"),
    "log_sigmoid": ("exp", "log1p"),
    "softmax": _EXP_SUM,
    "log_softmax": _LOG,
    "logsumexp": _LOG,
    "softmax_cross_entropy": _LOG,
    "softmax_cross_entropy_with_integer_labels": _LOG,
    "cross_entropy": ("log", "sum"),
    "multiclass_hinge_loss": ("divide",),
    "lp_norm": ("pow", "sum"),
    "l1_norm": ("sum",),
    "l2_norm": ("sum",),
    "squared_l2_norm": ("sum",),
}
"""Which of the library's functions the body or the rules of an op call."""


MOST = dict.fromkeys(("exp", "log", "log1p", "tanh", "pow", "divide"), 32.0) | {"sum": 100.0}
"""The largest error of a function that still counts as one of rounding."""


def excess(target: Target, op: str, dtype: str) -> float:
    """Return what to add to the bounds of `op` on `target`, in units in the last place."""
    return sum(function_excess(target, name, dtype) for name in USES.get(op, ()))


@functools.cache
def function_excess(target: Target, name: str, dtype: str) -> float:
    """Return by how many units in the last place a function of the library exceeds 1.

    Raise if that is no rounding error any more: the bounds would hold nothing.
    """
    error = largest_error(target, name, dtype)
    assert error <= MOST[name], (
        f"{target}: the library's own {name} is off by {error:.3g} ULP in {dtype}, "
        f"at most {MOST[name]} can be put up with"
    )
    return max(0.0, error - 1.0)


def largest_error(target: Target, name: str, dtype: str) -> float:
    """Return the largest error of a function over a sample of its range, in ULP."""
    arrays, exact, rest = _sample(name, dtype)
    got = np.ravel(target.run(functools.partial(_apply, target, name), *arrays)).astype(np.float64)
    info = np.finfo(dtype)
    counts = (np.abs(exact) >= float(info.tiny)) & np.isfinite(got)
    unit = np.ldexp(1.0, np.frexp(exact)[1] - 1 - int(info.nmant))
    with np.errstate(all="ignore"):
        errors = np.abs((got - exact) - rest) / unit
    return float(np.max(errors, initial=0.0, where=counts))


@functools.cache
def _sample(name: str, dtype: str) -> tuple[tuple[_Floats, ...], _Floats, _Floats]:
    """Return arrays, the function's exact values in float64, and what is left of them to add."""
    arrays, exact = _SAMPLES[name](np.random.default_rng(7), np.dtype(dtype))
    rounded = [float(right) for right in exact]
    with mpmath.workdps(40):
        rest = [float(right - one) for right, one in zip(exact, rounded, strict=True)]
    return arrays, np.asarray(rounded), np.asarray(rest)


def _apply(target: Target, name: str, *arrays: Any) -> Any:
    xp: Any = target.backend.namespace
    if name == "sum":
        return xp.sum(arrays[0], axis=-1)
    if name == "divide":
        return arrays[0] / arrays[1]
    return getattr(xp, name)(*arrays)


_Sample = tuple[tuple[_Floats, ...], list[Any]]
_POINTS = 2000


def _exact(function: Callable[..., Any], *arrays: npt.NDArray[Any]) -> list[Any]:
    with mpmath.workdps(40):
        rows = zip(*(array.astype(float).tolist() for array in arrays), strict=True)
        return [function(*map(mpmath.mpf, row)) for row in rows]


def _unary(
    function: Callable[..., Any], draw: Callable[[np.random.Generator], npt.NDArray[Any]]
) -> Callable[[np.random.Generator, np.dtype[Any]], _Sample]:
    def sample(rng: np.random.Generator, dtype: np.dtype[Any]) -> _Sample:
        x = draw(rng).astype(dtype)
        return (x,), _exact(function, x)

    return sample


def _pow(rng: np.random.Generator, dtype: np.dtype[Any]) -> _Sample:
    base = (10.0 ** rng.uniform(-3, 3, _POINTS)).astype(dtype)
    exponent = rng.uniform(0.1, 10.0, _POINTS).astype(dtype)
    return (base, exponent), _exact(lambda x, p: x**p, base, exponent)


def _sum(rng: np.random.Generator, dtype: np.dtype[Any]) -> _Sample:
    x = np.exp(-10.0 * rng.random((1000, 100))).astype(dtype)
    return (x,), [mpmath.mpf(math.fsum(row)) for row in x.astype(float)]


def _divide(rng: np.random.Generator, dtype: np.dtype[Any]) -> _Sample:
    # By one number for each row: XLA multiplies by its reciprocal.
    x = rng.standard_normal((50, 200)).astype(dtype)
    by = np.arange(3.0, 53.0, dtype=dtype)[:, None]
    return (x, by), _exact(lambda a, b: a / b, x.ravel(), np.broadcast_to(by, x.shape).ravel())


_SAMPLES: dict[str, Callable[[np.random.Generator, np.dtype[Any]], _Sample]] = {
    "exp": _unary(mpmath.exp, lambda rng: -(10.0 ** rng.uniform(-4, 1.9, _POINTS))),
    "log": _unary(mpmath.log, lambda rng: 10.0 ** rng.uniform(-6, 6, _POINTS)),
    "log1p": _unary(mpmath.log1p, lambda rng: 10.0 ** rng.uniform(-8, 2, _POINTS)),
    # To where it is 1: XLA's own is worst there.
    "tanh": _unary(mpmath.tanh, lambda rng: 10.0 ** rng.uniform(-4, 1.4, _POINTS)),
    "pow": _pow,
    "sum": _sum,
    "divide": _divide,
}

"""Rows of the elementwise activations."""

from __future__ import annotations

from typing import Any

import mpmath
import numpy as np

from opsgrad.conformance.row import Arrays, Misfit, Point, Row
from opsgrad.conformance.table._points import (
    EXP_MINUS_40,
    EXP_MINUS_700,
    INF,
    LOG2,
    NAN,
    scalar_point,
)
from opsgrad.conformance.table._sampling import (
    Shape,
    away_from_zero,
    sample_away_from_zero,
    sample_normal,
)


def sigmoid(x: Any) -> Any:
    """Return 1 / (1 + e^-x)."""
    return 1 / (1 + mpmath.exp(-x))


def tanh(x: Any) -> Any:
    """Return (e^x - e^-x) / (e^x + e^-x)."""
    up, down = mpmath.exp(x), mpmath.exp(-x)
    return (up - down) / (up + down)


def relu(x: Any) -> Any:
    """Return the positive part of x."""
    return max(x, mpmath.mpf(0))


def leaky_relu(x: Any, *, negative_slope: Any) -> Any:
    """Return x where it is positive, else the slope times x."""
    return x if x > 0 else negative_slope * x


def prelu(x: Any, alpha: Any) -> Any:
    """Return x where it is positive, else alpha times x."""
    return x if x > 0 else alpha * x


def softplus(x: Any) -> Any:
    """Return log(1 + e^x)."""
    return mpmath.log(1 + mpmath.exp(x))


def log_sigmoid(x: Any) -> Any:
    """Return the logarithm of the sigmoid."""
    return mpmath.log(sigmoid(x))


def sign(x: Any) -> Any:
    """Return -1, 0 or 1."""
    return mpmath.sign(x)


def absolute(x: Any) -> Any:
    """Return the magnitude of x."""
    return abs(x)


def sample_prelu(rng: np.random.Generator, shape: Shape, axis: int) -> Arrays:
    """Sample x, and one alpha for each entry of the last axis."""
    return away_from_zero(rng, shape), rng.uniform(-0.5, 1.5, size=shape[-1:])


def _prelu_point(
    x: float, alpha: float, value: float, by_x: float, by_alpha: float, why: str
) -> Point:
    return Point(
        arrays=([x], [alpha]),
        value=[value],
        cotangent=[2.0],
        gradients=([2.0 * by_x], [2.0 * by_alpha]),
        why=why,
    )


SIGMOID = Row(
    name="sigmoid",
    unit="element",
    arguments=("x",),
    oracle=sigmoid,
    sample=sample_normal,
    value_ulp=3.0,
    gradient_ulp=4.0,
    specials=(
        scalar_point(0.0, 0.5, 0.25, "sigmoid(0) = 1/2, its derivative 1/4"),
        scalar_point(-INF, 0.0, 0.0, "sigmoid(-inf) = 0"),
        scalar_point(INF, 1.0, 0.0, "sigmoid(inf) = 1"),
        scalar_point(NAN, NAN, NAN, "sigmoid(NaN) = NaN"),
        scalar_point(40.0, 1.0, EXP_MINUS_40, "sigmoid' keeps its digits where sigmoid is 1"),
        scalar_point(-40.0, EXP_MINUS_40, EXP_MINUS_40, "sigmoid keeps its digits far left"),
        scalar_point(-1e4, 0.0, 0.0, "sigmoid underflows to 0 without a warning"),
        scalar_point(1e4, 1.0, 0.0, "sigmoid' underflows to 0 without a warning"),
        scalar_point(
            -700.0, EXP_MINUS_700, EXP_MINUS_700, "sigmoid near the range's end", float64_only=True
        ),
        scalar_point(700.0, 1.0, EXP_MINUS_700, "sigmoid' near the range's end", float64_only=True),
    ),
)

TANH = Row(
    name="tanh",
    unit="element",
    arguments=("x",),
    oracle=tanh,
    sample=sample_normal,
    value_ulp=2.0,
    gradient_ulp=4.0,
    specials=(
        scalar_point(0.0, 0.0, 1.0, "tanh(0) = 0, its derivative 1"),
        scalar_point(-INF, -1.0, 0.0, "tanh(-inf) = -1"),
        scalar_point(INF, 1.0, 0.0, "tanh(inf) = 1"),
        scalar_point(NAN, NAN, NAN, "tanh(NaN) = NaN"),
        scalar_point(20.0, 1.0, 1.6993417021166355e-17, "tanh' keeps its digits where tanh is 1"),
        scalar_point(
            -20.0, -1.0, 1.6993417021166355e-17, "tanh' keeps its digits where tanh is -1"
        ),
        scalar_point(
            350.0, 1.0, 3.943870617503908e-304, "tanh' near the range's end", float64_only=True
        ),
        scalar_point(1e4, 1.0, 0.0, "tanh' underflows to 0 without a warning"),
        scalar_point(1e-30, 1e-30, 1.0, "tanh of a tiny number is that number"),
    ),
)

RELU = Row(
    name="relu",
    unit="element",
    arguments=("x",),
    oracle=relu,
    sample=sample_away_from_zero,
    value_ulp=0.5,
    gradient_ulp=0.5,
    kinks=(
        scalar_point(0.0, 0.0, 0.0, "relu'(0) = 0"),
        scalar_point(-0.0, 0.0, 0.0, "relu'(-0) = 0"),
        scalar_point(1e-30, 1e-30, 1.0, "relu' just right of 0 is 1"),
        scalar_point(-1e-30, 0.0, 0.0, "relu' just left of 0 is 0"),
    ),
    specials=(
        scalar_point(-INF, 0.0, 0.0, "relu(-inf) = 0"),
        scalar_point(INF, INF, 1.0, "relu(inf) = inf"),
        scalar_point(NAN, NAN, NAN, "relu(NaN) = relu'(NaN) = NaN"),
    ),
)

LEAKY_RELU = Row(
    name="leaky_relu",
    unit="element",
    arguments=("x",),
    oracle=leaky_relu,
    sample=sample_away_from_zero,
    variants=tuple({"negative_slope": slope} for slope in (0.01, 0.0, 0.25, 1.0, 2.0)),
    refused={"negative_slope": (NAN, INF, -INF)},
    value_ulp=0.5,
    gradient_ulp=0.5,
    kinks=(
        scalar_point(0.0, 0.0, 0.25, "leaky_relu'(0) is the slope", negative_slope=0.25),
        scalar_point(-0.0, 0.0, 0.25, "leaky_relu'(-0) is the slope", negative_slope=0.25),
        scalar_point(0.0, 0.0, 0.0, "leaky_relu'(0) is the slope, 0 too", negative_slope=0.0),
        scalar_point(0.0, 0.0, 2.0, "leaky_relu'(0) is the slope, above 1 too", negative_slope=2.0),
    ),
    specials=(
        scalar_point(-3.0, -6.0, 2.0, "a slope above 1: not max(x, slope x)", negative_slope=2.0),
        scalar_point(3.0, 3.0, 1.0, "a slope above 1: not max(x, slope x)", negative_slope=2.0),
        scalar_point(-INF, -INF, 0.25, "leaky_relu(-inf) = -inf", negative_slope=0.25),
        scalar_point(-INF, 0.0, 0.0, "leaky_relu(-inf) = 0 for slope 0", negative_slope=0.0),
        scalar_point(INF, INF, 1.0, "leaky_relu(inf) = inf", negative_slope=0.25),
        scalar_point(INF, INF, 1.0, "leaky_relu(inf) = inf for slope 0", negative_slope=0.0),
        scalar_point(NAN, NAN, NAN, "leaky_relu(NaN) = leaky_relu'(NaN) = NaN"),
        scalar_point(NAN, NAN, NAN, "leaky_relu(NaN) = NaN for slope 0", negative_slope=0.0),
    ),
)


def _prelu_misfit(alpha: Shape) -> Misfit:
    words = ("alpha", str(alpha), "(5, 4)")
    return Misfit(shapes=((5, 4), alpha), words=words, why=f"alpha of shape {alpha}")


PRELU = Row(
    name="prelu",
    unit="element",
    arguments=("x", "alpha"),
    oracle=prelu,
    sample=sample_prelu,
    misfits=tuple(map(_prelu_misfit, ((3,), (5,), (4, 1), (6, 1), (2, 4), (0,)))),
    value_ulp=0.5,
    # The gradient by alpha is a sum over all that alpha was broadcast against.
    gradient_ulp=4.0,
    kinks=(
        _prelu_point(0.0, 0.25, 0.0, 0.25, 0.0, "prelu'(0) = alpha, by alpha 0"),
        _prelu_point(-0.0, 0.25, 0.0, 0.25, 0.0, "prelu'(-0) = alpha, by alpha 0"),
        _prelu_point(0.0, 2.0, 0.0, 2.0, 0.0, "prelu'(0) = alpha, above 1 too"),
        _prelu_point(0.0, 0.0, 0.0, 0.0, 0.0, "prelu'(0) = alpha, 0 too"),
    ),
    specials=(
        _prelu_point(-3.0, 2.0, -6.0, 2.0, -3.0, "alpha above 1: not max(x, alpha x)"),
        _prelu_point(3.0, 2.0, 3.0, 1.0, 0.0, "alpha above 1: not max(x, alpha x)"),
        _prelu_point(-3.0, -0.5, 1.5, -0.5, -3.0, "a negative alpha"),
        _prelu_point(-INF, 0.0, 0.0, 0.0, -INF, "prelu(-inf) = 0 for alpha 0: 0 (-inf) is 0"),
        _prelu_point(-INF, 0.25, -INF, 0.25, -INF, "prelu(-inf) = -inf"),
        _prelu_point(INF, 0.25, INF, 1.0, 0.0, "prelu(inf) = inf"),
        _prelu_point(INF, 0.0, INF, 1.0, 0.0, "prelu(inf) = inf for alpha 0"),
        _prelu_point(3.0, NAN, 3.0, 1.0, 0.0, "a NaN alpha does not count above 0"),
        _prelu_point(0.0, NAN, 0.0, NAN, 0.0, "a NaN alpha counts at 0 in the derivative alone"),
        _prelu_point(-3.0, NAN, NAN, NAN, -3.0, "a NaN alpha counts below 0"),
        Point(
            arrays=([-INF, -2.0], 0.25),
            value=[-INF, -0.5],
            cotangent=[0.0, 2.0],
            gradients=([0.0, 0.5], -4.0),
            tangents=([4.0, 4.0], 0.0),
            derivative=[1.0, 1.0],
            why="a zero cotangent or tangent contributes 0 at -inf too",
        ),
        Point(
            arrays=([NAN], [0.25]),
            value=[NAN],
            gradients=([NAN], [NAN]),
            tangents=([1.0], [1.0]),
            derivative=[NAN],
            why="prelu(NaN) = NaN, as are its derivatives",
        ),
        Point(
            arrays=([[1.0, -2.0], [-3.0, -4.0]], [0.5, 0.25]),
            value=[[1.0, -0.5], [-1.5, -1.0]],
            cotangent=[[1.0, 2.0], [4.0, 8.0]],
            gradients=([[1.0, 0.5], [2.0, 2.0]], [-12.0, -36.0]),
            tangents=([[1.0, 2.0], [4.0, 8.0]], [1.0, -1.0]),
            derivative=[[1.0, 2.5], [-1.0, 6.0]],
            why="the gradient by alpha is summed to alpha's shape",
        ),
    ),
)

SOFTPLUS = Row(
    name="softplus",
    unit="element",
    arguments=("x",),
    oracle=softplus,
    sample=sample_normal,
    value_ulp=2.5,
    gradient_ulp=3.0,
    specials=(
        scalar_point(0.0, LOG2, 0.5, "softplus(0) = log 2, its derivative 1/2"),
        scalar_point(-INF, 0.0, 0.0, "softplus(-inf) = 0"),
        scalar_point(INF, INF, 1.0, "softplus(inf) = inf"),
        scalar_point(NAN, NAN, NAN, "softplus(NaN) = NaN"),
        scalar_point(-40.0, EXP_MINUS_40, EXP_MINUS_40, "softplus keeps its digits far left"),
        scalar_point(
            25.0,
            25.000000000013888,
            0.9999999999861121,
            "no threshold beyond which softplus(x) is x",
        ),
        scalar_point(1e30, 1e30, 1.0, "softplus does not overflow"),
        scalar_point(-1e30, 0.0, 0.0, "softplus underflows to 0 without a warning"),
        scalar_point(
            -700.0, EXP_MINUS_700, EXP_MINUS_700, "softplus near the range's end", float64_only=True
        ),
    ),
)

LOG_SIGMOID = Row(
    name="log_sigmoid",
    unit="element",
    arguments=("x",),
    oracle=log_sigmoid,
    sample=sample_normal,
    value_ulp=2.5,
    gradient_ulp=3.0,
    specials=(
        scalar_point(0.0, -LOG2, 0.5, "log_sigmoid(0) = -log 2, its derivative 1/2"),
        scalar_point(-INF, -INF, 1.0, "log_sigmoid(-inf) = -inf"),
        scalar_point(INF, 0.0, 0.0, "log_sigmoid(inf) = 0"),
        scalar_point(NAN, NAN, NAN, "log_sigmoid(NaN) = NaN"),
        scalar_point(40.0, -EXP_MINUS_40, EXP_MINUS_40, "log_sigmoid keeps its digits far right"),
        scalar_point(-1e30, -1e30, 1.0, "log_sigmoid does not become log(0)"),
        scalar_point(1e30, 0.0, 0.0, "log_sigmoid underflows to 0 without a warning"),
        scalar_point(
            700.0,
            -EXP_MINUS_700,
            EXP_MINUS_700,
            "log_sigmoid near the range's end",
            float64_only=True,
        ),
    ),
)

SIGN = Row(
    name="sign",
    unit="element",
    arguments=("x",),
    oracle=sign,
    sample=sample_away_from_zero,
    value_ulp=0.5,
    gradient_ulp=0.5,
    kinks=(
        scalar_point(0.0, 0.0, 0.0, "sign(0) = 0, and sign' is 0 anywhere"),
        scalar_point(-0.0, 0.0, 0.0, "sign(-0) = 0, and sign' is 0 anywhere"),
        scalar_point(1e-30, 1.0, 0.0, "sign just right of 0 is 1"),
        scalar_point(-1e-30, -1.0, 0.0, "sign just left of 0 is -1"),
    ),
    specials=(
        scalar_point(-INF, -1.0, 0.0, "sign(-inf) = -1"),
        scalar_point(INF, 1.0, 0.0, "sign(inf) = 1"),
        scalar_point(NAN, NAN, 0.0, "sign(NaN) = NaN, and sign' is 0 anywhere"),
    ),
)

ABS = Row(
    name="abs",
    unit="element",
    arguments=("x",),
    oracle=absolute,
    sample=sample_away_from_zero,
    value_ulp=0.5,
    gradient_ulp=0.5,
    kinks=(
        scalar_point(0.0, 0.0, 0.0, "abs'(0) = 0"),
        scalar_point(-0.0, 0.0, 0.0, "abs'(-0) = 0"),
        scalar_point(1e-30, 1e-30, 1.0, "abs' just right of 0 is 1"),
        scalar_point(-1e-30, 1e-30, -1.0, "abs' just left of 0 is -1"),
    ),
    specials=(
        scalar_point(-INF, INF, -1.0, "abs(-inf) = inf, its derivative -1"),
        scalar_point(INF, INF, 1.0, "abs(inf) = inf, its derivative 1"),
        scalar_point(NAN, NAN, NAN, "abs(NaN) = abs'(NaN) = NaN"),
    ),
)

ROWS = (SIGMOID, TANH, RELU, LEAKY_RELU, PRELU, SOFTPLUS, LOG_SIGMOID, SIGN, ABS)

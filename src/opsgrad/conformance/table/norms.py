"""Rows of the norms."""

from __future__ import annotations

from typing import Any

import mpmath
import numpy as np

from opsgrad.conformance.row import Point, Row
from opsgrad.conformance.table._points import INF, NAN, undefined_slice
from opsgrad.conformance.table._sampling import (
    sample_away_from_zero,
    sample_distinct_magnitudes,
    sample_normal,
)


def lp_norm(x: list[Any], *, p: Any) -> Any:
    """Return (sum |x_i|^p)^(1/p), the largest magnitude for p = inf."""
    magnitudes = [abs(entry) for entry in x]
    if mpmath.isinf(p):
        return max(magnitudes, default=mpmath.mpf(0))
    return mpmath.fsum(magnitude**p for magnitude in magnitudes) ** (1 / p)


def l1_norm(x: list[Any]) -> Any:
    """Return sum |x_i|."""
    return mpmath.fsum(x, absolute=True)


def l2_norm(x: list[Any]) -> Any:
    """Return the root of sum x_i^2."""
    return mpmath.sqrt(squared_l2_norm(x))


def squared_l2_norm(x: list[Any]) -> Any:
    """Return sum x_i^2."""
    return mpmath.fsum(x, squared=True)


def lp_norm_bound(*, p: float = 2.0) -> float:
    """Return the goal for the value: looser the smaller p is."""
    if p >= 1:
        return 4.0
    return 6.0 if p >= 0.5 else 3.0 / p


def _point(
    x: list[float],
    value: float,
    gradient: list[float],
    why: str,
    *,
    float64_only: bool = False,
    **params: Any,
) -> Point:
    """State value and gradient, and the derivative along the first entry."""
    return Point(
        arrays=(x,),
        params=params,
        value=value,
        cotangent=2.0,
        gradients=([2.0 * entry for entry in gradient],),
        tangents=([4.0] + [0.0] * (len(x) - 1),),
        derivative=4.0 * gradient[0],
        float64_only=float64_only,
        why=why,
    )


def _empty_axis(name: str, **params: Any) -> tuple[Point, ...]:
    """State the norm of nothing."""
    return (
        Point(
            arrays=([],),
            params=params,
            value=0.0,
            gradients=([],),
            tangents=([],),
            derivative=0.0,
            why=f"{name} of an empty axis is 0",
        ),
        Point(
            arrays=([[], []],),
            params={**params, "keepdims": True},
            value=[[0.0], [0.0]],
            gradients=([[], []],),
            why=f"{name} of an empty axis is 0, with keepdims too",
        ),
    )


def _at_the_ends(name: str, **params: Any) -> tuple[Point, ...]:
    """State what holds for every p: zero vectors, infinities, NaN, empty axes."""
    return (
        _point([0.0, 0.0], 0.0, [0.0, 0.0], f"{name} at the zero vector: gradient 0", **params),
        _point([0.0], 0.0, [0.0], f"{name} at a single 0: gradient 0", **params),
        _point([-0.0, 0.0], 0.0, [0.0, 0.0], f"{name} at -0 is {name} at 0", **params),
        _point([-3.0], 3.0, [-1.0], f"{name} of one entry is its magnitude", **params),
        undefined_slice([1.0, INF], INF, f"{name} with +inf: +inf, gradient NaN", **params),
        undefined_slice([-INF, 0.0], INF, f"{name} with -inf: +inf, gradient NaN", **params),
        undefined_slice([INF, -INF], INF, f"{name} with both: +inf, gradient NaN", **params),
        undefined_slice([INF], INF, f"{name} of +inf alone: gradient NaN", **params),
        undefined_slice([1.0, NAN], NAN, f"{name} with NaN is NaN", **params),
        undefined_slice([NAN, 0.0], NAN, f"{name} with NaN beside 0 is NaN", **params),
        Point(
            arrays=([[0.0, 2.0], [INF, 1.0], [NAN, 1.0], [0.0, 0.0]],),
            params={**params, "keepdims": True},
            value=[[2.0], [INF], [NAN], [0.0]],
            cotangent=[[4.0]] * 4,
            gradients=([[0.0, 4.0], [NAN, NAN], [NAN, NAN], [0.0, 0.0]],),
            tangents=([[1.0, 1.0]] * 4,),
            derivative=[[1.0], [NAN], [NAN], [0.0]],
            why=f"{name}: a NaN slice leaves its neighbours alone",
        ),
        *_empty_axis(name, **params),
    )


def _l1_points(name: str, **params: Any) -> tuple[Point, ...]:
    return (
        _point([0.0, 3.0, -2.0], 5.0, [0.0, 1.0, -1.0], f"{name}: gradient 0 at 0", **params),
        _point([-2.0, 0.0], 2.0, [-1.0, 0.0], f"{name}: the gradient is the sign", **params),
    )


def _l2_points(name: str, **params: Any) -> tuple[Point, ...]:
    return (
        _point([3.0, -4.0, 0.0], 5.0, [0.6, -0.8, 0.0], f"{name} of 3, -4, 0", **params),
        _point([3e30, 4e30], 5e30, [0.6, 0.8], f"{name} of huge entries", **params),
        _point([3e-30, 4e-30], 5e-30, [0.6, 0.8], f"{name} of tiny entries", **params),
        _point(
            [3e300, -4e300],
            5e300,
            [0.6, -0.8],
            f"{name} near float64's upper end",
            float64_only=True,
            **params,
        ),
        _point(
            [3e-300, -4e-300],
            5e-300,
            [0.6, -0.8],
            f"{name} near float64's lower end",
            float64_only=True,
            **params,
        ),
    )


def _two_tied_at_the_ends() -> tuple[Point, ...]:
    """State the norm of (t, -t), 2^(1/p) t, for large p and t near the ends of the range.

    Each entry's share of the gradient is 2^(1/p - 1).
    """

    def point(t: float, value: float, p: float, *, float64_only: bool = False) -> Point:
        share = {150.0: 0.5023158372010269, 2000.0: 0.5001733168269227}[p]
        why = f"p = {p:g} of two entries of {t:g}"
        return _point([t, -t], value, [share, -share], why, p=p, float64_only=float64_only)

    return (
        point(3e38, 3.0138950232061613e38, 150.0),
        point(2e-38, 2.0092633488041074e-38, 150.0),
        point(1.7e308, 1.700589277211537e308, 2000.0, float64_only=True),
        point(3e-308, 3.001039900961536e-308, 2000.0, float64_only=True),
    )


EXPONENTS = (2.0, 0.5, 1.0, 1.5, 3.0, 10.0, INF)

LP_NORM = Row(
    name="lp_norm",
    unit="slice",
    arguments=("x",),
    oracle=lp_norm,
    sample=sample_distinct_magnitudes,
    variants=tuple({"p": p} for p in EXPONENTS),
    refused={"p": (NAN, -INF, 0.0, -0.0, -1.0, -1e-300)},
    has_axis=True,
    has_keepdims=True,
    value_ulp=6.0,
    value_bound_at=lp_norm_bound,
    gradient_ulp=5.0,
    kinks=(
        *_l1_points("lp_norm, p = 1", p=1.0),
        _point([0.0, 4.0, 9.0], 25.0, [0.0, 2.5, 5 / 3], "p < 1: gradient 0 at 0", p=0.5),
        _point([-4.0, 0.0, 9.0], 25.0, [-2.5, 0.0, 5 / 3], "p < 1: the sign is kept", p=0.5),
        _point([-4.0, 0.0], 4.0, [-1.0, 0.0], "1 < p < 2: gradient 0 at 0", p=1.5),
        _point([0.0, 3.0], 3.0, [0.0, 1.0], "p = 3: gradient 0 at 0", p=3.0),
        _point([3.0, -3.0, 1.0], 3.0, [0.5, -0.5, 0.0], "p = inf: ties share evenly", p=INF),
        _point([2.0, 2.0, 2.0, -2.0], 2.0, [0.25] * 3 + [-0.25], "p = inf: all tied", p=INF),
        _point([1.0, -3.0], 3.0, [0.0, -1.0], "p = inf: the largest takes all", p=INF),
    ),
    specials=(
        *(point for p in EXPONENTS for point in _at_the_ends(f"lp_norm, p = {p:g}", p=p)),
        *_l2_points("lp_norm, p = 2", p=2.0),
        Point(
            arrays=([3.0, 4.0],),
            value=5.0,
            gradients=([0.6, 0.8],),
            why="p is 2 unless it is given",
        ),
        _point([1e30, -3e30], 3e30, [0.0, -1.0], "p = inf of huge entries", p=INF),
        _point([2e30, -2e30], 8e30, [2.0, -2.0], "p < 1 of huge entries", p=0.5),
        _point([2e-30, -2e-30], 8e-30, [2.0, -2.0], "p < 1 of tiny entries", p=0.5),
        _point(
            [1e30, -1e30],
            1.0717734625362931e30,
            [0.5358867312681466, -0.5358867312681466],
            "p = 10 of huge entries",
            p=10.0,
        ),
        _point(
            [1e-30, -1e-30],
            1.0717734625362931e-30,
            [0.5358867312681466, -0.5358867312681466],
            "p = 10 of tiny entries",
            p=10.0,
        ),
        *_at_the_ends("lp_norm, p = 2000", p=2000.0),
        _point([1.5, 3.0, -6.0], 6.0, [0.0, 0.0, -1.0], "p = 2000: nearly the largest", p=2000.0),
        _point([3e30, -6e30], 6e30, [0.0, -1.0], "p = 2000 of huge entries", p=2000.0),
        _point([3e-30, -6e-30], 6e-30, [0.0, -1.0], "p = 2000 of tiny entries", p=2000.0),
        _point([3e38], 3e38, [1.0], "p = 90 at the range's end does not overflow", p=90.0),
        _point(
            [1.7e308],
            1.7e308,
            [1.0],
            "p = 800 at float64's end does not overflow",
            p=800.0,
            float64_only=True,
        ),
        _point(
            [6.0, -6.0],
            6.002079801923072,
            [0.5001733168269227, -0.5001733168269227],
            "p = 2000 is not yet the maximum",
            p=2000.0,
        ),
        *_two_tied_at_the_ends(),
        Point(
            arrays=([1.0, 1.0],),
            params={"p": 1e-40},
            value=INF,
            why="2^(1/p) overflows where p is tiny, as 1/p itself does in float32",
        ),
        Point(
            arrays=(np.ones(2**18),),
            params={"p": 255 / 512},
            value=75784117252.18806,
            why="2^18 ones have the norm 2^(18/p): rounding 1/p to float32 costs 12 eps of it",
        ),
    ),
)

L1_NORM = Row(
    name="l1_norm",
    unit="slice",
    arguments=("x",),
    oracle=l1_norm,
    sample=sample_away_from_zero,
    has_axis=True,
    has_keepdims=True,
    value_ulp=4.0,
    gradient_ulp=0.5,
    derivative_ulp=4.0,
    kinks=_l1_points("l1_norm"),
    specials=_at_the_ends("l1_norm"),
)

L2_NORM = Row(
    name="l2_norm",
    unit="slice",
    arguments=("x",),
    oracle=l2_norm,
    sample=sample_normal,
    has_axis=True,
    has_keepdims=True,
    value_ulp=4.0,
    gradient_ulp=5.0,
    kinks=(_point([0.0, 0.0, 0.0], 0.0, [0.0, 0.0, 0.0], "l2_norm at the zero vector"),),
    specials=(*_l2_points("l2_norm"), *_at_the_ends("l2_norm")),
)

SQUARED_L2_NORM = Row(
    name="squared_l2_norm",
    unit="slice",
    arguments=("x",),
    oracle=squared_l2_norm,
    sample=sample_normal,
    has_axis=True,
    has_keepdims=True,
    # A sum of rounded squares; a product.
    value_ulp=4.0,
    gradient_ulp=0.5,
    derivative_ulp=4.0,
    specials=(
        _point([3.0, -4.0, 0.0], 25.0, [6.0, -8.0, 0.0], "the gradient is 2x"),
        _point([0.0, 0.0], 0.0, [0.0, 0.0], "the gradient is 2x, also at the zero vector"),
        _point([INF, 1.0], INF, [INF, 2.0], "with +inf: +inf, the gradient is still 2x"),
        _point([-INF, -1.0], INF, [-INF, -2.0], "with -inf: +inf, the gradient is still 2x"),
        Point(
            arrays=([1.0, NAN],),
            value=NAN,
            gradients=([2.0, NAN],),
            tangents=([1.0, 1.0],),
            derivative=NAN,
            why="with NaN: NaN, the gradient is still 2x",
        ),
        Point(
            arrays=([[3.0, 4.0], [INF, 1.0], [NAN, 1.0]],),
            params={"keepdims": True},
            value=[[25.0], [INF], [NAN]],
            cotangent=[[1.0], [1.0], [1.0]],
            gradients=([[6.0, 8.0], [INF, 2.0], [NAN, 2.0]],),
            why="a NaN slice leaves its neighbours alone",
        ),
        _point(
            [1e200, 1.0],
            INF,
            [2e200, 2.0],
            "a square that overflows is +inf without a warning, its gradient finite",
            float64_only=True,
        ),
        *_empty_axis("squared_l2_norm"),
    ),
)

ROWS = (LP_NORM, L1_NORM, L2_NORM, SQUARED_L2_NORM)

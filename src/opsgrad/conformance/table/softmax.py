"""Rows of the softmax family."""

from __future__ import annotations

from typing import Any

import mpmath

from opsgrad.conformance.row import Point, Row
from opsgrad.conformance.table._points import (
    EXP_MINUS_40,
    INF,
    LOG2,
    NAN,
    undefined_slice,
)
from opsgrad.conformance.table._sampling import sample_distinct_maximum, sample_normal

LARGE = 2.0**20
"""Exact in float32, and so are its sums with small integers."""


def softmax(x: list[Any]) -> list[Any]:
    """Return e^x_i / sum e^x_j."""
    powers = [mpmath.exp(entry) for entry in x]
    total = mpmath.fsum(powers)
    return [power / total for power in powers]


def log_softmax(x: list[Any]) -> list[Any]:
    """Return the logarithm of the softmax."""
    return [mpmath.log(entry) for entry in softmax(x)]


def logsumexp(x: list[Any]) -> Any:
    """Return log sum e^x_j."""
    return mpmath.log(mpmath.fsum(mpmath.exp(entry) for entry in x))


def relumax(x: list[Any], *, b: Any) -> list[Any]:
    """Return relu(x_i - max x + b), divided by the sum of these."""
    rectified = _rectified(x, b)
    total = mpmath.fsum(rectified)
    return [entry / total for entry in rectified]


def softmax_scale(x: list[Any], *, cotangent: list[Any]) -> tuple[list[Any]]:
    """Return y_i sum_j y_j |g_i - g_j|."""
    return (_spread_about_each(softmax(x), cotangent),)


def softmax_derivative_scale(x: list[Any], *, tangents: list[list[Any]]) -> list[Any]:
    """Return the pullback's scale: the Jacobian is symmetric."""
    return _spread_about_each(softmax(x), tangents[0])


def log_softmax_scale(x: list[Any], *, cotangent: list[Any]) -> tuple[list[Any]]:
    """Return |g_i| + y_i sum_j |g_j|."""
    total = mpmath.fsum(cotangent, absolute=True)
    return ([abs(g) + y * total for y, g in zip(softmax(x), cotangent, strict=True)],)


def log_softmax_derivative_scale(x: list[Any], *, tangents: list[list[Any]]) -> list[Any]:
    """Return |t_i| + sum_j y_j |t_j|."""
    mean = mpmath.fsum(y * abs(t) for y, t in zip(softmax(x), tangents[0], strict=True))
    return [abs(t) + mean for t in tangents[0]]


def logsumexp_scale(x: list[Any]) -> Any:
    """Return the largest of the result, the maximum, and what is added to the maximum."""
    result, top = logsumexp(x), max(x)
    return max(abs(result), abs(top), abs(result - top))


def relumax_scale(x: list[Any], *, cotangent: list[Any], b: Any) -> tuple[list[Any]]:
    """Return (A_i s_i + w_i sum_k A_k s_k) / (b S), where s_i = sum_j A_j |g_i - g_j| / S.

    A marks the active entries, w shares 1 among the maxima, and S is the sum of the rectified
    entries divided by b.
    """
    active, shares, total = _relumax_parts(x, b)
    spread = [
        a * mpmath.fsum(q * abs(g - other) for q, other in zip(active, cotangent, strict=True))
        for a, g in zip(active, cotangent, strict=True)
    ]
    return (
        [
            (s + w * mpmath.fsum(spread)) / (b * total**2)
            for s, w in zip(spread, shares, strict=True)
        ],
    )


def relumax_derivative_scale(x: list[Any], *, tangents: list[list[Any]], b: Any) -> list[Any]:
    """Return (A_i |t_i - m| + A_i sum_k A_k |t_k - m| / S) / (b S), m the tangent of the maximum.

    A and S are those of `relumax_scale`.
    """
    active, shares, total = _relumax_parts(x, b)
    mean = mpmath.fdot(shares, tangents[0])
    moved = [a * abs(t - mean) for a, t in zip(active, tangents[0], strict=True)]
    return [
        (entry + a * mpmath.fsum(moved) / total) / (b * total)
        for entry, a in zip(moved, active, strict=True)
    ]


def _rectified(x: list[Any], b: Any) -> list[Any]:
    return [max(entry - max(x) + b, mpmath.mpf(0)) for entry in x]


def _relumax_parts(x: list[Any], b: Any) -> tuple[list[Any], list[Any], Any]:
    rectified = _rectified(x, b)
    active = [mpmath.mpf(entry > 0) for entry in rectified]
    maxima = [mpmath.mpf(entry == max(x)) for entry in x]
    shares = [entry / mpmath.fsum(maxima) for entry in maxima]
    return active, shares, mpmath.fsum(rectified) / b


def _spread_about_each(y: list[Any], g: list[Any]) -> list[Any]:
    return [
        weight * mpmath.fsum(other * abs(entry - q) for other, q in zip(y, g, strict=True))
        for weight, entry in zip(y, g, strict=True)
    ]


def _undefined_everywhere(name: str) -> tuple[Point, ...]:
    """State the slices for which every output is NaN."""
    return (
        undefined_slice([-INF, -INF, -INF], [NAN] * 3, f"{name} of a slice of -inf is NaN"),
        undefined_slice([-INF], [NAN], f"{name} of a single -inf is NaN"),
        undefined_slice([0.0, INF, 1.0], [NAN] * 3, f"{name} of a slice with +inf is NaN"),
        undefined_slice([INF, INF], [NAN] * 2, f"{name} of a slice of +inf is NaN"),
        undefined_slice([-INF, INF, 0.0], [NAN] * 3, f"{name} with both infinities is NaN"),
        undefined_slice([0.0, NAN, 1.0], [NAN] * 3, f"{name} of a slice with NaN is NaN"),
        undefined_slice([-INF, NAN, 0.0], [NAN] * 3, f"{name} with NaN beside -inf is NaN"),
        Point(
            arrays=([],),
            value=[],
            gradients=([],),
            tangents=([],),
            derivative=[],
            why=f"{name} of an empty axis is empty",
        ),
        Point(
            arrays=([[], []],),
            value=[[], []],
            gradients=([[], []],),
            tangents=([[], []],),
            derivative=[[], []],
            why=f"{name} of an empty axis is empty, in a batch too",
        ),
    )


def _a_large_margin(exponent: int, *, float64_only: bool = False) -> Point:
    """State relumax for a b = 2^exponent beside which the entries 0, 1, 2 are as good as equal.

    So S = 3 b and dx = (g - mean g) / S. The scale of g keeps that a normal number.
    """
    scale = 9.0 * 2.0 ** (exponent - 20)
    gradient = [2 * 2.0**-20, -(2.0**-20), -(2.0**-20)]
    return Point(
        arrays=([0.0, 1.0, 2.0],),
        params={"b": 2.0**exponent},
        value=[1 / 3, 1 / 3, 1 / 3],
        cotangent=[scale, 0.0, 0.0],
        gradients=(gradient,),
        tangents=([scale, 0.0, 0.0],),
        derivative=gradient,
        float64_only=float64_only,
        why=f"b = 2^{exponent}: the sum of the margins is in range, and their shares are even",
    )


def _just_active(b: int, entry: int, *, float64_only: bool = False) -> Point:
    """State relumax where an entry is above max - b by far less than the last place of b.

    With b = 2^b and x = (2^entry, b) the margins are 2^entry and b, exactly. The Jacobian is 1 / b
    times (1, -1), (-1, 1), but for terms 2^(entry - b) times smaller.
    """
    margin = 2.0**b
    return Point(
        arrays=([2.0**entry, margin],),
        params={"b": margin},
        value=[2.0 ** (entry - b), 1.0],
        cotangent=[1.0, 0.0],
        gradients=([1 / margin, -1 / margin],),
        tangents=([1.0, 0.0],),
        derivative=[1 / margin, -1 / margin],
        float64_only=float64_only,
        why=f"an entry 2^{entry} above max - b is active for b = 2^{b}",
    )


SOFTMAX = Row(
    name="softmax",
    unit="slice",
    arguments=("x",),
    oracle=softmax,
    sample=sample_normal,
    has_axis=True,
    value_ulp=5.0,
    gradient_ulp=4.0,
    gradient_scale=softmax_scale,
    derivative_scale=softmax_derivative_scale,
    has_floor=True,
    kinks=(
        Point(
            arrays=([3.0, 3.0, 3.0, 3.0],),
            value=[0.25] * 4,
            cotangent=[4.0, 0.0, 0.0, 0.0],
            gradients=([0.75, -0.25, -0.25, -0.25],),
            tangents=([4.0, 0.0, 0.0, 0.0],),
            derivative=[0.75, -0.25, -0.25, -0.25],
            why="softmax is smooth where its maximum is tied",
        ),
        Point(
            arrays=([0.5, -1.0, 2.0],),
            value=[0.1752903921400367, 0.03911257327068745, 0.7855970345892759],
            cotangent=[3.0, 3.0, 3.0],
            gradients=([0.0, 0.0, 0.0],),
            tangents=([3.0, 3.0, 3.0],),
            derivative=[0.0, 0.0, 0.0],
            why="a constant cotangent is in the kernel: softmax sums to 1",
        ),
        Point(
            arrays=([0.5, -1.0, 2.0],),
            value=[0.1752903921400367, 0.03911257327068745, 0.7855970345892759],
            cotangent=[LARGE + 1.0, LARGE + 2.0, LARGE + 4.0],
            gradients=([-0.41997889507783714, -0.054597384846990955, 0.4745762799248281],),
            tangents=([LARGE + 1.0, LARGE + 2.0, LARGE + 4.0],),
            derivative=[-0.41997889507783714, -0.054597384846990955, 0.4745762799248281],
            why="a large constant in the cotangent costs no digits",
        ),
    ),
    specials=(
        *_undefined_everywhere("softmax"),
        Point(
            arrays=([-INF, 0.0, 0.0],),
            value=[0.0, 0.5, 0.5],
            cotangent=[3.0, 1.0, 0.0],
            gradients=([0.0, 0.25, -0.25],),
            tangents=([5.0, 1.0, 0.0],),
            derivative=[0.0, 0.25, -0.25],
            why="softmax is exactly 0 at -inf beside finite entries, and so is its gradient",
        ),
        Point(
            arrays=([-INF, 7.0, -INF],),
            value=[0.0, 1.0, 0.0],
            cotangent=[3.0, 1.0, 2.0],
            gradients=([0.0, 0.0, 0.0],),
            tangents=([3.0, 1.0, 2.0],),
            derivative=[0.0, 0.0, 0.0],
            why="a single finite entry beside -inf has softmax 1",
        ),
        Point(
            arrays=([5.0],),
            value=[1.0],
            cotangent=[3.0],
            gradients=([0.0],),
            tangents=([3.0],),
            derivative=[0.0],
            why="softmax of one entry is 1",
        ),
        Point(
            arrays=([[0.0, 0.0], [NAN, 0.0], [0.0, INF], [-INF, -INF], [0.0, -INF]],),
            value=[[0.5, 0.5], [NAN, NAN], [NAN, NAN], [NAN, NAN], [1.0, 0.0]],
            cotangent=[[4.0, 0.0]] * 5,
            gradients=([[1.0, -1.0], [NAN, NAN], [NAN, NAN], [NAN, NAN], [0.0, 0.0]],),
            tangents=([[4.0, 0.0]] * 5,),
            derivative=[[1.0, -1.0], [NAN, NAN], [NAN, NAN], [NAN, NAN], [0.0, 0.0]],
            why="a NaN slice leaves its neighbours alone",
        ),
        Point(
            arrays=([0.0, 40.0],),
            value=[EXP_MINUS_40, 1.0],
            cotangent=[1.0, 0.0],
            gradients=([EXP_MINUS_40, -EXP_MINUS_40],),
            tangents=([1.0, 0.0],),
            derivative=[EXP_MINUS_40, -EXP_MINUS_40],
            why="the Jacobian keeps its digits where softmax is saturated",
        ),
        Point(
            arrays=([1e38, -1e38],),
            value=[1.0, 0.0],
            cotangent=[1.0, 2.0],
            gradients=([0.0, 0.0],),
            tangents=([1.0, 2.0],),
            derivative=[0.0, 0.0],
            why="differences as large as the range give exactly 1 and 0",
        ),
        Point(
            arrays=([-3e38, 3e38, 3e38],),
            value=[0.0, 0.5, 0.5],
            cotangent=[4.0, 4.0, 0.0],
            gradients=([0.0, 1.0, -1.0],),
            tangents=([4.0, 4.0, 0.0],),
            derivative=[0.0, 1.0, -1.0],
            why="a difference that overflows counts as an infinite one",
        ),
        Point(
            arrays=([-1.7e308, 1.7e308, 1.7e308],),
            value=[0.0, 0.5, 0.5],
            cotangent=[4.0, 4.0, 0.0],
            gradients=([0.0, 1.0, -1.0],),
            tangents=([4.0, 4.0, 0.0],),
            derivative=[0.0, 1.0, -1.0],
            float64_only=True,
            why="a difference that overflows float64 counts as an infinite one",
        ),
    ),
)

LOG_SOFTMAX = Row(
    name="log_softmax",
    unit="slice",
    arguments=("x",),
    oracle=log_softmax,
    sample=sample_normal,
    has_axis=True,
    value_ulp=4.0,
    gradient_ulp=4.0,
    gradient_scale=log_softmax_scale,
    derivative_scale=log_softmax_derivative_scale,
    kinks=(
        Point(
            arrays=([3.0, 3.0, 3.0, 3.0],),
            value=[-2 * LOG2] * 4,
            cotangent=[4.0, 0.0, 0.0, 0.0],
            gradients=([3.0, -1.0, -1.0, -1.0],),
            tangents=([4.0, 0.0, 0.0, 0.0],),
            derivative=[3.0, -1.0, -1.0, -1.0],
            why="log_softmax is smooth where its maximum is tied",
        ),
    ),
    specials=(
        *_undefined_everywhere("log_softmax"),
        Point(
            arrays=([-INF, 0.0, 0.0],),
            value=[-INF, -LOG2, -LOG2],
            cotangent=[3.0, 1.0, 0.0],
            gradients=([3.0, -1.0, -2.0],),
            tangents=([5.0, 1.0, 0.0],),
            derivative=[4.5, 0.5, -0.5],
            why="log_softmax is -inf at -inf, and its gradient there is the cotangent",
        ),
        Point(
            arrays=([5.0],),
            value=[0.0],
            cotangent=[3.0],
            gradients=([0.0],),
            tangents=([3.0],),
            derivative=[0.0],
            why="log_softmax of one entry is 0",
        ),
        Point(
            arrays=([[0.0, 0.0], [NAN, 0.0], [0.0, INF], [-INF, -INF], [0.0, -INF]],),
            value=[[-LOG2, -LOG2], [NAN, NAN], [NAN, NAN], [NAN, NAN], [0.0, -INF]],
            cotangent=[[4.0, 0.0]] * 5,
            gradients=([[2.0, -2.0], [NAN, NAN], [NAN, NAN], [NAN, NAN], [0.0, 0.0]],),
            tangents=([[4.0, 0.0]] * 5,),
            derivative=[[2.0, -2.0], [NAN, NAN], [NAN, NAN], [NAN, NAN], [0.0, -4.0]],
            why="a NaN slice leaves its neighbours alone",
        ),
        Point(
            arrays=([0.0, -40.0],),
            value=[-EXP_MINUS_40, -40.0],
            cotangent=[0.0, 1.0],
            gradients=([-1.0, 1.0],),
            tangents=([0.0, 1.0],),
            derivative=[-EXP_MINUS_40, 1.0],
            why="log_softmax keeps its digits at a dominant entry",
        ),
        Point(
            arrays=([[0.0, 40.0], [0.0, 40.0]],),
            value=[[-40.0, -EXP_MINUS_40]] * 2,
            cotangent=[[0.0, 1.0], [0.0, 2.0]],
            gradients=([[-EXP_MINUS_40, EXP_MINUS_40], [-2 * EXP_MINUS_40, 2 * EXP_MINUS_40]],),
            tangents=([[1.0, 0.0], [0.0, 1.0]],),
            derivative=[[1.0, -EXP_MINUS_40], [-1.0, EXP_MINUS_40]],
            why="the Jacobian keeps its digits at a dominant entry",
        ),
        Point(
            arrays=([1e38, -1e38],),
            value=[0.0, -2e38],
            cotangent=[1.0, 2.0],
            gradients=([-2.0, 2.0],),
            tangents=([1.0, 2.0],),
            derivative=[0.0, 1.0],
            why="log_softmax of large entries is their difference",
        ),
    ),
)

LOGSUMEXP = Row(
    name="logsumexp",
    unit="slice",
    arguments=("x",),
    oracle=logsumexp,
    sample=sample_normal,
    has_axis=True,
    has_keepdims=True,
    value_ulp=1.5,
    # The softmax's five, and a product.
    gradient_ulp=6.0,
    value_scale=logsumexp_scale,
    kinks=(
        Point(
            arrays=([3.0, 3.0, 3.0, 3.0],),
            value=4.386294361119891,
            cotangent=8.0,
            gradients=([2.0, 2.0, 2.0, 2.0],),
            tangents=([4.0, 0.0, 0.0, 8.0],),
            derivative=3.0,
            why="logsumexp is smooth where its maximum is tied",
        ),
    ),
    specials=(
        undefined_slice([-INF, -INF, -INF], -INF, "logsumexp of -inf is -inf, its gradient NaN"),
        undefined_slice([-INF], -INF, "logsumexp of one -inf is -inf, its gradient NaN"),
        undefined_slice([0.0, INF, 1.0], INF, "logsumexp with +inf is +inf, its gradient NaN"),
        undefined_slice([INF, INF], INF, "logsumexp of +inf is +inf, its gradient NaN"),
        undefined_slice([-INF, INF], INF, "logsumexp of both is +inf, its gradient NaN"),
        undefined_slice([0.0, NAN, 1.0], NAN, "logsumexp with NaN is NaN"),
        undefined_slice([-INF, NAN], NAN, "logsumexp with NaN beside -inf is NaN"),
        Point(arrays=([],), value=-INF, gradients=([],), why="logsumexp of an empty axis is -inf"),
        Point(
            arrays=([[], []],),
            value=[-INF, -INF],
            gradients=([[], []],),
            why="logsumexp of an empty axis is -inf, in a batch too",
        ),
        Point(
            arrays=([[], []],),
            params={"keepdims": True},
            value=[[-INF], [-INF]],
            gradients=([[], []],),
            why="logsumexp of an empty axis is -inf, with keepdims too",
        ),
        Point(
            arrays=([-INF, 0.0, 0.0],),
            value=LOG2,
            cotangent=4.0,
            gradients=([0.0, 2.0, 2.0],),
            tangents=([5.0, 1.0, 0.0],),
            derivative=0.5,
            why="-inf beside finite entries has gradient 0 through logsumexp",
        ),
        Point(
            arrays=([[0.0, 0.0], [NAN, 0.0], [0.0, INF], [-INF, -INF]],),
            params={"keepdims": True},
            value=[[LOG2], [NAN], [INF], [-INF]],
            cotangent=[[2.0]] * 4,
            gradients=([[1.0, 1.0], [NAN, NAN], [NAN, NAN], [NAN, NAN]],),
            tangents=([[4.0, 0.0]] * 4,),
            derivative=[[2.0], [NAN], [NAN], [NAN]],
            why="a NaN slice leaves its neighbours alone",
        ),
        Point(
            arrays=([1e38, -1e38],),
            value=1e38,
            gradients=([1.0, 0.0],),
            tangents=([1.0, 2.0],),
            derivative=1.0,
            why="logsumexp of large entries does not overflow",
        ),
        Point(
            arrays=([-1e38, -1e38],),
            value=-1e38,
            gradients=([0.5, 0.5],),
            tangents=([1.0, 3.0],),
            derivative=2.0,
            why="logsumexp of large negative entries does not underflow to log 0",
        ),
        Point(
            arrays=([0.0, -40.0],),
            value=EXP_MINUS_40,
            gradients=([1.0, EXP_MINUS_40],),
            tangents=([0.0, 1.0],),
            derivative=EXP_MINUS_40,
            why="logsumexp keeps its digits near 0",
        ),
    ),
)

RELUMAX = Row(
    name="relumax",
    unit="slice",
    arguments=("x",),
    oracle=relumax,
    sample=sample_distinct_maximum,
    variants=({"b": 1.0}, {"b": 0.5}, {"b": 3.0}),
    refused={"b": (NAN, INF, -INF, 0.0, -0.0, -1.0, -1e-300)},
    has_axis=True,
    value_ulp=4.0,  # two roundings of the margin, a sum of up to 1,000, a division
    gradient_ulp=4.0,
    gradient_scale=relumax_scale,
    derivative_scale=relumax_derivative_scale,
    has_floor=True,
    kinks=(
        Point(
            arrays=([0.5, 1.0, -1.0, 0.75],),
            value=[2 / 9, 4 / 9, 0.0, 1 / 3],
            cotangent=[1.0, 2.0, 4.0, 8.0],
            gradients=([-100 / 81, -52 / 81, 0.0, 152 / 81],),
            tangents=([0.0, 1.0, 0.0, 0.0],),
            derivative=[-20 / 81, 32 / 81, 0.0, -12 / 81],
            why="the example with four entries: the maximum's gradient is not dropped",
        ),
        Point(
            arrays=([0.0, -0.5, -1.0],),
            value=[2 / 3, 1 / 3, 0.0],
            cotangent=[1.0, 0.0, 7.0],
            gradients=([4 / 9, -4 / 9, 0.0],),
            tangents=([0.0, 0.0, 1.0],),
            derivative=[0.0, 0.0, 0.0],
            why="an entry at max - b is inactive",
        ),
        Point(
            arrays=([0.0, -1.0],),
            value=[1.0, 0.0],
            cotangent=[3.0, 5.0],
            gradients=([0.0, 0.0],),
            tangents=([3.0, 5.0],),
            derivative=[0.0, 0.0],
            why="an entry at max - b is inactive, also as the only other one",
        ),
        Point(
            arrays=([1.0, -2.0],),
            params={"b": 3.0},
            value=[1.0, 0.0],
            cotangent=[3.0, 5.0],
            gradients=([0.0, 0.0],),
            tangents=([3.0, 5.0],),
            derivative=[0.0, 0.0],
            why="an entry at max - b is inactive for b = 3",
        ),
        Point(
            arrays=([0.0, -1.0],),
            value=[1.0, 0.0],
            cotangent=[-3e38, 3e38],
            gradients=([0.0, 0.0],),
            why="an entry at max - b is inactive, though its cotangent less the mean overflows",
        ),
        Point(
            arrays=([0.0, -1.0],),
            value=[1.0, 0.0],
            tangents=([-3e38, 3e38],),
            derivative=[0.0, 0.0],
            why="an entry at max - b is inactive, though its tangent less the mean overflows",
        ),
        Point(
            arrays=([1e-37, 2.0**100],),
            params={"b": 2.0**100},
            value=[1e-37 * 2.0**-100, 1.0],
            cotangent=[1.0, 0.0],
            gradients=([2.0**-100, -(2.0**-100)],),
            why="a margin is active however small it is beside a huge b",
        ),
        Point(
            arrays=([1.0, 1.0, 0.5],),
            value=[0.4, 0.4, 0.2],
            cotangent=[1.0, 0.0, 0.0],
            gradients=([0.28, -0.12, -0.16],),
            tangents=([1.0, 0.0, 0.0],),
            derivative=[0.28, -0.12, -0.16],
            why="tied maxima share the gradient of the maximum evenly",
        ),
        Point(
            arrays=([1.0, 1.0, 0.5],),
            value=[0.4, 0.4, 0.2],
            cotangent=[0.0, 0.0, 1.0],
            gradients=([-0.16, -0.16, 0.32],),
            tangents=([0.0, 0.0, 1.0],),
            derivative=[-0.16, -0.16, 0.32],
            why="tied maxima share the gradient of the maximum evenly, from another entry too",
        ),
        Point(
            arrays=([2.0, 2.0],),
            params={"b": 0.5},
            value=[0.5, 0.5],
            cotangent=[1.0, 0.0],
            gradients=([0.5, -0.5],),
            tangents=([1.0, 0.0],),
            derivative=[0.5, -0.5],
            why="all entries tied",
        ),
        Point(
            arrays=([0.5, 1.0, -1.0, 0.75],),
            value=[2 / 9, 4 / 9, 0.0, 1 / 3],
            cotangent=[3.0, 3.0, 3.0, 3.0],
            gradients=([0.0, 0.0, 0.0, 0.0],),
            tangents=([3.0, 3.0, 3.0, 3.0],),
            derivative=[0.0, 0.0, 0.0, 0.0],
            why="a constant cotangent is in the kernel: relumax sums to 1",
        ),
        Point(
            arrays=([0.5, 1.0, -1.0, 0.75],),
            value=[2 / 9, 4 / 9, 0.0, 1 / 3],
            cotangent=[LARGE + 1.0, LARGE + 2.0, LARGE + 4.0, LARGE + 8.0],
            gradients=([-100 / 81, -52 / 81, 0.0, 152 / 81],),
            tangents=([LARGE, LARGE + 1.0, LARGE, LARGE],),
            derivative=[-20 / 81, 32 / 81, 0.0, -12 / 81],
            why="a large constant in the cotangent costs no digits",
        ),
        Point(
            arrays=([0.1, 0.6],),
            params={"b": 0.5},
            value=[5.551115123125783e-17, 1.0],
            cotangent=[1.0, 0.0],
            gradients=([2.0, -2.0],),
            tangents=([1.0, 0.0],),
            derivative=[2.0, -2.0],
            float64_only=True,
            why="the exact x - max + b, here 2^-55, decides what is active",
        ),
        Point(
            arrays=([0.20000000298023224, 0.699999988079071],),
            params={"b": 0.5},
            value=[2.980232149951692e-08, 0.9999999701976785],
            cotangent=[1.0, 0.0],
            gradients=([1.9999998807907158, -1.9999998807907158],),
            tangents=([1.0, 0.0],),
            derivative=[1.9999998807907158, -1.9999998807907158],
            why="the exact x - max + b, here 2^-26 of two float32 numbers, decides what is active",
        ),
    ),
    specials=(
        *_undefined_everywhere("relumax"),
        Point(
            arrays=([-INF, 0.0, -0.5],),
            value=[0.0, 2 / 3, 1 / 3],
            cotangent=[5.0, 1.0, 0.0],
            gradients=([0.0, 4 / 9, -4 / 9],),
            tangents=([5.0, 1.0, 0.0],),
            derivative=[0.0, 4 / 9, -4 / 9],
            why="relumax is exactly 0 at -inf beside finite entries, and so is its gradient",
        ),
        Point(
            arrays=([-INF, 2.0, -INF],),
            value=[0.0, 1.0, 0.0],
            cotangent=[3.0, 1.0, 2.0],
            gradients=([0.0, 0.0, 0.0],),
            tangents=([3.0, 1.0, 2.0],),
            derivative=[0.0, 0.0, 0.0],
            why="a single finite entry beside -inf has relumax 1",
        ),
        Point(
            arrays=([5.0],),
            value=[1.0],
            cotangent=[3.0],
            gradients=([0.0],),
            tangents=([3.0],),
            derivative=[0.0],
            why="relumax of one entry is 1",
        ),
        Point(
            arrays=([[0.0, 0.0], [NAN, 0.0], [0.0, INF], [-INF, -INF], [0.0, -INF]],),
            value=[[0.5, 0.5], [NAN, NAN], [NAN, NAN], [NAN, NAN], [1.0, 0.0]],
            cotangent=[[4.0, 0.0]] * 5,
            gradients=([[1.0, -1.0], [NAN, NAN], [NAN, NAN], [NAN, NAN], [0.0, 0.0]],),
            tangents=([[4.0, 0.0]] * 5,),
            derivative=[[1.0, -1.0], [NAN, NAN], [NAN, NAN], [NAN, NAN], [0.0, 0.0]],
            why="a NaN slice leaves its neighbours alone",
        ),
        Point(
            arrays=([1e38, -1e38],),
            value=[1.0, 0.0],
            cotangent=[1.0, 2.0],
            gradients=([0.0, 0.0],),
            tangents=([1.0, 2.0],),
            derivative=[0.0, 0.0],
            why="differences as large as the range give exactly 1 and 0",
        ),
        Point(
            arrays=([0.0, 1.0],),
            params={"b": 1e38},
            value=[0.5, 0.5],
            why="a b at the range's end does not overflow the sum",
        ),
        Point(
            arrays=([0.0, 1.0, 2.0],),
            params={"b": 1e308},
            value=[1 / 3, 1 / 3, 1 / 3],
            float64_only=True,
            why="a b at float64's end does not overflow the sum",
        ),
        *(_a_large_margin(exponent) for exponent in (87, 88, 127)),
        *(_a_large_margin(exponent, float64_only=True) for exponent in (983, 984, 1023)),
        *(_just_active(b, entry) for b, entry in ((0, -123), (50, -120), (87, -60), (100, -75))),
        _just_active(1000, -100, float64_only=True),
        Point(
            arrays=([[0.0, -0.5], [0.0, -0.5]],),
            value=[[2 / 3, 1 / 3]] * 2,
            cotangent=[[1.0, 0.0], [2.0**60, 0.0]],
            gradients=([[4 / 9, -4 / 9], [2.0**60 * 4 / 9, -(2.0**60) * 4 / 9]],),
            tangents=([[1.0, 0.0], [2.0**60, 0.0]],),
            derivative=[[4 / 9, -4 / 9], [2.0**60 * 4 / 9, -(2.0**60) * 4 / 9]],
            why="a slice with a large cotangent costs its neighbours no digits",
        ),
        Point(
            arrays=([0.0, -0.5],),
            value=[2 / 3, 1 / 3],
            cotangent=[1e-30, 0.0],
            gradients=([1e-30 * 4 / 9, -1e-30 * 4 / 9],),
            tangents=([1e-30, 0.0],),
            derivative=[1e-30 * 4 / 9, -1e-30 * 4 / 9],
            why="a tiny cotangent keeps its digits",
        ),
        Point(
            arrays=([0.0, 1.0, 1.0],),
            params={"b": 1e-30},
            value=[0.0, 0.5, 0.5],
            why="a tiny b leaves the maxima alone",
        ),
    ),
)

ROWS = (SOFTMAX, LOG_SOFTMAX, LOGSUMEXP, RELUMAX)

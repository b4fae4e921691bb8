"""Rows of the squared and the hinge losses."""

from __future__ import annotations

from typing import Any

import mpmath
import numpy as np

from opsgrad.conformance.row import Arrays, Point, Row
from opsgrad.conformance.table._points import (
    INF,
    NAN,
    NO_ELEMENTS,
    NO_LABELLED_EXAMPLES,
)
from opsgrad.conformance.table._sampling import (
    Shape,
    lattice,
    normal,
    sample_multiclass_scores,
    signs,
)


def squared_error(pred: Any, target: Any) -> Any:
    """Return (p - t)^2."""
    return (pred - target) ** 2


def l2_loss(pred: Any, target: Any) -> Any:
    """Return (p - t)^2 / 2."""
    return (pred - target) ** 2 / 2


def hinge_loss(score: Any, target: Any, *, margin: Any) -> Any:
    """Return max(0, margin - t s)."""
    return max(mpmath.mpf(0), margin - target * score)


def multiclass_hinge_loss(scores: list[Any], label: int, *, margin: Any, kind: str) -> Any:
    """Return the largest (Crammer-Singer) or the sum (Weston-Watkins) of the violations."""
    violations = [
        score - scores[label] + margin for other, score in enumerate(scores) if other != label
    ]
    if kind == "crammer_singer":
        return max([mpmath.mpf(0), *violations])
    return mpmath.fsum(max(mpmath.mpf(0), violation) for violation in violations)


def hinge_scale(score: Any, target: Any, *, margin: Any) -> Any:
    """Return margin + |t s|."""
    return margin + abs(target * score)


def multiclass_hinge_scale(scores: list[Any], label: int, *, margin: Any, kind: str) -> Any:
    """Return the magnitudes of what is added in the largest, or in all, of the violations."""
    terms = [
        abs(score) + abs(scores[label]) + margin
        for other, score in enumerate(scores)
        if other != label
    ]
    return max(terms, default=mpmath.mpf(0)) if kind == "crammer_singer" else mpmath.fsum(terms)


def sample_predictions(rng: np.random.Generator, shape: Shape, axis: int) -> Arrays:
    """Sample predictions and targets."""
    return normal(rng, shape), normal(rng, shape)


def sample_hinge(rng: np.random.Generator, shape: Shape, axis: int) -> Arrays:
    """Sample scores whose distance from any multiple of 0.1 is at least 0.02, and signs."""
    scores = lattice(rng, shape) + 0.05 + rng.uniform(-0.03, 0.03, size=shape)
    return scores, signs(rng, shape)


def _difference_points(factor: float) -> tuple[Point, ...]:
    """State `factor` times the square of a difference."""
    slope = 2 * factor
    return (
        Point(
            arrays=([3.0, -1.0, 2.0], [1.0, 1.0, 2.0]),
            value=[4 * factor, 4 * factor, 0.0],
            cotangent=[1.0, 2.0, 4.0],
            gradients=([2 * slope, -4 * slope, 0.0], [-2 * slope, 4 * slope, 0.0]),
            tangents=([1.0, 0.0, 1.0], [0.0, 1.0, 0.0]),
            derivative=[2 * slope, 2 * slope, 0.0],
            why="the derivatives by prediction and target are each other's negatives",
        ),
        Point(
            arrays=([1.0, 2.0, 3.0, 4.0], [0.0, 2.0, 5.0, 4.0]),
            params={"reduction": "mean"},
            value=1.25 * factor,
            cotangent=2.0,
            gradients=(
                [0.5 * slope, 0.0, -slope, 0.0],
                [-0.5 * slope, 0.0, slope, 0.0],
            ),
            why="the mean over N values has gradient (p - t)/N, times the factor",
        ),
        Point(
            arrays=([INF, -INF, 0.0], [0.0, 0.0, INF]),
            value=[INF, INF, INF],
            gradients=([INF, -INF, -INF], [-INF, INF, INF]),
            why="an infinite difference has an infinite square and gradient",
        ),
        Point(
            arrays=([INF, NAN, 0.0], [INF, 0.0, NAN]),
            value=[NAN, NAN, NAN],
            gradients=([NAN, NAN, NAN], [NAN, NAN, NAN]),
            tangents=([1.0, 1.0, 1.0], [0.0, 0.0, 0.0]),
            derivative=[NAN, NAN, NAN],
            why="inf - inf and NaN give NaN",
        ),
        Point(
            arrays=([1e200], [-1e200]),
            value=[INF],
            gradients=([2e200 * slope], [-2e200 * slope]),
            float64_only=True,
            why="a square that overflows is +inf without a warning, its gradient finite",
        ),
        *NO_ELEMENTS,
    )


SQUARED_ERROR = Row(
    name="squared_error",
    unit="element",
    arguments=("pred", "target"),
    oracle=squared_error,
    sample=sample_predictions,
    has_reduction=True,
    # A rounded difference, squared: twice half a unit, and one more rounding.
    value_ulp=2.0,
    gradient_ulp=1.5,
    derivative_ulp=2.5,  # two differences, two products, a sum
    specials=_difference_points(1.0),
)

L2_LOSS = Row(
    name="l2_loss",
    unit="element",
    arguments=("pred", "target"),
    oracle=l2_loss,
    sample=sample_predictions,
    has_reduction=True,
    value_ulp=2.0,
    gradient_ulp=1.5,
    derivative_ulp=2.5,
    specials=_difference_points(0.5),
)


def _hinge_point(
    score: float,
    target: float,
    value: float,
    by_score: float,
    by_target: float,
    why: str,
    **params: Any,
) -> Point:
    return Point(
        arrays=([score], [target]),
        params=params,
        value=[value],
        cotangent=[2.0],
        gradients=([2.0 * by_score], [2.0 * by_target]),
        tangents=([4.0], [0.0]),
        derivative=[4.0 * by_score],
        why=why,
    )


BAD_MARGINS = {"margin": (NAN, INF, -INF, -1.0, -1e-300)}

HINGE_LOSS = Row(
    name="hinge_loss",
    unit="element",
    arguments=("scores", "targets"),
    oracle=hinge_loss,
    sample=sample_hinge,
    variants=tuple({"margin": margin} for margin in (1.0, 0.0, 0.5, 2.0)),
    refused=BAD_MARGINS,
    has_reduction=True,
    # A product and a difference; a product.
    value_ulp=1.0,
    gradient_ulp=0.5,
    derivative_ulp=1.5,
    value_scale=hinge_scale,
    kinks=(
        _hinge_point(1.0, 1.0, 0.0, 0.0, 0.0, "the hinge at its kink has gradient 0"),
        _hinge_point(-1.0, -1.0, 0.0, 0.0, 0.0, "the hinge at its kink, for target -1"),
        _hinge_point(2.0, 1.0, 0.0, 0.0, 0.0, "the hinge at its kink, margin 2", margin=2.0),
        _hinge_point(0.0, 1.0, 0.0, 0.0, 0.0, "the hinge at its kink, margin 0", margin=0.0),
        _hinge_point(0.75, 1.0, 0.25, -1.0, -0.75, "left of its kink the hinge is active"),
        _hinge_point(1.25, 1.0, 0.0, 0.0, 0.0, "right of its kink the hinge is not active"),
    ),
    specials=(
        _hinge_point(0.5, -1.0, 1.5, 1.0, -0.5, "the derivatives are -t and -s where active"),
        _hinge_point(3.0, 1.0, 0.0, 0.0, 0.0, "a score beyond the margin costs nothing"),
        _hinge_point(INF, 1.0, 0.0, 0.0, 0.0, "an infinitely right score costs nothing"),
        _hinge_point(-INF, -1.0, 0.0, 0.0, 0.0, "an infinitely right score, for target -1"),
        Point(
            arrays=([-INF, INF], [1.0, -1.0]),
            value=[INF, INF],
            cotangent=[2.0, 2.0],
            gradients=([-2.0, 2.0], [INF, -INF]),
            tangents=([4.0, 4.0], [0.0, 0.0]),
            derivative=[-4.0, 4.0],
            why="an infinitely wrong score costs +inf; a zero tangent contributes 0",
        ),
        Point(
            arrays=([-INF, 0.5], [1.0, 1.0]),
            value=[INF, 0.5],
            cotangent=[0.0, 1.0],
            gradients=([0.0, -1.0], [0.0, -0.5]),
            why="an infinite loss with a zero cotangent contributes 0",
        ),
        Point(
            arrays=([NAN], [1.0]),
            value=[NAN],
            gradients=([NAN], [NAN]),
            tangents=([1.0], [0.0]),
            derivative=[NAN],
            why="the hinge of NaN is NaN",
        ),
        Point(
            arrays=([0.5, 2.0], [1.0, 1.0]),
            params={"reduction": "mean"},
            value=0.25,
            cotangent=4.0,
            gradients=([-2.0, 0.0], [-1.0, 0.0]),
            why="the mean over two examples halves the gradient",
        ),
        *NO_ELEMENTS,
    ),
)

CRAMMER_SINGER = "crammer_singer"
WESTON_WATKINS = "weston_watkins"


def _multiclass_point(
    scores: list[float],
    label: int,
    value: float,
    gradient: list[float],
    why: str,
    *,
    kind: str,
    margin: float = 1.0,
) -> Point:
    """State value and gradient, and the derivative along the first score."""
    return Point(
        arrays=(scores, label),
        params={"kind": kind, "margin": margin},
        value=value,
        cotangent=2.0,
        gradients=([2.0 * entry for entry in gradient], None),
        tangents=([4.0] + [0.0] * (len(scores) - 1), None),
        derivative=4.0 * gradient[0],
        why=f"{kind}: {why}",
    )


def _both_kinds(
    scores: list[float], label: int, value: float, gradient: list[float], why: str
) -> tuple[Point, Point]:
    """State a point at which the two kinds agree."""
    return (
        _multiclass_point(scores, label, value, gradient, why, kind=CRAMMER_SINGER),
        _multiclass_point(scores, label, value, gradient, why, kind=WESTON_WATKINS),
    )


def _exact_violations(kind: str) -> tuple[Point, Point]:
    """State violations so small that rounding the difference of the scores would lose them."""
    return (
        Point(
            arrays=([0.1, 0.6], 1),
            params={"kind": kind, "margin": 0.5},
            value=2.7755575615628914e-17,
            gradients=([1.0, -1.0], None),
            tangents=([1.0, 0.0], None),
            derivative=1.0,
            float64_only=True,
            why=f"{kind}: the exact violation, here 2^-55, decides",
        ),
        Point(
            arrays=([0.20000000298023224, 0.699999988079071], 1),
            params={"kind": kind, "margin": 0.5},
            value=1.4901161193847656e-08,
            gradients=([1.0, -1.0], None),
            tangents=([1.0, 0.0], None),
            derivative=1.0,
            why=f"{kind}: the exact violation, here 2^-26 of two float32 numbers, decides",
        ),
    )


def _value_of_both_kinds(scores: list[float], label: int, value: float, why: str) -> list[Point]:
    return [
        Point(arrays=(scores, label), params={"kind": kind}, value=value, why=f"{kind}: {why}")
        for kind in (CRAMMER_SINGER, WESTON_WATKINS)
    ]


MULTICLASS_HINGE_LOSS = Row(
    name="multiclass_hinge_loss",
    unit="slice",
    arguments=("scores", "labels"),
    oracle=multiclass_hinge_loss,
    sample=sample_multiclass_scores,
    variants=tuple(
        {"margin": margin, "kind": kind}
        for kind in (CRAMMER_SINGER, WESTON_WATKINS)
        for margin in (1.0, 0.0, 0.5, 2.0)
    ),
    refused=BAD_MARGINS,
    has_axis=True,
    has_reduction=True,
    # Differences and, for Weston-Watkins, a sum; a small integer times the cotangent.
    value_ulp=3.0,
    gradient_ulp=1.0,
    derivative_ulp=4.0,
    value_scale=multiclass_hinge_scale,
    kinks=(
        *_both_kinds([1.0, 2.0, 0.0], 1, 0.0, [0.0, 0.0, 0.0], "at its kink the gradient is 0"),
        *_both_kinds([1.0, 2.0, 3.0], 1, 2.0, [0.0, -1.0, 1.0], "a violation of exactly 0 is none"),
        *_both_kinds(
            [1.0, 1.0, 2.0], 2, 0.0, [0.0, 0.0, 0.0], "a tie of violations of exactly 0 is none"
        ),
        *_exact_violations(CRAMMER_SINGER),
        *_exact_violations(WESTON_WATKINS),
        _multiclass_point(
            [2.0, 2.0, 1.0],
            2,
            2.0,
            [0.5, 0.5, -1.0],
            "tied violators share the gradient evenly",
            kind=CRAMMER_SINGER,
        ),
        _multiclass_point(
            [2.0, 2.0, 1.0],
            2,
            4.0,
            [1.0, 1.0, -2.0],
            "every violator counts in full",
            kind=WESTON_WATKINS,
        ),
        _multiclass_point(
            [1.0, 1.0, 1.0],
            0,
            1.0,
            [-1.0, 0.5, 0.5],
            "violators tied with the label too",
            kind=CRAMMER_SINGER,
        ),
        _multiclass_point(
            [1.0, 1.0, 1.0],
            0,
            2.0,
            [-2.0, 1.0, 1.0],
            "violators tied with the label too",
            kind=WESTON_WATKINS,
        ),
        _multiclass_point(
            [1.0, 1.0],
            0,
            0.0,
            [0.0, 0.0],
            "a tie with margin 0 is at the kink",
            kind=CRAMMER_SINGER,
            margin=0.0,
        ),
        _multiclass_point(
            [1.0, 1.0],
            0,
            0.0,
            [0.0, 0.0],
            "a tie with margin 0 is at the kink",
            kind=WESTON_WATKINS,
            margin=0.0,
        ),
        _multiclass_point(
            [3.0, 2.5, 1.0],
            2,
            2.5,
            [1.0, 0.0, -1.0],
            "only the largest violator counts",
            kind=CRAMMER_SINGER,
            margin=0.5,
        ),
        _multiclass_point(
            [3.0, 2.5, 1.0],
            2,
            4.5,
            [1.0, 1.0, -2.0],
            "the violations are added, not averaged",
            kind=WESTON_WATKINS,
            margin=0.5,
        ),
    ),
    specials=(
        *_both_kinds([5.0], 0, 0.0, [0.0], "a single class costs nothing"),
        *_both_kinds(
            [-INF, 0.0, 1.0], 1, 2.0, [0.0, -1.0, 1.0], "-inf off the label is no violator"
        ),
        *_both_kinds([-INF, 0.0], 1, 0.0, [0.0, 0.0], "-inf off the label costs nothing"),
        *_both_kinds([INF, 0.0], 1, INF, [1.0, -1.0], "+inf off the label costs +inf"),
        *_both_kinds([0.0, INF], 1, 0.0, [0.0, 0.0], "+inf at the label costs nothing"),
        *_value_of_both_kinds([0.0, -INF, 1.0], 1, INF, "-inf at the label costs +inf"),
        *_value_of_both_kinds([0.0, NAN, 1.0], 1, NAN, "NaN at the label gives NaN"),
        *_value_of_both_kinds([NAN, 0.0, 1.0], 1, NAN, "NaN off the label gives NaN"),
        Point(
            arrays=([[0.0, 1.0], [3.0, 0.0]], [0, 0]),
            params={"reduction": "mean"},
            value=1.0,
            cotangent=2.0,
            gradients=([[-1.0, 1.0], [0.0, 0.0]], None),
            why="the mean over two examples halves the gradient; Crammer-Singer, margin 1",
        ),
        Point(
            arrays=([[0.0, 0.0], [1.0, 3.0]], [0, 1]),
            params={"axis": 0, "kind": WESTON_WATKINS},
            value=[2.0, 0.0],
            gradients=([[-1.0, 0.0], [1.0, 0.0]], None),
            why="labels index the given axis",
        ),
        *NO_LABELLED_EXAMPLES,
    ),
)

ROWS = (SQUARED_ERROR, L2_LOSS, HINGE_LOSS, MULTICLASS_HINGE_LOSS)

"""Short ways to write `Point`s."""

from __future__ import annotations

from typing import Any

import numpy as np

from opsgrad.conformance.row import Nested, Point

INF = float("inf")
NAN = float("nan")
LOG2 = 0.6931471805599453
EXP_MINUS_40 = 4.248354255291589e-18
EXP_MINUS_700 = 9.85967654375977e-305


def scalar_point(
    x: float,
    value: float,
    slope: float,
    why: str,
    *,
    float64_only: bool = False,
    **params: Any,
) -> Point:
    """State the value and the derivative of a function of one number.

    The cotangent and the tangent are 2 and 4: powers of two keep the expectation exact, and a
    rule that forgets to multiply shows.
    """
    return Point(
        arrays=([x],),
        params=params,
        value=[value],
        cotangent=[2.0],
        gradients=([2.0 * slope],),
        tangents=([4.0],),
        derivative=[4.0 * slope],
        float64_only=float64_only,
        why=why,
    )


def undefined_slice(x: list[float], value: Nested, why: str, **params: Any) -> Point:
    """State that the whole gradient of a slice is NaN, and its derivative with it.

    The derivative has the value's shape: one number, or one for each entry.
    """
    return Point(
        arrays=(x,),
        params=params,
        value=value,
        gradients=([NAN] * len(x),),
        tangents=([1.0] * len(x),),
        derivative=[NAN] * len(value) if isinstance(value, list) else NAN,
        why=why,
    )


def no_examples(
    empty: tuple[Nested, ...], gradients: tuple[Nested, ...]
) -> tuple[Point, Point, Point]:
    """State what a loss of no examples is under each reduction."""

    def point(reduction: str, value: Nested) -> Point:
        return Point(
            arrays=empty,
            params={"reduction": reduction},
            value=value,
            gradients=gradients,
            why=f"the {reduction}-reduced loss of no examples",
        )

    return point("none", []), point("sum", 0.0), point("mean", NAN)


NO_ROWS = np.zeros((0, 3))
NO_LABELS = np.zeros((0,), dtype=np.int64)
NO_DENSE_EXAMPLES = no_examples((NO_ROWS, NO_ROWS), (NO_ROWS, NO_ROWS))
NO_LABELLED_EXAMPLES = no_examples((NO_ROWS, NO_LABELS), (NO_ROWS, None))
NO_ELEMENTS = no_examples(([], []), ([], []))

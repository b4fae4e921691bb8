"""Rows of the cross-entropies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mpmath
import numpy as np

from opsgrad.conformance.row import Arrays, Nested, Point, Row
from opsgrad.conformance.table import softmax as family
from opsgrad.conformance.table._points import (
    EXP_MINUS_40,
    INF,
    LOG2,
    NAN,
    NO_DENSE_EXAMPLES,
    NO_LABELLED_EXAMPLES,
)
from opsgrad.conformance.table._sampling import (
    Shape,
    labels,
    normal,
    positive,
    probabilities,
)


def cross_entropy(probs: list[Any], targets: list[Any]) -> Any:
    """Return -sum t_i log p_i."""
    return -mpmath.fsum(t * mpmath.log(p) for p, t in zip(probs, targets, strict=True))


def log_cross_entropy(log_probs: list[Any], targets: list[Any]) -> Any:
    """Return -sum t_i z_i."""
    return -mpmath.fdot(targets, log_probs)


def nll_loss(log_probs: list[Any], label: int) -> Any:
    """Return -z_label."""
    return -log_probs[label]


def softmax_cross_entropy(logits: list[Any], targets: list[Any]) -> Any:
    """Return the cross-entropy of the softmax."""
    return cross_entropy(family.softmax(logits), targets)


def softmax_cross_entropy_with_integer_labels(logits: list[Any], label: int) -> Any:
    """Return log sum e^x_j - x_label."""
    return family.logsumexp(logits) - logits[label]


def term_magnitudes(entries: list[Any], targets: list[Any]) -> Any:
    """Return the sum of |t_i z_i|."""
    return mpmath.fsum(abs(t * z) for z, t in zip(entries, targets, strict=True))


def cross_entropy_scale(probs: list[Any], targets: list[Any]) -> Any:
    """Return the sum of |t_i log p_i|."""
    return term_magnitudes([mpmath.log(p) for p in probs], targets)


def softmax_cross_entropy_scale(logits: list[Any], targets: list[Any]) -> Any:
    """Return the sum of the magnitudes of the terms."""
    return term_magnitudes(family.log_softmax(logits), targets)


def softmax_cross_entropy_gradient_scale(
    logits: list[Any], targets: list[Any], *, cotangent: Any
) -> tuple[list[Any], list[Any]]:
    """Return y_i sum |t_j| + |t_i| and |log y_i|, times the cotangent."""
    by_logits, by_targets = _softmax_cross_entropy_terms(logits, targets)
    return (
        [abs(cotangent) * term for term in by_logits],
        [abs(cotangent) * term for term in by_targets],
    )


def softmax_cross_entropy_derivative_scale(
    logits: list[Any], targets: list[Any], *, tangents: list[list[Any]]
) -> Any:
    """Return the pullback's scale contracted with the tangents' magnitudes."""
    terms = _softmax_cross_entropy_terms(logits, targets)
    return mpmath.fsum(map(term_magnitudes, terms, tangents))


def sample_cross_entropy(rng: np.random.Generator, shape: Shape, axis: int) -> Arrays:
    """Sample probabilities and positive targets."""
    return probabilities(rng, shape, axis), positive(rng, shape)


def sample_log_cross_entropy(rng: np.random.Generator, shape: Shape, axis: int) -> Arrays:
    """Sample log-probabilities and positive targets."""
    return np.log(probabilities(rng, shape, axis)), positive(rng, shape)


def sample_nll(rng: np.random.Generator, shape: Shape, axis: int) -> Arrays:
    """Sample log-probabilities and labels."""
    return np.log(probabilities(rng, shape, axis)), labels(rng, shape, axis)


def sample_logits_and_targets(rng: np.random.Generator, shape: Shape, axis: int) -> Arrays:
    """Sample logits and positive targets, which need not sum to one."""
    return normal(rng, shape), positive(rng, shape)


def sample_logits_and_labels(rng: np.random.Generator, shape: Shape, axis: int) -> Arrays:
    """Sample logits and labels."""
    return normal(rng, shape), labels(rng, shape, axis)


def _softmax_cross_entropy_terms(
    logits: list[Any], targets: list[Any]
) -> tuple[list[Any], list[Any]]:
    total = mpmath.fsum(targets, absolute=True)
    y = family.softmax(logits)
    by_logits = [entry * total + abs(t) for entry, t in zip(y, targets, strict=True)]
    return by_logits, [abs(entry) for entry in family.log_softmax(logits)]


def _no_classes(name: str) -> Point:
    return Point(
        arrays=([[], []], [[], []]),
        value=[0.0, 0.0],
        gradients=([[], []], [[], []]),
        why=f"{name} over no classes is an empty sum",
    )


CROSS_ENTROPY = Row(
    name="cross_entropy",
    unit="slice",
    arguments=("probs", "targets"),
    oracle=cross_entropy,
    sample=sample_cross_entropy,
    has_axis=True,
    has_reduction=True,
    # A logarithm, a product, a sum; and a logarithm or a quotient times the cotangent.
    value_ulp=4.0,
    gradient_ulp=2.0,
    derivative_ulp=4.0,
    value_scale=cross_entropy_scale,
    specials=(
        Point(
            arrays=([0.5, 0.25, 0.25], [0.0, 1.0, 0.0]),
            value=2 * LOG2,
            cotangent=2.0,
            gradients=([0.0, -8.0, 0.0], [2 * LOG2, 4 * LOG2, 4 * LOG2]),
            tangents=([1.0, 1.0, 1.0], [0.0, 0.0, 1.0]),
            derivative=-4.0 + 2 * LOG2,
            why="the derivatives are -t/p and -log p",
        ),
        Point(
            arrays=([0.0, 1.0], [0.0, 1.0]),
            value=0.0,
            gradients=([0.0, -1.0], [INF, 0.0]),
            tangents=([1.0, 0.0], [0.0, 1.0]),
            derivative=0.0,
            why="p = 0 with t = 0 contributes 0, to the value and to the gradient",
        ),
        Point(
            arrays=([0.0, 1.0], [0.0, 1.0]),
            value=0.0,
            tangents=([0.0, 0.0], [1.0, 0.0]),
            derivative=INF,
            why="p = 0 with t = 0: the derivative by t is -log 0",
        ),
        Point(
            arrays=([0.0, 1.0], [0.5, 0.5]),
            value=INF,
            gradients=([-INF, -0.5], [INF, 0.0]),
            tangents=([0.0, 1.0], [0.0, 0.0]),
            derivative=-0.5,
            why="p = 0 with t > 0: +inf, derivative -inf; a zero tangent there contributes 0",
        ),
        Point(
            arrays=([0.0, 1.0], [0.5, 0.5]),
            value=INF,
            cotangent=0.0,
            gradients=([0.0, 0.0], [0.0, 0.0]),
            tangents=([1.0, 0.0], [0.0, 0.0]),
            derivative=-INF,
            why="p = 0 with t > 0: a zero cotangent contributes 0",
        ),
        Point(
            arrays=([[0.0, 1.0], [0.5, 0.5]], [[0.5, 0.5], [1.0, 0.0]]),
            value=[INF, LOG2],
            cotangent=[0.0, 1.0],
            gradients=([[0.0, 0.0], [-2.0, 0.0]], [[0.0, 0.0], [LOG2, LOG2]]),
            why="an infinite row with a zero cotangent leaves its neighbour alone",
        ),
        Point(
            arrays=([[0.0, 1.0], [0.5, 0.5]], [[0.5, 0.5], [1.0, 0.0]]),
            params={"reduction": "sum"},
            value=INF,
            gradients=([[-INF, -0.5], [-2.0, 0.0]], [[INF, 0.0], [LOG2, LOG2]]),
            why="an infinite row makes the sum infinite, and no other row's gradient",
        ),
        Point(
            arrays=([NAN, 0.5], [0.5, 0.5]),
            value=NAN,
            gradients=([NAN, -1.0], [NAN, LOG2]),
            why="cross_entropy with NaN is NaN",
        ),
        Point(
            arrays=([NAN, 0.5], [0.0, 1.0]),
            value=NAN,
            gradients=([NAN, -2.0], [NAN, LOG2]),
            tangents=([1.0, 0.0], [0.0, 0.0]),
            derivative=NAN,
            why="a NaN probability counts beside a target of 0 too",
        ),
        Point(
            arrays=([1e-30, 1.0], [1.0, 0.0]),
            value=69.07755278982137,
            gradients=([-1e30, 0.0], [69.07755278982137, 0.0]),
            why="the gradient by a probability grows without bound",
        ),
        Point(
            arrays=([[0.5, 0.5], [0.25, 0.75]], [[1.0, 0.0], [1.0, 0.0]]),
            params={"reduction": "mean"},
            value=1.5 * LOG2,
            cotangent=2.0,
            gradients=([[-2.0, 0.0], [-4.0, 0.0]], None),
            why="the mean over two examples halves the gradient",
        ),
        Point(arrays=([], []), value=0.0, gradients=([], []), why="an empty sum is 0"),
        _no_classes("cross_entropy"),
        *NO_DENSE_EXAMPLES,
    ),
)

LOG_CROSS_ENTROPY = Row(
    name="log_cross_entropy",
    unit="slice",
    arguments=("log_probs", "targets"),
    oracle=log_cross_entropy,
    sample=sample_log_cross_entropy,
    has_axis=True,
    has_reduction=True,
    # A product and a sum; a product.
    value_ulp=4.0,
    gradient_ulp=1.0,
    derivative_ulp=4.0,
    value_scale=term_magnitudes,
    specials=(
        Point(
            arrays=([-1.0, -2.0, -0.5], [0.0, 1.0, 2.0]),
            value=3.0,
            cotangent=2.0,
            gradients=([0.0, -2.0, -4.0], [2.0, 4.0, 1.0]),
            tangents=([1.0, 1.0, 1.0], [0.0, 0.0, 1.0]),
            derivative=-2.5,
            why="the derivatives are -t and -z",
        ),
        Point(
            arrays=([-INF, 0.0], [0.0, 1.0]),
            value=0.0,
            gradients=([0.0, -1.0], [INF, 0.0]),
            tangents=([1.0, 0.0], [0.0, 1.0]),
            derivative=0.0,
            why="z = -inf with t = 0 contributes 0, to the value and to the gradient",
        ),
        Point(
            arrays=([-INF, 0.0], [0.0, 1.0]),
            value=0.0,
            tangents=([0.0, 0.0], [1.0, 0.0]),
            derivative=INF,
            why="z = -inf with t = 0: the derivative by t is +inf",
        ),
        Point(
            arrays=([-INF, -1.0], [0.5, 0.5]),
            value=INF,
            gradients=([-0.5, -0.5], [INF, 1.0]),
            tangents=([1.0, 0.0], [0.0, 0.0]),
            derivative=-0.5,
            why="z = -inf with t > 0: +inf, and the gradient is still -t",
        ),
        Point(
            arrays=([-INF, -1.0], [0.5, 0.5]),
            value=INF,
            cotangent=0.0,
            gradients=([0.0, 0.0], [0.0, 0.0]),
            why="z = -inf: a zero cotangent contributes 0",
        ),
        Point(
            arrays=([NAN, -1.0], [0.5, 0.5]),
            value=NAN,
            gradients=([-0.5, -0.5], [NAN, 1.0]),
            why="log_cross_entropy with NaN is NaN",
        ),
        Point(
            arrays=([NAN, -1.0], [0.0, 1.0]),
            value=NAN,
            gradients=([0.0, -1.0], [NAN, 1.0]),
            why="a NaN log-probability counts beside a target of 0 too",
        ),
        Point(
            arrays=([[-1.0, -2.0], [-3.0, -4.0]], [[1.0, 0.0], [0.5, 0.5]]),
            params={"reduction": "mean"},
            value=2.25,
            cotangent=2.0,
            gradients=([[-1.0, 0.0], [-0.5, -0.5]], [[1.0, 2.0], [3.0, 4.0]]),
            why="the mean over two examples halves the gradient",
        ),
        Point(arrays=([], []), value=0.0, gradients=([], []), why="an empty sum is 0"),
        _no_classes("log_cross_entropy"),
        *NO_DENSE_EXAMPLES,
    ),
)

NLL_LOSS = Row(
    name="nll_loss",
    unit="slice",
    arguments=("log_probs", "labels"),
    oracle=nll_loss,
    sample=sample_nll,
    has_axis=True,
    has_reduction=True,
    value_ulp=0.5,
    gradient_ulp=0.5,
    specials=(
        Point(
            arrays=([-1.0, -2.0, -3.0], 1),
            value=2.0,
            cotangent=3.0,
            gradients=([0.0, -3.0, 0.0], None),
            tangents=([5.0, 7.0, 11.0], None),
            derivative=-7.0,
            why="the gradient is minus one at the label",
        ),
        Point(
            arrays=([0.0, -INF], 1),
            value=INF,
            cotangent=2.0,
            gradients=([0.0, -2.0], None),
            tangents=([5.0, 7.0], None),
            derivative=-7.0,
            why="a label with log-probability -inf costs +inf, its gradient stays minus one",
        ),
        Point(
            arrays=([0.0, -INF, NAN], 0),
            value=0.0,
            cotangent=2.0,
            gradients=([-2.0, 0.0, 0.0], None),
            tangents=([5.0, 7.0, 11.0], None),
            derivative=-5.0,
            why="only the label's entry is looked at",
        ),
        Point(
            arrays=([0.0, NAN], 1),
            value=NAN,
            gradients=([0.0, -1.0], None),
            why="nll_loss of a NaN label entry is NaN",
        ),
        Point(
            arrays=([[-1.0, -2.0], [-3.0, -4.0]], [1, 0]),
            params={"reduction": "mean"},
            value=2.5,
            cotangent=2.0,
            gradients=([[0.0, -1.0], [-1.0, 0.0]], None),
            tangents=([[1.0, 3.0], [5.0, 7.0]], None),
            derivative=-4.0,
            why="the mean over two examples halves the gradient",
        ),
        Point(
            arrays=([[-1.0, -2.0], [-3.0, -4.0]], [1, 0]),
            params={"axis": 0},
            value=[3.0, 2.0],
            cotangent=[1.0, 2.0],
            gradients=([[0.0, -2.0], [-1.0, 0.0]], None),
            why="labels index the given axis",
        ),
        *NO_LABELLED_EXAMPLES,
    ),
)


def _undefined_logits(second: Nested, by_second: Nested) -> tuple[Point, ...]:
    """State the logits for which loss and gradient are NaN."""
    slices: Mapping[str, list[float]] = {
        "a slice of -inf": [-INF, -INF],
        "+inf": [INF, 0.0],
        "+inf at another entry": [0.0, INF],
        "NaN": [NAN, 0.0],
        "NaN at another entry": [0.0, NAN],
    }
    tangent = None if isinstance(second, int) else [0.0, 0.0]
    return tuple(
        Point(
            arrays=(logits, second),
            value=NAN,
            gradients=([NAN, NAN], by_second),
            tangents=([1.0, 1.0], tangent),
            derivative=NAN,
            why=f"the loss of logits with {what} is NaN, and so is its gradient",
        )
        for what, logits in slices.items()
    )


SOFTMAX_CROSS_ENTROPY = Row(
    name="softmax_cross_entropy",
    unit="slice",
    arguments=("logits", "targets"),
    oracle=softmax_cross_entropy,
    sample=sample_logits_and_targets,
    has_axis=True,
    has_reduction=True,
    # log_softmax's four, a product and a sum; the softmax's five, a sum, a product, a difference.
    value_ulp=6.0,
    gradient_ulp=8.0,
    value_scale=softmax_cross_entropy_scale,
    gradient_scale=softmax_cross_entropy_gradient_scale,
    derivative_scale=softmax_cross_entropy_derivative_scale,
    kinks=(
        Point(
            arrays=([0.0, 0.0], [2.0, 1.0]),
            value=3 * LOG2,
            cotangent=2.0,
            gradients=([-1.0, 1.0], [2 * LOG2, 2 * LOG2]),
            tangents=([4.0, 0.0], [0.0, 0.0]),
            derivative=-2.0,
            why="the gradient is y sum t - t, also where t does not sum to 1",
        ),
    ),
    specials=(
        *_undefined_logits([0.5, 0.5], [NAN, NAN]),
        Point(
            arrays=([-INF, 0.0, 0.0], [0.0, 1.0, 0.0]),
            value=LOG2,
            gradients=([0.0, -0.5, 0.5], [INF, LOG2, LOG2]),
            tangents=([5.0, 1.0, 0.0], [0.0, 1.0, 0.0]),
            derivative=LOG2 - 0.5,
            why="a logit -inf with target 0 contributes 0",
        ),
        Point(
            arrays=([-INF, 0.0, 0.0], [0.0, 1.0, 0.0]),
            value=LOG2,
            cotangent=0.0,
            gradients=([0.0, 0.0, 0.0], [0.0, 0.0, 0.0]),
            tangents=([0.0, 0.0, 0.0], [1.0, 0.0, 0.0]),
            derivative=INF,
            why="a logit -inf with target 0: by the target +inf; a zero cotangent gives 0",
        ),
        Point(
            arrays=([-INF, 0.0], [0.5, 0.5]),
            value=INF,
            cotangent=2.0,
            gradients=([-1.0, 1.0], [INF, 0.0]),
            tangents=([1.0, 0.0], [0.0, 0.0]),
            derivative=-0.5,
            why="a logit -inf with a positive target: +inf, gradient y sum t - t",
        ),
        Point(
            arrays=([0.0, 0.0], [NAN, 1.0]),
            value=NAN,
            gradients=([NAN, NAN], [LOG2, LOG2]),
            why="a NaN target makes the loss and the gradient by the logits NaN",
        ),
        Point(
            arrays=([[0.0, 0.0], [NAN, 0.0], [-INF, -INF]], [[1.0, 0.0]] * 3),
            value=[LOG2, NAN, NAN],
            cotangent=[2.0, 2.0, 2.0],
            gradients=(
                [[-1.0, 1.0], [NAN, NAN], [NAN, NAN]],
                [[2 * LOG2, 2 * LOG2], [NAN, NAN], [NAN, NAN]],
            ),
            why="a NaN slice leaves its neighbours alone",
        ),
        Point(
            arrays=([40.0, 0.0], [1.0, 0.0]),
            value=EXP_MINUS_40,
            gradients=([-EXP_MINUS_40, EXP_MINUS_40], [EXP_MINUS_40, 40.0]),
            tangents=([1.0, 0.0], [0.0, 0.0]),
            derivative=-EXP_MINUS_40,
            why="loss and gradient keep their digits where the prediction is right",
        ),
        Point(
            arrays=([[40.0, 0.0], [40.0, 0.0]], [[1.0, 0.0], [2.0, 0.0]]),
            value=[EXP_MINUS_40, 2 * EXP_MINUS_40],
            gradients=(
                [[-EXP_MINUS_40, EXP_MINUS_40], [-2 * EXP_MINUS_40, 2 * EXP_MINUS_40]],
                [[EXP_MINUS_40, 40.0]] * 2,
            ),
            tangents=([[1.0, 0.0], [0.0, 1.0]], [[0.0, 0.0]] * 2),
            derivative=[-EXP_MINUS_40, 2 * EXP_MINUS_40],
            why="the gradient keeps its digits, whatever the sum of the neighbour's targets",
        ),
        Point(
            arrays=([1e38, -1e38], [0.0, 1.0]),
            value=2e38,
            gradients=([1.0, -1.0], [0.0, 2e38]),
            why="the loss of large logits is their difference",
        ),
        Point(
            arrays=([5.0], [2.0]),
            value=0.0,
            gradients=([0.0], [0.0]),
            tangents=([1.0], [1.0]),
            derivative=0.0,
            why="a single class costs nothing",
        ),
        Point(
            arrays=([[0.0, 0.0], [0.0, 0.0]], [[1.0, 0.0], [0.0, 2.0]]),
            params={"reduction": "mean"},
            value=1.5 * LOG2,
            cotangent=2.0,
            gradients=([[-0.5, 0.5], [1.0, -1.0]], [[LOG2, LOG2], [LOG2, LOG2]]),
            why="the mean over two examples halves the gradient",
        ),
        Point(arrays=([], []), value=0.0, gradients=([], []), why="an empty sum is 0"),
        _no_classes("softmax_cross_entropy"),
        *NO_DENSE_EXAMPLES,
    ),
)

SOFTMAX_CROSS_ENTROPY_WITH_INTEGER_LABELS = Row(
    name="softmax_cross_entropy_with_integer_labels",
    unit="slice",
    arguments=("logits", "labels"),
    oracle=softmax_cross_entropy_with_integer_labels,
    sample=sample_logits_and_labels,
    has_axis=True,
    has_reduction=True,
    value_ulp=4.0,
    gradient_ulp=5.0,
    kinks=(
        Point(
            arrays=([0.0, 0.0], 1),
            value=LOG2,
            cotangent=2.0,
            gradients=([1.0, -1.0], None),
            tangents=([4.0, 0.0], None),
            derivative=2.0,
            why="the gradient is the softmax minus one at the label",
        ),
    ),
    specials=(
        *_undefined_logits(0, None),
        *_undefined_logits(1, None),
        Point(
            arrays=([-INF, 0.0, 0.0], 1),
            value=LOG2,
            gradients=([0.0, -0.5, 0.5], None),
            tangents=([5.0, 1.0, 0.0], None),
            derivative=-0.5,
            why="a logit -inf off the label has gradient 0",
        ),
        Point(
            arrays=([0.0, -INF], 0),
            value=0.0,
            cotangent=2.0,
            gradients=([0.0, 0.0], None),
            tangents=([5.0, 1.0], None),
            derivative=0.0,
            why="the label's is the only finite logit",
        ),
        Point(
            arrays=([0.0, 0.0, -INF], 2),
            value=INF,
            cotangent=2.0,
            gradients=([1.0, 1.0, -2.0], None),
            tangents=([1.0, 3.0, 5.0], None),
            derivative=-3.0,
            why="a label with logit -inf costs +inf, its gradient is softmax minus one-hot",
        ),
        Point(
            arrays=([40.0, 0.0], 0),
            value=EXP_MINUS_40,
            gradients=([-EXP_MINUS_40, EXP_MINUS_40], None),
            tangents=([1.0, 0.0], None),
            derivative=-EXP_MINUS_40,
            why="loss and gradient keep their digits where the prediction is right",
        ),
        Point(
            arrays=([40.0, 0.0], 1),
            value=40.0,
            gradients=([1.0, -1.0], None),
            why="the gradient is bounded where the prediction is wrong",
        ),
        Point(
            arrays=([5.0], 0),
            value=0.0,
            cotangent=2.0,
            gradients=([0.0], None),
            tangents=([1.0], None),
            derivative=0.0,
            why="a single class costs nothing",
        ),
        Point(
            arrays=([1e38, -1e38], 1),
            value=2e38,
            gradients=([1.0, -1.0], None),
            tangents=([1.0, 0.0], None),
            derivative=1.0,
            why="the loss of large logits is their difference",
        ),
        Point(
            arrays=([[0.0, 0.0], [NAN, 0.0], [-INF, -INF]], [0, 1, 0]),
            params={"reduction": "sum"},
            value=NAN,
            cotangent=2.0,
            gradients=([[-1.0, 1.0], [NAN, NAN], [NAN, NAN]], None),
            why="a NaN slice leaves its neighbours' gradients alone, under a sum too",
        ),
        Point(
            arrays=([[0.0, 0.0], [0.0, -INF]], [0, 1]),
            params={"reduction": "mean"},
            value=INF,
            cotangent=2.0,
            gradients=([[-0.5, 0.5], [1.0, -1.0]], None),
            why="an infinite example keeps a finite gradient under a mean",
        ),
        Point(
            arrays=([[0.0, 0.0, 0.0], [0.0, 0.0, -INF]], [1, 0, 0]),
            params={"axis": 0},
            value=[LOG2, LOG2, 0.0],
            cotangent=[2.0, 4.0, 8.0],
            gradients=([[1.0, -2.0, 0.0], [-1.0, 2.0, 0.0]], None),
            why="labels index the given axis",
        ),
        *NO_LABELLED_EXAMPLES,
    ),
)

ROWS = (
    CROSS_ENTROPY,
    LOG_CROSS_ENTROPY,
    NLL_LOSS,
    SOFTMAX_CROSS_ENTROPY,
    SOFTMAX_CROSS_ENTROPY_WITH_INTEGER_LABELS,
)

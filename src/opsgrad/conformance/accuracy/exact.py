"""Values and derivatives of the ops for whole arrays at once, in extended precision.

`opsgrad.conformance.reference` is exact but takes one unit at a time. Here the stable formulas are
evaluated in ``numpy.longdouble``: 2,048 times finer than float64 where that has 64 bits. Whoever
uses a function from here holds it to the reference first, with `check_against_reference`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import mpmath
import numpy as np
import numpy.typing as npt

from opsgrad.conformance import reference
from opsgrad.conformance.checks import direction
from opsgrad.conformance.row import Row

Wide: TypeAlias = npt.NDArray[np.longdouble]
Parts: TypeAlias = "tuple[Measured | None, ...]"

AGREEMENT = 0.05
"""By how many units in the last place the two oracles may differ."""

MADE_OF_SUBNORMAL = 2.0**6
"""A result below this many times the smallest normal number may be a multiple of a subnormal one,
and does not count."""
SUM_OF_FLUSHED = 2.0**12
"""An error below this many times the smallest normal number does not count where subnormal numbers
are flushed to zero: as many as a long row has may have gone into it."""


@dataclass(frozen=True)
class Measured:
    """Exact numbers, and the magnitudes that their errors are counted in."""

    number: Wide
    scale: Wide


@dataclass(frozen=True)
class Exact:
    """An op at given arguments."""

    value: Measured
    vjp: Callable[[Wide], Parts]
    jvp: Callable[[Sequence[Wide | None]], Measured]


def wide(array: npt.ArrayLike) -> Wide:
    """Return an array in extended precision."""
    return np.asarray(array, dtype=np.longdouble)


def exact(row: Row, arrays: Sequence[npt.NDArray[Any]], params: Mapping[str, Any]) -> Exact:
    """Return a row's op at `arrays` (rows along the last axis), its parameters rounded to them."""
    dtype = arrays[0].dtype
    rounded = {k: v if isinstance(v, str) else wide(dtype.type(v)) for k, v in params.items()}
    widened = [a if a.dtype.kind in "iu" else wide(a) for a in arrays]
    with np.errstate(all="ignore"):
        return FORMULAS[row.name](*widened, **rounded)


def plain(number: Wide) -> Measured:
    """Return numbers that are counted in their own magnitude."""
    return Measured(number, np.abs(number))


def from_slopes(value: Measured, *slopes: Measured | None, rows: bool = False) -> Exact:
    """Return an op that has one slope for each entry of each argument.

    With `rows`, each row of the arguments gives one number.
    """

    def vjp(g: Wide) -> Parts:
        g = g[..., None] if rows else g
        return tuple(
            None if s is None else Measured(g * s.number, np.abs(g) * s.scale) for s in slopes
        )

    def jvp(tangents: Sequence[Wide | None]) -> Measured:
        number, scale = wide(0), wide(0)
        for slope, t in zip(slopes, tangents, strict=True):
            if slope is not None and t is not None:
                number = number + slope.number * t
                scale = scale + slope.scale * np.abs(t)
        if rows:
            return Measured(np.sum(number, axis=-1), np.sum(scale, axis=-1))
        return Measured(number, scale)

    return Exact(value, vjp, jvp)


def errors(
    got: npt.NDArray[Any], right: Measured, *, flushes: bool = False, of_scale: bool = False
) -> npt.NDArray[np.float64]:
    """Return the error of each entry in units in the last place, as `checks.errors_in_ulp` does.

    With `of_scale` the unit is the machine epsilon times the scale instead, up to twice as large.
    Entries are passed over (0) that overflow, or that subnormal numbers may have gone into.
    """
    info = np.finfo(got.dtype)
    size = np.maximum(np.abs(right.number), right.scale)
    with np.errstate(all="ignore"):
        error = np.abs(wide(got) - right.number)
        unit = _last_place(size, info)
        if of_scale:
            unit = np.maximum(unit, size * wide(info.eps))
        units = np.where(np.isfinite(error), error / unit, np.inf)
        tiny = wide(info.tiny)
        aside = (size < MADE_OF_SUBNORMAL * tiny) | (np.abs(right.number) > 0.5 * wide(info.max))
        if flushes:
            aside |= error <= SUM_OF_FLUSHED * tiny
        aside &= ~np.isnan(got)
    return np.where(aside, 0.0, units).astype(np.float64)


def _last_place(size: Wide, info: Any) -> Wide:
    binade = np.maximum(np.frexp(size)[1], int(info.minexp) + 1)
    return wide(np.ldexp(wide(1.0), binade - 1 - int(info.nmant)))


def _sigmoid_of(x: Wide) -> Wide:
    z = np.exp(-np.abs(x))
    return wide(np.where(x >= 0, wide(1.0), z) / (1 + z))


def _sigmoid(x: Wide) -> Exact:
    z = np.exp(-np.abs(x))
    return from_slopes(plain(_sigmoid_of(x)), plain(z / (1 + z) ** 2))


def _tanh(x: Wide) -> Exact:
    w = np.exp(-2 * np.abs(x))
    return from_slopes(plain(np.tanh(x)), plain(4 * w / (1 + w) ** 2))


def _relu(x: Wide) -> Exact:
    return from_slopes(plain(np.maximum(x, 0)), plain(wide(x > 0)))


def _leaky_relu(x: Wide, negative_slope: Wide) -> Exact:
    slope = np.where(x > 0, wide(1.0), negative_slope)
    return from_slopes(plain(slope * x), plain(slope))


def _prelu(x: Wide, alpha: Wide) -> Exact:
    slope = np.where(x > 0, wide(1.0), alpha)
    return from_slopes(plain(slope * x), plain(slope), plain(np.minimum(x, 0)))


def _softplus(x: Wide) -> Exact:
    value = np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))
    return from_slopes(plain(value), plain(_sigmoid_of(x)))


def _log_sigmoid(x: Wide) -> Exact:
    value = np.minimum(x, 0) - np.log1p(np.exp(-np.abs(x)))
    return from_slopes(plain(value), plain(_sigmoid_of(-x)))


def _sign(x: Wide) -> Exact:
    return from_slopes(plain(np.sign(x)), plain(0 * x))


def _abs(x: Wide) -> Exact:
    return from_slopes(plain(np.abs(x)), plain(np.sign(x)))


@dataclass(frozen=True)
class _Softmax:
    """The softmax of rows, and the logarithm of it."""

    terms: Wide
    total: Wide
    log_total: Wide
    top: Wide
    logs: Wide

    @property
    def y(self) -> Wide:
        return self.terms / self.total


def _softmax_parts(x: Wide) -> _Softmax:
    top = np.max(x, axis=-1, keepdims=True)
    shift = x - top
    back = shift - x
    error = (x - (shift - back)) - (top + back)
    terms = np.exp(shift) * (1 + error)
    below = x < top
    others = np.sum(np.where(below, terms, 0), axis=-1, keepdims=True)
    ties = np.sum(wide(~below), axis=-1, keepdims=True)
    log_total = np.log1p(ties - 1 + others)
    return _Softmax(terms, ties + others, log_total, top, shift - (log_total - error))


def _spread(y: Wide, g: Wide) -> Wide:
    """Return sum_j y_j |g_i - g_j|, which scales need only a few digits of."""
    weights, entries = y.astype(np.float64), g.astype(np.float64)
    return wide(
        [np.abs(b[:, None] - b[None, :]) @ a for a, b in zip(weights, entries, strict=True)]
    )


def _centred(y: Wide, g: Wide) -> Wide:
    """Return g_i - sum_j y_j g_j, for y that sum to 1."""
    g = g - np.take_along_axis(g, np.argmax(y, axis=-1, keepdims=True), axis=-1)
    h = g - np.sum(y * g, axis=-1, keepdims=True)
    return wide(h - np.sum(y * h, axis=-1, keepdims=True))


def _softmax(x: Wide) -> Exact:
    y = _softmax_parts(x).y

    def pull(g: Wide) -> Measured:
        return Measured(y * _centred(y, g), y * _spread(y, g))

    return Exact(plain(y), lambda g: (pull(g),), lambda tangents: pull(_only(tangents)))


def _only(tangents: Sequence[Wide | None]) -> Wide:
    (tangent,) = tangents
    assert tangent is not None
    return tangent


def _log_softmax(x: Wide) -> Exact:
    parts = _softmax_parts(x)
    y = parts.y

    def vjp(g: Wide) -> Parts:
        total = np.sum(g, axis=-1, keepdims=True)
        most = np.sum(np.abs(g), axis=-1, keepdims=True)
        return (Measured(g - y * total, np.abs(g) + y * most),)

    def jvp(tangents: Sequence[Wide | None]) -> Measured:
        t = _only(tangents)
        scale = np.abs(t) + np.sum(y * np.abs(t), axis=-1, keepdims=True)
        return Measured(_centred(y, t), scale)

    return Exact(plain(parts.logs), vjp, jvp)


def _logsumexp(x: Wide) -> Exact:
    parts = _softmax_parts(x)
    value = (parts.top + parts.log_total)[..., 0]
    scale = np.maximum(np.abs(value), np.maximum(np.abs(parts.top), parts.log_total)[..., 0])
    return from_slopes(Measured(value, scale), plain(parts.y), rows=True)


def _relumax(x: Wide, b: Wide) -> Exact:
    top = np.max(x, axis=-1, keepdims=True)
    shift = x - top
    back = shift - x
    margin = (shift + b) + ((x - (shift - back)) - (top + back))
    active = wide(margin > 0)
    total = np.sum(margin * active, axis=-1, keepdims=True)
    y = margin * active / total
    share = wide(x == top) / np.sum(wide(x == top), axis=-1, keepdims=True)

    def vjp(g: Wide) -> Parts:
        h = active * _centred(y, g)
        spread = active * _spread(active, g)
        most = np.sum(spread, axis=-1, keepdims=True)
        number = (h - share * np.sum(h, axis=-1, keepdims=True)) / total
        return (Measured(number, (spread + share * most) * b / total**2),)

    def jvp(tangents: Sequence[Wide | None]) -> Measured:
        moved = active * _centred(share, _only(tangents))
        most = np.sum(np.abs(moved), axis=-1, keepdims=True)
        number = (moved - y * np.sum(moved, axis=-1, keepdims=True)) / total
        return Measured(number, (np.abs(moved) + active * most * b / total) / total)

    return Exact(plain(y), vjp, jvp)


def _lp_norm(x: Wide, p: Wide) -> Exact:
    size = np.abs(x)
    top = np.max(size, axis=-1, keepdims=True)
    if np.isinf(p):
        tied = wide(size == top)
        slope = np.sign(x) * tied / np.sum(tied, axis=-1, keepdims=True)
        return from_slopes(plain(top[..., 0]), plain(slope), rows=True)
    ratio = size / top
    total = np.sum(ratio**p, axis=-1, keepdims=True)
    root = total ** (1 / p)
    slope = np.sign(x) * ratio ** (p - 1) * (root / total)
    return from_slopes(plain((top * root)[..., 0]), plain(slope), rows=True)


def _squared_l2_norm(x: Wide) -> Exact:
    return from_slopes(plain(np.sum(x**2, axis=-1)), plain(2 * x), rows=True)


def _weighted_sum(weights: Wide, entries: Wide) -> Measured:
    """Return -sum_i t_i z_i and the sum of the magnitudes."""
    terms = weights * entries
    return Measured(-np.sum(terms, axis=-1), np.sum(np.abs(terms), axis=-1))


def _cross_entropy(probs: Wide, targets: Wide) -> Exact:
    logs = np.log(probs)
    return from_slopes(
        _weighted_sum(targets, logs), plain(-targets / probs), plain(-logs), rows=True
    )


def _log_cross_entropy(log_probs: Wide, targets: Wide) -> Exact:
    value = _weighted_sum(targets, log_probs)
    return from_slopes(value, plain(-targets), plain(-log_probs), rows=True)


def _at_label(labels: npt.NDArray[Any], x: Wide) -> npt.NDArray[np.bool_]:
    return np.asarray(np.arange(x.shape[-1]) == labels[..., None])


def _nll_loss(log_probs: Wide, labels: npt.NDArray[Any]) -> Exact:
    mask = _at_label(labels, log_probs)
    value = -np.sum(np.where(mask, log_probs, 0), axis=-1)
    return from_slopes(plain(value), plain(-wide(mask)), None, rows=True)


def _softmax_cross_entropy(logits: Wide, targets: Wide) -> Exact:
    parts = _softmax_parts(logits)
    total = np.sum(targets, axis=-1, keepdims=True)
    most = np.sum(np.abs(targets), axis=-1, keepdims=True)
    by_logits = Measured(parts.y * total - targets, parts.y * most + np.abs(targets))
    value = _weighted_sum(targets, parts.logs)
    return from_slopes(value, by_logits, plain(-parts.logs), rows=True)


def _label_cross_entropy(logits: Wide, labels: npt.NDArray[Any]) -> Exact:
    parts = _softmax_parts(logits)
    mask = _at_label(labels, logits)
    rest = np.sum(np.where(mask, 0, parts.terms), axis=-1, keepdims=True) / parts.total
    value = -np.sum(np.where(mask, parts.logs, 0), axis=-1)
    return from_slopes(plain(value), plain(np.where(mask, -rest, parts.y)), None, rows=True)


def _squared_error(pred: Wide, target: Wide) -> Exact:
    gap = pred - target
    return from_slopes(plain(gap**2), plain(2 * gap), plain(-2 * gap))


def _l2_loss(pred: Wide, target: Wide) -> Exact:
    gap = pred - target
    return from_slopes(plain(wide(gap**2 / 2)), plain(gap), plain(-gap))


def _hinge_loss(scores: Wide, targets: Wide, margin: Wide) -> Exact:
    missing = margin - targets * scores
    active = missing > 0
    value = Measured(np.maximum(missing, 0), margin + np.abs(targets * scores))
    by_scores, by_targets = np.where(active, -targets, 0), np.where(active, -scores, 0)
    return from_slopes(value, plain(by_scores), plain(by_targets))


def _multiclass_hinge_loss(
    scores: Wide, labels: npt.NDArray[Any], margin: Wide, kind: str
) -> Exact:
    mask = _at_label(labels, scores)
    own = np.sum(np.where(mask, scores, 0), axis=-1, keepdims=True)
    missing = np.where(mask, -np.inf, scores - own + margin)
    violation = np.maximum(missing, 0)
    terms = np.where(mask, 0, np.abs(scores) + np.abs(own) + margin)
    slope = wide(missing > 0)
    if kind == "crammer_singer":
        rivals = np.where(mask, -np.inf, scores)
        slope = slope * (rivals == np.max(rivals, axis=-1, keepdims=True))
        slope = slope / np.maximum(np.sum(slope, axis=-1, keepdims=True), 1)
        value = Measured(np.max(violation, axis=-1), np.max(terms, axis=-1))
    else:
        value = Measured(np.sum(violation, axis=-1), np.sum(terms, axis=-1))
    slope = np.where(mask, -np.sum(slope, axis=-1, keepdims=True), slope)
    return from_slopes(value, plain(wide(slope)), None, rows=True)


def _dense(x: Wide, w: Wide, b: Wide) -> Exact:
    def product(left: Wide, right: Wide) -> Measured:
        return Measured(left @ right, np.abs(left) @ np.abs(right))

    def vjp(g: Wide) -> Parts:
        by_b = Measured(np.sum(g, axis=0), np.sum(np.abs(g), axis=0))
        return product(g, w.T), product(x.T, g), by_b

    def jvp(tangents: Sequence[Wide | None]) -> Measured:
        dx, dw, db = tangents
        assert dx is not None
        assert dw is not None
        assert db is not None
        one, other = product(dx, w), product(x, dw)
        return Measured(one.number + other.number + db, one.scale + other.scale + np.abs(db))

    y = product(x, w)
    return Exact(Measured(y.number + b, y.scale + np.abs(b)), vjp, jvp)


FORMULAS: dict[str, Callable[..., Exact]] = {
    "sigmoid": _sigmoid,
    "tanh": _tanh,
    "relu": _relu,
    "leaky_relu": _leaky_relu,
    "prelu": _prelu,
    "softplus": _softplus,
    "log_sigmoid": _log_sigmoid,
    "sign": _sign,
    "abs": _abs,
    "softmax": _softmax,
    "log_softmax": _log_softmax,
    "logsumexp": _logsumexp,
    "relumax": _relumax,
    "cross_entropy": _cross_entropy,
    "log_cross_entropy": _log_cross_entropy,
    "nll_loss": _nll_loss,
    "softmax_cross_entropy": _softmax_cross_entropy,
    "softmax_cross_entropy_with_integer_labels": _label_cross_entropy,
    "squared_error": _squared_error,
    "l2_loss": _l2_loss,
    "hinge_loss": _hinge_loss,
    "multiclass_hinge_loss": _multiclass_hinge_loss,
    "lp_norm": _lp_norm,
    "l1_norm": lambda x: _lp_norm(x, wide(1.0)),
    "l2_norm": lambda x: _lp_norm(x, wide(2.0)),
    "squared_l2_norm": _squared_l2_norm,
    "dense": _dense,
}


def check_against_reference(
    row: Row, arrays: Sequence[npt.NDArray[Any]], params: Mapping[str, Any]
) -> None:
    """Hold the numbers and scales of `exact` to those of the reference, at a few smooth points."""
    rng = np.random.default_rng(3)
    fast = exact(row, arrays, params)
    value = reference.value(row, arrays, **params)
    _agree(row, fast.value, value, reference.value_scale(row, arrays, **params), arrays)
    g = np.asarray(rng.standard_normal(value.shape)).astype(arrays[0].dtype)
    right = reference.vjp(row, arrays, g, **params)
    scales = reference.vjp_scale(row, arrays, g, **params)
    for ours, theirs, scale in zip(fast.vjp(wide(g)), right, scales, strict=True):
        if ours is not None:
            _agree(row, ours, theirs, scale, arrays)
    tangents = [direction(rng, array) for array in arrays]
    widened = [None if t is None else wide(t) for t in tangents]
    along = reference.jvp(row, arrays, tangents, **params)
    scale = reference.jvp_scale(row, arrays, tangents, **params)
    _agree(row, fast.jvp(widened), along, scale, arrays)


def _agree(
    row: Row, ours: Measured, theirs: Any, scale: Any, arrays: Sequence[npt.NDArray[Any]]
) -> None:
    eps = float(np.finfo(arrays[0].dtype).eps)
    with mpmath.workdps(60):
        for one, size, right, true_size in zip(
            np.ravel(ours.number), np.ravel(ours.scale), theirs.flat, scale.flat, strict=True
        ):
            unit = eps * max(abs(right), true_size)
            assert abs(_mpf(one) - right) <= AGREEMENT * unit, f"{row.name}: {one} is not {right}"
            assert abs(_mpf(size) - true_size) <= 1e-6 * true_size, f"{row.name}: the scale"


def _mpf(number: np.longdouble) -> Any:
    high = float(number)
    return mpmath.mpf(high) + mpmath.mpf(float(number - np.longdouble(high)))

"""Losses. Their rules are stated for one value per example; the reduction is the mechanism's."""

from typing import Literal

from opsgrad._op import op
from opsgrad._shapes import reduced
from opsgrad._signature import Labels, NonNegative, Reduction, Targets
from opsgrad._typing import Array, Namespace
from opsgrad.ops._elementwise import product, step, where_positive
from opsgrad.ops._rows import (
    class_mask,
    difference,
    insert_axis,
    nan_where_no_class,
    row_max,
    shifted_exp,
)
from opsgrad.ops.softmax import log_softmax

HingeKind = Literal["crammer_singer", "weston_watkins"]


def _absent_term(xp: Namespace, targets: Array, scores: Array, at: float) -> Array:
    """Return where a target of 0 meets a score of `at`, at which its factor is infinite."""
    return (targets == 0) & (scores == at)


def _pick(xp: Namespace, mask: Array, values: Array, axis: int) -> Array:
    """Return the value where `mask` holds, once in each slice along `axis`, which is kept."""
    return xp.sum(xp.where(mask, values, xp.zeros_like(values)), axis=axis, keepdims=True)


@op
def cross_entropy(
    xp: Namespace,
    probs: Array,
    targets: Targets,
    /,
    *,
    axis: int = -1,
    reduction: Reduction = "none",
) -> Array:
    terms = targets * xp.log(probs)
    terms = xp.where(_absent_term(xp, targets, probs, 0.0), xp.zeros_like(terms), terms)
    return reduced(xp, 0.0 - xp.sum(terms, axis=axis), reduction)


def _ratio(xp: Namespace, probs: Array, targets: Array) -> Array:
    ratio = targets / probs
    return xp.where(_absent_term(xp, targets, probs, 0.0), xp.zeros_like(ratio), ratio)


@cross_entropy.vjp_rule(keeps=("probs", "targets"))
def _(
    xp: Namespace, probs: Array, targets: Array, g: Array, /, *, axis: int
) -> tuple[Array, Array]:
    g = -insert_axis(g, axis)
    return product(xp, g, _ratio(xp, probs, targets)), product(xp, g, xp.log(probs))


@cross_entropy.jvp_rule(keeps=("probs", "targets"))
def _(
    xp: Namespace, probs: Array, targets: Array, dprobs: Array, dtargets: Array, /, *, axis: int
) -> Array:
    by_probs = product(xp, dprobs, _ratio(xp, probs, targets))
    return -xp.sum(by_probs + product(xp, dtargets, xp.log(probs)), axis=axis)


@op
def log_cross_entropy(
    xp: Namespace,
    log_probs: Array,
    targets: Targets,
    /,
    *,
    axis: int = -1,
    reduction: Reduction = "none",
) -> Array:
    terms = targets * log_probs
    absent = _absent_term(xp, targets, log_probs, -float("inf"))
    terms = xp.where(absent, xp.zeros_like(terms), terms)
    return reduced(xp, 0.0 - xp.sum(terms, axis=axis), reduction)


@log_cross_entropy.vjp_rule(keeps=("log_probs", "targets"))
def _(
    xp: Namespace, log_probs: Array, targets: Array, g: Array, /, *, axis: int
) -> tuple[Array, Array]:
    g = -insert_axis(g, axis)
    return g * targets, product(xp, g, log_probs)


@log_cross_entropy.jvp_rule(keeps=("log_probs", "targets"))
def _(
    xp: Namespace,
    log_probs: Array,
    targets: Array,
    dlog_probs: Array,
    dtargets: Array,
    /,
    *,
    axis: int,
) -> Array:
    return -xp.sum(targets * dlog_probs + product(xp, dtargets, log_probs), axis=axis)


@op
def nll_loss(
    xp: Namespace,
    log_probs: Array,
    labels: Labels,
    /,
    *,
    axis: int = -1,
    reduction: Reduction = "none",
) -> Array:
    mask = class_mask(xp, log_probs, labels, axis)
    losses = 0.0 - xp.squeeze(_pick(xp, mask, log_probs, axis), axis=axis)
    losses = nan_where_no_class(xp, losses, log_probs, labels, axis)
    return reduced(xp, losses, reduction)


@nll_loss.vjp_rule(keeps=("log_probs", "labels"))
def _(xp: Namespace, log_probs: Array, labels: Array, g: Array, /, *, axis: int) -> Array:
    mask = class_mask(xp, log_probs, labels, axis)
    gradient = xp.where(mask, -insert_axis(g, axis), xp.zeros_like(log_probs))
    return nan_where_no_class(xp, gradient, log_probs, labels, axis)


@nll_loss.jvp_rule(keeps=("log_probs", "labels"))
def _(xp: Namespace, log_probs: Array, labels: Array, dlog_probs: Array, /, *, axis: int) -> Array:
    mask = class_mask(xp, log_probs, labels, axis)
    out = -xp.squeeze(_pick(xp, mask, dlog_probs, axis), axis=axis)
    return nan_where_no_class(xp, out, log_probs, labels, axis)


@op
def softmax_cross_entropy(
    xp: Namespace,
    logits: Array,
    targets: Targets,
    /,
    *,
    axis: int = -1,
    reduction: Reduction = "none",
) -> Array:
    log_probs = log_softmax.body(xp, logits, axis=axis)
    return log_cross_entropy.body(xp, log_probs, targets, axis=axis, reduction=reduction)


def _excess(xp: Namespace, logits: Array, targets: Array, axis: int) -> tuple[Array, Array]:
    """Return ŷ·Σt - t, the gradient by the logits, and log ŷ, that by the targets negated."""
    e = shifted_exp(xp, logits, axis)
    y = e.terms / (e.ties + e.others)
    z = y * xp.sum(targets, axis=axis, keepdims=True) - targets
    z = z - y * xp.sum(z, axis=axis, keepdims=True)  # exact where ŷ is nearly 1
    return z, log_softmax.body(xp, logits, axis=axis)


@softmax_cross_entropy.vjp_rule(keeps=("logits", "targets"))
def _(
    xp: Namespace, logits: Array, targets: Array, g: Array, /, *, axis: int
) -> tuple[Array, Array]:
    g = insert_axis(g, axis)
    excess, log_probs = _excess(xp, logits, targets, axis)
    return g * excess, product(xp, -g, log_probs)


@softmax_cross_entropy.jvp_rule(keeps=("logits", "targets"))
def _(
    xp: Namespace, logits: Array, targets: Array, dlogits: Array, dtargets: Array, /, *, axis: int
) -> Array:
    excess, log_probs = _excess(xp, logits, targets, axis)
    return xp.sum(excess * dlogits - product(xp, dtargets, log_probs), axis=axis)


@op
def softmax_cross_entropy_with_integer_labels(
    xp: Namespace,
    logits: Array,
    labels: Labels,
    /,
    *,
    axis: int = -1,
    reduction: Reduction = "none",
) -> Array:
    log_probs = log_softmax.body(xp, logits, axis=axis)
    return nll_loss.body(xp, log_probs, labels, axis=axis, reduction=reduction)


@softmax_cross_entropy_with_integer_labels.vjp_rule(keeps=("logits", "labels"))
def _(xp: Namespace, logits: Array, labels: Array, g: Array, /, *, axis: int) -> Array:
    e = shifted_exp(xp, logits, axis)
    mask = class_mask(xp, logits, labels, axis)
    # p - 1 at the label has no digit left when p is nearly 1: sum the other terms instead.
    rest = _pick(xp, ~mask, e.terms, axis)
    gradient = xp.where(mask, -rest, e.terms) / (e.ties + e.others) * insert_axis(g, axis)
    return nan_where_no_class(xp, gradient, logits, labels, axis)


@softmax_cross_entropy_with_integer_labels.jvp_rule(keeps=("logits", "labels"))
def _(xp: Namespace, logits: Array, labels: Array, dlogits: Array, /, *, axis: int) -> Array:
    e = shifted_exp(xp, logits, axis)
    mask = class_mask(xp, logits, labels, axis)
    ahead = dlogits - _pick(xp, mask, dlogits, axis)
    y = e.terms / (e.ties + e.others)
    out = xp.squeeze(_pick(xp, ~mask, y * ahead, axis), axis=axis)
    return nan_where_no_class(xp, out, logits, labels, axis)


@op
def squared_error(
    xp: Namespace, pred: Array, target: Targets, /, *, reduction: Reduction = "none"
) -> Array:
    return reduced(xp, xp.square(pred - target), reduction)


@squared_error.derivative
def _(xp: Namespace, pred: Array, target: Array, /) -> tuple[Array, Array]:
    return 2.0 * (pred - target), 2.0 * (target - pred)


@op
def l2_loss(
    xp: Namespace, pred: Array, target: Targets, /, *, reduction: Reduction = "none"
) -> Array:
    return reduced(xp, 0.5 * xp.square(pred - target), reduction)


@l2_loss.derivative
def _(xp: Namespace, pred: Array, target: Array, /) -> tuple[Array, Array]:
    return pred - target, target - pred


@op
def hinge_loss(
    xp: Namespace,
    scores: Array,
    targets: Targets,
    /,
    *,
    margin: NonNegative = 1.0,
    reduction: Reduction = "none",
) -> Array:
    missing = margin - targets * scores
    return reduced(xp, where_positive(xp, missing, missing), reduction)


@hinge_loss.derivative
def _(xp: Namespace, scores: Array, targets: Array, /, *, margin: float) -> tuple[Array, Array]:
    missing = margin - targets * scores
    return where_positive(xp, missing, -targets), where_positive(xp, missing, -scores)


@op
def multiclass_hinge_loss(
    xp: Namespace,
    scores: Array,
    labels: Labels,
    /,
    *,
    margin: NonNegative = 1.0,
    kind: HingeKind = "crammer_singer",
    axis: int = -1,
    reduction: Reduction = "none",
) -> Array:
    mask = class_mask(xp, scores, labels, axis)
    missing = _missing(xp, scores, mask, margin, kind, axis)
    losses = xp.sum(where_positive(xp, missing, missing), axis=axis)
    return reduced(xp, nan_where_no_class(xp, losses, scores, labels, axis), reduction)


def _missing(
    xp: Namespace, scores: Array, mask: Array, margin: float, kind: HingeKind, axis: int
) -> Array:
    """Return by how much the margin over the rivals is missed: over the best one, or over each."""
    label = _pick(xp, mask, scores, axis)
    if kind == "crammer_singer":
        shortfall, error = difference(xp, _best_rival(xp, scores, mask, axis), label)
        return (shortfall + margin) + error  # see relumax for the error
    shortfall, error = difference(xp, scores, label)
    missing = (shortfall + margin) + error
    return xp.where(mask, xp.zeros_like(missing), missing)


def _best_rival(xp: Namespace, scores: Array, mask: Array, axis: int) -> Array:
    return row_max(xp, xp.where(mask, xp.full_like(scores, -float("inf")), scores), axis)


def _weights(
    xp: Namespace, scores: Array, mask: Array, margin: float, kind: HingeKind, axis: int
) -> tuple[Array, Array]:
    """Return the slope of the loss by each rival's score, and their sum, the axis kept."""
    slopes = step(xp, _missing(xp, scores, mask, margin, kind, axis))
    if kind == "weston_watkins":
        return slopes, xp.sum(slopes, axis=axis, keepdims=True)
    tied = ~mask & (scores == _best_rival(xp, scores, mask, axis))
    share = xp.where(tied, xp.ones_like(scores), xp.zeros_like(scores))
    count = xp.sum(share, axis=axis, keepdims=True)
    return slopes * share / xp.where(count == 0, xp.ones_like(count), count), slopes


@multiclass_hinge_loss.vjp_rule(keeps=("scores", "labels"))
def _(
    xp: Namespace,
    scores: Array,
    labels: Array,
    g: Array,
    /,
    *,
    margin: float,
    kind: HingeKind,
    axis: int,
) -> Array:
    mask = class_mask(xp, scores, labels, axis)
    weights, total = _weights(xp, scores, mask, margin, kind, axis)
    gradient = xp.where(mask, -total, weights) * insert_axis(g, axis)
    return nan_where_no_class(xp, gradient, scores, labels, axis)


@multiclass_hinge_loss.jvp_rule(keeps=("scores", "labels"))
def _(
    xp: Namespace,
    scores: Array,
    labels: Array,
    dscores: Array,
    /,
    *,
    margin: float,
    kind: HingeKind,
    axis: int,
) -> Array:
    mask = class_mask(xp, scores, labels, axis)
    weights, total = _weights(xp, scores, mask, margin, kind, axis)
    by_rivals = xp.sum(weights * dscores, axis=axis, keepdims=True)
    out = xp.squeeze(by_rivals - total * _pick(xp, mask, dscores, axis), axis=axis)
    return nan_where_no_class(xp, out, scores, labels, axis)

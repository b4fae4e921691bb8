"""Losses. Their rules are stated for one value per example; the reduction is the mechanism's."""

from typing import Literal

from opsgrad._arrays import reduced, zero_product
from opsgrad._op import op
from opsgrad._signature import Labels, NonNegative, Reduction, Targets
from opsgrad._typing import Array, Namespace
from opsgrad.ops._elementwise import step, where_positive
from opsgrad.ops._rows import (
    class_mask,
    difference,
    exp_less,
    insert_axis,
    less_share,
    nan_where_no_class,
    row_max,
)
from opsgrad.ops.softmax import log_softmax

HingeKind = Literal["crammer_singer", "weston_watkins"]


def _absent_term(targets: Array, scores: Array, at: float) -> Array:
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
    """Compute the cross-entropy of probabilities against target probabilities.

    ``loss = -sum_i t_i * log(p_i)`` for each example, with p from `probs` and t from `targets`.

    Parameters
    ----------
    probs : array
        The predicted probabilities, of any shape with at least one axis; floating-point or integer.
        That they sum to 1 is not checked.
    targets : array
        The target probabilities, of the shape of `probs`; floating-point or integer.
    axis : int, optional
        The axis of the classes; the last by default.
    reduction : {"none", "mean", "sum"}, optional
        "none" returns one value per example; "mean" (NaN for no examples) and "sum" return a single
        one.
    backend : str, optional
        The backend to run on, the arrays' own by default.

    Returns
    -------
    array
        The shape of `probs` without `axis`, or a single number if reduced, in the data type that
        `probs` and `targets` promote to; if both hold integers, the library's default
        floating-point type.

    Raises
    ------
    ArgumentError, DTypeError
        A TypeError, if an argument is not an array of real numbers.
    ShapeError, ParameterError
        A ValueError, if the shapes differ (losses do not broadcast), or `reduction` is unknown.
    AxisError
        A ValueError and an IndexError, if the arrays have no such axis.

    Notes
    -----
    The backward rule is ``dp_i = -g * t_i / p_i`` and ``dt_i = -g * log(p_i)``. The first grows
    without bound as ``p_i`` goes to 0, and probabilities that underflow to 0 have lost the loss
    altogether: train on logits with `softmax_cross_entropy`, or on log-probabilities with
    `log_cross_entropy`.

    At ``p_i = 0`` a target of 0 contributes 0 to the loss and to the gradient by p. A positive one
    makes the loss +inf and ``dp_i`` -inf; but where g is 0, the gradient is 0. Negative
    probabilities and NaN make the loss NaN. Over an empty axis it is 0.

    References
    ----------
    Derivation: the derivative of -t log p by p is -t / p, by t it is -log p.

    Examples
    --------
    >>> import numpy as np
    >>> import opsgrad as og
    >>> probs = np.array([[0.5, 0.5, 0.0], [0.25, 0.25, 0.5]])
    >>> targets = np.array([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]])
    >>> og.cross_entropy(probs, targets).round(4)
    array([0.6931, 0.6931])

    The gradient of a mistake made with confidence is huge; by the logits it would be 1:

    >>> loss_and_gradient = og.value_and_grad(og.cross_entropy)
    >>> loss, dprobs = loss_and_gradient(np.array([1.0, 1e-8]), np.array([0.0, 1.0]))
    >>> print(f"{loss:.4g}", f"{dprobs[1]:.4g}")
    18.42 -1e+08
    """
    terms = targets * xp.log(probs)
    terms = xp.where(_absent_term(targets, probs, 0.0), xp.zeros_like(terms), terms)
    return reduced(xp, 0.0 - xp.sum(terms, axis=axis), reduction)


def _ratio(xp: Namespace, probs: Array, targets: Array) -> Array:
    ratio = targets / probs
    return xp.where(_absent_term(targets, probs, 0.0), xp.zeros_like(ratio), ratio)


@cross_entropy.vjp_rule(keeps=("probs", "targets"))
def _(
    xp: Namespace, probs: Array, targets: Array, g: Array, /, *, axis: int
) -> tuple[Array, Array]:
    g = -insert_axis(g, axis)
    return zero_product(xp, g, _ratio(xp, probs, targets)), zero_product(xp, g, xp.log(probs))


@cross_entropy.jvp_rule(keeps=("probs", "targets"))
def _(
    xp: Namespace, probs: Array, targets: Array, dprobs: Array, dtargets: Array, /, *, axis: int
) -> Array:
    by_probs = zero_product(xp, dprobs, _ratio(xp, probs, targets))
    return -xp.sum(by_probs + zero_product(xp, dtargets, xp.log(probs)), axis=axis)


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
    """Compute the cross-entropy of log-probabilities against target probabilities.

    ``loss = -sum_i t_i * z_i`` for each example, with z from `log_probs` and t from `targets`.

    Parameters
    ----------
    log_probs : array
        The logarithms of the predicted probabilities, such as `log_softmax` returns, of any shape
        with at least one axis; floating-point or integer.
    targets : array
        The target probabilities, of the shape of `log_probs`; floating-point or integer.
    axis : int, optional
        The axis of the classes; the last by default.
    reduction : {"none", "mean", "sum"}, optional
        "none" returns one value per example; "mean" (NaN for no examples) and "sum" return a single
        one.
    backend : str, optional
        The backend to run on, the arrays' own by default.

    Returns
    -------
    array
        The shape of `log_probs` without `axis`, or a single number if reduced, in the data type
        that `log_probs` and `targets` promote to; if both hold integers, the library's default
        floating-point type.

    Raises
    ------
    ArgumentError, DTypeError
        A TypeError, if an argument is not an array of real numbers.
    ShapeError, ParameterError
        A ValueError, if the shapes differ (losses do not broadcast), or `reduction` is unknown.
    AxisError
        A ValueError and an IndexError, if the arrays have no such axis.

    Notes
    -----
    The backward rule is ``dz_i = -g * t_i`` and ``dt_i = -g * z_i``: unlike that of `cross_entropy`
    it stays bounded where a probability goes to 0. With `log_softmax` before it, this is
    `softmax_cross_entropy` in two steps.

    At ``z_i = -inf`` a target of 0 contributes 0, a positive one makes the loss +inf; ``dt_i`` is
    +inf there for g > 0, and 0 where g is 0. NaN makes the loss NaN. Over an empty axis it is 0.

    References
    ----------
    Derivation: the loss is bilinear in targets and log-probabilities.

    Examples
    --------
    >>> import numpy as np
    >>> import opsgrad as og
    >>> log_probs = np.array([-0.5, -1.0, -np.inf])
    >>> loss, pull = og.vjp(og.log_cross_entropy, log_probs, np.array([0.5, 0.5, 0.0]))
    >>> float(loss)
    0.75
    >>> dlog_probs, dtargets = pull(2.0)
    >>> dtargets
    array([ 1.,  2., inf])
    """
    terms = targets * log_probs
    absent = _absent_term(targets, log_probs, -float("inf"))
    terms = xp.where(absent, xp.zeros_like(terms), terms)
    return reduced(xp, 0.0 - xp.sum(terms, axis=axis), reduction)


@log_cross_entropy.vjp_rule(keeps=("log_probs", "targets"))
def _(
    xp: Namespace, log_probs: Array, targets: Array, g: Array, /, *, axis: int
) -> tuple[Array, Array]:
    g = -insert_axis(g, axis)
    return g * targets, zero_product(xp, g, log_probs)


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
    return -xp.sum(targets * dlog_probs + zero_product(xp, dtargets, log_probs), axis=axis)


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
    """Compute the negative log-likelihood of integer labels, given log-probabilities.

    ``loss = -z_k`` for each example, with z from `log_probs` and k its label.

    Parameters
    ----------
    log_probs : array
        The logarithms of the predicted probabilities, such as `log_softmax` returns, of any shape
        with at least one axis; floating-point or integer.
    labels : array
        The class of each example, from 0: integers of any type, of the shape of `log_probs` without
        `axis`.
    axis : int, optional
        The axis of the classes; the last by default.
    reduction : {"none", "mean", "sum"}, optional
        "none" returns one value per example; "mean" (NaN for no examples) and "sum" return a single
        one.
    backend : str, optional
        The backend to run on, the arrays' own by default.

    Returns
    -------
    array
        The shape of `labels`, or a single number if reduced, in the data type of `log_probs`; if
        that holds integers, the library's default floating-point type.

    Raises
    ------
    ArgumentError, DTypeError
        A TypeError, if `log_probs` is not an array of real numbers or `labels` not one of integers.
    ShapeError, ParameterError
        A ValueError, if the shape of `labels` is not that of `log_probs` without `axis`, or
        `reduction` is unknown.
    AxisError, LabelError
        A ValueError and an IndexError, if there is no such axis, or a label names no class.

    Notes
    -----
    The backward rule is ``dz_k = -g`` at the label and 0 at all other entries. Labels have no
    gradient: a pullback returns None in their place. With `log_softmax` before it, this is
    `softmax_cross_entropy_with_integer_labels` in two steps.

    Only the entry at the label counts. If it is -inf the loss is +inf, if NaN it is NaN; infinities
    and NaN elsewhere in the slice change nothing. Lazy and traced labels (Dask, JAX under ``jit``)
    cannot be checked beforehand: one that names no class makes loss and gradient of its example
    NaN.

    References
    ----------
    Derivation: `log_cross_entropy` with a target of 1 at the label and 0 elsewhere.

    Examples
    --------
    >>> import numpy as np
    >>> import opsgrad as og
    >>> log_probs = np.log(np.array([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]))
    >>> loss, pull = og.vjp(og.nll_loss, log_probs, np.array([0, 2]))
    >>> loss.round(4)
    array([0.6931, 0.2231])
    >>> dlog_probs, nothing = pull(np.array([1.0, 10.0]))
    >>> dlog_probs
    array([[ -1.,   0.,   0.],
           [  0.,   0., -10.]])
    """
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
) -> tuple[Array, Array, Array]:
    """Compute the cross-entropy of the softmax of logits against target probabilities.

    ``loss = -sum_i t_i * log(y_i)`` for each example, with ``y = softmax(logits)`` and t from
    `targets`.

    Parameters
    ----------
    logits : array
        The scores, of any shape with at least one axis; floating-point or integer.
    targets : array
        The target probabilities, of the shape of `logits`; floating-point or integer. They need not
        sum to 1.
    axis : int, optional
        The axis of the classes; the last by default.
    reduction : {"none", "mean", "sum"}, optional
        "none" returns one value per example; "mean" (NaN for no examples) and "sum" return a single
        one.
    backend : str, optional
        The backend to run on, the arrays' own by default.

    Returns
    -------
    array
        The shape of `logits` without `axis`, or a single number if reduced, in the data type that
        `logits` and `targets` promote to; if both hold integers, the library's default
        floating-point type.

    Raises
    ------
    ArgumentError, DTypeError
        A TypeError, if an argument is not an array of real numbers.
    ShapeError, ParameterError
        A ValueError, if the shapes differ (losses do not broadcast), or `reduction` is unknown.
    AxisError
        A ValueError and an IndexError, if the arrays have no such axis.

    Notes
    -----
    The value goes through `log_softmax`, so it stays exact where the softmax underflows.

    The backward rule is ``dlogits_i = g * (y_i * sum_j t_j - t_i)``, which for targets that sum to
    1 is ``g * (y - t)``, and ``dt_i = -g * log(y_i)``. The difference cancels by nature: its error
    is of the order of epsilon times ``y_i * sum_j t_j + t_i``.

    A logit of -inf beside finite ones contributes 0 where its target is 0, and has the gradient 0.
    Where its target is positive, the loss is +inf and the gradient finite. Logits with NaN or +inf,
    or nothing but -inf, make loss and gradients of their example NaN. Over an empty axis the loss
    is 0.

    References
    ----------
    Derivation: d/dx_j of -t_i log(softmax(x)_i) is t_i softmax(x)_j, less t_i where j = i.

    Examples
    --------
    >>> import numpy as np
    >>> import opsgrad as og
    >>> logits, targets = np.array([0.0, np.log(3.0), -np.inf]), np.array([0.5, 0.5, 0.0])
    >>> loss, pull = og.vjp(og.softmax_cross_entropy, logits, targets)
    >>> round(float(loss), 4)
    0.837
    >>> dlogits, dtargets = pull(1.0)
    >>> dlogits.round(4)
    array([-0.25,  0.25,  0.  ])
    """
    log_probs, top, rest = log_softmax.body(xp, logits, axis=axis)
    loss = log_cross_entropy.body(xp, log_probs, targets, axis=axis, reduction=reduction)
    return loss, top, rest


def _excess(
    xp: Namespace, logits: Array, targets: Array, top: Array, rest: Array, axis: int
) -> tuple[Array, Array]:
    """Return ŷ·Σt - t, the gradient by the logits, and log ŷ, that by the targets negated."""
    e = exp_less(xp, logits, top)
    return less_share(xp, -targets, logits, e, rest, axis), e.log_softmax(xp, rest)


@softmax_cross_entropy.vjp_rule(keeps=("logits", "targets", "kept"))
def _(
    xp: Namespace,
    logits: Array,
    targets: Array,
    top: Array,
    rest: Array,
    g: Array,
    /,
    *,
    axis: int,
) -> tuple[Array, Array]:
    g = insert_axis(g, axis)
    excess, log_probs = _excess(xp, logits, targets, top, rest, axis)
    return g * excess, zero_product(xp, -g, log_probs)


@softmax_cross_entropy.jvp_rule(keeps=("logits", "targets", "kept"))
def _(
    xp: Namespace,
    logits: Array,
    targets: Array,
    top: Array,
    rest: Array,
    dlogits: Array,
    dtargets: Array,
    /,
    *,
    axis: int,
) -> Array:
    excess, log_probs = _excess(xp, logits, targets, top, rest, axis)
    return xp.sum(excess * dlogits - zero_product(xp, dtargets, log_probs), axis=axis)


@op
def softmax_cross_entropy_with_integer_labels(
    xp: Namespace,
    logits: Array,
    labels: Labels,
    /,
    *,
    axis: int = -1,
    reduction: Reduction = "none",
) -> tuple[Array, Array, Array]:
    """Compute the cross-entropy of the softmax of logits against integer labels.

    ``loss = -log(softmax(x)_k) = log(sum_j exp(x_j)) - x_k`` for each example, with x from `logits`
    and k its label.

    Parameters
    ----------
    logits : array
        The scores, of any shape with at least one axis; floating-point or integer.
    labels : array
        The class of each example, from 0: integers of any type, of the shape of `logits` without
        `axis`.
    axis : int, optional
        The axis of the classes; the last by default.
    reduction : {"none", "mean", "sum"}, optional
        "none" returns one value per example; "mean" (NaN for no examples) and "sum" return a single
        one.
    backend : str, optional
        The backend to run on, the arrays' own by default.

    Returns
    -------
    array
        The shape of `labels`, or a single number if reduced, in the data type of `logits`; if that
        holds integers, the library's default floating-point type.

    Raises
    ------
    ArgumentError, DTypeError
        A TypeError, if `logits` is not an array of real numbers or `labels` not one of integers.
    ShapeError, ParameterError
        A ValueError, if the shape of `labels` is not that of `logits` without `axis`, or
        `reduction` is unknown.
    AxisError, LabelError
        A ValueError and an IndexError, if there is no such axis, or a label names no class.

    Notes
    -----
    The value goes through `log_softmax`, so a loss close to 0 keeps its digits. Largest error
    measured, results near underflow aside: 5 units in the last place.

    The backward rule, with ``y = softmax(x)``, is ``dx_i = g * y_i`` at all entries but the label,
    and ``dx_k = -g * sum of y_j over j != k`` there. In exact arithmetic that is ``g * (y_k - 1)``,
    which would be 0 once ``y_k`` rounds to 1. Labels have no gradient: a pullback returns None in
    their place.

    A logit of -inf beside finite ones has the gradient 0. If it is the label's, the loss is +inf
    and the gradient finite, -g there and ``g * y_i`` elsewhere. Logits with NaN or +inf, or nothing
    but -inf, make loss and gradient of their example NaN; so does, in lazy and traced arrays (Dask,
    JAX under ``jit``), which cannot be checked beforehand, a label that names no class.

    References
    ----------
    Derivation: d/dx_i of log(sum_j exp(x_j)) is softmax(x)_i; that of x_k is 1 for i = k, else 0.

    Examples
    --------
    A confident prediction that is right still has a loss and a gradient:

    >>> import numpy as np
    >>> import opsgrad as og
    >>> loss_and_gradient = og.value_and_grad(og.softmax_cross_entropy_with_integer_labels)
    >>> logits = np.array([[np.log(3.0), 0.0], [0.0, -40.0]])
    >>> loss, dlogits = loss_and_gradient(logits, np.array([1, 0]))
    >>> dlogits[0].round(4)
    array([ 0.75, -0.75])
    >>> print(f"{loss[1]:.4g}", f"{dlogits[1, 0]:.4g}")
    4.248e-18 -4.248e-18
    """
    log_probs, top, rest = log_softmax.body(xp, logits, axis=axis)
    loss = nll_loss.body(xp, log_probs, labels, axis=axis, reduction=reduction)
    return loss, top, rest


@softmax_cross_entropy_with_integer_labels.vjp_rule(keeps=("logits", "labels", "kept"))
def _(
    xp: Namespace,
    logits: Array,
    labels: Array,
    top: Array,
    rest: Array,
    g: Array,
    /,
    *,
    axis: int,
) -> Array:
    terms = exp_less(xp, logits, top).terms
    # p - 1 at the label has no digit left when p is nearly 1. The sum of the other terms has them
    # all: 1 - terms, which is exact near 1, makes up for the one maximum that is not in the rest.
    others = rest + (1.0 - terms)
    mask = class_mask(xp, logits, labels, axis)
    gradient = xp.where(mask, -others, terms) / (1.0 + rest) * insert_axis(g, axis)
    return nan_where_no_class(xp, gradient, logits, labels, axis)


@softmax_cross_entropy_with_integer_labels.jvp_rule(keeps=("logits", "labels", "kept"))
def _(
    xp: Namespace,
    logits: Array,
    labels: Array,
    top: Array,
    rest: Array,
    dlogits: Array,
    /,
    *,
    axis: int,
) -> Array:
    mask = class_mask(xp, logits, labels, axis)
    ahead = dlogits - _pick(xp, mask, dlogits, axis)
    y = exp_less(xp, logits, top).terms / (1.0 + rest)
    out = xp.squeeze(_pick(xp, ~mask, y * ahead, axis), axis=axis)
    return nan_where_no_class(xp, out, logits, labels, axis)


@op
def squared_error(
    xp: Namespace, pred: Array, target: Targets, /, *, reduction: Reduction = "none"
) -> Array:
    """Compute the squared difference of predictions and targets, element by element.

    ``loss = (p - t)**2``

    Parameters
    ----------
    pred : array
        The predictions p, of any shape; floating-point or integer.
    target : array
        The targets t, of the shape of `pred`; floating-point or integer.
    reduction : {"none", "mean", "sum"}, optional
        "none" returns one value per element; "mean" (NaN for no elements) and "sum" return a single
        one.
    backend : str, optional
        The backend to run on, the arrays' own by default.

    Returns
    -------
    array
        The shape of `pred`, or a single number if reduced, in the data type that `pred` and
        `target` promote to; if both hold integers, the library's default floating-point type.

    Raises
    ------
    ArgumentError, DTypeError
        A TypeError, if an argument is not an array of real numbers.
    ShapeError, ParameterError
        A ValueError, if the shapes differ (losses do not broadcast), or `reduction` is unknown.

    Notes
    -----
    The backward rule is ``dp = g * 2 * (p - t)`` and ``dt = -dp``. With ``reduction="mean"`` g is
    divided by the number of elements, not of examples. `l2_loss` is half of this loss.

    An infinite difference has the loss +inf and an infinite gradient. Two equal infinities, or NaN,
    give NaN. Beyond a difference of 1.8e19 in float32, 1.3e154 in float64, the square overflows to
    +inf, long before the gradient does.

    References
    ----------
    Derivation: the chain rule; the derivative of d**2 is 2 d.

    Examples
    --------
    >>> import numpy as np
    >>> import opsgrad as og
    >>> pred, target = np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[0.0, 2.0], [3.0, 6.0]])
    >>> og.squared_error(pred, target)
    array([[1., 0.],
           [0., 4.]])
    >>> loss, dpred = og.value_and_grad(og.squared_error)(pred, target, reduction="mean")
    >>> float(loss)
    1.25
    >>> dpred
    array([[ 0.5,  0. ],
           [ 0. , -1. ]])
    """
    return reduced(xp, xp.square(pred - target), reduction)


@squared_error.derivative
def _(xp: Namespace, pred: Array, target: Array, /) -> tuple[Array, Array]:
    return 2.0 * (pred - target), 2.0 * (target - pred)


@op
def l2_loss(
    xp: Namespace, pred: Array, target: Targets, /, *, reduction: Reduction = "none"
) -> Array:
    """Compute half the squared difference of predictions and targets, element by element.

    ``loss = (p - t)**2 / 2``

    Parameters
    ----------
    pred : array
        The predictions p, of any shape; floating-point or integer.
    target : array
        The targets t, of the shape of `pred`; floating-point or integer.
    reduction : {"none", "mean", "sum"}, optional
        "none" returns one value per element; "mean" (NaN for no elements) and "sum" return a single
        one.
    backend : str, optional
        The backend to run on, the arrays' own by default.

    Returns
    -------
    array
        The shape of `pred`, or a single number if reduced, in the data type that `pred` and
        `target` promote to; if both hold integers, the library's default floating-point type.

    Raises
    ------
    ArgumentError, DTypeError
        A TypeError, if an argument is not an array of real numbers.
    ShapeError, ParameterError
        A ValueError, if the shapes differ (losses do not broadcast), or `reduction` is unknown.

    Notes
    -----
    The backward rule is ``dp = g * (p - t)`` and ``dt = -dp``: the half is there to cancel the 2 in
    the derivative of `squared_error`. With ``reduction="mean"`` g is divided by the number of
    elements.

    An infinite difference has the loss +inf and an infinite gradient. Two equal infinities, or NaN,
    give NaN. Beyond a difference of 1.8e19 in float32, 1.3e154 in float64, the square overflows to
    +inf, long before the gradient does.

    References
    ----------
    Derivation: the chain rule; the derivative of d**2 is 2 d.

    Examples
    --------
    >>> import numpy as np
    >>> import opsgrad as og
    >>> pred, target = np.array([1.0, 2.0, 5.0]), np.array([0.0, 2.0, 7.0])
    >>> loss, pull = og.vjp(og.l2_loss, pred, target)
    >>> loss
    array([0.5, 0. , 2. ])
    >>> dpred, dtarget = pull(np.ones(3))
    >>> dpred
    array([ 1.,  0., -2.])
    """
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
    """Compute the hinge loss of scores against targets of -1 and 1, element by element.

    ``loss = max(0, margin - t * s)`` with s from `scores` and t from `targets`.

    Parameters
    ----------
    scores : array
        The scores s, of any shape; floating-point or integer. Their sign is the prediction.
    targets : array
        The targets t, of the shape of `scores`; floating-point or integer. That they are -1 or 1 is
        not checked.
    margin : float, optional
        How far on the right side a score must be to cost nothing: finite, and not negative. It is
        rounded to the data type of the result.
    reduction : {"none", "mean", "sum"}, optional
        "none" returns one value per element; "mean" (NaN for no elements) and "sum" return a single
        one.
    backend : str, optional
        The backend to run on, the arrays' own by default.

    Returns
    -------
    array
        The shape of `scores`, or a single number if reduced, in the data type that `scores` and
        `targets` promote to; if both hold integers, the library's default floating-point type.

    Raises
    ------
    ArgumentError, DTypeError
        A TypeError, if an argument is not an array of real numbers.
    ShapeError, ParameterError
        A ValueError, if the shapes differ (losses do not broadcast), `margin` is negative or not
        finite, or `reduction` is unknown.

    Notes
    -----
    The backward rule is ``ds = -g * t`` and ``dt = -g * s`` where ``margin - t * s > 0``, and 0
    elsewhere. At the kink, ``t * s = margin``, the gradient is 0, the subgradient of the smallest
    magnitude. The loss is that of the soft-margin support vector machine [1]_.

    A score of ±inf on the right side costs nothing, on the wrong side +inf. NaN gives NaN, and so
    does 0 times infinity.

    References
    ----------
    .. [1] Cortes, C., Vapnik, V. (1995). "Support-Vector Networks". Machine Learning 20(3).

    Examples
    --------
    Wrong, right by less than the margin, exactly at the margin, and beyond it:

    >>> import numpy as np
    >>> import opsgrad as og
    >>> scores, targets = np.array([-1.0, 0.5, 1.0, 3.0]), np.array([1, 1, 1, 1])
    >>> loss, dscores = og.value_and_grad(og.hinge_loss)(scores, targets)
    >>> loss
    array([2. , 0.5, 0. , 0. ])
    >>> dscores
    array([-1., -1.,  0.,  0.])
    """
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
    """Compute the hinge loss of class scores against integer labels.

    For each example, with s from `scores` and k its label:

    - "crammer_singer": ``loss = max(0, max over j != k of (s_j - s_k + margin))``
    - "weston_watkins": ``loss = sum over j != k of max(0, s_j - s_k + margin)``

    Parameters
    ----------
    scores : array
        The scores s, of any shape with at least one axis; floating-point or integer.
    labels : array
        The class of each example, from 0: integers of any type, of the shape of `scores` without
        `axis`.
    margin : float, optional
        By how much the label must lead to cost nothing: finite, and not negative. It is rounded to
        the data type of the result.
    kind : {"crammer_singer", "weston_watkins"}, optional
        Whether only the best rival counts [1]_, or each of them [2]_ (not divided by their number).
    axis : int, optional
        The axis of the classes; the last by default.
    reduction : {"none", "mean", "sum"}, optional
        "none" returns one value per example; "mean" (NaN for no examples) and "sum" return a single
        one.
    backend : str, optional
        The backend to run on, the arrays' own by default.

    Returns
    -------
    array
        The shape of `labels`, or a single number if reduced, in the data type of `scores`; if that
        holds integers, the library's default floating-point type.

    Raises
    ------
    ArgumentError, DTypeError
        A TypeError, if `scores` is not an array of real numbers or `labels` not one of integers.
    ShapeError, ParameterError
        A ValueError, if the shape of `labels` is not that of `scores` without `axis`, `margin` is
        negative or not finite, or `kind` or `reduction` is unknown.
    AxisError, LabelError
        A ValueError and an IndexError, if there is no such axis, or a label names no class.

    Notes
    -----
    The backward rule: every rival j that counts and misses the margin, ``s_j - s_k + margin > 0``,
    gets ``ds_j = g``, and the label gets minus the sum of these. Best rivals that tie
    ("crammer_singer") share g evenly. At the kink, a margin met exactly, the gradient is 0; it is
    decided as in exact arithmetic, with the rounding error of ``s_j - s_k`` put back in.

    With a single class the loss is 0. Scores of -inf at rivals cost nothing, at the label +inf.
    NaN, and equal infinities at label and rival, make the loss NaN. Lazy and traced labels (Dask,
    JAX under ``jit``) cannot be checked beforehand: one that names no class makes loss and gradient
    of its example NaN.

    References
    ----------
    .. [1] Crammer, K., Singer, Y. (2001). "On the Algorithmic Implementation of Multiclass
       Kernel-based Vector Machines". Journal of Machine Learning Research 2.
    .. [2] Weston, J., Watkins, C. (1999). "Support Vector Machines for Multi-Class Pattern
       Recognition". European Symposium on Artificial Neural Networks.

    Examples
    --------
    >>> import numpy as np
    >>> import opsgrad as og
    >>> scores, labels = np.array([[1.0, 2.0, 2.0, 0.5]]), np.array([0])
    >>> loss_and_gradient = og.value_and_grad(og.multiclass_hinge_loss)
    >>> loss_and_gradient(scores, labels)
    (array([2.]), array([[-1. ,  0.5,  0.5,  0. ]]))
    >>> loss_and_gradient(scores, labels, kind="weston_watkins")
    (array([4.5]), array([[-3.,  1.,  1.,  1.]]))
    """
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
) -> tuple[Array, Array, Array]:
    """Return what divided is the slope by each rival's score, and the sum of these slopes.

    The numerators come first, then the one denominator, then the sum; the axis is kept.
    """
    slopes = step(xp, _missing(xp, scores, mask, margin, kind, axis))
    if kind == "weston_watkins":
        total = xp.sum(slopes, axis=axis, keepdims=True)
        return slopes, xp.ones_like(total), total
    tied = ~mask & (scores == _best_rival(xp, scores, mask, axis))
    share = xp.where(tied, xp.ones_like(scores), xp.zeros_like(scores))
    count = xp.sum(share, axis=axis, keepdims=True)
    return slopes * share, xp.where(count == 0, xp.ones_like(count), count), slopes


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
    weights, count, total = _weights(xp, scores, mask, margin, kind, axis)
    g = insert_axis(g, axis)
    gradient = xp.where(mask, -total * g, weights * g / count)
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
    weights, count, total = _weights(xp, scores, mask, margin, kind, axis)
    by_rivals = xp.sum(weights * dscores, axis=axis, keepdims=True) / count
    out = xp.squeeze(by_rivals - total * _pick(xp, mask, dscores, axis), axis=axis)
    return nan_where_no_class(xp, out, scores, labels, axis)

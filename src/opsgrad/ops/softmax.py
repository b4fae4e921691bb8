"""The softmax family: softmax, log_softmax, logsumexp."""

from opsgrad._op import op
from opsgrad._shapes import with_diagonal
from opsgrad._typing import Array, Namespace
from opsgrad.ops._rows import drop_axis, insert_axis, shifted_exp, sum_of_others


@op
def softmax(xp: Namespace, x: Array, /, *, axis: int = -1) -> Array:
    e = shifted_exp(xp, x, axis)
    return e.terms / (e.ties + e.others)


@softmax.jvp_rule(keeps="y")
@softmax.vjp_rule(keeps="y")
def _(xp: Namespace, y: Array, g: Array, /, *, axis: int) -> Array:
    h = g - xp.sum(y * g, axis=axis, keepdims=True)
    u = y * h
    # The second pass removes the rounding error of the first, which is all there is where g is
    # nearly constant: in one pass up to 10⁷ (float32) or 10¹⁶ times the exact result.
    return u - y * xp.sum(u, axis=axis, keepdims=True)


@softmax.jacobian_rule(keeps="y")
def _(xp: Namespace, y: Array, /) -> Array:
    outer = y[..., :, None] * y[..., None, :]
    return with_diagonal(xp, -outer, y * sum_of_others(xp, y))


@op
def log_softmax(xp: Namespace, x: Array, /, *, axis: int = -1) -> Array:
    e = shifted_exp(xp, x, axis)
    return e.shift - (xp.log1p((e.ties - 1.0) + e.others) - e.error)


@log_softmax.vjp_rule(keeps="x")
def _(xp: Namespace, x: Array, g: Array, /, *, axis: int) -> Array:
    y = softmax.body(xp, x, axis=axis)
    z = g - y * xp.sum(g, axis=axis, keepdims=True)
    return z - y * xp.sum(z, axis=axis, keepdims=True)  # exact at a dominant entry


@log_softmax.jvp_rule(keeps="x")
def _(xp: Namespace, x: Array, dx: Array, /, *, axis: int) -> Array:
    y = softmax.body(xp, x, axis=axis)
    h = dx - xp.sum(y * dx, axis=axis, keepdims=True)
    return h - xp.sum(y * h, axis=axis, keepdims=True)


@log_softmax.jacobian_rule(keeps="x")
def _(xp: Namespace, x: Array, /) -> Array:
    y = softmax.body(xp, x, axis=-1)
    return with_diagonal(xp, -y[..., None, :], sum_of_others(xp, y))


@op
def logsumexp(xp: Namespace, x: Array, /, *, axis: int = -1, keepdims: bool = False) -> Array:
    e = shifted_exp(xp, x, axis)
    finite = e.top + xp.log1p((e.ties - 1.0) + e.others)
    return drop_axis(xp, xp.where(xp.isinf(e.top), e.top, finite), axis, keepdims)


@logsumexp.vjp_rule(keeps="x")
def _(xp: Namespace, x: Array, g: Array, /, *, axis: int, keepdims: bool) -> Array:
    return softmax.body(xp, x, axis=axis) * (g if keepdims else insert_axis(g, axis))


@logsumexp.jvp_rule(keeps="x")
def _(xp: Namespace, x: Array, dx: Array, /, *, axis: int, keepdims: bool) -> Array:
    return xp.sum(softmax.body(xp, x, axis=axis) * dx, axis=axis, keepdims=keepdims)

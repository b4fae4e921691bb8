"""Norms along an axis, free of overflow and underflow, with gradients that are never NaN at 0."""

import math

from opsgrad._op import op
from opsgrad._signature import Order
from opsgrad._typing import Array, Namespace
from opsgrad.ops._elementwise import signum
from opsgrad.ops._rows import drop_axis, insert_axis, row_max


def _norm(xp: Namespace, x: Array, p: float, axis: int) -> Array:
    """Return the p-norm along `axis`, which is kept."""
    size = xp.abs(x)
    if p == 1.0:
        return xp.sum(size, axis=axis, keepdims=True)
    top = row_max(xp, size, axis, empty=0.0)
    if p == math.inf:
        return top
    ratio, scale = _scaled(xp, size, top, p)
    total = xp.sum(_power(xp, ratio, p), axis=axis, keepdims=True)
    return xp.where(xp.isinf(top), top, _root(xp, total, p, scale))


def _scaled(xp: Namespace, size: Array, top: Array, p: float) -> tuple[Array, Array]:
    """Return sizes whose p-th powers neither overflow nor all vanish, and the scale taken out."""
    bits = xp.finfo(size.dtype).bits
    if p < (96.0 if bits == 32 else 960.0):
        # A power of two, so that dividing by it is exact. Clipped, because XLA divides by
        # multiplying with the reciprocal, which must not be subnormal.
        most = 126.0 if bits == 32 else 1022.0
        exponent = xp.clip(xp.floor(xp.log2(top)), -most, most)
        scale = xp.pow(xp.full_like(top, 2.0), exponent)  # exact everywhere, as exp2 is not
        return size / scale, scale
    # 2^p would overflow: scale by the maximum itself, brought into the middle of the range first.
    one = xp.ones_like(top)
    scale = xp.where(top == 0, one, top)
    middle = xp.where(scale > 1, 0.25 * one, 4.0 * one)
    return (size * middle) / (scale * middle), scale


def _power(xp: Namespace, ratio: Array, p: float) -> Array:
    return xp.square(ratio) if p == 2.0 else xp.pow(ratio, xp.full_like(ratio, p))


def _root(xp: Namespace, total: Array, p: float, scale: Array) -> Array:
    """Return scale · total^(1/p)."""
    if p == 2.0:
        return scale * xp.sqrt(total)
    if p >= 1.0:
        return scale * xp.pow(total, xp.full_like(total, 1.0 / p))
    half = xp.pow(total, xp.full_like(total, 0.5 / p))  # total^(1/p) alone could overflow
    return (scale * half) * half


def _slope(xp: Namespace, x: Array, p: float, axis: int) -> Array:
    """Return the gradient of the p-norm: sign(x) (|x| / norm)^(p-1)."""
    size = xp.abs(x)
    top = row_max(xp, size, axis, empty=0.0)
    slope = _slope_of_sizes(xp, size, top, p, axis)
    slope = xp.where(size == 0, xp.zeros_like(size), signum(xp, x) * slope)
    return slope + (top - top)  # NaN where the slice holds inf or NaN


def _slope_of_sizes(xp: Namespace, size: Array, top: Array, p: float, axis: int) -> Array:
    if p == 1.0:
        return xp.ones_like(size)
    if p == math.inf:
        tied = xp.where(size == top, xp.ones_like(size), xp.zeros_like(size))
        return tied / xp.sum(tied, axis=axis, keepdims=True)
    ratio, _ = _scaled(xp, size, top, p)
    total = xp.sum(_power(xp, ratio, p), axis=axis, keepdims=True)
    root = _root(xp, total, p, xp.ones_like(total))
    if p == 2.0:
        return ratio / root
    if p < 1.0:
        return xp.pow(root / ratio, xp.full_like(size, 1.0 - p))
    # (ratio / root)^(p-1) would multiply the root's error by p: 16 ULP at p = 10, 100 at 50.
    return xp.pow(ratio, xp.full_like(size, p - 1.0)) * (root / total)


def _pull(xp: Namespace, x: Array, g: Array, p: float, axis: int, keepdims: bool) -> Array:
    return _slope(xp, x, p, axis) * (g if keepdims else insert_axis(g, axis))


def _push(xp: Namespace, x: Array, dx: Array, p: float, axis: int, keepdims: bool) -> Array:
    return xp.sum(_slope(xp, x, p, axis) * dx, axis=axis, keepdims=keepdims)


@op
def lp_norm(
    xp: Namespace, x: Array, /, *, p: Order = 2.0, axis: int = -1, keepdims: bool = False
) -> Array:
    return drop_axis(xp, _norm(xp, x, p, axis), axis, keepdims)


@lp_norm.vjp_rule(keeps="x")
def _(xp: Namespace, x: Array, g: Array, /, *, p: float, axis: int, keepdims: bool) -> Array:
    return _pull(xp, x, g, p, axis, keepdims)


@lp_norm.jvp_rule(keeps="x")
def _(xp: Namespace, x: Array, dx: Array, /, *, p: float, axis: int, keepdims: bool) -> Array:
    return _push(xp, x, dx, p, axis, keepdims)


@op
def l1_norm(xp: Namespace, x: Array, /, *, axis: int = -1, keepdims: bool = False) -> Array:
    return drop_axis(xp, _norm(xp, x, 1.0, axis), axis, keepdims)


@l1_norm.vjp_rule(keeps="x")
def _(xp: Namespace, x: Array, g: Array, /, *, axis: int, keepdims: bool) -> Array:
    return _pull(xp, x, g, 1.0, axis, keepdims)


@l1_norm.jvp_rule(keeps="x")
def _(xp: Namespace, x: Array, dx: Array, /, *, axis: int, keepdims: bool) -> Array:
    return _push(xp, x, dx, 1.0, axis, keepdims)


@op
def l2_norm(xp: Namespace, x: Array, /, *, axis: int = -1, keepdims: bool = False) -> Array:
    return drop_axis(xp, _norm(xp, x, 2.0, axis), axis, keepdims)


@l2_norm.vjp_rule(keeps="x")
def _(xp: Namespace, x: Array, g: Array, /, *, axis: int, keepdims: bool) -> Array:
    return _pull(xp, x, g, 2.0, axis, keepdims)


@l2_norm.jvp_rule(keeps="x")
def _(xp: Namespace, x: Array, dx: Array, /, *, axis: int, keepdims: bool) -> Array:
    return _push(xp, x, dx, 2.0, axis, keepdims)


@op
def squared_l2_norm(xp: Namespace, x: Array, /, *, axis: int = -1, keepdims: bool = False) -> Array:
    return xp.sum(xp.square(x), axis=axis, keepdims=keepdims)


@squared_l2_norm.vjp_rule(keeps="x")
def _(xp: Namespace, x: Array, g: Array, /, *, axis: int, keepdims: bool) -> Array:
    return 2.0 * x * (g if keepdims else insert_axis(g, axis))


@squared_l2_norm.jvp_rule(keeps="x")
def _(xp: Namespace, x: Array, dx: Array, /, *, axis: int, keepdims: bool) -> Array:
    return 2.0 * xp.sum(x * dx, axis=axis, keepdims=keepdims)

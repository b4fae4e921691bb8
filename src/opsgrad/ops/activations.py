"""Activations: elementwise functions, each with its derivative in the form that keeps its digits."""

from opsgrad._op import op
from opsgrad._signature import Finite, Shared
from opsgrad._typing import Array, Namespace
from opsgrad.ops._elementwise import signum, step, where_positive


@op
def sigmoid(xp: Namespace, x: Array, /) -> Array:
    z = xp.exp(-xp.abs(x))
    return xp.where(x >= 0, xp.ones_like(z), z) / (1.0 + z)


@sigmoid.derivative
def _(xp: Namespace, x: Array, /) -> Array:
    z = xp.exp(-xp.abs(x))
    return z / xp.square(1.0 + z)


@op
def tanh(xp: Namespace, x: Array, /) -> Array:
    return xp.tanh(x)


@tanh.derivative
def _(xp: Namespace, x: Array, /) -> Array:
    w = xp.exp(-2.0 * xp.abs(x))
    return 4.0 * w / xp.square(1.0 + w)


@op
def relu(xp: Namespace, x: Array, /) -> Array:
    return where_positive(xp, x, x)


@relu.derivative
def _(xp: Namespace, x: Array, /) -> Array:
    return step(xp, x)


@op
def leaky_relu(xp: Namespace, x: Array, /, *, negative_slope: Finite = 0.01) -> Array:
    if negative_slope == 0.0:  # 0 · (-inf) must be 0
        return where_positive(xp, x, x)
    return xp.where(x < 0, negative_slope * x, x)


@leaky_relu.derivative
def _(xp: Namespace, x: Array, /, *, negative_slope: float) -> Array:
    below = xp.where(x <= 0, xp.full_like(x, negative_slope), x)
    return xp.where(x > 0, xp.ones_like(x), below)


@op
def prelu(xp: Namespace, x: Array, alpha: Shared, /) -> Array:
    below = xp.where(alpha == 0, xp.zeros_like(alpha), alpha * x)
    return xp.where(x < 0, below, x)


@prelu.derivative
def _(xp: Namespace, x: Array, alpha: Array, /) -> tuple[Array, Array]:
    by_x = xp.where(x > 0, xp.ones_like(x), xp.where(x <= 0, alpha, x))
    by_alpha = xp.where(x >= 0, xp.zeros_like(x), x)
    return by_x, by_alpha


@op
def softplus(xp: Namespace, x: Array, /) -> Array:
    return where_positive(xp, x, x) + xp.log1p(xp.exp(-xp.abs(x)))


@softplus.derivative
def _(xp: Namespace, x: Array, /) -> Array:
    return sigmoid.body(xp, x)


@op
def log_sigmoid(xp: Namespace, x: Array, /) -> Array:
    return -where_positive(xp, -x, -x) - xp.log1p(xp.exp(-xp.abs(x)))


@log_sigmoid.derivative
def _(xp: Namespace, x: Array, /) -> Array:
    return sigmoid.body(xp, -x)


@op
def sign(xp: Namespace, x: Array, /) -> Array:
    return signum(xp, x)


@sign.derivative
def _(xp: Namespace, x: Array, /) -> Array:
    return xp.zeros_like(x)


@op
def abs(xp: Namespace, x: Array, /) -> Array:
    return xp.abs(x)


@abs.derivative
def _(xp: Namespace, x: Array, /) -> Array:
    return signum(xp, x)

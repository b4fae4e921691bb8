"""relumax: probabilities that can be exactly zero."""

from typing import NamedTuple

from opsgrad._op import op
from opsgrad._shapes import with_diagonal
from opsgrad._signature import Positive
from opsgrad._typing import Array, Namespace
from opsgrad.ops._elementwise import where_positive
from opsgrad.ops._rows import difference, row_max


class _Parts(NamedTuple):
    """What relumax and its rules are made of. All reductions keep their axis."""

    margin: Array
    """(x - max x + b) · unit: an entry is active where this is positive."""
    probabilities: Array
    total: Array
    """The sum of the margins of the active entries, at least b · unit."""
    unit: float
    """The power of two, mostly 1, that keeps `total` in range for the largest and smallest b."""
    share: Array
    """The subgradient of the maximum: 1 / (number of maxima) at each of them."""


def _parts(xp: Namespace, x: Array, b: float, axis: int) -> _Parts:
    top = row_max(xp, x, axis)
    shift, error = difference(xp, x, top)
    unit = _unit(xp, x, b)
    # The rounding error of x - max goes back in, so that the sign of the margin is right:
    # 1 + (x - max) / b puts 3 in 1,000 entries of one decimal on the wrong side.
    margin = ((shift + b) + error) * unit
    active = where_positive(xp, margin, margin)
    total = xp.sum(active, axis=axis, keepdims=True)
    tied = xp.where(x == top, xp.ones_like(x), xp.zeros_like(x))
    share = tied / xp.sum(tied, axis=axis, keepdims=True)
    return _Parts(margin, active / total, total, unit, share)


def _unit(xp: Namespace, x: Array, b: float) -> float:
    info = xp.finfo(x.dtype)
    if b > float(info.max) * 2.0**-40:
        return 2.0**-40
    return 2.0**40 if b < float(info.smallest_normal) * 2.0**40 else 1.0


@op
def relumax(xp: Namespace, x: Array, /, *, b: Positive = 1.0, axis: int = -1) -> Array:
    return _parts(xp, x, b, axis).probabilities


@relumax.vjp_rule(keeps="x")
def _(xp: Namespace, x: Array, g: Array, /, *, b: float, axis: int) -> Array:
    margin, y, total, unit, share = _parts(xp, x, b, axis)
    zero = xp.zeros_like(y)
    h = xp.where(margin > 0, g - xp.sum(y * g, axis=axis, keepdims=True), zero)
    # A second pass, as in softmax: in one, a constant g gives 10⁷ to 10¹⁵ times the exact result.
    h = xp.where(margin > 0, h - xp.sum(y * h, axis=axis, keepdims=True), zero)
    return (h - share * xp.sum(h, axis=axis, keepdims=True)) / total * unit


@relumax.jvp_rule(keeps="x")
def _(xp: Namespace, x: Array, dx: Array, /, *, b: float, axis: int) -> Array:
    margin, y, total, unit, share = _parts(xp, x, b, axis)
    above = dx - xp.sum(share * dx, axis=axis, keepdims=True)
    t = xp.where(margin > 0, above, xp.zeros_like(y))
    t = t - y * xp.sum(t, axis=axis, keepdims=True)
    t = t - y * xp.sum(t, axis=axis, keepdims=True)  # the transpose of the rule above, pass by pass
    return t / total * unit


@relumax.jacobian_rule(keeps="x")
def _(xp: Namespace, x: Array, /, *, b: float) -> Array:
    margin, y, total, unit, share = _parts(xp, x, b, -1)
    active = xp.where(margin > 0, xp.ones_like(y), xp.zeros_like(y))
    count = xp.sum(active, axis=-1, keepdims=True)
    own = with_diagonal(xp, xp.zeros_like(y[..., None, :]), active)
    by_max = active[..., :, None] * share[..., None, :]
    by_total = y[..., :, None] * (active - count * share)[..., None, :]
    return (own - by_max - by_total) / total[..., None] * unit

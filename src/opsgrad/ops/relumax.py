"""relumax: probabilities that can be exactly zero."""

from typing import NamedTuple

from opsgrad._arrays import with_diagonal
from opsgrad._op import op
from opsgrad._signature import Positive
from opsgrad._typing import Array, Namespace
from opsgrad.ops._elementwise import where_positive
from opsgrad.ops._rows import difference, row_max


class _Parts(NamedTuple):
    """What relumax and its rules are made of. All reductions keep their axis."""

    margin: Array
    """x - max x + b: an entry is active where this is positive."""
    probabilities: Array
    total: Array
    """The sum of the margins of the active entries, at least b · unit."""
    unit: float
    """The power of two, mostly 1, that keeps `total` in range for the largest b."""
    share: Array
    """The subgradient of the maximum: 1 / (number of maxima) at each of them."""


def _parts(xp: Namespace, x: Array, b: float, axis: int) -> _Parts:
    top = row_max(xp, x, axis)
    shift, error = difference(xp, x, top)
    unit = _unit(xp, x, b)
    # The rounding error of x - max goes back in, so that the sign of the margin is right:
    # 1 + (x - max) / b puts 3 in 1,000 entries of one decimal on the wrong side.
    margin = (shift + b) + error
    active = where_positive(xp, margin, margin * unit)
    total = xp.sum(active, axis=axis, keepdims=True)
    tied = xp.where(x == top, xp.ones_like(x), xp.zeros_like(x))
    share = tied / xp.sum(tied, axis=axis, keepdims=True)
    return _Parts(margin, active / total, total, unit, share)


def _unit(xp: Namespace, x: Array, b: float) -> float:
    return 2.0**-40 if b > float(xp.finfo(x.dtype).max) * 2.0**-40 else 1.0


@op
def relumax(xp: Namespace, x: Array, /, *, b: Positive = 1.0, axis: int = -1) -> Array:
    """Turn scores into probabilities, exactly 0 for all that are b or more below the maximum.

    ``y_i = v_i / sum_k v_k`` with ``v_i = max(x_i - max(x) + b, 0)``

    Parameters
    ----------
    x : array
        The scores, of any shape with at least one axis; floating-point or integer.
    b : float, optional
        How far below the maximum an entry may lie and still get a positive probability: positive
        and finite. Small b approaches the arg max, large b the uniform distribution. It is rounded
        to the data type of the result.
    axis : int, optional
        The axis along which the probabilities sum to 1; the last by default.
    backend : str, optional
        The backend to run on, the arrays' own by default.

    Returns
    -------
    array
        Of the shape and data type of `x`; for integers, the library's default floating-point type.

    Raises
    ------
    ArgumentError, DTypeError
        A TypeError, if `x` is not an array of real numbers.
    AxisError
        A ValueError and an IndexError, if `x` has no such axis.
    ParameterError
        A ValueError, if `b` is not positive and finite, or if rounding makes it 0 or infinite.

    Notes
    -----
    The maximum has ``v = b``, so the sum is never 0. The rounding error of ``x_i - max(x)`` is put
    back in, so that the active entries, those with ``v_i > 0``, are the ones of exact arithmetic.
    Largest error measured: 0.7 times the machine epsilon.

    The backward rule: with ``S = sum_k v_k``, let ``h_i = g_i - sum_j y_j * g_j`` at the active
    entries and 0 at the others; then ``dx_i = (h_i - w_i * sum_j h_j) / S``. Here w is the
    subgradient of the maximum: 1 divided by the number of maxima at each of them, 0 elsewhere. The
    gradient sums to 0. At the kink, ``v_i = 0``, an entry counts as inactive.

    An entry of -inf beside finite ones has value and gradient 0. A slice with NaN or +inf, or of
    nothing but -inf, is all NaN. An empty axis gives an empty result.

    References
    ----------
    Derivation: the quotient rule on these formulas. Sparsemax [1]_ is a related map.

    .. [1] Martins, A. F. T., Astudillo, R. F. (2016). "From Softmax to Sparsemax: A Sparse Model of
       Attention and Multi-Label Classification". International Conference on Machine Learning.

    Examples
    --------
    The margins of the four scores are 0.25, 1, 0 and 0.75:

    >>> import numpy as np
    >>> import opsgrad as og
    >>> y, pull = og.vjp(og.relumax, np.array([0.25, 1.0, -3.0, 0.75]), b=1.0)
    >>> y
    array([0.125, 0.5  , 0.   , 0.375])
    >>> pull(np.array([1.0, 0.0, 5.0, 0.0]))[0]
    array([ 0.4375, -0.375 ,  0.    , -0.0625])
    """
    return _parts(xp, x, b, axis).probabilities


@relumax.vjp_rule(keeps="x")
def _(xp: Namespace, x: Array, g: Array, /, *, b: float, axis: int) -> Array:
    margin, y, total, unit, share = _parts(xp, x, b, axis)
    zero = xp.zeros_like(y)
    h = xp.where(margin > 0, g - xp.sum(y * g, axis=axis, keepdims=True), zero)
    # A second pass, as in softmax: in one, a constant g gives 10⁷ to 10¹⁵ times the exact result.
    h = xp.where(margin > 0, h - xp.sum(y * h, axis=axis, keepdims=True), zero)
    z = h - share * xp.sum(h, axis=axis, keepdims=True)
    z = z - share * xp.sum(z, axis=axis, keepdims=True)
    return z / total * unit


@relumax.jvp_rule(keeps="x")
def _(xp: Namespace, x: Array, dx: Array, /, *, b: float, axis: int) -> Array:
    margin, y, total, unit, share = _parts(xp, x, b, axis)
    # Passes in pairs, the transposes of those above: the rounding error of the mean of tied maxima
    # would be all there is where dx is nearly constant. Inactive entries are left out of both, for
    # their differences may overflow.
    zero = xp.zeros_like(y)
    t = xp.where(margin > 0, dx - xp.sum(share * dx, axis=axis, keepdims=True), zero)
    t = xp.where(margin > 0, t - xp.sum(share * t, axis=axis, keepdims=True), zero)
    t = t - y * xp.sum(t, axis=axis, keepdims=True)
    t = t - y * xp.sum(t, axis=axis, keepdims=True)
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

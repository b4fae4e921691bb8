"""Norms along an axis, free of overflow and underflow, with gradients that are never NaN at 0."""

import math

from opsgrad._compiling import constant
from opsgrad._op import op
from opsgrad._signature import Order, round_to
from opsgrad._typing import Array, DType, Namespace
from opsgrad.ops._elementwise import signum
from opsgrad.ops._rows import drop_axis, insert_axis, row_max


def _norm(xp: Namespace, x: Array, p: float, axis: int) -> Array:
    """Return the p-norm along `axis`, which is kept."""
    if p == 2.0:
        return _euclidean(xp, x, axis)
    size = xp.abs(x)
    if p == 1.0:
        return xp.sum(size, axis=axis, keepdims=True)
    top = row_max(xp, size, axis)
    if p == math.inf:
        return top
    ratio, scale = _scaled(xp, size, top, p)
    total = xp.sum(xp.pow(ratio, xp.full_like(ratio, p)), axis=axis, keepdims=True)
    return xp.where(xp.isinf(top), top, _root(xp, total, p, scale))


def _euclidean(xp: Namespace, x: Array, axis: int) -> Array:
    """Return the square root of the sum of squares along `axis`, which is kept.

    Squares are summed as they are. That tells where they have overflowed, or may have lost digits
    to underflow: less than an eighth of a unit in the last place is lost of sums beyond `least`, up
    to 2^33 squares. Only there they are needed again, of entries brought away from the ends of the
    range, and a kernel skips that pass in all other rows.
    """
    info = xp.finfo(x.dtype)
    least = float(info.smallest_normal) / float(info.eps) * 2.0**37
    total = _sum_of_squares(xp, x, axis)
    small, large = total < least, ~(total < math.inf)  # large, if NaN
    lift = _lift(xp, small, large, total)
    again = _sum_of_squares(xp, x * lift, axis)
    return xp.sqrt(xp.where(small | large, again, total)) / lift


def _sum_of_squares(xp: Namespace, x: Array, axis: int) -> Array:
    return xp.sum(xp.square(x), axis=axis, keepdims=True)


def _lift(xp: Namespace, small: Array, large: Array, like: Array) -> Array:
    """Return a large power of two where numbers are small, its inverse where large, and else 1.

    Squares of what is lifted neither overflow nor underflow: from the smallest subnormal number up,
    and down from the largest, 2^33 and more of them.
    """
    power, one = 90.0 if xp.finfo(like.dtype).bits == 32 else 700.0, xp.ones_like(like)
    return xp.where(small, 2.0**power * one, xp.where(large, 2.0**-power * one, one))


def _direction(xp: Namespace, x: Array, y: Array, axis: int) -> Array:
    """Return x divided by its Euclidean norm: 0 at the zero vector, NaN with an infinite entry."""
    least = float(xp.finfo(y.dtype).smallest_normal)
    # Elsewhere y has lost digits, or has overflowed, or XLA would flush its inverse to zero.
    small, large = y < least, ~(y <= 1.0 / least)
    lifted = x * _lift(xp, small, large, y)
    again = xp.sqrt(_one_for_zero(xp, _sum_of_squares(xp, lifted, axis)))
    norm = xp.where(small | large, again, y)
    return lifted / (norm + (norm - norm))  # NaN for inf


def _scaled(xp: Namespace, size: Array, top: Array, p: float) -> tuple[Array, Array]:
    """Return sizes whose p-th powers neither overflow nor all vanish, and the scale taken out."""
    info = xp.finfo(size.dtype)
    if p < (48.0 if info.bits == 32 else 480.0):  # 4^p and sums of it are in range
        # A power of two, so that dividing by it is exact. Clipped, because XLA divides by
        # multiplying with the reciprocal, which must not be subnormal.
        most = 126.0 if info.bits == 32 else 1022.0
        lift = xp.ones_like(top)
        if p > 4.0:  # the powers of what is left of subnormal numbers would vanish
            lift = xp.where(top < float(info.smallest_normal), lift / float(info.eps), lift)
            size, top = size * lift, top * lift
        exponent = xp.clip(xp.floor(xp.log2(_one_for_zero(xp, top))), -most, most)
        scale = xp.pow(xp.full_like(top, 2.0), exponent)  # exact everywhere, as exp2 is not
        return size / scale, scale / lift
    # The powers would overflow: scale by the maximum itself, brought away from the range's end.
    scale = _one_for_zero(xp, top)
    one = xp.ones_like(top)
    middle = xp.where(scale > 1, 0.25 * one, one)
    return (size * middle) / (scale * middle), scale


def _one_for_zero(xp: Namespace, x: Array) -> Array:
    return xp.where(x == 0, xp.ones_like(x), x)


def _root(xp: Namespace, total: Array, p: float, scale: Array) -> Array:
    """Return scale · total^(1/p)."""
    if p >= 1.0:
        return scale * _root_power(xp, total, 1.0, p)
    half = _root_power(xp, total, 0.5, p)
    return (scale * half) * half  # total^(1/p) alone could overflow


def _root_power(xp: Namespace, total: Array, numerator: float, p: float) -> Array:
    """Return total^(numerator/p), taking back what rounding the exponent costs.

    That is eps·exponent·log(total): alone 8 ULP at p = 0.6 in float32.
    """
    exponent, missing = _exponent(numerator, p, total.dtype)
    power = xp.pow(total, xp.full_like(total, exponent))
    if math.isinf(exponent):
        return power
    correction = missing * xp.log(total)
    return power * (1.0 + xp.where(xp.isfinite(correction), correction, xp.zeros_like(total)))


@constant
def _exponent(numerator: float, p: float, dtype: DType) -> tuple[float, float]:
    """Return numerator/p rounded, and what rounding it left out."""
    from fractions import Fraction  # 2 ms

    exponent = round_to(numerator / p, dtype)
    if math.isinf(exponent):
        return exponent, 0.0
    return exponent, float(Fraction(numerator) / Fraction(p) - Fraction(exponent))


def _slope(xp: Namespace, x: Array, y: Array, p: float, axis: int) -> Array:
    """Return the gradient of the p-norm y: sign(x) (|x| / y)^(p-1)."""
    if p == 2.0:
        return _direction(xp, x, y, axis)
    size = xp.abs(x)
    if p == 1.0:
        return signum(xp, x) + _nan_where_infinite(xp, size, y, axis)
    top = y if p == math.inf else row_max(xp, size, axis)
    slope = _slope_of_sizes(xp, size, top, p, axis)
    slope = xp.where(size == 0, xp.zeros_like(size), signum(xp, x) * slope)
    return slope + (top - top)  # NaN where the slice holds inf or NaN


def _nan_where_infinite(xp: Namespace, size: Array, y: Array, axis: int) -> Array:
    """Return NaN for slices that hold inf or NaN, else 0; a sum may have overflowed without."""
    top = row_max(xp, size, axis)
    return xp.where(xp.isfinite(y), xp.zeros_like(y), top - top)


def _slope_of_sizes(xp: Namespace, size: Array, top: Array, p: float, axis: int) -> Array:
    if p == math.inf:
        tied = xp.where(size == top, xp.ones_like(size), xp.zeros_like(size))
        return tied / xp.sum(tied, axis=axis, keepdims=True)
    ratio, scale = _scaled(xp, size, top, p)
    total = xp.sum(xp.pow(ratio, xp.full_like(ratio, p)), axis=axis, keepdims=True)
    if p < 2.0:
        root = _root(xp, total, p, xp.ones_like(total))
        direct = xp.pow(root / ratio, xp.full_like(size, 1.0 - p))
        apart = _apart(xp, size, scale, p - 1.0) * xp.pow(root, xp.full_like(root, 1.0 - p))
        return xp.where(_too_small(xp, ratio / root), apart, direct)
    # (ratio / root)^(p-1) would multiply the root's error by p: 16 ULP at p = 10, 100 at 50.
    power = xp.pow(ratio, xp.full_like(size, p - 1.0))
    return power * _root_power(xp, total, 1.0 - p, p)


def _too_small(xp: Namespace, ratio: Array) -> Array:
    """Return where a ratio, or its inverse, is out of range, though a power of it need not be."""
    return ratio < 4.0 * float(xp.finfo(ratio.dtype).smallest_normal)


def _apart(xp: Namespace, size: Array, scale: Array, exponent: float) -> Array:
    """Return (size / scale)^exponent without the ratio, for an exponent between -1 and 1."""
    return xp.pow(size, xp.full_like(size, exponent)) * xp.pow(
        scale, xp.full_like(scale, -exponent)
    )


def _pull(
    xp: Namespace, x: Array, y: Array, g: Array, p: float, axis: int, keepdims: bool
) -> Array:
    if not keepdims:
        y, g = insert_axis(y, axis), insert_axis(g, axis)
    return _slope(xp, x, y, p, axis) * g


def _push(
    xp: Namespace, x: Array, y: Array, dx: Array, p: float, axis: int, keepdims: bool
) -> Array:
    y = y if keepdims else insert_axis(y, axis)
    return xp.sum(_slope(xp, x, y, p, axis) * dx, axis=axis, keepdims=keepdims)


@op
def lp_norm(
    xp: Namespace, x: Array, /, *, p: Order = 2.0, axis: int = -1, keepdims: bool = False
) -> Array:
    """Compute the p-norm along an axis, for every p > 0 and for p = inf.

    ``y = (sum_i |x_i|**p)**(1/p)``, and ``y = max_i |x_i|`` for p = inf.

    Parameters
    ----------
    x : array
        Of any shape with at least one axis; floating-point or integer.
    p : float, optional
        The order: positive, or infinity. Below 1 the triangle inequality fails. It is rounded to
        the data type of the result.
    axis : int, optional
        The axis whose entries make up a vector; the last by default.
    keepdims : bool, optional
        Whether to keep `axis`, with length 1; by default it is dropped.
    backend : str, optional
        The backend to run on, the arrays' own by default.

    Returns
    -------
    array
        The shape of `x` without `axis`, in the data type of `x`; for integers, the library's
        default floating-point type.

    Raises
    ------
    ArgumentError, DTypeError
        A TypeError, if `x` is not an array of real numbers.
    AxisError
        A ValueError and an IndexError, if `x` has no such axis.
    ParameterError
        A ValueError, if `p` is not positive, or if rounding makes it 0 or infinite.

    Notes
    -----
    A power of two near the largest magnitude is divided out first [1]_ (for p from 48 in float32,
    480 in float64, the largest magnitude itself), so that no power overflows and not all underflow;
    for p = 2 see `l2_norm`.
    Largest error measured, in units in the last place: 4.5 for p >= 1, 8.5 for p from 1/2 to 1,
    about 4/p below.

    The backward rule is ``dx_i = g * sign(x_i) * (|x_i| / y)**(p - 1)``; largest error measured for
    p from 1/2 to 30: 7.4 units. At the zero vector the gradient is 0 for every p. At a single zero
    coordinate it is 0 too: for p = 1 that is the subgradient of the smallest magnitude, but below
    1, where the slope is infinite there, it is a convention and no subgradient. For p = inf the
    entries of the largest magnitude share g evenly.

    With an infinite entry the norm is +inf and the gradient of the slice NaN; with NaN both are
    NaN. The norm over an empty axis is 0.

    References
    ----------
    .. [1] Blue, J. L. (1978). "A Portable Fortran Program to Find the Euclidean Norm of a Vector".
       ACM Transactions on Mathematical Software 4(1).

    Examples
    --------
    >>> import numpy as np
    >>> import opsgrad as og
    >>> y, pull = og.vjp(og.lp_norm, np.array([3e200, -4e200, 0.0]), p=3.0)
    >>> print(f"{float(y):.4g}")
    4.498e+200
    >>> pull(1.0)[0].round(4)
    array([ 0.4449, -0.7908,  0.    ])
    >>> y, pull = og.vjp(og.lp_norm, np.array([2.0, -2.0, 1.0]), p=np.inf)
    >>> pull(1.0)[0]
    array([ 0.5, -0.5,  0. ])
    """
    return drop_axis(xp, _norm(xp, x, p, axis), axis, keepdims)


@lp_norm.vjp_rule(keeps=("x", "y"))
def _(
    xp: Namespace, x: Array, y: Array, g: Array, /, *, p: float, axis: int, keepdims: bool
) -> Array:
    return _pull(xp, x, y, g, p, axis, keepdims)


@lp_norm.jvp_rule(keeps=("x", "y"))
def _(
    xp: Namespace, x: Array, y: Array, dx: Array, /, *, p: float, axis: int, keepdims: bool
) -> Array:
    return _push(xp, x, y, dx, p, axis, keepdims)


@op
def l1_norm(xp: Namespace, x: Array, /, *, axis: int = -1, keepdims: bool = False) -> Array:
    """Compute the sum of magnitudes along an axis.

    ``y = sum_i |x_i|``

    Parameters
    ----------
    x : array
        Of any shape with at least one axis; floating-point or integer.
    axis : int, optional
        The axis whose entries make up a vector; the last by default.
    keepdims : bool, optional
        Whether to keep `axis`, with length 1; by default it is dropped.
    backend : str, optional
        The backend to run on, the arrays' own by default.

    Returns
    -------
    array
        The shape of `x` without `axis`, in the data type of `x`; for integers, the library's
        default floating-point type.

    Raises
    ------
    ArgumentError, DTypeError
        A TypeError, if `x` is not an array of real numbers.
    AxisError
        A ValueError and an IndexError, if `x` has no such axis.

    Notes
    -----
    The backward rule is ``dx_i = g * sign(x_i)``. At a zero coordinate every number from -g to g
    belongs to a subgradient [1]_; the rule takes 0, the smallest in magnitude. So the gradient at
    the zero vector is 0. Value and gradient are those of `lp_norm` with ``p=1``.

    With an infinite entry the norm is +inf and the gradient of the slice NaN; with NaN both are
    NaN. The norm over an empty axis is 0.

    References
    ----------
    .. [1] Rockafellar, R. T. (1970). "Convex Analysis". Princeton University Press, section 23.

    Examples
    --------
    >>> import numpy as np
    >>> import opsgrad as og
    >>> y, pull = og.vjp(og.l1_norm, np.array([[3.0, -4.0, 0.0], [0.0, 0.0, 0.0]]))
    >>> y
    array([7., 0.])
    >>> pull(np.array([10.0, 10.0]))[0]
    array([[ 10., -10.,   0.],
           [  0.,   0.,   0.]])
    """
    return drop_axis(xp, _norm(xp, x, 1.0, axis), axis, keepdims)


@l1_norm.vjp_rule(keeps=("x", "y"))
def _(xp: Namespace, x: Array, y: Array, g: Array, /, *, axis: int, keepdims: bool) -> Array:
    return _pull(xp, x, y, g, 1.0, axis, keepdims)


@l1_norm.jvp_rule(keeps=("x", "y"))
def _(xp: Namespace, x: Array, y: Array, dx: Array, /, *, axis: int, keepdims: bool) -> Array:
    return _push(xp, x, y, dx, 1.0, axis, keepdims)


@op
def l2_norm(xp: Namespace, x: Array, /, *, axis: int = -1, keepdims: bool = False) -> Array:
    """Compute the Euclidean norm along an axis.

    ``y = sqrt(sum_i x_i**2)``

    Parameters
    ----------
    x : array
        Of any shape with at least one axis; floating-point or integer.
    axis : int, optional
        The axis whose entries make up a vector; the last by default.
    keepdims : bool, optional
        Whether to keep `axis`, with length 1; by default it is dropped.
    backend : str, optional
        The backend to run on, the arrays' own by default.

    Returns
    -------
    array
        The shape of `x` without `axis`, in the data type of `x`; for integers, the library's
        default floating-point type.

    Raises
    ------
    ArgumentError, DTypeError
        A TypeError, if `x` is not an array of real numbers.
    AxisError
        A ValueError and an IndexError, if `x` has no such axis.

    Notes
    -----
    Where the sum of squares overflows, or is so small that squares may have been lost by underflow,
    it is taken again of entries times a power of two, which is divided out of its root [1]_.
    Largest error measured: 2.3 units in the last place.

    The backward rule is ``dx_i = g * x_i / y``; largest error measured: 3.5 units. At the zero
    vector the gradient is 0, the subgradient of the smallest norm, where ``x / y`` as written is
    NaN. Value and gradient are those of `lp_norm` with ``p=2``.

    With an infinite entry the norm is +inf and the gradient of the slice NaN; with NaN both are
    NaN. The norm over an empty axis is 0.

    References
    ----------
    .. [1] Blue, J. L. (1978). "A Portable Fortran Program to Find the Euclidean Norm of a Vector".
       ACM Transactions on Mathematical Software 4(1).

    Examples
    --------
    >>> import numpy as np
    >>> import opsgrad as og
    >>> y, pull = og.vjp(og.l2_norm, np.array([[3e200, -4e200], [0.0, 0.0]]))
    >>> y.tolist()
    [5e+200, 0.0]
    >>> pull(np.ones(2))[0].round(4)
    array([[ 0.6, -0.8],
           [ 0. ,  0. ]])
    """
    return drop_axis(xp, _norm(xp, x, 2.0, axis), axis, keepdims)


@l2_norm.vjp_rule(keeps=("x", "y"))
def _(xp: Namespace, x: Array, y: Array, g: Array, /, *, axis: int, keepdims: bool) -> Array:
    return _pull(xp, x, y, g, 2.0, axis, keepdims)


@l2_norm.jvp_rule(keeps=("x", "y"))
def _(xp: Namespace, x: Array, y: Array, dx: Array, /, *, axis: int, keepdims: bool) -> Array:
    return _push(xp, x, y, dx, 2.0, axis, keepdims)


@op
def squared_l2_norm(xp: Namespace, x: Array, /, *, axis: int = -1, keepdims: bool = False) -> Array:
    """Compute the sum of squares along an axis.

    ``y = sum_i x_i**2``

    Parameters
    ----------
    x : array
        Of any shape with at least one axis; floating-point or integer.
    axis : int, optional
        The axis whose entries make up a vector; the last by default.
    keepdims : bool, optional
        Whether to keep `axis`, with length 1; by default it is dropped.
    backend : str, optional
        The backend to run on, the arrays' own by default.

    Returns
    -------
    array
        The shape of `x` without `axis`, in the data type of `x`; for integers, the library's
        default floating-point type.

    Raises
    ------
    ArgumentError, DTypeError
        A TypeError, if `x` is not an array of real numbers.
    AxisError
        A ValueError and an IndexError, if `x` has no such axis.

    Notes
    -----
    The backward rule is ``dx_i = g * 2 * x_i``: smooth everywhere, also at the zero vector, where
    the gradient of `l2_norm` has to be chosen.

    Nothing is scaled, because the result itself overflows: entries beyond 1.8e19 in float32,
    1.3e154 in float64, give +inf, long before the gradient overflows. An infinite entry gives +inf
    and an infinite gradient at that entry alone; NaN gives NaN in the value and at that entry of
    the gradient. Over an empty axis the sum is 0.

    References
    ----------
    Derivation: the derivative of x**2 is 2 x.

    Examples
    --------
    Weight decay, and the gradient that it adds:

    >>> import numpy as np
    >>> import opsgrad as og
    >>> y, pull = og.vjp(og.squared_l2_norm, np.array([[1.0, 2.0], [0.0, -3.0]]))
    >>> y
    array([5., 9.])
    >>> pull(np.array([0.5, 0.5]))[0]
    array([[ 1.,  2.],
           [ 0., -3.]])
    """
    return xp.sum(xp.square(x), axis=axis, keepdims=keepdims)


@squared_l2_norm.vjp_rule(keeps="x")
def _(xp: Namespace, x: Array, g: Array, /, *, axis: int, keepdims: bool) -> Array:
    return 2.0 * x * (g if keepdims else insert_axis(g, axis))


@squared_l2_norm.jvp_rule(keeps="x")
def _(xp: Namespace, x: Array, dx: Array, /, *, axis: int, keepdims: bool) -> Array:
    return 2.0 * xp.sum(x * dx, axis=axis, keepdims=keepdims)

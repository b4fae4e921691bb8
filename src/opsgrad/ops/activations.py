"""Activations: elementwise functions, each with its derivative in the form that keeps digits."""

from opsgrad._arrays import known
from opsgrad._errors import ShapeError
from opsgrad._op import op
from opsgrad._signature import Finite, Shape, Shared
from opsgrad._typing import Array, Namespace
from opsgrad.ops._elementwise import minus_abs, signum, square_of_one_plus, step, where_positive


@op
def sigmoid(xp: Namespace, x: Array, /) -> Array:
    """Compute the logistic sigmoid of every entry.

    ``y = 1 / (1 + exp(-x))``

    Parameters
    ----------
    x : array
        Of any shape; floating-point or integer.
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

    Notes
    -----
    With ``z = exp(-|x|)`` the value is ``1 / (1 + z)`` for x >= 0 and ``z / (1 + z)`` below 0, so
    that nothing overflows and small values keep their digits. Largest error measured: 2.4 units in
    the last place; 3.5 in float32 on NumPy, whose ``exp`` is less exact there.

    The backward rule is ``dx = g * z / (1 + z)**2``. In exact arithmetic that is
    ``g * y * (1 - y)``, but y rounds to 1 beyond x = 17 in float32 and x = 37 in float64, and 1 - y
    is then 0. Largest error measured: 4 units; 4.9 in float32 on NumPy.

    At -inf the value is 0, at +inf it is 1, and the derivative is 0 at both. NaN gives NaN.

    References
    ----------
    Derivation: y' = exp(-x) / (1 + exp(-x))**2, which is even in x; write it with ``exp(-|x|)``.

    Examples
    --------
    The derivative at 40 is exp(-40), although the value is 1:

    >>> import numpy as np
    >>> import opsgrad as og
    >>> y, pull = og.vjp(og.sigmoid, np.array([-1000.0, 0.0, 40.0]))
    >>> y.tolist()
    [0.0, 0.5, 1.0]
    >>> (dx,) = pull(np.ones(3))
    >>> print(f"{dx[2]:.4g}")
    4.248e-18
    """
    z = xp.exp(minus_abs(xp, x))
    return xp.where(x >= 0, xp.ones_like(z), z) / (1.0 + z)


@sigmoid.derivative
def _(xp: Namespace, x: Array, /) -> Array:
    z = xp.exp(-xp.abs(x))
    return z / square_of_one_plus(xp, z)


@op
def tanh(xp: Namespace, x: Array, /) -> Array:
    """Compute the hyperbolic tangent of every entry.

    ``y = (exp(x) - exp(-x)) / (exp(x) + exp(-x))``

    Parameters
    ----------
    x : array
        Of any shape; floating-point or integer.
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

    Notes
    -----
    The value is that of the array library's own ``tanh``.

    The backward rule is ``dx = g * 4 * w / (1 + w)**2`` with ``w = exp(-2 * |x|)``. In exact
    arithmetic that is ``g * (1 - y**2)`` [1]_, but y rounds to 1 or -1 beyond ``|x| = 9`` in
    float32 and 19 in float64, and ``1 - y**2`` is then 0. Largest error measured, results near
    underflow aside: 4.1 units in the last place; 4.6 in float32 on NumPy, whose ``exp`` is less
    exact there.

    At -inf and +inf the value is -1 and 1 and the derivative 0. NaN gives NaN.

    References
    ----------
    .. [1] LeCun, Y., Bottou, L., Orr, G. B., Müller, K.-R. (1998). "Efficient BackProp". In Neural
       Networks: Tricks of the Trade, Springer.

    Examples
    --------
    The derivative at 20 is nearly 4 exp(-40), although the value is 1:

    >>> import numpy as np
    >>> import opsgrad as og
    >>> y, pull = og.vjp(og.tanh, np.array([0.0, 0.5, 20.0]))
    >>> y.round(4)
    array([0.    , 0.4621, 1.    ])
    >>> (dx,) = pull(np.ones(3))
    >>> dx[:2].round(4)
    array([1.    , 0.7864])
    >>> print(f"{dx[2]:.4g}")
    1.699e-17
    """
    return xp.tanh(x)


@tanh.derivative
def _(xp: Namespace, x: Array, /) -> Array:
    w = xp.exp(-2.0 * xp.abs(x))
    return 4.0 * w / square_of_one_plus(xp, w)


@op
def relu(xp: Namespace, x: Array, /) -> Array:
    """Compute the rectified linear unit: zero the negative entries.

    ``y = max(x, 0)``

    Parameters
    ----------
    x : array
        Of any shape; floating-point or integer.
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

    Notes
    -----
    The backward rule is ``dx = g`` where x > 0 and 0 where x <= 0 [1]_. At the kink, x = 0, every
    number from 0 to 1 is a subgradient; the rule takes 0, the smallest.

    Value and derivative are exact. At -inf both are 0; at +inf the value is +inf and the derivative
    1. NaN is not swallowed by the comparison: value and gradient are NaN.

    References
    ----------
    .. [1] Nair, V., Hinton, G. E. (2010). "Rectified Linear Units Improve Restricted Boltzmann
       Machines". International Conference on Machine Learning.

    Examples
    --------
    >>> import numpy as np
    >>> import opsgrad as og
    >>> y, pull = og.vjp(og.relu, np.array([-2.0, 0.0, 3.0, np.nan]))
    >>> y
    array([ 0.,  0.,  3., nan])
    >>> pull(np.full(4, 5.0))[0]
    array([ 0.,  0.,  5., nan])
    """
    return where_positive(xp, x, x)


@relu.derivative
def _(xp: Namespace, x: Array, /) -> Array:
    return step(xp, x)


@op
def leaky_relu(xp: Namespace, x: Array, /, *, negative_slope: Finite = 0.01) -> Array:
    """Compute the leaky rectified linear unit: scale the negative entries by a fixed slope.

    ``y = x`` where x > 0, and ``y = negative_slope * x`` elsewhere.

    Parameters
    ----------
    x : array
        Of any shape; floating-point or integer.
    negative_slope : float, optional
        The slope below 0: any finite number, negative ones and those above 1 included. It is
        rounded to the data type of the result.
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
    ParameterError
        A ValueError, if `negative_slope` is not finite, or if rounding makes it 0 or infinite.

    Notes
    -----
    The backward rule is ``dx = g`` where x > 0 and ``dx = negative_slope * g`` where x <= 0 [1]_.
    At the kink, x = 0, the slope of the left side is taken; for slopes from 0 to 1 it is the
    subgradient of the smallest magnitude. For a slope that is learnt, see `prelu`.

    The value is the exact product, rounded once. With ``negative_slope=0`` the op is `relu`, and
    gives 0 at -inf too. NaN gives NaN, in value and gradient.

    References
    ----------
    .. [1] Maas, A. L., Hannun, A. Y., Ng, A. Y. (2013). "Rectifier Nonlinearities Improve Neural
       Network Acoustic Models". ICML Workshop on Deep Learning for Audio, Speech and Language
       Processing.

    Examples
    --------
    >>> import numpy as np
    >>> import opsgrad as og
    >>> y, pull = og.vjp(og.leaky_relu, np.array([-4.0, 0.0, 2.0]), negative_slope=0.25)
    >>> y
    array([-1.,  0.,  2.])
    >>> pull(np.ones(3))[0]
    array([0.25, 0.25, 1.  ])
    >>> float(og.leaky_relu(-np.inf, negative_slope=0.0))
    0.0
    """
    if negative_slope == 0.0:  # 0 · (-inf) must be 0
        return where_positive(xp, x, x)
    return xp.where(x < 0, negative_slope * x, x)


@leaky_relu.derivative
def _(xp: Namespace, x: Array, /, *, negative_slope: float) -> Array:
    below = xp.where(x <= 0, xp.full_like(x, negative_slope), x)
    return xp.where(x > 0, xp.ones_like(x), below)


@op
def prelu(xp: Namespace, x: Array, alpha: Shared, /) -> Array:
    """Compute the parametric rectified linear unit: scale the negative entries by learnt slopes.

    ``y = x`` where x > 0, and ``y = alpha * x`` elsewhere.

    Parameters
    ----------
    x : array
        Of any shape; floating-point or integer.
    alpha : array
        The slopes below 0, floating-point or integer, of a shape that broadcasts against that of
        `x` by the usual rules: () for one slope, (channels,) for one per entry of the last axis.
    backend : str, optional
        The backend to run on, the arrays' own by default.

    Returns
    -------
    array
        Of the shape that `x` and `alpha` broadcast to, in the data type that they promote to; if
        both hold integers, the library's default floating-point type.

    Raises
    ------
    ArgumentError, DTypeError
        A TypeError, if `x` or `alpha` is not an array of real numbers.
    ShapeError
        A ValueError, if `alpha` does not broadcast against `x`.

    Notes
    -----
    The backward rule is ``dx = g`` where x > 0 and ``dx = g * alpha`` where x <= 0, and
    ``dalpha = g * min(x, 0)``, summed over the entries that share a slope [1]_. At the kink, x = 0,
    the derivative by x is alpha and the one by alpha is 0. Slopes need not lie between 0 and 1.

    The value is the exact product, rounded once. A slope of 0 gives 0 at -inf too. NaN in `x` gives
    NaN in value and gradients; NaN in `alpha` matters only where it is used, at x < 0, and in
    ``dx`` at 0.

    References
    ----------
    .. [1] He, K., Zhang, X., Ren, S., Sun, J. (2015). "Delving Deep into Rectifiers: Surpassing
       Human-Level Performance on ImageNet Classification". International Conference on Computer
       Vision.

    Examples
    --------
    Two channels, each with its slope; the gradient of a slope sums over the examples:

    >>> import numpy as np
    >>> import opsgrad as og
    >>> x, alpha = np.array([[-1.0, -2.0], [3.0, -4.0]]), np.array([0.5, 0.25])
    >>> y, pull = og.vjp(og.prelu, x, alpha)
    >>> y
    array([[-0.5, -0.5],
           [ 3. , -1. ]])
    >>> dx, dalpha = pull(np.ones((2, 2)))
    >>> dalpha
    array([-1., -6.])
    """
    below = xp.where(alpha == 0, xp.zeros_like(alpha), alpha * x)
    return xp.where(x < 0, below, x)


@prelu.check_shapes
def _(x: Shape, alpha: Shape) -> None:
    pairs = zip(reversed(x), reversed(alpha), strict=False)
    if any(a not in (1, n) and n != 1 and known(a) and known(n) for n, a in pairs):
        raise ShapeError(f"prelu: alpha must broadcast against x of shape {x}, got shape {alpha}")


@prelu.derivative
def _(xp: Namespace, x: Array, alpha: Array, /) -> tuple[Array, Array]:
    by_x = xp.where(x > 0, xp.ones_like(x), xp.where(x <= 0, alpha, x))
    by_alpha = xp.where(x >= 0, xp.zeros_like(x), x)
    return by_x, by_alpha


@op
def softplus(xp: Namespace, x: Array, /) -> Array:
    """Compute softplus, the smooth counterpart of `relu`, of every entry.

    ``y = log(1 + exp(x))``

    Parameters
    ----------
    x : array
        Of any shape; floating-point or integer.
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

    Notes
    -----
    It is computed as ``max(x, 0) + log1p(exp(-|x|))``, which neither overflows nor needs a
    threshold beyond which y = x. Largest error measured: 1.7 units in the last place; 3 where the
    library's own ``exp`` or ``log1p`` is less exact (NumPy in float32, JAX).

    The backward rule is ``dx = g * sigmoid(x)`` [1]_, with `sigmoid` in its own stable form.

    At -inf the value and the derivative are 0; at +inf the value is +inf and the derivative 1. NaN
    gives NaN.

    References
    ----------
    .. [1] Dugas, C., Bengio, Y., Bélisle, F., Nadeau, C., Garcia, R. (2001). "Incorporating
       Second-Order Functional Knowledge for Better Option Pricing". Advances in Neural Information
       Processing Systems 13.

    Examples
    --------
    >>> import numpy as np
    >>> import opsgrad as og
    >>> y, pull = og.vjp(og.softplus, np.array([-1.0, 0.0, 1000.0]))
    >>> y.round(4).tolist()
    [0.3133, 0.6931, 1000.0]
    >>> pull(np.ones(3))[0].round(4)
    array([0.2689, 0.5   , 1.    ])

    Far to the left it is exp(x), where ``log(1 + exp(x))`` as written would be 0:

    >>> print(f"{float(og.softplus(-50.0)):.4g}")
    1.929e-22
    """
    return where_positive(xp, x, x) + xp.log1p(xp.exp(minus_abs(xp, x, at_zero=1)))


@softplus.derivative
def _(xp: Namespace, x: Array, /) -> Array:
    return sigmoid.body(xp, x)


@op
def log_sigmoid(xp: Namespace, x: Array, /) -> Array:
    """Compute the logarithm of the logistic sigmoid of every entry.

    ``y = log(1 / (1 + exp(-x))) = -softplus(-x)``

    Parameters
    ----------
    x : array
        Of any shape; floating-point or integer.
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

    Notes
    -----
    It is the log-probability of the positive class for a logit x; ``log_sigmoid(-x)`` is that of
    the negative class. It is computed as ``min(x, 0) - log1p(exp(-|x|))``; the logarithm of
    `sigmoid` would be -inf where that underflows, and 0 where it rounds to 1. Largest error
    measured: 1.6 units in the last place; 3.1 where the library's own ``exp`` or ``log1p`` is less
    exact (NumPy in float32, JAX).

    The backward rule is ``dx = g * sigmoid(-x)``.

    At -inf the value is -inf and the derivative 1; at +inf both are 0. NaN gives NaN.

    References
    ----------
    Derivation: d/dx of -log(1 + exp(-x)) is exp(-x) / (1 + exp(-x)) = sigmoid(-x).

    Examples
    --------
    >>> import numpy as np
    >>> import opsgrad as og
    >>> y, pull = og.vjp(og.log_sigmoid, np.array([-1000.0, 0.0, 1.0]))
    >>> y.round(4).tolist()
    [-1000.0, -0.6931, -0.3133]
    >>> pull(np.ones(3))[0].round(4)
    array([1.    , 0.5   , 0.2689])

    To the right, where `sigmoid` rounds to 1, it keeps its digits:

    >>> print(f"{float(og.log_sigmoid(50.0)):.4g}")
    -1.929e-22
    """
    return -where_positive(xp, -x, -x) - xp.log1p(xp.exp(minus_abs(xp, x)))


@log_sigmoid.derivative
def _(xp: Namespace, x: Array, /) -> Array:
    return sigmoid.body(xp, -x)


@op
def sign(xp: Namespace, x: Array, /) -> Array:
    """Compute the sign of every entry.

    ``y = 1`` where x > 0, ``y = -1`` where x < 0, and ``y = 0`` at 0.

    Parameters
    ----------
    x : array
        Of any shape; floating-point or integer.
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

    Notes
    -----
    The backward rule is ``dx = 0`` everywhere: the function is constant on both sides of 0, and at
    the jump itself, where no derivative exists, the rule takes 0 too. A network cannot learn
    through it.

    The sign of NaN is NaN, its gradient 0. The sign of -0.0 is -0.0.

    References
    ----------
    Derivation: it is the derivative of `abs`, whose slope does not change on either side of 0.

    Examples
    --------
    >>> import numpy as np
    >>> import opsgrad as og
    >>> y, pull = og.vjp(og.sign, np.array([-3.0, 0.0, 0.5, np.nan]))
    >>> y
    array([-1.,  0.,  1., nan])
    >>> pull(np.ones(4))[0]
    array([0., 0., 0., 0.])
    """
    return signum(xp, x)


@sign.derivative
def _(xp: Namespace, x: Array, /) -> Array:
    return xp.zeros_like(x)


@op
def abs(xp: Namespace, x: Array, /) -> Array:
    """Compute the magnitude of every entry.

    ``y = |x|``

    Parameters
    ----------
    x : array
        Of any shape; floating-point or integer.
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

    Notes
    -----
    The backward rule is ``dx = g * sign(x)``. At the kink, x = 0, every number from -1 to 1 is a
    subgradient [1]_; the rule takes 0, the smallest in magnitude.

    Value and derivative are exact. At -inf and +inf the value is +inf and the derivative -1 and 1.
    NaN gives NaN, in value and gradient.

    References
    ----------
    .. [1] Rockafellar, R. T. (1970). "Convex Analysis". Princeton University Press, section 23.

    Examples
    --------
    >>> import numpy as np
    >>> import opsgrad as og
    >>> y, pull = og.vjp(og.abs, np.array([-3.0, 0.0, 2.0]))
    >>> y
    array([3., 0., 2.])
    >>> pull(np.array([10.0, 10.0, 10.0]))[0]
    array([-10.,   0.,  10.])
    """
    return xp.abs(x)


@abs.derivative
def _(xp: Namespace, x: Array, /) -> Array:
    return signum(xp, x)

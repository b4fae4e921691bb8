"""The dense layer: an affine map of the last axis."""

from opsgrad._arrays import known, same_shape
from opsgrad._errors import ShapeError
from opsgrad._op import op
from opsgrad._signature import Shape, Shared
from opsgrad._typing import Array, Namespace


@op
def dense(xp: Namespace, x: Array, w: Shared, b: Shared = None, /) -> Array:
    """Compute an affine map of the last axis: a dense layer without activation.

    ``y = x @ w + b``

    Parameters
    ----------
    x : array
        The inputs, of shape (..., in); floating-point or integer.
    w : array
        The weights, of shape (in, out): inputs first, the transpose of what some libraries store.
    b : array, optional
        The biases, of shape (out,); without them, or with None, nothing is added.
    backend : str, optional
        The backend to run on, the arrays' own by default.

    Returns
    -------
    array
        Of shape (..., out), in the data type that the arrays promote to; if all hold integers, the
        library's default floating-point type.

    Raises
    ------
    ArgumentError, DTypeError
        A TypeError, if an argument is not an array of real numbers.
    ShapeError
        A ValueError, if the shapes do not fit; the message says so if `w` looks transposed.

    Notes
    -----
    The backward rule is ``dx = g @ w.T``, ``dw = x.T @ g`` and ``db = g``, the last two summed over
    all the examples, that is over every axis but the last [1]_. Zero weights stop the gradient: the
    layers below get ``dx = 0`` and learn nothing.

    The accuracy is that of the library's matrix product, which adds in whatever order is fastest.
    NaN and infinities spread as they do there. No examples give a result of no rows and gradients
    of 0; for in = 0 the result is `b`.

    References
    ----------
    .. [1] Rumelhart, D. E., Hinton, G. E., Williams, R. J. (1986). "Learning Representations by
       Back-Propagating Errors". Nature 323.

    Examples
    --------
    >>> import numpy as np
    >>> import opsgrad as og
    >>> x, w = np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[1.0, 0.0, -1.0], [0.0, 1.0, 1.0]])
    >>> y, pull = og.vjp(og.dense, x, w, np.array([10.0, 20.0, 30.0]))
    >>> y
    array([[11., 22., 31.],
           [13., 24., 31.]])
    >>> dx, dw, db = pull(np.ones((2, 3)))
    >>> dw
    array([[4., 4., 4.],
           [6., 6., 6.]])
    >>> db
    array([2., 2., 2.])
    """
    out = xp.matmul(x, w)
    return out if b is None else out + b


@dense.check_shapes
def _(x: Shape, w: Shape, b: Shape | None = None) -> None:
    if len(x) == 0:
        raise ShapeError("dense: x must have at least one axis, of length in, got shape ()")
    if len(w) != 2:
        raise ShapeError(f"dense: w must have shape (in, out), got {w}")
    if known(x[-1]) and known(w[0]) and x[-1] != w[0]:
        hint = "; it looks laid out (out, in): pass its transpose" if w[1] == x[-1] else ""
        raise ShapeError(
            f"dense: w must have shape (in, out) with in = {x[-1]}, the last axis of x of shape "
            f"{x}, got {w}{hint}"
        )
    if b is not None and not same_shape(b, w[1:]):
        raise ShapeError(f"dense: b must have shape (out,) = {w[1:]}, got {b}")


@dense.vjp_rule(keeps=("x", "w"))
def _(xp: Namespace, x: Array, w: Array, g: Array, /) -> tuple[Array, Array, Array]:
    by_x = xp.matmul(g, xp.matrix_transpose(w))
    if x.ndim == 1:
        return by_x, x[:, None] * g[None, :], g
    if x.ndim == 2:
        return by_x, xp.matmul(xp.matrix_transpose(x), g), xp.sum(g, axis=0)
    batch = tuple(range(x.ndim - 1))
    by_b = g
    for _ in batch:
        by_b = xp.sum(by_b, axis=0)
    return by_x, xp.tensordot(x, g, axes=(batch, batch)), by_b


@dense.jacobian_rule(keeps=("x", "w"))
def _(xp: Namespace, x: Array, w: Array, /) -> Array:
    return xp.broadcast_to(xp.matrix_transpose(w), (*x.shape[:-1], w.shape[1], w.shape[0]))


@dense.jvp_rule(keeps=("x", "w"))
def _(xp: Namespace, x: Array, w: Array, dx: Array, dw: Array, db: Array | None, /) -> Array:
    out = xp.matmul(dx, w) + xp.matmul(x, dw)
    return out if db is None else out + db

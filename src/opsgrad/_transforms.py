"""The transforms: what is asked of an op's rules."""

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeAlias, overload

import numpy as np

from opsgrad._chain import Chain
from opsgrad._errors import ArgumentError
from opsgrad._jacobian import Jacobian
from opsgrad._op import Differentiable, Op, unwrap

P = ParamSpec("P")
Pullback: TypeAlias = Callable[..., tuple[Any, ...]]
Function: TypeAlias = Differentiable | functools.partial[Any]


@overload
def vjp(
    op: Op[Any], /, *arrays: Any, backend: str | None, **parameters: Any
) -> tuple[Any, Pullback]: ...
@overload
def vjp(op: Op[P], /, *arrays: P.args, **parameters: P.kwargs) -> tuple[Any, Pullback]: ...
@overload
def vjp(
    op: Chain | functools.partial[Any], /, *arrays: Any, **parameters: Any
) -> tuple[Any, Pullback]: ...
def vjp(op: Any, /, *arrays: Any, **parameters: Any) -> tuple[Any, Pullback]:
    """Run an op and return its pullback: from a cotangent of the result to the gradients.

    The vector-Jacobian product, reverse mode: ``pull(g)`` is ``g · dy/dx`` for each array x.

    Parameters
    ----------
    op : op, chain or functools.partial of one
        What to run.
    *arrays : array
        The op's arrays.
    backend : str, optional
        The backend to run on, the arrays' own by default.
    **parameters
        The op's parameters.

    Returns
    -------
    y : array
        The op's result.
    pull : callable
        ``pull(g)``, with `g` of the shape of `y`, returns a tuple of one gradient for each array
        given, None for those that hold integers. Each has the shape, data type, device and
        namespace of its array (moved, if `backend` moved it), and memory of its own. It may be
        called any number of times. It holds on to the arrays that the op's rule keeps, without
        copying them: do not write into them, nor into `y`, before the last call.

    Raises
    ------
    ArgumentError
        A TypeError, if `op` is not an op, or the arguments are not the op's.
    ShapeError, DTypeError
        From `pull`, if the cotangent has another shape than `y` or is not floating-point.

    Examples
    --------
    >>> import numpy as np
    >>> import opsgrad as og
    >>> y, pull = og.vjp(og.squared_l2_norm, np.array([1.0, 2.0, 3.0]))
    >>> float(y)
    14.0
    >>> (dx,) = pull(1.0)
    >>> dx
    array([2., 4., 6.])
    """
    function, parameters, backend = unwrap("vjp", op, parameters)
    linear = function.linearize(arrays, parameters, backend, ("vjp",))
    return linear.value, linear.pull


def jvp(
    op: Function,
    /,
    primals: Sequence[Any],
    tangents: Sequence[Any],
    **parameters: Any,
) -> tuple[Any, Any]:
    """Run an op and push tangents of its arrays forward to the tangent of its result.

    The Jacobian-vector product, forward mode: ``dy = sum over the arrays of dy/dx · dx``.

    Parameters
    ----------
    op : op, chain or functools.partial of one
        What to run.
    primals : tuple of array
        The op's arrays.
    tangents : tuple of array
        A tangent for each of them, of its shape; None for those that hold integers.
    backend : str, optional
        The backend to run on, the arrays' own by default.
    **parameters
        The op's parameters.

    Returns
    -------
    y : array
        The op's result.
    dy : array
        Its tangent, of the same shape and data type.

    Raises
    ------
    ArgumentError
        A TypeError, if `op` is not an op, or the number of tangents is not that of the primals.
    ShapeError, DTypeError
        If a tangent has another shape than its primal, or is not floating-point.

    Examples
    --------
    >>> import numpy as np
    >>> import opsgrad as og
    >>> y, dy = og.jvp(og.tanh, (np.array([0.0, 1.0]),), (np.array([1.0, 1.0]),))
    >>> dy.round(4)
    array([1.  , 0.42])
    """
    function, parameters, backend = unwrap("jvp", op, parameters)
    for word, values in (("primals", primals), ("tangents", tangents)):
        if not isinstance(values, tuple | list):
            raise ArgumentError(
                f"jvp of {function.__name__}: {word} must be a tuple with one entry for each "
                f"array, got {type(values).__name__}"
            )
    return function.pushforward(tuple(primals), tuple(tangents), parameters, backend)


def jacobian(
    op: Function,
    /,
    *arrays: Any,
    argnum: int = 0,
    **parameters: Any,
) -> Jacobian:
    """Return the Jacobian of an op with respect to one of its arrays, as an operator.

    Parameters
    ----------
    op : op, chain or functools.partial of one
        What to differentiate.
    *arrays : array
        The op's arrays.
    argnum : int, optional
        Which of them to differentiate by; the first by default.
    backend : str, optional
        The backend to run on, the arrays' own by default.
    **parameters
        The op's parameters.

    Returns
    -------
    Jacobian
        ``J @ v`` is the tangent of the result for a tangent `v` shaped like the array, ``J.T @ g``
        the gradient for a cotangent `g` shaped like the result. ``J.dense()``, of shape
        ``J.shape``, has the batch axes first, then output, then input: (3, 5, 5) for softmax of a
        (3, 5) array, (3, 5) for a norm of it. An elementwise op counts its last axis as the row.
        By weights and the like (w, b, alpha), which have no batch axes, and for reduced losses, it
        has the shape of the result followed by that of the array.

    Raises
    ------
    ArgumentError
        A TypeError, if `op` is not an op, or `argnum` is none of its arrays.
    DTypeError
        A TypeError, if that array holds integers.

    Examples
    --------
    >>> import numpy as np
    >>> import opsgrad as og
    >>> J = og.jacobian(og.softmax, np.array([0.0, np.log(2.0)]))
    >>> J.dense().round(4)
    array([[ 0.2222, -0.2222],
           [-0.2222,  0.2222]])
    >>> (J.T @ np.array([1.0, 0.0])).round(4)
    array([ 0.2222, -0.2222])
    """
    function, parameters, backend = unwrap("jacobian", op, parameters)
    number = _array_number("jacobian", "argnum", function, argnum, len(arrays))
    if function.array_names[number] == "params":
        raise ArgumentError(
            f"jacobian of {function.__name__}: argnum 1 is the nested tuple of parameters, which "
            "has no one Jacobian; use vjp or jvp, or the jacobian of a single stage"
        )
    stated = tuple(role for role in ("derivative", "jacobian") if function.has_rule(role))
    roles = ("vjp", "jvp", *stated)
    linear = function.linearize(arrays, parameters, backend, roles, by=(number,))
    return Jacobian(function.__name__, linear, number)


def value_and_grad(
    op: Function, argnums: int | tuple[int, ...] = 0
) -> Callable[..., tuple[Any, Any]]:
    """Return a function that runs an op and gives the gradient of the sum of its values with it.

    Parameters
    ----------
    op : op, chain or functools.partial of one
        What to differentiate; mostly a loss.
    argnums : int or tuple of int, optional
        Which of its arrays to differentiate by; the first by default.

    Returns
    -------
    callable
        ``f(*arrays, **parameters)`` returns ``(value, gradient)``, and a tuple of gradients where
        `argnums` is a tuple.

    Raises
    ------
    ArgumentError
        A TypeError, if `op` is not an op, or `argnums` names none of its arrays.
    DTypeError
        From the function, a TypeError, if such an array holds integers.

    Notes
    -----
    Gradients by other arrays are not computed where one compiled kernel gives value and gradients:
    `which_backend` says whether there is one.

    Examples
    --------
    >>> import numpy as np
    >>> import opsgrad as og
    >>> loss_and_gradient = og.value_and_grad(og.softmax_cross_entropy_with_integer_labels)
    >>> logits, labels = np.zeros((2, 4)), np.array([0, 3])
    >>> loss, dlogits = loss_and_gradient(logits, labels, reduction="mean")
    >>> round(float(loss), 4)
    1.3863
    >>> dlogits
    array([[-0.375,  0.125,  0.125,  0.125],
           [ 0.125,  0.125,  0.125, -0.375]])
    """
    function, fixed, chosen = unwrap("value_and_grad", op, {})
    given = argnums if isinstance(argnums, tuple) else (argnums,)
    every = len(function.array_names)
    numbers = tuple(
        _array_number("value_and_grad", "argnums", function, one, every) for one in given
    )
    wanted = tuple(sorted(set(numbers)))
    places = tuple(wanted.index(number) for number in numbers)
    last = max(numbers, default=-1)

    def run(*arrays: Any, **parameters: Any) -> tuple[Any, Any]:
        backend = parameters.pop("backend", chosen)
        complete = fixed | parameters if fixed else parameters
        if 0 < len(arrays) <= last:  # without any, the op says what is missing
            _array_number("value_and_grad", "argnums", function, last, len(arrays))
        value, gradients = function.value_and_gradients(arrays, complete, backend, wanted)
        if not isinstance(argnums, tuple):
            return value, gradients[0]
        return value, tuple([gradients[place] for place in places])

    return run


def _array_number(
    transform: str, word: str, function: Differentiable, number: Any, count: int
) -> int:
    """Return an `argnum` as an int, or raise if it is none of the arrays."""
    try:
        place = -1 if isinstance(number, bool | np.bool_) else operator.index(number)
    except TypeError:
        place = -1
    if not 0 <= place < max(count, 1):
        names = ", ".join(f"{k} ({name})" for k, name in enumerate(function.array_names))
        raise ArgumentError(
            f"{transform} of {function.__name__}: {word} must be among the {count} arrays given of "
            f"{names}; got {number!r}"
        )
    return place

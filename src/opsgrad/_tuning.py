"""What there is to tune: compiling ahead of time, and the number of threads."""

import contextlib
import itertools
from collections.abc import Iterable
from typing import Any

import numpy as np

from opsgrad._errors import ArgumentError, DTypeError, ShapeError
from opsgrad._op import Op, unwrap
from opsgrad._signature import Role, integer
from opsgrad._transforms import value_and_grad, vjp

ROWS, COLUMNS = 256, 64
"""As many entries as make the CPU engine compile."""


def warmup(ops: Any, dtypes: Iterable[Any] = ("float32",)) -> None:
    """Compile the kernels of ops, for values and gradients along the last axis.

    That is: the value, the gradients by all arrays, and value and gradient by the first array
    together, as `value_and_grad` has them. Losses are compiled for every ``reduction``, where no
    ``functools.partial`` says which.

    Without it the first large array of each data type waits for the compiler, for 0.1 to 0.6 s a
    body or rule, and small ones run as they are written until then. What was compiled is kept on
    disk for other processes too, in the user's cache directory or where ``OPSGRAD_CACHE_DIR`` says.

    Parameters
    ----------
    ops : op, functools.partial of one, or iterable of them
        What to compile; a ``functools.partial`` says with which parameters.
    dtypes : iterable of data types, optional
        For which data types: ``"float32"``, ``"float64"`` or both.

    Returns
    -------
    None

    Raises
    ------
    ArgumentError
        A TypeError, if one of `ops` is not an op.
    DTypeError
        A TypeError, if one of `dtypes` is another data type.

    Notes
    -----
    Where no kernel can be made (see `which_backend`), or llvmlite is not installed, it does nothing
    that lasts.

    Examples
    --------
    >>> import opsgrad as og
    >>> og.warmup([og.softmax, og.sigmoid], dtypes=["float32", "float64"])
    """
    several = ops if isinstance(ops, Iterable) else (ops,)
    every = [unwrap("warmup", one, {}) for one in several]
    for function, _, _ in every:
        if not isinstance(function, Op):
            raise ArgumentError(f"warmup: takes single ops, got {function!r}; pass its stages")
    for (function, parameters, _), dtype in itertools.product(every, map(_real, dtypes)):
        assert isinstance(function, Op)
        _run(function, parameters, dtype)


def _real(dtype: Any) -> np.dtype[Any]:
    """Return a data type that is float32 or float64, or raise."""
    try:
        real: np.dtype[Any] = np.dtype(dtype)
    except TypeError:
        real = np.dtype(object)
    if real not in (np.float32, np.float64):
        raise DTypeError(f"warmup: dtypes must be of float32 and float64, got {dtype!r}")
    return real


def _run(op: Op[Any], parameters: dict[str, Any], dtype: np.dtype[Any]) -> None:
    shapes = {Role.LABELS: (ROWS,), Role.SHARED: (COLUMNS,)}
    arrays = [
        np.zeros(shapes.get(one.role, (ROWS, COLUMNS)), int if one.role is Role.LABELS else dtype)
        for one in op.signature.arguments
        if not one.optional
    ]
    keywords = parameters | {"backend": "numpy"}
    with contextlib.suppress(ShapeError):  # weights of another form: nothing of it is compiled
        for reduction in _reductions(op, parameters):
            op(*arrays, **keywords, **reduction)
            if op.has_rule("vjp"):
                value, pull = vjp(op, *arrays, **keywords, **reduction)
                pull(np.ones_like(value))
                value_and_grad(op)(*arrays, **keywords, **reduction)


def _reductions(op: Op[Any], parameters: dict[str, Any]) -> list[dict[str, str]]:
    """Return the reductions of a loss, as keywords; what rows have in common is compiled once."""
    if "reduction" in parameters or "reduction" not in op.signature.parameters:
        return [{}]
    return [{"reduction": one} for one in ("none", "mean", "sum")]


def set_num_threads(number: int) -> None:
    """Set how many threads a compiled kernel may use.

    Without it, and without the environment variable ``OPSGRAD_NUM_THREADS``, these are as many as
    there are processors for this process. Small arrays take one.

    Parameters
    ----------
    number : int
        How many, 1 or more.

    Returns
    -------
    None

    Raises
    ------
    ArgumentError
        A TypeError, if `number` is not an integer.
    ParameterError
        A ValueError, if it is less than 1.

    Notes
    -----
    Where llvmlite is not installed there are no kernels, and it changes nothing.

    Examples
    --------
    >>> import opsgrad as og
    >>> og.set_num_threads(1)
    """
    from opsgrad.fusion import threads

    threads.set_num_threads(integer("set_num_threads", "number", number))

"""What there is to tune: compiling ahead of time, and the number of threads."""

import contextlib
import operator
from collections.abc import Iterable
from typing import Any

import numpy as np

from opsgrad._errors import ArgumentError, ParameterError, ShapeError
from opsgrad._op import Op, unwrap
from opsgrad._signature import Role
from opsgrad._transforms import vjp
from opsgrad.backends._engine import why_unavailable

ROWS, COLUMNS = 256, 64
"""As many entries as make the CPU engine compile."""


def warmup(ops: Any, dtypes: Iterable[Any] = ("float32",)) -> None:
    """Compile the kernels of ops, for values and gradients along the last axis.

    Without it the first large array of each data type waits for the compiler, for 0.1 to 0.5 s an
    op, and small ones run as they are written until then. What was compiled is kept on disk for
    other processes too, in the user's cache directory or where ``OPSGRAD_CACHE_DIR`` says.

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
    for one in several:
        function, parameters, _ = unwrap("warmup", one, {})
        if not isinstance(function, Op):
            raise ArgumentError(f"warmup: takes single ops, got {function!r}; pass its stages")
        for dtype in dtypes:
            _run(function, parameters, np.dtype(dtype))


def _run(op: Op[Any], parameters: dict[str, Any], dtype: np.dtype[Any]) -> None:
    shapes = {Role.LABELS: (ROWS,), Role.SHARED: (COLUMNS,)}
    arrays = [
        np.zeros(shapes.get(one.role, (ROWS, COLUMNS)), int if one.role is Role.LABELS else dtype)
        for one in op.signature.arguments
        if not one.optional
    ]
    with contextlib.suppress(ShapeError):  # weights of another form: nothing of it is compiled
        if op.has_rule("vjp"):
            value, pull = vjp(op, *arrays, backend="numpy", **parameters)
            pull(np.ones_like(value))
        else:
            op(*arrays, backend="numpy", **parameters)


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
    try:
        if isinstance(number, bool):
            raise TypeError
        count = operator.index(number)
    except TypeError:
        raise ArgumentError(f"set_num_threads: number must be an integer, got {number!r}") from None
    if count < 1:
        raise ParameterError(f"set_num_threads: number must be 1 or more, got {number!r}")
    if why_unavailable() is None:
        from opsgrad.fusion import threads

        threads.set_num_threads(count)

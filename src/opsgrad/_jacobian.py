"""The Jacobian as an operator: products through the rules, the matrix only when asked for."""

import math
from typing import Any

from array_api_compat import array_namespace

from opsgrad._arrays import without_axis
from opsgrad._errors import ArgumentError
from opsgrad._op import Linearized
from opsgrad._signature import Shape
from opsgrad._typing import Array


class Jacobian:
    """The derivative of a function at a point, as an operator on arrays.

    ``J @ v`` is the tangent of the result for a tangent `v` of the argument, ``J.T @ g`` the
    gradient for a cotangent `g` of the result: both have the shape of what they stand for, and
    neither builds a matrix. ``J.dense()`` builds it.

    Attributes
    ----------
    shape : tuple of int
        The shape of ``J.dense()``: the batch axes, then output, then input. Where the argument has
        no batch axes, the shape of the result and then that of the argument.
    dtype
        The data type of the result.
    T : operator
        The transpose: cotangents to gradients.

    Examples
    --------
    >>> import numpy as np
    >>> import opsgrad as og
    >>> J = og.jacobian(og.softmax, np.zeros((2, 3)))
    >>> J.shape
    (2, 3, 3)
    >>> (J @ np.ones((2, 3))).tolist()
    [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    >>> J.dense()[0].round(3)
    array([[ 0.222, -0.111, -0.111],
           [-0.111,  0.222, -0.111],
           [-0.111, -0.111,  0.222]])
    """

    __array_ufunc__ = None  # so that NumPy leaves `array @ J` to fail here, by name

    def __init__(self, name: str, linear: Linearized, argnum: int) -> None:
        self._name = name
        self._linear = linear
        self._argnum = argnum
        self._input = linear.inputs[argnum].shape
        self._output = tuple(linear.value.shape)
        self._rows = _Rows.find(linear.row_axis(argnum), self._input, self._output)
        self.dtype = linear.value.dtype
        if self._rows is None:
            self.shape: Shape = (*self._output, *self._input)
        else:
            self.shape = (*self._rows.batch, *self._rows.output, self._rows.length)

    @property
    def T(self) -> "Transposed":
        """The transpose, an operator from cotangents to gradients."""
        return Transposed(self)

    def __matmul__(self, tangent: Any) -> Array:
        """Return the tangent of the result: the Jacobian-vector product."""
        if tangent is None:
            name = self._linear.inputs[self._argnum].argument.name
            raise ArgumentError(f"{self._name}: the tangent of {name} must be an array, got None")
        tangents = [None] * len(self._linear.inputs)
        tangents[self._argnum] = tangent
        return self._linear.push(tuple(tangents))

    def __rmatmul__(self, other: Any) -> Array:
        raise ArgumentError(f"{self._name}: a Jacobian multiplies from the left: use J.T @ g")

    def dense(self) -> Array:
        """Return the Jacobian as an array of shape ``J.shape``."""
        with self._linear.backend.beside(self._linear.value):
            return self._dense()

    def _dense(self) -> Array:
        if self._rows is None:
            return self._pair_by_pair()
        if self._linear.matrices is not None:
            matrices = self._linear.matrices(self._argnum)
            if matrices is not None:
                return matrices
        return self._row_by_row(self._rows)

    def _row_by_row(self, rows: "_Rows") -> Array:
        """Send the unit vectors of one row through the rules, for all rows of the batch at once."""
        xp = self._linear.backend.namespace
        if not rows.output:
            return _rows_last(self._gradient(xp.ones_like(self._linear.value)), rows.axis)
        if rows.output[0] <= rows.length:
            units = self._unit_vectors(self._output, rows.axis)
            gradients = [_rows_last(self._gradient(unit), rows.axis) for unit in units]
            return self._stack(gradients, -2)
        units = self._unit_vectors(self._input, rows.axis)
        return self._stack([_rows_last(self @ unit, rows.axis) for unit in units], -1)

    def _pair_by_pair(self) -> Array:
        """Send every unit array through the rules: the matrix of a function of no known form."""
        xp = self._linear.backend.namespace
        outputs, inputs = (math.prod(self._output),), (math.prod(self._input),)
        if outputs <= inputs:
            units = [xp.reshape(u, self._output) for u in self._unit_vectors(outputs, -1)]
            stacked = self._stack([self._gradient(unit) for unit in units], 0)
        else:
            units = [xp.reshape(u, self._input) for u in self._unit_vectors(inputs, -1)]
            stacked = self._stack([self @ unit for unit in units], -1)
        return array_namespace(stacked).reshape(stacked, self.shape)

    def _unit_vectors(self, shape: Shape, axis: int) -> list[Array]:
        """Return the arrays of `shape` that are 1 at one place of `axis` and 0 elsewhere."""
        xp, length = self._linear.backend.namespace, shape[axis]
        places = xp.arange(length, device=self._linear.device)
        places = xp.reshape(places, (length, *(1,) * (-axis - 1)))
        return [
            xp.broadcast_to(xp.astype(places == place, self.dtype), shape)
            for place in range(length)
        ]

    def _stack(self, arrays: list[Array], axis: int) -> Array:
        xp = self._linear.backend.namespace
        if not arrays:
            return xp.zeros(self.shape, dtype=self.dtype, device=self._linear.device)
        # Of their own namespace: the gradient of a chain may live elsewhere than its value.
        own = array_namespace(arrays[0])
        stacked = own.stack(arrays, axis=axis)
        if own is not array_namespace(self._linear.value):
            return stacked
        return own.astype(stacked, self.dtype, copy=False)

    def _gradient(self, cotangent: Any) -> Array:
        return self._linear.pull(cotangent)[self._argnum]

    def __repr__(self) -> str:
        return f"<Jacobian of {self._name}: shape {self.shape}>"


class Transposed:
    """The transpose of a `Jacobian`: an operator from cotangents to gradients."""

    __array_ufunc__ = None

    def __init__(self, jacobian: Jacobian) -> None:
        self.T = jacobian
        self.dtype = jacobian.dtype

    @property
    def shape(self) -> Shape:
        """The shape of ``J.T.dense()``: the batch axes, then input, then output."""
        jacobian, rows = self.T, self.T._rows
        if rows is None:
            return (*jacobian._input, *jacobian._output)
        return (*rows.batch, rows.length, *rows.output)

    def __matmul__(self, cotangent: Any) -> Array:
        """Return the gradient: the vector-Jacobian product."""
        return self.T._gradient(cotangent)

    def __rmatmul__(self, other: Any) -> Array:
        raise ArgumentError(f"{self.T._name}: a Jacobian multiplies from the left: use J @ v")

    def dense(self) -> Array:
        """Return the transposed Jacobian as an array."""
        xp = self.T._linear.backend.namespace
        dense, rows = self.T.dense(), self.T._rows
        if rows is not None:
            return xp.matrix_transpose(dense) if rows.output else dense
        outputs = len(self.T._output)
        axes = range(dense.ndim)
        return xp.permute_dims(dense, (*axes[outputs:], *axes[:outputs]))

    def __repr__(self) -> str:
        return f"<transposed Jacobian of {self.T._name}: shape {self.shape}>"


class _Rows:
    """A function that runs row by row: along `axis` alone, the same for every row of a batch."""

    def __init__(self, axis: int, batch: Shape, length: int, output: Shape) -> None:
        self.axis = axis
        self.batch = batch
        self.length = length
        self.output = output

    @staticmethod
    def find(axis: int | None, argument: Shape, value: Shape) -> "_Rows | None":
        """Return how the rows lie; `output` is empty where a row becomes a single number."""
        if axis is None:
            return None
        batch = without_axis(argument, axis)
        if value == batch:
            return _Rows(axis, batch, argument[axis], ())
        if len(value) == len(argument) and without_axis(value, axis) == batch:
            return _Rows(axis, batch, argument[axis], (value[axis],))
        return None


def _rows_last(array: Array, axis: int) -> Array:
    return array_namespace(array).moveaxis(array, axis, -1)

"""An op's rules inside JAX's own differentiation.

The JVP is a `jax.custom_jvp`, which composes with `jit`, `vmap` and itself. Its tangent is a
primitive that is linear by declaration, with our VJP rule for its transpose. Left to JAX, reverse
mode would transpose the steps of the JVP rule: those may not compare a tangent with 0, and a zero
cotangent would meet infinite slopes as 0 · inf. `jax.custom_derivatives.linear_call` declares such
pairs too, but it has no batching rule, and its residuals cannot be differentiated.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from opsgrad._errors import RuleError
from opsgrad._typing import Array
from opsgrad.backends.protocol import Autodiff

Arrays = Sequence[Any]
Linear = Callable[[Arrays, Arrays], Arrays]


def record(call: Autodiff, arrays: tuple[Array | None, ...]) -> Array:
    """Return the value of a call that JAX differentiates by the op's rules."""
    import jax

    if call.push is None and call.pull is None:
        return call.value(*arrays)
    function = jax.custom_jvp(lambda *given: call.value(*_in_jax(given)))
    function.defjvp(functools.partial(_push, call), symbolic_zeros=True)
    return function(*arrays)


def _push(call: Autodiff, arrays: Arrays, tangents: Arrays) -> tuple[Array, Array]:
    """Return value and tangent: the rule that `jax.custom_jvp` takes."""
    import jax
    import jax.numpy as jnp

    arrays = _in_jax(arrays)
    value = record(call, arrays)  # an outer derivative may be watching it too
    zero = jax.custom_derivatives.SymbolicZero
    moving = [
        number
        for number, tangent in enumerate(tangents)
        if call.differentiable[number] and not isinstance(tangent, zero)
    ]
    if not moving:
        return value, jnp.zeros_like(value)
    directions = [tangents[number] for number in moving]
    if call.pull is None:  # JAX transposes the steps of the JVP rule
        return value, _along(call, arrays, moving, _in_jax(directions))
    there = [number for number, array in enumerate(arrays) if array is not None]
    derivative = _derivative(call, there, moving, [arrays[k] for k in moving], value)
    (tangent,) = _bind([arrays[number] for number in there], directions, derivative)
    return value, tangent


def _in_jax(values: Arrays) -> tuple[Any, ...]:
    """Return arrays as JAX's own: its transforms hand on the NumPy arrays that they are given."""
    import jax.numpy as jnp

    return tuple(None if value is None else jnp.asarray(value) for value in values)


def _along(call: Autodiff, arrays: Arrays, moving: Sequence[int], given: Arrays) -> Array:
    """Apply the JVP rule to tangents of the arrays that `moving` numbers; the others' are zero."""
    if call.push is None:
        raise RuleError(f"{call.op}: has no jvp rule; add one with @{call.op}.jvp_rule")
    return call.push(tuple(arrays), _placed(moving, given, len(arrays)))


def _placed(places: Sequence[int], values: Arrays, count: int) -> tuple[Any, ...]:
    """Return `count` entries: `values` at their places, None elsewhere."""
    by_place = dict(zip(places, values, strict=True))
    return tuple(by_place.get(place) for place in range(count))


class LinearMap(NamedTuple):
    """A linear map of some arrays, which depends in any way on others, and its transpose."""

    forward: Linear
    """``forward(residuals, arrays)``."""
    backward: Linear
    """``backward(residuals, cotangents)``: a cotangent for each of the arrays."""
    takes: tuple[Any, ...]
    """Shape and data type of each of the arrays."""
    gives: tuple[Any, ...]
    """Shape and data type of each result."""

    def split(self, values: Arrays) -> tuple[Arrays, Arrays]:
        """Split operands into residuals and arrays."""
        count = len(values) - len(self.takes)
        return tuple(values[:count]), tuple(values[count:])

    def transposed(self) -> "LinearMap":
        """Return the transpose, of which this map is the transpose again."""
        return LinearMap(self.backward, self.forward, self.gives, self.takes)


def _derivative(
    call: Autodiff, there: Sequence[int], moving: Sequence[int], primals: Arrays, value: Array
) -> LinearMap:
    """Return the derivative of a call by the arrays numbered `moving`; residuals: those there."""
    count = len(call.differentiable)

    def forward(residuals: Arrays, tangents: Arrays) -> Arrays:
        return (_along(call, _placed(there, residuals, count), moving, tangents),)

    def backward(residuals: Arrays, cotangents: Arrays) -> Arrays:
        assert call.pull is not None
        gradients = call.pull(_placed(there, residuals, count), *cotangents)
        return tuple(gradients[number] for number in moving)

    return LinearMap(forward, backward, tuple(map(_kind, primals)), (_kind(value),))


def _kind(array: Array, *batch: int) -> Any:
    import jax

    return jax.core.ShapedArray((*batch, *array.shape), array.dtype)


# -- the primitive ---------------------------------------------------------------------------------


@functools.cache
def _primitive() -> Any:
    from jax.extend.core import Primitive
    from jax.interpreters import ad, batching, mlir

    primitive = Primitive("opsgrad_linear")
    primitive.multiple_results = True
    primitive.def_impl(_run)
    primitive.def_abstract_eval(lambda *_, derivative: list(derivative.gives))
    ad.primitive_jvps[primitive] = _differentiate
    ad.primitive_transposes[primitive] = _transpose
    batching.primitive_batchers[primitive] = _batch
    mlir.register_lowering(primitive, mlir.lower_fun(_run, multiple_results=True))
    return primitive


def _bind(residuals: Arrays, arrays: Arrays, derivative: LinearMap) -> list[Any]:
    out: list[Any] = _primitive().bind(*residuals, *arrays, derivative=derivative)
    return out


def _run(*operands: Any, derivative: LinearMap) -> list[Any]:
    return list(derivative.forward(*derivative.split(_in_jax(operands))))


def _transpose(cotangents: Arrays, *operands: Any, derivative: LinearMap) -> list[Any]:
    from jax.interpreters import ad

    residuals, arrays = derivative.split(operands)
    given = [ad.instantiate_zeros(cotangent) for cotangent in cotangents]
    gradients = _bind(residuals, given, derivative.transposed())
    # An array that is known is a zero tangent, which takes no cotangent.
    wanted = [
        gradient if ad.is_undefined_primal(array) else None
        for array, gradient in zip(arrays, gradients, strict=True)
    ]
    return [None] * len(residuals) + wanted


def _batch(operands: Arrays, axes: Sequence[int | None], *, derivative: LinearMap) -> Any:
    import jax
    from jax.interpreters import batching

    (size,) = {
        operand.shape[axis]
        for operand, axis in zip(operands, axes, strict=True)
        if axis is not None
    }
    residuals, arrays = derivative.split(operands)
    residual_axes, array_axes = derivative.split(axes)
    # All of them, so that the transpose has no sum over the batch to take.
    arrays = [
        batching.bdim_at_front(array, axis, size)
        for array, axis in zip(arrays, array_axes, strict=True)
    ]
    over = (residual_axes, 0)
    mapped = LinearMap(
        jax.vmap(derivative.forward, in_axes=over),
        jax.vmap(derivative.backward, in_axes=over),
        tuple(_kind(one, size) for one in derivative.takes),
        tuple(_kind(one, size) for one in derivative.gives),
    )
    return _bind(residuals, arrays, mapped), [0] * len(mapped.gives)


def _differentiate(
    operands: Arrays, tangents: Arrays, *, derivative: LinearMap
) -> tuple[list[Any], list[Any]]:
    """Differentiate once more: by the arrays it is the map itself, by the residuals JAX's own."""
    from jax.interpreters import ad

    residuals, arrays = derivative.split(operands)
    by_residuals, by_arrays = derivative.split(tangents)
    parts: list[Arrays] = []
    if not all(type(tangent) is ad.Zero for tangent in by_arrays):
        directions = [ad.instantiate_zeros(tangent) for tangent in by_arrays]
        parts.append(_bind(residuals, directions, derivative))
    if not all(type(tangent) is ad.Zero for tangent in by_residuals):
        parts.append(_by_residuals(residuals, arrays, by_residuals, derivative))
    value = _bind(residuals, arrays, derivative)
    return value, [functools.reduce(ad.add_tangents, each) for each in zip(*parts, strict=True)]


def _by_residuals(
    residuals: Arrays, arrays: Arrays, tangents: Arrays, derivative: LinearMap
) -> Arrays:
    import jax
    from jax.interpreters import ad

    moving = [number for number, one in enumerate(tangents) if type(one) is not ad.Zero]

    def at(*those: Any) -> Arrays:
        moved = list(residuals)
        for number, one in zip(moving, those, strict=True):
            moved[number] = one
        return derivative.forward(tuple(moved), arrays)

    primals = [residuals[number] for number in moving]
    out: Arrays = jax.jvp(at, primals, [tangents[number] for number in moving])[1]
    return out

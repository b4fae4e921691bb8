"""What the ops are timed beside: every op in the best form that each library has for it.

The libraries' own functions are those of the accuracy report. What they lack is written here, out
of their own pieces; last come the textbook's formulas in NumPy, with the gradients by hand.

Every function takes the op's arrays and its own parameters, and ``axis`` where the op does.
"""

import functools
import importlib
import importlib.util
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.threads import thread_count
from opsgrad.conformance.accuracy.peers import LIBRARIES

Function = Callable[..., Any]
Array = Any
Textbook = tuple[Array, Sequence[Callable[[Array], Array]]]
"""A value, and from its cotangent the gradient by each floating-point argument."""

MODULES = {"PyTorch": "torch", "JAX": "jax", "SciPy": "scipy"}
TAKES_OUT = {
    "SciPy": ("sigmoid", "tanh", "softplus", "log_sigmoid", "sign", "abs"),
    "PyTorch": ("sigmoid", "tanh", "sign", "abs", "softmax", "log_softmax", "logsumexp"),
}
"""The functions that write into an array of the caller's, if given one as ``out=``."""
TAKES_REDUCTION = (
    *("nll_loss", "softmax_cross_entropy", "softmax_cross_entropy_with_integer_labels"),
    "squared_error",
)
"""PyTorch's losses that take the mean themselves."""


def installed(library: str) -> bool:
    """Whether a library is there."""
    return importlib.util.find_spec(MODULES[library]) is not None


def torch() -> Any:
    """Return PyTorch, on as many threads as all the others."""
    module = importlib.import_module("torch")
    if module.get_num_threads() != thread_count():
        module.set_num_threads(thread_count())
    return module


def jax() -> Any:
    """Return JAX, which keeps float64 as it is."""
    module = importlib.import_module("jax")
    module.config.update("jax_enable_x64", True)
    return module


@functools.cache
def torch_functions() -> dict[str, Function]:
    """Return PyTorch's functions, by op."""
    library = torch()
    functional, norm = library.nn.functional, library.linalg.vector_norm

    def relumax(x: Array, b: float = 1.0, axis: int = -1) -> Array:
        v = library.relu(x - (x.amax(axis, keepdim=True) - b))
        return v / v.sum(axis, keepdim=True)

    def multiclass_hinge(s: Array, k: Array, kind: str, axis: int = -1) -> Array:
        if kind == "weston_watkins":  # PyTorch divides by the number of classes
            rows = s.movedim(axis, -1)
            return functional.multi_margin_loss(rows, k, reduction="none") * s.shape[axis]
        k = k.unsqueeze(axis)
        rival = s.scatter(axis, k, -float("inf")).amax(axis)
        return library.relu(rival - s.gather(axis, k).squeeze(axis) + 1.0)

    return LIBRARIES["PyTorch"]() | {
        "prelu": functional.prelu,
        "relumax": relumax,
        "cross_entropy": lambda p, t, axis=-1: -(t * p.log()).sum(axis),
        "log_cross_entropy": lambda z, t, axis=-1: -(t * z).sum(axis),
        "l2_loss": lambda p, t: 0.5 * functional.mse_loss(p, t, reduction="none"),
        "hinge_loss": lambda s, t: library.relu(1.0 - t * s),
        "multiclass_hinge_loss": multiclass_hinge,
        "squared_l2_norm": lambda x, axis=-1: norm(x, dim=axis).square(),
        "dense": lambda x, w, b: library.addmm(b, x, w),
    }


@functools.cache
def jax_functions() -> dict[str, Function]:
    """Return JAX's functions, by op, to be compiled."""
    library, jnp = jax(), importlib.import_module("jax.numpy")
    relu = library.nn.relu

    def relumax(x: Array, b: float = 1.0, axis: int = -1) -> Array:
        v = relu(x - x.max(axis, keepdims=True) + b)
        return v / v.sum(axis, keepdims=True)

    def at_label(z: Array, k: Array, axis: int) -> Array:
        return jnp.take_along_axis(z, jnp.expand_dims(k, axis), axis=axis)

    def multiclass_hinge(s: Array, k: Array, kind: str, axis: int = -1) -> Array:
        label = at_label(s, k, axis)
        mask = library.nn.one_hot(k, s.shape[axis], axis=axis, dtype=bool)
        if kind == "weston_watkins":
            return jnp.where(mask, 0.0, relu(s - label + 1.0)).sum(axis)
        rival = jnp.where(mask, -jnp.inf, s).max(axis)
        return relu(rival - label.squeeze(axis) + 1.0)

    return LIBRARIES["JAX"]() | {
        "prelu": lambda x, alpha: jnp.where(x > 0, x, alpha * x),
        "relumax": relumax,
        "cross_entropy": lambda p, t, axis=-1: -(t * jnp.log(p)).sum(axis),
        "log_cross_entropy": lambda z, t, axis=-1: -(t * z).sum(axis),
        "nll_loss": lambda z, k, axis=-1: -at_label(z, k, axis).squeeze(axis),
        "squared_error": lambda p, t: jnp.square(p - t),
        "l2_loss": lambda p, t: 0.5 * jnp.square(p - t),
        "hinge_loss": lambda s, t: relu(1.0 - t * s),
        "multiclass_hinge_loss": multiclass_hinge,
        "squared_l2_norm": lambda x, axis=-1: jnp.square(x).sum(axis),
    }


def scipy_functions() -> dict[str, Function]:
    """Return SciPy's and NumPy's functions, by op: values only."""
    return LIBRARIES["SciPy"]()


# -- the textbook, in NumPy ------------------------------------------------------------------------


def _elementwise(value: Function, slope: Function) -> Function:
    """Return a textbook function of one array from its value and its slope, of x and of y."""

    def function(x: Array, **parameters: Any) -> Textbook:
        y = value(x, **parameters)
        return y, (lambda g: g * slope(x, y, **parameters),)

    return function


def _prelu(x: Array, alpha: Array) -> Textbook:
    return np.where(x > 0, x, alpha * x), (
        lambda g: np.where(x > 0, g, alpha * g),
        lambda g: np.sum(np.where(x > 0, 0, x * g), axis=0),
    )


def _exponentials(x: Array, axis: int) -> tuple[Array, Array, Array]:
    top = np.max(x, axis=axis, keepdims=True)
    e = np.exp(x - top)
    return top, e, np.sum(e, axis=axis, keepdims=True)


def _softmax(x: Array, axis: int) -> Textbook:
    _, e, total = _exponentials(x, axis)
    y = e / total
    return y, (lambda g: y * (g - np.sum(y * g, axis=axis, keepdims=True)),)


def _log_softmax(x: Array, axis: int) -> Textbook:
    top, _, total = _exponentials(x, axis)
    y = x - (top + np.log(total))
    return y, (lambda g: g - np.exp(y) * np.sum(g, axis=axis, keepdims=True),)


def _logsumexp(x: Array, axis: int) -> Textbook:
    top, e, total = _exponentials(x, axis)
    y = (top + np.log(total)).squeeze(axis)
    return y, (lambda g: e * (np.expand_dims(g, axis) / total),)


def _relumax(x: Array, axis: int) -> Textbook:
    top = np.max(x, axis=axis, keepdims=True)
    v = np.maximum(x - top + 1, 0)
    total = np.sum(v, axis=axis, keepdims=True)
    y = v / total

    def pull(g: Array) -> Array:
        dv = np.where(v > 0, g - np.sum(y * g, axis=axis, keepdims=True), 0) / total
        dv -= (x == top) * np.sum(dv, axis=axis, keepdims=True)
        return dv

    return y, (pull,)


def _cross_entropy(p: Array, t: Array, axis: int) -> Textbook:
    logs = np.log(p)
    return -np.sum(t * logs, axis=axis), (
        lambda g: -t / p * np.expand_dims(g, axis),
        lambda g: -logs * np.expand_dims(g, axis),
    )


def _log_cross_entropy(z: Array, t: Array, axis: int) -> Textbook:
    return -np.sum(t * z, axis=axis), (
        lambda g: -t * np.expand_dims(g, axis),
        lambda g: -z * np.expand_dims(g, axis),
    )


def _at(k: Array, axis: int) -> tuple[Array, Array]:
    """Return the index of the labels' entries in a matrix."""
    rows = np.arange(len(k))
    return (k, rows) if axis == 0 else (rows, k)


def _nll_loss(z: Array, k: Array, axis: int) -> Textbook:
    def pull(g: Array) -> Array:
        dz = np.zeros_like(z)
        dz[_at(k, axis)] = -g
        return dz

    return -z[_at(k, axis)], (pull,)


def _softmax_cross_entropy(x: Array, t: Array, axis: int) -> Textbook:
    top, e, total = _exponentials(x, axis)
    logs = x - (top + np.log(total))

    def by_logits(g: Array) -> Array:
        return (e / total * np.sum(t, axis=axis, keepdims=True) - t) * np.expand_dims(g, axis)

    return -np.sum(t * logs, axis=axis), (by_logits, lambda g: -logs * np.expand_dims(g, axis))


def _label_cross_entropy(x: Array, k: Array, axis: int) -> Textbook:
    _, e, total = _exponentials(x, axis)
    p, at = e / total, _at(k, axis)

    def pull(g: Array) -> Array:
        dx = p * np.expand_dims(g, axis)
        dx[at] -= g
        return dx

    return -np.log(p[at]), (pull,)


def _squares(factor: float) -> Function:
    def function(p: Array, t: Array) -> Textbook:
        d = p - t
        slope = 2 * factor
        y = d**2 if factor == 1 else factor * d**2
        return y, (lambda g: slope * d * g, lambda g: -slope * d * g)

    return function


def _hinge_loss(s: Array, t: Array) -> Textbook:
    y = np.maximum(1 - t * s, 0)
    return y, (lambda g: np.where(y > 0, -t * g, 0), lambda g: np.where(y > 0, -s * g, 0))


def _multiclass_hinge_loss(s: Array, k: Array, kind: str, axis: int) -> Textbook:
    at = _at(k, axis)
    if kind == "weston_watkins":
        missing = np.maximum(s - np.expand_dims(s[at], axis) + 1, 0)
        missing[at] = 0
        y = np.sum(missing, axis=axis)
    else:
        rivals = s.copy()
        rivals[at] = -np.inf
        best = np.argmax(rivals, axis=axis)
        y = np.maximum(rivals[_at(best, axis)] - s[at] + 1, 0)

    def pull(g: Array) -> Array:
        if kind == "weston_watkins":
            ds = np.where(missing > 0, np.expand_dims(g, axis), 0)
            ds[at] = -np.sum(ds, axis=axis)
        else:
            ds = np.zeros_like(s)
            ds[_at(best, axis)] = step = np.where(y > 0, g, 0)
            ds[at] = -step
        return ds

    return y, (pull,)


def _lp_norm(x: Array, p: float, axis: int) -> Textbook:
    size = np.abs(x)
    y = np.sum(size**p, axis=axis) ** (1 / p)

    def pull(g: Array) -> Array:
        return np.sign(x) * size ** (p - 1) * np.expand_dims(g * y ** (1 - p), axis)

    return y, (pull,)


def _l1_norm(x: Array, axis: int) -> Textbook:
    y = np.sum(np.abs(x), axis=axis)
    return y, (lambda g: np.sign(x) * np.expand_dims(g, axis),)


def _l2_norm(x: Array, axis: int) -> Textbook:
    y = np.sqrt(np.sum(x * x, axis=axis))
    return y, (lambda g: x * np.expand_dims(g / y, axis),)


def _squared_l2_norm(x: Array, axis: int) -> Textbook:
    return np.sum(x * x, axis=axis), (lambda g: x * np.expand_dims(2 * g, axis),)


def _dense(x: Array, w: Array, b: Array) -> Textbook:
    return x @ w + b, (lambda g: g @ w.T, lambda g: x.T @ g, lambda g: np.sum(g, axis=0))


TEXTBOOK: dict[str, Function] = {
    "sigmoid": _elementwise(lambda x: 1 / (1 + np.exp(-x)), lambda x, y: y * (1 - y)),
    "tanh": _elementwise(np.tanh, lambda x, y: 1 - y * y),
    "relu": _elementwise(lambda x: np.maximum(x, 0), lambda x, y: x > 0),
    "leaky_relu": _elementwise(
        lambda x: np.where(x > 0, x, 0.01 * x),
        lambda x, y: np.where(x > 0, x.dtype.type(1), x.dtype.type(0.01)),
    ),
    "prelu": _prelu,
    "softplus": _elementwise(lambda x: np.log1p(np.exp(x)), lambda x, y: 1 / (1 + np.exp(-x))),
    "log_sigmoid": _elementwise(lambda x: -np.log1p(np.exp(-x)), lambda x, y: 1 / (1 + np.exp(x))),
    "sign": _elementwise(np.sign, lambda x, y: x.dtype.type(0)),
    "abs": _elementwise(np.abs, lambda x, y: np.sign(x)),
    "softmax": _softmax,
    "log_softmax": _log_softmax,
    "logsumexp": _logsumexp,
    "relumax": _relumax,
    "cross_entropy": _cross_entropy,
    "log_cross_entropy": _log_cross_entropy,
    "nll_loss": _nll_loss,
    "softmax_cross_entropy": _softmax_cross_entropy,
    "softmax_cross_entropy_with_integer_labels": _label_cross_entropy,
    "squared_error": _squares(1.0),
    "l2_loss": _squares(0.5),
    "hinge_loss": _hinge_loss,
    "multiclass_hinge_loss": _multiclass_hinge_loss,
    "lp_norm": _lp_norm,
    "l1_norm": _l1_norm,
    "l2_norm": _l2_norm,
    "squared_l2_norm": _squared_l2_norm,
    "dense": _dense,
}
"""From an op's arrays and parameters to its value and the gradients that follow from it."""

"""The libraries' own functions, with the gradients that the libraries themselves take of them."""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from opsgrad.conformance.accuracy.inputs import Case

Results: TypeAlias = dict[str, list[Any]]
"""By role: arrays in NumPy, one for each argument of the pullback; None for labels."""
Function: TypeAlias = Callable[..., Any]


def run_peers(op: str, case: Case, params: Mapping[str, Any]) -> dict[str, Results]:
    """Return what each installed library's own function for `op` gives, where it has one."""
    runners = {"SciPy": _run_scipy, "PyTorch": _run_torch, "JAX": _run_jax}
    modules = {"SciPy": "scipy", "PyTorch": "torch", "JAX": "jax"}
    results = {}
    for name, run in runners.items():
        if importlib.util.find_spec(modules[name]) is not None:
            got = run(op, case, params)
            if got is not None:
                results[name] = got
    return results


def _run_scipy(op: str, case: Case, params: Mapping[str, Any]) -> Results | None:
    function = _scipy().get(op)
    if function is None:
        return None
    with np.errstate(all="ignore"):
        return {"value": [np.asarray(function(*case.arrays, **params))]}


def _run_torch(op: str, case: Case, params: Mapping[str, Any]) -> Results | None:
    torch: Any = importlib.import_module("torch")
    function = _torch().get(op)
    if function is None:
        return None
    call = functools.partial(function, **params)
    tensors = [torch.tensor(a, requires_grad=a.dtype.kind == "f") for a in case.arrays]
    value = call(*tensors)
    floating = [t for t in tensors if t.requires_grad]
    found = iter(torch.autograd.grad(value, floating, torch.tensor(case.cotangent)))
    gradients = [next(found).numpy() if t.requires_grad else None for t in tensors]
    results: Results = {"value": [value.detach().numpy()], "vjp": gradients}
    along = _torch_jvp(torch, call, tensors, case)
    return results if along is None else {**results, "jvp": [along]}


def _torch_jvp(torch: Any, call: Function, tensors: Sequence[Any], case: Case) -> Any:
    primals = [t.detach() for t in tensors]
    floating = [i for i, tangent in enumerate(case.tangents) if tangent is not None]

    def of_floats(*given: Any) -> Any:
        arguments = list(primals)
        for place, one in zip(floating, given, strict=True):
            arguments[place] = one
        return call(*arguments)

    try:
        _, along = torch.func.jvp(
            of_floats,
            tuple(primals[i] for i in floating),
            tuple(torch.tensor(case.tangents[i]) for i in floating),
        )
    except (RuntimeError, NotImplementedError):  # no forward mode for this function
        return None
    return along.numpy()


def _run_jax(op: str, case: Case, params: Mapping[str, Any]) -> Results | None:
    jax: Any = importlib.import_module("jax")
    if op not in _jax():
        return None
    tangents = [t for t in case.tangents if t is not None]
    call = _jax_call(op, tuple(params.items()), len(tangents))
    value, gradients, along = jax.device_get(call(case.arrays, case.cotangent, tangents))
    missing = [None] * (len(case.arrays) - len(gradients))
    return {"value": [value], "vjp": [*gradients, *missing], "jvp": [along]}


@functools.cache
def _jax_call(op: str, params: tuple[tuple[str, Any], ...], floating: int) -> Function:
    """Return a compiled function for value, gradients and JVP (the labels come last)."""
    jax: Any = importlib.import_module("jax")
    function = functools.partial(_jax()[op], **dict(params))

    def call(arrays: Any, g: Any, tangents: Any) -> Any:
        labels = arrays[floating:]
        primals = tuple(arrays[:floating])

        def of_floats(*given: Any) -> Any:
            return function(*given, *labels)

        value, pull = jax.vjp(of_floats, *primals)
        return value, pull(g), jax.jvp(of_floats, primals, tuple(tangents))[1]

    compiled: Function = jax.jit(call)
    return compiled


@functools.cache
def _scipy() -> dict[str, Function]:
    special: Any = importlib.import_module("scipy.special")
    norm = np.linalg.norm
    return {
        "sigmoid": special.expit,
        "tanh": np.tanh,
        "softplus": lambda x, out=None: np.logaddexp(x.dtype.type(0), x, out=out),
        "log_sigmoid": special.log_expit,
        "sign": np.sign,
        "abs": np.abs,
        "softmax": lambda x, axis=-1: special.softmax(x, axis=axis),
        "log_softmax": lambda x, axis=-1: special.log_softmax(x, axis=axis),
        "logsumexp": lambda x, axis=-1: special.logsumexp(x, axis=axis),
        "cross_entropy": lambda p, t, axis=-1: -np.sum(special.xlogy(t, p), axis=axis),
        "lp_norm": lambda x, p, axis=-1: norm(x, ord=p, axis=axis),
        "l1_norm": lambda x, axis=-1: norm(x, ord=1, axis=axis),
        "l2_norm": lambda x, axis=-1: norm(x, ord=2, axis=axis),
    }


@functools.cache
def _torch() -> dict[str, Function]:
    torch: Any = importlib.import_module("torch")
    functional = torch.nn.functional
    norm = torch.linalg.vector_norm

    def rows(function: Function) -> Function:
        """Give a loss of rows the axis of the classes, and by default a value for each row."""

        def along(x: Any, other: Any, axis: int = -1, reduction: str = "none") -> Any:
            of_rows = other.movedim(axis, -1) if other.ndim == x.ndim else other
            return function(x.movedim(axis, -1), of_rows, reduction=reduction)

        return along

    return {
        "sigmoid": torch.sigmoid,
        "tanh": torch.tanh,
        "relu": torch.relu,
        "leaky_relu": functional.leaky_relu,
        "softplus": functional.softplus,
        "log_sigmoid": functional.logsigmoid,
        "sign": torch.sign,
        "abs": torch.abs,
        "softmax": lambda x, axis=-1, **out: torch.softmax(x, axis, **out),
        "log_softmax": lambda x, axis=-1, **out: torch.log_softmax(x, axis, **out),
        "logsumexp": lambda x, axis=-1, **out: torch.logsumexp(x, axis, **out),
        "nll_loss": rows(functional.nll_loss),
        "softmax_cross_entropy": rows(functional.cross_entropy),
        "softmax_cross_entropy_with_integer_labels": rows(functional.cross_entropy),
        "squared_error": lambda p, t, reduction="none": functional.mse_loss(
            p, t, reduction=reduction
        ),
        "lp_norm": lambda x, p, axis=-1: norm(x, ord=p, dim=axis),
        "l1_norm": lambda x, axis=-1: norm(x, ord=1, dim=axis),
        "l2_norm": lambda x, axis=-1: norm(x, ord=2, dim=axis),
        "dense": lambda x, w, b: functional.linear(x, w.T, b),
    }


@functools.cache
def _jax() -> dict[str, Function]:
    jax: Any = importlib.import_module("jax")
    jnp: Any = importlib.import_module("jax.numpy")
    norm = jnp.linalg.norm

    def at_label(z: Any, k: Any, axis: int) -> Any:
        found = jnp.take_along_axis(z, jnp.expand_dims(k, axis), axis=axis)
        return jnp.squeeze(found, axis=axis)

    return {
        "sigmoid": jax.nn.sigmoid,
        "tanh": jnp.tanh,
        "relu": jax.nn.relu,
        "leaky_relu": jax.nn.leaky_relu,
        "softplus": jax.nn.softplus,
        "log_sigmoid": jax.nn.log_sigmoid,
        "sign": jnp.sign,
        "abs": jnp.abs,
        "softmax": jax.nn.softmax,
        "log_softmax": jax.nn.log_softmax,
        "logsumexp": lambda x, axis=-1: jax.nn.logsumexp(x, axis=axis),
        "softmax_cross_entropy": lambda x, t, axis=-1: (
            -jnp.sum(t * jax.nn.log_softmax(x, axis=axis), axis=axis)
        ),
        "softmax_cross_entropy_with_integer_labels": lambda x, k, axis=-1: (
            -at_label(jax.nn.log_softmax(x, axis=axis), k, axis)
        ),
        "lp_norm": lambda x, p, axis=-1: norm(x, ord=p, axis=axis),
        "l1_norm": lambda x, axis=-1: norm(x, ord=1, axis=axis),
        "l2_norm": lambda x, axis=-1: norm(x, ord=2, axis=axis),
        "dense": lambda x, w, b: x @ w + b,
    }


LIBRARIES = {"SciPy": _scipy, "PyTorch": _torch, "JAX": _jax}
"""By name, what returns the library's own functions, by op: rows are along ``axis``."""

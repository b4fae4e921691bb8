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
    norm = functools.partial(np.linalg.norm, axis=-1)
    return {
        "sigmoid": special.expit,
        "tanh": np.tanh,
        "softplus": lambda x: np.logaddexp(x.dtype.type(0), x),
        "log_sigmoid": special.log_expit,
        "sign": np.sign,
        "abs": np.abs,
        "softmax": lambda x: special.softmax(x, axis=-1),
        "log_softmax": lambda x: special.log_softmax(x, axis=-1),
        "logsumexp": lambda x: special.logsumexp(x, axis=-1),
        "cross_entropy": lambda p, t: -np.sum(special.xlogy(t, p), axis=-1),
        "lp_norm": lambda x, p: norm(x, ord=p),
        "l1_norm": lambda x: norm(x, ord=1),
        "l2_norm": lambda x: norm(x, ord=2),
    }


@functools.cache
def _torch() -> dict[str, Function]:
    torch: Any = importlib.import_module("torch")
    functional = torch.nn.functional
    norm = functools.partial(torch.linalg.vector_norm, dim=-1)
    return {
        "sigmoid": torch.sigmoid,
        "tanh": torch.tanh,
        "relu": torch.relu,
        "leaky_relu": functional.leaky_relu,
        "softplus": functional.softplus,
        "log_sigmoid": functional.logsigmoid,
        "sign": torch.sign,
        "abs": torch.abs,
        "softmax": lambda x: torch.softmax(x, -1),
        "log_softmax": lambda x: torch.log_softmax(x, -1),
        "logsumexp": lambda x: torch.logsumexp(x, -1),
        "nll_loss": lambda z, k: functional.nll_loss(z, k, reduction="none"),
        "softmax_cross_entropy": lambda x, t: functional.cross_entropy(x, t, reduction="none"),
        "softmax_cross_entropy_with_integer_labels": lambda x, k: functional.cross_entropy(
            x, k, reduction="none"
        ),
        "squared_error": lambda p, t: functional.mse_loss(p, t, reduction="none"),
        "lp_norm": lambda x, p: norm(x, ord=p),
        "l1_norm": lambda x: norm(x, ord=1),
        "l2_norm": lambda x: norm(x, ord=2),
        "dense": lambda x, w, b: functional.linear(x, w.T, b),
    }


@functools.cache
def _jax() -> dict[str, Function]:
    jax: Any = importlib.import_module("jax")
    jnp: Any = importlib.import_module("jax.numpy")
    norm = functools.partial(jnp.linalg.norm, axis=-1)
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
        "logsumexp": lambda x: jax.nn.logsumexp(x, axis=-1),
        "softmax_cross_entropy": lambda x, t: -jnp.sum(t * jax.nn.log_softmax(x), axis=-1),
        "softmax_cross_entropy_with_integer_labels": lambda x, k: (
            -jnp.take_along_axis(jax.nn.log_softmax(x), k[:, None], axis=-1)[:, 0]
        ),
        "lp_norm": lambda x, p: norm(x, ord=p),
        "l1_norm": lambda x: norm(x, ord=1),
        "l2_norm": lambda x: norm(x, ord=2),
        "dense": lambda x, w, b: x @ w + b,
    }

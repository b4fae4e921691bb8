"""Who takes part in a case: ours and each peer, as calls that compute the same thing."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

import opsgrad as og
from benchmarks import peers
from benchmarks.cases import LOSS, VALUE, VJP, Array, Case, Inputs
from benchmarks.threads import thread_count
from opsgrad._arrays import spread
from opsgrad.backends._engine import FROM

Call = Callable[..., Any]

OURS, BODY = "opsgrad", "opsgrad body"
PEERS = ("PyTorch", "JAX", "SciPy", "textbook NumPy")
OUT = ", out="
"""What follows the name of a peer in its form that writes into an array of the caller's."""


def contestants(case: Case, given: Inputs) -> dict[str, Call]:
    """Return the calls of a case; each library is imported, and its arrays made, beforehand."""
    calls: dict[str, Call] = {}
    for library, make in _MAKERS.items():
        if library not in peers.MODULES or peers.installed(library):
            calls |= make(case, given)
    return calls


def as_numpy(result: Any) -> list[Array]:
    """Return all arrays of a call's result in NumPy; labels have none."""
    if isinstance(result, tuple | list):
        return [array for one in result for array in as_numpy(one)]
    if result is None:
        return []
    return [np.asarray(result.detach() if hasattr(result, "detach") else result)]


# -- ours ------------------------------------------------------------------------------------------


def _ours(case: Case, given: Inputs) -> Mapping[str, Call]:
    if hasattr(og, "set_num_threads"):
        og.set_num_threads(thread_count())
    op, keywords = case.row.op, case.keywords
    if given.arrays[0].size < FROM:  # as the peers' are, its kernels are compiled beforehand
        og.warmup(functools.partial(op, **keywords), [case.dtype])
    if case.role == VALUE:
        call = functools.partial(op, *given.arrays, **keywords)
    elif case.role == VJP:
        call = functools.partial(og.vjp(op, *given.arrays, **keywords)[1], given.cotangent)
    else:
        loss = og.value_and_grad(op)
        call = functools.partial(loss, *given.arrays, reduction="mean", **keywords)
    return {OURS: call}


def _body(case: Case, given: Inputs) -> Mapping[str, Call]:
    """Return what runs without the engine, if that is not what runs anyway."""
    engines = og.which_backend(case.row.op, *given.arrays, **case.keywords).engines
    if engines["vjp" if case.role == VJP else "value"].startswith("the "):
        return {}
    return {BODY: plain(case, og.backends()["numpy"], given.arrays, given.cotangent)}


def plain(case: Case, backend: Any, arrays: Sequence[Any], cotangent: Any) -> Call:
    """Return a call of the body and the rule as they are written, on a backend's arrays."""
    op, keywords = case.row.op, case.keywords
    reduction = {"reduction": "mean"} if case.role == LOSS else {}
    parameters = op.signature.complete({**keywords, **reduction})
    if "axis" in parameters:
        parameters["axis"] = op.signature.place_axis(parameters["axis"], arrays[0].shape)
    rule = op.rule("vjp")
    taken = {name: parameters[name] for name in rule.takes}

    def value() -> Any:
        return backend.run(op.whole("value").function, arrays, parameters)

    if case.role == VALUE:
        return value
    out = backend.run(op.body, arrays, parameters)
    kept = rule.picked(op.__name__, (*arrays, *(out if isinstance(out, tuple) else (out,))))

    def pull(g: Any = cotangent) -> Any:
        return backend.run(rule.function, (*kept, g), taken)

    def loss() -> Any:
        y = value()
        shape = {"reduction": "mean", "shape": cotangent.shape}
        ones = backend.namespace.ones_like(y)
        gradients = pull(backend.run(spread, (ones, None), shape))
        return y, gradients[0] if isinstance(gradients, tuple) else gradients

    return pull if case.role == VJP else loss


# -- the libraries ---------------------------------------------------------------------------------


def _torch(case: Case, given: Inputs) -> Mapping[str, Call]:
    torch, function = peers.torch(), torch_function(case)
    if function is None:
        return {}
    arrays = [torch.from_numpy(a) for a in given.arrays]
    call = torch_call(case, function, arrays, torch.from_numpy(given.cotangent))
    return _with_out("PyTorch", case, call) if case.role == VALUE else {"PyTorch": call}


def torch_function(case: Case) -> Call | None:
    """Return what PyTorch has for a case, as a function of its arrays; the mean, if of a loss."""
    function = peers.torch_functions().get(case.op)
    if function is None:
        return None
    bound = functools.partial(function, **case.keywords)
    if case.role != LOSS:
        return bound
    if case.op in peers.TAKES_REDUCTION:
        return functools.partial(bound, reduction="mean")
    return lambda *arrays: bound(*arrays).mean()


def torch_call(case: Case, function: Call, arrays: Sequence[Any], cotangent: Any) -> Call:
    """Return a call of a function of PyTorch's, or of its gradient."""
    torch = peers.torch()
    if case.role == VALUE:
        return functools.partial(function, *arrays)
    if case.role == VJP:
        floats = [a.requires_grad_() for a in arrays if a.is_floating_point()]
        pull = functools.partial(torch.autograd.grad, function(*arrays), floats, cotangent)
        return functools.partial(pull, retain_graph=True)
    arrays[0].requires_grad_()

    def loss() -> Any:
        value = function(*arrays)
        return value, torch.autograd.grad(value, arrays[0])

    return loss


def _with_out(library: str, case: Case, call: Call) -> Mapping[str, Call]:
    """Return a call, and beside it the form that writes into an array of the caller's."""
    if case.op not in peers.TAKES_OUT[library]:
        return {library: call}
    return {library: call, f"{library}{OUT}": functools.partial(call, out=call())}


def _jax(case: Case, given: Inputs) -> Mapping[str, Call]:
    jax, known = peers.jax(), peers.jax_functions()
    if case.op not in known:
        return {}
    function = functools.partial(known[case.op], **case.keywords)
    arrays = jax.device_put(given.arrays)
    if case.role == VALUE:
        compiled = functools.partial(jax.jit(function), *arrays)
        return {"JAX": lambda: compiled().block_until_ready()}
    if case.role == VJP:
        count = sum(case.row.differentiable)

        def linearize(*every: Any) -> Any:
            return jax.vjp(lambda *floats: function(*floats, *every[count:]), *every[:count])

        _, pull = jax.jit(linearize)(*arrays)
        g = jax.device_put(given.cotangent)
        compiled = functools.partial(jax.jit(lambda linear, g: linear(g)), pull, g)
    else:
        loss = jax.jit(jax.value_and_grad(lambda *every: function(*every).mean()))
        compiled = functools.partial(loss, *arrays)
    return {"JAX": lambda: [one.block_until_ready() for one in compiled()]}


def _scipy(case: Case, given: Inputs) -> Mapping[str, Call]:
    function = peers.scipy_functions().get(case.op)
    if function is None or case.role != VALUE:
        return {}
    call = functools.partial(function, *given.arrays, **case.keywords)
    return _with_out("SciPy", case, call)


def _textbook(case: Case, given: Inputs) -> Mapping[str, Call]:
    function = functools.partial(peers.TEXTBOOK[case.op], *given.arrays, **case.keywords)
    if case.role == VALUE:
        return {"textbook NumPy": lambda: function()[0]}
    if case.role == VJP:
        _, pulls = function()
        return {"textbook NumPy": lambda: [pull(given.cotangent) for pull in pulls]}
    mean = np.full_like(given.cotangent, 1 / given.cotangent.size)

    def loss() -> Any:
        y, pulls = function()
        return y.mean(), pulls[0](mean)

    return {"textbook NumPy": loss}


_MAKERS: Mapping[str, Callable[[Case, Inputs], Mapping[str, Call]]] = {
    OURS: _ours,
    BODY: _body,
    "PyTorch": _torch,
    "JAX": _jax,
    "SciPy": _scipy,
    "textbook NumPy": _textbook,
}

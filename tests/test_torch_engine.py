"""CPU tensors of PyTorch in the CPU engine: on their own memory, and where PyTorch need not see."""

import tracemalloc
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from engine import fresh_engine

import opsgrad as og
from opsgrad.backends import _engine
from opsgrad.conformance import TABLE, Row
from opsgrad.conformance.checks import direction, sample
from opsgrad.fusion import cpu

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("llvmlite", reason="llvmlite is not installed")

# What PyTorch warns of itself when its forward mode and its tracers are first used.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*torch.jit:DeprecationWarning", "ignore:.*lru_cache:UserWarning"
)

FUSED = [row for row in TABLE.values() if row.name != "dense"]

Taken = list[tuple[Any, ...]]


@pytest.fixture(autouse=True)
def taken(monkeypatch: pytest.MonkeyPatch) -> Taken:
    """Compile for arrays of any size, with nothing compiled before; list what the kernels took."""
    fresh_engine(monkeypatch, 1)
    calls: Taken = []
    call = cpu.Fused.__call__

    def spy(self: Any, *arrays: Any) -> Any:
        out = call(self, *arrays)
        if out is not None:
            calls.append((*arrays, out))
        return out

    monkeypatch.setattr(cpu.Fused, "__call__", spy)
    return calls


def address(array: Any) -> int:
    return array.data_ptr() if isinstance(array, torch.Tensor) else array.ctypes.data


def same_bits(one: Any, other: Any) -> None:
    one, other = og.to_numpy(one), og.to_numpy(other)
    assert one.dtype == other.dtype
    np.testing.assert_array_equal(one, other, strict=True)
    np.testing.assert_array_equal(np.signbit(one), np.signbit(other))


# -- the same kernels ------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("row", FUSED, ids=lambda row: row.name)
def test_results_are_those_of_numpy_arrays(
    row: Row, rng: np.random.Generator, dtype: str, taken: Taken
) -> None:
    arrays = [a if a.dtype.kind in "iu" else a.astype(dtype) for a in sample(row, rng, (5, 37))]
    params = row.variants[0]
    results, kernels = [], []
    for put in (np.asarray, torch.tensor):
        taken.clear()
        given = [put(a) for a in arrays]
        y, pull = og.vjp(row.op, *given, **params)
        g = put(direction(np.random.default_rng(1), og.to_numpy(y)))
        tangents = [None if a.dtype.kind in "iu" else put(a) for a in arrays]
        dy = og.jvp(row.op, given, tangents, **params)[1]
        results.append([y, dy, *(one for one in pull(g) if one is not None)])
        kernels.append(len(taken))
    for one, other in zip(*results, strict=True):
        assert isinstance(other, torch.Tensor)
        same_bits(one, other)
    assert kernels[0] == kernels[1] >= 2


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("labels", ["int64", "int32", "uint8"])
def test_reduced_losses_and_labels_of_any_integer_type(
    reduction: str, labels: str, rng: np.random.Generator, taken: Taken
) -> None:
    logits, chosen = rng.normal(size=(6, 20)), rng.integers(20, size=6).astype(labels)
    op = og.value_and_grad(og.softmax_cross_entropy_with_integer_labels)
    right = op(logits, chosen, reduction=reduction)
    before = len(taken)
    got = op(torch.tensor(logits), torch.tensor(chosen), reduction=reduction)
    assert len(taken) == 2 * before
    for one, other in zip(got, right, strict=True):
        assert one.shape == other.shape
        same_bits(one, other)


def test_what_numpy_arrays_had_compiled_serves_tensors(
    monkeypatch: pytest.MonkeyPatch, taken: Taken
) -> None:
    og.warmup([og.softmax])
    monkeypatch.setattr(_engine, "FROM", 1 << 30)
    taken.clear()
    og.softmax(torch.ones(2, 31))  # of a shape that no other test has had a plan made for
    assert len(taken) == 1


# -- their own memory ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda x: x,
        lambda x: x.T,
        lambda x: x[:, ::2],
        lambda x: x[1:, 3:],
        lambda x: x[0].expand(4, -1),
        lambda x: torch.nn.Parameter(x),
    ],
    ids=["dense", "transposed", "strided", "inside", "expanded", "parameter"],
)
def test_kernels_read_the_tensors_themselves(make: Callable[[Any], Any], taken: Taken) -> None:
    x = make(torch.randn(6, 8))
    with torch.no_grad():
        y = og.softmax(x)
    ((array, out),) = taken
    assert address(array) == address(x)
    assert array.strides == tuple(4 * s for s in x.stride())
    assert address(out) == address(y)
    same_bits(y, og.softmax(x.numpy(force=True)))


def test_nothing_is_allocated_but_the_result() -> None:
    x = torch.randn(2000, 1000)
    og.softmax(x)
    tracemalloc.start()
    y = og.softmax(x)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert y.nbytes <= peak <= y.nbytes + (1 << 20)  # the engine's own array, and no copy


def test_tensors_can_still_be_resized() -> None:
    """``Tensor.numpy()`` would put an end to that."""
    logits, labels = torch.randn(2, 3), torch.tensor([0, 2])
    og.softmax_cross_entropy_with_integer_labels(logits, labels)
    logits.resize_(100, 3)
    labels.resize_(100)


def test_results_can_be_written_into() -> None:
    x = torch.randn(4, 5)
    y = og.softmax(x)
    y.mul_(2.0)
    same_bits(y, 2.0 * og.softmax(x))


# -- in autograd -----------------------------------------------------------------------------------


@pytest.mark.parametrize("row", FUSED, ids=lambda row: row.name)
def test_forward_and_backward_of_autograd_take_the_kernels(
    row: Row, rng: np.random.Generator, taken: Taken
) -> None:
    arrays = sample(row, rng, (3, 5))
    value, pull = og.vjp(row.op, *arrays, **row.variants[0])
    g = direction(rng, value)
    expected = [one for one in pull(g) if one is not None]
    kernels = len(taken)
    given = [torch.tensor(a) for a in arrays]
    watched = [t.requires_grad_() for t in given if t.is_floating_point()]
    y = row.op(*given, **row.variants[0])
    gradients = torch.autograd.grad(y, watched, torch.tensor(g))
    assert len(taken) == 2 * kernels
    for got, right in zip((y.detach(), *gradients), (value, *expected), strict=True):
        same_bits(got, right)


@pytest.mark.parametrize("op", [og.sigmoid, og.softmax, og.softplus, og.l2_norm, og.relumax])
def test_derivatives_to_second_order(op: Any, rng: np.random.Generator, taken: Taken) -> None:
    x = torch.tensor(rng.normal(size=(2, 3)), requires_grad=True)
    assert torch.autograd.gradcheck(op, (x,), check_forward_ad=True, check_batched_grad=True)
    assert taken
    assert torch.autograd.gradgradcheck(op, (x,), check_fwd_over_rev=True)


# -- where PyTorch must see each step --------------------------------------------------------------


def makes_fx(x: Any) -> Any:
    from torch.fx.experimental.proxy_tensor import make_fx

    return make_fx(lambda x: og.softmax(x))(torch.zeros_like(x))(x)


def traces(x: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.trace(og.softmax, torch.zeros_like(x), check_trace=False)(x)


def compiles(x: Any) -> Any:
    torch._dynamo.reset()
    return torch.compile(og.softmax, backend="eager", fullgraph=True)(x)


def forward_mode(x: Any) -> Any:
    with torch.autograd.forward_ad.dual_level():
        return og.softmax(x)


class Tagged(torch.Tensor):
    pass


ITSELF: dict[str, Callable[[Any], Any]] = {
    "make_fx": makes_fx,
    "torch.jit.trace": traces,
    "torch.compile": compiles,
    "vmap": lambda x: torch.func.vmap(og.softmax)(x),
    "functionalize": lambda x: torch.func.functionalize(og.softmax)(x),
    "forward mode": forward_mode,
    "a subclass": lambda x: og.softmax(x.as_subclass(Tagged)).as_subclass(torch.Tensor),
    "a lazy sign": lambda x: og.softmax(torch._neg_view(-x)),
    "no entries": lambda x: torch.cat([og.softmax(x[:0]), torch.softmax(x, -1)]),
}


@pytest.mark.parametrize("case", ITSELF.values(), ids=ITSELF)
def test_pytorch_runs_the_body_itself(case: Callable[[Any], Any], taken: Taken) -> None:
    """In a trace, the result of a kernel would be a constant."""
    x = torch.tensor([[0.5, -1.0, 2.0], [1.0, 0.0, -3.0]])
    y = case(x)
    assert not taken
    torch.testing.assert_close(y, torch.softmax(x, -1))


def test_a_recorded_pullback_runs_the_rule_itself(taken: Taken) -> None:
    x = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    y, pull = og.vjp(og.softmax, x)
    taken.clear()
    (dx,) = pull(torch.ones_like(y))
    assert dx.requires_grad
    assert not taken
    with torch.no_grad():
        pull(torch.ones_like(y))
    assert len(taken) == 1


def test_an_eager_call_after_compiled_ones_takes_the_kernel(taken: Taken) -> None:
    x = torch.randn(7, 3)
    og.softmax._planner.describe()  # forget the plans
    torch._dynamo.reset()
    compiled = torch.compile(og.softmax, backend="eager", fullgraph=True)
    compiled(x)
    assert not taken
    og.softmax(x)
    assert len(taken) == 1
    compiled(x)
    assert len(taken) == 1


# -- which_backend ---------------------------------------------------------------------------------


def test_a_choice_says_what_runs() -> None:
    engine = og.which_backend(og.softmax, torch.ones(2, 3)).engines["vjp"]
    assert engine.startswith("a compiled loop from 1 entries on, or once it is there; below, ")
    assert "where PyTorch traces or records" in engine
    engine = og.which_backend(og.dense, torch.ones(2, 3), torch.ones(3, 2)).engines["value"]
    assert engine == "as it is written, because no kernel can be made of it: it calls matmul"


def test_without_llvmlite_bodies_run_as_written(
    monkeypatch: pytest.MonkeyPatch, taken: Taken
) -> None:
    monkeypatch.setattr(_engine, "why_unavailable", lambda: "llvmlite is not installed")
    og.softmax._planner.describe()  # forget the plans
    try:
        x = torch.zeros(300, 300)
        torch.testing.assert_close(og.softmax(x), torch.softmax(x, -1))
        engine = og.which_backend(og.softmax, x).engines["value"]
        assert engine == "as it is written, because llvmlite is not installed"
        assert not taken
    finally:
        og.softmax._planner.describe()

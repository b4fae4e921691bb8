"""Time ops beside the peers that are installed: `make bench`.

Each group is one op, role and shape; each contestant computes the same thing in its best form, with
one thread. The report takes the ratio of the minima, because these machines are shared.
"""

import functools
import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import opsgrad as og

SHAPES = [(64, 10), (512, 512), (4096, 1000)]
Contestant = Callable[[np.ndarray, np.ndarray], Callable[[], Any]]


def torch_call(make: Callable[..., Callable[[], Any]]) -> Contestant:
    """Return a contestant of PyTorch's, on one thread."""

    def contestant(x: np.ndarray, g: np.ndarray) -> Callable[[], Any]:
        import torch

        torch.set_num_threads(1)
        return make(torch, torch.from_numpy(x), torch.from_numpy(g))

    return contestant


def torch_vjp(function: Callable[..., Any]) -> Contestant:
    def make(torch: Any, x: Any, g: Any) -> Callable[[], Any]:
        x = x.clone().requires_grad_(True)
        y = function(torch, x)
        return lambda: torch.autograd.grad(y, x, g, retain_graph=True)

    return torch_call(make)


def ours(op: Any) -> Contestant:
    return lambda x, g: functools.partial(op, x)


def ours_vjp(op: Any) -> Contestant:
    def contestant(x: np.ndarray, g: np.ndarray) -> Callable[[], Any]:
        pull = og.vjp(op, x)[1]
        return functools.partial(pull, g)

    return contestant


def numpy_softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def numpy_relumax(x: np.ndarray) -> np.ndarray:
    v = np.maximum(x - x.max(axis=-1, keepdims=True) + 1.0, 0.0)
    return v / v.sum(axis=-1, keepdims=True)


def numpy_softmax_vjp(x: np.ndarray, g: np.ndarray) -> Callable[[], Any]:
    y = numpy_softmax(x)
    return lambda: y * (g - np.sum(y * g, axis=-1, keepdims=True))


def torch_relumax(torch: Any, x: Any) -> Any:
    v = torch.relu(x - x.amax(-1, keepdim=True) + 1.0)
    return v / v.sum(-1, keepdim=True)


def labels_of(x: np.ndarray) -> np.ndarray:
    return np.arange(x.shape[0]) % x.shape[1]


def our_loss(x: np.ndarray, g: np.ndarray) -> Callable[[], Any]:
    loss = og.value_and_grad(og.softmax_cross_entropy_with_integer_labels)
    return functools.partial(loss, x, labels_of(x), reduction="mean")


def numpy_loss(x: np.ndarray, g: np.ndarray) -> Callable[[], Any]:
    labels, rows = labels_of(x), np.arange(x.shape[0])

    def loss() -> Any:
        p = numpy_softmax(x)
        value = -np.log(p[rows, labels]).mean()
        p[rows, labels] -= 1.0
        return value, p / len(p)

    return loss


def torch_loss(torch: Any, x: Any, g: Any) -> Callable[[], Any]:
    x = x.clone().requires_grad_(True)
    labels = torch.from_numpy(labels_of(x.detach().numpy()))

    def loss() -> Any:
        value = torch.nn.functional.cross_entropy(x, labels)
        return value, torch.autograd.grad(value, x)

    return loss


CASES: dict[str, dict[str, Contestant]] = {
    "sigmoid": {
        "opsgrad": ours(og.sigmoid),
        "textbook NumPy": lambda x, g: lambda: 1.0 / (1.0 + np.exp(-x)),
        "PyTorch": torch_call(lambda torch, x, g: lambda: torch.sigmoid(x)),
    },
    "softmax": {
        "opsgrad": ours(og.softmax),
        "textbook NumPy": lambda x, g: lambda: numpy_softmax(x),
        "PyTorch": torch_call(lambda torch, x, g: lambda: torch.softmax(x, -1)),
    },
    "softmax VJP": {
        "opsgrad": ours_vjp(og.softmax),
        "textbook NumPy": numpy_softmax_vjp,
        "PyTorch": torch_vjp(lambda torch, x: torch.softmax(x, -1)),
    },
    "relumax": {
        "opsgrad": ours(og.relumax),
        "textbook NumPy": lambda x, g: lambda: numpy_relumax(x),
        "PyTorch": torch_call(lambda torch, x, g: lambda: torch_relumax(torch, x)),
    },
    "relumax VJP": {
        "opsgrad": ours_vjp(og.relumax),
        "PyTorch": torch_vjp(torch_relumax),
    },
    "label cross-entropy, loss and gradient": {
        "opsgrad": our_loss,
        "textbook NumPy": numpy_loss,
        "PyTorch": torch_call(torch_loss),
    },
}

PARAMETERS = [
    pytest.param(op, shape, contestant, id=f"{op}-{shape[0]}x{shape[1]}-{contestant}")
    for op, contestants in CASES.items()
    for shape in SHAPES
    for contestant in contestants
]


@pytest.mark.parametrize(("op", "shape", "contestant"), PARAMETERS)
def test_speed(benchmark: Any, op: str, shape: tuple[int, int], contestant: str) -> None:
    if contestant == "PyTorch" and importlib.util.find_spec("torch") is None:
        pytest.skip("torch is not installed")
    rng = np.random.default_rng(0)
    x, g = (rng.standard_normal(shape).astype(np.float32) for _ in range(2))
    benchmark.group = f"{op}, float32 {shape[0]}x{shape[1]}"
    benchmark.extra_info.update(op=op, shape=list(shape), contestant=contestant)
    benchmark(CASES[op][contestant](x, g))

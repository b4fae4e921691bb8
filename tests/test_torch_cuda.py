"""Tensors of a CUDA device in CuPy's kernels, as far as stand-ins show it.

The tensors are on the CPU and say that they are on a device; the stand-in for CuPy takes them so.
"""

import shutil
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import opsgrad as og
from opsgrad.backends import _gpu
from opsgrad.backends.torch import TorchBackend

torch = pytest.importorskip("torch", reason="torch is not installed")

pytestmark = [
    pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed"),
    # What PyTorch warns of itself when its tracers are first used.
    pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning"),
]

LOSS = og.softmax_cross_entropy_with_integer_labels


@pytest.fixture(autouse=True)
def there(cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let all tensors be on a device with stream 7 in force, and forget what has been planned."""
    stream = SimpleNamespace(cuda_stream=7)
    monkeypatch.setattr(torch.Tensor, "is_cuda", property(lambda _: True))
    monkeypatch.setattr(torch.Tensor, "is_cpu", property(lambda _: False))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: stream)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(TorchBackend, "number", lambda _, value, **__: value)
    monkeypatch.setattr(_gpu, "_known", {})
    for op in (og.softmax, og.dense, LOSS):
        op._planner.describe()


@pytest.fixture
def x(rng: np.random.Generator) -> Any:
    return torch.tensor(rng.standard_normal((5, 33)), dtype=torch.float32)


def test_kernels_run_on_the_stream_of_pytorch(x: Any, history: Any) -> None:
    y, pull = og.vjp(og.softmax, x)
    (dx,) = pull(x)
    right, pull = og.vjp(og.softmax, x.numpy())
    assert isinstance(y, torch.Tensor)
    np.testing.assert_allclose(y.numpy(), right, rtol=1e-6)
    np.testing.assert_allclose(dx.numpy(), pull(x.numpy())[0], rtol=1e-4, atol=1e-7)
    assert history.kernels == [
        ("opsgrad_softmax_value", 0, "external 7"),
        ("opsgrad_softmax_vjp", 0, "external 7"),
    ]
    assert (history.waits, history.uploads, history.downloads) == ([], [], 0)


@pytest.mark.parametrize("reduction", ["none", "mean"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_loss_and_gradient_in_one_kernel(
    x: Any, history: Any, dtype: Any, reduction: Any, rng: np.random.Generator
) -> None:
    labels = torch.tensor(rng.integers(33, size=5))
    x = x.to(dtype)
    value, gradient = og.value_and_grad(LOSS)(x, labels, reduction=reduction)
    right = og.value_and_grad(LOSS)(x.double().numpy(), labels.numpy(), reduction=reduction)
    assert value.dtype == gradient.dtype == dtype
    for one, other in zip((value, gradient), right, strict=True):
        np.testing.assert_allclose(
            one.double().numpy(), other, rtol=4 * torch.finfo(dtype).eps, atol=1e-7
        )
    assert [name for name, *_ in history.launches] == [f"opsgrad_{LOSS.__name__}_value_and_grad"]


def test_autograd_goes_through_kernels(x: Any, history: Any) -> None:
    x.requires_grad_()
    og.softmax(x)[:, 0].sum().backward()
    assert x.grad.shape == x.shape
    assert [name for name, *_ in history.launches] == [
        "opsgrad_softmax_value",
        "opsgrad_softmax_vjp",
    ]


def test_pytorch_runs_what_it_must_see_and_what_has_no_kernel(
    x: Any, history: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.func.vmap(og.softmax)(x)
    og.dense(x, x.T.contiguous())
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    og.softmax(x)
    og.value_and_grad(LOSS)(x, torch.zeros(5, dtype=torch.int64))
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(torch.version, "hip", "6.0")
    og.softmax(x)
    assert history.launches == history.kernels == []


def test_which_backend_says_what_runs(x: Any) -> None:
    for role in ("value", "vjp", "jvp", "value_and_grad"):
        words = og.which_backend(og.softmax, x).engines[role]
        assert words.endswith("; on a CUDA device CuPy's kernel")
    words = og.which_backend(og.dense, x, x.T).engines["value"]
    assert "CuPy" not in words


def test_a_number_goes_to_a_device_by_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    backend = og.backends()["torch"]
    kinds = [
        type(backend.number(0.5, dtype=torch.float32, device=torch.device(name)))
        for name in ("cuda:0", "cpu")
    ]
    assert kinds == [float, torch.Tensor]

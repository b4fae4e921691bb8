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
from opsgrad.fusion import cuda

FIRST_LINE = cuda._first_line
"""Which `cupy` puts aside, so that what the compiler refuses is raised."""

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


@pytest.fixture
def casts(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return a list of the data types that PyTorch is asked to convert to."""
    asked: list[Any] = []
    cast = TorchBackend.cast

    def watched(self: TorchBackend, array: Any, dtype: Any) -> Any:
        asked.append(dtype)
        return cast(self, array, dtype)

    monkeypatch.setattr(TorchBackend, "cast", watched)
    return asked


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_goes_in_and_out_as_it_is(
    x: Any, history: Any, dtype: Any, casts: list[Any], rng: np.random.Generator
) -> None:
    labels, x = torch.tensor(rng.integers(33, size=5)), x.to(dtype)
    exact, close = x.double().numpy(), {"rtol": torch.finfo(dtype).eps, "atol": 1e-6}

    def agree(got: Any, right: Any) -> None:
        assert got.dtype == dtype
        np.testing.assert_allclose(got.double().numpy(), right, **close)

    agree(og.softmax(x), og.softmax(exact))
    agree(og.softmax(x.T, axis=0), og.softmax(exact.T, axis=0))  # not contiguous
    assert casts == []
    y, pull = og.vjp(og.softmax, x)
    assert casts == [dtype]  # the rule keeps the value as it was before it was rounded
    agree(y, og.softmax(exact))
    agree(pull(x)[0], og.vjp(og.softmax, exact)[1](exact)[0])
    agree(og.jvp(og.softmax, (x,), (x,))[1], og.jvp(og.softmax, (exact,), (exact,))[1])
    casts.clear()
    for reduction in ("none", "mean"):
        got = og.value_and_grad(LOSS)(x, labels, reduction=reduction)
        right = og.value_and_grad(LOSS)(exact, labels.numpy(), reduction=reduction)
        for one, other in zip(got, right, strict=True):
            agree(one, other)
    assert casts == [dtype]  # the mean
    started = [name.removeprefix("opsgrad_") for name, *_ in history.launches]
    assert started == [
        *["softmax_value"] * 3,
        "softmax_vjp",
        *["softmax_value", "softmax_jvp"],
        *[f"{LOSS.__name__}_value_and_grad"] * 2,
    ]


def test_half_precision_that_pytorch_must_see(x: Any, history: Any, casts: list[Any]) -> None:
    x = x.to(torch.bfloat16)
    right = og.softmax(x.double().numpy())
    got = torch.func.vmap(og.softmax)(x)
    np.testing.assert_allclose(got.double().numpy(), right, rtol=torch.finfo(x.dtype).eps)
    assert torch.float32 in casts
    assert history.launches == history.kernels == []


def test_half_precision_after_torch_compile(
    x: Any, history: Any, casts: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While PyTorch compiles there are no kernels; that is no reason to have none later."""
    x = x.to(torch.bfloat16)
    with monkeypatch.context() as patch:
        patch.setattr(torch.compiler, "is_compiling", lambda: True)
        og.softmax(x)
    assert history.launches == []
    casts.clear()
    og.softmax(x)
    assert (len(history.launches), casts) == (1, [])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_cupys_compiler_refuses_runs_in_pytorch(
    x: Any, history: Any, dtype: Any, cupy: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    def refusing(*_: Any) -> Any:
        raise RuntimeError("there is no NVRTC")

    monkeypatch.setenv("OPSGRAD_CACHE_DIR", str(tmp_path / "kernels"))
    monkeypatch.setattr(cupy.cuda.compiler, "compile_using_nvrtc", refusing)
    monkeypatch.setattr(cuda, "_first_line", FIRST_LINE)
    x = x.to(dtype)
    y, labels = og.softmax(x), torch.zeros(5, dtype=torch.int64)
    np.testing.assert_allclose(
        y.double().numpy(), og.softmax(x.double().numpy()), rtol=4 * torch.finfo(dtype).eps
    )
    og.value_and_grad(LOSS)(x, labels)
    assert history.launches == history.kernels == []
    words = og.which_backend(og.softmax, x).engines["value"]
    assert words.endswith(
        "; on a CUDA device as it is written, because its kernel was not compiled: "
        "RuntimeError: there is no NVRTC"
    )


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

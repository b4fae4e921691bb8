"""The CuPy backend without a GPU: why it cannot run, and how it runs, on a stand-in."""

import doctest
import importlib
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import opsgrad as og
from opsgrad.backends.cupy import CupyBackend
from opsgrad.conformance import Row
from opsgrad.conformance.checks import direction, sample
from opsgrad.conformance.target import backend_targets

backends = sys.modules["opsgrad.backends"]  # opsgrad.backends is the function
INSTALLED = importlib.util.find_spec("cupy") is not None
FAKE = Path(__file__).parent / "fake_cupy"
GUIDE = Path(__file__).parents[1] / "docs" / "guides" / "on-a-gpu.md"


# -- why it cannot run -----------------------------------------------------------------------------

MISSING = {
    "no CuPy": ({}, "CuPy is not installed: pip install 'opsgrad[cuda13x]'"),
    "no driver": ({"FAKE_CUPY_STATUS": "35"}, "there is no CUDA driver: install NVIDIA's driver"),
    "old driver": (
        {"FAKE_CUPY_STATUS": "35", "FAKE_CUPY_DRIVER": "12040"},
        "the CUDA driver is too old: it goes up to CUDA 12.4, and CuPy is built for 13.2",
    ),
    "no device": ({"FAKE_CUPY_STATUS": "100"}, "there is no CUDA device: "),
    "none of the devices": ({"FAKE_CUPY_DEVICES": "0"}, "there is no CUDA device: "),
    "another error": ({"FAKE_CUPY_STATUS": "999"}, "CUDA does not start: status 999"),
}


@pytest.mark.parametrize(("settings", "reason"), MISSING.values(), ids=MISSING)
def test_unavailable(
    cupy: Any, monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], reason: str
) -> None:
    if not settings:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setitem(backends._loaded, "cupy", CupyBackend())
    assert og.backends()["cupy"].why_unavailable().startswith(reason)
    for call in (
        lambda: og.softmax([1.0], backend="cupy"),
        lambda: og.vjp(og.softmax, np.ones(2), backend="cupy"),
        lambda: og.use_backend("cupy").__enter__(),
    ):
        with pytest.raises(
            og.BackendUnavailableError, match="backend 'cupy' is not available: "
        ) as e:
            call()
        assert reason in str(e.value)


def test_a_broken_installation(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cupy: Any) -> None:
    (tmp_path / "cupy.py").write_text("raise ImportError('libcudart.so: no such file')")
    monkeypatch.delitem(sys.modules, "cupy")
    monkeypatch.syspath_prepend(tmp_path)
    reason = CupyBackend().why_unavailable()
    assert reason == "CuPy is installed, but cannot be imported: libcudart.so: no such file"


def test_only_what_is_there_is_remembered(cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = CupyBackend()
    monkeypatch.setenv("FAKE_CUPY_DEVICES", "0")
    assert not backend.available
    monkeypatch.setenv("FAKE_CUPY_DEVICES", "1")
    assert backend.available
    monkeypatch.delattr(cupy.cuda.runtime, "getDeviceCount")
    assert backend.available


def run(code: list[str], folder: Path | None = None, **settings: str) -> str:
    done = subprocess.run(
        [sys.executable, *code],
        cwd=folder,
        env=os.environ | settings,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]
    return done.stdout


def with_stand_in() -> str:
    return os.pathsep.join([str(FAKE), os.environ.get("PYTHONPATH", "")])


@pytest.mark.parametrize("case", ["no driver", "old driver", "no device"])
def test_reports_say_why(case: str) -> None:
    settings, reason = MISSING[case]
    assert f"cupy   {reason}" in run(["-m", "opsgrad"], PYTHONPATH=with_stand_in(), **settings)


def test_reports_say_how_to_install_it() -> None:
    if INSTALLED:
        pytest.skip("CuPy is installed")
    assert "cupy   CuPy is not installed: pip install " in run(["-m", "opsgrad"])


def test_the_real_one_without_a_device() -> None:
    """CuPy's own errors, where it is installed and cannot run."""
    if not INSTALLED:
        pytest.skip("CuPy is not installed")
    code = "import opsgrad as og; print(og.backends()['cupy'].why_unavailable())"
    reason = run(["-W", "error", "-c", code]).strip()
    if reason == "None":
        pytest.skip("there is a CUDA device, on which the conformance suite runs")
    known = (
        "there is no CUDA driver: ",
        "the CUDA driver is too old: ",
        "there is no CUDA device: ",
    )
    assert reason.startswith(known)


def test_the_stand_in_notices(cupy: Any, history: Any) -> None:
    """What the tests below rely on: waiting, moving and computing elsewhere do not go unseen."""
    import array_api_compat.cupy as compat

    x = put(cupy, np.ones(3), 1)
    with pytest.raises(ValueError, match="Array device must be same as the current device"):
        x + x
    with pytest.raises(TypeError, match="Implicit conversion to a NumPy array"):
        np.asarray(x)
    with cupy.cuda.Device(1):
        for use in (lambda: bool(cupy.any(x > 2)), lambda: float(cupy.sum(x)), lambda: x[x > 0]):
            history.clear()
            use()
            assert len(history.waits) == 1
        history.clear()
        compat.clip(x, -1.0, 1.0)
        assert history.waits == ["mask", "mask"]
        with pytest.raises(TypeError, match="Unsupported type"):
            x + np.ones(3)


# -- how it runs -----------------------------------------------------------------------------------


def put(cupy: Any, array: Any, device: int = 0) -> Any:
    with cupy.cuda.Device(device):
        return None if array is None else cupy.array(array)


def test_every_op_stays_on_its_device_and_stream(
    cupy: Any, history: Any, row: Row, rng: np.random.Generator
) -> None:
    """Value, VJP and JVP neither wait nor move data, and leave device and stream as they were."""
    for params in row.variants:
        hosts = sample(row, rng, (3, 4))
        arrays = [put(cupy, host, 1) for host in hosts]
        tangents = tuple(put(cupy, direction(rng, host), 1) for host in hosts)
        with cupy.cuda.Device(1):
            mine = cupy.cuda.Stream("mine")
        with mine:
            history.clear()
            y, pull = og.vjp(row.op, *arrays, **params)
            _, dy = og.jvp(row.op, tuple(arrays), tangents, **params)
            gradients = pull(y)
            assert cupy.cuda.current_device() == 0
            assert cupy.cuda.get_current_stream().name == "null"
            with cupy.cuda.Device(1):
                assert cupy.cuda.get_current_stream() is mine
        assert history.kernels
        assert {(device, stream) for _, device, stream in history.kernels} == {(1, "mine")}
        assert (history.waits, history.downloads, history.uploads) == ([], 0, [])
        for one in (y, dy, *gradients):
            assert one is None or (one.device.id, one.dtype) == (1, np.float64)
        np.testing.assert_allclose(y.get(), row.op(*hosts, **params), rtol=1e-15)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_by_flag_each_array_is_moved_once(cupy: Any, history: Any, dtype: str) -> None:
    x, w, b = (np.ones(shape, dtype) for shape in ((2, 3), (3, 4), (4,)))
    y, pull = og.vjp(og.dense, x, w, b, backend="cupy")
    assert len(history.uploads) == 3
    gradients = pull(np.ones((2, 4), dtype))
    assert len(history.uploads) == 4
    assert (history.waits, history.downloads) == ([], 0)
    for one in (y, *gradients):
        assert isinstance(one, cupy.ndarray)
        assert one.dtype == dtype
    with og.use_backend("cupy"):
        assert isinstance(og.relu([1.0]), cupy.ndarray)
    with cupy.cuda.Device(1):
        assert og.relu(x, backend="cupy").device.id == 1


def test_lists_go_to_the_device_of_the_arrays(cupy: Any, history: Any) -> None:
    x = put(cupy, np.ones((2, 3)), 1)
    loss = og.nll_loss(x, [0, 2])
    assert (loss.device.id, len(history.uploads), history.waits) == (1, 2, [])


def test_arrays_go_back_when_asked(cupy: Any, history: Any) -> None:
    x = put(cupy, np.arange(3), 1)
    assert og.to_numpy(x).tolist() == [0, 1, 2]
    assert history.downloads == 1
    assert og.relu(x, backend="numpy").tolist() == [0.0, 1.0, 2.0]
    assert cupy.cuda.current_device() == 0


def test_value_and_grad_and_jacobians(cupy: Any, history: Any) -> None:
    x = put(cupy, np.linspace(-1, 1, 12).reshape(3, 4), 1)
    labels = put(cupy, np.array([0, 1, 3]), 1)
    loss_and_gradient = og.value_and_grad(og.softmax_cross_entropy_with_integer_labels)
    loss, gradient = loss_and_gradient(x, labels, reduction="mean")
    assert (loss.shape, loss.device.id, gradient.device.id) == ((), 1, 1)
    jacobian = og.jacobian(og.softmax, x)
    assert (jacobian.dense().shape, jacobian.dense().device.id) == ((3, 4, 4), 1)
    assert (jacobian @ x).device.id == (jacobian.T @ x).device.id == 1
    assert og.jacobian(og.sigmoid, x).dense().device.id == 1
    assert (history.waits, history.downloads) == ([], 0)


def test_a_wrong_label_is_not_looked_at(cupy: Any, history: Any) -> None:
    scores, labels = put(cupy, np.zeros((3, 4))), put(cupy, np.array([0, 4, -1]))
    loss, gradient = og.value_and_grad(og.nll_loss)(scores, labels)
    assert history.waits == []
    assert np.isnan(loss.get()).tolist() == [False, True, True]
    assert np.isnan(gradient.get()).all(axis=-1).tolist() == [False, True, True]
    with pytest.raises(og.LabelError, match="nll_loss: labels"):
        og.nll_loss(np.zeros((1, 2)), np.array([2]), backend="cupy")


def test_two_devices_are_refused(cupy: Any) -> None:
    here, there = put(cupy, np.ones(3)), put(cupy, np.ones(3), 1)
    words = "pred is on <CUDA Device 0>, target is on <CUDA Device 1>"
    with pytest.raises(og.DeviceError, match=f"squared_error: .*{words}"):
        og.squared_error(here, there)
    _, pull = og.vjp(og.relu, here)
    with pytest.raises(og.DeviceError, match="relu: the cotangent is on <CUDA Device 1>"):
        pull(there)
    with pytest.raises(og.DeviceError, match="relu: the tangent of x is on <CUDA Device 1>"):
        og.jvp(og.relu, (here,), (there,))


def test_numpy_beside_cupy_is_refused(cupy: Any, history: Any) -> None:
    x = put(cupy, np.ones(3))
    history.clear()
    with pytest.raises(og.MixedBackendsError, match="pred is of cupy, target is of numpy"):
        og.squared_error(x, np.ones(3))
    _, pull = og.vjp(og.relu, x)
    with pytest.raises(og.MixedBackendsError, match="the cotangent is an array of numpy"):
        pull(np.ones(3))
    assert (history.uploads, history.downloads) == ([], 0)


def test_which_backend(cupy: Any, history: Any) -> None:
    choice = og.which_backend(og.softmax, put(cupy, np.ones(3)))
    assert (choice.backend, choice.why) == ("cupy", "x is an array of cupy")
    history.clear()
    choice = og.which_backend(og.softmax, np.ones(3), backend="cupy")
    assert (choice.backend, history.uploads) == ("cupy", [])


def test_namespace(cupy: Any, history: Any) -> None:
    """Creation heeds the device that it is given, or that of its model; clip does not wait."""
    xp = og.backends()["cupy"].namespace
    there, x = cupy.cuda.Device(1), put(cupy, np.array([-2.0, np.nan, 2.0]), 1)
    assert xp.zeros((2,), device=there).device == xp.arange(3, device=there).device == there
    assert xp.ones_like(x).device == xp.full_like(x, 2.0).device == there
    assert xp.zeros((2,)).device.id == xp.ones_like(x, device=cupy.cuda.Device(0)).device.id == 0
    with there:
        np.testing.assert_array_equal(xp.clip(x, -1.0, 1.0).get(), [-1.0, np.nan, 1.0])
        np.testing.assert_array_equal(xp.clip(x, None, 1.0).get(), [-2.0, np.nan, 1.0])
        assert xp.clip(x) is x
    assert set(history.waits) == {"get"}


def test_arrays_of_awkward_numpy_memory_are_taken_in(cupy: Any) -> None:
    backend = og.backends()["cupy"]
    for host in (np.arange(3.0).astype(">f8"), np.arange(6.0)[::-2], np.float64(3.0), 1e300):
        array = backend.asarray(host, dtype=np.float32)
        np.testing.assert_array_equal(
            backend.to_numpy(array), backend.asarray(host).astype("f4").get()
        )


def test_synchronize_waits_for_the_current_stream(cupy: Any, history: Any) -> None:
    og.backends()["cupy"].synchronize()
    assert history.waits == ["stream"]


def test_results_have_memory_of_their_own(cupy: Any) -> None:
    x = put(cupy, np.ones(3))
    backend = og.backends()["cupy"]
    assert backend.shares_memory(x, x[1:])
    assert not backend.shares_memory(og.relu(x), x)


def test_the_suite_runs(tmp_path: Path) -> None:
    """A part of the conformance suite passes on the stand-in, by the name of the backend."""
    suite = ["--pyargs", "opsgrad.conformance.suite.test_values", "--backend", "cupy"]
    options = ["-q", "-p", "no:cacheprovider", "-W", "error", "-k", "oracle and float32"]
    out = run(["-m", "pytest", *suite, *options], tmp_path, PYTHONPATH=with_stand_in())
    assert " passed" in out


def test_the_guide_runs(cupy: Any) -> None:
    failed, tried = doctest.testfile(str(GUIDE), module_relative=False)
    assert failed == 0
    assert tried > 10


def test_the_suite_knows_that_labels_are_not_looked_at(cupy: Any) -> None:
    (target,) = backend_targets("cupy")
    assert not target.sees_labels

"""Choosing a backend: by array, by flag, by context."""

import subprocess
import sys
import threading
from typing import Any

import numpy as np
import pytest
from libraries import library_parameters

import opsgrad as og
from opsgrad.conformance.target import Target

named = pytest.mark.parametrize("library", library_parameters("numpy", "torch", "jax", "dask"))


@named
def test_flag_moves_inputs_and_results_stay(library: Target) -> None:
    kind = type(library.put(np.zeros(1)))
    y, pull = og.vjp(og.softmax, np.array([1.0, 2.0]), backend=library.name)
    assert isinstance(y, kind)
    assert isinstance(pull(np.ones(2))[0], kind)
    assert isinstance(pull(library.put(np.ones(2)))[0], kind)
    assert isinstance(og.softmax([1.0, 2.0], backend=library.name), kind)
    assert isinstance(og.softmax(library.put(np.ones(2)), backend="numpy"), np.ndarray)
    J = og.jacobian(og.softmax, np.ones(2), backend=library.name)
    assert isinstance(J.dense(), kind)
    assert isinstance(J @ np.ones(2), kind)


@named
def test_context(library: Target) -> None:
    kind = type(library.put(np.zeros(1)))
    with og.use_backend(library.name) as backend:
        assert backend.name == library.name
        assert isinstance(og.softmax(np.ones(2)), kind)
        assert isinstance(og.softmax([1.0, 2.0]), kind)
        assert isinstance(og.softmax(np.ones(2), backend="numpy"), np.ndarray)
        net = og.chain(og.dense, og.relu)
        assert isinstance(net(np.ones((1, 2)), ((np.ones((2, 2)),), ())), kind)
    assert isinstance(og.softmax(np.ones(2)), np.ndarray)


def test_contexts_of_threads_are_apart() -> None:
    seen: dict[str, Any] = {}
    inside = threading.Event()

    def other() -> None:
        inside.wait(5)
        seen["other"] = og.softmax([1.0])

    thread = threading.Thread(target=other)
    thread.start()
    pytest.importorskip("torch")
    with og.use_backend("torch"):
        inside.set()
        thread.join()
    assert isinstance(seen["other"], np.ndarray)


@named
def test_backend_objects(library: Target) -> None:
    backend = og.backends()[library.name]
    assert backend.available
    assert backend.why_unavailable() is None
    array = backend.asarray(np.array([1.0, 2.0]))
    assert backend.owns(array)
    np.testing.assert_array_equal(backend.to_numpy(array), [1.0, 2.0])
    backend.synchronize()
    assert repr(backend) == f"<backend {library.name}: available>"


def test_backends_table() -> None:
    table = og.backends()
    assert "numpy" in table
    assert len(table) == len(list(table))
    assert "numpy  available" in repr(table)


@named
def test_to_numpy(library: Target) -> None:
    np.testing.assert_array_equal(og.to_numpy(library.put(np.arange(3))), [0, 1, 2])


def test_to_numpy_of_what_is_no_array() -> None:
    np.testing.assert_array_equal(og.to_numpy([1, 2]), [1, 2])
    with pytest.raises(TypeError, match="to_numpy: x"):
        og.to_numpy("softmax")


def test_to_numpy_of_torch_tensors_in_a_graph_and_in_bfloat16() -> None:
    torch = pytest.importorskip("torch")
    assert og.to_numpy(torch.ones(2, requires_grad=True)).tolist() == [1.0, 1.0]
    assert og.to_numpy(torch.ones(2, dtype=torch.bfloat16)).dtype == np.float32


def test_import_brings_in_no_backend() -> None:
    code = (
        "import sys, opsgrad;"
        "print('importlib.metadata' in sys.modules);"  # 19 ms
        "opsgrad.softmax([1.0]);"
        "names = ('torch', 'jax', 'dask', 'cupy', 'llvmlite', 'mpmath');"
        "print([name for name in names if name in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split("\n")[:2] == ["False", "[]"]


def test_import_brings_in_numpy_and_array_api_compat_alone() -> None:
    code = """
import sys
before = set(sys.modules)
import opsgrad
new = {name.partition(".")[0] for name in set(sys.modules) - before}
print(*sorted(new - set(sys.stdlib_module_names)))
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["array_api_compat", "numpy", "opsgrad"]


def test_import_brings_in_nothing_slow_that_numpy_does_not() -> None:
    code = """
import sys, numpy
before = set(sys.modules)
import opsgrad
slow = {"dataclasses", "decimal", "difflib", "fractions", "importlib.metadata"}
print(sorted(slow & set(sys.modules) - before))
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"

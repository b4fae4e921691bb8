"""Arrays of two libraries or devices, and bad backends, are refused."""

import importlib.util
import json
import os
import subprocess
import sys
import textwrap
from typing import Any

import numpy as np
import pytest
from libraries import installed, library_named
from refusal import (
    all_refused,
    complaint,
    good,
    nothing_runs,
    refused,
    replaced,
    routes,
)

import opsgrad as og
from opsgrad.conformance import TABLE

SEVERAL = [name for name, row in TABLE.items() if len(row.arguments) > 1]
needs_torch = pytest.mark.skipif(not installed("torch"), reason="torch is not installed")
needs_jax = pytest.mark.skipif(not installed("jax"), reason="jax is not installed")


def refused_on_every_route(
    name: str, arrays: tuple[Any, ...], builtin: Any, *words: str, **params: Any
) -> None:
    op = TABLE[name].op
    with nothing_runs(op):
        all_refused(
            {
                way: complaint(call, builtin, name, *words)
                for way, call in routes(op, arrays, params).items()
            }
        )


@needs_torch
@pytest.mark.parametrize("value", [1e-60, 1e60])
def test_a_parameter_that_bfloat16_cannot_hold_is_refused(value: float) -> None:
    import torch

    x = torch.ones(3, dtype=torch.bfloat16)
    refused(lambda: og.relumax(x, b=value), ValueError, "relumax", "b", "bfloat16")


# Two libraries, two devices

PAIRS = [
    ("numpy", "torch"),
    ("torch", "numpy"),
    ("numpy", "jax"),
    ("torch", "jax"),
    ("jax", "torch"),
    ("jax", "dask"),
    ("dask", "torch"),
    ("numpy", "array_api_strict"),
    ("array_api_strict", "torch"),
]


@pytest.mark.parametrize(("one", "other"), PAIRS, ids="+".join)
@pytest.mark.parametrize("name", SEVERAL)
def test_arrays_of_two_libraries_are_refused(name: str, one: str, other: str) -> None:
    for library in (one, other):
        if not installed(library):
            pytest.skip(f"{library} is not installed")
    arrays = good(name)
    for place in range(1, len(arrays)):
        mixed = tuple(
            library_named(other if k == place else one).put(array) for k, array in enumerate(arrays)
        )
        words = (*TABLE[name].arguments, one, other)
        refused_on_every_route(name, mixed, TypeError, *words, "backend=")


@pytest.mark.parametrize("name", SEVERAL)
def test_arrays_of_two_libraries_meet_on_the_backend_that_is_asked_for(name: str) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    arrays = good(name)
    mixed = (library_named("torch").put(arrays[0]), *arrays[1:])
    expected = og.vjp(TABLE[name].op, *arrays)[0]
    for backend, kind in (("numpy", (np.ndarray, np.generic)), ("torch", torch.Tensor)):
        value = og.vjp(TABLE[name].op, *mixed, backend=backend)[0]
        assert isinstance(value, kind)
        np.testing.assert_allclose(og.to_numpy(value), expected, rtol=1e-12)


@pytest.mark.parametrize("name", SEVERAL)
def test_arrays_on_two_devices_are_refused(name: str) -> None:
    strict = pytest.importorskip("array_api_strict", reason="array_api_strict is not installed")
    here, there = (strict.Device(device) for device in ("CPU_DEVICE", "device1"))
    arrays = good(name)
    for place in range(1, len(arrays)):
        mixed = tuple(
            strict.asarray(array, device=there if k == place else here)
            for k, array in enumerate(arrays)
        )
        words = (TABLE[name].arguments[0], TABLE[name].arguments[place], "CPU_DEVICE", "device1")
        refused_on_every_route(name, mixed, (ValueError, RuntimeError), *words)


@pytest.mark.parametrize("name", TABLE)
def test_cotangents_and_tangents_on_another_device_are_refused(name: str) -> None:
    strict = pytest.importorskip("array_api_strict", reason="array_api_strict is not installed")
    there = strict.Device("device1")
    op, arrays = TABLE[name].op, good(name)
    here = tuple(map(strict.asarray, arrays))
    y, pull = og.vjp(op, *here)
    g = strict.asarray(og.to_numpy(y), device=there)
    tangents = tuple(
        a if f else None for a, f in zip(here, TABLE[name].differentiable, strict=True)
    )
    spoilt = replaced(tangents, 0, strict.asarray(arrays[0], device=there))
    wanted, first = (ValueError, RuntimeError), TABLE[name].arguments[0]
    with nothing_runs(op):
        all_refused(
            {
                "pull": complaint(lambda: pull(g), wanted, name, "cotangent", "device1"),
                "jvp": complaint(
                    lambda: og.jvp(op, here, spoilt), wanted, name, "tangent", first, "device1"
                ),
            }
        )


# Backends by name

UNKNOWN = {
    "numpi": "numpy",
    "nunpy": "numpy",
    "Numpy": "numpy",
    "NumPy": "numpy",
    "pytorch": "torch",
    "Torch": "torch",
    "jaxs": "jax",
    "dasc": "dask",
    "tensorflow": "",
    "": "",
    " numpy": "numpy",
    "opsgrad": "",
}

NO_NAMES: dict[str, Any] = {
    "number": 3,
    "bool": True,
    "zero": 0,
    "False": False,
    "bytes": b"numpy",
    "module": np,
    "class": np.ndarray,
    "list": ["numpy"],
    "tuple": ("numpy",),
    "dict": {},
    "object": object(),
    "backend itself": og.backends()["numpy"],
}


@pytest.mark.parametrize("name", TABLE)
def test_unknown_backends_are_refused_by_every_op(name: str) -> None:
    for bad in ("numpi", "tensorflow"):
        refused_on_every_route(name, good(name), ValueError, repr(bad), "backend", backend=bad)


@pytest.mark.parametrize("name", TABLE)
def test_backends_that_are_no_names_are_refused_by_every_op(name: str) -> None:
    for bad in NO_NAMES.values():
        words = ("backend", type(bad).__name__)
        refused_on_every_route(name, good(name), TypeError, *words, backend=bad)


@pytest.mark.parametrize("bad", UNKNOWN)
def test_an_unknown_backend_is_answered_with_the_names_there_are(bad: str) -> None:
    near = f"did you mean {UNKNOWN[bad]!r}?" if UNKNOWN[bad] else "known"
    words = (repr(bad), near, *map(repr, og.backends()))
    x = np.ones(3)

    def within() -> None:
        with og.use_backend(bad):
            og.softmax(x)

    with nothing_runs(og.softmax):
        all_refused(
            {
                "backend=": complaint(lambda: og.softmax(x, backend=bad), ValueError, *words),
                "chain": complaint(
                    lambda: og.chain(og.softmax)(x, backend=bad), ValueError, *words
                ),
                "use_backend": complaint(within, ValueError, *words),
            }
        )


@pytest.mark.parametrize("kind", [*NO_NAMES, "None"])
def test_use_backend_refuses_what_is_no_name(kind: str) -> None:
    def within() -> None:
        with og.use_backend(NO_NAMES.get(kind)):
            og.softmax(np.ones(3))

    refused(within, TypeError, "backend", op=og.softmax)


def test_the_backends_are_a_mapping_like_any_other() -> None:
    known = og.backends()
    assert "no such backend" not in known
    assert 3 not in known
    assert known.get("no such backend") is None
    with pytest.raises(KeyError, match="no such backend"):
        known["no such backend"]


@pytest.mark.parametrize(
    ("backend", "package", "library"),
    [("torch", "torch", "PyTorch"), ("jax", "jax", "JAX"), ("dask", "dask", "Dask")],
)
@pytest.mark.parametrize("name", ["softmax", "dense", "nll_loss"])
def test_an_unavailable_backend_says_what_to_install(
    name: str, backend: str, package: str, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda wanted, *rest: None if wanted == package else find(wanted, *rest),
    )
    words = (repr(backend), library, "pip install")
    op, arrays = TABLE[name].op, good(name)

    def within() -> None:
        with og.use_backend(backend):
            op(*arrays)

    assert not og.backends()[backend].available
    assert "pip install" in repr(og.backends())
    with nothing_runs(op):
        wrong = {
            way: complaint(call, RuntimeError, name, *words)
            for way, call in routes(op, arrays, {"backend": backend}).items()
        }
        wrong["use_backend"] = complaint(within, RuntimeError, *words)
    all_refused(wrong)


def test_a_backend_out_of_order_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    numpy = og.backends()["numpy"]
    monkeypatch.setattr(type(numpy), "why_unavailable", lambda self: "it is being mended")
    call = lambda: og.relu([1.0], backend="numpy")  # noqa: E731
    refused(call, RuntimeError, "'numpy'", "it is being mended", op=og.relu)


@needs_torch
def test_a_parameter_is_checked_before_arrays_are_moved() -> None:
    whole = np.ones(3, dtype=np.int64)  # float64 here, float32 there
    for x in (whole, whole.tolist()):
        call = lambda x=x: og.relumax(x, b=1e-60, backend="torch")  # noqa: E731
        refused(call, ValueError, "relumax", "b", "1e-60", op=og.relumax)


# To NumPy


NO_ARRAYS: dict[str, Any] = {
    "None": None,
    "string": "abc",
    "bytes": b"abc",
    "dict": {},
    "set": {1.0},
    "object": object(),
    "function": len,
    "module": np,
    "array class": np.ndarray,
    "generator": iter([1.0]),
    "ragged list": [[1.0], [1.0, 2.0]],
    "list of objects": [object()],
}


@pytest.mark.parametrize("kind", NO_ARRAYS)
def test_to_numpy_refuses_what_is_no_array(kind: str) -> None:
    call = lambda: og.to_numpy(NO_ARRAYS[kind])  # noqa: E731
    wrong = complaint(call, (TypeError, ValueError), "to_numpy", "x")
    assert wrong is None, wrong


# JAX without its 64-bit mode, which the other tests have on: in a process of its own

NARROW = """
    import json, sys
    import numpy as np
    import opsgrad as og

    x64, x32 = np.ones((5, 4)), np.ones((5, 4), np.float32)
    w64, w32 = np.ones((4, 3)), np.ones((4, 3), np.float32)
    far, near = np.array([2**40, 1]), np.array([2**30, 1])
    labels = np.zeros(5, np.int64)

    def within(call):
        with og.use_backend("jax"):
            return call()

    REFUSED = {
        "call": ("softmax", "x", lambda: og.softmax(x64, backend="jax")),
        "context": ("softmax", "x", lambda: within(lambda: og.softmax(x64))),
        "vjp": ("softmax", "x", lambda: og.vjp(og.softmax, x64, backend="jax")),
        "jvp": ("softmax", "x", lambda: og.jvp(og.softmax, (x64,), (x64,), backend="jax")),
        "jacobian": ("softmax", "x", lambda: og.jacobian(og.softmax, x64, backend="jax")),
        "value_and_grad": (
            "softmax", "x", lambda: og.value_and_grad(og.softmax)(x64, backend="jax")
        ),
        "chain": ("softmax", "x", lambda: og.chain(og.softmax)(x64, backend="jax")),
        "second array": ("dense", "w", lambda: og.dense(x32, w64, backend="jax")),
        "targets": (
            "squared_error", "target", lambda: og.squared_error(x32, x64, backend="jax")
        ),
        "beside labels": ("nll_loss", "log_probs", lambda: og.nll_loss(x64, labels, backend="jax")),
        "scalar": ("relu", "x", lambda: og.relu(np.float64(1), backend="jax")),
        "one row": ("relu", "x", lambda: og.relu(x64[0], backend="jax")),
        "empty": ("relu", "x", lambda: og.relu(x64[:0], backend="jax")),
        "int64 beyond 32 bits": ("relu", "x", lambda: og.relu(far, backend="jax")),
        "negative int64": ("relu", "x", lambda: og.relu(-far, backend="jax")),
        "uint64 beyond 32 bits": (
            "relu", "x", lambda: og.relu(far.astype(np.uint64), backend="jax")
        ),
        "uint32 beyond int32": (
            "relu", "x", lambda: og.relu(np.array([2**31], np.uint64), backend="jax")
        ),
    }
    if "array_api_strict" in sys.argv:
        import array_api_strict

        strict = array_api_strict.asarray(x64)
        REFUSED["another library"] = ("relu", "x", lambda: og.relu(strict, backend="jax"))

    ACCEPTED = {
        "float32": lambda: og.relu(x32, backend="jax"),
        "list": lambda: og.relu([1.0, 2.0], backend="jax"),
        "number": lambda: og.relu(1.0, backend="jax"),
        "int64 within 32 bits": lambda: og.relu(near, backend="jax"),
        "int64 labels": lambda: og.nll_loss(x32, labels, backend="jax"),
        "uint64 labels": lambda: og.nll_loss(x32, labels.astype(np.uint64), backend="jax"),
        "empty int64": lambda: og.relu(far[:0], backend="jax"),
        "float64 in NumPy": lambda: og.softmax(x64),
    }

    def outcome(call):
        try:
            call()
        except Exception as error:
            return [[base.__name__ for base in type(error).__mro__], str(error)]
        return None

    found = {
        "refused": {kind: [op, word, outcome(call)] for kind, (op, word, call) in REFUSED.items()},
        "accepted": {kind: outcome(call) for kind, call in ACCEPTED.items()},
    }
    print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def narrow() -> dict[str, dict[str, Any]]:
    environment = os.environ | {"JAX_ENABLE_X64": "0", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            textwrap.dedent(NARROW),
            *["array_api_strict"] * installed("array_api_strict"),
        ],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@needs_jax
def test_data_that_jax_would_narrow_is_refused(narrow: dict[str, Any]) -> None:
    faults = []
    for kind, (op, word, outcome) in narrow["refused"].items():
        if outcome is None:
            faults.append(f"{kind}: accepted")
            continue
        bases, message = outcome
        if not {"OpsgradError", "TypeError"} <= {*bases}:
            faults.append(f"{kind}: {bases[0]}: {message}")
        missing = [one for one in (op, f"{word} ", "'jax'", "jax_enable_x64") if one not in message]
        if missing:
            faults.append(f"{kind}: {missing} not mentioned in {message}")
    assert not faults, "\n".join(faults)


@needs_jax
def test_data_that_jax_takes_as_it_is_is_accepted(narrow: dict[str, Any]) -> None:
    assert not {kind: found for kind, found in narrow["accepted"].items() if found is not None}

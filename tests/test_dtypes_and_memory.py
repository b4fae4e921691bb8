"""Data types, memory layouts, aliasing: what goes in unchanged and what comes out."""

import importlib.util
from typing import Any

import numpy as np
import pytest
from libraries import library_named, library_parameters

import opsgrad as og
from opsgrad.backends import protocol
from opsgrad.conformance import Row
from opsgrad.conformance.checks import call, call_vjp, direction, sample
from opsgrad.conformance.suite.rows import rows_with
from opsgrad.conformance.target import Target, to_numpy

ELEMENTWISE = [param for param in rows_with("name") if param.values[0].unit == "element"]


def floats(arrays: list[Any]) -> list[Any]:
    return [a for a in arrays if a is not None]


def test_float16_is_computed_in_float32_and_rounded_once(
    row: Row, rng: np.random.Generator
) -> None:
    half = sample(row, rng, (3, 8), dtype="float16")
    wide = [a if a.dtype.kind in "iu" else a.astype("float32") for a in half]
    for params in row.variants:
        numpy = library_named("numpy")
        rounded = {
            k: float(np.float16(v)) if isinstance(v, float) else v for k, v in params.items()
        }
        y = call(row.op, numpy, half, params)
        assert y.dtype == np.float16
        np.testing.assert_array_equal(y, np.float16(call(row.op, numpy, wide, rounded)))
        g = np.asarray(direction(rng, y))
        gradients = call_vjp(row.op, numpy, half, g, params)
        expected = call_vjp(row.op, numpy, wide, g.astype("float32"), rounded)
        for gradient, right in zip(floats(gradients), floats(expected), strict=True):
            assert gradient.dtype == np.float16
            np.testing.assert_array_equal(gradient, np.float16(right))


def test_float16_sums_do_not_overflow() -> None:
    np.testing.assert_array_equal(
        og.softmax(np.zeros(70_000, np.float16)), np.full(70_000, 1 / 70_000, np.float16)
    )


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")
@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_half_precision_in_torch(row: Row, rng: np.random.Generator, name: str) -> None:
    import torch

    dtype = getattr(torch, name)
    wide = [torch.tensor(a) for a in sample(row, rng, (3, 8), dtype="float32")]
    half = [a if a.dtype == torch.int64 else a.to(dtype) for a in wide]
    back = [a if a.dtype == torch.int64 else a.to(torch.float32) for a in half]
    params = row.variants[0]
    y, pull = og.vjp(row.op, *half, **params)
    assert y.dtype == dtype
    exact = {
        k: float(torch.tensor(v, dtype=dtype)) if isinstance(v, float) else v
        for k, v in params.items()
    }
    right, pull_right = og.vjp(row.op, *back, **exact)
    assert torch.equal(y, right.to(dtype))
    for one, two in zip(
        floats(pull(torch.ones_like(y))), floats(pull_right(torch.ones_like(right))), strict=True
    ):
        assert one.dtype == dtype
        assert torch.equal(one, two.to(dtype))


@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="jax is not installed")
@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_half_precision_in_jax(name: str) -> None:
    import jax.numpy as jnp

    x = jnp.arange(6, dtype=name).reshape(2, 3)
    y, pull = og.vjp(og.softmax, x)
    assert y.dtype == name
    assert pull(y)[0].dtype == name
    np.testing.assert_array_equal(
        np.asarray(y, dtype="float32"),
        np.asarray(og.softmax(x.astype("float32")).astype(name), dtype="float32"),
    )


@pytest.mark.parametrize("library", library_parameters("numpy", "array_api_strict", "torch", "jax"))
def test_promotion(library: Target) -> None:
    single, double = library.put(np.ones(3, "float32")), library.put(np.ones(3, "float64"))
    whole = library.put(np.arange(3))
    y, pull = og.vjp(og.squared_error, single, double)
    assert y.dtype == double.dtype
    assert [g.dtype for g in pull(double)] == [single.dtype, double.dtype]
    y, pull = og.vjp(og.squared_error, single, whole)
    assert y.dtype == single.dtype
    gradient, nothing = pull(single)
    assert gradient.dtype == single.dtype
    assert nothing is None
    assert og.jvp(og.squared_error, (single, whole), (single, None))[1].dtype == single.dtype


def test_integers_become_the_default_float() -> None:
    assert og.softmax(np.arange(3)).dtype == np.float64
    assert og.softmax(np.arange(3, dtype=np.uint8)).dtype == np.float64
    assert og.vjp(og.softmax, np.arange(3))[1](np.ones(3)) == (None,)


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")
def test_integers_become_the_default_float_of_torch() -> None:
    import torch

    assert og.softmax(torch.arange(3)).dtype == torch.float32


def test_lists_and_numbers_take_the_type_of_the_others() -> None:
    x = np.ones(2, np.float32)
    assert og.squared_error(x, [0.1, 0.2]).dtype == np.float32
    y, pull = og.vjp(og.prelu, x, 0.25)
    assert y.dtype == np.float32
    assert [g.dtype for g in pull(x)] == [np.float32, np.float32]
    y, pull = og.vjp(og.relu, [1, 2])
    np.testing.assert_array_equal(pull([1, 1])[0], [1.0, 1.0])
    assert og.nll_loss([[0.5, 0.25]], [1]).tolist() == [-0.25]


@pytest.mark.parametrize(
    "dtype", ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
)
def test_labels_of_every_integer_type(library: Target, dtype: str) -> None:
    x, labels = np.array([[0.0, 1.0, 3.0], [2.0, 0.0, 1.0]]), np.array([2, 0])
    op = og.softmax_cross_entropy_with_integer_labels
    np.testing.assert_array_equal(
        call(op, library, (x, labels.astype(dtype)), {}), call(op, library, (x, labels), {})
    )


def test_parameters_are_rounded_to_the_data_type() -> None:
    x = np.array([0.0, -0.3], np.float32)
    exact = og.relumax(x.astype(np.float64), b=float(np.float32(0.7)))
    np.testing.assert_allclose(og.relumax(x, b=0.7), exact, rtol=1e-7)


# -- memory --------------------------------------------------------------------------------------

LAYOUTS = {
    "contiguous": np.ascontiguousarray,
    "Fortran": np.asfortranarray,
    "strided": lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
    "negative strides": lambda a: np.ascontiguousarray(a[::-1])[::-1],
    "byte-swapped": lambda a: a.astype(a.dtype.newbyteorder()),
    "read-only": lambda a: read_only(a),
}


def read_only(array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array.flags.writeable = False
    return array


@pytest.mark.parametrize("layout", LAYOUTS)
def test_memory_layouts(row: Row, rng: np.random.Generator, layout: str) -> None:
    """Any layout gives what a contiguous copy gives; inputs stay as they are."""
    plain = sample(row, rng, (4, 6))
    laid_out = [LAYOUTS[layout](a) for a in plain]
    before = [a.tobytes() for a in laid_out]
    y, pull = og.vjp(row.op, *laid_out, **row.variants[0])
    right, pull_right = og.vjp(row.op, *plain, **row.variants[0])
    g = direction(rng, np.asarray(y))
    results = [y, *floats(pull(LAYOUTS[layout](g) if g.ndim else g))]
    for got, expected in zip(results, [right, *floats(pull_right(g))], strict=True):
        if row.unit == "element":
            np.testing.assert_array_equal(got, expected)
        else:
            np.testing.assert_allclose(got, expected, rtol=1e-14, atol=1e-15)
        assert got.dtype.isnative
    assert [a.tobytes() for a in laid_out] == before


@pytest.mark.parametrize("library", library_parameters("numpy", "torch"))
def test_results_have_memory_of_their_own(
    row: Row, library: Target, rng: np.random.Generator
) -> None:
    for shape in ((3, 4), (4,)):
        arrays = [library.put(a) for a in sample(row, rng, shape)]
        y, pull = og.vjp(row.op, *arrays, **row.variants[0])
        g = library.put(np.ones(y.shape))
        tangents = [library.put(direction(rng, to_numpy(a))) for a in arrays]
        dy = og.jvp(row.op, arrays, tangents, **row.variants[0])[1]
        inputs = [*arrays, g, *floats(tangents)]
        results = [y, dy, *floats(pull(g)), *floats(pull(g))]
        for number, result in enumerate(results):
            for other in (*inputs, *results[:number]):
                assert not np.shares_memory(to_numpy(result), to_numpy(other))


def test_numpy_scalars_and_subclasses() -> None:
    assert og.sigmoid(np.float32(0.0)).dtype == np.float32
    matrix = np.ones((2, 2)).view(type("Sub", (np.ndarray,), {}))
    assert type(og.softmax(matrix)) is np.ndarray


@pytest.mark.parametrize("row", ELEMENTWISE)
def test_empty_arrays(row: Row, library: Target) -> None:
    arrays = [np.zeros((0, 3)) for _ in row.arguments]
    assert call(row.op, library, arrays, row.variants[0]).shape == (0, 3)


def test_caller_error_state_is_untouched() -> None:
    with np.errstate(all="raise"):
        og.softmax(np.array([np.inf, -np.inf]))
        assert set(np.geterr().values()) == {"raise"}
        with pytest.raises(og.ShapeError):
            og.prelu(np.ones(3), np.ones(2))
        assert set(np.geterr().values()) == {"raise"}


def test_numpy_keeps_its_state_in_the_one_variable_that_is_set_here() -> None:
    assert len(protocol._SILENT) == 1


@pytest.mark.parametrize("found", [True, False])
def test_quietly(found: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not found:  # a NumPy that keeps its state elsewhere
        monkeypatch.setattr(protocol, "_SILENT", [])

    def state(zero: Any) -> Any:
        return set(np.geterr().values()), 1.0 / zero

    def failing(zero: Any) -> Any:
        raise ZeroDivisionError

    with np.errstate(all="raise"):
        assert protocol.quietly(state)(np.zeros(())) == ({"ignore"}, np.inf)
        with pytest.raises(ZeroDivisionError):
            protocol.quietly(failing)(np.zeros(()))
        assert set(np.geterr().values()) == {"raise"}

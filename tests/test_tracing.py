"""Ops under the tracing transforms of JAX and PyTorch, and on lazy Dask arrays."""

import functools
import importlib.util
from typing import Any

import numpy as np
import pytest
from libraries import library_named

import opsgrad as og
from opsgrad.conformance import Row
from opsgrad.conformance.checks import sample
from opsgrad.conformance.target import to_numpy

with_jax = pytest.mark.skipif(
    importlib.util.find_spec("jax") is None, reason="jax is not installed"
)
with_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="torch is not installed"
)
with_dask = pytest.mark.skipif(
    importlib.util.find_spec("dask") is None, reason="dask is not installed"
)


def mapped_over(row: Row) -> tuple[int | None, ...]:
    """Return which arguments `vmap` runs over: all but weights, which have no batch axis."""
    return tuple(None if role in ("alpha", "w", "b") else 0 for role in row.arguments)


def value_and_gradients(op: Any, params: Any) -> Any:
    def function(*arrays: Any) -> Any:
        y, pull = og.vjp(op, *arrays, **params)
        return y, tuple(gradient for gradient in pull(0.5 + 0.0 * y) if gradient is not None)

    return function


def check_vmap(row: Row, rng: np.random.Generator, library: str, vmap: Any) -> None:
    params = row.variants[0]
    arrays = sample(row, rng, (3, 4))
    function = value_and_gradients(row.op, params)
    axes = mapped_over(row)
    y, gradients = to_numpy(vmap(function, in_dims=axes)(*map(library_named(library).put, arrays)))
    right, by_array = function(*arrays)
    np.testing.assert_allclose(y, right, rtol=1e-12, atol=1e-13)
    floating = [axis for axis, d in zip(axes, row.differentiable, strict=True) if d]
    for gradient, expected, axis in zip(gradients, by_array, floating, strict=True):
        whole = gradient if axis == 0 else gradient.sum(axis=0)
        np.testing.assert_allclose(whole, expected, rtol=1e-12, atol=1e-13)


@with_jax
def test_jax_vmap(row: Row, rng: np.random.Generator) -> None:
    import jax

    def vmap(function: Any, in_dims: Any) -> Any:
        return jax.vmap(function, in_axes=in_dims)

    check_vmap(row, rng, "jax", vmap)


@with_torch
def test_torch_vmap(row: Row, rng: np.random.Generator) -> None:
    import torch

    check_vmap(row, rng, "torch", torch.func.vmap)


@with_torch
def test_torch_meta_tensors_run_without_values() -> None:
    import torch

    logits = torch.empty((3, 4), device="meta")
    labels = torch.empty((3,), device="meta", dtype=torch.int64)
    y, pull = og.vjp(og.softmax_cross_entropy_with_integer_labels, logits, labels)
    assert (y.shape, y.device.type) == ((3,), "meta")
    assert pull(y)[0].shape == (3, 4)


def bad_label_call(op: Any, params: Any) -> Any:
    def function(x: Any, labels: Any) -> Any:
        y, pull = og.vjp(op, x, labels, **params)
        tangent = og.jvp(op, (x, labels), (x, None), **params)[1]
        return y, pull(1.0 + 0.0 * x[:, 0])[0], tangent

    return function


@pytest.mark.parametrize(
    "op",
    [
        og.nll_loss,
        og.softmax_cross_entropy_with_integer_labels,
        og.multiclass_hinge_loss,
        functools.partial(og.multiclass_hinge_loss, kind="weston_watkins"),
    ],
    ids=["nll", "cross-entropy", "crammer-singer", "weston-watkins"],
)
@pytest.mark.parametrize(
    "lazily",
    [
        pytest.param("jit", marks=with_jax),
        pytest.param("vmap", marks=with_torch),
        pytest.param("dask", marks=with_dask),
    ],
)
def test_a_bad_label_that_cannot_be_seen_gives_nan_in_its_row(op: Any, lazily: str) -> None:
    x = np.array([[0.0, 1.0, 3.0], [2.0, 0.5, 1.0], [0.0, -1.0, 2.5], [1.0, 0.0, -1.0]])
    labels = np.array([2, 3, -1, 0])
    function = bad_label_call(op, {})
    if lazily == "jit":
        import jax

        out = jax.jit(function)(x, labels)
    elif lazily == "vmap":
        import torch

        def one(row: Any, label: Any) -> Any:
            return function(row[None], label[None])

        out = [
            part.squeeze(1) for part in torch.func.vmap(one)(torch.tensor(x), torch.tensor(labels))
        ]
    else:
        import dask.array as da

        out = function(da.from_array(x, chunks=2), da.from_array(labels, chunks=2))
    good = np.array([True, False, False, True])
    expected = function(x[good], labels[good])
    for got, right in zip(to_numpy(tuple(out)), expected, strict=True):
        np.testing.assert_allclose(got[good], right, rtol=1e-14)
        assert np.isnan(got[~good]).all()


@with_dask
def test_dask_stays_lazy(row: Row, rng: np.random.Generator) -> None:
    import dask
    import dask.array as da

    arrays = [library_named("dask").put(a) for a in sample(row, rng, (4, 6))]

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("computed")

    with dask.config.set(scheduler=refuse):
        y, pull = og.vjp(row.op, *arrays, **row.variants[0])
        gradients = pull(da.ones_like(y))
    assert isinstance(y, da.Array)
    assert all(g is None or isinstance(g, da.Array) for g in gradients)


@with_dask
def test_numpy_weights_beside_dask_data(rng: np.random.Generator) -> None:
    import dask.array as da

    x, w, b = rng.random((6, 3)), rng.random((3, 2)), rng.random(2)
    y, pull = og.vjp(og.dense, da.from_array(x, chunks=(2, 3)), w, b)
    assert isinstance(y, da.Array)
    np.testing.assert_allclose(to_numpy(y), og.dense(x, w, b), rtol=1e-14)
    g = np.ones((6, 2))
    expected = og.vjp(og.dense, x, w, b)[1](g)
    for gradient, right in zip(pull(g), expected, strict=True):
        np.testing.assert_allclose(to_numpy(gradient), right, rtol=1e-14)


@with_dask
def test_dask_chunks_of_unknown_size() -> None:
    import dask.array as da

    x, classes = np.arange(12.0).reshape(6, 2), np.array([0, 1, 0, 1, 1, 0])
    chosen = x[:, 1] % 3 != 0  # something of every chunk: Dask's own `max` refuses an empty one
    some, labels = (
        da.from_array(array, chunks=2)[da.from_array(chosen, chunks=2)] for array in (x, classes)
    )
    whole = x[chosen]
    np.testing.assert_allclose(to_numpy(og.softmax(some)), og.softmax(whole))
    op = og.softmax_cross_entropy_with_integer_labels
    np.testing.assert_allclose(
        to_numpy(op(some, labels, reduction="mean")),
        op(whole, classes[chosen], reduction="mean"),
    )

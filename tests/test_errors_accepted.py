"""What must not be refused: the ends of the ranges, and all that can mean an array."""

import functools
import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from libraries import installed, library_named, library_parameters
from refusal import BATCH, CLASSES, SHAPE, good, parameters, zero_dimensional

import opsgrad as og
from opsgrad.conformance import TABLE
from opsgrad.conformance.target import Target

INTEGERS = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
LABEL_OPS = [name for name, row in TABLE.items() if "labels" in row.arguments]
AXIS_OPS = [name for name, row in TABLE.items() if row.has_axis]
LOSSES = [name for name, row in TABLE.items() if row.has_reduction]


def same(actual: Any, expected: Any) -> None:
    actual, expected = og.to_numpy(actual), og.to_numpy(expected)
    assert actual.shape == expected.shape
    np.testing.assert_array_equal(actual, expected)


def close(actual: Any, expected: Any) -> None:
    actual, expected = og.to_numpy(actual), og.to_numpy(expected)
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


# What can be an array


@pytest.mark.parametrize("name", TABLE)
def test_lists_and_tuples_are_arrays(name: str) -> None:
    op, arrays = TABLE[name].op, good(name)
    expected = op(*arrays)
    same(op(*(array.tolist() for array in arrays)), expected)
    same(
        op(*(tuple(map(tuple, np.atleast_2d(a).tolist())) for a in arrays[:1]), *arrays[1:]),
        expected,
    )
    for place in range(len(arrays)):
        mixed = [a.tolist() if k == place else a for k, a in enumerate(arrays)]
        same(op(*mixed), expected)


@pytest.mark.parametrize("name", [name for name, row in TABLE.items() if row.unit == "element"])
def test_numbers_are_arrays_of_no_dimensions(name: str) -> None:
    op, arrays = TABLE[name].op, zero_dimensional(name)
    expected = op(*arrays)
    same(op(*(array.item() for array in arrays)), expected)
    same(op(*(array[()] for array in arrays)), expected)
    assert np.shape(op(*(np.float32(array) for array in arrays))) == ()
    assert np.shape(op(*(1 for _ in arrays))) == ()


@pytest.mark.parametrize("name", TABLE)
def test_integers_are_arrays_of_the_default_floating_type(name: str) -> None:
    op, arrays = TABLE[name].op, tuple(np.ones_like(a, dtype=np.int32) for a in good(name))
    assert op(*arrays).dtype == np.float64
    assert op(*(array.tolist() for array in arrays)).dtype == np.float64


@pytest.mark.parametrize("name", [name for name, row in TABLE.items() if len(row.arguments) > 1])
def test_lists_go_to_the_library_of_the_others(name: str) -> None:
    if not installed("torch"):
        pytest.skip("torch is not installed")
    import torch

    arrays = good(name)
    y = TABLE[name].op(torch.asarray(arrays[0]), *(array.tolist() for array in arrays[1:]))
    assert isinstance(y, torch.Tensor)
    close(y, TABLE[name].op(*arrays))


def test_an_optional_array_can_be_none() -> None:
    x, w, _ = good("dense")
    same(og.dense(x, w, None), og.dense(x, w))
    _, pull = og.vjp(og.dense, x, w, None)
    assert pull(np.ones((BATCH, 3)))[2] is None
    og.jvp(og.dense, (x, w, None), (x, w, None))


@pytest.mark.parametrize("name", TABLE)
def test_numpy_arrays_beside_lazy_ones_are_taken_in(name: str) -> None:
    if not installed("dask"):
        pytest.skip("dask is not installed")
    arrays = good(name)
    for place in range(len(arrays)):
        mixed = [library_named("dask").put(a) if k == place else a for k, a in enumerate(arrays)]
        close(TABLE[name].op(*mixed), TABLE[name].op(*arrays))


# Labels


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("name", LABEL_OPS)
@pytest.mark.parametrize("other", library_parameters("numpy", "torch", "array_api_strict"))
def test_labels_of_every_integer_type_are_taken(name: str, dtype: str, other: Target) -> None:
    op, (scores, labels) = TABLE[name].op, good(name)
    labels = labels.copy()
    labels[:2] = (0, CLASSES - 1)
    arrays = other.put(scores), other.put(labels.astype(dtype))
    close(op(*arrays), op(scores, labels))
    assert og.vjp(op, *arrays)[1](og.to_numpy(op(*arrays)).tolist())[1] is None


@pytest.mark.parametrize("name", LABEL_OPS)
def test_labels_may_be_lists_and_numbers(name: str) -> None:
    op, (scores, labels) = TABLE[name].op, good(name)
    expected = op(scores, labels)
    same(op(scores, labels.tolist()), expected)
    same(op(scores, list(labels)), expected)
    same(op(scores, tuple(labels.tolist())), expected)
    for label in (labels[0], labels[0].item(), np.uint8(labels[0]), np.asarray(labels[0])):
        same(op(scores[0], label), expected[0])


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("name", LOSSES)
def test_a_batch_of_no_examples_is_taken(name: str, reduction: str) -> None:
    op, arrays = TABLE[name].op, [array[:0] for array in good(name)]
    lists = [arrays[0], []] if name in LABEL_OPS else arrays
    for call in (arrays, lists):
        y = op(*call, reduction=reduction)
        if reduction == "none":
            assert y.shape[0] == 0
        else:
            same(y, 0.0 if reduction == "sum" else math.nan)


@pytest.mark.parametrize("name", LABEL_OPS)
def test_lazy_labels_are_not_looked_at(name: str) -> None:
    if not installed("dask"):
        pytest.skip("dask is not installed")
    scores, labels = good(name)
    labels = labels.copy()
    labels[1:3] = (-1, CLASSES)
    y = og.to_numpy(TABLE[name].op(*map(library_named("dask").put, (scores, labels))))
    assert np.isnan(y).tolist() == [False, True, True, False, False]


# Parameters


@pytest.mark.parametrize("name", AXIS_OPS)
def test_an_axis_may_be_any_integer(name: str) -> None:
    op, arrays = TABLE[name].op, good(name)
    expected = op(*arrays)
    for axis in (
        -1,
        1,
        *(np.dtype(dtype).type(1) for dtype in INTEGERS),
        np.int64(-1),
        np.asarray(1),
    ):
        same(op(*arrays, axis=axis), expected)
    square = good(name, shape=(3, 3))
    same(op(*square, axis=-2), op(*square, axis=0))


KEEPDIMS_OPS = [name for name, row in TABLE.items() if row.has_keepdims]


@pytest.mark.parametrize("name", KEEPDIMS_OPS)
def test_keepdims_may_be_a_numpy_bool(name: str) -> None:
    assert TABLE[name].op(*good(name), keepdims=np.True_).shape == (BATCH, 1)
    assert TABLE[name].op(*good(name), keepdims=np.False_).shape == (BATCH,)


@pytest.mark.parametrize("name", LOSSES)
def test_a_reduction_may_be_a_numpy_string(name: str) -> None:
    op, arrays = TABLE[name].op, good(name)
    same(op(*arrays, reduction=np.str_("mean")), op(*arrays, reduction="mean"))


ENDS: dict[str, tuple[Any, ...]] = {
    "negative_slope": (0, 0.0, -0.0, -0.5, -3, 1, 7.5, 1e30, -1e30, 1e-40),
    "b": (1, 1e-30, 1e30, 0.5),
    "p": (math.inf, np.inf, np.float32(np.inf), 1, 2, 0.5, 0.01, 1000.0, 1e30),
    "margin": (0, 0.0, -0.0, 1, 1e-40, 1e30),
}

FLOATS = [(name, p) for name in TABLE for p in parameters(name) if p in ENDS]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("name", "parameter"), FLOATS)
def test_parameters_at_the_ends_of_their_ranges_are_taken(
    name: str, parameter: str, dtype: str
) -> None:
    op, arrays = TABLE[name].op, good(name, dtype)
    for value in ENDS[parameter]:
        y = op(*arrays, **{parameter: value})
        assert y.dtype == dtype
        assert not np.isnan(y).any()


@pytest.mark.parametrize(("name", "parameter"), FLOATS)
def test_parameters_may_be_numbers_of_any_kind(name: str, parameter: str) -> None:
    op, arrays = TABLE[name].op, good(name)
    kinds = (np.float16, np.float32, np.float64, np.longdouble, np.int8, np.uint64, Fraction, int)
    expected = op(*arrays, **{parameter: 2.0})
    for kind in kinds:
        same(op(*arrays, **{parameter: kind(2)}), expected)


def test_infinity_is_an_exponent_in_every_float_type() -> None:
    for dtype in ("float16", "float32", "float64"):
        assert og.lp_norm(np.array([3.0, -4.0], dtype), p=math.inf) == 4.0


@pytest.mark.parametrize("name", TABLE)
def test_no_backend_is_the_arrays_own(name: str) -> None:
    op, arrays = TABLE[name].op, good(name)
    same(op(*arrays, backend=None), op(*arrays))
    same(op(*arrays, backend="numpy"), op(*arrays))
    same(op(*arrays, backend=np.str_("numpy")), op(*arrays))


# Transforms


@pytest.mark.parametrize("name", TABLE)
def test_lists_and_numbers_are_cotangents_and_tangents(name: str) -> None:
    op, arrays = TABLE[name].op, good(name)
    y, pull = og.vjp(op, *arrays)
    ones = np.ones(y.shape, dtype=np.int64).tolist()
    for one, other in zip(pull(ones), pull(np.ones(y.shape)), strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            same(one, other)
    tangents = [
        a.tolist() if f else None for a, f in zip(arrays, TABLE[name].differentiable, strict=True)
    ]
    same(og.jvp(op, list(arrays), tangents)[0], y)
    if name in LOSSES:
        og.vjp(op, *arrays, reduction="sum")[1](1)


@pytest.mark.parametrize("number", [np.int64(0), np.uint8(0), np.int32(0)], ids=repr)
def test_an_argument_number_may_be_a_numpy_integer(number: Any) -> None:
    x = np.ones(SHAPE)
    assert og.jacobian(og.softmax, x, argnum=number).shape == (BATCH, CLASSES, CLASSES)
    assert og.value_and_grad(og.softmax, number)(x)[1].shape == SHAPE
    assert len(og.value_and_grad(og.softmax, (number,))(x)[1]) == 1


def test_a_cotangent_of_numpy_is_taken_where_the_call_named_the_backend() -> None:
    if not installed("torch"):
        pytest.skip("torch is not installed")
    x = np.ones(SHAPE)
    y, pull = og.vjp(og.softmax, x, backend="torch")
    (dx,) = pull(x)
    assert type(dx) is type(y)
    (dx,) = pull(y)
    assert type(dx) is type(y)


@pytest.mark.parametrize("transform", ["call", "vjp", "jvp", "jacobian", "value_and_grad", "chain"])
def test_a_partial_may_fix_any_keyword(transform: str) -> None:
    x = np.ones(SHAPE)
    for keywords in ({"axis": 0}, {"backend": "numpy"}, {"axis": 0, "backend": None}):
        op = functools.partial(functools.partial(og.softmax, axis=1), **keywords)
        y = {
            "call": lambda op=op: op(x),
            "vjp": lambda op=op: og.vjp(op, x)[0],
            "jvp": lambda op=op: og.jvp(op, (x,), (x,))[0],
            "jacobian": lambda op=op: og.jacobian(op, x) @ x,
            "value_and_grad": lambda op=op: og.value_and_grad(op)(x)[0],
            "chain": lambda op=op: og.chain(op, og.relu)(x),
        }[transform]()
        assert y.shape == SHAPE


def test_the_params_of_a_chain_may_be_lists_or_left_out() -> None:
    x, w, b = good("dense")
    net = og.chain(og.dense, og.relu)
    expected = net(x, ((w, b), ()))
    same(net(x, [[w, b], []]), expected)
    same(net(x, ((w.tolist(), b.tolist()), ())), expected)
    same(og.chain(og.relu, og.softmax)(x), og.softmax(og.relu(x)))
    same(og.chain(og.relu, og.softmax)(x, None), og.softmax(og.relu(x)))
    same(og.chain(og.relu)(x, ((),)), og.relu(x))

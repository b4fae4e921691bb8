"""What the transforms promise of every op: adjoint, rows and columns, shapes, repeated pulls."""

import functools
from typing import Any

import numpy as np
import pytest
from libraries import library_named, library_parameters

import opsgrad as og
from opsgrad.conformance import Row
from opsgrad.conformance.checks import check_adjoint, direction, sample
from opsgrad.conformance.suite.rows import rows_with
from opsgrad.conformance.target import Target, to_numpy

eager_libraries = pytest.mark.parametrize(
    "library", library_parameters("numpy", "array_api_strict", "torch", "jax", "dask")
)


def hard_rows(rng: np.random.Generator, dtype: str) -> np.ndarray:
    """Return rows that are smooth, tied, saturated, at a kink, constant, or partly -inf."""
    smooth = rng.standard_normal(6)
    rows = [
        smooth,
        [1.0, 1.0, 0.0, 1.0, -1.0, 0.0],
        [90.0, 0.0, -5.0, 3.0, 3.0, 2.0],
        [0.0, -1.0, 1.0, 0.0, -1.0, 0.5],
        np.zeros(6),
        40.0 * smooth,
    ]
    return np.asarray(rows, dtype=dtype)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_adjoint_identity(row: Row, rng: np.random.Generator, dtype: str) -> None:
    for params in row.variants:
        for shape in ((4, 6), (1, 3), (7,)):
            check_adjoint(
                row.op, library_named("numpy"), sample(row, rng, shape, dtype=dtype), rng, **params
            )


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("row", rows_with("has_axis"))
def test_adjoint_identity_at_kinks_and_ties(row: Row, rng: np.random.Generator, dtype: str) -> None:
    x = hard_rows(rng, dtype)
    if row.name in ("cross_entropy", "log_cross_entropy"):
        x = np.asarray(og.softmax(x) + 0.01)
    others = {"labels": np.arange(6), "targets": np.asarray(og.softmax(x[::-1]))}
    arrays = [x, *(others[role] for role in row.arguments[1:])]
    for params in row.variants:
        check_adjoint(row.op, library_named("numpy"), arrays, rng, **params)


@pytest.mark.parametrize("axis", [-1, 0])
def test_jacobian_rows_and_columns(row: Row, rng: np.random.Generator, axis: int) -> None:
    """`dense()` agrees with the pullback of every unit cotangent and the push of every tangent."""
    axis = axis if row.has_axis else -1
    placed = {"axis": axis} if row.has_axis else {}
    for params in row.variants:
        arrays = sample(row, rng, (3, 4), axis)
        keywords = {**params, **placed}
        y, pull = og.vjp(row.op, *arrays, **keywords)
        for argnum, differentiable in enumerate(row.differentiable):
            if not differentiable:
                continue
            J = og.jacobian(row.op, *arrays, argnum=argnum, **keywords)
            dense = J.dense()
            assert dense.shape == J.shape
            full = full_matrix(J, dense, y.shape, arrays[argnum].shape, axis)
            close = functools.partial(np.testing.assert_allclose, rtol=5e-14, atol=5e-15)
            for i, unit in enumerate(np.eye(y.size)):
                close(pull(unit.reshape(y.shape))[argnum].ravel(), full[i])
                close((J.T @ unit.reshape(y.shape)).ravel(), full[i])
            for j, unit in enumerate(np.eye(arrays[argnum].size)):
                v = unit.reshape(arrays[argnum].shape)
                tangents = [
                    None if a.dtype.kind in "iu" else v if k == argnum else np.zeros_like(a)
                    for k, a in enumerate(arrays)
                ]
                close(og.jvp(row.op, arrays, tangents, **keywords)[1].ravel(), full[:, j])
                close((J @ v).ravel(), full[:, j])


def full_matrix(
    J: Any, dense: np.ndarray, output: tuple[int, ...], argument: tuple[int, ...], axis: int
) -> np.ndarray:
    """Return the (y.size, x.size) matrix that the batched form stands for."""
    if J.shape == (*output, *argument):
        return dense.reshape(int(np.prod(output)), int(np.prod(argument)))
    batch = tuple(np.delete(argument, axis))
    matrix = np.zeros((*output, *argument))
    for place in np.ndindex(*batch):
        at = list(place)
        at.insert(axis % len(argument), slice(None))
        where = (*at, *at) if len(output) == len(argument) else (*place, *at)
        matrix[where] = dense[place]
    return matrix.reshape(int(np.prod(output)), int(np.prod(argument)))


@pytest.mark.parametrize(
    ("op", "arrays", "params", "argnum", "shape"),
    [
        (og.softmax, [(3, 5)], {}, 0, (3, 5, 5)),
        (og.softmax, [(3, 5)], {"axis": 0}, 0, (5, 3, 3)),
        (og.softmax, [(2, 3, 5)], {"axis": 1}, 0, (2, 5, 3, 3)),
        (og.softmax, [(4,)], {}, 0, (4, 4)),
        (og.lp_norm, [(3, 5)], {}, 0, (3, 5)),
        (og.lp_norm, [(3, 5)], {"keepdims": True}, 0, (3, 1, 5)),
        (og.logsumexp, [(3, 5)], {"axis": 0}, 0, (5, 3)),
        (og.relu, [(3, 5)], {}, 0, (3, 5, 5)),
        (og.relu, [()], {}, 0, ()),
        (og.prelu, [(3, 5), (5,)], {}, 0, (3, 5, 5)),
        (og.prelu, [(3, 5), (5,)], {}, 1, (3, 5, 5)),
        (og.prelu, [(3, 5), ()], {}, 1, (3, 5)),
        (og.dense, [(3, 4), (4, 2), (2,)], {}, 0, (3, 2, 4)),
        (og.dense, [(3, 4), (4, 2), (2,)], {}, 1, (3, 2, 4, 2)),
        (og.dense, [(3, 4), (4, 2), (2,)], {}, 2, (3, 2, 2)),
        (og.squared_error, [(3, 5), (3, 5)], {}, 1, (3, 5, 5)),
        (og.squared_error, [(3, 5), (3, 5)], {"reduction": "mean"}, 0, (3, 5)),
        (og.cross_entropy, [(3, 5), (3, 5)], {}, 1, (3, 5)),
        (og.cross_entropy, [(3, 5), (3, 5)], {"reduction": "sum"}, 1, (3, 5)),
        (og.softmax, [(0, 5)], {}, 0, (0, 5, 5)),
        (og.softmax, [(3, 0)], {}, 0, (3, 0, 0)),
    ],
)
@eager_libraries
def test_jacobian_shapes(
    op: Any,
    arrays: list[tuple[int, ...]],
    params: dict[str, Any],
    argnum: int,
    shape: tuple[int, ...],
    library: Target,
    rng: np.random.Generator,
) -> None:
    inputs = [library.put(np.asarray(rng.uniform(0.1, 1.0, size))) for size in arrays]
    J = og.jacobian(op, *inputs, argnum=argnum, **params)
    assert J.shape == shape
    dense = to_numpy(J.dense())
    assert dense.shape == shape
    transposed = to_numpy(J.T.dense())
    assert transposed.shape == J.T.shape
    np.testing.assert_array_equal(np.sort(transposed, axis=None), np.sort(dense, axis=None))
    assert J.T.T is J
    assert f"{op.__name__}: shape {shape}" in repr(J)


def test_jacobian_multiplies_from_the_left_only() -> None:
    J = og.jacobian(og.softmax, np.zeros(3))
    with pytest.raises(TypeError, match=r"softmax: .*J\.T @ g"):
        np.zeros(3) @ J


@eager_libraries
def test_pullbacks_can_be_called_again(row: Row, library: Target, rng: np.random.Generator) -> None:
    arrays = sample(row, rng, (2, 3))
    y, pull = og.vjp(row.op, *map(library.put, arrays), **row.variants[0])
    g = library.put(direction(rng, to_numpy(y)))
    first, second = to_numpy(pull(g)), to_numpy(pull(g))
    other = to_numpy(pull(2.0 * g))
    for one, two, three in zip(first, second, other, strict=True):
        if one is not None:
            np.testing.assert_array_equal(one, two)
            np.testing.assert_allclose(2.0 * one, three, rtol=1e-12, atol=1e-300)


@eager_libraries
def test_value_and_grad(row: Row, library: Target, rng: np.random.Generator) -> None:
    arrays = [library.put(a) for a in sample(row, rng, (2, 3))]
    y, pull = og.vjp(row.op, *arrays, **row.variants[0])
    expected = to_numpy(pull(library.put(np.ones(y.shape))))
    floating = tuple(k for k, d in enumerate(row.differentiable) if d)
    value, gradients = og.value_and_grad(row.op, floating)(*arrays, **row.variants[0])
    np.testing.assert_array_equal(to_numpy(value), to_numpy(y))
    for gradient, number in zip(to_numpy(gradients), floating, strict=True):
        np.testing.assert_array_equal(gradient, expected[number])
    _, alone = og.value_and_grad(row.op)(*arrays, **row.variants[0])
    np.testing.assert_array_equal(to_numpy(alone), expected[0])


def test_partials_of_ops(rng: np.random.Generator) -> None:
    x = rng.standard_normal((3, 4))
    along = functools.partial(functools.partial(og.softmax, axis=1), axis=0)
    np.testing.assert_array_equal(og.vjp(along, x)[0], og.softmax(x, axis=0))
    np.testing.assert_array_equal(og.vjp(along, x, axis=1)[0], og.softmax(x, axis=1))
    np.testing.assert_array_equal(og.jvp(along, (x,), (x,))[0], og.softmax(x, axis=0))
    assert og.jacobian(along, x).shape == (4, 3, 3)
    loss = functools.partial(og.softmax_cross_entropy_with_integer_labels, reduction="mean")
    value, gradient = og.value_and_grad(loss)(x, np.array([0, 1, 2]))
    assert value.shape == ()
    assert gradient.shape == x.shape


# -- chains --------------------------------------------------------------------------------------


def network(rng: np.random.Generator) -> tuple[Any, np.ndarray, Any]:
    params = (
        (rng.standard_normal((4, 6)), rng.standard_normal(6)),
        (),
        (rng.standard_normal((6, 3)),),
        (),
    )
    return og.chain(og.dense, og.sigmoid, og.dense, og.softmax), rng.random((5, 4)), params


def put(library: Target, tree: Any) -> Any:
    return tuple(put(library, t) for t in tree) if isinstance(tree, tuple) else library.put(tree)


@eager_libraries
def test_chain_against_its_stages(library: Target, rng: np.random.Generator) -> None:
    net, x, params = network(rng)
    y, pull = og.vjp(net, library.put(x), put(library, params))
    g = rng.standard_normal(y.shape)
    dx, dparams = pull(library.put(g))

    ((w1, b1), _, (w2,), _) = params
    h, pull1 = og.vjp(og.dense, x, w1, b1)
    s, pull2 = og.vjp(og.sigmoid, h)
    z, pull3 = og.vjp(og.dense, s, w2)
    p, pull4 = og.vjp(og.softmax, z)
    ds, dw2 = pull3(*pull4(g))
    by_x, dw1, db1 = pull1(*pull2(ds))
    close = functools.partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-15)
    close(to_numpy(y), p)
    close(to_numpy(dx), by_x)
    ((got_w1, got_b1), nothing, (got_w2,), nothing_else) = to_numpy(dparams)
    close(got_w1, dw1)
    close(got_b1, db1)
    close(got_w2, dw2)
    assert nothing == nothing_else == ()


@eager_libraries
def test_chain_pushes_what_it_pulls(library: Target, rng: np.random.Generator) -> None:
    net, x, params = network(rng)
    dx = rng.standard_normal(x.shape)
    dparams = tuple(tuple(rng.standard_normal(a.shape) for a in own) for own in params)
    primals = library.put(x), put(library, params)
    y, dy = og.jvp(net, primals, (library.put(dx), put(library, dparams)))
    g = rng.standard_normal(y.shape)
    by_x, by_params = og.vjp(net, *primals)[1](library.put(g))
    right = np.sum(to_numpy(by_x) * dx)
    for own, tangents in zip(to_numpy(by_params), dparams, strict=True):
        right += sum(np.sum(a * b) for a, b in zip(own, tangents, strict=True))
    np.testing.assert_allclose(np.sum(g * to_numpy(dy)), right, rtol=1e-12)


def test_chain_jacobian(rng: np.random.Generator) -> None:
    net, x, params = network(rng)
    J = og.jacobian(net, x, params)
    assert J.shape == (5, 3, 4)
    y, pull = og.vjp(net, x, params)
    for i in range(3):
        unit = np.zeros_like(y)
        unit[:, i] = 1.0
        np.testing.assert_allclose(J.dense()[:, i], pull(unit)[0], rtol=1e-12, atol=1e-16)
    v = rng.standard_normal(x.shape)
    np.testing.assert_allclose(J @ v, np.einsum("boi,bi->bo", J.dense(), v), rtol=1e-12)


def test_chain_that_mixes_axes_has_a_full_jacobian(rng: np.random.Generator) -> None:
    net = og.chain(og.softmax, functools.partial(og.softmax, axis=0))
    x = rng.standard_normal((2, 3))
    J = og.jacobian(net, x)
    assert J.shape == (2, 3, 2, 3)
    v = rng.standard_normal(x.shape)
    np.testing.assert_allclose(J @ v, np.einsum("abcd,cd->ab", J.dense(), v), rtol=1e-12)
    same = og.chain(functools.partial(og.softmax, axis=0), og.relu)
    assert og.jacobian(same, x).shape == (3, 2, 2)
    rest = og.chain(og.logsumexp, og.tanh)
    assert og.jacobian(rest, x).shape == (2, 3)
    mixed = og.chain(og.logsumexp, og.softmax)
    assert og.jacobian(mixed, x).shape == (2, 2, 3)


def test_chain_in_a_chain(rng: np.random.Generator) -> None:
    net, x, params = network(rng)
    inner = og.chain(og.dense, og.sigmoid)
    nested = og.chain(inner, og.chain(og.dense, og.softmax))
    nested_params = (params[:2], params[2:])
    y, pull = og.vjp(nested, x, nested_params)
    flat, pull_flat = og.vjp(net, x, params)
    np.testing.assert_array_equal(y, flat)
    g = rng.standard_normal(y.shape)
    (dx, dparams), (flat_dx, flat_dparams) = pull(g), pull_flat(g)
    np.testing.assert_array_equal(dx, flat_dx)
    np.testing.assert_array_equal(dparams[0][0][0], flat_dparams[0][0])
    np.testing.assert_array_equal(dparams[1][0][0], flat_dparams[2][0])


def test_chain_with_a_loss(rng: np.random.Generator) -> None:
    loss = functools.partial(og.softmax_cross_entropy_with_integer_labels, reduction="mean")
    net = og.chain(og.dense, loss)
    x, w, labels = rng.random((5, 4)), rng.standard_normal((4, 3)), np.array([0, 1, 2, 0, 1])
    value, (dx, dparams) = og.value_and_grad(net, (0, 1))(x, ((w,), (labels,)))
    assert value.shape == ()
    assert dx.shape == x.shape
    assert dparams[0][0].shape == w.shape
    assert dparams[1] == (None,)


def test_chain_without_parameters() -> None:
    net = og.chain(og.relu, og.softmax)
    x = np.array([-1.0, 1.0])
    np.testing.assert_array_equal(net(x), og.softmax(og.relu(x)))
    assert len(og.vjp(net, x)[1](x)) == 1
    assert og.jacobian(net, x).shape == (2, 2)

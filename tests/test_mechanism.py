"""Ops of one's own, and ops as objects: signatures, help, pickling, residuals."""

import copy
import inspect
import pickle
import pydoc
from typing import Any

import numpy as np
import pytest

import opsgrad as og
from opsgrad.conformance.checks import check_adjoint
from opsgrad.conformance.target import Target, to_numpy


@og.op
def clipped_softmax(xp, x, /, *, temperature: float = 1.0, axis=-1):
    """Softmax of x / temperature, clipped to [-5, 5]."""
    e = xp.exp(xp.clip(x / temperature, -5.0, 5.0))
    return e / xp.sum(e, axis=axis, keepdims=True)


@clipped_softmax.vjp_rule(keeps=("x", "y"))
def _(xp, x, y, g, /, *, temperature, axis):
    u = y * (g - xp.sum(y * g, axis=axis, keepdims=True))
    return xp.where(xp.abs(x / temperature) < 5.0, u / temperature, xp.zeros_like(u))


@clipped_softmax.jvp_rule(keeps=("x", "y"))
def _(xp, x, y, dx, /, *, temperature, axis):
    inside = xp.abs(x / temperature) < 5.0
    du = xp.where(inside, dx / temperature, xp.zeros_like(dx))
    return y * (du - xp.sum(y * du, axis=axis, keepdims=True))


@og.op
def swish(xp, x, /, *, beta: float = 1.0):
    """x · sigmoid(beta x), keeping the sigmoid for the way back."""
    s = 1.0 / (1.0 + xp.exp(-beta * x))
    return x * s, s


@swish.vjp_rule(keeps=("x", "kept"))
def _(xp, x, s, g, /, *, beta):
    return g * (s + beta * x * s * (1.0 - s))


@swish.jvp_rule(keeps=("x", "kept"))
def _(xp, x, s, dx, /, *, beta):
    return dx * (s + beta * x * s * (1.0 - s))


def test_own_op_gets_every_transform(library: Target, rng: np.random.Generator) -> None:
    x = 3.0 * rng.standard_normal((4, 5))

    def everything(x: Any, g: Any) -> Any:
        y, pull = og.vjp(clipped_softmax, x, temperature=0.5)
        J = og.jacobian(clipped_softmax, x, temperature=0.5)
        tangent = og.jvp(clipped_softmax, (x,), (g,), temperature=0.5)[1]
        value, gradient = og.value_and_grad(clipped_softmax)(x, temperature=0.5)
        return y, pull(g)[0], tangent, J.T @ g, J @ g, J.dense(), value, gradient

    g = rng.standard_normal((4, 5))
    y, pulled, pushed, transposed, multiplied, dense, value, gradient = library.run(
        everything, x, g
    )
    np.testing.assert_allclose(y, og.softmax(np.clip(x / 0.5, -5, 5)), rtol=1e-13)
    np.testing.assert_allclose(transposed, pulled, rtol=1e-14)
    np.testing.assert_allclose(multiplied, pushed, rtol=1e-14)
    assert dense.shape == (4, 5, 5)
    np.testing.assert_allclose(np.einsum("boi,bo->bi", dense, g), pulled, rtol=1e-10, atol=1e-15)
    np.testing.assert_allclose(np.einsum("boi,bi->bo", dense, g), pushed, rtol=1e-10, atol=1e-15)
    np.testing.assert_array_equal(value, y)
    np.testing.assert_allclose(gradient, 0.0, atol=1e-15)


def test_own_op_checks_its_axis_and_parameters() -> None:
    with pytest.raises(IndexError, match="clipped_softmax: axis"):
        clipped_softmax(np.zeros(3), axis=1)
    with pytest.raises(TypeError, match="clipped_softmax: temperature"):
        clipped_softmax(np.zeros(3), temperature="warm")


def test_residual(library: Target, rng: np.random.Generator) -> None:
    x = rng.standard_normal((2, 3))
    expected = x / (1.0 + np.exp(-2.0 * x))
    np.testing.assert_allclose(to_numpy(swish(library.put(x), beta=2.0)), expected, rtol=1e-14)
    h = 1e-6
    slope = (swish(x + h, beta=2.0) - swish(x - h, beta=2.0)) / (2 * h)
    pull = og.vjp(swish, library.put(x), beta=2.0)[1]
    np.testing.assert_allclose(to_numpy(pull(library.put(np.ones((2, 3))))[0]), slope, rtol=1e-8)
    check_adjoint(swish, library, [x], rng, beta=2.0)


@og.op
def smooth_max(xp, x, /, *, axis: int = -1):
    """log Σ exp x, keeping two numbers for each slice."""
    top = xp.max(x, axis=axis, keepdims=True)
    total = xp.sum(xp.exp(x - top), axis=axis, keepdims=True)
    return xp.squeeze(top + xp.log(total), axis=axis), top, total


@smooth_max.vjp_rule(keeps=("x", "kept"))
def _(xp, x, top, total, g, /, *, axis):
    return xp.exp(x - top) / total * xp.expand_dims(g, axis=axis)


@smooth_max.jvp_rule(keeps=("kept", "x"))
def _(xp, top, total, x, dx, /, *, axis):
    return xp.sum(xp.exp(x - top) / total * dx, axis=axis)


@pytest.mark.parametrize("axis", [0, -1])
def test_residual_of_several_arrays(library: Target, axis: int, rng: np.random.Generator) -> None:
    x, g = 3.0 * rng.standard_normal((4, 5)), rng.standard_normal(4 if axis else 5)

    def everything(x: Any, g: Any) -> Any:
        y, pull = og.vjp(smooth_max, x, axis=axis)
        return smooth_max(x, axis=axis), y, pull(g)[0]

    value, again, gradient = library.run(everything, x, g)
    np.testing.assert_allclose(value, og.logsumexp(x, axis=axis), rtol=1e-13)
    np.testing.assert_array_equal(again, value)
    expected = og.softmax(x, axis=axis) * np.expand_dims(g, axis)
    np.testing.assert_allclose(gradient, expected, rtol=1e-12)
    check_adjoint(smooth_max, library, [x], rng, axis=axis)


@pytest.mark.parametrize("returned", [0, 1, 3])
def test_rule_that_takes_another_residual_than_the_body_returns(returned: int) -> None:
    @og.op
    def double(xp, x, /):
        return (2.0 * x, *(x,) * returned) if returned else 2.0 * x

    @double.vjp_rule(keeps="kept")
    def _(xp, one, two, g, /):
        return 2.0 * g

    words = f"double: the vjp rule takes a residual of 2, but the body returns {returned} after"
    with pytest.raises(og.RuleError, match=words):
        og.vjp(double, np.ones(3))
    np.testing.assert_array_equal(double(np.ones(3)), 2.0 * np.ones(3))


def test_op_that_hands_out_its_input() -> None:
    @og.op
    def identity(xp, x, /):
        return x

    @identity.vjp_rule(keeps=())
    def _(xp, g, /):
        return g

    x, g = np.ones(3), np.ones(3)
    y, pull = og.vjp(identity, x)
    assert not np.shares_memory(y, x)
    assert not np.shares_memory(pull(g)[0], g)


def test_rules_name_what_is_missing() -> None:
    @og.op
    def double(xp, x, /):
        return 2.0 * x

    with pytest.raises(TypeError, match="double: has no vjp rule"):
        og.vjp(double, np.ones(3))
    with pytest.raises(TypeError, match="double: has no jvp rule"):
        og.jvp(double, (np.ones(3),), (np.ones(3),))

    @double.vjp_rule(keeps=())
    def _(xp, g, /):
        return g, g

    with pytest.raises(TypeError, match="double: the VJP rule must return 1 gradients"):
        og.vjp(double, np.ones(3))[1](np.ones(3))


# -- ops as objects ------------------------------------------------------------------------------


def test_signature_is_public(row: Any) -> None:
    parameters = inspect.signature(row.op).parameters
    assert "xp" not in parameters
    assert parameters["backend"].default is None
    assert ("axis" in parameters) == row.has_axis
    assert ("reduction" in parameters) == row.has_reduction
    assert ("keepdims" in parameters) == row.has_keepdims
    assert sum(p.kind is p.POSITIONAL_ONLY for p in parameters.values()) == len(row.arguments)


def test_help_shows_signature_and_docstring() -> None:
    text = pydoc.render_doc(og.softmax, renderer=pydoc.plaintext)
    assert "softmax(x, /, *, axis=-1, backend=None)" in text
    assert "Parameters" in text
    assert "(xp" not in text


def test_every_public_name_is_documented() -> None:
    for name in og.__all__:
        public = getattr(og, name)
        if name == "__version__":
            continue
        assert inspect.getdoc(public), name
        if not isinstance(public, type):
            doc = inspect.getdoc(public)
            assert "Examples\n--------" in doc, name
            assert "Returns" in doc or "Yields" in doc, name


def test_ops_pickle_by_name() -> None:
    assert pickle.loads(pickle.dumps(og.softmax)) is og.softmax
    assert pickle.loads(pickle.dumps(clipped_softmax)) is clipped_softmax
    assert copy.deepcopy(og.softmax) is og.softmax
    net = pickle.loads(pickle.dumps(og.chain(og.relu, og.softmax)))
    np.testing.assert_array_equal(net(np.ones(2)), [0.5, 0.5])


def test_bodies_use_2023_12_of_the_standard(row: Any, rng: np.random.Generator) -> None:
    strict = pytest.importorskip("array_api_strict")
    from opsgrad.conformance.checks import sample

    for version in ("2023.12", "2024.12", "2025.12"):
        with strict.ArrayAPIStrictFlags(api_version=version):
            for params in row.variants:
                arrays = [strict.asarray(a) for a in sample(row, rng, (2, 3))]
                y, pull = og.vjp(row.op, *arrays, **params)
                pull(strict.ones_like(y))
                tangents = [None if strict.isdtype(a.dtype, "integral") else a for a in arrays]
                og.jvp(row.op, arrays, tangents, **params)

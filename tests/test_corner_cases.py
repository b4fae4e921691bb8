"""Where caches, threads, views, moves and unusual ops meet."""

import functools
import gc
import math
import subprocess
import sys
import weakref
from typing import Any

import numpy as np
import pytest
from libraries import library_named

import opsgrad as og


def test_first_calls_from_many_threads_agree_on_one_backend() -> None:
    code = """
import sys, threading, numpy as np, opsgrad as og
sys.setswitchinterval(1e-6)
barrier = threading.Barrier(8)
def first(k):
    barrier.wait()
    og.relu(np.ones(3) if k % 2 else np.float64(1))
threads = [threading.Thread(target=first, args=(k,)) for k in range(8)]
[t.start() for t in threads]; [t.join() for t in threads]
print(og.prelu(np.ones(3), np.float64(0.5)))
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert out.stdout.strip() == "[1. 1. 1.]", out.stderr


def test_plans_do_not_freeze_the_default_data_type() -> None:
    torch = pytest.importorskip("torch")
    x = torch.tensor([1, 2])
    assert og.softmax(x).dtype == torch.float32
    torch.set_default_dtype(torch.float64)
    try:
        assert og.softmax(x).dtype == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


def test_plans_are_kept_for_one_shape_and_data_type_each() -> None:
    rows, alpha = np.ones((2, 3)), np.ones(3)
    assert og.softmax(rows, axis=1).shape == (2, 3)
    with pytest.raises(og.AxisError):
        og.softmax(rows[0], axis=1)
    assert og.softmax(rows.astype(np.float32), axis=1).dtype == np.float32
    og.prelu(rows, alpha)
    with pytest.raises(og.ShapeError):
        og.prelu(rows, alpha[:2])
    assert og.prelu(rows.astype(np.float32), alpha).dtype == np.float64


def test_kept_plans_do_not_skip_checks() -> None:
    x = np.zeros((2, 3))
    og.softmax(x, axis=1)
    for wrong in (True, 1.0):
        with pytest.raises(TypeError, match="softmax: axis"):
            og.softmax(x, axis=wrong)
    og.nll_loss(x, np.array([0, 1]))
    with pytest.raises(ValueError, match="nll_loss: labels"):
        og.nll_loss(x, np.array([0, 3]))


@pytest.mark.parametrize("name", ["numpy", "jax"])
def test_parameters_that_compare_equal_are_told_apart(name: str) -> None:
    pytest.importorskip(name)

    @og.op
    def signed(xp, x, /, *, c=0.0):
        return x + math.copysign(1.0, c) if isinstance(c, float) else x + 10.0 * isinstance(c, bool)

    x = library_named(name).put(np.zeros(1))
    values = [float(signed(x, c=c)[0]) for c in (0.0, -0.0, 1, True, 1.0)]
    assert values == [1.0, -1.0, 0.0, 10.0, 1.0]


@pytest.mark.parametrize("name", ["torch", "jax"])
def test_lists_have_derivatives_on_another_backend(name: str) -> None:
    pytest.importorskip(name)
    value, gradient = og.value_and_grad(og.squared_l2_norm)([1.0, 2.0], backend=name)
    assert float(value) == 5.0
    np.testing.assert_array_equal(og.to_numpy(gradient), [2.0, 4.0])
    tangent = library_named(name).put(np.ones(2))
    assert float(og.jvp(og.squared_l2_norm, ([1.0, 2.0],), (tangent,), backend=name)[1]) == 6.0
    assert og.jacobian(og.l2_norm, [3.0, 4.0], backend=name).dense().shape == (2,)


# -- Jacobians of unusual ops --------------------------------------------------------------------


def by_differences(function: Any, x: np.ndarray) -> np.ndarray:
    y = np.asarray(function(x))
    out = np.zeros((*y.shape, *x.shape))
    for place in np.ndindex(*x.shape):
        step = np.zeros_like(x)
        step[place] = 1e-6
        out[(..., *place)] = (function(x + step) - function(x - step)) / 2e-6
    return out


def test_jacobian_where_broadcasting_enlarges_the_argument() -> None:
    x, alpha = np.array([[-1.0], [2.0]]), np.full((2, 3), 0.5)
    J = og.jacobian(og.prelu, x, alpha)
    assert J.shape == (2, 3, 2, 1)
    np.testing.assert_allclose(
        J.dense(), by_differences(lambda x: og.prelu(x, alpha), x), atol=1e-9
    )

    net = og.chain(og.logsumexp, og.prelu)
    params = ((), (np.array([[0.5, 0.2], [0.1, 2.0]]),))
    x = np.array([[-3.0, -1.0, -2.0], [0.3, 0.1, 0.2]])
    J = og.jacobian(net, x, params)
    assert J.shape == (2, 2, 2, 3)
    np.testing.assert_allclose(J.dense(), by_differences(lambda x: net(x, params), x), atol=1e-8)


def test_jacobian_of_an_op_that_does_not_say_which_axis_it_mixes() -> None:
    @og.op
    def center(xp, x, /):
        return x - xp.mean(x)

    @center.vjp_rule(keeps=())
    def _(xp, g, /):
        return g - xp.mean(g)

    @center.jvp_rule(keeps=())
    def _(xp, dx, /):
        return dx - xp.mean(dx)

    x = np.arange(6.0).reshape(2, 3)
    J = og.jacobian(center, x)
    assert J.shape == (2, 3, 2, 3)
    np.testing.assert_allclose(J.dense(), by_differences(center, x), atol=1e-9)


def test_jacobian_rules_are_given_rows_last_and_no_axis() -> None:
    @og.op
    def double(xp, x, /, *, axis=-1):
        return 2.0 * x

    with pytest.raises(TypeError, match="double: the jacobian rule names the parameter 'axis'"):
        double.jacobian_rule(keeps="x")(lambda xp, x, /, *, axis: x)
    with pytest.raises(TypeError, match="double: a jacobian rule cannot keep the residual"):
        double.jacobian_rule(keeps="kept")


def test_dense_jacobian_has_memory_of_its_own() -> None:
    x, w = np.ones((3, 2)), np.ones((2, 4))
    dense = og.jacobian(og.dense, x, w).dense()
    assert dense.shape == (3, 4, 2)
    assert not np.shares_memory(dense, w)
    assert dense.flags.writeable


# -- chains --------------------------------------------------------------------------------------


def test_chain_over_two_backends() -> None:
    torch = pytest.importorskip("torch")
    net = og.chain(og.relu, functools.partial(og.softmax, backend="torch"))
    x = np.array([0.5, 1.0, -1.0])
    y, pull = og.vjp(net, x)
    assert isinstance(y, torch.Tensor)
    (dx,) = pull(torch.tensor([1.0, 0.0, 0.0]))
    assert isinstance(dx, np.ndarray)
    expected = og.vjp(og.chain(og.relu, og.softmax), x)[1](np.array([1.0, 0.0, 0.0]))[0]
    np.testing.assert_allclose(dx, expected, rtol=1e-14)
    assert og.jacobian(net, x).dense().shape == (3, 3)


def test_chain_pullback_keeps_only_what_its_rules_declare() -> None:
    x, w, b = np.ones((2, 3)), np.ones((3, 4)), np.ones(4)
    y, pull = og.vjp(og.chain(og.dense), x, ((w, b),))
    result, bias = weakref.ref(y), weakref.ref(b)
    del y, b
    gc.collect()
    assert result() is None
    assert bias() is None
    assert pull(np.ones((2, 4)))[0].shape == (2, 3)


# -- casts, views, data types --------------------------------------------------------------------


def test_casts_are_quiet() -> None:
    with np.errstate(all="raise"):
        big, zero = np.array([1000.0], np.float16), np.array([0.0], np.float16)
        assert np.isinf(og.squared_error(big, zero)[0])
        pull = og.vjp(og.relu, np.ones(1, np.float32))[1]
        assert np.isinf(pull(np.array([1e300]))[0][0])
        assert np.isfinite(og.prelu(np.ones(1, np.float16), 1e9)[0])


def test_views_that_a_rule_returns_are_copied() -> None:
    @og.op
    def pair(xp, x, z, /):
        return xp.reshape(x, x.shape)

    @pair.vjp_rule(keeps=())
    def _(xp, g, /):
        h = 2.0 * g
        return h, h[...]

    x, g = np.ones(3), np.ones(3)
    y, pull = og.vjp(pair, x, np.ones(3))
    assert not np.shares_memory(y, x)
    one, two = pull(g)
    assert not np.shares_memory(one, two)


def test_a_gradient_of_another_shape_is_refused() -> None:
    @og.op
    def double(xp, x, /):
        return 2.0 * x

    @double.vjp_rule(keeps=())
    def _(xp, g, /):
        return xp.stack([g, g])

    with pytest.raises(TypeError, match=r"double: .* gradient of shape \(3,\) for x"):
        og.vjp(double, np.ones(3))[1](np.ones(3))


def test_a_cotangent_that_requires_gradients() -> None:
    torch = pytest.importorskip("torch")
    x, w, b = torch.ones(3), torch.ones(3, 2), torch.ones(2)
    g = torch.ones(2, requires_grad=True)
    db = og.vjp(og.dense, x, w, b)[1](g)[2]
    assert db.data_ptr() != g.data_ptr()


def test_zero_gradient_arrays_of_jax_do_not_claim_numpy() -> None:
    pytest.importorskip("jax")
    code = """
import numpy as np, jax, opsgrad as og
try:
    og.relu(np.zeros(3, jax.dtypes.float0))
except TypeError:
    pass
print(type(og.relu(np.ones(2))).__module__)
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert out.stdout.strip() == "numpy", out.stderr


def test_bfloat16_comes_to_numpy_as_float32() -> None:
    jnp = pytest.importorskip("jax.numpy")
    x = jnp.ones(2, jnp.bfloat16)
    assert og.to_numpy(x).dtype == np.float32
    assert og.softmax(x, backend="numpy").dtype == np.float32
    with pytest.raises(og.DTypeError, match="softmax: x must be real numbers"):
        og.softmax(np.ones(2, jnp.bfloat16))


def test_labels_that_move_are_checked_where_they_can_be_seen() -> None:
    da = pytest.importorskip("dask.array")
    with pytest.raises(ValueError, match="nll_loss: labels must lie in"):
        og.nll_loss(np.zeros((2, 3)), da.from_array(np.array([0, 7])), backend="numpy")


def test_labels_on_a_device_that_numpy_cannot_read() -> None:
    strict = pytest.importorskip("array_api_strict")
    device = strict.Device("device1")
    scores = strict.zeros((2, 3), device=device)
    labels = strict.asarray([0, 1], device=device)
    assert og.nll_loss(scores, labels).device == device


# -- signatures ----------------------------------------------------------------------------------


def test_postponed_annotations_are_read() -> None:
    namespace: dict[str, Any] = {"og": og}
    code = """
from __future__ import annotations
from typing import Literal, TYPE_CHECKING
from opsgrad._signature import Labels, Positive
if TYPE_CHECKING:
    from somewhere import Array

def pick(xp, x: Array, labels: Labels, /, *, b: Positive = 1.0, kind: Literal["a", "b"] = "a"):
    return x
"""
    exec(compile(code, "<user>", "exec"), namespace)
    pick = og.op(namespace["pick"])
    x = np.zeros((2, 3))
    with pytest.raises(TypeError, match="pick: labels"):
        pick(x, np.array([0.5, 1.0]))
    with pytest.raises(ValueError, match="pick: b"):
        pick(x, np.array([0, 1]), b=-1.0)
    with pytest.raises(ValueError, match="pick: kind"):
        pick(x, np.array([0, 1]), kind="c")


def test_defaults_are_checked_when_the_op_is_made() -> None:
    with pytest.raises(TypeError, match="shifted: axis must be an integer, got None"):

        @og.op
        def shifted(xp, x, /, *, axis=None):
            return x

    with pytest.raises(ValueError, match="reduced: reduction must be"):

        @og.op
        def reduced(xp, x, /, *, reduction="average"):
            return x


def test_shape_checks_are_given_shapes_by_name() -> None:
    seen = {}

    @og.op
    def add(xp, x, a=None, b=None, /):
        return x

    @add.check_shapes
    def _(**shapes):
        seen.update(shapes)

    add(np.ones(2), None, np.ones(3))
    assert seen == {"x": (2,), "b": (3,)}
    with pytest.raises(TypeError, match="add: an op with optional arrays needs a vjp_rule"):
        add.derivative(lambda xp, x, a, b, /: x)


@pytest.mark.parametrize(
    ("size", "p", "dtype"),
    [(1e-44, 10.0, np.float32), (1e-40, 40.0, np.float32), (1e-310, 400.0, np.float64)],
)
def test_the_powers_of_subnormal_numbers_do_not_vanish(
    size: float, p: float, dtype: type[np.floating[Any]]
) -> None:
    x = np.array([size, 0.0], dtype=dtype)
    norm, pull = og.vjp(og.lp_norm, x, p=p)
    assert norm == x[0]
    np.testing.assert_allclose(pull(dtype(1))[0], [1.0, 0.0], rtol=1e-6)

"""JAX's own differentiation of our ops: it takes our rules, under every transform, to order two."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest

import opsgrad as og
from opsgrad.conformance import Row
from opsgrad.conformance.checks import direction, sample
from opsgrad.conformance.row import Point

jax = pytest.importorskip("jax", reason="jax is not installed")

import jax.numpy as jnp  # noqa: E402
from jax.test_util import check_grads  # noqa: E402

EPS = float(np.finfo("float64").eps)
TINY = float(np.finfo("float64").tiny)  # XLA flushes what is smaller


@pytest.fixture
def op_by_op() -> Iterator[None]:
    """Compile single steps, and quickly: three times as fast where a rule is run a few times."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    try:
        with jax.disable_jit():
            yield
    finally:
        jax.config.update("jax_disable_most_optimizations", before)


def differentiated(
    op: Any, arrays: Sequence[Any], params: Any
) -> tuple[Callable[..., Any], list[Any], list[int]]:
    """Return the op as a function of its floating-point arrays alone, these, and their numbers."""
    given = [jnp.asarray(array) for array in arrays]
    numbers = [k for k, array in enumerate(given) if jnp.issubdtype(array.dtype, jnp.floating)]

    def function(*some: Any) -> Any:
        inputs = list(given)
        for number, one in zip(numbers, some, strict=True):
            inputs[number] = jnp.asarray(one)
        return op(*inputs, **params)

    return function, [given[number] for number in numbers], numbers


# -- the rules are right, and JAX takes them -------------------------------------------------------


@pytest.mark.usefixtures("op_by_op")
def test_derivatives_to_order_two(row: Row, rng: np.random.Generator) -> None:
    for params in row.variants:
        function, primals, _ = differentiated(row.op, sample(row, rng, (2, 3)), params)
        check_grads(function, primals, order=2, modes=("fwd", "rev"))


def test_kinks_and_special_points(row: Row) -> None:
    """JAX gets what the table states where there is no derivative, as our own transforms do."""
    points = [
        point
        for point in (*row.kinks, *row.specials)
        if point.gradients is not None or point.derivative is not None
    ]

    @jax.jit  # one program for all points: compiled one by one, they took four times as long
    def at_all(inputs: list[Any]) -> list[Any]:
        return [at_point(row, point, *one) for point, one in zip(points, inputs, strict=True)]

    inputs = [inputs_of(row, point) for point in points]
    for point, (gradients, derivative) in zip(points, at_all(inputs), strict=True):
        check_point(row, point, gradients, derivative)


def inputs_of(row: Row, point: Point) -> tuple[list[Any], Any, list[Any] | None]:
    """Return the arrays of a point, its cotangent, and the tangents of what is not labels."""
    roles = row.arguments[: len(point.arrays)]
    arrays = [
        np.asarray(array, dtype="int64" if role == "labels" else "float64")
        for array, role in zip(point.arrays, roles, strict=True)
    ]
    g = np.ones(np.shape(point.value)) if point.cotangent is None else point.cotangent
    if point.tangents is None or point.derivative is None:
        return arrays, np.asarray(g, float), None
    tangents = zip(point.tangents, roles, strict=True)
    return (
        arrays,
        np.asarray(g, float),
        [np.asarray(one, float) for one, role in tangents if role != "labels"],
    )


def at_point(row: Row, point: Point, arrays: Any, g: Any, tangents: Any) -> tuple[Any, Any]:
    """Return JAX's gradients and derivative at a point, where they are stated."""
    function, primals, _ = differentiated(row.op, arrays, point.params)
    gradients = None if point.gradients is None else jax.vjp(function, *primals)[1](g)
    derivative = None if tangents is None else jax.jvp(function, primals, tangents)[1]
    return gradients, derivative


def check_point(row: Row, point: Point, gradients: Any, derivative: Any) -> None:
    def hold(got: Any, stated: Any) -> None:
        bound = (row.gradient_ulp + 2) * EPS
        right = np.asarray(stated, float)
        np.testing.assert_allclose(got, right, rtol=bound, atol=TINY, err_msg=point.why)

    if gradients is not None:
        stated = zip(point.gradients or (), row.arguments, strict=False)
        floating = [one for one, role in stated if role != "labels"]
        for gradient, one in zip(gradients, floating, strict=True):
            if one is not None:
                hold(gradient, one)
    if derivative is not None:
        hold(derivative, point.derivative)


def test_the_transpose_of_our_jvp_is_our_vjp(row: Row, rng: np.random.Generator) -> None:
    """JAX's transpose is our VJP rule to the last bit, and that is the JVP rule's transpose."""
    arrays, params = sample(row, rng, (2, 3)), row.variants[0]
    function, primals, numbers = differentiated(row.op, arrays, params)
    g = jnp.asarray(direction(rng, np.asarray(row.op(*arrays, **params))))

    @jax.jit
    def every_way(arrays: list[Any], primals: list[Any], g: Any) -> tuple[Any, Any, Any]:
        pushforward = jax.linearize(function, *primals)[1]
        transposed = jax.linear_transpose(pushforward, *primals)(g)
        forward = jax.jacfwd(function, tuple(range(len(primals))))(*primals)
        return transposed, forward, og.vjp(row.op, *arrays, **params)[1](g)

    transposed, forward, ours = every_way(arrays, primals, g)
    for k, number in enumerate(numbers):
        np.testing.assert_array_equal(transposed[k], ours[number])
        by_forward = np.tensordot(g, forward[k], axes=g.ndim)
        scale = float(np.max(np.tensordot(np.abs(g), np.abs(forward[k]), axes=g.ndim)))
        np.testing.assert_allclose(by_forward, ours[number], rtol=0, atol=16 * EPS * scale)


@pytest.mark.usefixtures("op_by_op")
@pytest.mark.parametrize("rule", ["vjp", "jvp"])
def test_a_wrong_sign_is_caught(rule: str) -> None:
    @og.op
    def cube(xp: Any, x: Any, /) -> Any:
        return x * x * x

    sign = {"vjp": 1.0, "jvp": 1.0}
    cube.vjp_rule(keeps="x")(lambda xp, x, g, /: sign["vjp"] * 3.0 * x * x * g)
    cube.jvp_rule(keeps="x")(lambda xp, x, dx, /: sign["jvp"] * 3.0 * x * x * dx)
    check_grads(cube, (jnp.asarray([0.5, -2.0]),), order=2)
    sign[rule] = -1.0
    with pytest.raises(AssertionError, match=r"JVP tangent|VJP cotangent projection"):
        check_grads(cube, (jnp.asarray([0.5, -2.0]),), order=1, modes=("fwd", "rev"))


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_a_zero_direction_at_an_infinite_slope_contributes_zero(transform: Any) -> None:
    probs, targets = jnp.asarray([[0.0, 1.0], [0.5, 0.5]]), jnp.asarray([[1.0, 0.0], [0.5, 0.5]])
    chosen = jnp.asarray([0.0, 1.0])  # the first row, whose loss is infinite, is masked
    gradient = transform(jax.grad(lambda p: jnp.vdot(chosen, og.cross_entropy(p, targets))))
    np.testing.assert_array_equal(gradient(probs), [[0.0, 0.0], [-1.0, -1.0]])
    x, alpha = jnp.asarray([-jnp.inf, 1.0]), jnp.asarray(0.5)
    push = transform(lambda *dx: jax.jvp(og.prelu, (x, alpha), dx)[1])
    np.testing.assert_array_equal(push(jnp.asarray([2.0, 2.0]), jnp.asarray(0.0)), [1.0, 2.0])


# -- under JAX's transforms ------------------------------------------------------------------------


def test_jit_of_vmap_of_grad(row: Row, rng: np.random.Generator) -> None:
    params = row.variants[0]
    arrays = sample(row, rng, (3, 4))
    shared = [role in ("alpha", "w", "b") for role in row.arguments]
    numbers = tuple(k for k, floating in enumerate(row.differentiable) if floating)

    def total(*given: Any) -> Any:
        return jnp.sum(row.op(*given, **params) * 0.5)

    axes = [None if one else 0 for one in shared]
    gradient = jax.jit(jax.vmap(jax.value_and_grad(total, numbers), axes))
    value, gradients = gradient(*map(jnp.asarray, arrays))
    y, pull = og.vjp(row.op, *arrays, **params)
    expected = pull(np.full(np.shape(y), 0.5))
    np.testing.assert_allclose(jnp.sum(value), np.sum(y) * 0.5, rtol=1e-12)
    for number, one in zip(numbers, gradients, strict=True):
        whole = jnp.sum(one, axis=0) if shared[number] else one
        np.testing.assert_allclose(whole, expected[number], rtol=1e-12, atol=1e-14)


LABEL_LOSS = og.softmax_cross_entropy_with_integer_labels
THIRD = np.full((3, 3), -1 / 9) + np.eye(3) / 3


@pytest.mark.parametrize(
    ("function", "x", "hessian"),
    [
        (lambda x: og.softplus(x)[0], [0.0], [[0.25]]),
        (lambda x: LABEL_LOSS(x, jnp.asarray(1)), [0.0] * 3, THIRD),
        (lambda x: og.softmax_cross_entropy(x, jnp.eye(3)[1]), [0.0] * 3, THIRD),
        (og.logsumexp, [0.0] * 3, THIRD),
        (og.logsumexp, [0.0, 0.0, -np.inf], [[0.25, -0.25, 0], [-0.25, 0.25, 0], [0, 0, 0]]),
        (og.l2_norm, [0.0, 3.0, 4.0], [[0.2, 0, 0], [0, 0.128, -0.096], [0, -0.096, 0.072]]),
        (lambda x: og.softmax(x)[0], [0.0, 0.0], [[0.0, 0.0], [0.0, 0.0]]),
    ],
    ids=["softplus", "labels", "targets", "logsumexp", "masked", "l2", "softmax"],
)
def test_hessians_where_a_rule_has_a_seam_but_the_op_is_smooth(
    function: Any, x: list[float], hessian: Any
) -> None:
    gradient = jax.jacrev(function)
    both = jax.jit(lambda one: (jax.jacfwd(gradient)(one), jax.jacrev(gradient)(one)))
    for out in both(jnp.asarray(x)):
        np.testing.assert_allclose(out, hessian, rtol=1e-14, atol=1e-16)


def test_hessian_under_jit_is_symmetric(rng: np.random.Generator) -> None:
    hessian = jax.jit(jax.hessian(lambda x: og.softmax_cross_entropy(x, jnp.eye(5)[2])))
    out = np.asarray(hessian(jnp.asarray(3.0 * rng.standard_normal(5))))
    assert np.isfinite(out).all()
    np.testing.assert_allclose(out, out.T, rtol=1e-12, atol=1e-17)


def network(rng: np.random.Generator) -> tuple[Any, Any, Any, Any]:
    net = og.chain(og.dense, og.relu, og.dense)
    one, two = rng.standard_normal((4, 6)), rng.standard_normal((6, 3))
    params = ((one, rng.standard_normal(6)), (), (two, rng.standard_normal(3)))
    return net, rng.standard_normal((5, 4)), params, rng.integers(0, 3, 5)


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_gradient_of_a_network(transform: Any, rng: np.random.Generator) -> None:
    net, x, params, labels = network(rng)

    def loss(params: Any, x: Any) -> Any:
        return LABEL_LOSS(net(x, params), jnp.asarray(labels), reduction="mean")

    in_jax = jax.tree.map(jnp.asarray, params)
    value, gradient = transform(jax.value_and_grad(loss))(in_jax, jnp.asarray(x))
    logits, pull = og.vjp(net, x, params)
    right, dlogits = og.value_and_grad(LABEL_LOSS)(logits, labels, reduction="mean")
    np.testing.assert_allclose(value, right, rtol=1e-13)
    jax.tree.map(
        lambda got, one: np.testing.assert_allclose(got, one, rtol=1e-12, atol=1e-15),
        gradient,
        pull(dlogits)[1],
    )


def test_in_loops_and_checkpoints() -> None:
    def steps(x: Any) -> Any:
        return jax.lax.scan(lambda one, _: (og.tanh(one), None), x, None, length=3)[0]

    def unrolled(x: Any) -> Any:
        return jax.checkpoint(lambda one: jnp.tanh(jnp.tanh(one)))(jnp.tanh(x))

    x = jnp.asarray(0.7)
    for derivative in (jax.grad, lambda f: jax.grad(jax.grad(f))):
        np.testing.assert_allclose(derivative(steps)(x), derivative(unrolled)(x), rtol=1e-13)
        kept = derivative(jax.checkpoint(lambda one: og.tanh(og.tanh(og.tanh(one)))))
        np.testing.assert_allclose(kept(x), derivative(unrolled)(x), rtol=1e-13)


# -- what goes in ----------------------------------------------------------------------------------


@pytest.mark.usefixtures("op_by_op")
def test_numpy_arrays_and_numbers_for_primals_and_directions() -> None:
    x = np.asarray([0.5, -1.5])
    expected = og.jvp(og.tanh, (x,), (x,))[1]
    np.testing.assert_allclose(jax.jvp(og.tanh, (x,), (x,))[1], expected, rtol=1e-14)
    np.testing.assert_allclose(jax.vjp(og.tanh, x)[1](x)[0], expected, rtol=1e-14)
    assert float(jax.jvp(og.squared_l2_norm, (x,), (x,))[1]) == 5.0
    np.testing.assert_allclose(jax.jvp(og.tanh, (0.5,), (0.5,))[1], expected[0], rtol=1e-14)


@pytest.mark.usefixtures("op_by_op")
def test_only_what_is_asked_for_moves(rng: np.random.Generator) -> None:
    x, w = jnp.asarray(rng.standard_normal((2, 3))), jnp.asarray(rng.standard_normal((3, 2)))
    for bias in ((), (None,), (jnp.ones(2),)):
        got = jax.grad(lambda w, bias=bias: jnp.sum(og.dense(x, w, *bias)))(w)
        np.testing.assert_allclose(got, jnp.tensordot(x, jnp.ones((2, 2)), axes=(0, 0)))


@pytest.mark.usefixtures("op_by_op")
def test_labels_and_integer_data_have_no_derivative() -> None:
    logits, labels = jnp.zeros((2, 4)), jnp.asarray([0, 3])
    by_both = jax.grad(lambda *a: LABEL_LOSS(*a, reduction="sum"), (0, 1), allow_int=True)
    for function in (by_both, jax.jit(by_both)):
        gradient, by_labels = function(logits, labels)
        np.testing.assert_array_equal(gradient[0], [-0.75, 0.25, 0.25, 0.25])
        assert by_labels.dtype == jax.dtypes.float0
    counts = jnp.asarray([1, 2, 2])
    gradient = jax.grad(lambda a: jnp.sum(og.relu(a)), allow_int=True)(counts)
    assert gradient.dtype == jax.dtypes.float0


def test_half_precision_is_as_exact_where_jax_traces(rng: np.random.Generator) -> None:
    x, g = (jnp.asarray(rng.standard_normal((20, 8)), dtype=jnp.float16) for _ in range(2))

    def gradient(x: Any, g: Any) -> Any:
        return og.vjp(og.softmax, x)[1](g)[0]

    def by_jax(x: Any, g: Any) -> Any:
        return jax.vjp(og.softmax, x)[1](g)[0]

    exact = gradient(*(np.asarray(one, dtype="float64") for one in (x, g)))
    for function in (gradient, jax.jit(gradient), by_jax, jax.jit(by_jax)):
        out = function(x, g)
        assert out.dtype == jnp.float16
        np.testing.assert_allclose(np.asarray(out, dtype="float64"), exact, rtol=5e-4, atol=1e-7)


# -- ops of one's own ------------------------------------------------------------------------------


def squares() -> Any:
    """Return an op without rules, whose body has a residual."""

    @og.op
    def squares(xp: Any, x: Any, /) -> Any:
        return xp.sum(x * x, axis=-1), 2.0 * x

    return squares


@pytest.mark.usefixtures("op_by_op")
def test_the_gradient_of_a_norm_whose_inverse_is_subnormal() -> None:
    """XLA multiplies by inverses, and takes subnormal ones for zero."""
    for dtype, huge in (("float32", 2.0**125), ("float64", 2.0**1021)):
        x = jnp.asarray([3.0 * huge, -4.0 * huge], dtype=dtype)
        y, pull = og.vjp(og.l2_norm, x)
        assert float(y) == 5.0 * huge
        np.testing.assert_allclose(pull(jnp.ones_like(y))[0], [0.6, -0.8], rtol=1e-6)


def test_a_rule_that_keeps_the_residual() -> None:
    op = squares()
    op.vjp_rule(keeps="kept")(lambda xp, slope, g, /: slope * g[..., None])
    op.jvp_rule(keeps="kept")(lambda xp, slope, dx, /: xp.sum(slope * dx, axis=-1))
    check_grads(op, (jnp.asarray([[0.5, -2.0]]),), order=2)


@pytest.mark.usefixtures("op_by_op")
def test_an_op_with_one_rule_or_none() -> None:
    x = jnp.asarray([0.5, -2.0])
    neither, pull_only, push_only = squares(), squares(), squares()
    pull_only.vjp_rule(keeps="x")(lambda xp, x, g, /: 20.0 * x * g[..., None])
    push_only.jvp_rule(keeps="x")(lambda xp, x, dx, /: 20.0 * xp.sum(x * dx, axis=-1))
    np.testing.assert_array_equal(jax.grad(neither)(x), 2.0 * x)
    np.testing.assert_array_equal(jax.grad(pull_only)(x), 20.0 * x)
    np.testing.assert_array_equal(jax.grad(push_only)(x), 20.0 * x)
    with pytest.raises(og.RuleError, match="squares: has no jvp rule"):
        jax.jvp(pull_only, (x,), (x,))


def test_an_eager_call_is_traced_once_for_each_shape() -> None:
    traced = []

    @og.op
    def doubled(xp: Any, x: Any, /, *, factor: float = 2.0) -> Any:
        traced.append(x.shape)
        return x * factor

    for _ in range(3):
        doubled(jnp.ones(2))
        doubled(jnp.ones(3))
    assert traced == [(2,), (3,)]
    doubled(jnp.ones(2), factor=3.0)  # the body sees a Python number, on which it may branch
    assert traced == [(2,), (3,), (2,)]

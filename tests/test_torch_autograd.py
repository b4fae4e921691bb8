"""Ops inside PyTorch's own autograd: with our rules where it records, by the body elsewhere."""

import contextlib
import functools
import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from engine import fresh_engine

import opsgrad as og
from opsgrad.conformance import TABLE, Row
from opsgrad.conformance.checks import direction, sample
from opsgrad.conformance.row import LABELS, Point

torch = pytest.importorskip("torch", reason="torch is not installed")

# What PyTorch warns of itself when its forward mode and its compiler are first used.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*torch.jit:DeprecationWarning", "ignore:.*lru_cache:UserWarning"
)

POINTS = [
    pytest.param(row, point, id=f"{row.name}: {point.why}")
    for row in TABLE.values()
    for point in (*row.kinks, *row.specials)
]


def tensors(arrays: Any, *, grad: bool = True) -> list[Any]:
    made = [torch.tensor(np.asarray(array)) for array in arrays]
    return [t.requires_grad_(grad and t.is_floating_point()) for t in made]


def floating(values: Any) -> list[Any]:
    return [one for one in values if one.is_floating_point()]


def calls_in_graph(y: Any) -> int:
    """Return how many of our calls the graph of `y` holds."""
    seen, todo = set(), [y.grad_fn]
    while todo:
        node = todo.pop()
        if node is not None and node not in seen:
            seen.add(node)
            todo += [before for before, _ in node.next_functions]
    return sum(type(node).__name__.endswith("OpsgradFunctionBackward") for node in seen)


@pytest.fixture
def as_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run bodies and rules as they are written, whatever an earlier test had compiled."""
    fresh_engine(monkeypatch, math.inf)


# -- smooth points: PyTorch's own numerical checks -----------------------------------------------


def test_every_op_passes_gradcheck(row: Row, rng: np.random.Generator) -> None:
    for params in row.variants:
        function = functools.partial(row.op, **params)
        given = tensors(sample(row, rng, (2, 3)))
        assert calls_in_graph(function(*given)) == 1
        assert torch.autograd.gradcheck(
            function, given, check_forward_ad=True, check_batched_grad=True
        )


def test_every_op_passes_gradgradcheck(row: Row, rng: np.random.Generator) -> None:
    for params in row.variants:
        function = functools.partial(row.op, **params)
        assert torch.autograd.gradgradcheck(function, tensors(sample(row, rng, (2, 3))))


def test_every_op_forward_over_reverse(row: Row, rng: np.random.Generator) -> None:
    function = functools.partial(row.op, **row.variants[0])
    assert torch.autograd.gradgradcheck(
        function,
        tensors(sample(row, rng, (2, 3))),
        check_fwd_over_rev=True,
        check_rev_over_rev=False,
        check_undefined_grad=False,
    )


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("name", [name for name, row in TABLE.items() if row.has_reduction])
def test_reduced_losses(name: str, rng: np.random.Generator, reduction: str) -> None:
    row = TABLE[name]
    function = functools.partial(row.op, reduction=reduction, **row.variants[0])
    given = tensors(sample(row, rng, (2, 3)))
    assert torch.autograd.gradcheck(function, given, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(function, given)


# -- kinks, ties, saturated points, infinities: our rules and no others --------------------------


def point_tensors(row: Row, point: Point, *, grad: bool = True) -> list[Any]:
    kinds = [np.int64 if role == LABELS else np.float64 for role in row.arguments]
    return tensors(map(np.asarray, point.arrays, kinds), grad=grad)


def assert_close(got: Any, expected: Any) -> None:
    got = got.detach().numpy()
    expected = np.asarray(expected, dtype=np.float64)
    np.testing.assert_allclose(got, expected, rtol=1e-14, atol=0, equal_nan=True)


@pytest.mark.usefixtures("as_written")  # kernels leave 1e-32 where terms cancel, not 0
@pytest.mark.parametrize(("row", "point"), POINTS)
def test_backward_at_the_points_of_the_contract(row: Row, point: Point) -> None:
    given = point_tensors(row, point)
    y = row.op(*given, **point.params)
    assert_close(y, point.value)
    g = np.ones(y.shape) if point.cotangent is None else point.cotangent
    y.backward(torch.tensor(np.asarray(g, dtype=np.float64)).reshape(y.shape))
    for tensor, right in zip(given, point.gradients or (None,) * len(given), strict=True):
        if right is not None:
            assert_close(tensor.grad, right)


@pytest.mark.parametrize(("row", "point"), [case for case in POINTS if case.values[1].tangents])
def test_forward_mode_at_the_points_of_the_contract(row: Row, point: Point) -> None:
    given = point_tensors(row, point, grad=False)
    numbers = [k for k, t in enumerate(given) if t.is_floating_point()]
    tangents = [torch.tensor(np.asarray(point.tangents[k], dtype=np.float64)) for k in numbers]

    def function(*primals: Any) -> Any:
        every = list(given)
        for k, primal in zip(numbers, primals, strict=True):
            every[k] = primal
        return row.op(*every, **point.params)

    primals = tuple(given[k] for k in numbers)
    y, dy = torch.func.jvp(function, primals, tuple(tangents))
    assert_close(y, point.value)
    assert_close(dy, point.derivative)
    with torch.autograd.forward_ad.dual_level():
        duals = map(torch.autograd.forward_ad.make_dual, primals, tangents)
        dual = torch.autograd.forward_ad.unpack_dual(function(*duals))
        assert_close(dual.tangent, point.derivative)


@pytest.mark.parametrize("order", ["grad(vmap)", "vmap(grad)", "jacrev", "jacfwd"])
def test_our_rules_under_torch_func(order: str) -> None:
    func, x = torch.func, torch.zeros((2, 3), dtype=torch.float64)  # PyTorch's own gives NaN here
    transformed = {
        "grad(vmap)": func.grad(lambda x: func.vmap(og.l2_norm)(x).sum()),
        "vmap(grad)": func.vmap(func.grad(og.l2_norm)),
        "jacrev": func.jacrev(lambda x: og.l2_norm(x).sum()),
        "jacfwd": func.jacfwd(lambda x: og.l2_norm(x).sum()),
    }[order]
    assert torch.equal(transformed(x), torch.zeros_like(x))


# -- torch.func against the body -----------------------------------------------------------------


def body_of(row: Row) -> Callable[..., Any]:
    """Return the op by its body, which PyTorch differentiates step by step."""
    import array_api_compat.torch as xp

    parameters = row.op.signature.complete(row.variants[0])

    def function(*arrays: Any) -> Any:
        out = row.op.body(xp, *arrays, **parameters)
        return out[0] if isinstance(out, tuple) else out

    return function


@pytest.mark.parametrize("order", [*itertools.product("rf", repeat=2), "rrf", "rff", "ffr", "fff"])
def test_nested_transforms(row: Row, rng: np.random.Generator, order: Any) -> None:
    x, *rest = tensors(sample(row, rng, (2, 2)), grad=False)
    results = []
    for op in (functools.partial(row.op, **row.variants[0]), body_of(row)):

        def function(x: Any, op: Any = op) -> Any:
            return (op(torch.sin(x) + x, *rest) ** 2).sum()

        for letter in order:
            function = {"r": torch.func.jacrev, "f": torch.func.jacfwd}[letter](function)
        results.append(function(torch.arcsinh(x)))
    torch.testing.assert_close(*results, rtol=1e-8, atol=1e-8)


def test_vmap_of_calls_and_of_gradients(row: Row, rng: np.random.Generator) -> None:
    shared = tuple(None if role in ("alpha", "w", "b") else 0 for role in row.arguments)
    given = tensors(sample(row, rng, (3, 4)))
    function = functools.partial(row.op, **row.variants[0])
    y = torch.func.vmap(function, in_dims=shared)(*given)
    right = function(*given)
    torch.testing.assert_close(y, right)
    assert calls_in_graph(y) == 1
    g = torch.tensor(rng.standard_normal(tuple(y.shape)))
    by_vmap = torch.autograd.grad(y, floating(given), g)
    torch.testing.assert_close(by_vmap, torch.autograd.grad(right, floating(given), g))


def test_hessian_of_a_network() -> None:
    torch.manual_seed(0)
    net = og.chain(og.dense, og.softplus, og.dense)
    x, labels = torch.randn(4, 3, dtype=torch.float64), torch.tensor([0, 1, 1, 0])
    w2 = torch.randn(5, 2, dtype=torch.float64)

    def loss(w: Any) -> Any:
        logits = net(x, ((w,), (), (w2,)))
        return og.softmax_cross_entropy_with_integer_labels(logits, labels, reduction="mean")

    def textbook(w: Any) -> Any:
        logits = torch.nn.functional.softplus(x @ w) @ w2
        return torch.nn.functional.cross_entropy(logits, labels)

    w = torch.randn(3, 5, dtype=torch.float64)
    torch.testing.assert_close(torch.func.hessian(loss)(w), torch.func.hessian(textbook)(w))


# -- what is recorded, and what is kept ----------------------------------------------------------


def test_nothing_is_recorded_where_nothing_asks_for_it() -> None:
    x = torch.ones(3)
    assert og.softmax(x).grad_fn is None
    with torch.no_grad():
        assert og.softmax(x.requires_grad_()).grad_fn is None
    with torch.inference_mode():
        assert og.softmax(x).grad_fn is None
    labels = torch.tensor(1)
    assert og.nll_loss(x.detach(), labels).grad_fn is None


def test_a_chain_enters_stage_by_stage() -> None:
    x, w = torch.ones(2, 3), torch.ones(3, 3, requires_grad=True)
    y = og.chain(og.dense, og.relu, og.softmax)(x, ((w,), (), ()))
    assert calls_in_graph(y) == 3


def test_only_what_the_rules_need_is_kept_and_nothing_is_copied() -> None:
    x, w, b = (torch.ones(shape, requires_grad=True) for shape in ((2, 3), (3, 3), (3,)))

    def kept(y: Any) -> list[Any]:
        return [None if t is None else t.data_ptr() for t in y.grad_fn.saved_tensors]

    y = og.softmax(x)
    assert kept(y) == [None, y.data_ptr()]
    assert kept(og.relu(x)) == [x.data_ptr(), None]
    assert kept(og.dense(x, w, b)) == [x.data_ptr(), w.data_ptr(), None, None]


def test_gradients_have_memory_of_their_own() -> None:
    x, g = torch.ones(3, requires_grad=True), torch.ones(3)
    op = og.op(lambda xp, x, /: x)
    op.vjp_rule(keeps=())(lambda xp, g, /: g)
    y = op(x)
    y.backward(g)
    assert len({t.data_ptr() for t in (x, y, g, x.grad)}) == 4


@pytest.mark.parametrize(("op", "kept"), [(og.sigmoid, "x"), (og.softmax, "y")])
def test_writing_into_what_is_kept_raises(op: Any, kept: str) -> None:
    leaf = torch.ones(3, requires_grad=True)
    x = leaf * 1.0
    y = op(x)
    (x if kept == "x" else y).mul_(2.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_a_graph_can_be_pulled_through_many_times() -> None:
    x = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64, requires_grad=True)
    y, g = og.softmax(x), torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)
    results = [torch.autograd.grad(y, x, g, retain_graph=True)[0] for _ in range(3)]
    assert all(torch.equal(one, results[0]) for one in results)
    torch.autograd.grad(y, x, g)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(y, x, g)


def test_optional_arrays_and_labels(rng: np.random.Generator) -> None:
    x, w = tensors([rng.standard_normal((2, 3)), rng.standard_normal((3, 4))])
    assert torch.autograd.gradcheck(og.dense, (x, w))
    assert torch.autograd.gradcheck(lambda x, w: og.dense(x, w, None), (x, w))
    assert torch.autograd.gradcheck(og.dense, (x.detach(), w))
    labels = torch.tensor([2, 0], dtype=torch.uint8)
    og.softmax_cross_entropy_with_integer_labels(x, labels, reduction="sum").backward()
    assert x.grad.shape == x.shape


def test_integer_data_is_no_obstacle() -> None:
    target = torch.tensor([1.0, 2.0], requires_grad=True)
    og.squared_error(torch.tensor([3, 3]), target, reduction="sum").backward()
    assert torch.equal(target.grad, torch.tensor([-4.0, -2.0]))


@pytest.mark.usefixtures("as_written")  # of a watched tensor, og.vjp never takes a kernel
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_gradients_are_those_of_og_vjp(row: Row, rng: np.random.Generator, dtype: str) -> None:
    kind = getattr(torch, dtype)
    given = tensors(sample(row, rng, (3, 5)), grad=False)
    given = [t.to(kind) if t.is_floating_point() else t for t in given]
    y, pull = og.vjp(row.op, *given, **row.variants[0])
    g = torch.tensor(rng.standard_normal(tuple(y.shape))).to(kind)
    expected = [one for one in pull(g) if one is not None]
    watched = [t.clone().requires_grad_(t.is_floating_point()) for t in given]
    recorded = row.op(*watched, **row.variants[0])
    gradients = torch.autograd.grad(recorded, floating(watched), g)
    assert recorded.dtype == kind
    for got, right in zip((recorded, *gradients), (y, *expected), strict=True):
        assert got.dtype == kind
        assert torch.equal(got, right)
    # and og.vjp of a tensor that is watched gives the same
    for got, right in zip(
        [one for one in og.vjp(row.op, *watched, **row.variants[0])[1](g) if one is not None],
        expected,
        strict=True,
    ):
        assert torch.equal(got, right)


# -- our own transforms, of tensors that are watched ---------------------------------------------


def test_pullbacks_are_themselves_differentiable(row: Row, rng: np.random.Generator) -> None:
    params = row.variants[0]
    given = tensors(sample(row, rng, (2, 3)))
    g = torch.tensor(direction(rng, og.to_numpy(row.op(*given, **params))), requires_grad=True)

    def gradients(g: Any, *arrays: Any) -> Any:
        pulled = og.vjp(row.op, *arrays, **params)[1](g)
        return tuple(one for one in pulled if one is not None)

    assert torch.autograd.gradcheck(gradients, (g, *given))


def test_pushforwards_are_themselves_differentiable(row: Row, rng: np.random.Generator) -> None:
    params = row.variants[0]
    arrays = sample(row, rng, (2, 3))
    given = tensors(arrays)
    tangents = tensors([direction(rng, a) for a in arrays if a.dtype.kind == "f"])

    def tangent(*both: Any) -> Any:
        primals, moving = both[: len(given)], iter(both[len(given) :])
        directions = [next(moving) if p.is_floating_point() else None for p in primals]
        return og.jvp(row.op, primals, directions, **params)[1]

    assert torch.autograd.gradcheck(tangent, (*given, *tangents))


# -- ops of one's own ----------------------------------------------------------------------------


def squareplus(xp: Any, x: Any, /, *, b: float = 4.0) -> Any:
    return 0.5 * (x + xp.sqrt(x * x + b))


def slope(xp: Any, x: Any, b: float) -> Any:
    return 0.5 * (1.0 + x / xp.sqrt(x * x + b))


@pytest.mark.parametrize("rules", ["", "vjp", "jvp", "vjp jvp"])
def test_an_op_with_some_of_the_rules(rules: str, rng: np.random.Generator) -> None:
    op = og.op(squareplus)
    if "vjp" in rules:
        op.vjp_rule(keeps="x")(lambda xp, x, g, /, *, b: g * slope(xp, x, b))
    if "jvp" in rules:
        op.jvp_rule(keeps="x")(lambda xp, x, dx, /, *, b: dx * slope(xp, x, b))
    (x,) = tensors([rng.standard_normal(3)])
    assert calls_in_graph(op(x)) == ("vjp" in rules)
    assert torch.autograd.gradcheck(op, (x,), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(op, (x,))
    hessian = torch.func.hessian(lambda x: op(x).sum())(x.detach())
    torch.testing.assert_close(hessian, torch.diag(2.0 * (x * x + 4.0) ** -1.5).detach())


def test_a_residual_does_not_spoil_second_derivatives(rng: np.random.Generator) -> None:
    @og.op
    def cube(xp: Any, x: Any, /) -> Any:
        square = x * x
        return x * square, square

    @cube.vjp_rule(keeps="kept")
    def _(xp: Any, square: Any, g: Any, /) -> Any:
        return 3.0 * square * g

    (x,) = tensors([rng.standard_normal(3)])
    assert torch.autograd.gradcheck(cube, (x,))
    assert torch.autograd.gradgradcheck(cube, (x,))
    assert torch.autograd.gradgradcheck(lambda x: og.vjp(cube, x)[0], (x,))


# -- tracing: the body ---------------------------------------------------------------------------


def value_and_gradient(function: Any, x: Any) -> Any:
    y = function(x)
    return y, torch.autograd.grad((y * y).sum(), x)[0]


@pytest.mark.parametrize(("fullgraph", "dynamic"), [(False, False), (True, False), (True, True)])
def test_compile(fullgraph: bool, dynamic: bool) -> None:
    def function(x: Any) -> Any:
        y, pull = og.vjp(og.chain(og.sigmoid, og.softmax), x)
        return y + pull(y)[0]

    torch._dynamo.reset()
    compiled = torch.compile(function, backend="aot_eager", fullgraph=fullgraph, dynamic=dynamic)
    for rows in (3, 5) if dynamic else (3,):
        x = torch.linspace(-1.0, 1.0, 4 * rows).reshape(rows, 4).requires_grad_()
        got, right = value_and_gradient(compiled, x), value_and_gradient(function, x)
        torch.testing.assert_close(got, right)


def test_compile_the_loss_of_labels() -> None:
    labels = torch.tensor([0, 2])

    def loss(logits: Any) -> Any:
        return og.softmax_cross_entropy_with_integer_labels(logits, labels, reduction="mean")

    torch._dynamo.reset()
    x = torch.tensor([[1.0, 2.0, 3.0], [0.0, -1.0, 0.5]], requires_grad=True)
    compiled = torch.compile(loss, backend="eager", fullgraph=True)
    torch.testing.assert_close(value_and_gradient(compiled, x), value_and_gradient(loss, x))


@pytest.mark.parametrize("name", ["relumax", "softmax_cross_entropy", "l2_norm", "prelu"])
def test_meta_and_fake_tensors(name: str, rng: np.random.Generator) -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    row = TABLE[name]
    given = tensors(sample(row, rng, (3, 4)))
    right = row.op(*given, **row.variants[0])
    mode = FakeTensorMode()
    meta = [t.detach().to("meta").requires_grad_() for t in given]
    fake = [mode.from_tensor(t.detach()).requires_grad_() for t in given]
    for abstract, context in ((meta, contextlib.nullcontext()), (fake, mode)):
        with context:
            y = row.op(*abstract, **row.variants[0])
            gradients = torch.autograd.grad(y, floating(abstract), torch.ones_like(y))
        assert (y.shape, y.dtype) == (right.shape, right.dtype)
        assert [g.shape for g in gradients] == [t.shape for t in abstract]


# -- the checks can fail -------------------------------------------------------------------------


def test_a_wrong_rule_is_seen(rng: np.random.Generator) -> None:
    op = og.op(squareplus)
    op.vjp_rule(keeps="x")(lambda xp, x, g, /, *, b: -g * slope(xp, x, b))
    op.jvp_rule(keeps="x")(lambda xp, x, dx, /, *, b: -dx * slope(xp, x, b))
    given = tensors([rng.standard_normal(3)])
    for forward in (False, True):
        with pytest.raises(RuntimeError, match=r"Jacobian .*mismatch"):
            torch.autograd.gradcheck(
                op, given, check_forward_ad=forward, check_backward_ad=not forward
            )


@pytest.mark.parametrize("role", ["backward", "jvp"])
def test_a_wrong_sign_on_the_way_is_seen(monkeypatch: pytest.MonkeyPatch, role: str) -> None:
    x = torch.tensor([0.5, -1.0], dtype=torch.float64, requires_grad=True)
    function = type(og.softmax(x).grad_fn)._forward_cls
    right = getattr(function, role)

    def wrong(*arguments: Any) -> Any:
        out = right(*arguments)
        return (None, *(-one for one in out[1:])) if role == "backward" else -out

    monkeypatch.setattr(function, role, staticmethod(wrong))
    with pytest.raises(RuntimeError, match=r"Jacobian .*mismatch"):
        torch.autograd.gradcheck(og.softmax, (x,), check_forward_ad=True)

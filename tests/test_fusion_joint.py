"""Value and gradients in one kernel, and reduced losses summed inside it."""

import functools
import math
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from engine import fresh_engine

import opsgrad as og
from opsgrad.annotations import Reduction
from opsgrad.backends import _engine
from opsgrad.backends.protocol import SEED
from opsgrad.conformance import TABLE, Row
from opsgrad.fusion import cpu
from opsgrad.fusion.program import schedule
from opsgrad.fusion.trace import INTEGER, Input, Kind, trace

needs_llvmlite = pytest.mark.skipif(
    _engine.why_unavailable() is not None, reason="llvmlite is not installed"
)
LOSSES = [row for row in TABLE.values() if row.has_reduction]
ELEMENTWISE = [row for row in LOSSES if not row.has_axis]
REDUCTIONS = ("none", "mean", "sum")
# The affine map multiplies matrices, and prelu's rule sums over rows.
JOINTLY = [row for row in TABLE.values() if row.name not in ("dense", "prelu")]


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compile for arrays of any size, with nothing compiled before."""
    fresh_engine(monkeypatch, 1)


def compiled() -> dict[Any, Any]:
    """Return the kernels of this test, by their keys."""
    return {key: one for key, one in _engine._known.items() if isinstance(one, cpu.Fused)}


def floating(arrays: tuple[Any, ...]) -> tuple[int, ...]:
    return tuple(number for number, array in enumerate(arrays) if array.dtype.kind == "f")


def together(op: Any, arrays: tuple[Any, ...], params: dict[str, Any]) -> tuple[Any, ...]:
    value, gradients = og.value_and_grad(op, floating(arrays))(*arrays, **params)
    return value, *gradients


def apart(op: Any, arrays: tuple[Any, ...], params: dict[str, Any]) -> tuple[Any, ...]:
    """Return the same from the kernels of body and rule."""
    value, pull = og.vjp(op, *arrays, **params)
    gradients = pull(np.ones_like(value))
    return value, *(gradients[number] for number in floating(arrays))


def hold(op: Any, arrays: tuple[Any, ...], params: dict[str, Any]) -> None:
    """Hold one kernel to two: to the bit, for both compute the same in the same order."""
    expected = apart(op, arrays, params)
    names = {key[3] for key in compiled()}
    got = together(op, arrays, params)
    assert len({key[3] for key in compiled()} - names) <= 1
    for one, other in zip(got, expected, strict=True):
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
        np.testing.assert_array_equal(one, other)


def sampled(row: Row, shape: tuple[int, ...], axis: int, dtype: str) -> tuple[Any, ...]:
    arrays = row.sample(np.random.default_rng(shape[-1]), shape, axis)
    return tuple(a if a.dtype.kind in "iu" else a.astype(dtype) for a in arrays)


# -- what is compiled ----------------------------------------------------------------------------


LABEL_LOSS = """\
phase 0, along the row:
  s3 = max(input1)
phase 1, along the row:
    v4 = subtract(input1, s3)"""


def joint_program(op: Any, kinds: tuple[Kind, ...], numbers: tuple[int, ...]) -> Any:
    single = np.dtype(np.float32)
    inputs = [Input(kind, INTEGER if kind is Kind.ROW else single) for kind in kinds]
    parameters = {"axis": -1, "reduction": "none"}
    function = op._joint_rule(numbers).function
    return schedule(trace(function, [Input(Kind.NUMBER, single), *inputs], parameters, single))


def times(program: Any, kind: str) -> int:
    """Return how often a function is computed along the row."""
    nodes = program.graph.nodes
    kept = {number for phase in program.phases for number, _ in phase.kept}
    steps = [number for phase in program.phases for number in phase.steps]
    once = [n for n in steps if nodes[n].kind == kind and n not in kept]
    return len(once) + len({n for n in kept if nodes[n].kind == kind})


def test_what_value_and_gradient_share_is_computed_once() -> None:
    program = joint_program(
        og.softmax_cross_entropy_with_integer_labels, (Kind.TABLE, Kind.ROW), (0,)
    )
    assert str(program).startswith(LABEL_LOSS)
    assert len(program.phases) == 3
    assert times(program, "exp") == 1
    assert [kind.name for kind in program.kinds] == ["ROW", "TABLE"]


def test_gradients_that_nobody_asked_for_are_not_computed() -> None:
    both = joint_program(og.cross_entropy, (Kind.TABLE, Kind.TABLE), (0, 1))
    one = joint_program(og.cross_entropy, (Kind.TABLE, Kind.TABLE), (0,))
    assert len(both.outputs) == 3
    assert len(one.outputs) == 2
    assert len(one.phases[0].steps) < len(both.phases[0].steps)


@needs_llvmlite
@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("row", JOINTLY, ids=lambda row: row.name)
def test_one_kernel_runs(row: Row) -> None:
    arrays = sampled(row, (4, 30), -1, "float32")
    together(row.op, arrays, dict(row.variants[0]))
    ((_, _, _, names),) = compiled()
    assert names == (SEED, *row.op.array_names)
    words = og.which_backend(row.op, *arrays).engines["value_and_grad"]
    assert words == "a compiled loop from 1 entries on, or once it is there; below value, then vjp"


@needs_llvmlite
@pytest.mark.usefixtures("at_once")
def test_argnums_in_any_order_share_a_kernel() -> None:
    p, t = sampled(TABLE["squared_error"], (4, 30), -1, "float64")
    _, (dp, dt) = og.value_and_grad(og.squared_error, (0, 1))(p, t)
    _, (one, other, again) = og.value_and_grad(og.squared_error, (1, 0, 1))(p, t)
    np.testing.assert_array_equal(dp, other)
    np.testing.assert_array_equal(dt, one)
    np.testing.assert_array_equal(dt, again)
    assert len(compiled()) == 1
    for number, expected in enumerate((dp, dt)):
        alone = og.value_and_grad(og.squared_error, number)(p, t)[1]
        np.testing.assert_array_equal(alone, expected)
    assert len(compiled()) == 3


# -- what it computes ----------------------------------------------------------------------------


LENGTHS = (1, 2, 15, 17, 63, 65, 100, 127, 1537)


@needs_llvmlite
@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("row", TABLE.values(), ids=TABLE)
def test_rows_of_any_length(row: Row, dtype: str) -> None:
    for length in LENGTHS if row.has_axis else LENGTHS[2:]:
        arrays = sampled(row, (3, length), -1, dtype)
        for params in row.variants:
            hold(row.op, arrays, dict(params))


@needs_llvmlite
@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("shape", [(5, 70), (7, 3), (2, 5, 100)])
@pytest.mark.parametrize("row", LOSSES, ids=lambda row: row.name)
def test_every_axis_and_reduction(row: Row, shape: tuple[int, ...]) -> None:
    for axis in range(-len(shape), 0) if row.has_axis else (-1,):
        arrays = sampled(row, shape, axis, "float64")
        for reduction in REDUCTIONS:
            params = {**row.variants[-1], "reduction": reduction}
            hold(row.op, arrays, params | ({"axis": axis} if row.has_axis else {}))


SPECIAL = (math.nan, math.inf, -math.inf, 0.0, -0.0, 1.0, 1e30, -1e30, 1e-40)


@needs_llvmlite
@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("row", JOINTLY, ids=lambda row: row.name)
def test_special_values(row: Row) -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        arrays = tuple(
            a if a.dtype.kind in "iu" else rng.choice(SPECIAL, a.shape).astype("float32")
            for a in row.sample(rng, (6, 9), -1)
        )
        with np.errstate(all="raise"):
            hold(row.op, arrays, dict(row.variants[0]))


@needs_llvmlite
@pytest.mark.usefixtures("at_once")
def test_one_and_no_axes_and_strides() -> None:
    x = np.random.default_rng(0).standard_normal((40, 60)).astype("float32")
    for arrays in ((x[0], x[1]), (x[::2, ::3], x[1::2, ::3]), (x.T, x.T[::-1]), (x, x[:1] + 0 * x)):
        for row in ELEMENTWISE:
            hold(row.op, arrays, {"reduction": "mean"})
        hold(og.softmax_cross_entropy, arrays, {"reduction": "sum"})
    hold(og.l2_loss, (np.float32(1.5), np.float32(2.0)), {})
    hold(og.l2_loss, (np.float32(1.5), np.float32(2.0)), {"reduction": "mean"})
    hold(og.nll_loss, (x[0], np.array(3)), {"reduction": "mean"})


@needs_llvmlite
@pytest.mark.usefixtures("at_once")
def test_no_examples() -> None:
    nothing = np.zeros((0, 5))
    for reduction, total in (("mean", math.nan), ("sum", 0.0)):
        value, gradient = og.value_and_grad(og.squared_error)(nothing, nothing, reduction=reduction)
        np.testing.assert_array_equal(value, total)
        assert gradient.shape == (0, 5)


@needs_llvmlite
@pytest.mark.usefixtures("at_once")
def test_half_precision_and_integers_go_in_as_apart() -> None:
    half = sampled(TABLE["softmax_cross_entropy"], (4, 20), -1, "float16")
    hold(og.softmax_cross_entropy, half, {"reduction": "mean"})
    pred, whole = np.linspace(-1, 1, 80).reshape(4, 20), np.arange(80).reshape(4, 20)
    hold(og.squared_error, (pred, whole), {"reduction": "mean"})
    with pytest.raises(og.DTypeError, match="no gradient by target, because it holds integers"):
        og.value_and_grad(og.squared_error, 1)(pred, whole)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_the_function_itself_runs_anywhere(reduction: str) -> None:
    logits, targets = sampled(TABLE["softmax_cross_entropy"], (4, 20), -1, "float64")
    function = og.softmax_cross_entropy._joint_rule((0, 1)).function
    seed = np.asarray(0.25 if reduction == "mean" else 1.0)
    out = function(np, seed, logits, targets, axis=-1, reduction=reduction)
    expected = apart(og.softmax_cross_entropy, (logits, targets), {"reduction": reduction})
    for one, other in zip(out, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-14)


# -- reduced inside ------------------------------------------------------------------------------


@needs_llvmlite
@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "size", [1, 100, cpu.PIECE - 1, cpu.PIECE, cpu.PIECE + 1, 3 * cpu.PIECE + 5]
)
@pytest.mark.parametrize("row", ELEMENTWISE, ids=lambda row: row.name)
def test_sums_of_elementwise_losses(row: Row, size: int, dtype: str) -> None:
    arrays = sampled(row, (size,), -1, dtype)
    exact = math.fsum(row.op(*arrays))
    bound = 4 * float(np.finfo(dtype).eps)
    for reduction, right in (("sum", exact), ("mean", exact / size)):
        alone = row.op(*arrays, reduction=reduction)
        value, gradient = og.value_and_grad(row.op)(*arrays, reduction=reduction)
        assert alone.dtype == value.dtype == np.dtype(dtype)
        assert alone.shape == value.shape == ()
        assert float(alone) == pytest.approx(right, rel=bound)
        assert float(value) == pytest.approx(right, rel=bound)
        assert gradient.shape == (size,)


@needs_llvmlite
@pytest.mark.usefixtures("at_once")
def test_long_sums_keep_their_digits() -> None:
    ones = np.full(10_000_000, 0.1, np.float32)
    exact = 1e7 * float(ones[0]) ** 2
    total = og.squared_error(ones, np.zeros_like(ones), reduction="sum")
    assert float(total) == pytest.approx(exact, rel=4e-7)


@needs_llvmlite
@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("row", LOSSES, ids=lambda row: row.name)
def test_no_more_memory_than_the_results(row: Row) -> None:
    arrays = sampled(row, (2000, 500), -1, "float32")
    params = {**row.variants[0], "reduction": "mean"}
    calls: list[tuple[Callable[..., Any], int]] = [
        (row.op, 0),
        (og.value_and_grad(row.op), arrays[0].nbytes),
    ]
    for call, results in calls:
        call(*arrays, **params)
        tracemalloc.start()
        call(*arrays, **params)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak <= results + 2**20


# -- when ----------------------------------------------------------------------------------------


@needs_llvmlite
def test_small_arrays_run_as_apart_until_a_large_one_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    fresh_engine(monkeypatch)
    function = og.value_and_grad(og.softmax_cross_entropy)
    small, large = np.full((4, 4), 0.25), np.full((200, 200), 0.005)
    function(small, small)
    assert not _engine._known
    function(large, large)
    (fused,) = compiled().values()
    before = len(fused._calls)
    function(small, small)
    assert len(fused._calls) == before + 1


@needs_llvmlite
@pytest.mark.parametrize("op", [og.softmax_cross_entropy, og.squared_error])
def test_warmup_compiles_every_reduction(op: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh_engine(monkeypatch)
    og.warmup(functools.partial(op, reduction="sum"))
    assert len(compiled()) == (4 if op._body.residual else 3)  # the value, with and without it
    og.warmup(op)
    kernels = [one for key, one in compiled().items() if key[3][0] == SEED]
    assert [one.task.parameters["reduction"] for one in kernels] == ["sum", "none", "mean"]
    small = np.ones((4, 4), np.float32)
    for kernel in kernels:
        before = len(kernel._calls)
        og.value_and_grad(op)(small, small, reduction=kernel.task.parameters["reduction"])
        assert len(kernel._calls) == before + 1


@needs_llvmlite
@pytest.mark.usefixtures("at_once")
def test_what_cannot_be_fused_together_keeps_its_kernels() -> None:
    @og.op
    def half_traceable(xp: Any, x: Any, /, *, axis: int = -1) -> Any:
        return xp.exp(x)

    @half_traceable.vjp_rule(keeps="y")
    def _(xp: Any, y: Any, g: Any, /) -> Any:
        return y * xp.sort(g)

    x = np.random.default_rng(0).standard_normal((4, 30))
    assert "it calls sort" in og.which_backend(half_traceable, x).engines["value_and_grad"]
    value, gradient = og.value_and_grad(half_traceable)(x)
    np.testing.assert_array_equal(value, gradient)
    assert [names for _, _, _, names in compiled()] == [("x",)]


@needs_llvmlite
@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize(
    ("gradient", "words"),
    [
        (lambda xp, x, g: xp.sum(x * g, axis=-1), "must return a gradient of shape"),
        (lambda xp, x, g: (x * g, x), "must return 1 gradients"),
    ],
)
def test_wrong_rules_are_refused_as_apart(gradient: Any, words: str) -> None:
    @og.op
    def square(xp: Any, x: Any, /, *, axis: int = -1) -> Any:
        return x * x

    square.vjp_rule(keeps="x")(lambda xp, x, g: gradient(xp, x, g))
    x = np.random.default_rng(0).standard_normal((4, 30))
    with pytest.raises(og.RuleError, match=f"square: the VJP rule {words}"):
        og.value_and_grad(square)(x)


@needs_llvmlite
@pytest.mark.usefixtures("at_once")
def test_a_new_rule_replaces_what_was_compiled() -> None:
    @og.op
    def square(xp: Any, x: Any, /) -> Any:
        return x * x

    square.derivative(lambda xp, x: 2.0 * x)
    x = np.random.default_rng(0).standard_normal((4, 30))
    np.testing.assert_array_equal(og.value_and_grad(square)(x)[1], 2.0 * x)
    square.derivative(lambda xp, x: 3.0 * x)
    np.testing.assert_array_equal(og.value_and_grad(square)(x)[1], 3.0 * x)


@needs_llvmlite
@pytest.mark.usefixtures("at_once")
def test_arrays_may_have_any_name() -> None:
    @og.op
    def scaled(xp: Any, seed: Any, cotangent: Any, /) -> Any:
        return seed * cotangent

    scaled.derivative(lambda xp, seed, cotangent: (cotangent, seed))
    x = np.random.default_rng(0).standard_normal((2, 4, 30))
    value, gradients = og.value_and_grad(scaled, (0, 1))(x[0], x[1])
    for one, other in zip((value, *gradients), (x[0] * x[1], x[1], x[0]), strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(scaled(x[0], x[1]), x[0] * x[1])


@needs_llvmlite
@pytest.mark.usefixtures("at_once")
def test_a_residual_is_computed_where_it_is_kept() -> None:
    x = np.random.default_rng(0).standard_normal((4, 30))
    og.log_softmax(x)
    og.vjp(og.log_softmax, x)
    outputs = [len(call.shapes) for one in compiled().values() for call in one._calls.values()]
    assert sorted(outputs) == [1, 3]


@needs_llvmlite
@pytest.mark.usefixtures("at_once")
def test_a_reduced_loss_with_a_residual() -> None:
    @og.op
    def square(xp: Any, x: Any, /, *, axis: int = -1, reduction: Reduction = "none") -> Any:
        twice = 2.0 * x
        loss = xp.sum(x * x, axis=axis)
        return {"none": loss, "sum": xp.sum(loss)}[reduction], twice

    @square.vjp_rule(keeps="kept")
    def _(xp: Any, kept: Any, g: Any, /, *, axis: int) -> Any:
        return kept * g[..., None]

    x = np.random.default_rng(0).standard_normal((4, 30))
    for value, gradient in (
        og.value_and_grad(square)(x, reduction="sum"),
        apart(square, (x,), {"reduction": "sum"}),
    ):
        assert float(value) == pytest.approx(float(np.sum(x * x)))
        np.testing.assert_array_equal(gradient, 2.0 * x)

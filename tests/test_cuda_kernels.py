"""What the CUDA engine prints, run on the CPU: by g++ and an emulator of blocks and warps."""

import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import opsgrad as og
from opsgrad.annotations import Reduction
from opsgrad.backends import _gpu
from opsgrad.conformance import TABLE, Row
from opsgrad.conformance.checks import (
    check_against_oracle,
    check_value,
    sample,
)
from opsgrad.conformance.target import Target, backend_targets
from opsgrad.fusion import cuda, cuda_source
from opsgrad.fusion.cuda_source import Shape
from opsgrad.fusion.program import schedule
from opsgrad.fusion.tables import Task, _expected, trace_of
from opsgrad.fusion.trace import Input, Kind
from opsgrad.ops._rows import shifted_exp
from tools.cuda_kernels import tasks

FIRST_LINE = cuda._first_line
"""Which `cupy` puts aside, so that what the compiler refuses is raised."""

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed")

ROWS = [row for row in TABLE.values() if row.has_axis]
JOINTLY = [row for row in TABLE.values() if row.name not in ("dense", "prelu")]
SHAPES = {
    "part of a warp": (Shape("rows", 64, 8, 1, 4, 2, peeled=True), 61),
    "whole chunks": (Shape("rows", 64, 8, 1, 4, 2), 64),
    "block": (Shape("rows", 64, 64, 1, 1, 2), 128),
    "read again": (Shape("rows", 64, 64, 1, 1, 0), 128),
    "columns": (Shape("columns", 64, 16, 1, 1, 3, 4), 48),
    "columns read again": (Shape("columns", 64, 16, 1, 1, 0, 4), 48),
}
"""Kernels with few threads, and a length up to which they take rows."""


@pytest.fixture
def target(cupy: Any) -> Target:
    (target,) = backend_targets("cupy")
    return target


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget the kernels of other tests."""
    monkeypatch.setattr(_gpu, "_known", {})
    for row in TABLE.values():
        row.op._planner.describe()


def use(monkeypatch: pytest.MonkeyPatch, shape: Shape) -> None:
    """Take one shape of kernels for everything."""

    def variants(plan: Any) -> Iterator[cuda.Variant]:
        yield cuda.Variant(plan.geometry.kinds, plan.storage, shape, shape.chunks > 0)

    monkeypatch.setattr(cuda._Plan, "variants", variants)


def put(cupy: Any, arrays: Any) -> tuple[Any, ...]:
    return tuple(None if one is None else cupy.array(one) for one in arrays)


def everything(op: Any, arrays: Any, params: dict[str, Any], cupy: Any = None) -> list[Any]:
    """Return value, gradients and tangent, on the stand-in for a device or on NumPy."""
    rng = np.random.default_rng(1)
    floats = [a.dtype.kind == "f" for a in arrays]
    directions = [
        rng.standard_normal(a.shape).astype(a.dtype) if f else None
        for a, f in zip(arrays, floats, strict=True)
    ]
    shape = op(*arrays, **params).shape
    cotangent = rng.standard_normal(shape).astype(arrays[0].dtype)
    if cupy is not None:
        arrays, directions = put(cupy, arrays), put(cupy, directions)
        cotangent = cupy.array(cotangent)
    value, pull = og.vjp(op, *arrays, **params)
    _, tangent = og.jvp(op, tuple(arrays), tuple(directions), **params)
    out = [value, *(one for one in pull(cotangent) if one is not None), tangent]
    return [one.get() if cupy is not None else np.asarray(one) for one in out]


def check(op: Any, arrays: Any, cupy: Any, **params: Any) -> None:
    """Hold kernels to the bodies and rules as NumPy runs them."""
    got, expected = everything(op, arrays, params, cupy), everything(op, arrays, params)
    for one, other in zip(got, expected, strict=True):
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
        tolerance = 64 * float(np.finfo(np.float64 if one.dtype == "f8" else np.float32).eps)
        tolerance = max(tolerance, float(np.finfo(one.dtype).eps))
        scale = float(np.max(np.abs(other), initial=0.0, where=np.isfinite(other)))
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance * scale)


def together(op: Any, arrays: Any, cupy: Any, **params: Any) -> tuple[list[Any], list[Any]]:
    """Return value and gradients from one kernel, and from body and rule by themselves."""
    numbers = tuple(n for n, a in enumerate(arrays) if a.dtype.kind == "f")
    there = put(cupy, arrays)
    value, gradients = og.value_and_grad(op, numbers)(*there, **params)
    other, pull = og.vjp(op, *there, **params)
    pulled = pull(cupy.array(np.ones(other.shape, other.dtype)))
    apart = [other, *(pulled[n] for n in numbers)]
    return [one.get() for one in (value, *gradients)], [one.get() for one in apart]


def assert_together_as_apart(op: Any, arrays: Any, cupy: Any, **params: Any) -> None:
    """Hold one kernel for value and gradients to a kernel for each."""
    eps = float(np.finfo(arrays[0].dtype).eps)
    for one, other in zip(*together(op, arrays, cupy, **params), strict=True):
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
        scale = float(np.max(np.abs(other), initial=0.0, where=np.isfinite(other)))
        np.testing.assert_allclose(one, other, rtol=8 * eps, atol=8 * eps * scale)


# -- every op in every kind of kernel --------------------------------------------------------------


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_op(
    row: Row,
    kind: str,
    target: Target,
    cupy: Any,
    history: Any,
    monkeypatch: pytest.MonkeyPatch,
    rng: np.random.Generator,
) -> None:
    """A ragged row is held to the oracle, others from one entry to the longest to the bodies."""
    shape, longest = SHAPES[kind]
    use(monkeypatch, shape)
    params = dict(row.variants[0])
    across = shape.layout == "columns"
    axis = 1 if across else -1
    params["axis"] = axis
    ragged = longest // 2 + shape.chunk  # odd where rows begin within chunks
    form = (1, ragged, 2) if across else (1 + (ragged < 50), ragged)
    arrays = sample(row, rng, form, axis, "float32")
    check_against_oracle(row, target, arrays, rng, **params)
    assert_together_as_apart(row.op, arrays, cupy, **params)
    for length in (1, longest - 1, longest):
        if shape.peeled or length % shape.chunk == 0:
            form = (2, length, 5) if across else (11, length)
            check(row.op, sample(row, rng, form, axis, "float32"), cupy, **params)
    engines = og.which_backend(row.op, *put(cupy, arrays), **params).engines
    kernels = [role for role, words in engines.items() if words == "a CUDA kernel"]
    assert kernels[-3:] == ["vjp", "jvp", "value_and_grad"]
    if row.op._body.residual:
        kernels.append("forward")
    assert {name for name, *_ in history.launches} == {
        f"opsgrad_{row.name}_{role}" for role in kernels
    }
    assert {threads for *_, threads in history.launches} == {shape.threads}


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize(
    "row", [r for r in TABLE.values() if not r.has_axis and r.name != "dense"], ids=lambda r: r.name
)
def test_elementwise_ops_of_any_size(
    row: Row, dtype: str, cupy: Any, rng: np.random.Generator
) -> None:
    for size in (1, 7, 8, 1023, 4096, 4097):
        check(row.op, sample(row, rng, (size,), dtype=dtype), cupy, **row.variants[0])


LENGTHS_OF = {"float32": (24,), "float64": (26,), "float16": (24, 31)}


@pytest.mark.parametrize("dtype", LENGTHS_OF)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_data_type(row: Row, dtype: str, cupy: Any, rng: np.random.Generator) -> None:
    for length in LENGTHS_OF[dtype]:
        check(row.op, sample(row, rng, (3, length), dtype=dtype), cupy, **row.variants[-1])


def bfloat16(x: Any) -> Any:
    """Return the bits of float32 numbers rounded to bfloat16, to nearest, ties to even."""
    bits = x.view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def wide(bits: Any) -> Any:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def relumax_vjp(xp: Any, x: Any, g: Any, *, axis: int) -> Any:
    return og.relumax.rule("vjp").function(xp, x, g, b=1.0, axis=axis)


def softmax_and_sum(xp: Any, x: Any, g: Any, *, axis: int) -> Any:
    y = og.softmax.body(xp, x, axis=axis)
    return y * g + xp.sum(g, axis=axis, keepdims=True)


def product(xp: Any, x: Any, g: Any, *, axis: int) -> Any:
    return og.sigmoid.body(xp, x) * g


@pytest.mark.parametrize("shape", [(4, 37), (3, 96), (2, 3001), (2, 40, 6)])
@pytest.mark.parametrize("body", [relumax_vjp, softmax_and_sum, product])
def test_bfloat16(
    body: Any,
    shape: tuple[int, ...],
    cupy: Any,
    rng: np.random.Generator,
) -> None:
    """NumPy has no bfloat16: the stand-in holds its bits. Results are those of float32, rounded."""
    parameters = {"axis": 1 - len(shape)}
    given = [bfloat16(rng.standard_normal(shape).astype(np.float32)) for _ in range(2)]
    task = Task(body, ("x", "g"), parameters, np.dtype("f4"), body is product, frozenset())
    fused = cuda.Fused(task, "kernel")
    stored = [_gpu.Bits(cupy.array(one.view(np.int16))) for one in given]
    got = fused(_gpu._launcher(0), stored, "bfloat16").get().view(np.uint16)
    expected = bfloat16(body(np, *map(wide, given), **parameters)).astype(np.int64)
    away = got.astype(np.int64) - expected
    assert np.abs(away).max() <= 1  # where the float32 lies between two
    assert (away == 0).mean() > 0.99


LENGTHS = (1, 2, 3, 4, 31, 32, 33, 63, 64, 65, 1023, 1024, 1025, 2048, 2052, 4096, 4097, 16384)


@pytest.mark.parametrize("length", LENGTHS)
def test_rows_of_any_length(length: int, cupy: Any, history: Any, rng: np.random.Generator) -> None:
    for dtype in ("float32", "float16"):
        x = rng.standard_normal((3, length)).astype(dtype)
        check(og.softmax, (x,), cupy)
    assert history.launches


def test_rows_that_are_read_again(cupy: Any, rng: np.random.Generator) -> None:
    x = rng.standard_normal((2, 70_001)).astype(np.float32)
    check(og.log_softmax, (x,), cupy)
    check(og.relumax, (x.T.copy(),), cupy, axis=0)
    ones = np.zeros((1, 3_000_000), np.float32)
    assert og.softmax(cupy.array(ones)).get()[0, 0] == np.float32(1 / 3e6)


def rows_with_maxima(length: int, dtype: str, rng: np.random.Generator) -> Any:
    """Return rows in which the maximum is found early, late, often, several times, or never."""
    x = rng.standard_normal((10, length)) * 10.0
    x[1] = np.linspace(-300.0, 50.0, length)
    x[2] = np.linspace(0.0, 30.0, length)
    x[3] = x[1, ::-1]
    x[4, [3, 11, length // 2, length - 1]] = 70.0
    x[5, : length // 2] = -np.inf
    x[6] = -60.0
    x[6, length // 3] = 0.0
    x[7] = -np.inf
    x[7, -2:] = 1.0, 2.0
    x[8] = np.where(np.arange(length) < 40, -80.0, x[8])
    x[9] = -1.0
    return x.astype(dtype)


ONLINE = {
    "rows": Shape("rows", 64, 8, 1, 4, 0),
    "peeled": Shape("rows", 64, 8, 1, 4, 0, peeled=True),
    "columns": Shape("columns", 64, 16, 1, 1, 0, 4),
}


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize(
    ("kind", "dtype"), [("rows", "float32"), ("peeled", "float64"), ("columns", "float32")]
)
def test_sums_that_are_found_with_the_maximum(
    kind: str, dtype: str, cupy: Any, target: Target, monkeypatch: pytest.MonkeyPatch, rng: Any
) -> None:
    use(monkeypatch, ONLINE[kind])
    x = rows_with_maxima(523 if kind == "peeled" else 524, dtype, rng)
    axis = -2 if kind == "columns" else -1
    given = x if axis == -1 else np.ascontiguousarray(x.T)
    for op in (og.softmax, og.log_softmax, og.logsumexp):
        check_value(TABLE[op.__name__], op, target, (given,), {"axis": axis})
    labels = np.array([0, 522, 3, 0, 3, 1, 174, 521, 7, 8])
    check(og.softmax_cross_entropy_with_integer_labels, (given, labels), cupy, axis=axis)
    ends = x[:4].copy()
    ends[[0, 1, 2, 3], [0, 300, 522, 17]] = np.nan, np.inf, np.nan, np.inf
    ends = np.concatenate([ends, np.full_like(ends[:1], -np.inf)])
    there = cupy.array(ends if axis == -1 else np.ascontiguousarray(ends.T))
    assert np.isnan(og.softmax(there, axis=axis).get()).all()
    most = og.logsumexp(there, axis=axis).get()
    np.testing.assert_array_equal(most, [np.nan, np.inf, np.nan, np.inf, -np.inf])


def near_the_top(xp: Any, x: Any, *, axis: int) -> Any:
    e = shifted_exp(xp, x, axis)
    return xp.sum(xp.where(x > e.top - 1.0, e.terms, xp.zeros_like(x)), axis=axis)


def times_the_top(xp: Any, x: Any, *, axis: int) -> Any:
    e = shifted_exp(xp, x, axis)
    return xp.sum(e.terms * e.top, axis=axis)


@pytest.mark.parametrize("body", [near_the_top, times_the_top])
def test_other_sums_wait_for_the_maximum(
    body: Any, cupy: Any, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    """They depend on it in more ways than one."""
    use(monkeypatch, ONLINE["rows"])
    task = Task(body, ("x",), {"axis": -1}, np.dtype("f8"), False, frozenset())
    x = rng.standard_normal((3, 524))
    got = cuda.Fused(task, "kernel")(_gpu._launcher(0), put(cupy, (x,)), "float64")
    np.testing.assert_allclose(got.get(), body(np, x, axis=-1), rtol=1e-14)


@pytest.mark.parametrize(
    ("op", "role", "reads"),
    [
        (og.softmax, "value", 2),
        (og.logsumexp, "value", 1),
        (og.logsumexp, "forward", 1),
        (og.logsumexp, "vjp", 1),
        (og.log_softmax, "value", 2),
        (og.softmax_cross_entropy, "value", 2),
        (og.softmax_cross_entropy_with_integer_labels, "value", 1),
        (og.softmax_cross_entropy_with_integer_labels, "value_and_grad", 2),
        (og.nll_loss, "value", 0),
        (og.relumax, "value", 3),
    ],
)
def test_how_often_a_row_is_read(op: Any, role: str, reads: int) -> None:
    task = dict(tasks(op, {}, "float32", -1))[role]
    inputs = [_expected(task, name, Kind.ROW) for name in task.names]
    variant = cuda.Variant(
        tuple(one.kind for one in inputs),
        tuple("int64" if one.dtype == np.int64 else "float32" for one in inputs) + ("float32",) * 3,
        SHAPES["read again"][0],
        keep=False,
    )
    code = cuda.source_of(task, variant, trace_of(task, inputs), "kernel").code
    row = next(number for number, one in enumerate(inputs) if one.kind is Kind.TABLE)
    assert code.count(f"load<CHUNK>(input{row} ") == reads


def test_more_rows_than_blocks(
    cupy: Any, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    """A kernel that has too few blocks takes further turns."""
    monkeypatch.setattr(_gpu, "_known", {})
    monkeypatch.setattr(cuda, "MOST_BLOCKS", 2)
    for shape in ((70, 33), (7, 1500), (5, 40, 70), (20_000,)):
        axis = 1 if len(shape) == 3 else -1
        check(og.softmax, (rng.standard_normal(shape).astype("f4"),), cupy, axis=axis)
    check(og.sigmoid, (rng.standard_normal(9000).astype("f4"),), cupy)


# -- value and gradients together ------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("row", JOINTLY, ids=lambda row: row.name)
def test_value_and_gradients_are_those_of_two_kernels(
    row: Row, dtype: str, cupy: Any, history: Any, rng: np.random.Generator
) -> None:
    # A length for which there are kernels already.
    arrays = sample(row, rng, (3, LENGTHS_OF[dtype][0]), dtype=dtype)
    assert_together_as_apart(row.op, arrays, cupy, **row.variants[0])
    assert history.launches[0][0] == f"opsgrad_{row.name}_value_and_grad"


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize(
    "row", [r for r in TABLE.values() if r.has_reduction], ids=lambda row: row.name
)
def test_only_the_value_is_reduced(
    row: Row, dtype: str, cupy: Any, history: Any, rng: np.random.Generator
) -> None:
    arrays = sample(row, rng, (5, LENGTHS_OF[dtype][0]), dtype=dtype)
    for reduction in ("mean", "sum"):
        history.clear()
        params = {**row.variants[0], "reduction": reduction}
        assert_together_as_apart(row.op, arrays, cupy, **params)
        assert history.launches[0][0] == f"opsgrad_{row.name}_value_and_grad"


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_loss_and_gradient_take_one_launch(cupy: Any, history: Any, dtype: str) -> None:
    loss = og.value_and_grad(og.softmax_cross_entropy_with_integer_labels)
    x, labels = cupy.array(np.zeros((2, 3), dtype)), cupy.array(np.array([0, 2]))
    loss(x, labels)
    history.clear()
    loss(x, labels)
    one = ["opsgrad_softmax_cross_entropy_with_integer_labels_value_and_grad"]
    assert [name for name, *_ in history.kernels] == one
    loss(x, labels, reduction="sum")
    cast = ["astype"] if dtype == "float16" else []
    assert [name for name, *_ in history.kernels] == [*one, *one, "sum", *cast]
    assert history.waits == []


def test_a_wrong_label_spoils_its_row_alone(cupy: Any, history: Any) -> None:
    x, labels = cupy.array(np.zeros((3, 4), "f4")), cupy.array(np.array([0, 4, -1]))
    loss = og.value_and_grad(og.softmax_cross_entropy_with_integer_labels)
    value, gradient = loss(x, labels)
    assert [name for name, *_ in history.kernels] == [history.launches[0][0]]
    assert history.waits == []
    assert np.isnan(value.get()).tolist() == [False, True, True]
    assert np.isnan(gradient.get()).tolist() == [[False] * 4, [True] * 4, [True] * 4]


def test_no_kernel_for_both_leaves_each_its_own(cupy: Any, history: Any) -> None:
    """A gradient by what all rows share is summed over the rows; nothing is left of no entries."""
    x, alpha = cupy.array(np.ones((2, 3), "f4")), cupy.array(np.ones((3,), "f4"))
    _, gradient = og.value_and_grad(og.prelu, 1)(x, alpha)
    assert gradient.shape == (3,)
    assert [name for name, *_ in history.launches] == ["opsgrad_prelu_value"]
    nothing = cupy.array(np.ones((0, 3), "f4"))
    for reduction in ("none", "sum", "mean"):
        _, gradient = og.value_and_grad(og.squared_error)(nothing, nothing, reduction=reduction)
        assert gradient.shape == (0, 3)
    assert len(history.launches) == 1


def test_a_residual_is_not_rounded(cupy: Any, rng: np.random.Generator) -> None:
    parameters = {"axis": -1, "keepdims": True}
    task = Task(
        og.logsumexp.body,
        ("x",),
        parameters,
        np.dtype("f4"),
        elementwise=False,
        labels=frozenset(),
        residual=True,
    )
    x = rng.standard_normal((3, 40)).astype(np.float16)
    results = cuda.Fused(task, "kernel")(_gpu._launcher(0), put(cupy, (x,)), "float16")
    assert [one.dtype for one in results] == ["float16", "float32", "float32"]
    exact = og.logsumexp.body(np, x.astype(np.float64), **parameters)
    np.testing.assert_allclose(results[2].get(), exact[2], rtol=1e-5)


def test_a_reduced_loss_with_a_residual(cupy: Any, history: Any) -> None:
    @og.op
    def square(xp: Any, x: Any, /, *, axis: int = -1, reduction: Reduction = "none") -> Any:
        twice = 2.0 * x
        loss = xp.sum(x * x, axis=axis)
        return loss if reduction == "none" else xp.sum(loss), twice

    @square.vjp_rule(keeps="kept")
    def _(xp: Any, kept: Any, g: Any, /, *, axis: int) -> Any:
        return kept * g[..., None]

    x = np.arange(6.0).reshape(2, 3)
    for one in together(square, (x,), cupy, reduction="sum"):
        assert one[0] == 55.0
        np.testing.assert_array_equal(one[1], 2.0 * x)
    assert {name for name, *_ in history.launches} == {
        f"opsgrad_square_{role}" for role in ("forward", "vjp", "value_and_grad")
    }


# -- arrays as they come ---------------------------------------------------------------------------


def test_strided_and_unaligned_arrays(cupy: Any, rng: np.random.Generator) -> None:
    host = rng.standard_normal((41, 64)).astype(np.float32)
    there = cupy.array(host)
    for take in (
        lambda a: a[::2],
        lambda a: a[:, ::3],
        lambda a: a[::-1, ::-1],
        lambda a: a[1:, 1:],
        lambda a: a.T,
        lambda a: a[3],
        lambda a: a[3, 1:],
        lambda a: a.reshape(-1)[3:] if isinstance(a, np.ndarray) else cupy.reshape(a, (-1,))[3:],
    ):
        for op in (og.softmax, og.sigmoid):
            np.testing.assert_allclose(
                op(take(there)).get(), op(take(host)), rtol=1e-5, err_msg=op.__name__
            )


def test_what_runs_as_written(cupy: Any, history: Any) -> None:
    """Arrays without entries, and those that no kernel takes, run the body."""
    empty = og.softmax(cupy.array(np.zeros((3, 0), np.float32)))
    assert empty.shape == (3, 0)
    x, alpha = np.ones((2, 3, 4), np.float32), np.ones((3, 1), np.float32)
    assert og.prelu(cupy.array(x), cupy.array(alpha)).shape == x.shape
    assert not history.launches


def test_which_backend_says_what_runs(cupy: Any) -> None:
    x = cupy.array(np.ones((2, 3), np.float32))
    choice = og.which_backend(og.softmax, x)
    for role in ("value", "vjp", "jvp", "value_and_grad"):
        assert choice.engines[role] == "a CUDA kernel"
    engines = og.which_backend(og.dense, x, cupy.array(np.ones((3, 4), np.float32))).engines
    because = "because no kernel can be made of it: it calls matmul"
    assert engines["value"] == f"the body as it is written, {because}"
    assert engines["value_and_grad"] == f"value, then vjp, {because}"


@pytest.mark.usefixtures("fresh")
def test_a_parameter_that_changes_all_the_time_is_not_compiled_each_time(
    cupy: Any, history: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_gpu, "MOST_PARAMETERS", 3)
    x = cupy.array(np.ones((2, 3), np.float32))
    for step in range(5):
        og.relumax(x, b=1.0 + step / 8.0)
    assert len(history.launches) == 3
    words = og.which_backend(og.relumax, x, b=0.3).engines["value"]
    assert "it has been compiled for 3 sets of parameters already" in words


@pytest.mark.usefixtures("fresh")
def test_a_kernel_that_spills_gives_way(
    cupy: Any, history: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    spilled = iter([8, 8, 0])
    monkeypatch.setattr(cupy.cuda.driver, "funcGetAttribute", lambda *_: next(spilled))
    x = cupy.array(np.ones((2, 1000), np.float32))
    og.softmax(x)
    og.softmax(x)
    assert [threads for *_, threads in history.launches] == [256, 256]


def test_kernels_are_kept_on_disk(
    cupy: Any, history: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setenv("OPSGRAD_CACHE_DIR", str(tmp_path / "kernels"))
    x = cupy.array(np.ones((2, 3), np.float32))
    for _ in range(2):
        monkeypatch.setattr(_gpu, "_known", {})
        og.softmax._planner.describe()
        og.softmax(x)
    assert len(history.compiled) == 1
    assert "-ftz=false" in history.compiled[0][1]


def refuse(cupy: Any, monkeypatch: pytest.MonkeyPatch, path: Any, text: str) -> None:
    """Let the compiler take no kernel that has a piece of text in it."""
    compile_using_nvrtc = cupy.cuda.compiler.compile_using_nvrtc

    def refusing(source: str, options: Any) -> Any:
        cupy.history.compiled.append((source, options))
        if text in source:
            raise RuntimeError('kern.cu(7): error: identifier "x" is undefined\n\n1 error')
        return compile_using_nvrtc(source, options)

    monkeypatch.setattr(cupy.cuda.compiler, "compile_using_nvrtc", refusing)
    monkeypatch.setattr(cuda, "_first_line", FIRST_LINE)
    monkeypatch.setenv("OPSGRAD_CACHE_DIR", str(path / "kernels"))


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_what_the_compiler_refuses_runs_as_written(
    dtype: str, cupy: Any, history: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Any, rng: Any
) -> None:
    refuse(cupy, monkeypatch, tmp_path, "")
    x, labels = rng.standard_normal((3, 24)).astype(dtype), np.array([0, 5, 23])
    loss = og.softmax_cross_entropy_with_integer_labels
    there = cupy.array(x), cupy.array(labels)
    check(og.relumax, (x,), cupy)
    for reduction in ("none", "mean"):
        value, gradient = og.value_and_grad(loss)(*there, reduction=reduction)
        right, other = og.value_and_grad(loss)(x, labels, reduction=reduction)
        np.testing.assert_allclose(value.get(), right, rtol=4 * np.finfo(dtype).eps)
        np.testing.assert_allclose(gradient.get(), other, atol=4 * np.finfo(dtype).eps)
    assert history.launches == []
    engines = og.which_backend(og.relumax, cupy.array(x)).engines
    because = "because its kernel was not compiled: RuntimeError: "
    because += 'kern.cu(7): error: identifier "x" is undefined'
    assert engines["value"] == f"the body as it is written, {because}"
    assert engines["vjp"] == f"the rule as it is written, {because}"
    engines = og.which_backend(loss, *there).engines
    assert engines["value_and_grad"] == f"value, then vjp, {because}"
    # Nobody asks the compiler twice.
    tries = len(history.compiled)
    check(og.relumax, (x,), cupy)
    og.value_and_grad(loss)(*there)
    assert len(history.compiled) == tries


@pytest.mark.usefixtures("fresh")
def test_what_the_compiler_refuses_gives_way(
    cupy: Any, history: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    """Where it takes another kernel for these rows, that one runs."""
    refuse(cupy, monkeypatch, tmp_path, "#define THREADS 128\n")
    x = cupy.array(np.ones((2, 1000), np.float32))
    assert np.all(og.softmax(x).get() == np.float32(1e-3))
    assert [threads for *_, threads in history.launches] == [256]
    assert og.which_backend(og.softmax, x).engines["value"] == "a CUDA kernel"


# -- functions -------------------------------------------------------------------------------------


def run(cupy: Any, body: Any, *arrays: Any) -> Any:
    """Run a function of tables as an elementwise kernel."""
    dtype = arrays[0].dtype
    names = tuple(f"x{k}" for k in range(len(arrays)))
    task = Task(body, names, {}, dtype, elementwise=True, labels=frozenset())
    fused = cuda.Fused(task, "kernel")
    return fused(_gpu._launcher(0), put(cupy, arrays), str(dtype)).get()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_powers(cupy: Any, dtype: str, rng: np.random.Generator) -> None:
    special = [0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, 0.5, -2.0, 3.0, 2.5, -2.5, 1e-40]
    x, y = (a.ravel().astype(dtype) for a in np.meshgrid(special, special))
    with np.errstate(all="ignore"):
        expected, got = x**y, run(cupy, lambda xp, x, y: xp.pow(x, y), x, y)
    np.testing.assert_allclose(got, expected, rtol=2 * np.finfo(dtype).eps)
    known = ~np.isnan(expected)
    np.testing.assert_array_equal(np.signbit(got)[known], np.signbit(expected)[known])
    x = np.exp(rng.uniform(-80, 80, 20_000)).astype(dtype)
    y = rng.uniform(-3, 3, x.size).astype(dtype)
    with np.errstate(all="ignore"):
        exact = np.power(x.astype(np.longdouble), y.astype(np.longdouble))
    inside = (exact < np.finfo(dtype).max) & (exact > np.finfo(dtype).tiny)
    x, y, exact = x[inside], y[inside], exact[inside]
    got = run(cupy, lambda xp, x, y: xp.pow(x, y), x, y)
    error = np.abs(got - exact) / np.spacing(exact.astype(dtype))
    assert error.max() < (0.51 if dtype == "float32" else 1.0)


def test_powers_of_two_are_exact(cupy: Any) -> None:
    for dtype, least, most in (("float32", -149, 128), ("float64", -1074, 1024)):
        x = np.arange(least - 2, most + 2).astype(dtype)
        with np.errstate(all="ignore"):
            expected = np.ldexp(np.ones_like(x), x.astype(int))
        got = run(cupy, lambda xp, x: xp.pow(xp.full_like(x, 2.0), x), x)
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_quotients_by_one_number_of_a_row(cupy: Any, dtype: str, rng: np.random.Generator) -> None:
    """They are at most one unit off at the ends of the range, and right in the middle."""
    info = np.finfo(dtype)
    size = np.exp2(rng.uniform(info.minexp - info.nmant, info.maxexp, (200, 30)))
    x = (size * rng.choice([-1, 1], size.shape)).astype(dtype)
    x[:, :6] = [0.0, -0.0, np.inf, -np.inf, np.nan, info.tiny]
    y = np.exp2(rng.uniform(info.minexp - info.nmant, info.maxexp, (200,))).astype(dtype)
    y[:8] = [0.0, -0.0, np.inf, -np.inf, np.nan, info.max, info.smallest_subnormal, -3.0]
    task = Task(
        lambda xp, x, y: x / y[..., None], ("x", "y"), {"axis": -1}, x.dtype, False, frozenset()
    )
    task = task._replace(function=lambda xp, x, y, axis: x / y[..., None])
    fused = cuda.Fused(task, "kernel")
    got = fused(_gpu._launcher(0), put(cupy, (x, y)), dtype).get()
    with np.errstate(all="ignore"):
        expected = x / y[:, None]
    np.testing.assert_array_equal(np.isfinite(got), np.isfinite(expected))
    np.testing.assert_array_equal(got[~np.isfinite(got)], expected[~np.isfinite(got)])
    finite = np.isfinite(expected)
    off = np.abs(got[finite] - expected[finite]) / np.spacing(np.abs(expected[finite]))
    assert off.max() <= 1.0
    middle = finite & (np.abs(x) > 1e-20) & (np.abs(expected) > 1e-20)
    np.testing.assert_array_equal(got[middle], expected[middle])
    np.testing.assert_array_equal(np.signbit(got[:, :2]), np.signbit(expected[:, :2]))


# -- planted mistakes ------------------------------------------------------------------------------

MISTAKES = {
    "a wrong shuffle": ("int step = LANES / 2; step", "int step = LANES / 4; step", "block"),
    "a barrier left out": (
        "  __syncthreads();\n  place = 0;",
        "  place = 0;",
        "block",
    ),
    "one room for all turns": ("turn % 2 * REDUCTIONS", "0 * REDUCTIONS", "block"),
    "a barrier left out in columns": (
        "    __syncthreads();\n    if (threadIdx.x < step",
        "    if (threadIdx.x < step",
        "columns",
    ),
    "a mask that is one off": ("(u32)column < (u32)", "(u32)column <= (u32)", "part of a warp"),
    "an entry before the row": ("(u32)column < (u32)length", "column < length", "part of a warp"),
    "a row that begins late": ("column >= 0 &&", "column >= -1 &&", "part of a warp"),
    "a chunk that ends late": (
        "column + N <= length",
        "column + N <= length + 1",
        "part of a warp",
    ),
    "a mask that is one short": ("column < length", "column < length - 1", "block"),
    "a chunk that is one off": ("count >= N", "count >= N - 1", "flat"),
    "rows that are one off": ("mine < rows", "mine <= rows", "part of a warp"),
    "a piece that begins too late": ("CHUNK - before;", "CHUNK - before + 1;", "part of a warp"),
    "maxima that are forgotten": ("? parts.once_below * weight", "? (real)0", "online"),
    "sums that are not scaled": ("parts.below *= scale", "parts.below *= 1", "online"),
    "another base than is said": ("part.below * scale", "part.below", "online"),
}


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("mistake", MISTAKES)
def test_planted_mistakes_are_caught(
    mistake: str, cupy: Any, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    before, after, kind = MISTAKES[mistake]
    right = cuda_source.printed

    def wrong(*arguments: Any) -> Any:
        source = right(*arguments)
        assert before in source.code
        return source._replace(code=source.code.replace(before, after))

    if kind == "flat":
        op, arrays, params = og.sigmoid, (rng.standard_normal(4091).astype("f4"),), {}
    elif kind == "online":
        use(monkeypatch, ONLINE["rows"])
        op, arrays, params = og.softmax, (rows_with_maxima(524, "f4", rng),), {}
    else:
        use(monkeypatch, SHAPES[kind][0])
        form = (2, 29, 3) if kind == "columns" else (11, 29 if kind == "part of a warp" else 125)
        op, params = og.softmax, {"axis": 1} if kind == "columns" else {}
        arrays = (rng.standard_normal(form).astype("f4"),)
    check(op, arrays, cupy, **params)
    monkeypatch.setattr(_gpu, "_known", {})
    op._planner.describe()
    monkeypatch.setattr(cuda, "printed", wrong)
    with pytest.raises(AssertionError):
        check(op, arrays, cupy, **params)


def test_threads_that_wait_for_each_other_are_noticed(cupy: Any) -> None:
    source = cuda_source.Source(
        "stuck",
        'extern "C" __global__ void stuck(long long, long long, long long) {'
        "  if (threadIdx.x % 2) __syncthreads(); else __shfl_xor_sync(0xffffffffu, 1.0f, 1); }",
    )
    kernel = _gpu._launcher(0).compiled(source)
    with pytest.raises(AssertionError, match="stuck: its threads wait for each other"):
        kernel((1,), (32,), (np.int64(0),) * 3)


def test_addresses_that_do_not_fit_are_noticed(cupy: Any) -> None:
    source = cuda_source.Source(
        "shifted",
        "struct __align__(16) Four { float at[4]; };"
        'extern "C" __global__ void shifted(Four* x) { x[threadIdx.x] = Four(); }',
    )
    kernel = _gpu._launcher(0).compiled(source)
    x = cupy.array(np.ones(64, np.float32))
    kernel((1,), (1,), (x,))
    with pytest.raises(AssertionError, match="shifted: an address is not a multiple"):
        kernel((1,), (1,), (x[1:],))


def test_what_all_rows_share_begins_elsewhere(cupy: Any, rng: np.random.Generator) -> None:
    check(og.prelu, (rng.standard_normal((3, 41)), rng.standard_normal(41)), cupy)
    check(og.prelu, (rng.standard_normal((3, 44)), rng.standard_normal(44)), cupy)


# -- the choice of kernels -------------------------------------------------------------------------


def chosen(shape: tuple[int, ...], dtype: str, chip: int, op: Any = og.softmax, **more: Any) -> Any:
    from types import SimpleNamespace

    def array() -> Any:
        size = cuda_source.SIZES[dtype]
        host = np.broadcast_to(np.zeros((), f"V{size}"), shape)
        strides = tuple(size * int(np.prod(shape[k + 1 :])) for k in range(len(shape)))
        flags = SimpleNamespace(c_contiguous=True)
        return SimpleNamespace(
            shape=shape, dtype=dtype, strides=strides, size=host.size, flags=flags
        )

    launcher: Any = SimpleNamespace(capability=chip, address=lambda array: more.get("offset", 0))
    axis = more.get("axis", -1)
    parameters = {"axis": axis} if "axis" in op.signature.parameters else {}
    task = Task(op.body, ("x",), parameters, np.dtype("f4"), op.elementwise, frozenset())
    arrays = [array()]
    geometry = cuda.table_of(task, arrays)
    assert geometry is not None
    traced = trace_of(task, [Input(Kind.TABLE, np.dtype("f4"))])
    plan = cuda._Plan(task, geometry, traced, dtype, arrays, launcher)
    variant = next(plan.variants())
    return variant.shape, plan.blocks(variant.shape)


def test_the_kernel_fits_the_rows() -> None:
    shape, blocks = chosen((1000, 64), "float32", 80)
    assert (shape, blocks) == (Shape("rows", 128, 8, 1, 4, 2), 63)
    assert chosen((1000, 64), "bfloat16", 80)[0] == Shape("rows", 128, 4, 1, 8, 2)
    assert chosen((9, 1000), "float32", 80)[0] == Shape("rows", 128, 32, 1, 4, 8)
    assert chosen((9, 1001), "float32", 80)[0] == Shape("rows", 128, 32, 1, 4, 8, peeled=True)
    assert chosen((9, 1021), "float32", 80)[0].chunks == 8
    assert chosen((9, 1022), "float32", 80)[0].reach >= 1022
    assert chosen((9, 31), "float32", 80)[0] == Shape("rows", 128, 16, 1, 1, 2)
    assert chosen((9, 30), "bfloat16", 80)[0].chunk == 2
    assert chosen((9, 1000), "float32", 80, offset=8)[0] == Shape("rows", 128, 32, 1, 2, 16)
    assert chosen((9, 1000), "float32", 80, offset=4)[0].chunk == 1
    shape, blocks = chosen((9, 4096), "float32", 80)
    assert (shape.group, shape.threads, blocks) == (256, 256, 9)
    assert chosen((9, 32768), "float32", 80)[0].chunks > 0
    assert chosen((9, 131072), "float32", 80)[0].chunks == 0
    shape, blocks = chosen((9, 131072), "float32", 90)
    assert (shape.cluster, blocks) == (4, 36)
    assert chosen((9, 1 << 20), "float32", 90)[0].chunks == 0
    shape, blocks = chosen((9, 500, 70), "float32", 90, axis=-2)
    assert (shape.layout, shape.wide, blocks) == ("columns", 32, 27)
    assert chosen((9, 500, 1), "float32", 90, axis=-2)[0].layout == "rows"
    assert chosen((9, 50_000, 70), "float32", 90, axis=-2)[0].chunks == 0


def test_arrays_of_more_than_2_to_the_31_entries() -> None:
    shape, blocks = chosen((1 << 16, 1 << 17), "float32", 90)
    assert blocks == (1 << 16) * shape.cluster
    shape, blocks = chosen((3 << 31,), "float32", 90, op=og.sigmoid)
    assert blocks * shape.reach == 3 << 31


def test_what_is_computed_again_needs_no_registers() -> None:
    traced = trace_of(
        Task(og.softmax.body, ("x",), {"axis": -1}, np.dtype("f4"), False, frozenset()),
        [Input(Kind.TABLE, np.dtype("f4"))],
    )
    assert "keep" in str(schedule(traced))
    assert "keep" not in str(schedule(traced, keep=False))

"""Bodies and rules as row programs, and what the CPU engine makes of them."""

import ctypes
import functools
import math
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from engine import fresh_engine

import opsgrad as og
from opsgrad.backends import _engine
from opsgrad.conformance import TABLE, Row
from opsgrad.fusion import cpu, threads
from opsgrad.fusion.program import SHORT, schedule, with_picks
from opsgrad.fusion.tables import Task
from opsgrad.fusion.trace import Input, Kind, UntraceableError, trace

FLOAT = np.dtype(np.float32)
TABLE_OF_FLOATS = Input(Kind.TABLE, FLOAT)

needs_llvmlite = pytest.mark.skipif(
    _engine.why_unavailable() is not None, reason="llvmlite is not installed"
)


# -- traces --------------------------------------------------------------------------------------


def traced(body: Callable[..., Any], *inputs: Input, **parameters: Any) -> Any:
    return trace(body, inputs or (TABLE_OF_FLOATS,), parameters, FLOAT)


UNTRACEABLE: dict[str, Callable[..., Any]] = {
    "it calls matmul": lambda xp, x: xp.matmul(x, x),
    "it decides by the values of an array": lambda xp, x: x if xp.sum(x, axis=-1) > 0 else -x,
    "it computes with the number of columns": lambda xp, x: x * float(x.shape[-1]),
    "it computes with the number of rows": lambda xp, x: x * math.prod(x.shape),
    "it picks out a part of an array": lambda xp, x: x[..., 0],
    "its max runs along another axis than the op": lambda xp, x: xp.max(x, axis=0),
    "it works on with a sum over all rows": lambda xp, x: 2.0 * xp.sum(x, axis=0),
    "its sum runs along None": lambda xp, x: xp.sum(x),
    "it changes the shape of an array": lambda xp, x: xp.reshape(x, (-1,)),
    "it broadcasts an array in a way of its own": lambda xp, x: x + xp.sum(x, axis=-1),
    "it returns 1.0": lambda xp, x: 1.0,
    "tracing it raised": lambda xp, x: x.no_such_thing,
}


@pytest.mark.parametrize("words", UNTRACEABLE)
def test_what_cannot_be_traced_says_so(words: str) -> None:
    with pytest.raises(UntraceableError, match=words):
        traced(UNTRACEABLE[words])


def test_equal_steps_are_one() -> None:
    graph = traced(lambda xp, x: xp.exp(x) + xp.exp(x) * xp.exp(x)).graph
    assert sum(node.kind == "exp" for node in graph.nodes) == 1


def test_zeros_of_either_sign_are_two() -> None:
    graph = traced(lambda xp, x: xp.where(x > 0, x * 0.0, x * -0.0)).graph
    assert sum(node.kind == "constant" for node in graph.nodes) == 3 - 1


SOFTMAX = """\
phase 0, along the row:
  s1 = max(input0)
phase 1, along the row:
    v2 = subtract(input0, s1)
    v3 = exp(v2)
    keep v3 in output0
  s4 = sum(v3)
phase 2, along the row:
    v3 as kept
    v5 = divide(v3, s4)
    output0 = v5"""


def plain_softmax(xp: Any, x: Any) -> Any:
    e = xp.exp(x - xp.max(x, axis=-1, keepdims=True))
    return e / xp.sum(e, axis=-1, keepdims=True)


def test_a_program_prints_itself() -> None:
    assert str(schedule(traced(plain_softmax))) == SOFTMAX


def test_a_program_leaves_nothing_out() -> None:
    """What stands in a result without a step along the row is printed, and in the key, too."""

    def doubled(factor: float) -> Any:
        return schedule(
            traced(lambda xp, x: xp.zeros_like(x) + factor * xp.max(x, axis=-1, keepdims=True))
        )

    one, other = doubled(2.0), doubled(3.0)
    assert str(one) != str(other)
    assert one.key != other.key
    assert one.key == doubled(2.0).key


def test_without_scratch_memory_things_are_computed_again() -> None:
    def body(xp: Any, x: Any) -> Any:
        e = xp.exp(x)
        return xp.sum(e / xp.sum(e, axis=-1, keepdims=True), axis=-1)

    roomy, tight = schedule(traced(body)), schedule(traced(body), scratch=False)
    assert roomy.scratch == 1
    assert tight.scratch == 0
    assert "keep" not in str(tight)


# -- the engine ----------------------------------------------------------------------------------


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compile for arrays of any size, with nothing compiled before."""
    fresh_engine(monkeypatch, 1)


def plain(op: Any, arrays: tuple[Any, ...], params: dict[str, Any]) -> tuple[Any, ...]:
    """Return value and gradients from the bodies as they are written."""
    with pytest.MonkeyPatch.context() as patch:
        fresh_engine(patch, math.inf)
        return both(op, arrays, params)


def both(op: Any, arrays: tuple[Any, ...], params: dict[str, Any]) -> tuple[Any, ...]:
    value, pull = og.vjp(op, *arrays, **params)
    cotangent = np.cos(np.arange(value.size)).reshape(value.shape).astype(value.dtype)
    return value, *pull(cotangent)


def agree(fused: tuple[Any, ...], expected: tuple[Any, ...]) -> None:
    for one, other in zip(fused, expected, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            assert one.shape == other.shape
            assert one.dtype == other.dtype
            tolerance = 64 * float(np.finfo(one.dtype).eps)
            scale = float(np.max(np.abs(other), initial=0.0, where=np.isfinite(other)))
            np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance * scale)


LENGTHS = (1, 2, 15, 16, 17, 63, 64, 65, 100, 127, SHORT, SHORT + 1, 1537)
ROWS = 9  # two fours, and one that is left over


@needs_llvmlite
@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("row", TABLE.values(), ids=TABLE)
def test_every_op_agrees_with_its_body_for_rows_of_any_length(row: Row, dtype: str) -> None:
    for length in LENGTHS if row.has_axis else LENGTHS[2:]:
        rng = np.random.default_rng(length)
        arrays = row.sample(rng, (ROWS, length), -1)
        arrays = [a if a.dtype.kind in "iu" else a.astype(dtype) for a in arrays]
        params = dict(row.variants[0])
        agree(both(row.op, tuple(arrays), params), plain(row.op, tuple(arrays), params))


@needs_llvmlite
@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("shape", [(5, 70), (7, 3), (4, 6, 33), (2, 5, 100)])
@pytest.mark.parametrize("row", [r for r in TABLE.values() if r.has_axis], ids=lambda r: r.name)
def test_every_axis(row: Row, shape: tuple[int, ...]) -> None:
    for axis in range(-len(shape), 0):
        arrays = tuple(row.sample(np.random.default_rng(axis % 7), shape, axis))
        params = dict(row.variants[0]) | {"axis": axis}
        agree(both(row.op, arrays, params), plain(row.op, arrays, params))


@needs_llvmlite
@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("row", [r for r in TABLE.values() if r.has_axis], ids=lambda r: r.name)
def test_rows_whose_entries_are_pages_apart(row: Row, dtype: str) -> None:
    params = dict(row.variants[-1]) | {"axis": 0}
    for shape in ((cpu.LONG, 1024), (129, 3072)):
        arrays = tuple(
            a if a.dtype.kind in "iu" else a.astype(dtype)
            for a in row.sample(np.random.default_rng(0), shape, 0)
        )
        agree(both(row.op, arrays, params), plain(row.op, arrays, params))


@needs_llvmlite
def test_sums_across_rows_stay_short() -> None:
    x = np.random.default_rng(0).random((1 << 13, 1024)).astype(np.float32)
    out = run(lambda xp, a, /, *, axis: xp.sum(a, axis=axis), x, axis=-2)
    exact = x.sum(axis=0, dtype=np.float64)
    assert np.max(np.abs(out - exact) / np.spacing(out)) < 8


@needs_llvmlite
@pytest.mark.usefixtures("at_once")
def test_strided_arrays_are_taken_in() -> None:
    x = np.random.default_rng(0).standard_normal((40, 60))
    for view in (x[::2], x[:, ::3], x[::-1, ::-1], x.T, np.broadcast_to(x[0], (5, 60))):
        for op in (og.softmax, og.sigmoid, og.relumax):
            agree(both(op, (view,), {}), plain(op, (view,), {}))


@needs_llvmlite
@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize(
    "size", [1, 100, cpu.PIECE - 1, cpu.PIECE, cpu.PIECE + 1, 3 * cpu.PIECE + 5]
)
def test_elementwise_ops_of_any_size(size: int) -> None:
    x = np.random.default_rng(0).standard_normal(size).astype(np.float32)
    agree(both(og.sigmoid, (x,), {}), plain(og.sigmoid, (x,), {}))


def run(
    function: Callable[..., Any],
    *arrays: Any,
    axis: int = -1,
    labels: frozenset[str] = frozenset(),
) -> Any:
    """Run a function of arrays called a, b, … through the engine."""
    names = tuple("abcdef"[: len(arrays)])
    task = Task(function, names, {"axis": axis}, arrays[0].dtype, False, labels)

    out = cpu.Fused(task, 0)(*arrays)
    assert out is not None, "the engine did not take it"
    return out


@needs_llvmlite
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("length", [1, 10, 16, SHORT, SHORT + 1, 700])
@pytest.mark.parametrize("rows", [1, 4, 7])
def test_no_entry_beside_the_row_is_touched(dtype: str, length: int, rows: int) -> None:
    def body(xp: Any, x: Any, out: Any, /, *, axis: int) -> Any:
        return xp.exp(x) / xp.sum(xp.exp(x), axis=axis, keepdims=True), xp.max(x, axis=axis)

    x = np.random.default_rng(0).standard_normal((rows, length)).astype(dtype)
    calls = cpu.Fused(Task(body, ("a", "b"), {"axis": -1}, x.dtype, False, frozenset()), 0)
    calls(x, x)
    (call,) = calls._calls.values()
    assert call is not None
    guarded = [np.full(count + 128, 7.0, dtype) for count in (rows * length, rows)]
    places = [x.ctypes.data, x.ctypes.data, *(one[64:].ctypes.data for one in guarded)]
    pointers = (ctypes.c_void_p * 4)(*places)
    threads.run(call.kernel.address, rows, length, pointers, call.strides, call.scratch, call.grain)
    for one in guarded:
        assert (one[:64] == 7.0).all()
        assert (one[-64:] == 7.0).all()
    np.testing.assert_allclose(guarded[1][64:-64], x.max(axis=-1))


@needs_llvmlite
@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("shape", "slopes"),
    [
        ((1, 5), (5,)),
        ((37, 7), (7,)),
        ((1000, 64), (64,)),
        ((70, 300), (300,)),
        ((5, 6, 50), (50,)),
        ((400, 10), ()),
        ((40, 10), (1,)),
        ((40, 1), (1, 1)),
        ((6, 5, 4), (5, 1)),
    ],
)
def test_gradients_of_slopes_are_summed_over_the_rows(
    shape: tuple[int, ...], slopes: tuple[int, ...], dtype: str
) -> None:
    rng = np.random.default_rng(0)
    arrays = tuple(rng.standard_normal(one).astype(dtype) for one in (shape, slopes))
    agree(both(og.prelu, arrays, {}), plain(og.prelu, arrays, {}))


@needs_llvmlite
@pytest.mark.usefixtures("at_once")
def test_sums_over_many_rows_keep_their_digits() -> None:
    x = np.full((100_000, 3), -0.1, np.float32)
    _, pull = og.vjp(og.prelu, x, np.ones(3, np.float32))
    dalpha = pull(np.ones_like(x))[1]
    assert dalpha is not None
    exact = -100_000 * float(np.float32(0.1))
    assert np.max(np.abs(dalpha / exact - 1)) < 4 * np.finfo(np.float32).eps


@needs_llvmlite
@pytest.mark.usefixtures("at_once")
def test_a_number_that_stands_for_a_table_has_a_gradient_of_its_shape() -> None:
    x = np.broadcast_to(np.float32(-2.0), (40, 50))
    agree(both(og.prelu, (x, np.float32(0.5)), {}), plain(og.prelu, (x, np.float32(0.5)), {}))


DIVISORS = (
    1.0,
    -3.0,
    7e-30,
    0.1,
    1e38,
    3e38,
    1e-38,
    1e-44,
    0.0,
    -0.0,
    math.inf,
    -math.inf,
    math.nan,
)
DIVIDENDS = (0.0, -0.0, 1.0, 3.0, -7.0, 1e-45, 1e-38, -2e-30, 3e38, math.inf, -math.inf, math.nan)


@needs_llvmlite
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("length", [20, SHORT + 30])
@pytest.mark.parametrize("axis", [-1, 0])
@np.errstate(all="ignore")
def test_division_by_a_number_of_the_row(dtype: str, length: int, axis: int) -> None:
    exact = np.float128 if hasattr(np, "float128") else np.float64
    rng = np.random.default_rng(0)
    divisors = np.concatenate([np.array(DIVISORS), rng.standard_normal(50)]).astype(dtype)
    x = rng.standard_normal((divisors.size, length)).astype(dtype)
    x[:, : len(DIVIDENDS)] = DIVIDENDS
    x[:, -5:] = divisors[:, None] * np.arange(5, dtype=dtype)
    table = x if axis == -1 else np.ascontiguousarray(x.T)
    task = Task(
        _divided, ("a", "b"), {"axis": axis - table.ndim * (axis == 0)}, x.dtype, False, frozenset()
    )
    out = cpu.Fused(task, 0)(table, divisors)
    out = out if axis == -1 else out.T
    plain = x / divisors[:, None]
    true = x.astype(exact) / divisors[:, None].astype(exact)
    np.testing.assert_array_equal(np.isnan(out), np.isnan(plain))
    special = ~np.isfinite(plain) | (plain == 0)
    np.testing.assert_array_equal(out[special], plain[special])
    zero = plain == 0
    np.testing.assert_array_equal(np.signbit(out[zero]), np.signbit(plain[zero]))
    info = np.finfo(dtype)
    tiny = np.abs(plain) < info.smallest_normal / info.eps
    exactly = ~special & ~tiny & (true == plain)
    np.testing.assert_array_equal(out[exactly], plain[exactly])
    error = np.abs(out.astype(exact) - true) / np.spacing(np.abs(plain)).astype(exact)
    assert np.max(error[~special & ~tiny]) < 0.5001
    assert np.max(error[~special & tiny], initial=0.0) <= 1.0


def _divided(xp: Any, x: Any, divisor: Any, /, *, axis: int) -> Any:
    return x / xp.expand_dims(divisor, axis=axis)


@needs_llvmlite
@pytest.mark.parametrize("axis", [-1, -2])
@pytest.mark.parametrize("length", [1, 10, SHORT + 1])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_entry_of_a_label_is_picked(dtype: str, length: int, axis: int) -> None:
    def body(xp: Any, x: Any, label: Any, /, *, axis: int) -> Any:
        mask = xp.arange(x.shape[axis], dtype=label.dtype) == label[..., None]
        mask = mask & (x < xp.max(x, axis=axis, keepdims=True))
        return xp.sum(xp.where(mask, xp.exp(x), xp.zeros_like(x)), axis=axis)

    rng = np.random.default_rng(0)
    x = rng.standard_normal((11, length)).astype(dtype)
    labels = rng.integers(0, length, 11)
    labels[:5] = -1, length, -(2**40), 2**40 + 1, x[4].argmax()
    expected = np.zeros(11)
    for row, label in enumerate(labels):
        if 0 <= label < length and x[row, label] < x[row].max():
            expected[row] = np.exp(x[row, label])
    table = x if axis == -1 else np.ascontiguousarray(x.T)
    out = run(body, table, labels, axis=axis, labels=frozenset("b"))
    np.testing.assert_allclose(out, expected, rtol=1e-6)
    traced = trace(
        body, [Input(Kind.TABLE, x.dtype), Input(Kind.ROW, labels.dtype)], {"axis": -1}, x.dtype
    )
    assert "sum" not in str(schedule(with_picks(traced)))
    assert "sum" in str(schedule(traced))


@needs_llvmlite
@pytest.mark.usefixtures("at_once")
def test_long_rows_take_no_scratch_memory() -> None:
    x = np.random.default_rng(0).standard_normal((2, 300_001)).astype(np.float32)
    agree(both(og.relumax, (x,), {}), plain(og.relumax, (x,), {}))


@needs_llvmlite
@pytest.mark.usefixtures("at_once")
def test_sums_of_long_rows_keep_their_digits() -> None:
    x = np.zeros((1, 10_000_000), np.float32)
    assert og.softmax(x)[0, 0] == np.float32(1e-7)


@needs_llvmlite
@pytest.mark.usefixtures("at_once")
def test_an_op_of_ones_own_is_fused() -> None:
    @og.op
    def clipped_softmax(xp: Any, x: Any, /, *, temperature: float = 1.0, axis: int = -1) -> Any:
        z = xp.clip(x / temperature, -8.0, 8.0)
        e = xp.exp(z - xp.max(z, axis=axis, keepdims=True))
        return e / xp.sum(e, axis=axis, keepdims=True)

    @clipped_softmax.vjp_rule(keeps=("x", "y"))
    def _(xp: Any, x: Any, y: Any, g: Any, /, *, temperature: float, axis: int) -> Any:
        inside = (x > -8.0 * temperature) & (x < 8.0 * temperature)
        slope = y * (g - xp.sum(y * g, axis=axis, keepdims=True)) / temperature
        return xp.where(inside, slope, xp.zeros_like(slope))

    x = np.random.default_rng(0).standard_normal((50, 90))
    params = {"temperature": 0.1}
    agree(both(clipped_softmax, (x,), params), plain(clipped_softmax, (x,), params))
    assert "compiled" in og.which_backend(clipped_softmax, x).engines["value"]
    assert len(_engine._known) == 2


@needs_llvmlite
def test_small_arrays_run_as_written_until_a_large_one_comes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fresh_engine(monkeypatch)
    small, large = np.zeros((4, 4), np.float32), np.zeros((200, 200), np.float32)
    og.softmax(small)
    assert not _engine._known
    og.softmax(large)
    (fused,) = _engine._known.values()
    calls = len(fused._calls)
    og.softmax(small)
    assert len(fused._calls) == calls + 1


def test_without_llvmlite_bodies_run_as_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_engine, "why_unavailable", lambda: "llvmlite is not installed")
    og.softmax._planner.describe()  # forget the plans
    try:
        x = np.zeros((300, 300))
        assert og.softmax(x)[0, 0] == pytest.approx(1 / 300)
        assert "llvmlite is not installed" in og.which_backend(og.softmax, x).engines["value"]
    finally:
        og.softmax._planner.describe()


@needs_llvmlite
@pytest.mark.timeout(1800)  # 50 s where the CPU is free: kernels that must be compiled come on top
def test_the_conformance_suite_passes_through_the_engine() -> None:
    chosen = "points or values or properties"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", chosen]
    command += ["--pyargs", "opsgrad.conformance", "--backend", "numpy"]
    settings = os.environ | {"OPSGRAD_FUSE_FROM": "1"}
    run = subprocess.run(
        command, check=False, env=settings, capture_output=True, text=True, timeout=1800
    )
    assert run.returncode == 0, run.stdout[-5000:]


@needs_llvmlite
def test_threads_that_ask_at_the_same_time_find_the_same_kernel(
    monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    """A thread that comes while another looks for a kernel does not run the body instead."""
    fresh_engine(monkeypatch)
    og.softmax(np.zeros((300, 300)))  # compiles
    x = rng.normal(size=(3, 260))
    meanwhile: list[np.ndarray] = []

    class Known(dict[Any, Any]):
        def get(self, key: Any, default: Any = None) -> Any:
            found = super().get(key, default)
            if not meanwhile:
                meanwhile.append(x)  # the other thread's place
                with ThreadPoolExecutor(1) as pool:
                    meanwhile[0] = pool.submit(og.softmax, x).result()
            return found

    monkeypatch.setattr(_engine, "_known", Known(_engine._known))
    og.softmax._planner.describe()  # forget that there is a kernel
    found = og.softmax(x)
    np.testing.assert_array_equal(meanwhile[0], found)
    np.testing.assert_array_equal(og.softmax(x), found)


@needs_llvmlite
def test_warmup_compiles(monkeypatch: pytest.MonkeyPatch) -> None:
    fresh_engine(monkeypatch)
    og.warmup([og.softmax, functools.partial(og.relumax, b=2.0)], dtypes=["float32"])
    assert len(_engine._known) == 2 * 3
    assert all(isinstance(one, cpu.Fused) and one._compiled for one in _engine._known.values())
    og.warmup(og.dense)
    with pytest.raises(TypeError, match="warmup: takes an op"):
        og.warmup([np.exp])
    known = dict(_engine._known)
    with pytest.raises(og.DTypeError, match="warmup: dtypes must be of float32 and float64, got"):
        og.warmup(og.sigmoid, dtypes=["float32", "float16"])
    assert _engine._known == known, "something was compiled before the check"
    with pytest.raises(TypeError, match="warmup: takes single ops"):
        og.warmup(og.chain(og.relu))


@needs_llvmlite
@pytest.mark.usefixtures("at_once")
def test_a_parameter_that_changes_all_the_time_is_not_compiled_each_time() -> None:
    x = np.random.default_rng(0).standard_normal((4, 30))
    for step in range(_engine.MOST_PARAMETERS + 5):
        b = 1.0 + step / 8.0
        agree((og.relumax(x, b=b),), (plain(og.relumax, (x,), {"b": b})[0],))
    compiled = [one for one in _engine._known.values() if isinstance(one, cpu.Fused)]
    assert len(compiled) == _engine.MOST_PARAMETERS


@needs_llvmlite
@pytest.mark.usefixtures("at_once")
def test_where_llvm_refuses_the_body_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    from opsgrad.fusion import compiler

    def refuse(*arguments: Any) -> Any:
        raise RuntimeError("no memory that may be run")

    monkeypatch.setattr(compiler, "load_all", refuse)
    x = np.random.default_rng(0).standard_normal((4, 30))
    agree(both(og.softmax, (x,), {}), plain(og.softmax, (x,), {}))


@pytest.mark.parametrize(
    ("number", "error"), [(0, og.ParameterError), (-1, og.ParameterError), (1.5, og.ArgumentError)]
)
def test_a_bad_number_of_threads_is_refused(number: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="set_num_threads: number must be"):
        og.set_num_threads(number)

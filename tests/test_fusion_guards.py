"""Phases that kernels skip in rows that do not need them."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import opsgrad as og
from opsgrad.backends import _engine
from opsgrad.fusion import cpu, threads
from opsgrad.fusion.program import SHORT, TILE, UNROLL, WIDTH, Guard, Program, schedule
from opsgrad.fusion.tables import Task
from opsgrad.fusion.trace import INTEGER, Input, Kind, Trace, trace

FLOAT = np.dtype(np.float32)
TABLE = Input(Kind.TABLE, FLOAT)
ROW = Input(Kind.ROW, FLOAT)

needs_llvmlite = pytest.mark.skipif(
    _engine.why_unavailable() is not None, reason="llvmlite is not installed"
)


# -- the schedule --------------------------------------------------------------------------------


def along(reduction: Callable[..., Any]) -> Callable[[Any], Any]:
    return functools.partial(reduction, axis=-1, keepdims=True)


def program(body: Callable[..., Any], *inputs: Input, **parameters: Any) -> Program:
    return schedule(trace(body, inputs or (TABLE,), parameters, FLOAT))


def guards(body: Callable[..., Any], *inputs: Input, **parameters: Any) -> list[Guard | None]:
    return [phase.guard for phase in program(body, *inputs, **parameters).phases]


GUARDED = """\
phase 0, along the row:
  s1 = sum(input0)
  s5 = less(s1, 0.0)
phase 1, along the row, where not s5:
    v2 = multiply(input0, s1)
  s3 = max(v2)
  s6 = where(s5, s1, s3)
  output0 = s6"""


def guarded(xp: Any, x: Any) -> Any:
    total = along(xp.sum)(x)
    rest = along(xp.max)(x * total)
    return xp.where(total < 0, total, rest)


def test_a_program_tells_what_it_skips() -> None:
    assert str(program(guarded)) == GUARDED


def test_what_is_skipped_is_in_the_key() -> None:
    one = program(guarded)
    other = one._replace(phases=tuple(phase._replace(guard=None) for phase in one.phases))
    assert one.key != other.key


def test_what_is_used_elsewhere_too_is_not_skipped() -> None:
    def used_by_both_sides(xp: Any, x: Any) -> Any:
        total = along(xp.sum)(x)
        rest = along(xp.max)(x * total)
        return xp.where(total < 0, rest, -rest)

    def used_by_another_result(xp: Any, x: Any) -> Any:
        total = along(xp.sum)(x)
        rest = along(xp.max)(x * total)
        return xp.where(total < 0, total, rest), rest

    def used_by_the_condition(xp: Any, x: Any) -> Any:
        total = along(xp.sum)(x)
        rest = along(xp.max)(x * total)
        return xp.where(rest < 0, total, rest)

    def found_with_another(xp: Any, x: Any) -> Any:
        total = along(xp.sum)(x)
        rest, other = along(xp.max)(x * total), along(xp.min)(x * total)
        return xp.where(total < 0, total, rest) + other

    for body in (
        used_by_both_sides,
        used_by_another_result,
        used_by_the_condition,
        found_with_another,
    ):
        assert guards(body) == [None, None], body.__name__


def test_a_condition_along_the_row_skips_nothing() -> None:
    def body(xp: Any, x: Any) -> Any:
        total = along(xp.sum)(x)
        return xp.where(x < 0, x, along(xp.max)(x * total))

    assert guards(body) == [None, None, None]


def test_what_is_written_down_is_not_skipped() -> None:
    """The terms are kept where the phase that finds their sum has computed them."""

    def body(xp: Any, x: Any) -> Any:
        top = along(xp.max)(x)
        terms = xp.exp(x - top)
        return terms / xp.where(top > 0, along(xp.sum)(terms), top)

    assert guards(body) == [None, None, None]
    assert "keep" in str(program(body))


def test_conditions_of_labels_skip_nothing() -> None:
    def body(xp: Any, x: Any, label: Any) -> Any:
        total = xp.sum(x, axis=-1)
        return xp.where(label < 0, xp.zeros_like(total), total)

    assert guards(body, TABLE, Input(Kind.ROW, INTEGER)) == [None]


@pytest.mark.parametrize("op", [og.l2_norm, og.l1_norm], ids=str)
def test_norms_and_their_gradients_read_ordinary_rows_once(op: Any) -> None:
    parameters = {"axis": -1, "keepdims": False}
    value = guards(op._body.function, **parameters)
    pull = guards(op.rule("vjp").function, TABLE, ROW, ROW, **parameters)
    assert sum(guard is None for guard in value) == 1
    assert sum(guard is None for guard in pull) == 1
    assert len(pull) == 2


# -- kernels -------------------------------------------------------------------------------------

WAYS = {
    "along": ((7, SHORT + 100), -1),
    "short": ((4 * UNROLL + 3, 30), -1),
    "across": ((30, 7 * UNROLL * WIDTH[FLOAT] + 21), -2),
    "tiled": ((cpu.LONG + 1, 3 * TILE * UNROLL * WIDTH[FLOAT]), -2),
}
"""The shapes and axes that kernels take in different ways."""


@pytest.fixture
def alone() -> Iterator[None]:
    """Have one thread compute, so that it is known which rows are computed together."""
    before = threads.get_num_threads()
    og.set_num_threads(1)
    yield
    og.set_num_threads(before)


def groups(way: str, dtype: Any) -> list[range]:
    """Return which rows are computed together, so that a phase is skipped for all or none."""
    (shape, axis), width = WAYS[way], WIDTH[np.dtype(dtype)]
    rows = shape[0] if axis == -1 else shape[1]
    size = {"along": 1, "short": UNROLL, "across": UNROLL * width, "tiled": TILE * UNROLL * width}
    rest = {"across": width}.get(way, 1)
    whole = rows - rows % size[way]
    return [
        *(range(first, first + size[way]) for first in range(0, whole, size[way])),
        *(range(first, min(first + rest, rows)) for first in range(whole, rows, rest)),
    ]


def run(function: Callable[..., Any], *arrays: Any, **parameters: Any) -> Any:
    """Run a body of x, or a rule of x, y and the cotangent, through the engine."""
    names = ("x", "y", "cotangent")[: len(arrays)]
    task = Task(function, names, parameters, arrays[0].dtype, False, frozenset())
    out = cpu.Fused(task, 0)(*arrays)
    assert out is not None, "the engine did not take it"
    return out


@needs_llvmlite
@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("holds", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("way", WAYS)
def test_a_phase_is_skipped_where_no_row_at_hand_needs_it(
    way: str, dtype: str, holds: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sum is a result here, and so it shows where the phase has been skipped: it is 0."""

    def body(xp: Any, x: Any, /, *, axis: int) -> Any:
        top = xp.max(x, axis=axis, keepdims=True)
        sign = xp.where(top > 0, top, -top)
        return xp.sum(x - top, axis=axis), xp.squeeze(sign, axis=axis)

    def with_guard(traced: Trace, *, scratch: bool) -> Program:
        plain = schedule(traced, scratch=scratch)
        (condition,) = (n for n, node in enumerate(plain.graph.nodes) if node.kind == "greater")
        first, second = plain.phases
        return plain._replace(phases=(first, second._replace(guard=Guard(condition, holds))))

    monkeypatch.setattr(cpu, "schedule", with_guard)
    shape, axis = WAYS[way]
    together = groups(way, dtype)
    needing = [one[-1] for one in together[::3]] + [one[len(one) // 2] for one in together[1::3]]
    rows = max(together[-1]) + 1
    sign = np.full(rows, -1.0 if holds else 1.0)
    sign[needing] *= -1
    x = np.random.default_rng(0).uniform(1, 2, shape).astype(dtype)
    x *= np.expand_dims(sign, axis).astype(dtype)

    out = run(body, x, axis=axis)
    expected = np.sum(x - np.max(x, axis=axis, keepdims=True), axis=axis)
    for one in together:
        if set(one).isdisjoint(needing):
            expected[one] = 0.0
    assert np.count_nonzero(expected == 0.0) >= rows // 4
    np.testing.assert_allclose(out[0], expected, rtol=1e-5)


def ends_of_the_range(dtype: Any) -> list[float]:
    info = np.finfo(dtype)
    huge, tiny = float(info.max) / 64, float(info.smallest_normal)
    return [huge, tiny, tiny * float(info.eps) * 8, 0.0, np.sqrt(huge) * 8, np.sqrt(tiny) / 8]


@needs_llvmlite
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("way", WAYS)
def test_norms_of_rows_beside_others_of_another_size(way: str, dtype: str) -> None:
    shape, axis = WAYS[way]
    rng = np.random.default_rng(0)
    x = rng.uniform(0.25, 0.5, shape).astype(dtype)
    rows = x if axis == -1 else x.T
    sizes = ends_of_the_range(dtype)
    for number, one in enumerate(groups(way, dtype)):
        if number % 3 < 2:
            rows[one[len(one) // 3]] *= sizes[number % len(sizes)]
    y = run(og.l2_norm._body.function, x, axis=axis, keepdims=False)
    pull = og.l2_norm.rule("vjp").function
    gradient = run(pull, x, y, np.ones_like(y), axis=axis, keepdims=False)
    exact, slope = norm_of_rows(rows)
    eps = float(np.finfo(dtype).eps)
    np.testing.assert_allclose(
        y, exact, rtol=8 * eps, atol=float(np.finfo(dtype).smallest_subnormal)
    )
    np.testing.assert_allclose(gradient if axis == -1 else gradient.T, slope, rtol=8 * eps)


def norm_of_rows(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the norms of rows and their gradients, from entries that are brought near 1."""
    top = np.max(rows, axis=-1, keepdims=True)
    _, exponent = np.frexp(np.where(top == 0, 1, top))
    ratio = np.ldexp(rows.astype(np.float64), -exponent)
    norm = np.sqrt(np.sum(ratio**2, axis=-1, keepdims=True))
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = np.where(norm == 0, 0.0, ratio / norm)
    return np.ldexp(norm, exponent)[..., 0], slope

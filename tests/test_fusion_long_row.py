"""A long row in parts: the results of the whole, wherever it is cut."""

from typing import Any

import numpy as np
import pytest
from engine import fresh_engine

import opsgrad as og
from opsgrad.backends import _engine
from opsgrad.conformance import TABLE, Row
from opsgrad.conformance.checks import sample
from opsgrad.fusion import cpu, long_row, threads
from opsgrad.fusion.program import SHORT

pytestmark = pytest.mark.skipif(
    _engine.why_unavailable() is not None, reason="llvmlite is not installed"
)

PART = 64
LENGTHS = (PART, PART + 1, 2 * PART - 1, 2 * PART, 3 * PART + 5)
ROWWISE = [row for row in TABLE.values() if not row.op.elementwise and row.name != "dense"]
WHOLE = {"nll_loss", "softmax_cross_entropy_with_integer_labels", "multiclass_hinge_loss"}
"""They look for the label's place along the row."""


@pytest.fixture(autouse=True)
def short_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have rows cut that are short enough for a test."""
    monkeypatch.setattr(long_row, "FROM", PART)
    monkeypatch.setattr(long_row, "PART", PART)


def results(row: Row, arrays: list[Any], **parameters: Any) -> list[np.ndarray]:
    """Return the value and the gradients of a call."""
    y, pull = og.vjp(row.op, *arrays, **parameters)
    cotangent = np.random.default_rng(3).normal(size=y.shape).astype(y.dtype)
    return [np.asarray(y), *(g for g in pull(cotangent) if g is not None)]


def cuts() -> list[Any]:
    """Return what was compiled for rows in parts, None for what cannot be."""
    fused = [one for one in _engine._known.values() if isinstance(one, cpu.Fused)]
    return [cut for one in fused for cut in one._cuts.values()]


def whole(monkeypatch: pytest.MonkeyPatch, row: Row, arrays: list[Any], **parameters: Any) -> Any:
    """Return the results of kernels for whole rows."""
    with monkeypatch.context() as patch:
        patch.setattr(long_row, "FROM", 1 << 40)
        fresh_engine(patch, 1)
        return results(row, arrays, **parameters)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("row", ROWWISE, ids=lambda row: row.name)
def test_parts_give_what_the_whole_gives(
    row: Row, dtype: str, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    parameters = row.variants[0]
    for length in LENGTHS:
        arrays = sample(row, rng, (length,), dtype=dtype)
        expected = whole(monkeypatch, row, arrays, **parameters)
        fresh_engine(monkeypatch, 1)
        found = results(row, arrays, **parameters)
        assert len(cuts()) == 2
        assert all((cut is None) == (row.name in WHOLE) for cut in cuts())
        for one, other in zip(found, expected, strict=True):
            # Both are within the goals; only the order in which numbers are added differs.
            scale = np.max(np.abs(other), initial=np.finfo(dtype).tiny)
            np.testing.assert_allclose(one, other, rtol=0, atol=8 * np.finfo(dtype).eps * scale)
            assert one.dtype == other.dtype
            assert one.shape == other.shape


@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["softmax", "log_softmax", "logsumexp", "relumax", "l2_norm"])
def test_a_special_value_in_one_part_is_the_rows(
    name: str, special: float, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    row, length = TABLE[name], 3 * PART + 5
    parameters = row.variants[0]
    for place in (0, PART - 1, PART, length - 1):
        x = rng.normal(size=length)
        x[place] = special
        expected = whole(monkeypatch, row, [x], **parameters)
        fresh_engine(monkeypatch, 1)
        for one, other in zip(results(row, [x], **parameters), expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-13, atol=1e-16)


def test_an_extreme_in_one_part_is_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The maximum, which the other parts must be scaled by, may be in any of them."""
    fresh_engine(monkeypatch, 1)
    for place in range(0, 4 * PART, PART - 1):
        x = np.zeros(4 * PART)
        x[place] = 800.0
        assert og.logsumexp(x) == 800.0
        assert og.softmax(x)[place] == 1.0
        x[place] = 1e300
        assert og.l2_norm(x) == 1e300
    assert all(cuts())


def test_the_number_of_threads_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    fresh_engine(monkeypatch, 1)
    monkeypatch.setattr(long_row, "PART", SHORT + 1)  # shorter ones are taken four at a time
    before = threads.get_num_threads()
    x = rng.normal(size=100 * SHORT + 3)
    found = []
    try:
        for number in (1, 2, 3, 8):
            og.set_num_threads(number)
            found.append([one.tobytes() for one in results(TABLE["log_softmax"], [x])])
    finally:
        og.set_num_threads(before)
    assert all(cuts())
    assert all(one == found[0] for one in found)


def test_a_pass_that_the_row_does_not_need_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    fresh_engine(monkeypatch, 1)
    passes: list[int] = []
    run = long_row._Cut.run

    def counted(cut: Any, kernel: int) -> None:
        passes.append(cut.parts)
        run(cut, kernel)

    monkeypatch.setattr(long_row._Cut, "run", counted)
    x = np.full(4 * PART, 3.0)
    assert og.l2_norm(x) == 3.0 * np.sqrt(4 * PART)
    assert passes.count(4) == 1
    assert og.l2_norm(x * 2.0**1000) == 3.0 * np.sqrt(4 * PART) * 2.0**1000
    assert passes.count(4) == 1 + 2


@pytest.mark.parametrize("keepdims", [False, True])
def test_shapes_are_the_callers(keepdims: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh_engine(monkeypatch, 1)
    x = np.ones((1, 1, 2 * PART, 1), np.float32)
    y = og.logsumexp(x, axis=2, keepdims=keepdims)
    assert y.shape == ((1, 1, 1, 1) if keepdims else (1, 1, 1))
    assert og.softmax(x, axis=2).shape == x.shape
    assert og.softmax(x[..., 0]).shape == x.shape[:-1]
    assert og.softmax(x[0, 0, ::-1, 0])[0] == np.float32(1 / (2 * PART))
    assert all(cuts())


def test_a_loss_of_one_row_is_cut_too(
    monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    logits, targets = rng.normal(size=(1, 3 * PART)), np.full((1, 3 * PART), 1 / (3 * PART))
    expected = og.value_and_grad(og.softmax_cross_entropy)(logits, targets, reduction="mean")
    fresh_engine(monkeypatch, 1)
    found = og.value_and_grad(og.softmax_cross_entropy)(logits, targets, reduction="mean")
    assert all(cuts())
    assert cuts()
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-13, atol=1e-17)


def test_several_rows_are_not_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    fresh_engine(monkeypatch, 1)
    og.softmax(np.zeros((2, 2 * PART)))
    og.softmax(np.zeros((2 * PART, 2)), axis=0)
    assert not cuts()

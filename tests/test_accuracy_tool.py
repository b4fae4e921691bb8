"""The accuracy report: well formed, and it notices an op that is not exact."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import opsgrad as og
from opsgrad.conformance import TABLE
from opsgrad.conformance.accuracy.__main__ import main
from opsgrad.conformance.accuracy.exact import check_against_reference, errors, exact
from opsgrad.conformance.accuracy.measure import measure
from opsgrad.conformance.accuracy.report import Report, short
from opsgrad.conformance.checks import errors_in_ulp, sample

pytestmark = pytest.mark.skipif(
    np.finfo(np.longdouble).nmant <= np.finfo(np.float64).nmant,
    reason="this platform has no extended precision",
)
OPS = ("sigmoid", "logsumexp")


@og.op
def naive_sigmoid(xp: Any, x: Any, /) -> Any:
    return 1.0 / (1.0 + xp.exp(-x))


@naive_sigmoid.derivative
def _(xp: Any, x: Any, /) -> Any:
    y = 1.0 / (1.0 + xp.exp(-x))
    return y * (1.0 - y)


def test_quick_report(tmp_path: Path) -> None:
    page, data = tmp_path / "deep" / "accuracy.md", tmp_path / "accuracy.json"
    options = ["--quick", "--processes", "1", "--output", str(page), "--json", str(data)]
    assert main([*options, "--ops", *OPS]) == 0
    tables = [part for part in page.read_text("utf-8").split("\n\n") if part.startswith("|")]
    assert len(tables) >= 3  # activations, the softmax family, the libraries' functions
    for table in tables:
        assert len({line.count("|") for line in table.strip().splitlines()}) == 1
    measured = json.loads(data.read_text("utf-8"))
    assert {"cpu", "versions", "records", "functions"} == measured.keys()
    found = {(r["op"], r["role"], r["dtype"], r["contestant"]) for r in measured["records"]}
    for op in OPS:
        for role in ("value", "vjp", "jvp"):
            assert {(op, role, "float32", "numpy"), (op, role, "float64", "numpy")} <= found


def test_an_inexact_op_is_reported() -> None:
    (records,) = measure(
        ["sigmoid"], quick=True, dtypes=["float64"], replaced={"sigmoid": naive_sigmoid}
    )
    ours = [r for r in records if r.contestant == "numpy" and r.role == "vjp"]
    assert [r.fails for r in ours] == [True]
    assert ours[0].ulp > 1e10
    assert ours[0] in Report(records, [], "20").failing
    page = Report(records, [], "20").markdown()
    assert "✗" in page
    assert ours[0].worst in page


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("row", TABLE.values(), ids=TABLE)
def test_fast_oracle(row: Any, dtype: str, rng: np.random.Generator) -> None:
    for params in row.variants:
        arrays = sample(row, rng, (2, 4), dtype=dtype)
        if row.name == "prelu":
            arrays[1] = np.broadcast_to(arrays[1], arrays[0].shape).copy()
        check_against_reference(row, arrays, params)


def test_errors_are_counted_as_the_suite_counts_them(rng: np.random.Generator) -> None:
    x = rng.standard_normal((3, 5))
    right = exact(TABLE["softmax"], [x], {}).value
    got = np.exp(x) / np.sum(np.exp(x), axis=-1, keepdims=True) * (1 + 1e-15)
    number = np.asarray(right.number.astype(float), dtype=object)
    suites = errors_in_ulp(got, number, number)
    assert errors(got, right).max() == pytest.approx(suites, abs=0.51)  # rounding to float64


def test_errors_that_are_not_numbers() -> None:
    right = exact(TABLE["sigmoid"], [np.array([0.0, 1.0, 2.0])], {}).value
    assert errors(np.array([0.5, np.nan, np.inf]), right).tolist() == [0.0, np.inf, np.inf]
    nan, inf = np.nan, np.inf
    for got, number in (([1.0, nan], [1.0, 2.0]), ([1.0, 2.0], [1.0, nan]), ([inf], [-inf])):
        assert errors_in_ulp(np.array(got), np.array(number), np.ones(len(got))) == inf
    same = np.array([nan, inf, -inf, 1.0])
    assert errors_in_ulp(same, same, np.ones(4)) == 0.0


@pytest.mark.parametrize(
    ("ulp", "text"),
    [(0.5, "0.5"), (3.456, "3.46"), (1234.5, "1234"), (3.2e7, "3·10⁷"), (np.inf, "∞")],
)
def test_short_numbers(ulp: float, text: str) -> None:
    assert short(ulp) == text

"""The benchmarks: every op has its contestants, and they compute what ours does."""

import importlib.util
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.cases import ACROSS, ROLES, VALUE, Case, cases, inputs
from benchmarks.contestants import OURS, as_numpy, contestants
from benchmarks.peers import TEXTBOOK
from benchmarks.report import Report
from benchmarks.timing import MOST_ROUNDS, time_by_turns
from opsgrad.conformance import TABLE


def small_cases() -> Iterator[Case]:
    """Yield values along the last axis, and the other roles along the first where there is one."""
    for case in cases(shapes=[(64, 10), ACROSS], dtypes=["float64"]):
        if case.axis == (-1 if case.role == VALUE or not case.row.has_axis else 0):
            yield Case(case.op, case.role, (4, 6), case.dtype, case.axis, case.parameters)


@pytest.mark.parametrize("case", list(small_cases()), ids=lambda case: f"{case.name}-{case.role}")
def test_contestants_agree(case: Case) -> None:
    given = inputs(case)
    with interpreted():
        results = {name: as_numpy(call()) for name, call in contestants(case, given).items()}
    ours = results.pop(OURS)
    assert ours
    assert results
    for name, theirs in results.items():
        assert [a.shape for a in theirs] == [a.shape for a in ours], name
        for one, other in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-9, err_msg=name)


def interpreted() -> Any:
    """Let JAX, where it is, run op by op: to compile every case takes half a minute."""
    if importlib.util.find_spec("jax") is None:
        return nullcontext()
    import jax

    return jax.disable_jit()


def test_every_op_has_its_cases() -> None:
    assert TEXTBOOK.keys() == TABLE.keys() == {case.op for case in cases()}
    assert {case.role for case in cases()} == set(ROLES)


def test_contestants_take_turns() -> None:
    order: list[str] = []
    calls = {name: lambda name=name: order.append(name) for name in "ab"}
    times = time_by_turns(calls, 0.01)
    assert {name: timing.least > 0 for name, timing in times.items()} == {"a": True, "b": True}
    turns = [one for one, before in zip(order, ["", *order], strict=False) if one != before]
    assert turns[:6] == list("ababab")
    assert len(turns) <= 2 * (MOST_ROUNDS + 2)


def group(op: str, role: str, milliseconds: dict[str, float]) -> dict[str, Any]:
    return {
        "op": op,
        "role": role,
        "shape": [512, 512],
        "axis": -1,
        "dtype": "float32",
        "bytes": 2**21,
        "seconds": {
            name: {"first": 1e-3 * t, "least": 1e-3 * t, "middle": 2e-3 * t, "rounds": 3}
            for name, t in milliseconds.items()
        },
    }


def results() -> dict[str, Any]:
    copies = {"copy": 0.2, "copy, two threads": 0.1}
    speed = [
        group("sigmoid", "value", {"opsgrad": 1.0, "SciPy": 3.0, "SciPy, out=": 0.5, **copies}),
        group("lp_norm, 3.0", "VJP", {"opsgrad": 0.5, "JAX": 1.0, **copies}),
    ]
    starts = {"import numpy": {"first": 0.2, "least": 0.1}}
    parts = {
        "speed": speed,
        "scaling": speed[:1],
        "overhead": [
            {"op": "relu", "seconds": 3e-6, "body": 1e-6, "overhead": 2e-6, "compiled": 5e-7}
        ],
        "starts": starts | {"import opsgrad": {"first": 0.2, "least": 0.15}},
        "memory": [{"op": "relu", "role": "value", "inputs": 2**20, "outputs": 0, "extra": 9}],
    }
    machine = {"cpu": "a processor", "versions": {"numpy": "2.0"}, "threads": 1}
    return {name: {**machine, name: part} for name, part in parts.items()}


def test_report() -> None:
    report = Report(results())
    sigmoid, norm = report.cases
    assert (sigmoid.ratio, sigmoid.is_behind) == (0.5, True)
    assert (norm.ratio, norm.is_behind) == (2.0, False)
    page = report.page()
    assert "| all | both | 2 | 1.00 |" in page
    assert "| sigmoid | value | 512×512 | float32 | 1 | 0.5 | 0.1 | 0.50 ✗ | 10.0 |" in page
    assert "Importing opsgrad takes 1.50 times" in page
    for table in (part for part in page.split("\n\n") if part.startswith("|")):
        assert len({line.count("|") for line in table.strip().splitlines()}) == 1
    assert "## Scaling" not in Report({"speed": results()["speed"]}).page()


def test_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from benchmarks import picture

    picture.draw(Report(results()).cases, tmp_path / "deep" / "picture.png")
    assert (tmp_path / "deep" / "picture.png").stat().st_size > 1000

"""Single contestants under pytest-benchmark: ``pytest benchmarks -k "softmax and VJP and 64x10"``.

These are not timed by turns: for ratios that hold, use ``python -m benchmarks``.
"""

from typing import Any

import pytest

from benchmarks.cases import Case, cases, inputs
from benchmarks.contestants import BODY, OURS, PEERS, contestants


def _name(case: Case) -> str:
    return f"{case.name}-{case.role}-{case.size.replace('×', 'x')}-{case.dtype}"


@pytest.mark.parametrize("contestant", [OURS, BODY, *PEERS])
@pytest.mark.parametrize("case", list(cases()), ids=_name)
def test_speed(benchmark: Any, case: Case, contestant: str) -> None:
    calls = contestants(case, inputs(case))
    if contestant not in calls:
        pytest.skip(f"there is no {contestant} for {case.name}, {case.role}")
    benchmark.group = _name(case)
    benchmark(calls[contestant])

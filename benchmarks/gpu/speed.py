"""Timing all goals in the time that there is."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from time import perf_counter
from typing import Any

from benchmarks.gpu import contestants
from benchmarks.gpu.contestants import COMPILED, COPY, OURS, UnableError
from benchmarks.gpu.goals import Goal, least_bytes
from benchmarks.gpu.timing import Gpu

LARGE_COPY = 2**32
"""The bytes that the copy moves with whose rate goals are compared."""
MOST_SECONDS, LEAST_SECONDS = 1.5, 0.2
"""What timing a goal takes at most and at least, beside compiling."""
KERNELS = ("a CUDA kernel", "CuPy's kernel")
"""How the words for what runs a goal end, on CuPy's arrays and on PyTorch's."""
FOR_COMPILER = 3.0
"""The seconds that a goal has to have for PyTorch to compile it, if its target can do without."""

Row = dict[str, Any]


def large_copy(gpu: Gpu) -> Row:
    """Return the rate of a copy of many bytes, counting those read and those written."""
    timing = gpu.times({COPY: contestants.copies(LARGE_COPY)}, 1.0)[COPY]
    gpu.free()
    return {"bytes": LARGE_COPY, "seconds": timing.middle, "rate": LARGE_COPY / timing.middle}


def measure(gpu: Gpu, goals: Sequence[Goal], end: float) -> Iterator[Row]:
    """Yield what was measured of each goal, or why nothing was, until the clock reads `end`."""
    for number, goal in enumerate(goals):
        share = (end - perf_counter()) / (len(goals) - number)
        if share < LEAST_SECONDS:
            yield _row(goal) | {"unable": "the time was over"}
            continue
        try:
            yield _row(goal) | _measured(gpu, goal, share)
        except UnableError as problem:
            yield _row(goal) | {"unable": str(problem)}
        except Exception as problem:  # one goal that breaks must not take the others along
            yield _row(goal) | {"unable": _words(problem), "broken": True}
        gpu.free()


def _row(goal: Goal) -> Row:
    case = goal.case
    return {
        "op": case.name,
        "role": case.role,
        "size": case.size,
        "dtype": case.dtype,
        "bytes": least_bytes(case),
        "target": {name: one for name, one in goal.target._asdict().items() if one},
    }


def _measured(gpu: Gpu, goal: Goal, share: float) -> Row:
    case, target = goal.case, goal.target
    arrays = contestants.sets(case)
    ours = contestants.ours(case, arrays)
    expected = contestants.reference(case, arrays[0])
    row: Row = {"wrong": contestants.why_wrong(ours[0](), expected, str(case.dtype))}
    row["engine"] = contestants.engine(case, arrays[0])
    if not row["engine"].endswith(KERNELS):
        row["wrong"] = row["wrong"] or "it runs without a kernel"
    del expected
    calls = {OURS: ours, COPY: contestants.copies(least_bytes(case))}
    row["without"] = {}
    makers = contestants.others(case, arrays)
    if COMPILED in makers and share < FOR_COMPILER and not target.ahead_of_compiled:
        del makers[COMPILED]
        row["without"][COMPILED] = "no time was left to compile"
    for name, make in makers.items():
        try:
            made = make()
            made[0]()
            calls[name] = made
        except Exception as problem:  # a peer that cannot do it takes no part
            row["without"][name] = _words(problem)
    times = gpu.times(calls, min(MOST_SECONDS, max(LEAST_SECONDS, share / 2)))
    row["seconds"] = {name: asdict(one) for name, one in times.items()}
    if target.host is not None:
        row["host"] = {name: gpu.host_time(one) for name, one in calls.items()}
    if target.replay is not None:
        row["replay"] = gpu.replay_time(ours)
    return row


def _words(problem: Exception) -> str:
    text = str(problem).strip() or "no words"
    return f"{type(problem).__name__}: {text.splitlines()[0][:200]}"

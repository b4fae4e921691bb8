"""Timing contestants by turns, so that whatever slows the machine down slows them all."""

import timeit
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Any

LEAST_SAMPLE = 5e-4
"""The seconds that one sample takes at least: shorter calls are repeated."""
LEAST_ROUNDS, MOST_ROUNDS = 3, 300


@dataclass(frozen=True)
class Timing:
    """The time of one call, in seconds."""

    first: float
    """That of the first call, which compiles where there is something to compile."""
    least: float
    middle: float
    rounds: int


def time_by_turns(calls: Mapping[str, Callable[[], Any]], seconds: float) -> dict[str, Timing]:
    """Time `calls` by turns, a, b, c, a, b, c, …, for about `seconds` in all."""
    start = perf_counter()
    timers = {name: timeit.Timer(call) for name, call in calls.items()}
    firsts = {name: timer.timeit(1) for name, timer in timers.items()}
    repeats = {name: _repeats(timer) for name, timer in timers.items()}
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for rounds in range(MOST_ROUNDS):
        if rounds >= LEAST_ROUNDS and perf_counter() - start > seconds:
            break
        for name, timer in timers.items():
            samples[name].append(timer.timeit(repeats[name]) / repeats[name])
    return {
        name: Timing(firsts[name], min(taken), median(taken), len(taken))
        for name, taken in samples.items()
    }


def _repeats(timer: timeit.Timer) -> int:
    """Return how many calls make a sample that the clock can measure."""
    timer.timeit(1)
    return max(1, round(LEAST_SAMPLE / max(timer.timeit(3) / 3, 1e-8)))

"""Timing on a GPU: what the device needs for a call, what the host does, and replay of a graph."""

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Any

Calls = Sequence[Callable[[], Any]]
"""One contestant: the same call on several sets of arrays."""

CACHE = 60 * 2**20
"""The bytes of the second-level cache of an H200."""
LEAST_SAMPLE = 5e-4
"""The seconds that one sample takes at least: shorter calls are repeated."""
MOST_REPEATS = 40
"""In a sample: a device takes about a thousand launches ahead, and then the host has to wait."""
LEAST_ROUNDS, MOST_ROUNDS = 5, 100
HOST_CALLS, HOST_ROUNDS = 200, 15
GRAPH_CALLS, GRAPH_ROUNDS = 50, 25
LONGEST_WAIT = 0.05

WAIT = r"""
extern "C" __global__ void opsgrad_wait(long long nanoseconds) {
  long long start, now;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(start));
  do {
    asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now));
  } while (now - start < nanoseconds);
}
"""


@dataclass(frozen=True)
class Timing:
    """The time of one call on the device, in seconds."""

    middle: float
    least: float
    rounds: int


def sets_needed(moved: int) -> int:
    """Return on how many sets of arrays calls that move so many bytes take turns.

    Between two calls on the same set, more passes through the cache than it holds twice over.
    """
    return 1 + min(63, math.ceil(2 * CACHE / moved))


class Gpu:
    """The current device and CuPy's default stream, on which PyTorch's calls run as well."""

    def __init__(self) -> None:
        import cupy

        self.cupy = cupy
        self._wait = cupy.RawKernel(WAIT, "opsgrad_wait")

    def times(self, contestants: Mapping[str, Calls], seconds: float) -> dict[str, Timing]:
        """Time contestants by turns, a, b, c, a, b, c, …, for about `seconds` in all."""
        end = perf_counter() + seconds
        plans = {name: self._plan(calls) for name, calls in contestants.items()}
        samples: dict[str, list[float]] = {name: [] for name in contestants}
        for rounds in range(MOST_ROUNDS):
            if rounds >= LEAST_ROUNDS and perf_counter() > end:
                break
            for name, calls in contestants.items():
                samples[name].append(self._sample(calls, *plans[name]))
        return {name: Timing(median(s), min(s), len(s)) for name, s in samples.items()}

    def _plan(self, calls: Calls) -> tuple[int, float]:
        """Return how many calls make a sample, and how long the host takes for them."""
        for call in calls:
            call()
        self.synchronize()
        once = self._sample(calls, len(calls), 0.0)
        repeats = max(len(calls), min(MOST_REPEATS, math.ceil(LEAST_SAMPLE / max(once, 1e-7))))
        start = perf_counter()
        kept = _run(calls, repeats)
        host = perf_counter() - start
        self.synchronize()
        del kept
        return repeats, host

    def _sample(self, calls: Calls, repeats: int, host: float) -> float:
        """Return the device's seconds for a call.

        The device first waits until the host has asked for all the calls: otherwise what is
        measured, of short calls, is the host.
        """
        start, end = self.cupy.cuda.Event(), self.cupy.cuda.Event()
        wait = int(1e9 * min(LONGEST_WAIT, 1.5 * host))
        self._wait((1,), (1,), (wait,))
        start.record()
        kept = _run(calls, repeats)
        end.record()
        end.synchronize()
        del kept
        return 1e-3 * float(self.cupy.cuda.get_elapsed_time(start, end)) / repeats

    def host_time(self, calls: Calls) -> float:
        """Return the host's seconds for a call: the median of many loops."""
        samples = []
        for _ in range(HOST_ROUNDS):
            self.synchronize()
            start = perf_counter()
            _run(calls, HOST_CALLS)
            samples.append((perf_counter() - start) / HOST_CALLS)
        self.synchronize()
        return median(samples)

    def replay_time(self, calls: Calls) -> float:
        """Return the seconds of a call in the replay of a CUDA graph of many of them."""
        stream = self.cupy.cuda.Stream(non_blocking=True)
        with stream:
            _run(calls, GRAPH_CALLS)  # compiles, and leaves memory in the pool of this stream
            stream.synchronize()
            stream.begin_capture()
            kept = _run(calls, GRAPH_CALLS)
            graph = stream.end_capture()
            samples = []
            for _ in range(GRAPH_ROUNDS):
                start, end = self.cupy.cuda.Event(), self.cupy.cuda.Event()
                start.record(stream)
                graph.launch(stream)
                end.record(stream)
                end.synchronize()
                samples.append(1e-3 * float(self.cupy.cuda.get_elapsed_time(start, end)))
            del kept
        return median(samples) / GRAPH_CALLS

    def synchronize(self) -> None:
        """Wait for all that was asked of the device."""
        self.cupy.cuda.Device().synchronize()

    def free(self) -> None:
        """Give back the memory that nothing uses, CuPy's and PyTorch's."""
        import gc
        import sys

        gc.collect()
        self.cupy.get_default_memory_pool().free_all_blocks()
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_available():
            torch.cuda.empty_cache()


def _run(calls: Calls, repeats: int) -> deque[Any]:
    """Run calls in turn; as many results as there are sets are held, so that memory rotates too."""
    kept: deque[Any] = deque(maxlen=len(calls))
    for k in range(repeats):
        kept.append(calls[k % len(calls)]())
    return kept

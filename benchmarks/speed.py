"""Timing all contestants of each case by turns, and the copy of as many bytes with them."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from time import perf_counter
from typing import Any

import numpy as np

from benchmarks.cases import LOSS, VALUE, VJP, Case, Inputs, inputs
from benchmarks.contestants import contestants
from benchmarks.timing import time_by_turns

COPY, COPY_TWO = "copy", "copy, two threads"
MOST_SECONDS, LEAST_SECONDS = 1.5, 0.1
"""What a group gets at most and at least, whatever the time that is left."""
POWERS = (*range(10, 27, 2), 27)
ROW = 1024
RAGGED = (100, 127, 1537, 32003)
"""Lengths of rows that are no multiple of anything."""
NUMBERS = 2**22
"""How many there are in all of them."""
SINGLE = 10**8
"""How many there are in a single row."""
BYTES_A_NUMBER = 64
"""Memory that the largest contestant needs for each number of float32, with its temporaries."""

Group = dict[str, Any]


def measure(cases: Sequence[Case], minutes: float) -> Iterator[Group]:
    """Yield what was measured of each case, all of them in about `minutes`."""
    end = perf_counter() + 60 * minutes
    for number, case in enumerate(cases):
        share = (end - perf_counter()) / (len(cases) - number)
        yield measure_one(case, min(max(share, LEAST_SECONDS), MOST_SECONDS))


def measure_one(case: Case, seconds: float) -> Group:
    """Time the contestants of a case, and a copy that moves as many bytes as the case has to."""
    start = perf_counter()
    given = inputs(case)
    calls = contestants(case, given)
    moved = bytes_moved(case, given)
    calls |= _copies(moved // 2)
    with np.errstate(all="ignore"):
        times = time_by_turns(calls, seconds - (perf_counter() - start))
    return {
        "op": case.name,
        "role": case.role,
        "shape": list(case.shape),
        "axis": case.axis,
        "dtype": case.dtype,
        "bytes": moved,
        "seconds": {name: asdict(timing) for name, timing in times.items()},
    }


def bytes_moved(case: Case, given: Inputs) -> int:
    """Return the bytes that have to be read and written: each array once."""
    floats = [a for a, has in zip(given.arrays, case.row.differentiable, strict=True) if has]
    value = given.cotangent  # of the same size
    if case.role == VALUE:
        moved = [*given.arrays, value]
    elif case.role == LOSS:
        moved = [*given.arrays, floats[0]]
    else:
        names = dict(zip(case.row.op.array_names, given.arrays, strict=True)) | {"y": value}
        # Residuals, of a few numbers for each row, are not counted.
        kept = [names[name] for name in case.row.op.rule("vjp").keeps if name in names]
        moved = [*kept, given.cotangent, *floats]
    return sum(array.nbytes for array in moved)


def scaled() -> list[Case]:
    """Return the cases that grow, as far as memory goes, and those of odd and single rows."""
    sizes = [2**power for power in POWERS if _fits(2**power)]
    flat = [Case("sigmoid", VALUE, (n,), "float32") for n in sizes]
    rows = [Case("softmax", VALUE, (n // ROW, ROW), "float32") for n in sizes]
    loss = "softmax_cross_entropy_with_integer_labels"
    odd = [
        Case(op, role, (NUMBERS // length, length), "float32")
        for op, role in (("softmax", VALUE), ("softmax", VJP), (loss, LOSS))
        for length in RAGGED
    ]
    single = [Case(op, VALUE, (SINGLE,), "float32") for op in ("softmax", "logsumexp", "l2_norm")]
    return flat + rows + odd + single * _fits(SINGLE)


def _fits(numbers: int) -> bool:
    return numbers * BYTES_A_NUMBER < _free_memory()


def _free_memory() -> int:
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _copies(count: int) -> Mapping[str, Callable[[], Any]]:
    """Return copies of `count` bytes into memory that is there already."""
    source = np.ones(count, dtype=np.uint8)
    target = np.empty_like(source)
    half = count // 2

    def two() -> None:
        other = _POOL.submit(np.copyto, target[:half], source[:half])
        np.copyto(target[half:], source[half:])
        other.result()

    return {COPY: lambda: np.copyto(target, source), COPY_TWO: two}


_POOL = ThreadPoolExecutor(1)

"""What surrounds the kernels: the cost of a call, of starting, and of memory."""

import compileall
import functools
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

import opsgrad as og
from benchmarks.cases import Array, cases, inputs
from benchmarks.contestants import OURS, as_numpy, contestants
from benchmarks.speed import Group
from benchmarks.timing import time_by_turns
from opsgrad.conformance import TABLE

CALLED = ("relu", "sigmoid", "softmax", "prelu", "dense")
SMALL, LARGE = (64, 10), (4096, 1000)
PROCESSES = 12
STARTS = {
    "import numpy": "import numpy",
    "import opsgrad": "import opsgrad",
    "first softmax": (
        "import numpy, opsgrad; opsgrad.softmax(numpy.ones((64, 10), dtype=numpy.float32))"
    ),
    "first large softmax": (
        "import numpy, opsgrad; opsgrad.softmax(numpy.ones((4096, 1000), dtype=numpy.float32))"
    ),
}


def overhead(seconds: float = 2.0) -> Iterator[Group]:
    """Yield the time of small calls, and of the same body without the call path around it.

    Before anything is compiled, and after `warmup`.
    """
    namespace = og.backends()["numpy"].namespace
    for case in cases(CALLED, shapes=[SMALL], dtypes=["float32"], roles=["value"]):
        arrays, op = inputs(case).arrays, TABLE[case.op].op
        body = functools.partial(op.body, namespace, *arrays, **op.signature.complete({}))
        calls = {OURS: functools.partial(op, *arrays), "body": functools.partial(_quiet, body)}
        times = time_by_turns(calls, seconds)
        called, alone = (times[name].least for name in calls)
        og.warmup(op)
        (warm,) = time_by_turns({OURS: calls[OURS]}, seconds / 2).values()
        yield {
            "op": case.op,
            "seconds": called,
            "body": alone,
            "overhead": called - alone,
            "compiled": warm.least,
        }


def _quiet(body: Callable[[], Array]) -> Array:
    with np.errstate(all="ignore"):
        return body()


def starts(processes: int = PROCESSES) -> Group:
    """Return the seconds of processor time of fresh processes, by turns: the first and the least.

    Without the interpreter's own start, and with bytecode in place, as after an installation.
    """
    compileall.compile_dir(Path(og.__file__).parent, quiet=1)
    taken: dict[str, list[float]] = {name: [] for name in ("nothing", *STARTS)}
    for _ in range(processes):
        for name, program in {"nothing": "pass", **STARTS}.items():
            taken[name].append(_processor_time(program))
    idle = min(taken.pop("nothing"))
    return {
        name: {"first": times[0] - idle, "least": min(times) - idle}
        for name, times in taken.items()
    }


def _processor_time(program: str) -> float:
    # The threads that OpenBLAS starts with NumPy spin until they find nothing to do: time that
    # would count for whatever the process does meanwhile.
    alone = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-c", program], env=alone)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, program)
    return used.ru_utime + used.ru_stime


def memory(ops: list[str]) -> Iterator[Group]:
    """Yield the peak of what NumPy allocates during a call, beyond what was there before."""
    for case in cases(ops, shapes=[LARGE], dtypes=["float32"]):
        given = inputs(case)
        call = contestants(case, given)[OURS]
        outputs = sum(array.nbytes for array in as_numpy(call()))
        tracemalloc.start()
        call()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        data = sum(array.nbytes for array in given.arrays)
        yield {
            "op": case.name,
            "role": case.role,
            "inputs": data,
            "outputs": outputs,
            "extra": peak - outputs,
        }

"""Compile the CUDA kernels of every op without a GPU, and count the registers that they take.

NVRTC and its assembler need no driver. For each op, role, data type and way of sharing a row among
threads, one kernel is printed as CuPy would run it, and compiled for two generations of GPUs. A
spill, that is a register kept in memory for want of room, is a failure.
"""

import argparse
import io
import json
import math
import multiprocessing
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from opsgrad._arrays import without_axis
from opsgrad._op import Op
from opsgrad._signature import Role
from opsgrad.backends.protocol import JOINT, SEED
from opsgrad.conformance import TABLE
from opsgrad.fusion import cuda
from opsgrad.fusion.cuda_source import SIZES, Source
from opsgrad.fusion.tables import Task, why_not

CHIPS = (80, 90)
ROWS = 4
ELEMENTWISE = {"map": (4096,), "map, unaligned": (4097,)}
SHAPES = {
    "part of a warp": (ROWS, 64),
    "warp": (ROWS, 1024),
    "block": (ROWS, 4096),
    "block, odd": (ROWS, 4099),
    "block, long": (ROWS, 16384),
    "block, longest": (ROWS, 32768),
    "cluster": (ROWS, 131072),
    "stream": (ROWS, 1 << 20),
    "stream, odd": (ROWS, 300_001),
    "columns": (2, 256, 64),
    "columns, long": (2, 1024, 64),
    "columns, read again": (2, 50_000, 64),
}
"""The arrays that the kernels are for; of three axes the middle one is the op's."""
SOME = ("part of a warp", "warp", "block", "stream", "columns", "map")
KINDS = {
    "float32": (*SHAPES, *ELEMENTWISE),
    "bfloat16": (*SHAPES, *ELEMENTWISE),
    "float16": SOME,
    "float64": SOME,
}
"""What is compiled in each data type, for each chip."""
APART, HEAVIEST = ("value", "forward", "vjp", "jvp"), ("vjp", JOINT)
ROLES = (*APART, JOINT)
ESSENTIAL = (
    ("float32", 90, APART, tuple(one for one in KINDS["float32"] if one != "block, long")),
    ("float32", 90, (JOINT,), ("warp", "block, longest", "cluster", "stream", "columns", "map")),
    ("bfloat16", 90, HEAVIEST, ("warp", "block, longest", "cluster", "columns", "map")),
    ("float16", 90, HEAVIEST, ("block", "map")),
    ("float64", 90, HEAVIEST, ("warp", "block, longest", "map")),
    ("float64", 90, ("jvp",), ("columns",)),
    ("float32", 80, HEAVIEST, ("warp", "block, longest", "columns", "map")),
    ("float64", 80, HEAVIEST, ("warp",)),
)
"""What every test run compiles: each role and way to share a row, data type and chip at least once.
"""


class Kernel(NamedTuple):
    """What is compiled, and what came of it."""

    op: str
    role: str
    dtype: str
    shape: str
    chip: int
    threads: int
    group: int
    cluster: int
    entries: int
    """How many entries of a row a thread holds; 0 where it holds none."""
    registers: int
    spilled: int
    """In bytes."""
    rejected: int
    """How many kernels were compiled before, and spilled."""


@dataclass(frozen=True)
class Sketch:
    """An array of which only the form is known."""

    shape: tuple[int, ...]
    dtype: str
    address: int = 0

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def strides(self) -> tuple[int, ...]:
        size = SIZES[self.dtype]
        return tuple(size * math.prod(self.shape[k + 1 :]) for k in range(len(self.shape)))

    @property
    def flags(self) -> Any:
        return SimpleNamespace(c_contiguous=True)


class Compiled(NamedTuple):
    """A kernel, and what the assembler says of it."""

    source: Source
    registers: int
    spilled: int


class NotCompiledError(Exception):
    """There should be a kernel, and none was compiled."""


class NoDevice:
    """In place of a device: it compiles, and starts nothing."""

    def __init__(self, capability: int) -> None:
        self.capability = capability
        self.rejected = 0

    def address(self, array: Sketch) -> int:
        return array.address

    def compiled(self, source: Source) -> Compiled:
        return Compiled(source, *assembled(source, self.capability))

    def spills(self, kernel: Compiled) -> bool:
        self.rejected += kernel.spilled > 0
        return kernel.spilled > 0


def tasks(op: Op[Any], parameters: dict[str, Any], dtype: str, axis: int) -> Iterator[Any]:
    """Yield the roles of an op that kernels are made for, and what they compute.

    Value and gradient together are those by the first array.
    """
    complete = dict(op.signature.complete(parameters))
    if "axis" in complete:
        complete["axis"] = axis
    labels = frozenset(a.name for a in op.signature.arguments if a.role is Role.LABELS)
    rules = [op.whole("value"), *(op.rule(role) for role in ("vjp", "jvp") if op.has_rule(role))]
    if op._body.residual:
        rules.insert(1, op._body.forward)
    if op.has_rule("vjp"):
        rules.append(op._joint_rule((0,)))
    for rule in rules:
        task = Task(
            function=rule.function,
            names=(*rule.keeps, *rule.directions),
            parameters={name: complete[name] for name in rule.takes},
            dtype=np.dtype("float64" if dtype == "float64" else "float32"),
            elementwise=op.elementwise,
            labels=labels,
            numbers=frozenset({SEED}),
            residual=rule.role == "forward",
        )
        if why_not(task) is None:
            yield rule.role, task


def prepared(
    task: Task, name: str, shape: tuple[int, ...], dtype: str, device: NoDevice
) -> cuda.Call | None:
    """Return what would run a task on arrays of a shape; None if the body would."""
    axis = task.parameters.get("axis", -1)
    for of_result in (shape, without_axis(shape, axis)):
        arrays = [
            1.0 if one in task.numbers else Sketch(*_form(task, one, shape, of_result, dtype))
            for one in task.names
        ]
        fused = cuda.Fused(task, name)
        call = fused.prepared(device, arrays, dtype)
        if call is not None:
            return call
        if fused.failure is not None:
            raise NotCompiledError(fused.failure)
    return None


def _form(
    task: Task, name: str, shape: tuple[int, ...], of_result: tuple[int, ...], dtype: str
) -> tuple[tuple[int, ...], str]:
    if name in task.labels:
        return without_axis(shape, task.parameters["axis"]), "int64"
    if name == "y":  # is kept before it is rounded
        return of_result, task.dtype.name
    if name == "kept":  # one number for each row, as all ops here have it
        place = len(shape) + task.parameters.get("axis", -1)
        return (*shape[:place], 1, *shape[place + 1 :]), task.dtype.name
    if name == "cotangent":
        return of_result, dtype
    return shape[-1:] if name in ("alpha", "tangent of alpha") else shape, dtype


class Case(NamedTuple):
    """A kernel to be compiled."""

    op: str
    role: str
    dtype: str
    shape: str
    chip: int
    parameters: tuple[tuple[str, Any], ...]


def cases(ops: Sequence[str] = tuple(TABLE), *, essential: bool = False) -> list[Case]:
    """Return all kernels to be compiled, or those that every test run compiles."""
    every = [(dtype, chip, ROLES, shapes) for dtype, shapes in KINDS.items() for chip in CHIPS]
    return [
        Case(name, role, dtype, shape, chip, tuple(TABLE[name].variants[0].items()))
        for name in ops
        for dtype, chip, roles, shapes in (ESSENTIAL if essential else every)
        for shape in shapes
        if shape in (SHAPES if TABLE[name].has_axis else ELEMENTWISE)
        for role, _ in tasks(TABLE[name].op, dict(TABLE[name].variants[0]), dtype, -1)
        if role in roles
    ]


def compiled(case: Case) -> Kernel | None:
    """Compile a kernel, and return what it takes; None where such arrays run the body."""
    shape = {**ELEMENTWISE, **SHAPES}[case.shape]
    axis = -2 if len(shape) == 3 else -1
    row = TABLE[case.op]
    task = dict(tasks(row.op, dict(case.parameters), case.dtype, axis))[case.role]
    device = NoDevice(case.chip)
    call = prepared(task, f"opsgrad_{case.op}_{case.role}", shape, case.dtype, device)
    if call is None:
        return None
    used = call.variant.shape
    return Kernel(
        *case[:5],
        used.threads,
        used.group,
        used.cluster,
        used.chunk * used.chunks,
        call.kernel.registers,
        call.kernel.spilled,
        device.rejected,
    )


def assembled(source: Source, chip: int) -> tuple[int, int]:
    """Return the registers that a kernel takes, and the bytes that it spills."""
    from cuda.core import Program, ProgramOptions

    log = io.StringIO()
    options = ProgramOptions(
        std="c++17",
        arch=f"sm_{chip}",
        fma=False,
        ftz=False,
        prec_div=True,
        prec_sqrt=True,
        disable_warnings=True,
        ptxas_options="-v",
    )
    Program(source.code, "c++", options).compile("cubin", logs=log)
    words = log.getvalue()
    (registers,) = map(int, re.findall(r"Used (\d+) registers", words))
    spilled = sum(map(int, re.findall(r"(\d+) bytes spill", words)))
    return registers, spilled


def main() -> int:
    """Compile everything; write a table, and say what spills."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ops", nargs="*", default=list(TABLE), choices=list(TABLE))
    every = [*SHAPES, *ELEMENTWISE]
    parser.add_argument("--shapes", nargs="*", default=every, choices=every, metavar="SHAPE")
    parser.add_argument("--essential", action="store_true", help="what every test run compiles")
    parser.add_argument(
        "--output", type=Path, help="a .json file, in which all else stays; a .md is beside it"
    )
    parser.add_argument("--processes", type=int)
    arguments = parser.parse_args()
    chosen = cases(arguments.ops, essential=arguments.essential)
    chosen = [case for case in chosen if case.shape in arguments.shapes]
    with multiprocessing.Pool(arguments.processes) as pool:
        kernels = [one for one in pool.map(compiled, chosen, chunksize=8) if one is not None]
    spills = [one for one in kernels if one.spilled]
    for one in spills:
        print(one)
    rejected = sum(one.rejected for one in kernels)
    print(f"{len(kernels)} kernels, {len(spills)} of them spill, {rejected} others did")
    if arguments.output:
        write(kernels, arguments.output)
    return 1 if spills else 0


def write(kernels: Sequence[Kernel], output: Path) -> None:
    """Write kernels as JSON and as a table, with those that are there already."""
    before = json.loads(output.read_text()) if output.exists() else []
    known = {one[:5]: one for one in (*(Kernel(**row) for row in before), *kernels)}
    # In one order, and without what is compiled no more.
    ordered = [known[case[:5]] for case in cases() if case[:5] in known]
    lines = ",\n".join(json.dumps(one._asdict()) for one in ordered)
    output.write_text(f"[\n{lines}\n]\n")
    head = (
        "Registers a thread, for the kernels that `make cuda-kernels` compiles, by "
        f"NVRTC {version('nvidia-cuda-nvrtc')}.\n\n"
    )
    output.with_suffix(".md").write_text(head + table(ordered))


def table(kernels: Sequence[Kernel]) -> str:
    """Return the most registers that any op's kernel takes, by shape and data type."""
    most: dict[tuple[str, str, int], Kernel] = {}
    for one in kernels:
        key = (one.shape, one.dtype, one.chip)
        if key not in most or one.registers > most[key].registers:
            most[key] = one
    lines = ["| arrays | data type | chip | kernels | most registers | of | spilled |"]
    lines.append("|---|---|---|---|---|---|---|")
    for (shape, dtype, chip), one in most.items():
        alike = [k for k in kernels if (k.shape, k.dtype, k.chip) == (shape, dtype, chip)]
        spilled = sum(k.spilled > 0 for k in alike)
        lines.append(
            f"| {shape} | {dtype} | sm_{chip} | {len(alike)} | {one.registers} | "
            f"{one.op}, {one.role} | {spilled} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())

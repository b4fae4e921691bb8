"""The kernels of all goals, built without a GPU, as far as the machine has a compiler for them."""

import importlib.util
from collections.abc import Callable
from typing import Any

from benchmarks.cases import LOSS, VALUE, VJP
from benchmarks.gpu.goals import Goal
from opsgrad.backends.protocol import JOINT
from opsgrad.fusion.cuda_source import Shape, Source
from tools.cuda_kernels import Compiled, NoDevice, prepared, tasks

CHIP = 90
ROLES = {VALUE: "value", VJP: "vjp", LOSS: JOINT}
"""Whose kernel runs in a case."""


class NoKernelError(Exception):
    """A goal would be run without a kernel."""


class Printer(NoDevice):
    """In place of a device and of a compiler: kernels are printed, and no more."""

    def compiled(self, source: Source) -> Compiled:
        if f"{source.name}(" not in source.code:
            raise NoKernelError(f"what is printed has no function {source.name}")
        return Compiled(source, registers=0, spilled=0)


def compiler_is_there() -> bool:
    """Whether NVRTC can be called, which needs neither a GPU nor a driver."""
    try:
        return importlib.util.find_spec("cuda.core") is not None
    except ModuleNotFoundError:
        return False


def build(goal: Goal, device: Callable[[int], NoDevice]) -> str:
    """Build the kernel of a goal, and say in a few words what it is."""
    case = goal.case
    axis = case.axis - len(case.shape) if case.axis >= 0 else case.axis
    dtype = str(case.dtype)
    role, parameters = ROLES[case.role], dict(case.parameters)
    if case.role == LOSS:
        parameters["reduction"] = "mean"
    found = dict(tasks(case.row.op, parameters, dtype, axis))
    call: Any = None
    if role in found:
        call = prepared(found[role], f"opsgrad_{case.op}_{role}", case.shape, dtype, device(CHIP))
    if call is None:
        raise NoKernelError(f"{goal.name}: there is no kernel for its {role}")
    return described(call.variant.shape, call.kernel.registers)


def described(shape: Shape, registers: int = 0) -> str:
    """Say how a kernel shares rows among threads."""
    if shape.layout == "flat":
        words = "map"
    else:
        sharing = f"{shape.group} threads" if shape.group > 1 else "a thread"
        blocks = f" in each of {shape.cluster} blocks" if shape.cluster > 1 else ""
        held = f"{shape.chunk * shape.chunks} entries each" if shape.chunks else "read again"
        along = "a column" if shape.layout == "columns" else "a row"
        words = f"{sharing}{blocks} for {along}, {held}"
    return f"{words}, {registers} registers" if registers else words

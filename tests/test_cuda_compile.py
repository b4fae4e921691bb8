"""CUDA kernels as NVIDIA's compiler takes them, without a GPU: all of them fit in registers."""

import importlib.util

import numpy as np
import pytest

import opsgrad as og
from opsgrad.conformance import TABLE
from opsgrad.fusion import cuda
from opsgrad.fusion.cuda_source import Shape
from opsgrad.fusion.tables import Task, trace_of
from opsgrad.fusion.trace import Input, Kind
from tools import cuda_kernels
from tools.cuda_kernels import Kernel, cases, compiled, table


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


pytestmark = pytest.mark.skipif(
    not _installed("cuda.core"),
    reason="cuda-core is not installed: pip install 'opsgrad[cuda-check]'",
)


@pytest.mark.parametrize("op", [name for name in TABLE if name != "dense"])
def test_no_kernel_spills(op: str) -> None:
    kernels = [one for case in cases([op], essential=True) if (one := compiled(case)) is not None]
    assert {one.role for one in kernels} >= {"vjp", "jvp", "value_and_grad"}
    assert {one.chip for one in kernels} == {80, 90}
    assert [one for one in kernels if one.spilled] == []
    if TABLE[op].has_axis:
        assert any(one.cluster > 1 for one in kernels)
        assert any(one.entries == 0 for one in kernels)
        assert {one.group for one in kernels} >= {8, 16, 32}


@pytest.mark.parametrize("op", [name for name in TABLE if len(TABLE[name].variants) > 1])
def test_no_kernel_of_other_parameters_spills(op: str) -> None:
    row = TABLE[op]
    shape = "warp" if row.has_axis else "map"
    for params in row.variants[1:]:
        for role in ("jvp", *cuda_kernels.HEAVIEST):
            case = cuda_kernels.Case(op, role, "float32", shape, 90, tuple(params.items()))
            kernel = compiled(case)
            assert kernel is not None
            assert kernel.spilled == 0


@pytest.mark.parametrize("shape", [Shape("rows", 1024, 1024, 1, 4, 64), None])
def test_a_spill_is_noticed(shape: Shape | None) -> None:
    task = Task(og.softmax.body, ("x",), {"axis": -1}, np.dtype("f4"), False, frozenset())
    traced = trace_of(task, [Input(Kind.TABLE, np.dtype("f4"))])
    chosen = shape or Shape("rows", 1024, 1024, 1, 4, 4)
    variant = cuda.Variant((Kind.TABLE,), ("float32", "float32"), chosen, True)
    registers, spilled = cuda_kernels.assembled(cuda.source_of(task, variant, traced, "k"), 90)
    assert (spilled > 0) == (shape is not None)
    assert 16 < registers <= 64


def test_code_that_is_no_code_is_refused() -> None:
    with pytest.raises(Exception, match='identifier "nothing" is undefined'):
        cuda_kernels.assembled(cuda_kernels.Source("k", "__global__ void k() { nothing; }"), 80)


def test_a_kernel_that_is_refused_is_no_kernel_that_is_not_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    printed = cuda.printed
    monkeypatch.setattr(cuda, "printed", lambda *a: printed(*a)._replace(code="nothing"))
    with pytest.raises(cuda_kernels.NotCompiledError):
        compiled(cases(["softmax"])[0])


def test_the_table_names_the_kernel_with_the_most_registers() -> None:
    def kernel(op: str, registers: int, spilled: int) -> Kernel:
        return Kernel(op, "vjp", "float32", "warp", 90, 128, 32, 1, 32, registers, spilled, 0)

    lines = table([kernel("softmax", 90, 0), kernel("relumax", 120, 8)]).splitlines()
    assert lines[2:] == ["| warp | float32 | sm_90 | 2 | 120 | relumax, vjp | 1 |"]

"""How backends use the CUDA engine, and what CuPy does for it."""

import functools
import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np

from opsgrad._arrays import reduced
from opsgrad._typing import Array
from opsgrad.backends._tasks import MOST_KNOWN, MOST_PARAMETERS, task_of, why_not
from opsgrad.backends.protocol import JOINT, Kernel, Work, frozen, nothing

_known: dict[Any, Any] = {}
"""The compiled bodies and rules, by what they compute."""


def offer(work: Work, fallback: Callable[..., Any]) -> Kernel | str:
    """Return a kernel for a body or rule, or for both at once, or say why there is none.

    Where it does not take the arrays it returns what `fallback` gives, or None for both at once.
    """
    reason = why_not(work)
    if reason is not None:
        return reason
    from opsgrad.fusion import tables

    task = task_of(work)
    reason = tables.why_not(task)
    if reason is not None:
        return f"no kernel can be made of it: {reason}"
    try:
        key = (work.function, frozen(work.parameters), task.dtype, work.names)
        fused = _fused(key, work, task)
    except TypeError:
        return "a parameter cannot be hashed"
    if fused is None:
        return f"it has been compiled for {MOST_PARAMETERS} sets of parameters already"
    if fused.failure is not None:
        return f"its kernel was not compiled: {fused.failure}"
    on_cupy = _OnCupy(fused, nothing if work.role == JOINT else fallback)
    return Kernel(on_cupy, "a CUDA kernel", on_cupy.narrow)


def _fused(key: Any, work: Work, task: Any) -> Any:
    found = _known.get(key)
    if found is not None:
        return found
    if len(_known) >= MOST_KNOWN:
        _known.clear()
    if sum(other[0] is work.function for other in list(_known)) >= MOST_PARAMETERS:
        return None
    from opsgrad.fusion import cuda

    name = f"{work.op}_{work.role}" if work.op.isidentifier() else "kernel"
    return _known.setdefault(key, cuda.Fused(task, f"opsgrad_{name}"))


class _OnCupy:
    """A compiled body or rule as a function of CuPy's arrays."""

    def __init__(self, fused: Any, fallback: Callable[..., Any]) -> None:
        self.fused = fused
        self.fallback = fallback
        self.dtype = fused.task.dtype.name

    def __call__(self, *arrays: Array | None) -> Any:
        """Run it on arrays in the data type that it computes in."""
        return self.narrow(arrays, self.dtype)

    def narrow(self, arrays: tuple[Any, ...], dtype: Any) -> Any:
        """Run it on arrays in any floating-point types; results are stored as `dtype`."""
        first: Any = next(array for array in arrays if hasattr(array, "device"))
        device = first.device
        name = dtype if isinstance(dtype, str) else np.dtype(dtype).name
        with device:
            out = self.fused(_launcher(device.id), arrays, name)
            return self.fallback(*map(self._widened, arrays)) if out is None else out

    def _widened(self, array: Any) -> Any:
        if getattr(array, "dtype", None) != np.float16:
            return array
        return array.astype(self.dtype)


class Bits:
    """Numbers in bfloat16, for which CuPy has no data type, as integers of 16 bits."""

    dtype = "bfloat16"

    def __init__(self, bits: Any) -> None:
        self.bits = bits

    def __getattr__(self, name: str) -> Any:
        return getattr(self.bits, name)


@functools.cache
def _launcher(device: int) -> "CupyLauncher":
    import cupy

    return CupyLauncher(cupy.cuda.Device(device))


class CupyLauncher:
    """What CuPy does for the CUDA engine on one device, which is current when it is called."""

    def __init__(self, device: Any) -> None:
        import cupy

        self.cupy = cupy
        self.capability = int(device.compute_capability)

    def empty(self, shape: tuple[int, ...], dtype: str) -> Array:
        """Return a new array in C order."""
        if dtype == Bits.dtype:
            return Bits(self.cupy.empty(shape, "int16"))
        return self.cupy.empty(shape, dtype)

    def contiguous(self, array: Array) -> Array:
        """Return an array in C order with the same entries."""
        if isinstance(array, Bits):
            return Bits(self.cupy.ascontiguousarray(array.bits))
        return self.cupy.ascontiguousarray(array)

    def address(self, array: Any) -> int:
        """Return where an array begins."""
        return int(array.data.ptr)

    def compiled(self, source: Any) -> Callable[..., Any]:
        """Return what starts a kernel.

        Not RawKernel: CuPy puts -ftz=true behind its options, and the last one counts.
        """
        from opsgrad.fusion.cuda import OPTIONS
        from opsgrad.fusion.store import Store, chosen_directory

        store = Store(chosen_directory())
        version = self.cupy.cuda.runtime.runtimeGetVersion()
        compiler = self.cupy.cuda.compiler
        key = hashlib.sha256(
            repr((self.cupy.__version__, version, self.capability, OPTIONS, source)).encode()
        ).digest()
        code = store.read(key)
        if code is None:
            made, _ = compiler.compile_using_nvrtc(source.code, OPTIONS)
            # Text for chips that are newer than the compiler: the driver does the rest.
            code = made if isinstance(made, bytes) else made.encode()
            store.write(key, code)
        module = self.cupy.cuda.function.Module()
        module.load(code)
        function: Callable[..., Any] = module.get_function(source.name)
        return function

    def spills(self, kernel: Any) -> bool:
        """Whether a kernel keeps in memory what it has no registers for."""
        driver = self.cupy.cuda.driver
        size = driver.CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES
        return bool(driver.funcGetAttribute(size, kernel.ptr))

    def reduced(self, array: Array, reduction: Any) -> Array:
        """Return the mean or the sum of an array."""
        from opsgrad.backends import backends

        return reduced(backends()["cupy"].namespace, array, reduction)

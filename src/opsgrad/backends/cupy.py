"""CuPy arrays: ops run on the arrays' own device and its current stream, and stay there."""

import contextlib
import functools
import importlib.util
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from opsgrad._typing import Array, DType, Namespace
from opsgrad.backends import _gpu
from opsgrad.backends.protocol import Backend, Capabilities, Kernel, Work, quiet

_INSUFFICIENT_DRIVER, _NO_DEVICE = 35, 100
"""cudaErrorInsufficientDriver, of a missing driver too; cudaErrorNoDevice."""


def _why_not() -> str | None:
    """Say why CuPy cannot run here, None if it can."""
    if importlib.util.find_spec("cupy") is None:
        return (
            "CuPy is not installed: pip install 'opsgrad[cuda13x]', or 'opsgrad[cuda12x]' where "
            "the driver is one of CUDA 12"
        )
    try:
        import cupy
    except Exception as error:  # a broken installation can raise anything
        return f"CuPy is installed, but cannot be imported: {error}"
    runtime = cupy.cuda.runtime
    try:
        status = 0 if runtime.getDeviceCount() else _NO_DEVICE
    except runtime.CUDARuntimeError as error:
        status = error.status
        if status not in (_INSUFFICIENT_DRIVER, _NO_DEVICE):
            return f"CUDA does not start: {error}"
    if status == _INSUFFICIENT_DRIVER:
        return _driver(runtime)
    if status == _NO_DEVICE:
        return "there is no CUDA device: this machine has none, or CUDA_VISIBLE_DEVICES hides it"
    return None


def _driver(runtime: Any) -> str:
    """Say what is wrong with the driver."""
    there, built_for = runtime.driverGetVersion(), runtime.runtimeGetVersion()
    if there == 0:
        return (
            "there is no CUDA driver: install NVIDIA's driver, which CuPy needs besides its own "
            "package"
        )
    return (
        f"the CUDA driver is too old: it goes up to CUDA {_version(there)}, and CuPy is built for "
        f"{_version(built_for)}: update the driver, or install CuPy for an older CUDA, as "
        "'opsgrad[cuda12x]' does"
    )


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


# -- the namespace ---------------------------------------------------------------------------------


def _there(function: Callable[..., Array]) -> Callable[..., Array]:
    """Make a creation function heed `device`: array-api-compat's takes the current one always."""

    @functools.wraps(function)
    def create(*arguments: Any, device: Any = None, **keywords: Any) -> Array:
        with contextlib.nullcontext() if device is None else device:
            return function(*arguments, **keywords)

    return create


def _beside(function: Callable[..., Array]) -> Callable[..., Array]:
    """Make a creation function put what it makes on the device of its model."""

    @functools.wraps(function)
    def create(x: Array, /, *arguments: Any, device: Any = None, **keywords: Any) -> Array:
        with x.device if device is None else device:
            return function(x, *arguments, **keywords)

    return create


def _clip(x: Array, /, min: Any = None, max: Any = None) -> Array:  # noqa: A002
    """Clip without a mask: to pick entries by one, as array-api-compat does, the host must wait."""
    import cupy

    if min is not None:
        x = cupy.maximum(x, min)
    return x if max is None else cupy.minimum(x, max)


@functools.cache
def _namespace() -> Namespace:
    import array_api_compat.cupy as compat

    namespace = SimpleNamespace(**vars(compat))
    namespace.clip = _clip
    for name in ("arange", "empty", "eye", "full", "linspace", "ones", "zeros"):
        setattr(namespace, name, _there(getattr(compat, name)))
    for name in ("empty_like", "full_like", "ones_like", "zeros_like"):
        setattr(namespace, name, _beside(getattr(compat, name)))
    return cast("Namespace", namespace)


# -- the backend -----------------------------------------------------------------------------------


class CupyBackend(Backend):
    """CuPy arrays on any CUDA device.

    Nothing here waits for the device but `to_numpy` and `synchronize`, and nothing but `to_numpy`
    brings data back: labels are not looked at, and a wrong one gives NaN in its row.
    """

    name = "cupy"
    defects = Path(__file__).with_name("cupy_defects.txt")

    def __init__(self) -> None:
        super().__init__()
        self._found = False

    def why_unavailable(self) -> str | None:
        if self._found:  # what is missing may come, what is there stays
            return None
        reason = _why_not()
        self._found = reason is None
        return reason

    @property
    def namespace(self) -> Namespace:
        return _namespace()

    def owns(self, array: object) -> bool:
        cupy = sys.modules.get("cupy")  # who has an array of CuPy's has imported it
        kind = getattr(cupy, "ndarray", None)
        return kind is not None and isinstance(array, kind)

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            half=("float16",),
            exact_sums=False,  # across the contiguous axis each thread adds one by one
            flushes_subnormals=True,  # CuPy compiles all its kernels with -ftz=true
            on_host=False,
        )

    def asarray(self, value: Any, *, dtype: DType | None = None, device: Any = None) -> Array:
        import cupy

        host = np.asarray(value)
        if not host.dtype.isnative:
            host = host.astype(host.dtype.newbyteorder("="))
        with quiet(), contextlib.nullcontext() if device is None else device:
            return cupy.array(host, dtype=dtype)

    def cast(self, array: Array, dtype: DType) -> Array:
        with array.device:
            return array.astype(dtype)

    def number(self, value: float, *, dtype: DType, device: Any) -> float:
        # It goes to kernels by value: one in memory would be there for the calls of one stream.
        return value

    def shares_memory(self, one: Array, other: Array) -> bool:
        import cupy

        return bool(cupy.may_share_memory(one, other))  # compares addresses, on the host

    def to_numpy(self, array: Array) -> Array:
        with array.device:
            return array.get()

    def device(self, array: Array) -> Any:
        return array.device

    def beside(self, array: Array) -> contextlib.AbstractContextManager[Any]:
        return cast("contextlib.AbstractContextManager[Any]", array.device)

    def values_now(self, array: Array) -> Array | None:
        return None

    def synchronize(self) -> None:
        import cupy

        cupy.cuda.get_current_stream().synchronize()

    def run(
        self,
        function: Callable[..., Any],
        arrays: tuple[Array | None, ...],
        parameters: Mapping[str, Any],
    ) -> Any:
        # CuPy computes on the current device only. Streams are each device's own: the current one
        # of this device stays in force.
        first: Any = next(array for array in arrays if hasattr(array, "device"))
        with first.device:
            return function(self.namespace, *arrays, **parameters)

    def kernel(self, work: Work) -> Kernel | str:
        def fallback(*arrays: Array | None) -> Any:
            return self.run(work.function, arrays, work.parameters)

        return _gpu.offer(work, fallback)

"""Dask arrays: ops stay lazy, and run chunk by chunk in the workers.

Work that is row by row or elementwise is one layer, whose tasks run the body or rule on whole rows
through the NumPy backend. Where an axis that is mixed is split, the body runs in phases: the steps
between two reductions together, the reductions as trees over the chunks. Bringing the axis into one
chunk instead would move all the data, and need a worker that can hold such a chunk.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, cast

import array_api_compat
import numpy as np

from opsgrad._typing import Array, DType, Namespace
from opsgrad.backends import get_backend
from opsgrad.backends.protocol import JOINT, Backend, Capabilities, Kernel, Work, not_installed


class DaskBackend(Backend):
    """Dask arrays of NumPy chunks."""

    name = "dask"

    def why_unavailable(self) -> str | None:
        return not_installed("dask", "Dask is not installed: pip install 'opsgrad[dask]'")

    @property
    def namespace(self) -> Namespace:
        import array_api_compat.dask.array as compat

        return cast("Namespace", compat)

    def owns(self, array: object) -> bool:
        return bool(array_api_compat.is_dask_array(array))

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(half=("float16",), lazy=True)

    # -- arrays in and out -----------------------------------------------------------------------

    def asarray(self, value: Any, *, dtype: DType | None = None, device: Any = None) -> Array:
        import dask.array as da

        return da.from_array(np.array(value, dtype=dtype))

    def cast(self, array: Array, dtype: DType) -> Array:
        result: Array = self.run(_astype, (array,), {"dtype": dtype})
        return result

    def asarray_in_pieces(self, value: Any) -> Array:
        import dask.array as da

        array = np.array(value)
        halves = tuple(max(1, (length + 1) // 2) for length in array.shape)
        return da.from_array(array, chunks=halves)

    def asarray_in_rows(self, value: Any) -> Array:
        import dask.array as da

        array = np.array(value)
        half = max(1, (len(array) + 1) // 2) if array.ndim > 1 else -1
        return da.from_array(array, chunks=(half, *(-1,) * (array.ndim - 1))[: array.ndim])

    def to_numpy(self, array: Array) -> Array:
        return np.asarray(array.compute())

    def values_now(self, array: Array) -> Array | None:
        return None

    # -- running ---------------------------------------------------------------------------------

    def run(
        self,
        function: Callable[..., Any],
        arrays: tuple[Array | None, ...],
        parameters: Mapping[str, Any],
    ) -> Any:
        from opsgrad.backends.dask._phases import run_in_phases

        return run_in_phases(function, arrays, parameters)

    def kernel(self, work: Work) -> Kernel | str:
        if not (work.elementwise or work.rowwise) or work.role == "jacobian":
            return "it is not row by row: phases of chunks, and trees over them"
        if work.role == JOINT:
            return "each is a layer of tasks of its own"
        from opsgrad.backends.dask._blocks import run_in_blocks

        def call(*arrays: Any) -> Any:
            out = run_in_blocks(work, arrays)
            return self.run(work.function, arrays, work.parameters) if out is None else out

        return Kernel(call, functools.partial(_words, work))


def _words(work: Work) -> str:
    """Say what runs in the tasks of one layer."""
    offered = get_backend("numpy").kernel(work)
    if isinstance(offered, Kernel):
        what = offered.words() if callable(offered.words) else offered.words
    else:
        what = f"as it is written, because {offered}"
    words = f"a layer of tasks, each the NumPy backend on chunks that belong together: {what}"
    if not work.elementwise:
        words += "; where an axis that is mixed is split, phases with trees over its chunks"
    return words


def _astype(xp: Namespace, array: Array, /, *, dtype: DType) -> Array:
    return xp.astype(array, dtype)

"""Dask arrays: ops stay lazy, and run chunk by chunk when the caller computes them."""

import importlib.util
from typing import Any, cast

import array_api_compat
import numpy as np

from opsgrad._typing import Array, DType, Namespace
from opsgrad.backends.protocol import Backend, Capabilities


class DaskBackend(Backend):
    """Dask arrays of NumPy chunks."""

    name = "dask"

    def why_unavailable(self) -> str | None:
        if importlib.util.find_spec("dask") is None:
            return "Dask is not installed: pip install 'opsgrad[dask]'"
        return None

    @property
    def namespace(self) -> Namespace:
        import array_api_compat.dask.array as compat

        return cast("Namespace", compat)

    def owns(self, array: object) -> bool:
        return bool(array_api_compat.is_dask_array(array))

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(half=("float16",), lazy=True, exact_sums=False)

    def asarray(self, value: Any, *, dtype: DType | None = None, device: Any = None) -> Array:
        import dask.array as da

        return da.from_array(np.array(value, dtype=dtype))

    def asarray_in_pieces(self, value: Any) -> Array:
        import dask.array as da

        array = np.array(value)
        halves = tuple(max(1, (length + 1) // 2) for length in array.shape)
        return da.from_array(array, chunks=halves)

    def to_numpy(self, array: Array) -> Array:
        with np.errstate(all="ignore"):
            return np.asarray(array.compute())

    def values_now(self, array: Array) -> Array | None:
        return None

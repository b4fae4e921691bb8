"""How opsgrad uses the library."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from opsgrad import Backend
from opsgrad.backends import Capabilities, Kernel, Work
from opsgrad_boxed.arrays import Boxed, namespace


class BoxedBackend(Backend):
    """Boxed arrays."""

    name = "boxed"
    namespace = namespace
    capabilities = Capabilities(exact_sums=False)

    def why_unavailable(self) -> str | None:
        return None  # it needs NumPy alone, which is always there

    def owns(self, array: object) -> bool:
        return isinstance(array, Boxed)

    def asarray(self, value: Any, *, dtype: Any = None, device: Any = None) -> Boxed:
        return Boxed(np.array(value, dtype=dtype))

    def to_numpy(self, array: Boxed) -> Any:
        return array.array

    def cast(self, array: Boxed, dtype: Any) -> Boxed:
        with np.errstate(all="ignore"):
            return Boxed(array.array.astype(dtype))

    def shares_memory(self, one: Boxed, other: Boxed) -> bool:
        return np.may_share_memory(one.array, other.array)

    def run(
        self, function: Callable[..., Any], arrays: tuple[Any, ...], parameters: Mapping[str, Any]
    ) -> Any:
        with np.errstate(all="ignore"):
            return function(self.namespace, *arrays, **parameters)

    def kernel(self, work: Work) -> Kernel | str:
        if (work.op, work.role) != ("softmax", "value"):
            return "opsgrad-boxed has a kernel for the value of softmax alone"
        if work.dtype != np.float32:
            return f"opsgrad-boxed's softmax computes in float64, too coarse for {work.dtype}"
        call = functools.partial(softmax, axis=work.parameters["axis"])
        return Kernel(call, "opsgrad-boxed's softmax, rounded once from float64")


def softmax(x: Boxed, /, *, axis: int) -> Boxed:
    """Compute softmax in float64, which makes the plain form exact to the last place of float32."""
    with np.errstate(all="ignore"):
        wide = x.array.astype(np.float64)
        terms = np.exp(wide - np.max(wide, axis=axis, keepdims=True, initial=-np.inf))
        return Boxed((terms / np.sum(terms, axis=axis, keepdims=True)).astype(np.float32))

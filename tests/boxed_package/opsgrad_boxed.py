"""A backend of another package: NumPy arrays in a box that is no NumPy array.

`OPSGRAD_BOXED_BROKEN=1` turns the sign of softmax's gradient, for the suite to find.
"""

import operator
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import array_api_compat.numpy as compat
import numpy as np

from opsgrad import Backend, softmax
from opsgrad.backends.protocol import Capabilities


class Boxed:
    """An array of this package."""

    def __init__(self, array: Any) -> None:
        self.array = np.asarray(array)

    shape = property(lambda self: self.array.shape)
    dtype = property(lambda self: self.array.dtype)
    ndim = property(lambda self: self.array.ndim)
    device = "cpu"

    def __array_namespace__(self, api_version: str | None = None) -> Any:
        return NAMESPACE

    def __getitem__(self, key: Any) -> "Boxed":
        return Boxed(self.array[key])


def unboxed(value: Any) -> Any:
    if isinstance(value, Boxed):
        return value.array
    return [unboxed(one) for one in value] if isinstance(value, list) else value


def boxing(function: Any) -> Any:
    def boxed(*arguments: Any, **keywords: Any) -> Any:
        keywords = {name: unboxed(value) for name, value in keywords.items()}
        out = function(*map(unboxed, arguments), **keywords)
        return Boxed(out) if isinstance(out, np.ndarray | np.generic) else out

    return boxed


for name in ("add", "sub", "mul", "truediv", "matmul", "and", "or"):
    method = getattr(operator, f"__{name}__")
    setattr(Boxed, f"__{name}__", boxing(method))
    setattr(Boxed, f"__r{name}__", boxing(lambda one, other, method=method: method(other, one)))
for name in ("lt", "le", "gt", "ge", "eq", "ne", "neg", "invert"):
    setattr(Boxed, f"__{name}__", boxing(getattr(operator, f"__{name}__")))

NAMESPACE = SimpleNamespace(
    **{
        name: value if isinstance(value, type) or not callable(value) else boxing(value)
        for name, value in vars(compat).items()
    }
)
NAMESPACE.finfo = compat.finfo
NAMESPACE.isdtype = compat.isdtype
NAMESPACE.__array_namespace_info__ = compat.__array_namespace_info__


class BoxedBackend(Backend):
    """The backend."""

    name = "boxed"
    namespace = NAMESPACE
    capabilities = Capabilities(exact_sums=False)
    defects = Path(known) if (known := os.environ.get("OPSGRAD_BOXED_DEFECTS")) else None

    def owns(self, array: object) -> bool:
        return isinstance(array, Boxed)

    def asarray(self, value: Any, *, dtype: Any = None, device: Any = None) -> Boxed:
        return Boxed(np.array(value, dtype=dtype))

    def to_numpy(self, array: Boxed) -> Any:
        return array.array

    def cast(self, array: Boxed, dtype: Any) -> Boxed:
        with np.errstate(all="ignore"):
            return Boxed(array.array.astype(dtype))

    def run(self, function: Any, arrays: Any, parameters: Any) -> Any:
        with np.errstate(all="ignore"):
            out = function(NAMESPACE, *arrays, **parameters)
        broken = os.environ.get("OPSGRAD_BOXED_BROKEN") == "1"
        return -out if broken and function is softmax.rule("vjp").function else out

"""An array library, as small as can be: NumPy arrays in a box that is no NumPy array."""

import operator
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import array_api_compat.numpy as compat
import numpy as np


class Boxed:
    """An array of this library."""

    def __init__(self, array: Any) -> None:
        self.array = np.asarray(array)

    shape = property(lambda self: self.array.shape)
    dtype = property(lambda self: self.array.dtype)
    ndim = property(lambda self: self.array.ndim)
    device = "cpu"

    def __array_namespace__(self, api_version: str | None = None) -> Any:
        return namespace

    def __getitem__(self, key: Any) -> "Boxed":
        return Boxed(self.array[key])

    def __repr__(self) -> str:
        return f"Boxed({self.array})"


def unboxed(value: Any) -> Any:
    """Return what NumPy takes for an array of this library, or a list of them."""
    if isinstance(value, Boxed):
        return value.array
    return [unboxed(one) for one in value] if isinstance(value, list) else value


def boxing(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function of NumPy's as one of this library."""

    def boxed(*arguments: Any, **keywords: Any) -> Any:
        keywords = {name: unboxed(value) for name, value in keywords.items()}
        out = function(*map(unboxed, arguments), **keywords)
        return Boxed(out) if isinstance(out, np.ndarray | np.generic) else out

    return boxed


for _name in ("add", "sub", "mul", "truediv", "matmul", "and", "or"):
    _method = getattr(operator, f"__{_name}__")
    setattr(Boxed, f"__{_name}__", boxing(_method))
    setattr(Boxed, f"__r{_name}__", boxing(lambda one, other, do=_method: do(other, one)))
for _name in ("lt", "le", "gt", "ge", "eq", "ne", "neg", "invert"):
    setattr(Boxed, f"__{_name}__", boxing(getattr(operator, f"__{_name}__")))

namespace: Any = SimpleNamespace(
    **{
        name: value if isinstance(value, type) or not callable(value) else boxing(value)
        for name, value in vars(compat).items()
    }
)
namespace.finfo = compat.finfo
namespace.isdtype = compat.isdtype
namespace.__array_namespace_info__ = compat.__array_namespace_info__

"""The array, and how functions of NumPy run on it."""

import functools
import math
import operator
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

from cupy import cuda
from cupy._history import history

VIEWS = {"broadcast_to", "expand_dims", "matrix_transpose", "moveaxis", "squeeze", "transpose"}
"""Functions that start no kernel, and so run whatever the current device is."""

WAITS = {"argwhere", "flatnonzero", "nonzero", "unique", "unique_values", "array_equal", "allclose"}
"""Functions whose result the host must wait for, to know its shape or value."""


class ndarray:  # noqa: N801
    """An array on a device."""

    __array_ufunc__ = None  # so that NumPy leaves operators to this class

    def __init__(self, host: Any, device: int) -> None:
        self._host = np.asarray(host)
        self._device = device

    shape = property(lambda self: self._host.shape)
    dtype = property(lambda self: self._host.dtype)
    ndim = property(lambda self: self._host.ndim)
    size = property(lambda self: self._host.size)
    strides = property(lambda self: self._host.strides)
    nbytes = property(lambda self: self._host.nbytes)
    flags = property(lambda self: SimpleNamespace(c_contiguous=self._host.flags.c_contiguous))
    data = property(lambda self: SimpleNamespace(ptr=self._host.ctypes.data))
    T = property(lambda self: launch("transpose", np.transpose, self))

    @property
    def device(self) -> cuda.Device:
        return cuda.Device(self._device)

    def astype(self, dtype: Any, copy: bool = True) -> "ndarray":
        if not copy and self.dtype == dtype:
            return self
        return launch("astype", np.ndarray.astype, self, dtype)

    def copy(self) -> "ndarray":
        return launch("copy", np.copy, self)

    def get(self) -> Any:
        history.downloads += 1
        history.wait("get")
        return self._host.copy()

    def __getitem__(self, key: Any) -> "ndarray":
        keys = key if isinstance(key, tuple) else (key,)
        if any(isinstance(one, ndarray) and one.dtype == bool for one in keys):
            history.wait("mask")
        out = self._host[unwrapped(key)]
        if np.may_share_memory(out, self._host):
            return ndarray(out, self._device)
        return launch("getitem", operator.getitem, self, key)

    def __setitem__(self, key: Any, value: Any) -> None:
        launch("setitem", operator.setitem, self, key, value)

    def __len__(self) -> int:
        return len(self._host)

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise TypeError("Implicit conversion to a NumPy array is not allowed")

    def __dlpack__(self, **_: Any) -> Any:
        return self._host.__dlpack__()

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._host.__dlpack_device__()

    __hash__ = None  # type: ignore[assignment]


def unwrapped(value: Any) -> Any:
    """Return arrays of this module, in nests of lists and tuples, as those of NumPy."""
    if isinstance(value, ndarray):
        return value._host
    if isinstance(value, np.ndarray):
        raise TypeError(f"Unsupported type {type(value)}")
    if isinstance(value, list | tuple):
        return type(value)(map(unwrapped, value))
    return value


def arrays_in(value: Any) -> list[ndarray]:
    """Return the arrays of this module in a nest of lists and tuples."""
    if isinstance(value, list | tuple):
        return [array for one in value for array in arrays_in(one)]
    return [value] if isinstance(value, ndarray) else []


def wrapped(value: Any, device: int) -> Any:
    """Return what NumPy computed as arrays on a device."""
    if isinstance(value, tuple):
        return tuple(wrapped(one, device) for one in value)
    return ndarray(value, device) if isinstance(value, np.ndarray | np.generic) else value


def launch(name: str, function: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
    """Run a NumPy function as CuPy runs its kernels: on the current device and stream."""
    current = cuda.current_device()
    given = arrays_in([*arguments, *keywords.values()])
    moves = name in VIEWS or (name == "reshape" and given)
    with np.errstate(all="ignore"):
        plain = {key: unwrapped(value) for key, value in keywords.items()}
        out = function(*map(unwrapped, arguments), **plain)
    if moves and (name in VIEWS or np.may_share_memory(out, given[0]._host)):
        return ndarray(out, given[0]._device)
    for array in given:
        if array._device != current and not name.endswith("_like"):
            raise ValueError(
                "Array device must be same as the current device: "
                f"array device = {array._device} while current = {current}"
            )
    result = wrapped(out, current)
    if name in WAITS:
        history.wait(name)
    if result is not out:
        history.kernels.append((name, current, cuda.get_current_stream().name))
    return result


def launching(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a NumPy function as one of this module."""

    @functools.wraps(function, updated=())
    def run(*arguments: Any, **keywords: Any) -> Any:
        return launch(name, function, *arguments, **keywords)

    return run


def waiting(name: str) -> Callable[[ndarray], Any]:
    """Return the method by which Python asks an array for its value."""

    def method(self: ndarray, *arguments: Any) -> Any:
        history.wait(name)
        return getattr(self._host, name)(*arguments)

    return method


for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or"):
    _do = getattr(operator, f"__{_name}__")
    setattr(ndarray, f"__{_name}__", launching(_name, _do))
    setattr(ndarray, f"__r{_name}__", launching(_name, lambda a, b, do=_do: do(b, a)))
for _name in ("lt", "le", "gt", "ge", "eq", "ne", "neg", "pos", "abs", "invert"):
    setattr(ndarray, f"__{_name}__", launching(_name, getattr(operator, f"__{_name}__")))
for _name in ("bool", "int", "float", "complex", "index", "repr", "str", "format"):
    setattr(ndarray, f"__{_name}__", waiting(f"__{_name}__"))
for _name in ("item", "tolist"):
    setattr(ndarray, _name, waiting(_name))


def array(value: Any, dtype: Any = None, copy: bool = True, order: str = "K") -> ndarray:
    """Bring a NumPy array, a list or a number to the current device."""
    if isinstance(value, ndarray):
        return launch("array", np.array, value, dtype=dtype, copy=copy, order=order)
    host = np.array(value, dtype=dtype, order=order)  # type: ignore[call-overload]
    if host.dtype.kind not in "biufc" or not host.dtype.isnative:
        raise ValueError(f"Unsupported dtype {host.dtype}")
    history.uploads.append((cuda.current_device(), cuda.get_current_stream().name))
    return ndarray(with_margins(host), cuda.current_device())


def from_dlpack(value: Any) -> ndarray:
    """Return another library's array of the CPU as if it were on the current device."""
    return ndarray(np.from_dlpack(value), cuda.current_device())


MARGIN = 512
"""How many bytes before and after an array must stay as they are."""


FILL = 0xFFB5
"""What memory holds before it is written: NaN that no computation leaves as it is, or -1e307."""


def with_margins(host: Any) -> Any:
    """Copy an array, in its order, to where it has margins."""
    out = _between_margins(host.shape, host.dtype, np.empty_like(host).strides)
    out[...] = host
    return out


def _between_margins(shape: Any, dtype: Any, strides: Any = None) -> Any:
    nbytes = math.prod(shape) * np.dtype(dtype).itemsize
    room = np.full((nbytes + 1) // 2 + MARGIN + 256, FILL, np.uint16)
    start = MARGIN + -(room.ctypes.data + MARGIN) % 512  # aligned as CuPy's memory is
    return np.ndarray(shape, dtype, room, start, strides)


def check_margins(one: ndarray) -> None:
    """Raise if a kernel has written beside an array that has margins; a view has none."""
    whole, room = one._host, one._host.base
    if not isinstance(room, np.ndarray) or room.dtype != np.uint16:
        return
    if room.nbytes - whole.nbytes > 2 * MARGIN + 514:
        return
    words = room.view(np.uint8)
    still = words == np.full(room.size, FILL, np.uint16).view(np.uint8)
    start = whole.ctypes.data - room.ctypes.data
    assert still[:start].all(), "a kernel has written before an array"
    assert still[start + whole.nbytes :].all(), "a kernel has written behind an array"


def empty(shape: Any, dtype: Any = float) -> ndarray:
    """Return an array that nothing has been written to."""
    shape = shape if isinstance(shape, tuple) else (shape,)
    return ndarray(_between_margins(shape, dtype), cuda.current_device())


def ascontiguousarray(a: ndarray) -> ndarray:
    """Return an array in C order; on the current device, as every kernel."""
    out = launch("ascontiguousarray", lambda host: np.array(host, order="C"), a)
    return ndarray(with_margins(out._host), out._device)


def asarray(value: Any, dtype: Any = None, order: str = "K") -> ndarray:
    """Bring a value to the current device if it is no array of this module yet."""
    if isinstance(value, ndarray) and dtype in (None, value.dtype):
        return value
    return array(value, dtype=dtype, order=order)


def may_share_memory(one: ndarray, other: ndarray) -> bool:
    """Compare addresses, on the host."""
    return np.may_share_memory(one._host, other._host)

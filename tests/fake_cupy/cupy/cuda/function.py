"""Modules and functions: libraries that the stand-in for the compiler has made."""

import ctypes
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from cupy import _array, cuda
from cupy._history import history


class Module:
    """Code on the device that is current when it is loaded."""

    def load(self, code: bytes) -> None:
        handle, name = tempfile.mkstemp(".so")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(code)
            self._library = ctypes.CDLL(name)
        finally:
            Path(name).unlink()
        self._device = cuda.current_device()

    def get_function(self, name: str) -> "Function":
        return Function(self, name)


class Function:
    """A kernel."""

    def __init__(self, module: Module, name: str) -> None:
        self._module = module
        self._name = name
        self._address = ctypes.cast(module._library[name], ctypes.c_void_p)
        self.ptr = self._address.value

    def __call__(self, grid: tuple[int, ...], block: tuple[int, ...], args: Any) -> None:
        current = cuda.current_device()
        assert self._module._device == current, "the module belongs to another device"
        numbers = []
        for one in args:
            if isinstance(one, _array.ndarray):
                assert one.device.id == current, "an array is on another device"
                numbers.append(one.data.ptr)
            else:
                assert isinstance(one, np.int64), f"the kernel takes no {type(one)}"
                numbers.append(int(one))
        given = (ctypes.c_longlong * len(numbers))(*numbers)
        backwards = int(os.environ.get("FAKE_CUPY_BACKWARDS", "0"))
        launch = self._module._library.emulated_launch
        status = launch(self._address, *grid, *block, backwards, len(numbers), given)
        assert status != 1, f"{self._name}: its threads wait for each other"
        assert status == 0, f"{self._name}: an address is not a multiple of what is read there"
        for one in args:
            if isinstance(one, _array.ndarray):
                _array.check_margins(one)
        history.kernels.append((self._name, current, cuda.get_current_stream().name))
        history.launches.append((self._name, *grid, *block))

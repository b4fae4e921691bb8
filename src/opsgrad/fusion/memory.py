"""Memory of large results, which is kept for the results that follow.

The C library keeps blocks of up to 32 MiB. A larger one is mapped anew for each result, and the
system clears it page by page as the kernel comes to it: relu of 32 MiB takes twice as long.
So what a large result leaves behind is kept for the next one of about its size. It is marked as
free: the system takes such pages when memory runs short, and who writes to them then gets new ones.

NumPy has the memory of an array made and freed by a handler. Ours is written in `memory.ll`, for
arrays are freed at any time, at the very end of the interpreter too. It is in force only while a
large result is made.

There is no pool where the user has set a handler, nor where `MALLOC_TRIM_THRESHOLD_` is set, as in
the workers of Dask: it says that the process is to give back what it does not use, and such workers
pause over what they hold, whether the system could take it back or not.
"""

import ctypes
import functools
import hashlib
import importlib
import math
import mmap
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

LARGE = 1 << 25
"""From so many bytes on an array's memory comes from the pool; the most that glibc keeps itself."""
MOST = 1 << 29
"""The most bytes that are kept in all."""
VARIABLE = "MALLOC_TRIM_THRESHOLD_"
"""The C library's variable that says when memory is given back."""

EMPTY, SET, GET, DEFAULT = 184, 304, 305, 306
"""Places in `numpy_table`: PyArray_Empty, PyDataMem_SetHandler, PyDataMem_GetHandler and
PyDataMem_DefaultHandler."""


def empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """Return what `numpy.empty` does, a large array with memory from the pool."""
    native = _native() if is_large(shape, dtype) else None
    if native is None:
        return np.empty(shape, dtype)
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(dtype))  # the function takes the reference over
    array: np.ndarray[Any, Any] = native.empty(
        len(shape), (ctypes.c_ssize_t * len(shape))(*shape), dtype, 0
    )
    return array


def is_large(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bool:
    """Whether an array's memory is to come from the pool."""
    return math.prod(shape) * dtype.itemsize >= LARGE


def maker() -> int:
    """Return the address of a function like PyArray_Empty, for large arrays; 0 without a pool."""
    native = _native()
    return 0 if native is None else native.address


def numpy_table() -> Any:
    """Return the addresses of NumPy's functions by their places, part of its binary interface."""
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    capsule = _numpy()._ARRAY_API
    return ctypes.cast(pointer(capsule, None), ctypes.POINTER(ctypes.c_void_p))


def _numpy() -> Any:
    return importlib.import_module("numpy._core._multiarray_umath")


# -- native code -----------------------------------------------------------------------------------


class _Native(NamedTuple):
    """The function of `memory.ll` that makes arrays."""

    address: int
    empty: Callable[..., Any]


@functools.cache
def _native() -> _Native | None:
    """Return the machine code, or None where there is no pool."""
    if not sys.platform.startswith("linux") or VARIABLE in os.environ:
        return None
    try:
        return _load() if ctypes.sizeof(ctypes.c_void_p) == 8 else None
    # Whatever is missing, the C library has memory.
    except Exception:
        return None


def _load() -> _Native:
    from opsgrad.fusion import compiler

    text = _text()
    key = f"memory {hashlib.sha256(text.encode()).hexdigest()}"
    symbols = ("empty", "handler", "kind", "python")
    address, handler, kind, python = compiler.load_all(key, lambda: text, symbols)
    new = ctypes.pythonapi.PyCapsule_New
    new.restype, new.argtypes = ctypes.py_object, [ctypes.c_void_p] * 3
    capsule = new(handler, kind, None)
    # Never freed: a call may come after all modules are gone.
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(capsule))
    table = numpy_table()
    words = (ctypes.c_void_p * 5).from_address(python)
    default = ctypes.c_void_p.from_address(table[DEFAULT]).value
    words[:] = [table[EMPTY], table[GET], table[SET], default, id(capsule)]
    arguments = (ctypes.c_int, ctypes.c_void_p, ctypes.py_object, ctypes.c_int)
    return _Native(address, ctypes.PYFUNCTYPE(ctypes.py_object, *arguments)(address))


def _text() -> str:
    """Return the instructions, with the numbers of this system."""
    text = (Path(__file__).parent / "memory.ll").read_text(encoding="utf-8")
    values = {
        "large": LARGE,
        "most": MOST,
        "blocks": MOST // LARGE,
        "page": mmap.PAGESIZE,
        "within": mmap.PAGESIZE - 1,
        "huge": int(_numpy()._get_madvise_hugepage()),
        "name": "opsgrad".ljust(127, "\0").replace("\0", r"\00"),
    }
    for name, value in values.items():
        text = text.replace(f"{{{name}}}", str(value))
    return text

"""Calls of compiled tasks in machine code, from the arguments to the result.

A small kernel takes less time than Python needs to look at one array. So what a call depends on
(data types, shapes, strides) is written into a table, once it has gone the long way: an entry for
each kind of arrays. A function that Python calls without any of its own code, written in
`direct.ll`, compares its arguments with the entries, has NumPy make the outputs, runs the kernel
and returns them. For arguments that no entry is for it returns None, and the long way is taken.

All that an entry refers to is in the table or lasts as long as the process, and the function holds
the table. Large tasks go to the team of `threads`, without the interpreter's lock.
"""

import ctypes
import functools
import hashlib
import re
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np

from opsgrad.fusion import memory, threads
from opsgrad.fusion.form import Form

Call = Callable[..., Any]
Entry = np.ndarray[Any, Any]

MOST_ENTRIES = 8
"""How many kinds of arrays a function knows; the one learnt first is forgotten."""
MOST_ARRAYS = 16
"""The most inputs and outputs of a task."""
_ALIGNMENT = 128
_HEAD = object.__basicsize__
_FASTCALL = 0x80
_RETURN = 76  # PyArray_Return's place in NumPy's table of functions


class Output(NamedTuple):
    """An array that a kernel writes."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    parts: bool
    """Whether its first axis is to be added up."""


class Launch(NamedTuple):
    """What a kernel is called with, besides arrays."""

    kernel: int
    rows: int
    length: int
    rest: int
    strides: Sequence[int]
    scratch: int
    grain: int
    """The fewest rows for a thread; 0: the caller computes alone, and keeps the interpreter's lock,
    for so short that to give it up and take it back would tell."""
    divisor: float | None
    """What the sum of the first output is divided by; None where it is not summed."""


def entry(launch: Launch, inputs: Sequence[Any], outputs: Sequence[Output], form: Form) -> Entry:
    """Return the entry for arrays like `inputs`, which are contiguous or None."""
    given = inputs[len(form.bound) :]
    head = 20
    arguments = [
        word
        for array, classes in zip(given, form.classes or (0,) * len(given), strict=True)
        for word in _described(array, classes)
    ]
    places = form.places or range(len(outputs))
    results = [
        word
        for (shape, dtype, _), place in zip(outputs, places, strict=True)
        for word in (id(dtype), place, len(shape), *shape)
    ]
    large = sum(memory.is_large(one.shape, one.dtype) << k for k, one in enumerate(outputs))
    maker = memory.maker() if large else 0
    begin = head + len(launch.strides)
    size = begin + len(arguments) + len(results)
    words = [
        size,
        len(given),
        len(form.bound),
        *([_bits(form.bound[0])] if form.bound else [0]),
        launch.kernel,
        launch.rows,
        launch.length,
        launch.rest,
        launch.scratch,
        len(outputs),
        -1 if form.size is None else form.size,
        outputs[0].dtype.itemsize,
        *struct.unpack("q", struct.pack("d", launch.divisor or 0.0)),
        head,
        begin,
        begin + len(arguments),
        launch.grain,
        sum(one.parts << number for number, one in enumerate(outputs)),
        large if maker else 0,
        maker,
        *launch.strides,
        *arguments,
        *results,
    ]
    return np.array(words, np.int64)


def _described(array: Any, classes: int) -> list[int]:
    if array is None:
        return [-1, 0, 0]
    return [array.dtype.num, classes, array.ndim, *array.shape, *array.strides]


def _bits(number: Any) -> int:
    """Return an array of one number as a word that has the same bytes at its address."""
    (bits,) = struct.unpack("q", number.tobytes().ljust(8, b"\0"))
    return int(bits)


def joined(one: Entry, call: Call | None) -> Call | None:
    """Return a function that knows `one` and, if there is a call already, what that knows.

    None where there cannot be one.
    """
    native = _native()
    if native is None:
        return None
    entries = [one, *(() if call is None else _entries(call))]
    end = np.zeros(1, np.int64)
    return native.function(np.concatenate([native.header, *entries[:MOST_ENTRIES], end]))


def _entries(call: Call) -> list[Entry]:
    """Return the entries that a function knows."""
    table = cast("Entry", call.__self__)  # type: ignore[attr-defined]
    found, place = [], _HEADER
    while table[place]:
        found.append(table[place : place + table[place]])
        place += table[place]
    return found


# -- native code -----------------------------------------------------------------------------------


class _Method(ctypes.Structure):
    """PyMethodDef."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("function", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("documentation", ctypes.c_char_p),
    )


class _Native(NamedTuple):
    header: Entry
    function: Callable[[Any], Call]


_HEADER = 13


@functools.cache
def _native() -> _Native | None:
    """Return the machine code, or None where it cannot be had or arrays are laid otherwise."""
    try:
        return _load() if _arrays_are_as_expected() else None
    # Whatever is missing, there is the long way.
    except Exception:
        return None


def _load() -> _Native:
    from opsgrad.fusion import compiler

    text = _text()
    key = f"direct {hashlib.sha256(text.encode()).hexdigest()}"
    (address,) = compiler.load_all(key, lambda: text, ("direct",))
    method = _Method(b"direct", address, _FASTCALL, None)
    new = ctypes.pythonapi.PyCFunction_NewEx
    new.restype, new.argtypes = (
        ctypes.py_object,
        [ctypes.c_void_p, ctypes.py_object, ctypes.c_void_p],
    )

    def made(table: Any) -> Call:
        call: Call = new(ctypes.byref(method), table, None)
        return call

    return _Native(np.array(_header(), np.int64), made)


def _header() -> list[int | None]:
    """Return the words that `direct.ll` calls the header."""
    python = ctypes.pythonapi
    table = memory.numpy_table()
    return [
        id(np.ndarray),
        id(None),
        _address(python.Py_IncRef),
        _address(python.Py_DecRef),
        _address(python.PyTuple_New),
        _address(python.PyTuple_SetItem),
        _address(python.PyMem_RawMalloc),
        _address(python.PyMem_RawFree),
        table[memory.EMPTY],
        table[_RETURN],
        _address(python.PyEval_SaveThread),
        _address(python.PyEval_RestoreThread),
        ctypes.addressof(threads.crew_words),
    ]


def _address(function: Any) -> int | None:
    return ctypes.cast(function, ctypes.c_void_p).value


def _arrays_are_as_expected() -> bool:
    """Whether arrays are laid in memory as `direct.ll` has it."""
    array = np.zeros((2, 3), np.float32)
    at, dtype_at = id(array) + _HEAD, id(array.dtype) + _HEAD
    data, _, shape, strides, _, dtype = (ctypes.c_int64 * 6).from_address(at)
    expected = (array.ctypes.data, id(array.dtype), array.ndim, array.flags.num, id(np.ndarray))
    # Addresses come first: only then is there something to look at where they lead.
    return (
        (data, dtype, _small(at + 8), _small(at + 48), _word(at - 8)) == expected
        and (_word(shape), _word(shape + 8)) == array.shape
        and (_word(strides), _word(strides + 8)) == array.strides
        and ctypes.string_at(dtype_at + 10, 1) == b"="
        and _small(dtype_at + 12) == array.dtype.num
    )


def _word(address: int) -> int:
    return ctypes.c_int64.from_address(address).value


def _small(address: int) -> int:
    return ctypes.c_int32.from_address(address).value


def _text() -> str:
    """Return the instructions, with the numbers of this interpreter."""
    text = (Path(__file__).parent / "direct.ll").read_text(encoding="utf-8")
    numbers = {"head": _HEAD, "type": _HEAD - 8, "most": MOST_ARRAYS, "alignment": _ALIGNMENT}
    for name, number in numbers.items():
        text = text.replace(f"{{{name}}}", str(number))
    return re.sub(r"{for real in (.*)}\n(?s:(.*)){end}\n", _for_each, text)


def _for_each(found: "re.Match[str]") -> str:
    """Write a part of the instructions once for each of the types that it names."""
    return "".join(found[2].replace("{real}", real) for real in found[1].split())

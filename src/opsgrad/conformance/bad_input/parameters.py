"""Bad keywords and parameters: unknown, misspelt, of a wrong type, out of range."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from opsgrad.conformance.bad_input.case import OUT_OF_RANGE, Case, good, parameters
from opsgrad.conformance.row import Row

NO_PARAMETERS = ("out", "dtype", "where", "xp", "kept", "y", "g")
OF_OTHER_OPS = ("axis", "keepdims", "reduction", "kind", "p", "b", "margin", "negative_slope")

CHOICES = {
    "reduction": ("none", "mean", "sum"),
    "kind": ("crammer_singer", "weston_watkins"),
}


def unknown_keywords(row: Row, dtype: str) -> Iterator[Case]:
    """Yield calls with keywords that are none of the op's parameters."""
    arrays, own = good(row, dtype), parameters(row)

    def case(kind: str, keyword: str, value: Any, *words: str) -> Case:
        params = {keyword: value}
        return Case(kind=kind, where=keyword, arrays=arrays, params=params, words=(keyword, *words))

    yield case("unknown keyword", "frobnicate", 1, *own, "backend")
    yield case("keyword of NumPy", "dim", 0)
    for keyword in NO_PARAMETERS:
        yield case("keyword of NumPy", keyword, None)
    for keyword in OF_OTHER_OPS:
        if keyword not in own:
            yield case("keyword of another op", keyword, 1)
    for keyword in (*own, "backend"):
        misspelt = (keyword[:-1], keyword + "s", keyword.upper(), keyword[::-1] + "_")
        for word in dict.fromkeys(misspelt):
            if word:
                yield case("misspelt keyword", word, 1)
    yield from _keywords_for_arrays(row, arrays)


def _keywords_for_arrays(row: Row, arrays: tuple[Any, ...]) -> Iterator[Case]:
    by_name = dict(zip(row.arguments, arrays, strict=True))
    for keyword, array in by_name.items():
        kind, params = "keyword for an array that is there", {keyword: array}
        yield Case(kind=kind, where=keyword, arrays=arrays, params=params, words=(keyword,))
    kind, words = "keywords for the arrays", row.arguments
    yield Case(kind=kind, where="all", arrays=(), params=by_name, words=words[:1])
    if len(arrays) > 1:
        rest = dict(list(by_name.items())[1:])
        yield Case(kind=kind, where="the rest", arrays=arrays[:1], params=rest, words=words[1:2])


# -- axis and keepdims -----------------------------------------------------------------------------

NO_AXES: dict[str, Any] = {
    "float": 1.0,
    "NumPy float": np.float64(1),
    "NaN": math.nan,
    "numeric string": "0",
    "string": "last",
    "None": None,
    "bool": True,
    "NumPy bool": np.False_,
    "tuple": (0,),
    "two axes": (0, 1),
    "list": [0],
    "array": np.array([0]),
    "complex": 1j,
    "object": object(),
}

NO_BOOLS: dict[str, Any] = {
    "1": 1,
    "0": 0,
    "float": 1.0,
    "None": None,
    "string": "True",
    "array": np.array(True),
    "list": [True],
    "tuple": (),
}


def bad_axes(row: Row, dtype: str) -> Iterator[Case]:
    """Yield calls with an axis that the array does not have, or that is no integer."""
    if not row.has_axis:
        return
    arrays = good(row, dtype)
    flat = tuple(np.ravel(array) for array in arrays)
    for axis in (2, -3, 7, -7, 10**30, -(10**30)):
        yield Case(
            kind=f"axis={axis:.0e}",
            arrays=arrays,
            params={"axis": axis},
            builtin=OUT_OF_RANGE,
            words=("axis", str(axis), "(5, 4)"),
        )
    for axis in (1, -2):
        yield Case(
            kind="axis of a vector",
            where=str(axis),
            arrays=flat,
            params={"axis": axis},
            builtin=OUT_OF_RANGE,
            words=("axis",),
        )
    for kind, value in NO_AXES.items():
        words = ("axis", repr(value))
        yield Case(kind=f"axis a {kind}", arrays=arrays, params={"axis": value}, words=words)


def bad_keepdims(row: Row, dtype: str) -> Iterator[Case]:
    """Yield calls with a keepdims that is not True or False."""
    if not row.has_keepdims:
        return
    arrays = good(row, dtype)
    for kind, value in NO_BOOLS.items():
        params, words = {"keepdims": value}, ("keepdims", repr(value))
        yield Case(kind=f"keepdims a {kind}", arrays=arrays, params=params, words=words)


# -- words -----------------------------------------------------------------------------------------

NO_WORDS: dict[str, Any] = {
    "None": None,
    "number": 1,
    "bool": True,
    "bytes": b"mean",
    "list": ["mean"],
    "dict": {},
    "function": np.mean,
}


def bad_choices(row: Row, dtype: str) -> Iterator[Case]:
    """Yield calls with a word that is none of those there are for a parameter, or no word."""
    arrays = good(row, dtype)
    for parameter, choices in CHOICES.items():
        if parameter not in parameters(row):
            continue
        others = [word for name, words in CHOICES.items() if name != parameter for word in words]
        near = (choices[1].upper(), choices[1] + " ", choices[1][:-1])
        for value in ("average", "", *near, *others):
            yield Case(
                kind=f"{parameter} unknown",
                where=repr(value),
                arrays=arrays,
                params={parameter: value},
                builtin=ValueError,
                words=(parameter, repr(value), *map(repr, choices)),
            )
        for kind, value in NO_WORDS.items():
            yield Case(
                kind=f"{parameter} a {kind}",
                arrays=arrays,
                params={parameter: value},
                builtin=(TypeError, ValueError),
                words=(parameter, repr(value), *map(repr, choices)),
            )


# -- numbers ---------------------------------------------------------------------------------------

NO_NUMBERS: dict[str, Any] = {
    "string": "1.0",
    "None": None,
    "bool": True,
    "NumPy bool": np.True_,
    "complex": 1j,
    "NumPy complex": np.complex128(1),
    "bytes": b"1",
    "list": [1.0],
    "tuple": (1.0,),
    "array": np.array([1.0, 2.0]),
    "dict": {},
    "class": float,
    "object": object(),
}

ROUNDED = {
    "float32": (1e-60, 1e-46, 3.5e38, 1e60),
    "float16": (1e-60, 1e-8, 65520.0, 1e60),
}
"""Numbers that each data type turns into 0 or infinity."""


def bad_numbers(row: Row, dtype: str) -> Iterator[Case]:
    """Yield calls with a number out of a parameter's range, or with something that is none."""
    arrays = good(row, dtype)
    for parameter, outside in row.refused.items():
        for kind, value in NO_NUMBERS.items():
            words = (parameter, repr(value))
            yield Case(
                kind=f"{parameter} a {kind}", arrays=arrays, params={parameter: value}, words=words
            )
        beyond = (10**400, -(10**400)) if math.inf in outside else ()
        few = outside[:2]
        for value in (*outside, *map(np.float32, few), *map(np.float64, few), *beyond):
            yield Case(
                kind=f"{parameter} out of range",
                where=f"{value!r:.20}",
                arrays=arrays,
                params={parameter: value},
                builtin=ValueError,
                words=(parameter, repr(value)),
            )
        yield from _rounded_away(row, parameter, outside)


def _rounded_away(row: Row, parameter: str, outside: tuple[float, ...]) -> Iterator[Case]:
    """Yield values that the data type of the result turns into 0 or infinity."""
    signs = (1,) if any(-math.inf < value < 0 for value in outside) else (1, -1)
    for dtype, sizes in ROUNDED.items():
        arrays = good(row, dtype)
        for value in (sign * size for sign in signs for size in sizes):
            becomes = "inf" if abs(value) > 1 else "0.0"
            yield Case(
                kind=f"{parameter} rounded in {dtype}",
                where=repr(value),
                arrays=arrays,
                params={parameter: value},
                builtin=ValueError,
                words=(parameter, repr(value), dtype, becomes),
            )

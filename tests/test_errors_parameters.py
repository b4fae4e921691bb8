"""Bad keywords and parameters are refused by every op that has them, and by its transforms."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
from refusal import (
    OUT_OF_RANGE,
    Case,
    good,
    parameters,
    parametrize,
    refused_by_every_route,
)

from opsgrad.conformance import TABLE

INF = math.inf
NAN = math.nan


class Limits(NamedTuple):
    """Which values of a floating-point parameter are refused."""

    bad: tuple[float, ...]
    infinite: bool = False


# numerics.md, section 4: b > 0, p > 0 or infinity, margin >= 0; a slope is any finite number.
LIMITS = {
    "negative_slope": Limits(bad=(NAN, INF, -INF)),
    "b": Limits(bad=(NAN, INF, -INF, 0.0, -0.0, -1.0, -1e-300)),
    "p": Limits(bad=(NAN, -INF, 0.0, -0.0, -1.0, -1e-300), infinite=True),
    "margin": Limits(bad=(NAN, INF, -INF, -1.0, -1e-300)),
}

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

CHOICES = {
    "reduction": ("none", "mean", "sum"),
    "kind": ("crammer_singer", "weston_watkins"),
}

NO_CHOICES: dict[str, Any] = {
    "None": None,
    "number": 1,
    "bool": True,
    "bytes": b"mean",
    "list": ["mean"],
    "dict": {},
    "function": np.mean,
}


def unknown_keywords(name: str) -> Iterator[Case]:
    arrays, row, own = good(name), TABLE[name], parameters(name)
    every = {p for other in TABLE for p in parameters(other)}

    def case(kind: str, keyword: str, value: Any, where: str = "") -> Case:
        return Case(name, kind, arrays, {keyword: value}, TypeError, (keyword,), where)

    yield case("unknown keyword", "frobnicate", 1)
    yield case("keyword of NumPy", "dim", 0, "dim")
    for keyword in ("out", "dtype", "where", "xp", "kept", "y", "g"):
        yield case("keyword of NumPy", keyword, None, keyword)
    for keyword in sorted(every - {*own}):
        yield case("keyword of another op", keyword, 1, keyword)
    for keyword in (*own, "backend"):
        for misspelt in {keyword[:-1], keyword + "s", keyword.upper(), keyword[::-1] + "_"} - {""}:
            yield case("misspelt keyword", misspelt, 1, misspelt)
    for keyword, array in zip(row.arguments, arrays, strict=True):
        yield case("keyword for an array that is there", keyword, array, keyword)
    by_name = dict(zip(row.arguments, arrays, strict=True))
    words = row.arguments[:1]
    yield Case(name, "keywords for the arrays", (), by_name, TypeError, words, "all")
    if len(arrays) > 1:
        rest = dict(list(by_name.items())[1:])
        words = row.arguments[1:2]
        yield Case(name, "keywords for the arrays", arrays[:1], rest, TypeError, words, "the rest")


def bad_axes(name: str) -> Iterator[Case]:
    arrays = good(name)
    flat = tuple(np.ravel(array) for array in arrays)
    for axis in (2, -3, 7, -7, 10**30, -(10**30)):
        words = ("axis", str(axis), "(5, 4)")
        yield Case(name, f"axis={axis:.0e}", arrays, {"axis": axis}, OUT_OF_RANGE, words)
    for axis in (1, -2):
        yield Case(
            name, "axis of a vector", flat, {"axis": axis}, OUT_OF_RANGE, ("axis",), f"{axis}"
        )
    for kind, axis in {
        "float": 1.0,
        "NumPy float": np.float64(1),
        "NaN": NAN,
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
    }.items():
        yield Case(name, f"axis a {kind}", arrays, {"axis": axis}, TypeError, ("axis", repr(axis)))


def bad_keepdims(name: str) -> Iterator[Case]:
    for kind, value in {
        "1": 1,
        "0": 0,
        "float": 1.0,
        "None": None,
        "string": "True",
        "array": np.array(True),
        "list": [True],
        "tuple": (),
    }.items():
        words = ("keepdims", repr(value))
        yield Case(name, f"keepdims a {kind}", good(name), {"keepdims": value}, TypeError, words)


def bad_choices(name: str, parameter: str) -> Iterator[Case]:
    arrays, choices = good(name), CHOICES[parameter]
    other = next(words for name, words in CHOICES.items() if name != parameter)
    unknown = ("average", "", choices[1].upper(), choices[1] + " ", choices[1][:-1], *other)
    for value in unknown:
        words = (parameter, repr(value), *map(repr, choices))
        kind = f"{parameter} unknown"
        yield Case(name, kind, arrays, {parameter: value}, ValueError, words, repr(value))
    for kind, value in NO_CHOICES.items():
        words = (parameter, repr(value), *map(repr, choices))
        builtin = (TypeError, ValueError)
        yield Case(name, f"{parameter} a {kind}", arrays, {parameter: value}, builtin, words)


def bad_numbers(name: str, parameter: str) -> Iterator[Case]:
    arrays, limits = good(name), LIMITS[parameter]
    for kind, value in NO_NUMBERS.items():
        words = (parameter, repr(value))
        yield Case(name, f"{parameter} a {kind}", arrays, {parameter: value}, TypeError, words)
    values = (*limits.bad, *map(np.float32, limits.bad[:2]), *map(np.float64, limits.bad[:2]))
    if not limits.infinite:
        values += (10**400, -(10**400))
    for value in values:
        kind = f"{parameter} out of range"
        words = (parameter, repr(value))
        where = f"{value!r:.20}"
        yield Case(name, kind, arrays, {parameter: value}, ValueError, words, where)
    # A value that the data type of the result turns into 0 or infinity.
    signs = (1, -1) if parameter == "negative_slope" else (1,)
    for dtype, sizes in {
        "float32": (1e-60, 1e-46, 3.5e38, 1e60),
        "float16": (1e-60, 1e-8, 65520.0, 1e60),
    }.items():
        for value in (sign * size for sign in signs for size in sizes):
            becomes = "inf" if abs(value) > 1 else "0.0"
            words = (parameter, repr(value), dtype, becomes)
            kind, arrays = f"{parameter} rounded in {dtype}", good(name, dtype)
            yield Case(name, kind, arrays, {parameter: value}, ValueError, words, repr(value))


def bad_parameters(name: str) -> Iterator[Case]:
    for parameter in parameters(name):
        if parameter == "axis":
            yield from bad_axes(name)
        elif parameter == "keepdims":
            yield from bad_keepdims(name)
        elif parameter in CHOICES:
            yield from bad_choices(name, parameter)
        else:
            yield from bad_numbers(name, parameter)


@parametrize(case for name in TABLE for case in unknown_keywords(name))
def test_keywords_that_are_none_of_the_ops_parameters_are_refused(cases: list[Case]) -> None:
    refused_by_every_route(cases)


@parametrize(case for name in TABLE for case in bad_parameters(name))
def test_parameters_of_wrong_type_or_out_of_range_are_refused(cases: list[Case]) -> None:
    refused_by_every_route(cases)


@pytest.mark.parametrize("name", TABLE)
def test_the_parameters_are_those_that_the_table_knows(name: str) -> None:
    row, own = TABLE[name], set(parameters(name))
    expected = {parameter for variant in row.variants for parameter in variant}
    expected |= {"axis"} if row.has_axis else set()
    expected |= {"keepdims"} if row.has_keepdims else set()
    expected |= {"reduction"} if row.has_reduction else set()
    assert own == expected


@pytest.mark.parametrize("name", TABLE)
def test_an_unknown_keyword_is_answered_with_those_there_are(name: str) -> None:
    with pytest.raises(TypeError) as caught:
        TABLE[name].op(*good(name), frobnicate=1)
    for parameter in (*parameters(name), "backend"):
        assert parameter in str(caught.value)

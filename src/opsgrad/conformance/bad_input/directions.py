"""Bad cotangents and tangents: no arrays, wrong data types, wrong shapes, wrong numbers of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import numpy as np

from opsgrad.conformance.bad_input.case import (
    Arrays,
    Builtin,
    Case,
    arguments,
    good,
    replaced,
)
from opsgrad.conformance.row import LABELS, Row

Spoil: TypeAlias = Callable[[Any], Any]

NO_ARRAYS: dict[str, Spoil] = {
    "None": lambda a: None,
    "string": lambda a: "abc",
    "dict": lambda a: {},
    "object": lambda a: object(),
    "function": lambda a: len,
    "array class": lambda a: np.ndarray,
    "generator": lambda a: iter(a.ravel()),
    "list of strings": lambda a: a.astype(str).tolist(),
    "list of None": lambda a: np.full(a.shape, None).tolist(),
    "list of bools": lambda a: (a > 0).tolist(),
    "ragged list": lambda a: [[0.5], [0.5, 0.5]],
    "masked array": np.ma.masked_array,
}

WRONG_DTYPES: dict[str, Spoil] = {
    "integers": lambda a: a.astype(np.int32),
    "unsigned integers": lambda a: a.astype(np.uint8),
    "bools": lambda a: a > 0,
    "complex numbers": lambda a: a + 0j,
    "objects": lambda a: a.astype(object),
    "strings": lambda a: a.astype(str),
    "datetimes": lambda a: a.astype(np.int64).astype("M8[s]"),
}

WRONG_SHAPES: dict[str, Spoil] = {
    "one axis more": lambda a: a[..., None],
    "one axis more in front": lambda a: a[None],
    "one entry more": lambda a: np.full(tuple(n + 1 for n in a.shape) or 2, 0.5, a.dtype),
    "a number for all": lambda a: 0.5 if a.ndim else [0.5],
    "0-d for all": lambda a: np.full(() if a.ndim else 1, 0.5, a.dtype),
    "one entry for all": lambda a: np.full((1,) * a.ndim or (1, 1), 0.5, a.dtype),
    "transposed": lambda a: a.T if a.ndim > 1 else a[:, None],
    "flat": lambda a: a.ravel() if a.ndim > 1 else a[None],
    "the whole in a tuple": lambda a: (a,),
    "list of another length": lambda a: [0.5] * (len(a) + 1),
    "empty": lambda a: np.empty(0, a.dtype),
    "empty list": lambda a: [],
}

SPOILS = NO_ARRAYS | WRONG_DTYPES | WRONG_SHAPES
NEEDS_AXES = {
    "list of strings",
    "list of None",
    "list of bools",
    "transposed",
    "flat",
    "list of another length",
}
"""The kinds of spoilt arrays that there are none of for a number."""


def _refusal(kind: str, bad: Any, like: Any) -> tuple[Builtin, tuple[str, ...]]:
    """Return the builtin that a direction's refusal is caught as, and what it has to mention."""
    if kind in WRONG_SHAPES:
        return ValueError, (str(np.shape(bad)), str(like.shape))
    if kind in WRONG_DTYPES:
        return TypeError, (str(bad.dtype),)
    if kind == "ragged list":
        return (TypeError, ValueError), ()
    return TypeError, () if isinstance(bad, list) else (type(bad).__name__.replace("Type", ""),)


def bad_cotangents(row: Row, dtype: str) -> Iterator[Case]:
    """Yield cotangents that the pullback must refuse, for values and for a reduced loss."""
    arrays = good(row, dtype)
    yield from _cotangents_like(np.asarray(row.op(*arrays)), arrays, {})
    if row.has_reduction:
        yield from _cotangents_like(np.asarray(0.5, dtype), arrays, {"reduction": "mean"})


def _cotangents_like(y: Any, arrays: Arrays, params: dict[str, Any]) -> Iterator[Case]:
    where = ", ".join(params.values())
    for kind, spoil in SPOILS.items():
        if not y.ndim and kind in NEEDS_AXES:
            continue
        bad = spoil(y)
        builtin, got = _refusal(kind, bad, y)
        yield Case(
            kind=f"cotangent: {kind}",
            where=where,
            arrays=arrays,
            params=params,
            cotangents=(bad,),
            builtin=builtin,
            words=("cotangent", *got),
        )
    for several in ((), (y, y)):
        yield Case(
            kind=f"{len(several)} cotangents",
            where=where,
            arrays=arrays,
            params=params,
            cotangents=several,
            words=("cotangent", str(len(several))),
        )


def bad_tangents(row: Row, dtype: str) -> Iterator[Case]:
    """Yield tangents that the JVP must refuse."""
    arrays = good(row, dtype)
    tangents = tuple(
        array if floating else None
        for array, floating in zip(arrays, row.differentiable, strict=True)
    )
    for place, name in enumerate(row.arguments):
        if tangents[place] is None:
            continue
        for kind, spoil in SPOILS.items():
            bad = spoil(arrays[place])
            builtin, got = _refusal(kind, bad, arrays[place])
            yield Case(
                kind=f"tangent: {kind}",
                where=name,
                arrays=arrays,
                tangents=replaced(tangents, place, bad),
                builtin=builtin,
                words=("tangent", name, *got),
            )
    if len(arrays) > 1 and tangents[-1] is not None:
        # Nothing is moved before all are checked, not even a list.
        yield Case(
            kind="tangent beside a list",
            arrays=arrays,
            tangents=(arrays[0].tolist(), *tangents[1:-1], arrays[-1] > 0),
            words=("tangent", row.arguments[-1], "bool"),
        )
    yield from _tangents_where_there_are_none(row, arrays, tangents)
    yield from _counts_of_tangents(arrays)


def _tangents_where_there_are_none(row: Row, arrays: Arrays, tangents: Arrays) -> Iterator[Case]:
    """Yield tangents of labels, of integers and of an array that is left out."""

    def case(kind: str, where: str, primals: Arrays, place: int, tangent: Any) -> Case:
        return Case(
            kind=kind,
            where=where,
            arrays=primals,
            tangents=replaced(tangents, place, tangent),
            words=("tangent", row.arguments[place], "None"),
        )

    for place, argument in enumerate(arguments(row)):
        array, name = arrays[place], argument.name
        if name == LABELS:
            floats = array.astype(arrays[0].dtype) * 0
            for where, bad in {"zeros": array * 0, "float zeros": floats, "zero": 0}.items():
                yield case("tangent of labels", where, arrays, place, bad)
        else:
            whole = replaced(arrays, place, array.astype(np.int64))
            yield case("tangent of integers", name, whole, place, array)
        if argument.default is not argument.empty:
            missing = replaced(arrays, place, None)
            yield case("tangent of an array left out", name, missing, place, array)


def _counts_of_tangents(arrays: Arrays) -> Iterator[Case]:
    for count in (len(arrays) - 1, len(arrays) + 1, len(arrays) + 2):
        tangents = (arrays + arrays[:1] * 2)[:count]
        word = "tangent" if count == 1 else "tangents"
        yield Case(
            kind=f"{count} tangents",
            arrays=arrays,
            tangents=tangents,
            words=(word, str(len(arrays)), str(count)),
        )

"""Bad arrays: too many, no arrays, wrong data types, shapes that do not fit, labels of no class."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from opsgrad.conformance.bad_input.case import (
    BATCH,
    CLASSES,
    OUT_OF_RANGE,
    SHAPE,
    Arrays,
    Case,
    arguments,
    good,
    replaced,
    required,
    zero_dimensional,
)
from opsgrad.conformance.row import LABELS, Misfit, Row

TARGETS = ("targets", "target")
"""The roles of what has the first array's shape."""


def wrong_counts(row: Row, dtype: str) -> Iterator[Case]:
    """Yield calls with too few arrays or too many."""
    arrays, names, least = good(row, dtype), row.arguments, required(row)
    yield Case(kind="no arrays", arrays=(), words=names[:1])
    if least > 1:
        yield Case(kind="one array too few", arrays=arrays[: least - 1], words=names[:least])
    yield Case(kind="one array too many", arrays=(*arrays, arrays[0]), words=names)
    yield Case(kind="a parameter by position", arrays=(*arrays, -1), words=names)
    yield Case(kind="the arrays in a tuple and more", arrays=(arrays, *arrays), words=names[:1])


# -- no arrays of real numbers ---------------------------------------------------------------------

NO_ARRAYS: dict[str, Callable[[], tuple[Any, ...]]] = {
    "None": lambda: (None,),
    "text": lambda: ("abc", "1.5", b"ab"),
    "mapping or set": lambda: ({"x": 1.0}, {1.0}, frozenset({1.0})),
    "object": lambda: (object(), slice(None), ...),
    "function or module": lambda: (len, np.sin, np),
    "class or data type": lambda: (np.ndarray, np.float64, np.dtype("float64")),
    "generator": lambda: ((float(k) for k in range(3)),),
}

WRONG_DTYPES: dict[str, Callable[[Any], tuple[Any, ...]]] = {
    "bools": lambda a: (a > 0, np.True_, np.asarray(True)),
    "complex numbers": lambda a: (a + 0j, a.astype(np.complex64), np.complex128(1)),
    "array of objects": lambda a: (a.astype(object),),
    "array of text": lambda a: (a.astype(str), a.astype("S32"), np.str_("1")),
    "array of times": lambda a: (a.astype("i8").astype("M8[s]"), a.astype("i8").astype("m8[s]")),
    "structured array": lambda a: (np.zeros(a.shape, [("a", float), ("b", float)]),),
}

WRONG_LISTS: dict[str, Callable[[Any], Any]] = {
    "bools": lambda a: (a > 0).tolist(),
    "complex numbers": lambda a: (a + 0j).tolist(),
    "strings": lambda a: a.astype(str).tolist(),
    "objects": lambda a: [[None, {}, object()][k % 3] for k in range(len(a))],
}


def no_arrays(row: Row, dtype: str) -> Iterator[Case]:
    """Yield calls with something that is no array in place of each array."""
    arrays = good(row, dtype)
    for place, argument in enumerate(arguments(row)):
        optional = argument.default is not argument.empty
        array = arrays[place]
        values = [
            (kind, value)
            for kind, make in NO_ARRAYS.items()
            for value in (*make(), *((row.op,) if kind == "object" else ()))
            if not (optional and value is None)
        ]
        values.append(("masked array", np.ma.masked_array(array)))
        for number, (kind, value) in enumerate(values):
            got = "None" if value is None else type(value).__name__
            yield Case(
                kind=kind,
                where=f"{argument.name}, {number}: {got}",
                arrays=replaced(arrays, place, value),
                words=(argument.name, got),
            )
        yield Case(
            kind="ragged list",
            where=argument.name,
            arrays=replaced(
                arrays, place, [0.5, [0.5]] if array.ndim == 1 else [[0.5], [0.5, 0.5]]
            ),
            builtin=(TypeError, ValueError),  # NumPy says ValueError; that it is no array is true
            words=(argument.name,),
        )


def wrong_dtypes(row: Row, dtype: str) -> Iterator[Case]:
    """Yield calls with an array or a list of no real numbers in place of each array."""
    arrays = good(row, dtype)
    for place, name in enumerate(row.arguments):
        for kind, spoil in WRONG_DTYPES.items():
            for number, bad in enumerate(spoil(arrays[place])):
                yield Case(
                    kind=kind,
                    where=f"{name}, {number}: {bad.dtype}",
                    arrays=replaced(arrays, place, bad),
                    words=(name, str(bad.dtype)),
                )
        for kind, listed in WRONG_LISTS.items():
            call = replaced(arrays, place, listed(arrays[place]))
            yield Case(kind=f"list of {kind}", where=name, arrays=call, words=(name,))
    if LABELS in row.arguments:
        yield from _floating_labels(*arrays)


def _floating_labels(scores: Any, labels: Any) -> Iterator[Case]:
    bad: dict[str, Any] = {
        "float64": labels.astype(np.float64),
        "float32": labels.astype(np.float32),
        "list of floats": labels.astype(np.float64).tolist(),
        "one-hot": np.eye(CLASSES, dtype=scores.dtype)[labels],
        "NaN": np.full(BATCH, np.nan, scores.dtype),
    }
    for kind, value in bad.items():
        words = (LABELS, str(np.asarray(value).dtype))
        yield Case(kind=f"labels: {kind}", arrays=(scores, value), words=words)


# -- shapes ----------------------------------------------------------------------------------------


def wrong_shapes(row: Row, dtype: str) -> Iterator[Case]:
    """Yield calls whose arrays do not fit each other, or have no axis where one is needed."""
    if row.has_axis:
        yield from _no_axes(row, dtype)
    if {*TARGETS} & {*row.arguments}:
        yield from _misshapen_targets(row, dtype)
    if LABELS in row.arguments:
        yield from _misshapen_labels(row, dtype)
    for misfit in row.misfits:
        yield from _misfit(misfit, dtype)


def _no_axes(row: Row, dtype: str) -> Iterator[Case]:
    arrays, words = zero_dimensional(row, dtype), row.arguments[:1]
    for kind, scalars in {
        "0-d arrays": arrays,
        "numbers": tuple(one.item() for one in arrays),
        "NumPy scalars": tuple(one[()] for one in arrays),
    }.items():
        yield Case(kind=kind, arrays=scalars, builtin=OUT_OF_RANGE, words=words)
    yield Case(
        kind="0-d arrays, axis=0",
        arrays=arrays,
        params={"axis": 0},
        builtin=OUT_OF_RANGE,
        words=words,
    )


def _misshapen_targets(row: Row, dtype: str) -> Iterator[Case]:
    first, word = good(row, dtype)[0], row.arguments[1]
    bad = {
        "fewer classes": (BATCH, CLASSES - 1),
        "fewer examples": (BATCH - 1, CLASSES),
        "transposed": (CLASSES, BATCH),
        "one row for all": (CLASSES,),
        "one row for all, in 2-d": (1, CLASSES),
        "one column for all": (BATCH, 1),
        "without the classes": (BATCH,),
        "one axis more": (*SHAPE, 1),
        "one axis more in front": (1, *SHAPE),
        "0-d": (),
        "empty": (0, CLASSES),
    }
    for kind, shape in bad.items():
        array = np.full(shape, 0.5, dtype)
        for where, value in (("", array), ("in a list", array.tolist())):
            yield Case(
                kind=f"{word} {kind}",
                where=where,
                arrays=(first, value),
                builtin=ValueError,
                words=(word, str(SHAPE), str(np.shape(value))),
            )
    line, column = np.full(3, 0.5, dtype), np.full((3, 1), 0.5, dtype)
    for kind, pair in {
        "(3,) with (3, 1)": (line, column),
        "(3, 1) with (3,)": (column, line),
    }.items():
        yield Case(kind=kind, arrays=pair, builtin=ValueError, words=(word, "(3,)", "(3, 1)"))


def _misshapen_labels(row: Row, dtype: str) -> Iterator[Case]:
    scores, labels = good(row, dtype)
    bad: dict[str, Any] = {
        "one-hot": np.eye(CLASSES, dtype=np.int64)[labels],
        "one too few": labels[:-1],
        "one too many": np.append(labels, 0),
        "one for all": labels[:1],
        "0-d": np.asarray(0),
        "column": labels[:, None],
        "row": labels[None],
        "empty": labels[:0],
    }
    for kind, array in bad.items():
        for where, value in (("", array), ("in a list", array.tolist())):
            yield Case(
                kind=f"labels {kind}",
                where=where,
                arrays=(scores, value),
                builtin=ValueError,
                words=(LABELS, row.arguments[0], f"({BATCH},)", str(np.shape(value))),
            )
    yield Case(
        kind="labels without another axis",
        arrays=(scores, labels),
        params={"axis": 0},
        builtin=ValueError,
        words=(LABELS,),
    )
    yield Case(
        kind="labels of one row",
        arrays=(scores[0], labels[:1]),
        builtin=ValueError,
        words=(LABELS, "()"),
    )


def _misfit(misfit: Misfit, dtype: str) -> Iterator[Case]:
    arrays = tuple(np.full(shape, 0.5, dtype) for shape in misfit.shapes)
    lists = (arrays[0], *(array.tolist() for array in arrays[1:]))
    for where, call in (("", arrays), ("in lists", lists)):
        yield Case(
            kind=misfit.why, where=where, arrays=call, builtin=ValueError, words=misfit.words
        )


# -- labels ----------------------------------------------------------------------------------------

NO_CLASSES: dict[str, Any] = {
    "-1": -1,
    "the number of classes": CLASSES,
    "minus the number of classes": -CLASSES,
    "far out": 2**62,
    "the smallest int64": np.iinfo(np.int64).min,
    "-1 in int8": np.int8(-1),
    "the smallest int8": np.int8(-128),
    "-1 in int16": np.int16(-1),
    "-1 in int32": np.int32(-1),
    "the largest uint8": np.uint8(255),
    "the largest uint16": np.uint16(2**16 - 1),
    "the largest uint32": np.uint32(2**32 - 1),
    "2**63 in uint64": np.uint64(2**63),
    "the largest uint64": np.uint64(2**64 - 1),
}


def labels_of_no_class(row: Row, dtype: str) -> Iterator[Case]:
    """Yield calls with integer labels of the right shape that name no class."""
    if LABELS not in row.arguments:
        return
    scores, labels = good(row, dtype)
    one_of_each_kind = {params.get("kind"): params for params in row.variants}.values()
    for kind, value in NO_CLASSES.items():
        spoilt = labels.astype(getattr(value, "dtype", np.int64))
        spoilt[2] = value
        words = (str(value), f"[0, {CLASSES})", "(2,)")
        for params in one_of_each_kind:
            where = str(params.get("kind", ""))
            yield _label(f"label {kind}", scores, spoilt, *words, where=where, **params)
    wide = np.full((BATCH, 200), 0.5, dtype)
    wraps = np.full(BATCH, -56, np.int8)
    yield _label("label -56 that wraps to 200", wide, wraps, "-56")
    yield _label("label of a single row", scores[0], np.asarray(CLASSES), "4")
    yield _label("label for no classes", scores[:, :0], labels * 0, "[0, 0)")
    along = np.zeros(CLASSES, np.int64) + BATCH
    yield _label("label along axis 0", scores, along, "[0, 5)", axis=0)
    several = np.asarray([labels[0], 7, 8, 9, -1])
    yield _label("several labels", scores, several, "got 7 at index (1,)")


def listed_labels_of_no_class(row: Row, dtype: str) -> Iterator[Case]:
    """Yield the same with labels in lists, which every library can look at."""
    if LABELS not in row.arguments:
        return
    scores, labels = good(row, dtype)
    for kind, value in NO_CLASSES.items():
        spoilt = [*labels.tolist()[:2], int(value), *labels.tolist()[3:]]
        # NumPy makes floats of a list with integers of 64 bits without a sign.
        words = (f"[0, {CLASSES})", "(2,)") if value < 2**63 else ()
        yield _label(f"label {kind}", scores, spoilt, str(value), *words, where="in a list")
    for value in (2**63, 2**64 - 1, 2**70, -(2**70)):
        spoilt = [*labels.tolist()[:-1], value]
        yield _label("label beyond 64 bits", scores, spoilt, str(value), where=str(value))


def _label(
    kind: str, scores: Any, labels: Any, /, *words: str, where: str = "", **params: Any
) -> Case:
    return Case(
        kind=kind,
        where=where,
        arrays=(scores, labels),
        params=params,
        builtin=OUT_OF_RANGE,
        words=(LABELS, *words),
    )


def unseen(case: Case) -> Arrays:
    """Return which labels of a case name no class, and the labels with those made good."""
    scores, labels = case.arrays
    classes = scores.shape[case.params.get("axis", -1)]
    bad = (labels < 0) | (labels >= classes)
    return bad, np.where(bad, 0, labels).astype(labels.dtype)

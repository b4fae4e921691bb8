"""Bad arrays are refused by every op: too many, no arrays, wrong data types, shapes and labels."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from refusal import (
    BATCH,
    CLASSES,
    OUT_OF_RANGE,
    SHAPE,
    Case,
    arguments,
    good,
    parametrize,
    refused,
    refused_by_every_route,
    replaced,
    zero_dimensional,
)

import opsgrad as og
from opsgrad.conformance import TABLE

TARGET_OPS = [name for name, row in TABLE.items() if {"targets", "target"} & {*row.arguments}]
LABEL_OPS = [name for name, row in TABLE.items() if "labels" in row.arguments]
AXIS_OPS = [name for name, row in TABLE.items() if row.has_axis]


# Numbers of arrays


def wrong_counts(name: str) -> Iterator[Case]:
    arrays, names = good(name), TABLE[name].arguments
    required = sum(one.default is one.empty for one in arguments(name))
    yield Case(name, "no arrays", (), words=(names[0],))
    if required > 1:
        yield Case(name, "one array too few", arrays[: required - 1], words=names[:required])
    yield Case(name, "one array too many", (*arrays, arrays[0]), words=names)
    yield Case(name, "a parameter by position", (*arrays, -1), words=names)
    yield Case(name, "the arrays in a tuple and more", (arrays, *arrays), words=names[:1])


def test_the_table_names_every_array_argument() -> None:
    for name, row in TABLE.items():
        assert row.arguments == tuple(one.name for one in arguments(name))


@pytest.mark.parametrize("name", TABLE)
def test_a_jacobian_without_an_array_is_refused(name: str) -> None:
    op = TABLE[name].op
    refused(lambda: og.jacobian(op), TypeError, name, TABLE[name].arguments[0], op=op)


@pytest.mark.parametrize("name", TABLE)
def test_value_and_grad_without_arrays_does_not_blame_argnums(name: str) -> None:
    with pytest.raises(TypeError, match=name) as caught:
        og.value_and_grad(TABLE[name].op)()
    assert "argnums" not in str(caught.value)


# Things that are no arrays, and arrays of no real numbers: each kind in place of each argument

NO_ARRAYS: dict[str, tuple[Any, ...]] = {
    "None": (None,),
    "text": ("abc", "1.5", b"ab"),
    "mapping or set": ({"x": 1.0}, {1.0}, frozenset({1.0})),
    "object": (object(), slice(None), ..., og.softmax),
    "function or module": (len, np.sin, np),
    "class or data type": (np.ndarray, np.float64, np.dtype("float64")),
    "generator": ((float(k) for k in range(3)),),
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


def wrong_values(array: Any, *, optional: bool) -> Iterator[tuple[str, Any, str]]:
    """Yield kinds of values that are wrong in place of `array`, and what their refusal repeats."""
    for kind, values in NO_ARRAYS.items():
        for value in values:
            if value is not None or not optional:
                yield kind, value, "None" if value is None else type(value).__name__
    for kind, spoil in WRONG_DTYPES.items():
        for bad in spoil(array):
            yield kind, bad, str(bad.dtype)
    for kind, listed in WRONG_LISTS.items():
        yield f"list of {kind}", listed(array), ""
    yield "masked array", np.ma.masked_array(array), "MaskedArray"
    yield "ragged list", [0.5, [0.5]] if array.ndim == 1 else [[0.5], [0.5, 0.5]], ""


def wrong_kinds(name: str) -> Iterator[Case]:
    arrays = good(name)
    for place, argument in enumerate(arguments(name)):
        optional = argument.default is not argument.empty
        values = wrong_values(arrays[place], optional=optional)
        for number, (kind, value, got) in enumerate(values):
            # NumPy says ValueError of a ragged list; that it is no array is as true.
            builtin = (TypeError, ValueError) if kind == "ragged list" else TypeError
            call = replaced(arrays, place, value)
            where = f"{argument.name}, {number}: {got}"
            yield Case(name, kind, call, {}, builtin, (argument.name, got), where)


def float_labels(name: str) -> Iterator[Case]:
    scores, labels = good(name)
    bad: dict[str, Any] = {
        "float64": labels.astype(np.float64),
        "float32": labels.astype(np.float32),
        "list of floats": labels.astype(np.float64).tolist(),
        "one-hot": np.eye(CLASSES)[labels],
        "NaN": np.full(BATCH, np.nan),
    }
    for kind, value in bad.items():
        words = ("labels", str(np.asarray(value).dtype))
        yield Case(name, f"labels: {kind}", (scores, value), words=words)


# Axes that an array of no dimensions does not have


def no_axes(name: str) -> Iterator[Case]:
    arrays, first = zero_dimensional(name), TABLE[name].arguments[0]
    for kind, scalars in {
        "0-d arrays": arrays,
        "numbers": tuple(one.item() for one in arrays),
        "NumPy scalars": tuple(one[()] for one in arrays),
    }.items():
        yield Case(name, kind, scalars, {}, OUT_OF_RANGE, (first,))
    yield Case(name, "0-d arrays, axis=0", arrays, {"axis": 0}, OUT_OF_RANGE, (first,))


# Shapes that do not fit


def misshapen_targets(name: str) -> Iterator[Case]:
    first, word = good(name)[0], TABLE[name].arguments[1]
    bad: dict[str, Any] = {
        "fewer classes": np.full((BATCH, CLASSES - 1), 0.5),
        "fewer examples": np.full((BATCH - 1, CLASSES), 0.5),
        "transposed": np.full((CLASSES, BATCH), 0.5),
        "one row for all": np.full((CLASSES,), 0.5),
        "one row for all, in 2-d": np.full((1, CLASSES), 0.5),
        "one column for all": np.full((BATCH, 1), 0.5),
        "without the classes": np.full((BATCH,), 0.5),
        "one axis more": np.full((*SHAPE, 1), 0.5),
        "one axis more in front": np.full((1, *SHAPE), 0.5),
        "0-d": np.asarray(0.5),
        "number": 0.5,
        "one row as a list": [0.5] * CLASSES,
        "empty": np.empty((0, CLASSES)),
        "empty list": [],
    }
    for kind, value in bad.items():
        shapes = (str(SHAPE), str(np.shape(value)))
        yield Case(name, f"{word} {kind}", (first, value), {}, ValueError, (word, *shapes))
    line, column = np.full(3, 0.5), np.full((3, 1), 0.5)
    for kind, pair in {
        "(3,) with (3, 1)": (line, column),
        "(3, 1) with (3,)": (column, line),
    }.items():
        yield Case(name, kind, pair, {}, ValueError, (word, "(3,)", "(3, 1)"))


def misshapen_labels(name: str) -> Iterator[Case]:
    scores, labels = good(name)
    first = TABLE[name].arguments[0]
    bad: dict[str, Any] = {
        "one-hot": np.eye(CLASSES, dtype=np.int64)[labels],
        "one too few": labels[:-1],
        "one too many": np.append(labels, 0),
        "one for all": labels[:1],
        "0-d": np.asarray(0),
        "number": 0,
        "column": labels[:, None],
        "row": labels[None],
        "empty": labels[:0],
        "list too short": [0] * (BATCH - 1),
        "empty list": [],
    }
    for kind, value in bad.items():
        words = ("labels", first, f"({BATCH},)", str(np.shape(value)))
        yield Case(name, f"labels {kind}", (scores, value), {}, ValueError, words)
    yield Case(
        name, "labels without another axis", (scores, labels), {"axis": 0}, ValueError, ("labels",)
    )
    yield Case(name, "labels of one row", (scores[0], labels[:1]), {}, ValueError, ("labels", "()"))


def labels_of_no_class(name: str) -> Iterator[Case]:
    scores, labels = good(name)
    bad: dict[str, Any] = {
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
    for kind, value in bad.items():
        spoilt = labels.astype(getattr(value, "dtype", np.int64))
        spoilt[2] = value
        words = ("labels", str(value), f"[0, {CLASSES})", "(2,)")
        yield Case(name, f"label {kind}", (scores, spoilt), {}, OUT_OF_RANGE, words)
        if spoilt.dtype != np.uint64:  # NumPy makes floats of such a list: see below
            call = (scores, spoilt.tolist())
            yield Case(name, f"label {kind}", call, {}, OUT_OF_RANGE, words, where="in a list")
    wide = np.full((BATCH, 200), 0.5)
    yield Case(
        name,
        "label -56 that wraps to 200",
        (wide, np.full(BATCH, -56, np.int8)),
        {},
        OUT_OF_RANGE,
        ("labels", "-56"),
    )
    yield Case(name, "label of a single row", (scores[0], 4), {}, OUT_OF_RANGE, ("labels", "4"))
    yield Case(
        name,
        "label for no classes",
        (scores[:, :0], labels * 0),
        {},
        OUT_OF_RANGE,
        ("labels", "[0, 0)"),
    )
    along = np.zeros(CLASSES, np.int64) + BATCH
    yield Case(
        name, "label along axis 0", (scores, along), {"axis": 0}, OUT_OF_RANGE, ("labels", "[0, 5)")
    )


def misshapen_shared() -> Iterator[Case]:
    x = good("prelu")[0]
    for shape in ((3,), (BATCH,), (CLASSES, 1), (BATCH + 1, 1), (2, CLASSES), (0,)):
        bad, words = np.full(shape, 0.5), ("alpha", str(shape), str(SHAPE))
        yield Case("prelu", f"alpha of shape {shape}", (x, bad), {}, ValueError, words)
    yield Case("prelu", "alpha as a list too long", (x, [0.5] * 3), {}, ValueError, ("alpha",))

    x, w, b = good("dense")

    def case(kind: str, arrays: tuple[Any, ...], *words: str) -> Case:
        return Case("dense", kind, arrays, {}, ValueError, words)

    yield case("x 0-d", (np.asarray(0.5), w, b), "x", "()")
    yield case("x a number", (0.5, w), "x", "()")
    yield case(
        "w laid out (out, in)", (x, w.T.copy(), b), "w", "(out, in)", "(in, out)", "transpose"
    )
    yield case("w laid out (out, in), no b", (x, w.T.copy()), "w", "(out, in)", "(in, out)")
    yield case("w laid out (out, in), one row", (x[0], w.T.copy(), b), "w", "(out, in)")
    yield case("w of another length", (x, w[:-1], b), "w", "(in, out)", "(3, 3)", "4")
    yield case("w 1-d", (x, w[:, 0], b), "w", "(in, out)", "(4,)")
    yield case("w 3-d", (x, w[None], b), "w", "(in, out)", "(1, 4, 3)")
    yield case("w 0-d", (x, np.asarray(0.5)), "w", "(in, out)", "()")
    yield case("w a number", (x, 0.5), "w", "(in, out)", "()")
    yield case("w a stack", (np.stack([x, x]), np.stack([w, w]), b), "w", "(in, out)")
    yield case("b too long", (x, w, np.append(b, 0.5)), "b", "(4,)", "(3,)")
    yield case("b too short", (x, w, b[:-1]), "b", "(2,)", "(3,)")
    yield case("b of one entry", (x, w, b[:1]), "b", "(1,)", "(3,)")
    yield case("b of the input's length", (x, w, x[0]), "b", "(4,)")
    yield case("b 0-d", (x, w, np.asarray(0.5)), "b", "()")
    yield case("b a number", (x, w, 0.5), "b", "()")
    yield case("b a row", (x, w, b[None]), "b", "(1, 3)")
    yield case("b a column", (x, w, b[:, None]), "b", "(3, 1)")
    yield case("b for each example", (x, w, np.full((BATCH, 3), 0.5)), "b", "(5, 3)")
    yield case("w and b swapped", (x, b, w), "w", "(3,)")


COUNTS_AND_KINDS = [
    case
    for name in TABLE
    for case in (
        *wrong_counts(name),
        *wrong_kinds(name),
        *(float_labels(name) if name in LABEL_OPS else ()),
    )
]
SHAPES = [
    *(case for name in AXIS_OPS for case in no_axes(name)),
    *(case for name in TARGET_OPS for case in misshapen_targets(name)),
    *(case for name in LABEL_OPS for case in misshapen_labels(name)),
    *misshapen_shared(),
]
LABEL_VALUES = [case for name in LABEL_OPS for case in labels_of_no_class(name)]


@parametrize(COUNTS_AND_KINDS)
def test_what_is_no_array_of_real_numbers_is_refused(cases: list[Case]) -> None:
    refused_by_every_route(cases)


@parametrize(SHAPES)
def test_shapes_that_do_not_fit_are_refused(cases: list[Case]) -> None:
    refused_by_every_route(cases)


@parametrize(LABEL_VALUES)
def test_labels_that_name_no_class_are_refused(cases: list[Case]) -> None:
    refused_by_every_route(cases)


@pytest.mark.parametrize("name", TABLE)
def test_at_least_twenty_kinds_of_bad_arrays_are_tried_on_every_op(name: str) -> None:
    cases = (*COUNTS_AND_KINDS, *SHAPES, *LABEL_VALUES)
    kinds = {case.kind for case in cases if case.name == name}
    assert len(kinds) >= 20
    assert len(cases) >= 400


# Messages that can be read


@pytest.mark.parametrize("name", TABLE)
def test_a_long_value_is_not_repeated_whole(name: str) -> None:
    arrays = good(name)
    for value in ("a" * 100_000, {"weights": list(range(100_000))}):
        with pytest.raises(TypeError) as caught:
            TABLE[name].op(value, *arrays[1:])
        assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("name", LABEL_OPS)
def test_the_first_of_several_bad_labels_is_named(name: str) -> None:
    scores, labels = good(name)
    labels = labels.copy()
    labels[1:] = (7, 8, 9, -1)
    with pytest.raises(og.LabelError, match=r"got 7 at index \(1,\)"):
        TABLE[name].op(scores, labels)


@pytest.mark.parametrize("value", [2**63, 2**64 - 1, 2**70, -(2**70)], ids="{:.0e}".format)
@pytest.mark.parametrize("name", LABEL_OPS)
def test_a_label_too_large_for_an_integer_array_is_out_of_range(name: str, value: int) -> None:
    scores, labels = good(name)
    bad = [*labels.tolist()[:-1], value]
    refused(lambda: TABLE[name].op(scores, bad), OUT_OF_RANGE, name, "labels", str(value))

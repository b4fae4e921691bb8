"""All the kinds of bad input, in families."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from opsgrad.conformance.bad_input import arrays, directions, parameters
from opsgrad.conformance.bad_input.case import Case
from opsgrad.conformance.row import Row

FAMILIES: dict[str, Callable[[Row, str], Iterator[Case]]] = {
    "counts": arrays.wrong_counts,
    "no arrays": arrays.no_arrays,
    "dtypes": arrays.wrong_dtypes,
    "shapes": arrays.wrong_shapes,
    "labels": arrays.labels_of_no_class,
    "listed labels": arrays.listed_labels_of_no_class,
    "keywords": parameters.unknown_keywords,
    "axis": parameters.bad_axes,
    "keepdims": parameters.bad_keepdims,
    "choices": parameters.bad_choices,
    "numbers": parameters.bad_numbers,
    "cotangents": directions.bad_cotangents,
    "tangents": directions.bad_tangents,
}
"""From a family's name to what makes its cases, of a row and a floating-point data type."""


def bad_input(row: Row, family: str | None = None, dtype: str = "float64") -> list[Case]:
    """Return the bad calls of a row's op, all of them or those of one family."""
    families = FAMILIES.values() if family is None else (FAMILIES[family],)
    return [case for cases in families for case in cases(row, dtype)]

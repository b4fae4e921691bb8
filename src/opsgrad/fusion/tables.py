"""Bodies and rules as tasks for an engine, and how the arrays of a call are taken as a table."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from opsgrad._arrays import without_axis
from opsgrad.fusion.graph import OVER_ROWS
from opsgrad.fusion.trace import INTEGER, Input, Kind, Trace, UntraceableError, trace

Shape = tuple[int, ...]


class Task(NamedTuple):
    """A body or rule for the engine."""

    function: Callable[..., Any]
    names: tuple[str, ...]
    parameters: Mapping[str, Any]
    dtype: np.dtype[Any]
    elementwise: bool
    labels: frozenset[str]
    """Which of the arrays hold integers."""
    numbers: frozenset[str] = frozenset()
    """Which of them have no axes, and hold one number for all the rows."""
    residual: bool = False
    """Whether what it returns after the first result is for rules, and must not be rounded."""


def why_not(task: Task, *, sums_over_rows: bool = False) -> str | None:
    """Say why a task cannot be fused, as a clause, or None if it can."""
    reasons = []
    # A cotangent, or y, is a table, or has one number for each row: whichever can be traced.
    for kind in (Kind.TABLE, Kind.ROW):
        inputs = [_expected(task, name, kind) for name in task.names]
        try:
            trace_of(task, inputs, sums_over_rows=sums_over_rows)
        except UntraceableError as error:
            reasons.append(str(error))
        else:
            return None
    return reasons[0]


def _expected(task: Task, name: str, of_result: Kind) -> Input:
    if name in task.labels:
        return Input(Kind.ROW, INTEGER)
    if name in task.numbers:
        return Input(Kind.NUMBER, task.dtype)
    return Input(of_result if name in ("y", "cotangent") else Kind.TABLE, task.dtype)


def trace_of(task: Task, inputs: Sequence[Input | None], *, sums_over_rows: bool = False) -> Trace:
    """Trace a task along the last axis; say whether the engine adds up rows."""
    parameters = dict(task.parameters)
    if "axis" in parameters:
        parameters["axis"] = -1
    if "reduction" in parameters:
        parameters["reduction"] = "none"
    traced = trace(task.function, inputs, parameters, task.dtype)
    for number, kind in zip(traced.outputs, traced.kinds, strict=True):
        summed = traced.graph.nodes[number].kind == OVER_ROWS
        if summed and not sums_over_rows:
            raise UntraceableError("it sums over the rows")
        if kind in (Kind.COLUMN, Kind.NUMBER) and not summed:
            raise UntraceableError("it gives the same result for every row")
    return traced


class Geometry(NamedTuple):
    """How arrays of given shapes and strides are taken as a table."""

    table: Shape
    axis: int
    kinds: tuple[Kind | None, ...]
    across: bool
    """Whether vectors run across rows: the axis is not the last, and rows are neighbours."""
    flat: bool
    """Whether rows mean nothing, and the table is cut into pieces."""


def inputs_of(task: Task, kinds: Sequence[Kind | None]) -> list[Input | None]:
    """Return what the arrays of a task are to a program; None where one is left out."""
    return [
        None if kind is None else Input(kind, INTEGER if name in task.labels else task.dtype)
        for name, kind in zip(task.names, kinds, strict=True)
    ]


def table_of(task: Task, arrays: Sequence[Any]) -> Geometry | None:
    """Return how a kernel takes the arrays, or None if it does not."""
    named = list(zip(task.names, arrays, strict=True))
    shapes = [a.shape for name, a in named if a is not None and name not in task.numbers]
    most = max(map(len, shapes))
    try:
        table = np.broadcast_shapes(*[s for s in shapes if len(s) == most])
    except ValueError:
        return None
    axis = task.parameters.get("axis", -1)
    if most < -axis or 0 in table:
        return None
    kinds = []
    for name, array in named:
        if name in task.numbers:
            kind: Kind | None = Kind.NUMBER
        else:
            kind = None if array is None else _kind(task, array, table, axis)
        if kind is None and array is not None:
            return None
        kinds.append(kind)
    flat = task.elementwise and set(kinds) <= {Kind.TABLE, Kind.NUMBER, None}
    if not flat and table[axis] >= 1 << 31:
        return None  # columns have 32 bits
    across = math.prod(table[axis:][1:]) > 1 and not flat
    return Geometry(table, axis, tuple(kinds), across, flat)


def _kind(task: Task, array: Any, table: Shape, axis: int) -> Kind | None:
    shape = array.shape
    if array.size > 1 and not any(array.strides):
        return Kind.NUMBER  # one number, broadcast
    if shape == table:
        return Kind.TABLE
    if task.elementwise:
        if array.size == 1:
            return Kind.NUMBER
        return Kind.COLUMN if shape == table[-1:] else None
    if shape == without_axis(table, axis):
        return Kind.ROW
    place = len(table) + axis
    return Kind.ROW_KEPT if shape == (*table[:place], 1, *table[place + 1 :]) else None


def shapes_of(geometry: Geometry) -> dict[Kind, Shape]:
    """Return the shapes of a program's results."""
    table, axis = geometry.table, geometry.axis
    place = len(table) + axis
    kept = (*table[:place], 1, *table[place + 1 :])
    return {Kind.TABLE: table, Kind.ROW: without_axis(table, axis), Kind.ROW_KEPT: kept}


def nested(structure: Any, outputs: Sequence[Any]) -> Any:
    """Return outputs in the nest of tuples that the function returns."""
    if isinstance(structure, tuple):
        return tuple(nested(one, outputs) for one in structure)
    return None if structure is None else outputs[structure]

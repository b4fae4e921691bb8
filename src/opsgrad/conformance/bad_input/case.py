"""One bad call of an op, and the good call that it is made from."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from opsgrad.conformance.row import Row

BATCH, CLASSES = 5, 4
SHAPE = (BATCH, CLASSES)
"""Examples, and entries along the last axis; `dense` has three outputs. All are different."""

Arrays: TypeAlias = tuple[Any, ...]
Builtin: TypeAlias = type[BaseException] | tuple[type[BaseException], ...]

OUT_OF_RANGE: Builtin = (ValueError, IndexError)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A bad call of an op, and the refusal that it has to meet with.

    Attributes
    ----------
    kind : str
        What is wrong with the call.
    where : str
        What tells cases of one kind apart.
    arrays : tuple
        The array arguments: NumPy arrays, which go to the library under test, and what is no array.
    params : mapping
        The keyword parameters.
    cotangents : tuple, optional
        What the pullback is given, at arrays that are good.
    tangents : tuple, optional
        What the JVP is given, at arrays that are good.
    builtin : exception type or tuple of them
        What people catch for that mistake: the refusal is one of these, and an `OpsgradError`.
    words : tuple of str
        What the message has to mention, beside the op's name.
    """

    kind: str
    where: str = ""
    arrays: Arrays
    params: Mapping[str, Any] = field(default_factory=dict)
    cotangents: Arrays | None = None
    tangents: Arrays | None = None
    builtin: Builtin = TypeError
    words: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.kind} ({self.where})" if self.where else self.kind


def good(row: Row, dtype: Any = "float64", shape: tuple[int, ...] = SHAPE) -> Arrays:
    """Return arrays that the op takes; labels stay int64."""
    arrays = row.sample(np.random.default_rng(0), shape, -1)
    return tuple(
        array.astype(dtype) if floating else array
        for array, floating in zip(arrays, row.differentiable, strict=True)
    )


def zero_dimensional(row: Row, dtype: Any = "float64") -> Arrays:
    """Return arrays without any axis, one for each argument."""
    return tuple(
        np.asarray(0.5, dtype) if floating else np.asarray(0) for floating in row.differentiable
    )


def replaced(arrays: Arrays, place: int, value: Any) -> Arrays:
    """Return `arrays` with another value at `place`."""
    return (*arrays[:place], value, *arrays[place + 1 :])


def arguments(row: Row) -> list[inspect.Parameter]:
    """Return the array arguments that the op's public signature shows."""
    public = inspect.signature(row.op).parameters.values()
    return [one for one in public if one.kind is one.POSITIONAL_ONLY]


def required(row: Row) -> int:
    """Return how many arrays the op cannot do without."""
    return sum(one.default is one.empty for one in arguments(row))


def parameters(row: Row) -> tuple[str, ...]:
    """Return the names of the op's own parameters."""
    public = inspect.signature(row.op).parameters.values()
    return tuple(p.name for p in public if p.kind is p.KEYWORD_ONLY and p.name != "backend")

"""What is timed: every op of the conformance table, by role, shape and data type."""

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from opsgrad.conformance import TABLE, Row

VALUE, VJP, LOSS = "value", "VJP", "loss and gradient"
ROLES = (VALUE, VJP, LOSS)
DTYPES = ("float32", "float64")
ACROSS = (1000, 4096)
"""The shape on which ops that take an axis run along axis 0."""
MOST_OUTPUTS = 256
"""Of the affine map: a matrix product of a thousand squared would take all the time there is."""
VARIANTS: Mapping[str, tuple[Mapping[str, Any], ...]] = {
    "lp_norm": ({"p": 3.0},),  # 1 and 2 are ops of their own
    "multiclass_hinge_loss": ({"kind": "crammer_singer"}, {"kind": "weston_watkins"}),
}
"""The parameters of ops whose defaults do not say it all."""

Array = npt.NDArray[Any]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Case:
    """One group of contestants: what all of them compute."""

    op: str
    role: str
    shape: Shape
    dtype: str
    axis: int = -1
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def row(self) -> Row:
        return TABLE[self.op]

    @property
    def keywords(self) -> dict[str, Any]:
        """The op's parameters, ``axis`` among them where it takes one."""
        return {**self.parameters, **({"axis": self.axis} if self.row.has_axis else {})}

    @property
    def name(self) -> str:
        return ", ".join([self.op, *(f"{value}" for value in self.parameters.values())])

    @property
    def size(self) -> str:
        size = "×".join(map(str, self.shape))
        return f"{size}, axis 0" if self.axis == 0 else size


@dataclass(frozen=True)
class Inputs:
    """The arrays of a case, and the cotangent that its pullback is given."""

    arrays: tuple[Array, ...]
    cotangent: Array


def cases(
    ops: Iterable[str] = TABLE,
    roles: Sequence[str] = ROLES,
    shapes: Sequence[Shape] | None = None,
    dtypes: Sequence[str] = DTYPES,
) -> Iterator[Case]:
    """Yield the cases of `ops`, those on the same arrays together; without `shapes`, the rows'."""
    for op in ops:
        row = TABLE[op]
        sizes = [(size, -1) for size in row.sizes] + [(ACROSS, 0)] * row.has_axis
        for parameters in VARIANTS.get(op, ({},)):
            for shape, axis in sizes:
                if shapes is not None and shape not in shapes:
                    continue
                for dtype in dtypes:
                    for role in roles:
                        if role != LOSS or row.has_reduction:
                            yield Case(op, role, shape, dtype, axis, parameters)


def inputs(case: Case) -> Inputs:
    """Return the arrays of a case, from the sampler of its row."""
    arrays = _sampled(case.op, case.shape, case.axis)
    cast = tuple(a if a.dtype.kind in "iu" else a.astype(case.dtype) for a in arrays)
    rng = np.random.default_rng(1)
    g = rng.standard_normal(_value_shape(case, cast), dtype=np.float32)
    return Inputs(cast, g.astype(case.dtype))


@functools.lru_cache(maxsize=1)
def _sampled(op: str, shape: Shape, axis: int) -> tuple[Array, ...]:
    rng, row = np.random.default_rng(0), TABLE[op]
    if row.unit != "matrix":
        return row.sample(rng, shape, axis)
    outputs = min(shape[-1], MOST_OUTPUTS)
    return tuple(rng.standard_normal(s) for s in (shape, (shape[-1], outputs), (outputs,)))


def _value_shape(case: Case, arrays: Sequence[Array]) -> Shape:
    if case.row.unit == "matrix":
        return (*case.shape[:-1], *arrays[-1].shape)
    if case.row.reduces_axis:
        return tuple(np.delete(case.shape, case.axis).tolist())
    return case.shape

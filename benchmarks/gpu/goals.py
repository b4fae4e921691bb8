"""What is timed on a GPU, and how fast it has to be."""

import math
from collections.abc import Iterator
from typing import NamedTuple

from benchmarks.cases import LOSS, VALUE, VJP, Case, Shape
from opsgrad._signature import Role

SIZES = {"float32": 4, "bfloat16": 2, "int64": 8}
SOFTMAXES = ("softmax", "log_softmax", "relumax")
NORMS: tuple[tuple[str, dict[str, float]], ...] = (
    ("l1_norm", {}),
    ("l2_norm", {}),
    ("lp_norm", {"p": 3.0}),
)


class Target(NamedTuple):
    """What a case has to reach; None where nothing is asked."""

    share: float | None = None
    """Of the rate of a large copy, which counts bytes read and bytes written."""
    over_eager: float | None = None
    """How many times as long PyTorch takes at least, without its compiler."""
    ahead_of_compiled: bool = False
    """Whether PyTorch with its compiler has to take longer."""
    host: float | None = None
    """The most seconds of the host's time for a call."""
    replay: float | None = None
    """The most seconds for a call in the replay of a CUDA graph."""


class Goal(NamedTuple):
    """A case with its target."""

    case: Case
    target: Target

    @property
    def name(self) -> str:
        case = self.case
        return f"{case.name}, {case.role}, {case.size}, {case.dtype}"


SMALL = Target(host=10e-6, replay=3e-6)
ROW_BACKWARD = Target(share=0.90, over_eager=1.7, ahead_of_compiled=True)


def goals() -> list[Goal]:
    """Return all goals."""
    return [*_large_maps(), *_forward(), *_long(), *_backward(), *_losses(), *_across(), *_small()]


def _large_maps() -> Iterator[Goal]:
    """Yield maps over a gibibyte."""
    for op in ("relu", "sigmoid", "tanh", "softplus"):
        for dtype in ("float32", "bfloat16") if op == "sigmoid" else ("float32",):
            for role in (VALUE, VJP):
                yield Goal(Case(op, role, (2**30 // SIZES[dtype],), dtype), Target(share=0.95))


def _forward() -> Iterator[Goal]:
    wanted: dict[str, dict[Shape, float]] = {
        "bfloat16": {(8192, 1024): 0.58, (8192, 4096): 0.84, (8192, 8192): 0.90},
        "float32": {(32768, 1024): 0.88, (32768, 4096): 0.93, (32768, 8192): 0.93},
    }
    for op in SOFTMAXES:
        for dtype, shapes in wanted.items():
            for shape, share in shapes.items():
                yield Goal(Case(op, VALUE, shape, dtype), Target(share))


def _long() -> Iterator[Goal]:
    """Yield rows that several blocks hold, and rows that are read twice."""
    for dtype in ("float32", "bfloat16"):
        for columns in (2**17, 2**18):
            yield Goal(Case("softmax", VALUE, (2048, columns), dtype), Target(0.90))
    yield Goal(Case("softmax", VALUE, (512, 2**20), "float32"), Target(0.60))


def _backward() -> Iterator[Goal]:
    for op in SOFTMAXES:
        for columns in (1024, 4096, 16384):
            for dtype in ("float32", "bfloat16"):
                # As many rows as make 128 Mi entries: half a gibibyte in float32.
                yield Goal(Case(op, VJP, (2**27 // columns, columns), dtype), ROW_BACKWARD)


def _losses() -> Iterator[Goal]:
    op = "softmax_cross_entropy_with_integer_labels"
    yield Goal(Case(op, LOSS, (8192, 131072), "bfloat16"), Target(0.87))
    for op, parameters in NORMS:
        for columns in (1024, 8192):
            case = Case(op, VALUE, (2**28 // columns, columns), "float32", parameters=parameters)
            yield Goal(case, Target(0.90))


def _across() -> Iterator[Goal]:
    for shape, share in {(1024, 131072): 0.80, (2048, 65536): 0.80, (8192, 16384): 0.60}.items():
        yield Goal(Case("softmax", VALUE, shape, "float32", axis=0), Target(share))


def _small() -> Iterator[Goal]:
    for op, role, shape in (
        ("sigmoid", VALUE, (65536,)),
        ("softmax", VALUE, (64, 1024)),
        ("relumax", VALUE, (64, 1024)),
        ("softmax", VJP, (64, 1024)),
    ):
        yield Goal(Case(op, role, shape, "float32"), SMALL)


# -- bytes -----------------------------------------------------------------------------------------


def value_shape(case: Case) -> Shape:
    """Return the shape of the op's value."""
    if not case.row.reduces_axis:
        return case.shape
    axis = case.axis % len(case.shape)
    return case.shape[:axis] + case.shape[axis + 1 :]


def array_form(case: Case, name: str) -> tuple[Shape, str]:
    """Return shape and data type of an array of a case: an argument, "y" or the "cotangent"."""
    roles = {one.name: one.role for one in case.row.op.signature.arguments}
    if roles.get(name) is Role.LABELS:
        axis = case.axis % len(case.shape)
        return case.shape[:axis] + case.shape[axis + 1 :], "int64"
    return value_shape(case) if name in ("y", "cotangent") else case.shape, case.dtype


def least_bytes(case: Case) -> int:
    """Return the bytes that have to be read and written: each array once."""
    op = case.row.op
    floats = [n for n, has in zip(op.array_names, case.row.differentiable, strict=True) if has]
    if case.role == VALUE:
        moved = [*op.array_names, "y"]
    elif case.role == LOSS:
        moved = [*op.array_names, floats[0]]
    else:
        # Residuals, of a few numbers for each row, are not counted.
        kept = [name for name in op.rule("vjp").keeps if name != "kept"]
        moved = [*kept, "cotangent", *floats]
    forms = [array_form(case, name) for name in moved]
    return sum(math.prod(shape) * SIZES[dtype] for shape, dtype in forms)

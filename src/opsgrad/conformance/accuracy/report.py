"""Writing what was measured: a Markdown page and JSON."""

from __future__ import annotations

import importlib.metadata
import math
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from opsgrad.conformance.accuracy.measure import DTYPES, ROLES, Function, Record
from opsgrad.conformance.table import TABLE

TARGETS = {
    "numpy": "numpy",
    "torch": "torch",
    "jax": "jax",
    "dask": "dask",
    "array_api_strict": "strict",
}
PEERS = {"SciPy": "SciPy", "PyTorch": "PyTorch's own", "JAX": "JAX's own"}
FAMILIES = {
    "Activations": (
        *("sigmoid", "tanh", "relu", "leaky_relu", "prelu"),
        *("softplus", "log_sigmoid", "sign", "abs"),
    ),
    "The softmax family": ("softmax", "log_softmax", "logsumexp", "relumax"),
    "Cross-entropies": (*(name for name in TABLE if "cross_entropy" in name), "nll_loss"),
    "Norms": tuple(name for name in TABLE if name.endswith("_norm")),
    "Other losses, and the affine map": (
        *("squared_error", "l2_loss", "hinge_loss"),
        *("multiclass_hinge_loss", "dense"),
    ),
}
LIBRARIES = ("opsgrad", "numpy", "scipy", "torch", "jax", "dask", "array-api-strict")
POWERS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")

INTRODUCTION = """\
# Accuracy

Written by `python -m opsgrad.conformance.accuracy` (`make accuracy`).

Each number is the largest error seen, in units in the last place (ULP) of the exact result. What
is measured: the value, the pullback (VJP) and the JVP of every op, called eagerly on every library
that is installed, and beside them what SciPy (or NumPy, where SciPy has nothing), PyTorch and JAX
offer for the same thing, with the gradients that PyTorch and JAX themselves take of it. PyTorch's
`cross_entropy` and its like are taken without reduction; JAX has none, so it is written with
`jax.nn.log_softmax`.

**Inputs.** Elementwise ops: magnitudes spread evenly over the logarithm of the whole floating-point
range and, denser, from 10⁻⁶ to 10³, both signs; all of exp's range; and the neighbourhood of every
point where an exponential saturates or a formula changes. Ops along an axis: rows of {lengths}
entries, drawn normal with standard deviations of 1, 10, 100 and 10²⁰, with offsets of 10⁴ and
−10⁶, across all of exp's range, with one dominant entry, with ties and near-ties; for norms entries
of 10±³⁰ (10±³⁰⁰ in float64) and of all magnitudes in one row. Cotangents and tangents are by turns
normal, constant but for a few units in the last place, and zero but for one entry. The seeds are
fixed.

**The oracle** evaluates stable formulas in extended precision. In every run it is held to the
conformance suite's own oracle (the textbook formulas and their differences in mpmath) at a few
points of every op, parameter set and data type, to 0.05 ULP.

**Units** are those of the conformance suite. Where a component is a difference of larger terms, its
row states a scale: the error of a value is then counted in units in the last place of the scale,
that of a derivative in the machine epsilon times the scale. Results that overflow, or that are so
small that subnormal numbers may have gone into them, are left aside. For softmax and relumax
16 ε² y max |g| is allowed besides: it is all that is left where the cotangent is constant.

**Marks.** The goal supposes functions (exp, log1p, …) that are right to one ULP. What those of a
library are worse than that, the [excess](#the-libraries-own-functions), is added to the goal. A
plain number is within the goal, one with + within goal and excess, and a **bold one with ✗**
exceeds both. ∞ is a result that is not finite where it should be; – is a function that the
library does not have.
"""


def versions() -> dict[str, str]:
    """Return the versions of the libraries that are installed."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def cpu_model() -> str:
    """Return the processor's name."""
    listed = Path("/proc/cpuinfo")
    if listed.exists():
        for line in listed.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


@dataclass(frozen=True)
class Report:
    """All that was measured."""

    records: Sequence[Record]
    functions: Sequence[Function]
    lengths: str = ""
    cpu: str = field(default_factory=cpu_model)
    libraries: Mapping[str, str] = field(default_factory=versions)

    @classmethod
    def read(cls, measured: Mapping[str, Any]) -> Report:
        """Return the report that gave these plain objects; the lengths of rows are not in them."""
        records = [Record(**_infinite(one, without="fails")) for one in measured["records"]]
        functions = [Function(**_infinite(one)) for one in measured["functions"]]
        return cls(records, functions, cpu=measured["cpu"], libraries=measured["versions"])

    @property
    def failing(self) -> list[Record]:
        """The records that exceed goal and excess, the worst first."""
        failing = [record for record in self.records if record.fails]
        return sorted(failing, key=lambda one: (one.allowed or 0.0) - one.ulp)

    def markdown(self) -> str:
        """Return the page."""
        parts = [INTRODUCTION.format(lengths=self.lengths), self._machine(), self._failures()]
        for family, ops in FAMILIES.items():
            table = self.table(ops)
            if table:
                parts.append(f"## {family}\n\n{table}")
        parts.append(self._functions())
        return "\n".join(parts)

    def json(self) -> dict[str, Any]:
        """Return the same as plain objects; an infinite error is null."""
        return {
            "cpu": self.cpu,
            "versions": dict(self.libraries),
            "records": [_finite({**asdict(r), "fails": r.fails}) for r in self.records],
            "functions": [_finite(asdict(function)) for function in self.functions],
        }

    def _machine(self) -> str:
        listed = ", ".join(f"{name} {version}" for name, version in self.libraries.items())
        return f"**Measured on** {self.cpu}; Python {platform.python_version()}, {listed}.\n"

    def _failures(self) -> str:
        if not self.failing:
            return "## Goals exceeded\n\nNone.\n"
        rows = [
            (*_named(r), short(r.ulp), f"{r.goal:g}", f"{r.allowed:.2f}", r.worst)
            for r in self.failing
        ]
        head = ("op", "role", "dtype", "library", "ULP", "goal", "with excess", "worst input")
        return "## Goals exceeded\n\n" + _markdown_table(head, rows)

    def table(self, ops: Iterable[str]) -> str:
        """Return the rows of some ops, nothing if none of them was measured."""
        cells = {(r.op, r.role, r.dtype, r.contestant): r for r in self.records}
        names = dict.fromkeys(r.op for op in ops for r in self.records if _is_of(r, op))
        rows = []
        for key in ((name, role, dtype) for name in names for role in ROLES for dtype in DTYPES):
            found = [cells.get((*key, contestant)) for contestant in (*TARGETS, *PEERS)]
            goal = next((f"{r.goal:g}" for r in found if r is not None), "")
            if goal:
                rows.append((*key, goal, *map(_cell, found)))
        head = ("op", "role", "dtype", "goal", *TARGETS.values(), *PEERS.values())
        return _markdown_table(head, rows) if rows else ""

    def _functions(self) -> str:
        excess = {(f.target, f.function, f.dtype): f.excess for f in self.functions}
        targets = list(dict.fromkeys(f.target for f in self.functions))
        kinds = dict.fromkeys((f.function, f.dtype) for f in self.functions)
        rows = [
            (*kind, *(_number(excess.get((target, *kind))) for target in targets)) for kind in kinds
        ]
        head = ("function", "dtype", *(TARGETS.get(target, target) for target in targets))
        return (
            "## The libraries' own functions\n\nBy how many ULP each exceeds one, over a sample of "
            "its range.\n\n" + _markdown_table(head, rows)
        )


def short(ulp: float) -> str:
    """Return a number of ULP in few characters."""
    if not math.isfinite(ulp):
        return "∞"
    if ulp < 9999.5:
        return f"{ulp:.3g}" if ulp < 1000 else f"{ulp:.0f}"
    digit, power = f"{ulp:.0e}".split("e+")
    return f"{digit}·10" + str(int(power)).translate(POWERS)


def _is_of(record: Record, op: str) -> bool:
    return record.op.split(",")[0] == op


def _named(record: Record) -> tuple[str, ...]:
    library = TARGETS.get(record.contestant, record.contestant)
    return record.op, record.role, record.dtype, library


def _cell(record: Record | None) -> str:
    if record is None:
        return "–"
    if record.fails:
        return f"**{short(record.ulp)} ✗**"
    beyond = record.allowed is not None and record.ulp > record.goal
    return short(record.ulp) + (" +" if beyond else "")


def _number(excess: float | None) -> str:
    return "–" if excess is None else f"{excess:.2f}"


def _markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _finite(entry: dict[str, Any]) -> dict[str, Any]:
    return {
        name: None if isinstance(one, float) and not math.isfinite(one) else one
        for name, one in entry.items()
    }


def _infinite(entry: Mapping[str, Any], without: str = "") -> dict[str, Any]:
    """Undo `_finite`: an error that is null was infinite; what a peer is allowed stays None."""
    kept = {name: one for name, one in entry.items() if name != without}
    return {name: math.inf if name == "ulp" and one is None else one for name, one in kept.items()}

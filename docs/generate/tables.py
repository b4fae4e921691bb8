"""Tables of what was measured, made from the files that `make accuracy` and `make bench` write.

`complaints` says what is stale. A file is stale if it speaks of another version of the library, of
ops, roles or goals that are not those of the conformance table, or if the page beside it is not the
one that it gives. An op that was never timed is not stale: its page says so.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import opsgrad as og
from benchmarks.__main__ import FILES
from benchmarks.cases import DTYPES, LOSS, ROLES
from benchmarks.report import Report as Speed
from benchmarks.report import cases_table, markdown
from opsgrad.conformance import TABLE, Row
from opsgrad.conformance.accuracy.measure import ROLES as RULES
from opsgrad.conformance.accuracy.measure import Record, goal, label
from opsgrad.conformance.accuracy.report import FAMILIES, Report, short

BACKENDS = {
    "numpy": "NumPy",
    "torch": "PyTorch",
    "jax": "JAX",
    "dask": "Dask",
    "cupy": "CuPy",
    "array_api_strict": "array-api-strict",
}
WITHIN, WITH_EXCESS, BEYOND, ABSENT = "●", "◐", "✗", "–"
MARKS = f"""\
{WITHIN} measured, and within the goal; {WITH_EXCESS} beyond the goal by no more than the library's
own functions are inexact; {BEYOND} beyond both; {ABSENT} not measured. The number is the largest
error in units in the last place. *Compiled*: whether large NumPy arrays go through one
[compiled loop](../fusion.md). The figures are those of [accuracy](../accuracy.md)."""


@dataclass(frozen=True)
class Measurements:
    """What the make targets wrote: figures, and the pages made of them."""

    accuracy: Report
    speed: Speed
    accuracy_page: str
    speed_page: str

    @classmethod
    def read(cls, root: Path) -> "Measurements":
        """Read the files of a working tree."""
        results = root / "benchmarks" / "results"
        files = {part: results / f"{name}.json" for part, name in FILES.items()}
        return cls(
            Report.read(_json(results / "accuracy.json")),
            Speed({part: _json(file) for part, file in files.items() if file.exists()}),
            (root / "docs" / "accuracy.md").read_text("utf-8"),
            (root / "docs" / "benchmarks.md").read_text("utf-8"),
        )


def _json(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


# -- what is stale ---------------------------------------------------------------------------------


def complaints(measured: Measurements, table: Mapping[str, Row] = TABLE) -> list[str]:
    """Return what is stale, and which target of make measures it again."""
    return [
        *(f"accuracy: {one}; run `make accuracy`" for one in _stale_accuracy(measured, table)),
        *(f"benchmarks: {one}; run `make bench`" for one in _stale_speed(measured, table)),
    ]


def _stale_accuracy(measured: Measurements, table: Mapping[str, Row]) -> Iterator[str]:
    yield from _other_version(measured.accuracy.libraries)
    goals = {
        (label(row, params), role, dtype): goal(row, role, params)
        for row in table.values()
        for params in row.variants
        for role in RULES
        for dtype in DTYPES
    }
    found = {(r.op, r.role, r.dtype): r.goal for r in measured.accuracy.records}
    for key in sorted(goals.keys() | found.keys()):
        words = " ".join(key)
        if key not in found:
            yield f"{words} was not measured"
        elif key not in goals:
            yield f"{words} was measured, but is not in the conformance table"
        elif goals[key] != found[key]:
            yield f"{words} was measured against {found[key]:g}; its goal is {goals[key]:g}"
    for family, ops in FAMILIES.items():
        if measured.accuracy.table(ops) not in measured.accuracy_page:
            yield f"{family} on docs/accuracy.md is not what benchmarks/results/accuracy.json says"


def _stale_speed(measured: Measurements, table: Mapping[str, Row]) -> Iterator[str]:
    for results in measured.speed.results.values():
        yield from _other_version(results["versions"])
    found: dict[str, set[str]] = {}
    for one in measured.speed.cases:
        found.setdefault(one.case.op, set()).add(one.case.role)
    for op, roles in found.items():
        if op not in table:
            yield f"{op} was measured, but is not in the conformance table"
            continue
        wanted = {role for role in ROLES if role != LOSS or table[op].has_reduction}
        if missing := wanted - roles:
            yield f"{op} was measured without {', '.join(sorted(missing))}"
    if measured.speed.page() != measured.speed_page:
        yield "docs/benchmarks.md is not what benchmarks/results say"


def _other_version(versions: Mapping[str, str]) -> Iterator[str]:
    if versions["opsgrad"] != og.__version__:
        yield f"measured with opsgrad {versions['opsgrad']}, this is {og.__version__}"


# -- tables ----------------------------------------------------------------------------------------


def accuracy(measured: Measurements, op: str) -> str:
    """Return an op's part of the accuracy page, and the machine."""
    report = measured.accuracy
    return f"{report.table([op])}\nMeasured on {report.cpu}, {_listed(report.libraries)}.\n"


def speed(measured: Measurements, op: str) -> str:
    """Return an op's cases, and the machine; or that there are none."""
    cases = [one for one in measured.speed.cases if one.case.op == op]
    if not cases:
        return "Not measured: `benchmarks/results/cpu.json` has no case of this op.\n"
    machine = measured.speed.results["speed"]
    threads = "one thread" if machine["threads"] == 1 else f"{machine['threads']} threads"
    return (
        "Milliseconds; ratios above 1 mean that opsgrad is faster.\n\n"
        f"{cases_table(cases)}\n"
        f"Measured on {machine['cpu']}, {threads}, {_listed(machine['versions'])}.\n"
    )


def _listed(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def support(measured: Measurements) -> str:
    """Return the matrix of all ops, roles, backends and data types, a table for each family."""
    return "".join(
        f"## {family}\n\n{support_of(measured, ops)}\n" for family, ops in FAMILIES.items()
    )


def support_of(measured: Measurements, ops: tuple[str, ...]) -> str:
    """Return the rows of some ops: whether NumPy arrays are compiled for, and a mark for each."""
    worst: dict[tuple[str, ...], Record] = {}
    for one in measured.accuracy.records:  # several sets of parameters: the worst stands for all
        key = (one.op.split(",")[0], one.role, one.contestant, one.dtype)
        worst[key] = max(one, worst.get(key, one), key=lambda r: r.ulp - (r.allowed or 0.0))
    columns = [(backend, dtype) for backend in BACKENDS for dtype in DTYPES]
    head = ("op", "role", "compiled", *(f"{BACKENDS[b]} {d}" for b, d in columns))
    rows = [
        (f"[{op}]({op}.md)", role, words, *(_mark(worst.get((op, role, *c))) for c in columns))
        for op in ops
        for role, words in _compiled(TABLE[op]).items()
    ]
    return markdown(head, rows)


def _compiled(row: Row) -> dict[str, str]:
    words = words_of_engines(row)
    return {role: "yes" if "a compiled loop" in words[role] else "no" for role in RULES}


def words_of_engines(row: Row) -> Mapping[str, str]:
    """Return what runs on NumPy arrays, by role, in the library's own words."""
    arrays = row.sample(np.random.default_rng(0), (2, 3), -1)
    return og.which_backend(row.op, *arrays, **row.variants[0]).engines


def _mark(record: Record | None) -> str:
    if record is None:
        return ABSENT
    if record.fails:
        return f"{BEYOND} {short(record.ulp)}"
    return f"{WITHIN if record.ulp <= record.goal else WITH_EXCESS} {short(record.ulp)}"

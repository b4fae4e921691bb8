"""Measuring: the largest error of every op, role, data type and library."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

import numpy as np
import numpy.typing as npt

from opsgrad.conformance.accuracy.exact import (
    Exact,
    Measured,
    check_against_reference,
    errors,
    exact,
    wide,
)
from opsgrad.conformance.accuracy.inputs import Case, cases
from opsgrad.conformance.accuracy.peers import Results, run_peers
from opsgrad.conformance.checks import bound_of, call, call_jvp, call_vjp
from opsgrad.conformance.excess import USES, function_excess
from opsgrad.conformance.row import Row
from opsgrad.conformance.table import TABLE
from opsgrad.conformance.target import Target, installed_targets

ROLES = ("value", "vjp", "jvp")
DTYPES = ("float32", "float64")


@dataclass(frozen=True)
class Record:
    """The largest error of one contestant, in units in the last place, and where it occurs.

    `goal` is the row's, `allowed` adds the excess of the library's own functions; None for a
    library's own function, which promises neither.
    """

    op: str
    role: str
    dtype: str
    contestant: str
    ulp: float
    goal: float
    allowed: float | None
    worst: str

    @property
    def fails(self) -> bool:
        """Whether the error is larger than the goal and the excess allow."""
        return self.allowed is not None and not self.ulp <= self.allowed


@dataclass(frozen=True)
class Function:
    """By how much a library's own function exceeds one unit in the last place."""

    target: str
    function: str
    dtype: str
    excess: float


class _Halves(Target):
    """A target that gets its arrays in halves: the chunks that Dask is tested with are tiny."""

    def put(self, array: Any) -> Any:
        if array is None or isinstance(array, tuple):
            return super().put(array)
        import dask.array as da

        given = np.asarray(array)
        return da.from_array(given, chunks=tuple(max(1, -(-n // 2)) for n in given.shape))


def prepare() -> None:
    """Set the libraries up: JAX with float64, Dask and PyTorch in this thread."""
    if importlib.util.find_spec("jax") is not None:
        importlib.import_module("jax").config.update("jax_enable_x64", True)
    if importlib.util.find_spec("dask") is not None:
        importlib.import_module("dask").config.set(scheduler="synchronous")
    if importlib.util.find_spec("torch") is not None:
        importlib.import_module("torch").set_num_threads(1)


def eager_targets() -> list[Target]:
    """Return the installed targets, each library once."""
    eager = [one for one in installed_targets() if not (one.traced or one.rows)]
    return [_Halves(t.name, t.backend) if t.name == "dask" else t for t in eager]


def measure(
    names: Sequence[str],
    *,
    quick: bool = False,
    dtypes: Sequence[str] = DTYPES,
    replaced: Mapping[str, Any] | None = None,
) -> Iterator[list[Record]]:
    """Yield the records of one op in one data type at a time.

    `replaced` holds ops that stand in for a row's own, for planting mistakes.
    """
    prepare()
    targets = eager_targets()
    for name in names:
        for dtype in dtypes:
            yield _of_op(TABLE[name], dtype, targets, quick, (replaced or {}).get(name))


def measure_in_parallel(
    names: Sequence[str], *, quick: bool = False, processes: int = 2
) -> Iterator[list[Record]]:
    """Do as `measure` does, in several processes."""
    jobs = [(name, dtype, quick) for name in names for dtype in DTYPES]
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        yield from pool.map(_job, jobs)


def _job(job: tuple[str, str, bool]) -> list[Record]:
    name, dtype, quick = job
    (records,) = measure([name], quick=quick, dtypes=[dtype])
    return records


def functions() -> list[Function]:
    """Return the measured excess of every function that the ops use, on every target."""
    prepare()
    names = sorted({name for used in USES.values() for name in used})
    return [
        Function(str(target), name, dtype, function_excess(target, name, dtype))
        for target in eager_targets()
        for name in names
        for dtype in DTYPES
        if dtype in target.dtypes
    ]


def label(row: Row, params: Mapping[str, Any]) -> str:
    """Return what a line of the report is about: the op, and the parameter its goal depends on."""
    if row.value_bound_at is None:
        return row.name
    return f"{row.name}, " + ", ".join(f"{name} = {entry:g}" for name, entry in params.items())


def _of_op(
    row: Row, dtype: str, targets: Sequence[Target], quick: bool, stand_in: Any
) -> list[Record]:
    found = [
        record
        for params in row.variants[: 2 if quick else None]
        for case in cases(row, dtype, quick=quick)
        for record in _of_case(row, case, params, dtype, targets, stand_in or row.op)
    ]
    worst: dict[tuple[str, str, str], Record] = {}
    for record in found:
        key = record.op, record.role, record.contestant
        if key not in worst or _margin(record) > _margin(worst[key]):
            worst[key] = record
    return list(worst.values())


def _margin(record: Record) -> float:
    return record.ulp - (record.allowed or 0.0)


def _of_case(
    row: Row,
    case: Case,
    params: Mapping[str, Any],
    dtype: str,
    targets: Sequence[Target],
    op: Any,
) -> Iterator[Record]:
    check_against_reference(row, _few(row, case), params)
    right = exact_results(row, case, params)
    for target in targets:
        if dtype in target.dtypes:
            results = _run(op, target, case, params)
            yield from _records(row, target, case, params, dtype, results, right)
    for name, results in run_peers(row.name, case, params).items():
        yield from _records(row, name, case, params, dtype, results, right)


def _few(row: Row, case: Case) -> list[npt.NDArray[Any]]:
    """Return a few arguments of a case that the reference can take: short, smooth, not extreme."""
    if row.unit == "element":
        sizes = np.abs(np.stack(case.arrays))
        usual = np.flatnonzero(np.all((sizes < 30.0) & (sizes > 1e-3), axis=0))
        return [a[usual[:24]] for a in case.arrays]
    rng = np.random.default_rng(11)
    dtype = case.arrays[0].dtype
    arrays = row.sample(rng, (3, min(5, case.arrays[0].shape[-1])), -1)
    return [a if a.dtype.kind in "iu" else a.astype(dtype) for a in arrays]


def exact_results(
    row: Row, case: Case, params: Mapping[str, Any]
) -> dict[str, list[Measured | None]]:
    """Return what each role should give, with the units that errors are counted in."""
    with np.errstate(all="ignore"):
        right: Exact = exact(row, case.arrays, params)
        widened = [None if t is None else wide(t) for t in case.tangents]
        pulled, pushed = right.vjp(wide(case.cotangent)), right.jvp(widened)
    if row.has_floor:
        y = right.value.number
        pulled = (_floored(pulled[0], y, case.cotangent),)
        pushed = _floored(pushed, y, case.tangents[0])
    return {"value": [right.value], "vjp": list(pulled), "jvp": [pushed]}


def _floored(one: Measured | None, y: Any, g: npt.NDArray[Any] | None) -> Measured:
    assert one is not None
    assert g is not None
    most = wide(np.max(np.abs(g), axis=-1, keepdims=True))
    return Measured(one.number, one.scale + 4 * float(np.finfo(g.dtype).eps) * y * most)


def _run(op: Any, target: Target, case: Case, params: Mapping[str, Any]) -> Results:
    return {
        "value": [call(op, target, case.arrays, params)],
        "vjp": list(call_vjp(op, target, case.arrays, case.cotangent, params)),
        "jvp": [call_jvp(op, target, case.arrays, case.tangents, params)],
    }


def _records(
    row: Row,
    contestant: Target | str,
    case: Case,
    params: Mapping[str, Any],
    dtype: str,
    results: Results,
    right: Mapping[str, Sequence[Measured | None]],
) -> Iterator[Record]:
    target = None if isinstance(contestant, str) else contestant
    flushes = target.capabilities.flushes_subnormals if target else contestant == "JAX"
    for role, arrays in results.items():
        ulp, worst = -1.0, ""
        for got, one in zip(arrays, right[role], strict=True):
            if got is None or one is None:
                continue
            each = errors(np.asarray(got), one, flushes=flushes, of_scale=row.states_scale(role))
            if each.size and each.max() > ulp:
                ulp, worst = float(each.max()), _describe(row, case, params, each)
        yield Record(
            op=label(row, params),
            role=role,
            dtype=dtype,
            contestant=str(contestant),
            ulp=ulp,
            goal=goal(row, role, params),
            allowed=bound_of(row, role, target, dtype, params) if target else None,
            worst=worst,
        )


def goal(row: Row, role: str, params: Mapping[str, Any]) -> float:
    """Return the largest error that a row allows."""
    if role == "value":
        return row.value_bound(**params)
    stated = row.derivative_ulp if role == "jvp" else None
    return row.gradient_ulp if stated is None else stated


def _describe(row: Row, case: Case, params: Mapping[str, Any], each: npt.NDArray[Any]) -> str:
    place = tuple(int(i) for i in np.unravel_index(np.argmax(each), each.shape))
    given = "".join(f", {name} = {entry}" for name, entry in params.items())
    if row.unit == "element":
        named = zip(row.arguments, case.arrays, strict=True)
        return ", ".join(f"{role} = {_short(a[place])}" for role, a in named) + given
    x = case.arrays[0]
    length = f"n = {x.shape[-1]}"
    if row.unit == "matrix":
        return length + given
    line = x[place[0]]
    where = f", entry {place[1]}: {_short(line[place[1]])}" if len(place) > 1 else ""
    if line.size <= 5:
        where = (
            ": ["
            + ", ".join(map(_short, line))
            + "]"
            + (f", entry {place[1]}" if len(place) > 1 else "")
        )
    return f"{case.kinds[place[0]]}, {length}{where}, largest {_short(line.max())}{given}"


def _short(number: Any) -> str:
    return f"{float(number):.9g}"

"""The page of the figures: means, what surrounds the kernels, and every single case."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import geometric_mean, median
from typing import Any

from benchmarks.cases import DTYPES, ROLES, Case
from benchmarks.contestants import BODY, OURS, OUT, PEERS
from benchmarks.speed import COPY, COPY_TWO

NOT_BEHIND_COPY = 1.4
"""Within this many times the copy, memory is what takes the time."""
LONG = 1e-4
"""Seconds from which on a case counts as behind: shorter ones are all call."""

INTRODUCTION = """\
# Speed

Written by `python -m benchmarks` (`make bench`).

In each case all contestants compute the same thing from the same arrays, with the same number of
threads, and are timed by turns. The figures are minima over the rounds. Peers run in their best
form: PyTorch's and SciPy's own functions, also with `out=` where they take it; PyTorch's pullbacks
on a graph that is there already; JAX compiled by `jax.jit`, its arrays in place beforehand. What a
library has no function for is written out of its pieces. *Textbook* is the plain formula in NumPy,
with the gradients by hand. *Copy* is the faster of copies by one and by two threads that move as
many bytes as the case has to: what it reads and writes, each once. Ratios above 1 mean that opsgrad
is faster.
"""


@dataclass(frozen=True)
class Measured:
    """One case, in the seconds of each contestant's fastest round."""

    case: Case
    seconds: Mapping[str, float]
    first: Mapping[str, float]

    @classmethod
    def of(cls, group: Mapping[str, Any]) -> "Measured":
        """Read a group of the JSON; forms of the same peer count as one, by the faster."""
        seconds: dict[str, float] = {}
        for name, timing in group["seconds"].items():
            library = COPY if name == COPY_TWO else name.removesuffix(OUT)
            seconds[library] = min(timing["least"], seconds.get(library, timing["least"]))
        first = {name: timing["first"] for name, timing in group["seconds"].items()}
        op, *parameters = group["op"].split(", ")
        named = dict(enumerate(parameters))
        shape = tuple(group["shape"])
        case = Case(op, group["role"], shape, group["dtype"], group["axis"], named)  # type: ignore[arg-type]
        return cls(case, seconds, first)

    @property
    def ours(self) -> float:
        return self.seconds[OURS]

    @property
    def ratio(self) -> float:
        """How many times as long as ours the fastest peer takes."""
        return min(self.seconds[name] for name in PEERS if name in self.seconds) / self.ours

    @property
    def is_behind(self) -> bool:
        """Whether a peer is faster though the copy of the bytes leaves room for it."""
        return (
            self.ours >= LONG
            and self.ratio < 1
            and self.ours > NOT_BEHIND_COPY * self.seconds[COPY]
        )


class Report:
    """All that was measured, by part."""

    def __init__(self, results: Mapping[str, Any]) -> None:
        self.results = results
        self.cases = [Measured.of(group) for group in self._of("speed")]

    def _of(self, part: str) -> Any:
        return self.results[part][part] if part in self.results else []

    def page(self) -> str:
        """Return the whole page."""
        parts = [INTRODUCTION, self._machine()]
        sections: dict[str, Callable[[], str]] = {
            "Means": self._means,
            "Calls": self._calls,
            "Starting": self._starting,
            "Memory": self._memory,
            "Scaling": self._scaling,
        }
        parts += [f"## {name}\n\n{text}" for name, make in sections.items() if (text := make())]
        for role in ROLES:
            chosen = [m for m in self.cases if m.case.role == role]
            if chosen:
                parts.append(f"## Every case: {role}\n\nMilliseconds.\n\n{cases_table(chosen)}")
        return "\n".join(parts)

    def summary(self) -> str:
        """Return what a terminal has room for."""
        made = (self._means(), self._calls(), self._starting())
        return "\n".join([*(text for text in made if text), cases_table(self.cases)])

    def _machine(self) -> str:
        one = next(iter(self.results.values()))
        listed = ", ".join(f"{name} {version}" for name, version in one["versions"].items())
        threads = "one thread" if one["threads"] == 1 else f"{one['threads']} threads"
        return f"**Measured on** {one['cpu']}, {threads}; {listed}.\n"

    # -- the sections ------------------------------------------------------------------------------

    def _means(self) -> str:
        if not self.cases:
            return ""
        rows = [
            self._mean_row(role, dtype, [m for m in self.cases if _is(m, role, dtype)])
            for role in ROLES
            for dtype in DTYPES
        ]
        rows.append(self._mean_row("all", "both", self.cases))
        head = ("role", "dtype", "cases", "fastest peer / ours", *(f"{p} / ours" for p in PEERS))
        behind = sum(m.is_behind for m in self.cases)
        long = sum(m.ours >= LONG for m in self.cases)
        slower = sum(m.ratio < 1 for m in self.cases)
        return (
            "Geometric means.\n\n"
            + markdown((*head, "behind"), [row for row in rows if row])
            + f"\nA peer is faster in {slower} of {len(self.cases)} cases. {behind} of the {long} "
            f"that take {LONG * 1e6:.0f} µs or more are *behind*: a peer is faster, and they take "
            f"more than {NOT_BEHIND_COPY} times the copy.\n"
            + "\n![The fastest peer's time over ours, by op](images/benchmarks.png)\n"
        )

    def _mean_row(self, role: str, dtype: str, chosen: Sequence[Measured]) -> list[str]:
        if not chosen:
            return []
        every = f"{geometric_mean(m.ratio for m in chosen):.2f}"
        each = [_mean([m.seconds[p] / m.ours for m in chosen if p in m.seconds]) for p in PEERS]
        return [role, dtype, str(len(chosen)), every, *each, str(sum(m.is_behind for m in chosen))]

    def _calls(self) -> str:
        measured = ("seconds", "body", "overhead", "compiled")
        rows = [
            [one["op"], *(f"{one[name] * 1e6:.2f}" for name in measured)]
            for one in self._of("overhead")
        ]
        if not rows:
            return ""
        words = (
            "Microseconds of a call with float32 arrays of 64×10, and of its body alone, before "
            "anything is compiled; and of a call after `warmup`.\n\n"
        )
        return words + markdown(("op", "call", "body", "difference", "compiled"), rows)

    def _starting(self) -> str:
        starts = dict(self._of("starts"))
        rows = [
            [name, *(f"{times[which] * 1e3:.0f}" for which in ("first", "least"))]
            for name, times in starts.items()
        ]
        if not rows:
            return ""
        ratio = starts["import opsgrad"]["least"] / starts["import numpy"]["least"]
        return (
            "Milliseconds of processor time of fresh processes, beyond Python's own.\n\n"
            + markdown(("what", "first process", "fastest process"), rows)
            + f"\nImporting opsgrad takes {ratio:.2f} times what importing NumPy takes.\n"
            + self._compiling()
        )

    def _compiling(self) -> str:
        listed = [
            f"{name} {median(m.first[name] for m in self.cases if name in m.first) * 1e3:.1f} ms"
            for name in (OURS, "JAX")
            if any(name in m.first for m in self.cases)
        ]
        words = "; ".join(listed)
        return (
            f"\nThe first call of a case, compiling included, median: {words}.\n" if words else ""
        )

    def _memory(self) -> str:
        rows = [
            [
                one["op"],
                one["role"],
                *(f"{one[name] / 2**20:.1f}" for name in ("inputs", "outputs", "extra")),
            ]
            for one in self._of("memory")
        ]
        words = (
            "MiB at 4096×1000 in float32: the arrays given, those returned, and the most that "
            "NumPy allocates besides during the call.\n\n"
        )
        return words + markdown(("op", "role", "inputs", "outputs", "extra"), rows) if rows else ""

    def _scaling(self) -> str:
        measured = [Measured.of(group) for group in self._of("scaling")]
        tables = []
        for op in dict.fromkeys(m.case.op for m in measured):
            chosen = [m for m in measured if m.case.op == op]
            tables.append(f"{op}, float32, milliseconds:\n\n{cases_table(chosen)}")
        return "\n".join(tables)


def _is(measured: Measured, role: str, dtype: str) -> bool:
    return (measured.case.role, measured.case.dtype) == (role, dtype)


def _mean(ratios: Sequence[float]) -> str:
    return f"{geometric_mean(ratios):.2f}" if ratios else "–"


def cases_table(measured: Sequence[Measured]) -> str:
    """Return a row for each case, in milliseconds."""
    names = [n for n in (OURS, BODY, *PEERS, COPY) if any(n in one.seconds for one in measured)]
    rows = [
        [
            one.case.name,
            one.case.role,
            one.case.size,
            one.case.dtype,
            *(_milliseconds(one.seconds.get(name)) for name in names),
            f"{one.ratio:.2f}" + (" ✗" if one.is_behind else ""),
            f"{one.ours / one.seconds[COPY]:.1f}",
        ]
        for one in measured
    ]
    head = ("op", "role", "shape", "dtype", *names, "fastest peer / ours", "ours / copy")
    return markdown(head, rows)


def _milliseconds(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    return f"{seconds * 1e3:.0f}" if seconds >= 1 else f"{seconds * 1e3:.3g}"


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)

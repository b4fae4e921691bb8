"""Plots as SVG that takes its colours from the page, so that they are right on light and on dark.

Each panel is a picture of its own, as wide as a phone: the page puts them side by side where there
is room.
"""

import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

import opsgrad as og
from benchmarks.cases import VARIANTS
from benchmarks.peers import TEXTBOOK
from opsgrad.conformance import Row
from opsgrad.conformance.accuracy.exact import check_against_reference, errors
from opsgrad.conformance.accuracy.inputs import Case, cases
from opsgrad.conformance.accuracy.measure import exact_results, goal
from opsgrad.conformance.accuracy.report import short

Array = npt.NDArray[Any]

INK, RULE = "#010101", "#020202"
COLOURS = tuple(f"#0{number}0000" for number in range(1, 8))
"""Stand-ins, each replaced by a colour of the page's: see `_static/site.css`."""
VARIABLES = {INK: "ink", RULE: "rule", **{c: str(n) for n, c in enumerate(COLOURS, 1)}}
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)), (0, (8, 2)))
SIZE = (4.0, 2.9)
STYLE = {
    "svg.fonttype": "none",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": RULE,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.8,
}

STEPS = 600  # even: a line through a kink has no step at it
MOST_LINES = len(COLOURS)


@dataclass(frozen=True)
class Line:
    """A straight line of arguments: base + t · direction, for t from low to high."""

    base: Sequence[float]
    direction: Sequence[float]
    low: float
    high: float


LINES = {
    "x": Line((0.0, 0.25, -0.25), (1.0, 0.0, 0.0), -4.0, 4.0),
    "reduced x": Line((0.0, 1.0, -1.0), (1.0, 0.0, 0.0), -4.0, 4.0),
    "logits": Line((0.0, 0.25, -0.25), (1.0, 0.0, 0.0), -4.0, 4.0),
    "scores": Line((0.0, 0.25, -0.25), (1.0, 0.0, 0.0), -4.0, 4.0),
    "probs": Line((0.0, 0.6, 0.4), (1.0, -0.6, -0.4), 0.01, 0.99),
    "log_probs": Line((0.0, -1.0, -2.0), (1.0, 0.0, 0.0), -4.0, 0.0),
    "pred": Line((0.0,), (1.0,), -3.0, 3.0),
}
"""By the role of an op's first argument: where its plots go along. An elementwise op has the first
entry alone."""
OTHERS: Mapping[str, Any] = {
    "alpha": 0.25,
    "target": 0.5,
    "hinge targets": 1.0,
    "targets": (0.7, 0.2, 0.1),
    "labels": 0,
    "w": ((0.5, -1.0), (1.0, 0.5), (-0.5, 1.0)),
    "b": (0.5, -0.5),
}
"""What the other arguments are meanwhile."""


# -- the op itself ---------------------------------------------------------------------------------


def shape_of(row: Row) -> list[str]:
    """Draw value and derivative along a line, for several sets of parameters if there are such."""
    t, arrays, direction = _along(row)
    sets = _parameter_sets(row, single=not _is_one_number(row))
    with figure("value") as (value, axes), figure("derivative along t") as (slope, others):
        style = zip(COLOURS, DASHES, strict=True)
        for params in sets:
            tangents = tuple(
                direction if n == 0 else None if a.dtype.kind == "i" else np.zeros_like(a)
                for n, a in enumerate(arrays)
            )
            y, dy = og.jvp(row.op, arrays, tangents, **params)
            named = [_words(params)] if y.ndim == 1 else [f"entry {n}" for n in range(y.shape[1])]
            for name, of_value, of_slope in zip(named, _columns(y), _columns(dy), strict=True):
                colour, dash = next(style)
                axes.plot(t, _broken(of_value), color=colour, ls=dash, label=name)
                others.plot(t, _broken(of_slope), color=colour, ls=dash, label=name)
                if row.unit == "slice" and y.ndim == 2:
                    _mark_zeros(axes, t, of_value, colour)
        for panel in (axes, others):
            _clip(panel)
            panel.set_xlabel(_line_words(row))
            panel.axhline(0.0, color=RULE, lw=0.6, zorder=0)
            if len(panel.lines) > 2 and panel.get_legend_handles_labels()[1] != [""]:
                legend(panel, 3 if y.ndim == 2 else 2)
    return [value.text, slope.text]


def _along(row: Row) -> tuple[Array, tuple[Array, ...], Array]:
    """Return the steps, the arguments at each, and the direction of the first argument."""
    line = _line(row)
    entries = 1 if row.unit == "element" else len(line.base)
    t = np.linspace(line.low, line.high, STEPS)
    base, direction = np.array(line.base[:entries]), np.array(line.direction[:entries])
    first = base + t[:, None] * direction
    others = [np.array(OTHERS[_other(row, role)]) for role in row.arguments[1:]]
    if row.unit == "element":
        flat = tuple(np.full(STEPS, other) for other in others)
        return t, (first[:, 0], *flat), np.ones(STEPS)
    if row.unit == "slice":
        others = [np.broadcast_to(other, (STEPS, *other.shape)).copy() for other in others]
    return t, (first, *others), np.broadcast_to(direction, first.shape).copy()


def _line(row: Row) -> Line:
    role = row.arguments[0]
    return LINES["reduced x" if role == "x" and row.reduces_axis else role]


def _other(row: Row, role: str) -> str:
    return "hinge targets" if row.unit == "element" and role == "targets" else role


def _parameter_sets(row: Row, *, single: bool) -> Sequence[Mapping[str, Any]]:
    """Return what to draw: the cases that are timed where those are several, else the row's."""
    timed = VARIANTS.get(row.name, ())
    chosen = timed if len(timed) > 1 else row.variants
    return sorted(chosen[: 1 if single else MOST_LINES], key=_numbers_first)


def _numbers_first(params: Mapping[str, Any]) -> list[tuple[bool, Any]]:
    return [(isinstance(value, str), value) for value in params.values()]


def _is_one_number(row: Row) -> bool:
    return row.unit == "element" or row.reduces_axis


def _words(params: Mapping[str, Any]) -> str:
    return ", ".join(f"{k} = {v:g}" if isinstance(v, float) else str(v) for k, v in params.items())


def _line_words(row: Row) -> str:
    if row.unit == "element":
        return f"t = {row.arguments[0]}"
    line = _line(row)
    moving = [_term(b, d) for b, d in zip(line.base, line.direction, strict=True)]
    return f"t, where {row.arguments[0]} = ({', '.join(moving)})"


def _term(base: float, step: float) -> str:
    if step == 0:
        return f"{base:g}".replace("-", "−")
    if step == 1 and base == 0:
        return "t"
    return f"{base:g} − {-step:g}t" if step < 0 else f"{base:g} + {step:g}t"


def _columns(y: Array) -> list[Array]:
    return [y] if y.ndim == 1 else list(y.T)


def _broken(y: Array) -> Array:
    """Return a curve without the strokes that would join the two sides of a jump."""
    steps = np.abs(np.diff(y))
    beside = np.maximum(np.append(steps[1:], 0.0), np.insert(steps[:-1], 0, 0.0))
    broken = y.copy()
    broken[1:][steps > 4.0 * beside + 0.01 * np.ptp(y)] = np.nan
    return broken


def _clip(axes: Any) -> None:
    """Leave out the ends of curves that go to infinity: they would flatten all the others."""
    points = np.concatenate([line.get_ydata() for line in axes.lines])
    low, high = np.nanpercentile(points, [1, 99])
    if np.nanmax(points) - np.nanmin(points) > 3.0 * (high - low) > 0.0:
        axes.set_ylim(low - 0.1 * (high - low), high + 0.1 * (high - low))


def _mark_zeros(axes: Any, t: Array, y: Array, colour: str) -> None:
    """Put crosses where a probability is exactly 0."""
    at = np.flatnonzero(y == 0)[::25]
    axes.plot(t[at], y[at], "x", color=colour, ms=5, label="_")


# -- its errors ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Errors:
    """The errors of every entry in units in the last place: ours, and those of the plain form."""

    row: Row
    case: Case
    params: Mapping[str, Any]
    ours: Mapping[str, Array]
    plain: Mapping[str, Array]

    @property
    def plain_is_as_exact(self) -> bool:
        """Whether the plain form keeps the goals too: then there is nothing to show."""
        return all(
            float(each.max(initial=0.0)) <= goal(self.row, role, self.params)
            for role, each in self.plain.items()
        )

    def largest(self, which: str, role: str) -> str:
        """Return the largest error in few characters."""
        return short(float(getattr(self, which)[role].max(initial=0.0)))


def errors_of(row: Row, dtype: str = "float32") -> Errors:
    """Measure the value and the gradient by the first argument, on the accuracy report's inputs."""
    timed = VARIANTS.get(row.name, ({},))[0]
    params = {**row.variants[0], **timed}
    (case,) = cases(row, dtype, quick=True)
    _hold(row, dtype, params)
    right: Mapping[str, Sequence[Any]] = exact_results(row, case, params)
    value, pull = og.vjp(row.op, *case.arrays, **params)
    axis = {"axis": -1} if row.has_axis else {}
    with np.errstate(all="ignore"):
        plain, pulls = TEXTBOOK[row.name](*case.arrays, **timed, **axis)
        slope = pulls[0](case.cotangent)

    def each(y: Array, dx: Array) -> dict[str, Array]:
        got = {"value": y, "vjp": np.asarray(dx, dtype=dtype)}
        return {
            role: errors(np.asarray(array), right[role][0], of_scale=row.states_scale(role))
            for role, array in got.items()
        }

    return Errors(row, case, params, each(value, pull(case.cotangent)[0]), each(plain, slope))


def _hold(row: Row, dtype: str, params: Mapping[str, Any]) -> None:
    """Hold the fast oracle to the reference at a few points, as its users have to."""
    arrays = row.sample(np.random.default_rng(11), (2, 4), -1)
    cast = [a if a.dtype.kind in "iu" else a.astype(dtype) for a in arrays]
    if row.name == "prelu":
        cast[1] = np.broadcast_to(cast[1], cast[0].shape).copy()
    check_against_reference(row, cast, params)


def error_panels(measured: Errors) -> list[str]:
    """Draw the errors: over the argument for an elementwise op, else by the kind of row."""
    return [
        (_over_argument if measured.row.unit == "element" else _by_kind)(measured, role)
        for role in ("value", "vjp")
    ]


TITLES = {"value": "value", "vjp": "gradient"}
WHO = {"ours": ("opsgrad", COLOURS[0], "o", 5), "plain": ("textbook form", COLOURS[1], "^", 6)}
"""The smaller marks lie on top."""
FLOOR, CEILING = 0.1, 1e10


def _over_argument(measured: Errors, role: str) -> str:
    x = measured.case.arrays[0].astype(np.float64)
    shown = np.abs(x) < 1e3
    edges = np.concatenate([-np.geomspace(1e-2, 1e3, 60)[::-1], np.geomspace(1e-2, 1e3, 60)])
    places = np.digitize(x[shown], edges)
    with figure(f"{TITLES[role]}: largest error, ULP") as (drawn, axes):
        axes.set_xscale("symlog", linthresh=0.1, linscale=0.3)
        for which, (name, colour, marker, size) in WHO.items():
            each = np.clip(getattr(measured, which)[role][shown], FLOOR, CEILING)
            found = [n for n in range(1, len(edges)) if (places == n).any()]
            most = [each[places == n].max() for n in found]
            axes.plot(
                edges[found], most, marker, color=colour, ms=size - 2, label=name, zorder=9 - size
            )
        axes.set_xlim(-1e3, 1e3)
        axes.set_xticks(
            [-100, -10, -1, 0, 1, 10, 100], ["−100", "−10", "−1", "0", "1", "10", "100"]
        )
        axes.set_xlabel(measured.row.arguments[0])
        _error_axis(axes.yaxis, axes.set_ylim, measured, role)
        axes.axhline(goal(measured.row, role, measured.params), color=RULE, lw=1, label="goal")
        legend(axes, 3)
    return drawn.text


def _by_kind(measured: Errors, role: str) -> str:
    kinds = list(dict.fromkeys(measured.case.kinds))
    labels = np.array(measured.case.kinds)
    height = 1.3 + 0.22 * len(kinds)
    with figure(f"{TITLES[role]}: largest error, ULP", (SIZE[0], height)) as (drawn, axes):
        for which, (name, colour, marker, size) in WHO.items():
            each = np.clip(getattr(measured, which)[role], FLOOR, CEILING)
            most = [each[labels == kind].max() for kind in kinds]
            axes.plot(
                most, range(len(kinds)), marker, color=colour, ms=size, label=name, zorder=9 - size
            )
        axes.hlines(range(len(kinds)), FLOOR, CEILING, color=RULE, lw=0.3, zorder=0)
        axes.axvline(goal(measured.row, role, measured.params), color=RULE, lw=1, label="goal")
        axes.set_yticks(range(len(kinds)), kinds, fontsize=8.5)
        axes.set_ylim(len(kinds) - 0.5, -0.5)
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
        _error_axis(axes.xaxis, axes.set_xlim, measured, role)
        legend(axes, 3)
    return drawn.text


def _error_axis(axis: Any, limit: Any, measured: Errors, role: str) -> None:
    largest = max(float(getattr(measured, w)[role].max(initial=1.0)) for w in WHO)
    top = min(CEILING, 10 ** (math.ceil(math.log10(min(max(largest, 10.0), CEILING))) + 0.5))
    axis.axes.set_yscale("log") if axis.axis_name == "y" else axis.axes.set_xscale("log")
    limit(FLOOR / 1.3, top * 1.3)
    powers = range(-1, math.floor(math.log10(top * 1.3)) + 1, 1 if top < 1e5 else 2)
    axis.set_ticks([10.0**p for p in powers], [_power(p) for p in powers])
    axis.set_ticks([], minor=True)


def _power(p: int) -> str:
    raised = str(p).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return {-1: "0.1", 0: "1", 1: "10", 2: "100", 3: "1000"}.get(p, f"10{raised}")


def legend(axes: Any, columns: int) -> None:
    """Put the legend below, where it covers nothing."""
    axes.figure.legend(
        *axes.get_legend_handles_labels(),
        loc="outside lower center",
        ncols=columns,
        handletextpad=0.4,
        columnspacing=1.2,
    )


# -- figures ---------------------------------------------------------------------------------------


class Drawn:
    """A picture, once it is drawn."""

    text = ""


@contextmanager
def figure(title: str, size: tuple[float, float] = SIZE) -> Iterator[tuple[Drawn, Any]]:
    """Give axes to draw on; the picture is there afterwards."""
    drawn = Drawn()
    with mpl.rc_context(STYLE):
        whole = Figure(figsize=size, layout="constrained")
        axes = whole.subplots()
        axes.set_title(title)
        yield drawn, axes
        drawn.text = _inline(whole, title)


def _inline(whole: Figure, label: str) -> str:
    """Return a figure as an SVG element for a page, with the page's fonts and colours."""
    out = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": label}):
        whole.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(<svg [^>]*?) ?height="[^"]*"', r"\1", text, count=1)
    text = re.sub(
        r'(<svg [^>]*?) ?width="[^"]*"', rf'\1 role="img" aria-label="{label}"', text, count=1
    )
    text = re.sub(r"font: ([^;\"']*?)(\d[\d.]*px)[^;\"]*", r"font-size: \2", text)
    for colour, name in VARIABLES.items():
        text = text.replace(colour, f"var(--plot-{name})")
    return re.sub(r"\n\s*\n+", "\n", text)

"""A picture of the largest errors: ours beside the libraries' own, on a logarithmic axis."""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from opsgrad.conformance.accuracy.measure import DTYPES, Record

# Okabe and Ito's colours, told apart by shape too.
STYLES = {
    "opsgrad": ("#0072B2", "o", "opsgrad, the worst of all libraries"),
    "SciPy": ("#009E73", "s", "SciPy or NumPy"),
    "PyTorch": ("#D55E00", "^", "PyTorch"),
    "JAX": ("#CC79A7", "D", "JAX"),
}
PEERS = ("SciPy", "PyTorch", "JAX")
LEAST = 0.3
MOST = 1e17


def draw(records: Sequence[Record], path: Path) -> None:
    """Draw every op that a library has a function of its own for."""
    matplotlib: Any = importlib.import_module("matplotlib")
    matplotlib.use("Agg")
    pyplot: Any = importlib.import_module("matplotlib.pyplot")
    names = list(dict.fromkeys(r.op for r in records if r.contestant in PEERS))
    names = [name for name in names if _largest(records, name, "gradient", PEERS) > 0.5]
    figure, panels = pyplot.subplots(
        2, 2, figsize=(11, 2.0 + 0.7 * len(names)), sharex=True, sharey=True, squeeze=False
    )
    for across, dtype in enumerate(DTYPES):
        for down, what in enumerate(("value", "gradient")):
            chosen = [r for r in records if r.dtype == dtype]
            _panel(panels[down][across], chosen, names, what)
            panels[down][across].set_title(f"{what}, {dtype}", fontsize=11, loc="left")
    for panel in panels[-1]:
        panel.set_xlabel("largest error, units in the last place")
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper center", ncols=5, frameon=False, fontsize=10)
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.55 / figure.get_figheight()))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def _panel(panel: Any, records: Sequence[Record], names: Sequence[str], what: str) -> None:
    heights = range(len(names))
    panel.set_xscale("log")
    panel.set_xlim(LEAST, MOST * 3)
    panel.set_ylim(len(names) - 0.5, -0.5)
    panel.set_yticks(heights, [_shorter(name) for name in names], fontsize=9)
    panel.hlines([h + 0.5 for h in heights], LEAST, MOST * 3, color="0.9", lw=0.8, zorder=0)
    goals = [max((r.goal for r in records if _is(r, name, what)), default=0.0) for name in names]
    panel.plot(goals, heights, "|", color="black", markersize=19, label="goal", zorder=2)
    for step, (contestant, (colour, marker, label)) in enumerate(STYLES.items()):
        errors = [
            _largest(records, name, what, [contestant] if contestant in PEERS else None)
            for name in names
        ]
        shown = [
            (h + 0.2 * (step - 1.5), e) for h, e in zip(heights, errors, strict=True) if e >= 0
        ]
        panel.plot(
            [min(max(e, LEAST * 1.15), MOST) for _, e in shown],
            [h for h, _ in shown],
            marker,
            color=colour,
            markersize=6.5 if contestant == "opsgrad" else 5.5,
            markeredgecolor="white",
            markeredgewidth=0.5,
            label=label,
            zorder=4 if contestant == "opsgrad" else 3,
        )
    ticks = [1, 1e2, 1e4, 1e6, 1e8, 1e10, 1e12, 1e14, MOST]
    panel.set_xticks(ticks, ["1", *(f"$10^{{{round(math.log10(t))}}}$" for t in ticks[1:-1]), "∞"])
    panel.minorticks_off()
    panel.spines[["top", "right", "left"]].set_visible(False)
    panel.tick_params(axis="y", length=0)


def _largest(
    records: Sequence[Record], name: str, what: str, contestants: Iterable[str] | None
) -> float:
    """Return the largest error among `contestants`, all of ours if None; -1 where there is none."""
    wanted = None if contestants is None else set(contestants)
    return max(
        (
            r.ulp
            for r in records
            if _is(r, name, what)
            and (r.contestant not in PEERS if wanted is None else r.contestant in wanted)
        ),
        default=-1.0,
    )


def _is(record: Record, name: str, what: str) -> bool:
    return record.op == name and record.role == ("value" if what == "value" else "vjp")


def _shorter(name: str) -> str:
    return name.replace("softmax_cross_entropy_with_integer_labels", "label cross-entropy")

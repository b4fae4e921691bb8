"""A picture of every case: the fastest peer's time over ours, on a logarithmic axis."""

import importlib
from collections.abc import Sequence
from pathlib import Path
from statistics import geometric_mean
from typing import Any

from benchmarks.cases import ROLES
from benchmarks.report import Measured

# Okabe and Ito's colours, told apart by shape and place too.
STYLES = dict(zip(ROLES, (("#0072B2", "o"), ("#D55E00", "^"), ("#009E73", "s")), strict=True))
SPREAD = 0.24
TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)


def draw(measured: Sequence[Measured], path: Path) -> None:
    """Draw the ops from the slowest to the fastest, a mark for each case and one for each mean."""
    if not measured:
        return
    matplotlib: Any = importlib.import_module("matplotlib")
    matplotlib.use("Agg")
    pyplot: Any = importlib.import_module("matplotlib.pyplot")
    by_op: dict[str, list[Measured]] = {}
    for one in measured:
        by_op.setdefault(one.case.name, []).append(one)
    names = sorted(by_op, key=lambda name: geometric_mean(m.ratio for m in by_op[name]))
    figure, panel = pyplot.subplots(figsize=(9, 2.0 + 0.32 * len(names)))
    panel.set_xscale("log")
    panel.axvline(1.0, color="black", lw=1.0, zorder=1)
    panel.hlines([h + 0.5 for h in range(len(names))], 1e-3, 1e3, color="0.9", lw=0.8, zorder=0)
    for role in ROLES:
        _marks(panel, [by_op[name] for name in names], role)
    _axes(panel, [m.ratio for m in measured], names)
    handles, labels = panel.get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper center", ncols=3, frameon=False, fontsize=10)
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.35 / figure.get_figheight()))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def _marks(panel: Any, groups: Sequence[Sequence[Measured]], role: str) -> None:
    """Draw a role's cases, pale, and their geometric means, the larger marks."""
    colour, marker = STYLES[role]
    step = (1 - ROLES.index(role)) * SPREAD
    points = [(h, [m.ratio for m in g if m.case.role == role]) for h, g in enumerate(groups)]
    pale = [(ratio, h + step) for h, ratios in points for ratio in ratios]
    means = [(geometric_mean(ratios), h + step) for h, ratios in points if ratios]
    if means:
        look = {"color": colour, "marker": marker, "linestyle": "none"}
        panel.plot(*zip(*pale, strict=True), **look, markersize=4, alpha=0.3, mew=0, zorder=2)
        panel.plot(
            *zip(*means, strict=True), **look, markersize=7, mec="white", mew=0.6, label=role
        )


def _axes(panel: Any, ratios: Sequence[float], names: Sequence[str]) -> None:
    least, most = min(*ratios, 0.5) / 1.3, max(*ratios, 2.0) * 1.3
    ticks = [tick for tick in TICKS if least <= tick <= most]
    panel.set_xlim(least, most)
    panel.set_ylim(-0.5, len(names) - 0.5)
    panel.set_xticks(ticks, [f"{tick:g}×" for tick in ticks])
    panel.minorticks_off()
    panel.set_yticks(range(len(names)), [_shorter(name) for name in names], fontsize=9)
    panel.set_xlabel(
        "time of the fastest peer / ours: above 1× opsgrad is faster\n"
        "large marks: geometric means; small marks: each shape and data type"
    )
    panel.spines[["top", "right", "left"]].set_visible(False)
    panel.tick_params(axis="y", length=0)


def _shorter(name: str) -> str:
    return name.replace("softmax_cross_entropy_with_integer_labels", "label cross-entropy").replace(
        "multiclass_hinge_loss", "multiclass hinge"
    )

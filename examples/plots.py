"""The figure of `digits.py`: training curves, and test digits with their class probabilities."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

Array = Any

# Four of Okabe and Ito's colours, which colour-blind readers can tell apart.
CURVE_COLOURS = ("#009E73", "#CC79A7")
SOFTMAX_COLOUR, RELUMAX_COLOUR = "#0072B2", "#E69F00"
WRONG_COLOUR = "#B34700"

STYLE = {
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid.axis": "y",
    "grid.color": "#E0E0E0",
    "axes.axisbelow": True,
}


@dataclass(frozen=True)
class Curve:
    """How one network trained: a loss and a test accuracy for each epoch."""

    name: str
    losses: Sequence[float]
    accuracies: Sequence[float]


@dataclass(frozen=True)
class Example:
    """A test digit, its true class, and its class probabilities by softmax and by relumax."""

    image: Array
    label: int
    softmax: Array
    relumax: Array


def draw(path: Path, curves: Sequence[Curve], examples: Sequence[Example], odds: int) -> None:
    """Write the figure to `path`, in the format that its ending names."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11, 7.6), layout="constrained")
        top, bottom = figure.subfigures(2, 1, squeeze=False, height_ratios=(1, 1.35), hspace=0.04)[
            :, 0
        ]
        loss_axes, accuracy_axes = top.subplots(1, 2)
        draw_losses(loss_axes, curves)
        draw_accuracies(accuracy_axes, curves)

        bottom.suptitle(
            "Class probabilities of four test digits: relumax rules out every class "
            f"less than 1/{odds} as likely as the top one",
            fontsize=12.5,
        )
        axes = bottom.subplots(2, len(examples), height_ratios=(1, 1.7), squeeze=False)
        for column, example in enumerate(examples):
            draw_digit(axes[0, column], example)
            draw_probabilities(axes[1, column], example)
            axes[1, column].tick_params(labelleft=column == 0)
        axes[1, 0].set_ylabel("probability")
        crosses, *bars = axes[1, 0].get_legend_handles_labels()[0]
        bottom.legend(handles=[*bars, crosses], loc="outside lower center", ncols=3, frameon=False)
        figure.savefig(path, dpi=120, bbox_inches="tight", pad_inches=0.15)


def draw_losses(axes: Axes, curves: Sequence[Curve]) -> None:
    """Draw the training loss over the epochs, on a logarithmic scale."""
    for curve, colour in zip(curves, CURVE_COLOURS, strict=True):
        epochs = np.arange(1, len(curve.losses) + 1)
        axes.plot(
            epochs,
            curve.losses,
            color=colour,
            linewidth=2,
            marker="o",
            markersize=3,
            label=curve.name,
        )
    axes.set(title="Training loss (mean cross-entropy)", xlabel="epoch", yscale="log")
    finish_curves(axes, legend="upper right")


def draw_accuracies(axes: Axes, curves: Sequence[Curve]) -> None:
    """Draw the test accuracy over the epochs, and say where each network ends."""
    for curve, colour in zip(curves, CURVE_COLOURS, strict=True):
        epochs = np.arange(1, len(curve.accuracies) + 1)
        label = f"{curve.name}: {curve.accuracies[-1]:.1%}"
        axes.plot(
            epochs,
            curve.accuracies,
            color=colour,
            linewidth=2,
            marker="o",
            markersize=3,
            label=label,
        )
    axes.set(title="Test accuracy", xlabel="epoch")
    axes.set_ylim(top=1.0)
    axes.yaxis.set_major_locator(MaxNLocator(steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.4g}%")
    finish_curves(axes, legend="lower right")


def finish_curves(axes: Axes, legend: str) -> None:
    """Give both panels of curves whole epochs from 1, a grid and a legend."""
    axes.set_xlim(left=0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(visible=True, axis="y")
    axes.legend(frameon=False, loc=legend)


def draw_digit(axes: Axes, example: Example) -> None:
    """Draw the image, with its true class and the one that it is read as."""
    axes.imshow(np.reshape(example.image, (8, 8)), cmap="gray_r", vmin=0.0, vmax=1.0)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(True)
    read = int(np.argmax(example.softmax))
    right = read == example.label
    axes.set_title(
        f"a {example.label}, read as {read}" if right else f"a {example.label}, misread as {read}",
        color="black" if right else WRONG_COLOUR,
    )


def draw_probabilities(axes: Axes, example: Example) -> None:
    """Draw both kinds of probabilities side by side, and a cross where relumax is exactly 0."""
    classes = np.arange(len(example.softmax))
    width = 0.42
    axes.bar(classes - width / 2, example.softmax, width, color=SOFTMAX_COLOUR, label="softmax")
    axes.bar(classes + width / 2, example.relumax, width, color=RELUMAX_COLOUR, label="relumax")
    zeros = classes[example.relumax == 0.0]
    axes.plot(
        zeros + width / 2,
        np.full(len(zeros), 0.03),
        linestyle="none",
        marker="x",
        markersize=5,
        markeredgewidth=1.5,
        color="#A66F00",
        label="relumax exactly 0",
    )
    axes.set(xticks=classes, xlabel="class", ylim=(0.0, 1.0))
    axes.tick_params(axis="x", length=0)
    axes.grid(visible=True, axis="y")

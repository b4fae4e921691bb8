"""Random inputs at which an op is smooth: never within 0.01 of a kink or a tie.

Where kinks lie between entries (`relumax`, the multiclass hinges), the entries sit on a lattice
of step 0.1, as the parameters do, and the distinguished entry is moved off it. Then no
difference is near a kink, however many entries there are. A shift of the whole slice, which
changes no difference, gives the entries full mantissas.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from opsgrad.conformance.row import Arrays

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]
Shape = tuple[int, ...]

LATTICE = 0.1


def normal(rng: np.random.Generator, shape: Shape) -> Floats:
    """Draw entries of the size that logits have."""
    return rng.normal(scale=2.0, size=shape)


def away_from_zero(rng: np.random.Generator, shape: Shape) -> Floats:
    """Draw entries of either sign, none nearer to zero than 0.05."""
    signs = np.where(rng.random(shape) < 0.5, -1.0, 1.0)
    return signs * (0.05 + np.abs(rng.normal(size=shape)))


def positive(rng: np.random.Generator, shape: Shape) -> Floats:
    """Draw entries between 0.05 and 1."""
    return rng.uniform(0.05, 1.0, size=shape)


def signs(rng: np.random.Generator, shape: Shape) -> Floats:
    """Draw -1 or 1."""
    return np.where(rng.random(shape) < 0.5, -1.0, 1.0)


def probabilities(rng: np.random.Generator, shape: Shape, axis: int) -> Floats:
    """Draw positive entries that sum to one along `axis`."""
    weights = positive(rng, shape)
    total: Floats = np.sum(weights, axis=axis, keepdims=True)
    return weights / total


def labels(rng: np.random.Generator, shape: Shape, axis: int) -> Labels:
    """Draw one class for each slice along `axis`."""
    batch = np.moveaxis(np.empty(shape), axis, -1).shape[:-1]
    return rng.integers(0, max(1, shape[axis]), size=batch, dtype=np.int64)


def sample_normal(rng: np.random.Generator, shape: Shape, axis: int) -> Arrays:
    """Sample one argument of an op that is smooth everywhere."""
    return (normal(rng, shape),)


def sample_away_from_zero(rng: np.random.Generator, shape: Shape, axis: int) -> Arrays:
    """Sample one argument of an op whose only kink is at zero."""
    return (away_from_zero(rng, shape),)


def sample_distinct_magnitudes(rng: np.random.Generator, shape: Shape, axis: int) -> Arrays:
    """Sample slices without zeros and with one entry of the largest magnitude."""
    x = away_from_zero(rng, shape)
    top = largest(np.abs(x), axis)
    return (np.where(top, x + 0.05 * np.sign(x), x),)


def sample_distinct_maximum(rng: np.random.Generator, shape: Shape, axis: int) -> Arrays:
    """Sample slices whose largest entry is off the lattice that the others sit on."""
    z = lattice(rng, shape)
    z = np.where(largest(z, axis), z + 0.05, z)
    return (shifted(rng, z, axis),)


def sample_multiclass_scores(rng: np.random.Generator, shape: Shape, axis: int) -> Arrays:
    """Sample scores and labels: the label's score and the best other one are off the lattice."""
    classes = labels(rng, shape, axis)
    s = lattice(rng, shape)
    at_label = one_hot(classes, shape, axis)
    others = largest(np.where(at_label, -np.inf, s), axis) & ~at_label
    s = np.where(at_label, s + 0.05, np.where(others, s + 0.02, s))
    return shifted(rng, s, axis), classes


def lattice(rng: np.random.Generator, shape: Shape) -> Floats:
    """Draw multiples of 0.1."""
    return np.round(rng.normal(size=shape) / LATTICE) * LATTICE


def shifted(rng: np.random.Generator, z: Floats, axis: int) -> Floats:
    """Add one random number to each slice."""
    shape = list(z.shape)
    shape[axis] = 1
    return z + rng.normal(size=shape)


def largest(z: Floats, axis: int) -> npt.NDArray[np.bool_]:
    """Mark the first largest entry of each slice."""
    if z.shape[axis] == 0:
        return np.zeros(z.shape, dtype=np.bool_)
    return one_hot(np.argmax(z, axis=axis), z.shape, axis)


def one_hot(classes: npt.NDArray[np.integer], shape: Shape, axis: int) -> npt.NDArray[np.bool_]:
    """Mark the entry that each class names."""
    rank = [1] * len(shape)
    rank[axis] = shape[axis]
    marks: npt.NDArray[np.bool_] = np.arange(shape[axis]).reshape(rank) == np.expand_dims(
        classes, axis
    )
    return marks

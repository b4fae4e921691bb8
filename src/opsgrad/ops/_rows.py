"""What the ops that run along an axis share: exact exponentials, and labels as masks."""

from typing import NamedTuple

from array_api_compat import device

from opsgrad._arrays import with_diagonal
from opsgrad._typing import Array, Namespace


class ShiftedExp(NamedTuple):
    """exp(x - max x), and what the softmax family makes of it."""

    terms: Array
    """exp(x - top)."""
    shift: Array
    """x - top, rounded."""
    error: Array
    """The rounding error of `shift`."""
    top: Array
    """The maximum; the axis is kept."""

    def softmax(self, sums: "Sums") -> Array:
        """Return the terms divided by their sum."""
        return self.terms / sums.all

    def log_softmax(self, xp: Namespace, rest: Array) -> Array:
        """Return the logarithm of `softmax`, from its terms before they are divided."""
        return self.shift - (xp.log1p(rest) - self.error)

    def sums(self, xp: Namespace, x: Array, axis: int) -> "Sums":
        """Return the sum of the terms in two parts: beside 1 the small ones lose their digits.

        Softmax needs it too: of one sum of a hundred terms the rounding errors cost 1 to 2 ULP.
        """
        below, zero = x < self.top, xp.zeros_like(self.terms)
        return Sums(
            others=xp.sum(xp.where(below, self.terms, zero), axis=axis, keepdims=True),
            ties=xp.sum(xp.where(below, zero, self.terms), axis=axis, keepdims=True),
        )


class Sums(NamedTuple):
    """Sums of exp(x - max x) along an axis, which is kept."""

    others: Array
    """That of the terms below the maximum."""
    ties: Array
    """The number of maxima; NaN in a slice that holds NaN or inf, or nothing but -inf."""

    @property
    def all(self) -> Array:
        return self.ties + self.others

    @property
    def rest(self) -> Array:
        """That of all terms but one maximum, whose term is 1."""
        return (self.ties - 1.0) + self.others


def shifted_exp(xp: Namespace, x: Array, axis: int) -> ShiftedExp:
    """Return exp(x - max x) along `axis`, exact to the rounding of exp itself."""
    return exp_less(xp, x, row_max(xp, x, axis))


def exp_less(xp: Namespace, x: Array, top: Array) -> ShiftedExp:
    """Return exp(x - top), where `top` is the maximum along an axis.

    The rounding of x - max costs |x - max| / 2 ULP: up to 64 in float32 and 513 in float64. Taking
    it back as exp(d)·(1 + c) leaves 5. It is not exp(d) + exp(d)·c: XLA flushes that term to zero.
    """
    shift, error = difference(xp, x, top)
    return ShiftedExp(xp.exp(shift) * (1.0 + error), shift, error, top)


def less_share(xp: Namespace, g: Array, x: Array, e: ShiftedExp, rest: Array, axis: int) -> Array:
    """Return g - y·Σg with y = softmax(x), also where an entry dominates and the two cancel.

    Such an entry is the only maximum. There 1 - y is the sum of the other probabilities, and g of
    that entry is left out of Σg: g·(1 - y) - y·Σ(others).
    """
    below, total = x < e.top, 1.0 + rest
    whole = xp.sum(g, axis=axis, keepdims=True) / total
    others = xp.sum(xp.where(below, g, xp.zeros_like(g)), axis=axis, keepdims=True) / total
    dominates = rest < 1.0
    factor = xp.where(dominates, rest / total, xp.ones_like(rest))
    share = xp.where(dominates, others, whole)
    return xp.where(below, g, factor * g) - e.terms * xp.where(below, whole, share)


def row_max(xp: Namespace, x: Array, axis: int) -> Array:
    """Return the maximum along `axis`, 0 where there is nothing (where `max` raises)."""
    if 0 in x.shape:  # of any axis: Dask's `max` refuses an empty batch too
        return xp.sum(x, axis=axis, keepdims=True)
    return xp.max(x, axis=axis, keepdims=True)


def difference(xp: Namespace, x: Array, y: Array) -> tuple[Array, Array]:
    """Return x - y rounded, and its rounding error (TwoSum), 0 where an infinity takes part.

    Source: D. E. Knuth, The Art of Computer Programming, volume 2, section 4.2.2, theorem B.
    """
    rounded = x - y
    minus_y = rounded - x
    error = (x - (rounded - minus_y)) - (y + minus_y)
    return rounded, xp.where(xp.isfinite(error), error, xp.zeros_like(error))


def drop_axis(xp: Namespace, x: Array, axis: int, keepdims: bool) -> Array:
    """Drop a reduced axis, which has length 1, unless it is to be kept."""
    return x if keepdims else xp.squeeze(x, axis=axis)


def insert_axis(x: Array, axis: int) -> Array:
    """Put back an axis that was dropped. By indexing: Dask cannot expand chunks of unknown size."""
    place = x.ndim + 1 + axis
    return x[(*(slice(None),) * place, None, ...)]


def class_mask(xp: Namespace, x: Array, labels: Array, axis: int) -> Array:
    """Return where along `axis` the label of each slice of `x` is."""
    classes = xp.arange(x.shape[axis], dtype=labels.dtype, device=device(x))
    classes = xp.reshape(classes, (-1, *(1,) * (-axis - 1)))
    return classes == insert_axis(labels, axis)


def nan_where_no_class(xp: Namespace, values: Array, x: Array, labels: Array, axis: int) -> Array:
    """Return `values`, NaN in the slices whose label names no class.

    Eager calls have raised before; under a trace or in a lazy array labels cannot be looked at.
    """
    inside = (labels >= 0) & (labels < x.shape[axis])
    if values.ndim == x.ndim:
        inside = insert_axis(inside, axis)
    return xp.where(inside, values, xp.full_like(values, float("nan")))


def sum_of_others(xp: Namespace, y: Array) -> Array:
    """Return, for each entry of the last axis, the sum of all the others, without cancellation."""
    return xp.sum(with_diagonal(xp, y[..., None, :], xp.zeros_like(y)), axis=-1)

"""What elementwise ops share: steps that keep NaN, and products that keep an exact zero."""

from opsgrad._typing import Array, Namespace


def where_positive(xp: Namespace, condition: Array, value: Array) -> Array:
    """Return `value` where `condition` > 0, 0 where it is not, NaN where it is NaN."""
    rest = xp.where(condition <= 0, xp.zeros_like(condition), condition)
    return xp.where(condition > 0, value, rest)


def step(xp: Namespace, x: Array) -> Array:
    """Return the slope of max(x, 0): 1 where x > 0, 0 where it is not, NaN where it is NaN."""
    return where_positive(xp, x, xp.ones_like(x))


def signum(xp: Namespace, x: Array) -> Array:
    """Return the sign, NaN for NaN.

    Not the standard's `sign`, which array-api-compat mends for PyTorch by boolean indexing, and
    that fails under `torch.func.vmap`.
    """
    one = xp.ones_like(x)
    return xp.where(x > 0, one, xp.where(x < 0, -one, x))

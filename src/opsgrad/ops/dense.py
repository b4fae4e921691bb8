"""The dense layer: an affine map of the last axis."""

from opsgrad._errors import ShapeError
from opsgrad._op import op
from opsgrad._shapes import known
from opsgrad._signature import Shape, Shared
from opsgrad._typing import Array, Namespace


@op
def dense(xp: Namespace, x: Array, w: Shared, b: Shared = None, /) -> Array:
    out = xp.matmul(x, w)
    return out if b is None else out + b


@dense.check_shapes
def _(x: Shape, w: Shape, b: Shape | None = None) -> None:
    if len(x) == 0:
        raise ShapeError("dense: x must have at least one axis, of length in, got shape ()")
    if len(w) != 2:
        raise ShapeError(f"dense: w must have shape (in, out), got {w}")
    if known(x[-1]) and known(w[0]) and x[-1] != w[0]:
        hint = "; it looks laid out (out, in): pass its transpose" if w[1] == x[-1] else ""
        raise ShapeError(
            f"dense: w must have shape (in, out) with in = {x[-1]}, the last axis of x of shape "
            f"{x}, got {w}{hint}"
        )
    if b is not None and b != w[1:]:
        raise ShapeError(f"dense: b must have shape (out,) = {w[1:]}, got {b}")


@dense.vjp_rule(keeps=("x", "w"))
def _(xp: Namespace, x: Array, w: Array, g: Array, /) -> tuple[Array, Array, Array]:
    by_x = xp.matmul(g, xp.matrix_transpose(w))
    if x.ndim == 1:
        return by_x, x[:, None] * g[None, :], g
    batch = tuple(range(x.ndim - 1))
    by_b = g
    for _ in batch:
        by_b = xp.sum(by_b, axis=0)
    return by_x, xp.tensordot(x, g, axes=(batch, batch)), by_b


@dense.jvp_rule(keeps=("x", "w"))
def _(xp: Namespace, x: Array, w: Array, dx: Array, dw: Array, db: Array | None, /) -> Array:
    out = xp.matmul(dx, w) + xp.matmul(x, dw)
    return out if db is None else out + db

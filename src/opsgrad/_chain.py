"""Composition: ops run one after the other, and their pullbacks in reverse."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from opsgrad._errors import ArgumentError
from opsgrad._op import Differentiable, Linearized, unwrap
from opsgrad._plan import Input
from opsgrad._signature import Argument, Role
from opsgrad._typing import Array

Parameters = Sequence[Any]
"""One tuple of arrays for each stage."""


class Chain(Differentiable):
    """Ops run one after the other; made by `chain`."""

    def __init__(self, stages: tuple[Any, ...]) -> None:
        if not stages:
            raise ArgumentError("chain: takes at least one op, got none")
        self._stages = tuple(unwrap("chain", stage, {}) for stage in stages)
        names = ", ".join(stage.__name__ for stage, *_ in self._stages)
        self.__name__ = f"chain({names})"
        self.elementwise = all(stage.elementwise for stage, *_ in self._stages)

    @property
    def array_names(self) -> tuple[str, ...]:
        return ("x", "params")

    def __call__(self, *arrays: Any, backend: str | None = None, **keywords: Any) -> Array:
        """Run every stage on what the one before gave: ``net(x)`` or ``net(x, params)``."""
        return self.linearize(arrays, keywords, backend, ()).value

    def linearize(
        self,
        arrays: tuple[Any, ...],
        parameters: Mapping[str, Any],
        backend: str | None,
        roles: tuple[str, ...],
        by: tuple[int, ...] = (),
    ) -> Linearized:
        self._refuse(parameters)
        y, params = self._split(arrays, "params")
        linears: list[Linearized] = []
        for (stage, keywords, fixed), own in zip(self._stages, params, strict=True):
            inputs = _stage_arrays(stage, y, own)
            by_x = (0,) if 0 in by and not linears else ()
            where = fixed if backend is None else backend
            linear = stage.linearize(inputs, keywords, where, roles, by_x)
            linears.append(linear)
            y = linear.value
        first, last = linears[0], linears[-1]
        every = Argument("params", Role.SHARED, optional=True)
        return Linearized(
            value=last.value,
            pull=lambda *cotangent: self._pull(linears, cotangent)[: len(arrays)],
            push=lambda tangents: self._push(linears, tangents),
            row_axis=lambda number: self._row_axis(linears) if number == 0 else None,
            matrices=None,
            inputs=(first.inputs[0], Input(every, (), None, True))[: len(arrays)],
            backend=last.backend,
            device=last.device,
        )

    def pushforward(
        self,
        arrays: tuple[Any, ...],
        tangents: tuple[Any, ...],
        parameters: Mapping[str, Any],
        backend: str | None,
    ) -> tuple[Array, Array]:
        self._refuse(parameters)
        if len(tangents) != len(arrays):
            raise ArgumentError(
                f"{self.__name__}: takes one tangent for each of its {len(arrays)} arguments, "
                f"got {len(tangents)} tangents"
            )
        y, params = self._split(arrays, "params")
        without = arrays[1:] in ((), (None,))
        dy, dparams = self._split(
            tangents, "the tangents of params", left_out=((),) if without else None
        )
        for (stage, keywords, fixed), own, down in zip(self._stages, params, dparams, strict=True):
            inputs, directions = _stage_arrays(stage, y, own), _stage_arrays(stage, dy, down)
            where = fixed if backend is None else backend
            y, dy = stage.pushforward(inputs, directions, keywords, where)
        return y, dy

    def _pull(self, linears: Sequence[Linearized], cotangent: tuple[Any, ...]) -> tuple[Any, Any]:
        gradients = []
        for (stage, *_), linear in zip(reversed(self._stages), reversed(linears), strict=True):
            by_x, *own = linear.pull(*cotangent)
            gradients.append(own[0] if isinstance(stage, Chain) and own else tuple(own))
            cotangent = (by_x,)
        return by_x, tuple(reversed(gradients))

    def _push(self, linears: Sequence[Linearized], tangents: tuple[Any, ...]) -> Array:
        dy, dparams = self._split(tangents, "the tangents of params", left_out=(None,))
        for (stage, *_), linear, own in zip(self._stages, linears, dparams, strict=True):
            if own is None:
                directions = (dy, *(None,) * (len(linear.inputs) - 1))
            else:
                directions = _stage_arrays(stage, dy, own)
            dy = linear.push(directions)
        return dy

    def _row_axis(self, linears: Sequence[Linearized]) -> int | None:
        """Return the axis that all stages run along, None if they mix more than one."""
        found = None
        reduced = False
        for (stage, *_), linear in zip(self._stages, linears, strict=True):
            axis = linear.row_axis(0)
            if axis is None:
                return None
            if stage.elementwise:
                continue
            if reduced or found not in (None, axis):
                return None
            found = axis
            reduced = len(linear.value.shape) != len(linear.inputs[0].shape)
        return -1 if found is None else found

    def _split(
        self, arrays: tuple[Any, ...], word: str, left_out: tuple[Any] | None = ((),)
    ) -> tuple[Any, tuple[Any, ...]]:
        """Return x and one entry for each stage: `left_out` where there are no parameters."""
        if not 1 <= len(arrays) <= 2:
            raise ArgumentError(
                f"{self.__name__}: takes x and params by position, got {len(arrays)} arguments"
            )
        count = len(self._stages)
        x, *given = arrays
        if not given:
            return x, ((),) * count
        params = given[0]
        if params is None and left_out is not None:
            return x, left_out * count
        if not isinstance(params, tuple | list) or len(params) != count:
            got = f"{len(params)} entries" if isinstance(params, tuple | list) else repr(params)
            raise ArgumentError(
                f"{self.__name__}: {word} must be a tuple with one tuple of arrays for each of the "
                f"{count} stages, () where a stage has none; got {got}"
            )
        for (stage, *_), own in zip(self._stages, params, strict=True):
            if not isinstance(own, tuple | list):
                raise ArgumentError(
                    f"{self.__name__}: {word} must hold a tuple of arrays for the stage "
                    f"{stage.__name__}, got {type(own).__name__}"
                )
        return x, tuple(params)

    def _refuse(self, keywords: Mapping[str, Any]) -> None:
        for name in keywords:
            raise ArgumentError(
                f"{self.__name__}: unknown keyword {name!r}; a chain takes only backend, and a "
                "stage's parameters are fixed with functools.partial"
            )

    def __repr__(self) -> str:
        return f"<{self.__name__}(x, params=None, /, *, backend=None)>"


def _stage_arrays(stage: Differentiable, x: Any, own: Sequence[Any]) -> tuple[Any, ...]:
    """Return a stage's positional arguments: an inner chain takes its parameters as one."""
    if isinstance(stage, Chain):
        return (x, tuple(own)) if own else (x,)
    return (x, *own)


def chain(*ops: Differentiable | functools.partial[Any]) -> Chain:
    """Compose ops: each runs on what the one before gave.

    Parameters
    ----------
    *ops : op, chain or functools.partial of one
        The stages, first to last. A ``functools.partial`` fixes a stage's parameters.

    Returns
    -------
    Chain
        Itself an op, ``net(x, params)``, where `params` holds one tuple of arrays for each stage:
        those that the stage takes after its first, ``()`` where it takes none. It may be left out
        where no stage takes any. The pullback that `vjp` gives returns ``(dx, dparams)``, nested as
        `params` is, with None for integer arrays.

    Raises
    ------
    ArgumentError
        A TypeError, without any ops, or with something that is not one.

    Notes
    -----
    The pullback applies the stages' own pullbacks in reverse: with ``y = f2(f1(x))``,
    ``dx = J1ᵀ (J2ᵀ dy)``.

    Examples
    --------
    >>> import numpy as np
    >>> import opsgrad as og
    >>> net = og.chain(og.dense, og.relu, og.dense)
    >>> net
    <chain(dense, relu, dense)(x, params=None, /, *, backend=None)>
    >>> params = ((np.ones((3, 4)), np.zeros(4)), (), (np.ones((4, 2)),))
    >>> y, pull = og.vjp(net, np.ones((1, 3)), params)
    >>> y
    array([[12., 12.]])
    >>> dx, ((dw1, db1), _, (dw2,)) = pull(np.ones((1, 2)))
    >>> dx
    array([[8., 8., 8.]])
    >>> db1
    array([2., 2., 2., 2.])
    """
    return Chain(ops)

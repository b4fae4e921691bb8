"""Composition: ops run one after the other, and their pullbacks in reverse."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from opsgrad._errors import ArgumentError
from opsgrad._op import Differentiable, Linearized, unwrap
from opsgrad._plan import Input
from opsgrad._signature import Argument, Role
from opsgrad._typing import Array
from opsgrad.backends.protocol import Backend

_REFUSED = object()


class _Stage(NamedTuple):
    """An op of a chain, and what a functools.partial fixes of its keywords."""

    op: Any
    keywords: Mapping[str, Any]
    backend: str | None

    def where(self, backend: str | None) -> str | None:
        """Return the backend that the stage is to run on: the call's, else its own."""
        return self.backend if backend is None else backend

    def arrays(self, x: Any, own: Sequence[Any]) -> tuple[Any, ...]:
        """Return the positional arguments: an inner chain takes its parameters as one."""
        if isinstance(self.op, Chain):
            return (x, tuple(own)) if own else (x,)
        return (x, *own)


class Chain(Differentiable):
    """Ops run one after the other; made by `chain`."""

    def __init__(self, stages: tuple[Any, ...]) -> None:
        if not stages:
            raise ArgumentError("chain: takes at least one op, got none")
        self._stages = tuple(_Stage(*unwrap("chain", stage, {})) for stage in stages)
        names = ", ".join(stage.op.__name__ for stage in self._stages)
        self.__name__ = f"chain({names})"
        self.elementwise = all(stage.op.elementwise for stage in self._stages)

    @property
    def array_names(self) -> tuple[str, ...]:
        return ("x", "params")

    def __call__(self, *arrays: Any, backend: str | None = None, **keywords: Any) -> Array:
        """Run every stage on what the one before gave: ``net(x)`` or ``net(x, params)``."""
        self._refuse(keywords)
        y, params = self._split(arrays, "params")
        for stage, own in zip(self._stages, params, strict=True):
            y = stage.op(*stage.arrays(y, own), backend=stage.where(backend), **stage.keywords)
        return y

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
        links: list[_Link] = []
        for stage, own in zip(self._stages, params, strict=True):
            by_x = (0,) if 0 in by and not links else ()
            linear = stage.op.linearize(
                stage.arrays(y, own), stage.keywords, stage.where(backend), roles, by_x
            )
            y = linear.value
            links.append(_Link.of(stage, linear))
        given = len(arrays)
        every = Argument("params", Role.SHARED, optional=True)
        row_axis = _common_row_axis(links)
        return Linearized(
            value=y,
            pull=lambda *cotangent: _pull(links, cotangent)[:given],
            push=lambda tangents: self._push(links, tangents),
            row_axis=lambda number: row_axis if number == 0 else None,
            matrices=None,
            inputs=(links[0].inputs[0], Input(every, (), None, True))[:given],
            backend=links[-1].backend,
            device=links[-1].device,
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
            tangents, "the tangents of params", missing=() if without else _REFUSED
        )
        for stage, own, down in zip(self._stages, params, dparams, strict=True):
            inputs, directions = stage.arrays(y, own), stage.arrays(dy, down)
            y, dy = stage.op.pushforward(inputs, directions, stage.keywords, stage.where(backend))
        return y, dy

    def _push(self, links: Sequence["_Link"], tangents: tuple[Any, ...]) -> Array:
        dy, dparams = self._split(tangents, "the tangents of params", missing=None)
        before = links[0]
        for link, own in zip(links, dparams, strict=True):
            dy = _moved(dy, before, link) if link is not links[0] else dy
            zeros = (None,) * (len(link.inputs) - 1)
            dy = link.push((dy, *zeros) if own is None else link.stage.arrays(dy, own))
            before = link
        return dy

    def _split(
        self, arrays: tuple[Any, ...], word: str, missing: Any = ()
    ) -> tuple[Any, tuple[Any, ...]]:
        """Return x and one entry for each stage; `missing` stands for all of them if left out."""
        if not 1 <= len(arrays) <= 2:
            raise ArgumentError(
                f"{self.__name__}: takes x and params by position, got {len(arrays)} arguments"
            )
        count = len(self._stages)
        x, params = arrays[0], arrays[1] if len(arrays) == 2 else None
        if params is None and missing is not _REFUSED:
            return x, (missing,) * count
        if not isinstance(params, tuple | list) or len(params) != count:
            got = f"{len(params)} entries" if isinstance(params, tuple | list) else repr(params)
            raise ArgumentError(
                f"{self.__name__}: {word} must be a tuple with one tuple of arrays for each of the "
                f"{count} stages, () where a stage has none; got {got}"
            )
        for stage, own in zip(self._stages, params, strict=True):
            if not isinstance(own, tuple | list):
                raise ArgumentError(
                    f"{self.__name__}: {word} must hold a tuple of arrays for the stage "
                    f"{stage.op.__name__}, got {type(own).__name__}"
                )
        return x, tuple(params)

    def _refuse(self, keywords: Mapping[str, Any]) -> None:
        if keywords:
            raise ArgumentError(
                f"{self.__name__}: unknown keyword {next(iter(keywords))!r}; a chain takes only "
                "backend, and a stage's parameters are fixed with functools.partial"
            )

    def __repr__(self) -> str:
        return f"<{self.__name__}(x, params=None, /, *, backend=None)>"


class _Link(NamedTuple):
    """What the derivative of a chain needs of one stage, and nothing else: no value, no weights."""

    stage: _Stage
    pull: Callable[..., tuple[Any, ...]]
    push: Callable[[tuple[Any, ...]], Array]
    inputs: tuple[Input, ...]
    row_axis: int | None
    reduces: bool
    backend: Backend
    device: Any

    @classmethod
    def of(cls, stage: _Stage, linear: Linearized) -> "_Link":
        """Return the link of a stage that was linearized."""
        reduces = len(linear.value.shape) != len(linear.inputs[0].shape)
        return cls(
            stage,
            linear.pull,
            linear.push,
            linear.inputs,
            linear.row_axis(0),
            reduces,
            linear.backend,
            linear.device,
        )


def _pull(links: Sequence[_Link], cotangent: tuple[Any, ...]) -> tuple[Any, Any]:
    """Apply the stages' pullbacks in reverse; return the gradients by x and by the parameters."""
    gradients = []
    after = links[-1]
    for link in reversed(links):
        if link is not after:
            cotangent = (_moved(cotangent[0], after, link),)
        by_x, *own = link.pull(*cotangent)
        inner = isinstance(link.stage.op, Chain)
        gradients.append(own[0] if inner and own else tuple(own))
        cotangent, after = (by_x,), link
    return by_x, tuple(reversed(gradients))


def _moved(array: Array, here: _Link, there: _Link) -> Array:
    """Bring an array from the backend of one stage to that of another."""
    if here.backend is there.backend:
        return array
    return there.backend.asarray(here.backend.to_numpy(array), device=there.device)


def _common_row_axis(links: Sequence[_Link]) -> int | None:
    """Return the axis that all stages run along, None if they mix more than one."""
    found = None
    reduced = False
    for link in links:
        if link.row_axis is None:
            return None
        if link.stage.op.elementwise:
            continue
        if reduced or found not in (None, link.row_axis):
            return None
        found = link.row_axis
        reduced = link.reduces
    return -1 if found is None else found


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

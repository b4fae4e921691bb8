"""Values and derivatives of a `Row`'s op to forty digits or more, from its oracle alone.

Derivatives are central differences of the oracle in multiple precision. No backward rule is
written here, so none can be wrong in the same way as the op's own.

The functions take finite inputs at which the op is smooth. They return NumPy arrays of ``mpf``
objects: `to_float64` rounds them.
"""

from __future__ import annotations

import functools
import math
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, TypeVar, cast

import mpmath
import numpy as np
import numpy.typing as npt

from opsgrad.conformance.row import LABELS, Row

__all__ = ["jvp", "jvp_scale", "to_float64", "value", "value_scale", "vjp", "vjp_scale"]

Exact: TypeAlias = npt.NDArray[np.object_]
Indices: TypeAlias = npt.NDArray[np.intp]

# A step of 2^-84 of the smallest input: the truncation error is of the order of its square, so
# fifty digits are right.
STEP_EXPONENT = -84
GUARD_DIGITS = 60
# The last of the guard digits, which rounding errors may reach.
NOISE_DIGITS = 15
# 10^-360 lies far below the smallest subnormal number: nothing smaller can show in a result.
RELEVANT_DECADES = 360.0
# Sums over units may cancel across the whole floating-point range.
SUM_DIGITS = 1500

# Every library is held to the same numbers: half of the suite's time on NumPy went to computing
# them again.
REMEMBERED = 4096

F = TypeVar("F", bound=Callable[..., Any])


def _remembered(function: F) -> F:
    """Let a function return what it returned for the same row and the same bits before."""
    results: OrderedDict[Hashable, tuple[Row, Any]] = OrderedDict()

    @functools.wraps(function)
    def remembering(row: Row, *args: Any, **kwargs: Any) -> Any:
        key = (id(row), _frozen(args), _frozen(tuple(kwargs.items())))
        if key not in results:
            result = function(row, *args, **kwargs)
            for array in result if isinstance(result, tuple) else (result,):
                if array is not None:
                    array.setflags(write=False)
            results[key] = row, result  # the row is kept, and so is its id
            if len(results) > REMEMBERED:
                results.popitem(last=False)
        return results[key][1]

    return cast("F", remembering)


def _frozen(argument: Any) -> Hashable:
    """Return what tells an argument from any other, 0 from -0 too."""
    if isinstance(argument, tuple | list):
        return tuple(map(_frozen, argument))
    if isinstance(argument, np.ndarray):
        entries = argument.tolist() if argument.dtype == object else argument.tobytes()
        return argument.dtype.str, argument.shape, _frozen(entries)
    return repr(argument) if isinstance(argument, float) else argument


@_remembered
def value(
    row: Row,
    arrays: Sequence[Any],
    *,
    axis: int = -1,
    keepdims: bool = False,
    reduction: str = "none",
    **params: Any,
) -> Exact:
    """Return the op's value.

    Parameters
    ----------
    row : Row
        The op.
    arrays : sequence of arrays
        Its array arguments, finite. Labels are integers.
    axis, keepdims, reduction
        As for the op; ignored where it has no such parameter.
    **params
        The op's other parameters. They are rounded to the arrays' dtype, as the op does.

    Returns
    -------
    numpy.ndarray
        An array of ``mpf`` objects.
    """
    problem = _Problem.lay_out(row, arrays, axis, keepdims, reduction, params)
    return problem.reduced(problem.outputs_of(row.oracle))


@_remembered
def vjp(
    row: Row,
    arrays: Sequence[Any],
    cotangent: Any,
    *,
    axis: int = -1,
    keepdims: bool = False,
    reduction: str = "none",
    **params: Any,
) -> tuple[Exact | None, ...]:
    """Return the gradient for each array argument, None for labels.

    Parameters
    ----------
    row, arrays, axis, keepdims, reduction, **params
        As for `value`.
    cotangent : array
        Has the value's shape.

    Returns
    -------
    tuple
        Arrays of ``mpf`` objects with the arguments' shapes, and None for labels.
    """
    problem = _Problem.lay_out(row, arrays, axis, keepdims, reduction, params)
    return problem.pulled_back(cotangent, _pull)


@_remembered
def jvp(
    row: Row,
    arrays: Sequence[Any],
    tangents: Sequence[Any],
    *,
    axis: int = -1,
    keepdims: bool = False,
    reduction: str = "none",
    **params: Any,
) -> Exact:
    """Return the derivative of the value along `tangents`.

    Parameters
    ----------
    row, arrays, axis, keepdims, reduction, **params
        As for `value`.
    tangents : sequence of arrays
        One for each argument and of its shape; None for labels.

    Returns
    -------
    numpy.ndarray
        An array of ``mpf`` objects with the value's shape.
    """
    problem = _Problem.lay_out(row, arrays, axis, keepdims, reduction, params)
    return problem.pushed_forward(tangents, _push)


@_remembered
def value_scale(
    row: Row,
    arrays: Sequence[Any],
    *,
    axis: int = -1,
    keepdims: bool = False,
    reduction: str = "none",
    **params: Any,
) -> Exact:
    """Return the magnitude, of the value's shape, that ``row.value_ulp`` counts in."""
    problem = _Problem.lay_out(row, arrays, axis, keepdims, reduction, params)
    if row.value_scale is not None:
        return problem.reduced(problem.outputs_of(row.value_scale))
    return problem.reduced(_magnitude(problem.outputs_of(row.oracle)))


@_remembered
def vjp_scale(
    row: Row,
    arrays: Sequence[Any],
    cotangent: Any,
    *,
    axis: int = -1,
    keepdims: bool = False,
    reduction: str = "none",
    **params: Any,
) -> tuple[Exact | None, ...]:
    """Return, for each gradient component, the magnitude that ``row.gradient_ulp`` counts in."""
    problem = _Problem.lay_out(row, arrays, axis, keepdims, reduction, params)
    stated = row.gradient_scale
    if stated is None:
        return problem.pulled_back(_magnitude(_floats(cotangent)), _pull_magnitudes)

    def stated_scale(unit: _Unit, cotangent: Exact) -> list[Exact | None]:
        scales = stated(*unit.listed(), cotangent=cotangent.tolist(), **unit.params)
        return [None if scale is None else _exact(scale) for scale in scales]

    return problem.pulled_back(cotangent, stated_scale)


@_remembered
def jvp_scale(
    row: Row,
    arrays: Sequence[Any],
    tangents: Sequence[Any],
    *,
    axis: int = -1,
    keepdims: bool = False,
    reduction: str = "none",
    **params: Any,
) -> Exact:
    """Return, for each component of the JVP, the magnitude that ``row.gradient_ulp`` counts in."""
    problem = _Problem.lay_out(row, arrays, axis, keepdims, reduction, params)
    stated = row.derivative_scale
    if stated is None:
        return problem.pushed_forward(tangents, _push_magnitudes)

    def stated_scale(unit: _Unit, tangents: Sequence[Exact | None]) -> Exact:
        listed = [None if tangent is None else tangent.tolist() for tangent in tangents]
        return _exact(stated(*unit.listed(), tangents=listed, **unit.params))

    return problem.pushed_forward(tangents, stated_scale)


def to_float64(exact: Any) -> npt.NDArray[np.float64]:
    """Round an array of ``mpf`` objects to float64."""
    exact = np.asarray(exact, dtype=object)
    rounded = [float(entry) for entry in exact.ravel()]
    return np.asarray(rounded, dtype=np.float64).reshape(exact.shape)


@dataclass(frozen=True)
class _Unit:
    """One call of the oracle: an int for a label, else arrays of ``mpf``."""

    oracle: Callable[..., Any]
    arguments: tuple[Any, ...]
    params: Mapping[str, Any]
    step: Any
    noise: Any

    def listed(self) -> list[Any]:
        return [part if isinstance(part, int) else part.tolist() for part in self.arguments]

    def evaluate(self, oracle: Callable[..., Any] | None = None) -> Exact:
        return _exact((oracle or self.oracle)(*self.listed(), **self.params))

    def moved(self, moves: Mapping[int, Exact]) -> Exact:
        """Return the value with `moves` added to the arguments that they are keyed by."""
        arguments = tuple(
            _exact(part + moves[place]) if place in moves else part
            for place, part in enumerate(self.arguments)
        )
        return replace(self, arguments=arguments).evaluate()

    def columns(self, place: int) -> Iterator[Exact]:
        """Yield the derivative of the value by each coordinate of the argument at `place`."""
        argument = self.arguments[place]
        for coordinate in range(argument.size):
            move = _zeros(argument.shape)
            move.flat[coordinate] = self.step
            yield self.slope({place: move}, self.step)

    def slope(self, moves: Mapping[int, Exact], step: Any) -> Exact:
        """Return the central difference along `moves`, which are `step` long."""
        backward = {place: _exact(-move) for place, move in moves.items()}
        difference = _exact(self.moved(moves) - self.moved(backward))
        return _exact(self.cleaned(difference) / (2 * step))

    def cleaned(self, numbers: Exact) -> Exact:
        """Set to 0 what is only the rounding error of terms that cancel exactly."""
        return np.where(_magnitude(numbers) > self.noise, numbers, mpmath.mpf(0))


_PullUnit: TypeAlias = Callable[[_Unit, Exact], list[Exact | None]]
_PushUnit: TypeAlias = Callable[[_Unit, Sequence[Exact | None]], Exact]


def _pull(unit: _Unit, cotangent: Exact) -> list[Exact | None]:
    """Contract the unit's Jacobian with `cotangent`."""
    return _contract(unit, cotangent, lambda column: column)


def _pull_magnitudes(unit: _Unit, cotangent: Exact) -> list[Exact | None]:
    """Contract the magnitudes of the unit's Jacobian with those of `cotangent`."""
    return _contract(unit, _magnitude(cotangent), _magnitude)


def _contract(
    unit: _Unit, cotangent: Exact, measure: Callable[[Exact], Exact]
) -> list[Exact | None]:
    gradients: list[Exact | None] = []
    for place, argument in enumerate(unit.arguments):
        if isinstance(argument, int):
            gradients.append(None)
            continue
        entries = [
            mpmath.fdot(cotangent.flat, measure(column).flat) for column in unit.columns(place)
        ]
        gradients.append(_exact(entries).reshape(argument.shape))
    return gradients


def _push(unit: _Unit, tangents: Sequence[Exact | None]) -> Exact:
    """Return the directional derivative: one difference, whatever the unit's length."""
    directions = {place: part for place, part in enumerate(tangents) if part is not None}
    peak: Any = max(
        (abs(entry) for part in directions.values() for entry in part.ravel().tolist()), default=0
    )
    if peak == 0:
        return _zeros(unit.evaluate().shape)
    step = unit.step / peak
    return unit.slope({place: _exact(part * step) for place, part in directions.items()}, step)


def _push_magnitudes(unit: _Unit, tangents: Sequence[Exact | None]) -> Exact:
    """Add up the magnitudes of what each coordinate contributes to the derivative."""
    total = _zeros(unit.evaluate().shape)
    for place, tangent in enumerate(tangents):
        if tangent is None:
            continue
        for entry, column in zip(tangent.flat, unit.columns(place), strict=True):
            total = _exact(total + abs(entry) * _magnitude(column))
    return total


@dataclass(frozen=True)
class _Problem:
    """One call, cut into independent units.

    ``gather[k][u]`` holds the flat positions, in argument k, of what unit u reads, and
    ``scatter[u]`` the flat positions of what it writes. Axes, broadcasting and shared weights all
    come down to these two, and gradients are added up along them backwards.
    """

    row: Row
    arrays: tuple[npt.NDArray[Any], ...]
    params: Mapping[str, Any]
    reduction: str
    gather: tuple[Indices, ...]
    scatter: Indices
    output_shape: tuple[int, ...]

    @classmethod
    def lay_out(
        cls,
        row: Row,
        arrays: Sequence[Any],
        axis: int,
        keepdims: bool,
        reduction: str,
        params: Mapping[str, Any],
    ) -> _Problem:
        inputs = tuple(np.asarray(array) for array in arrays)
        positions = [np.arange(array.size).reshape(array.shape) for array in inputs]
        layout = {"element": _by_element, "slice": _by_slice, "matrix": _by_row}[row.unit]
        gather, scatter, output_shape = layout(row, positions, axis, keepdims)
        return cls(
            row=row,
            arrays=inputs,
            params=_rounded_parameters(row, inputs, params),
            reduction=reduction,
            gather=gather,
            scatter=scatter,
            output_shape=output_shape,
        )

    def outputs_of(self, oracle: Callable[..., Any]) -> Exact:
        """Return what `oracle` gives for each unit, put in place."""
        return self._filled(lambda _, unit: unit.cleaned(unit.evaluate(oracle)))

    def pushed_forward(self, tangents: Sequence[Any], push_unit: _PushUnit) -> Exact:
        """Return the reduced output of `push_unit`, which gets each unit's tangents."""
        flat = [None if tangent is None else _floats(tangent).ravel() for tangent in tangents]

        def push(number: int, unit: _Unit) -> Exact:
            parts = [
                None if tangent is None else _exact(tangent[where[number]])
                for tangent, where in zip(flat, self.gather, strict=True)
            ]
            return push_unit(unit, parts)

        return self.reduced(self._filled(push))

    def pulled_back(self, cotangent: Any, pull_unit: _PullUnit) -> tuple[Exact | None, ...]:
        """Add up what `pull_unit` gives for each unit's cotangent."""
        cotangents = self._unreduced(cotangent).ravel()
        gradients = [
            None if role == LABELS else _zeros(array.shape)
            for role, array in zip(self.row.arguments, self.arrays, strict=False)
        ]
        for number in range(len(self.scatter)):
            with self._unit(number) as unit:
                parts = pull_unit(unit, _exact(cotangents[self.scatter[number]]))
            for gradient, where, part in zip(gradients, self.gather, parts, strict=True):
                if gradient is not None and part is not None:
                    _add_at(gradient, where[number], part)
        return tuple(gradients)

    def reduced(self, outputs: Exact) -> Exact:
        """Reduce the outputs of all units as the op's ``reduction`` says."""
        if self.reduction == "none":
            return outputs
        with mpmath.workdps(SUM_DIGITS):
            total = mpmath.fsum(outputs.flat)
            if self.reduction == "mean":
                total = total / outputs.size if outputs.size else mpmath.nan
            return _exact(total)

    def _unreduced(self, cotangent: Any) -> Exact:
        with mpmath.workdps(SUM_DIGITS):
            given = _exact(_floats(cotangent))
            if self.reduction == "mean":
                given = _exact(given / max(1, math.prod(self.output_shape)))
            return np.broadcast_to(given, self.output_shape)

    def _filled(self, function: Callable[[int, _Unit], Exact]) -> Exact:
        outputs = _zeros(self.output_shape)
        for number in range(len(self.scatter)):
            with self._unit(number) as unit:
                result = function(number, unit)
            _add_at(outputs, self.scatter[number], result)
        return outputs

    @contextmanager
    def _unit(self, number: int) -> Iterator[_Unit]:
        """Give unit `number`, inside a working precision that is enough for it."""
        parts = [
            array.ravel()[where[number]]
            for array, where in zip(self.arrays, self.gather, strict=True)
        ]
        step_exponent, digits, largest = _precision(parts, self.params)
        with mpmath.workdps(digits):
            arguments = tuple(
                int(part) if role == LABELS else _exact(_floats(part))
                for role, part in zip(self.row.arguments, parts, strict=False)
            )
            yield _Unit(
                oracle=self.row.oracle,
                arguments=arguments,
                params=self.params,
                step=mpmath.ldexp(1, step_exponent),
                noise=largest * mpmath.mpf(10) ** (NOISE_DIGITS - digits),
            )


_Layout: TypeAlias = tuple[tuple[Indices, ...], Indices, tuple[int, ...]]


def _by_element(row: Row, positions: Sequence[Indices], axis: int, keepdims: bool) -> _Layout:
    together = np.broadcast_arrays(*positions)
    shape = together[0].shape
    return tuple(part.ravel() for part in together), np.arange(math.prod(shape)), shape


def _by_slice(row: Row, positions: Sequence[Indices], axis: int, keepdims: bool) -> _Layout:
    shape = positions[0].shape
    batch = np.moveaxis(positions[0], axis, -1).shape[:-1]
    count = math.prod(batch)

    def slices(part: Indices) -> Indices:
        return np.moveaxis(part, axis, -1).reshape(count, shape[axis])

    gather = tuple(
        part.ravel() if role == LABELS else slices(part)
        for role, part in zip(row.arguments, positions, strict=True)
    )
    if not row.reduces_axis:
        return gather, slices(positions[0]), shape
    kept = list(shape)
    kept[axis] = 1
    return gather, np.arange(count), tuple(kept) if keepdims else batch


def _by_row(row: Row, positions: Sequence[Indices], axis: int, keepdims: bool) -> _Layout:
    rows, *shared = positions
    batch, width = rows.shape[:-1], shared[0].shape[-1]
    count = math.prod(batch)
    gather = (
        rows.reshape(count, rows.shape[-1]),
        *(np.broadcast_to(part, (count, *part.shape)) for part in shared),
    )
    return gather, np.arange(count * width).reshape(count, width), (*batch, width)


def _precision(parts: Sequence[Any], params: Mapping[str, Any]) -> tuple[int, int, float]:
    """Return the step's binary exponent, the decimal digits to work in, and the largest input.

    The step stays far below the smallest input, so that it crosses no kink. The digits resolve
    the step beside the largest input, and a result that is exponentially (or, for powers, by
    their exponent) smaller than the terms it comes from.
    """
    numbers = [float(entry) for part in parts for entry in np.ravel(part)]
    parameters = [float(entry) for entry in params.values() if not isinstance(entry, str)]
    sizes = [abs(entry) for entry in (*numbers, *parameters) if entry and math.isfinite(entry)]
    largest, smallest = max([1.0, *sizes]), min([1.0, *sizes])
    power = max([1.0, *(abs(entry) for entry in parameters if math.isfinite(entry))])
    decades = math.log10(largest) - math.log10(smallest)
    step_exponent = STEP_EXPONENT + math.frexp(smallest)[1] - 1
    resolve = math.log10(largest) - step_exponent * math.log10(2)
    relevant = min(RELEVANT_DECADES, largest + power * decades)
    return step_exponent, GUARD_DIGITS + math.ceil(resolve + relevant), largest


def _rounded_parameters(
    row: Row, arrays: Sequence[npt.NDArray[Any]], params: Mapping[str, Any]
) -> dict[str, Any]:
    """Round float parameters to the arrays' dtype, and make them ``mpf``."""
    floating = [
        array.dtype
        for role, array in zip(row.arguments, arrays, strict=False)
        if role != LABELS and array.dtype.kind not in "iu"
    ]
    dtype = np.result_type(*floating) if floating else np.dtype(np.float64)
    return {
        name: entry if isinstance(entry, str) else mpmath.mpf(float(dtype.type(entry)))
        for name, entry in params.items()
    }


def _add_at(total: Exact, where: Indices, part: Exact) -> None:
    with mpmath.workdps(SUM_DIGITS):
        entries: list[Any] = part.ravel().tolist()
        for place, entry in zip(np.ravel(where).tolist(), entries, strict=True):
            total.flat[place] = total.flat[place] + entry


def _floats(array: Any) -> npt.NDArray[Any]:
    """Widen an array to float64; one of ``mpf`` objects stays as it is."""
    given = np.asarray(array)
    return given if given.dtype == object else given.astype(np.float64)


def _exact(entries: Any) -> Exact:
    """Make an array of ``mpf``, 0-d too (NumPy turns 0-d results into bare objects)."""
    return np.asarray(_to_number(np.asarray(entries, dtype=object)), dtype=object)


def _magnitude(entries: Any) -> Exact:
    return np.asarray(abs(_exact(entries)), dtype=object)


def _zeros(shape: tuple[int, ...]) -> Exact:
    return np.full(shape, mpmath.mpf(0), dtype=object)


_to_number = np.frompyfunc(mpmath.mpf, 1, 1)

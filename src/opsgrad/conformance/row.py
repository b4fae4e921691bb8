"""The records of the conformance table: a `Row` for each op, of hand-checked `Point`s and more."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from opsgrad.conformance.bad_input import Case

Nested: TypeAlias = Any
"""A float, an int, nested lists of them, or a NumPy array where a list cannot say the shape."""

Unit: TypeAlias = Literal["element", "slice", "matrix"]
Oracle: TypeAlias = Callable[..., Any]
Arrays: TypeAlias = tuple[npt.NDArray[Any], ...]
Sampler: TypeAlias = Callable[[np.random.Generator, tuple[int, ...], int], Arrays]

LABELS = "labels"
"""The one role that is integer, and so has no gradient and no tangent."""

DEFAULT_SIZES: tuple[tuple[int, ...], ...] = (
    *((64, 10), (512, 512)),
    *((65536, 64), (4096, 1000), (64, 50257)),
)


@dataclass(frozen=True, kw_only=True)
class Point:
    """One point whose value and derivatives were worked out by hand.

    Attributes
    ----------
    arrays : tuple
        The array arguments: floats or nested lists, labels as integers or lists of integers. A
        NumPy array stands where a list cannot express the shape, as in ``(0, 3)``.
    params : mapping
        The keyword parameters of the call.
    value : float or nested list
        The expected value. It may hold infinities and NaN.
    cotangent : float or nested list, optional
        What the pullback is given. None means ones of the value's shape.
    gradients : tuple, optional
        One expected gradient per array argument, None for labels. Without the tuple, or with None
        in place of a floating argument's gradient, the contract says nothing about it.
    tangents : tuple, optional
        What the JVP is given: one tangent per array argument, None for labels.
    derivative : float or nested list, optional
        The expected result of that JVP.
    float64_only : bool
        Whether the numbers only make sense in float64: some are beyond float32's range, or the
        point turns on the last bit of a float64.
    why : str
        The contract that this point holds the op to.
    """

    arrays: tuple[Nested, ...]
    params: Mapping[str, Any] = field(default_factory=dict)
    value: Nested
    cotangent: Nested = None
    gradients: tuple[Nested, ...] | None = None
    tangents: tuple[Nested, ...] | None = None
    derivative: Nested = None
    float64_only: bool = False
    why: str


@dataclass(frozen=True, kw_only=True)
class Misfit:
    """Shapes of arrays that do not fit each other, which the op refuses.

    Attributes
    ----------
    shapes : tuple of shapes
        The shape of each array argument.
    words : tuple of str
        What the message has to mention: the argument, the shapes, what would be right.
    why : str
        What is wrong.
    """

    shapes: tuple[tuple[int, ...], ...]
    words: tuple[str, ...]
    why: str


@dataclass(frozen=True, kw_only=True)
class Row:
    """What the conformance suite knows about one op.

    Attributes
    ----------
    name : str
        The op's public name.
    unit : {"element", "slice", "matrix"}
        What the oracle is given: one element of each argument, one slice along ``axis``, or, for
        the affine map, one row of ``x`` with the whole of the other arguments.
    arguments : tuple of str
        The role of each array argument. Only ``"labels"`` is not differentiable.
    oracle : callable
        The textbook formula of one unit in mpmath numbers: scalars, lists, lists of lists, and a
        plain int for a label. Parameters come as keywords. It returns a number or a list.
    sample : callable
        ``sample(rng, shape, axis)`` returns float64 arrays (int64 labels) at points where the op
        is smooth for each of ``variants``: no kink and no tie is nearer than 0.01.
    variants : tuple of mappings
        The parameter sets to run.
    kinks : tuple of Point
        The contract at points without a derivative, ties included.
    specials : tuple of Point
        The contract at infinities, NaN, empty axes and the ends of the floating-point range.
    value_ulp, gradient_ulp : float
        The largest allowed error of the value, and of the pullback and the JVP, in units in the
        last place of the exact component. For one that is a difference of larger terms a scale
        is stated below: the unit is then one in the scale's last place for the value, and the
        machine epsilon times the scale for the derivatives.
    derivative_ulp : float, optional
        The same for the JVP alone, where it adds many products and the pullback has one: half a
        unit for the product and for each addition. None: that of the pullback.
    value_bound_at : callable, optional
        The bound on the value as a function of the parameters, for an op whose goal depends on
        one. ``value_ulp`` is then the loosest over the variants: see `value_bound`.
    value_scale : callable, optional
        Given what the oracle is given, the scale of the value. None: the value's own magnitude.
    gradient_scale, derivative_scale : callable, optional
        The scale of the pullback and of the JVP. Beside what the oracle is given they take
        ``cotangent`` (a number or a list), or ``tangents`` (one for each argument). The first
        returns one entry for each argument, None for labels; the second a number or a list. None:
        the sum of the magnitudes of the terms that are added (for one term, the component's own).
    has_floor : bool
        Whether 16 eps² times the value times the largest magnitude of the cotangent or tangent is
        allowed besides the scale: it is all that is left where that is constant.
    refused : mapping
        For each parameter that is a number, values that the op refuses: beyond the ends of its
        range, and what is no number. With +inf among them, so are integers too large for a float.
    misfits : tuple of Misfit
        Shapes that do not fit, beyond what the roles of ``arguments`` say: targets have the first
        array's shape, labels have it without ``axis``.
    has_axis, has_reduction, has_keepdims : bool
        Which of ``axis``, ``reduction`` and ``keepdims`` the op takes.
    sizes : tuple of shapes
        The shapes to run benchmarks on.
    """

    name: str
    unit: Unit
    arguments: tuple[str, ...]
    oracle: Oracle
    sample: Sampler
    variants: tuple[Mapping[str, Any], ...] = ({},)
    kinks: tuple[Point, ...] = ()
    specials: tuple[Point, ...] = ()
    value_ulp: float
    gradient_ulp: float
    derivative_ulp: float | None = None
    value_bound_at: Callable[..., float] | None = None
    value_scale: Oracle | None = None
    gradient_scale: Oracle | None = None
    derivative_scale: Oracle | None = None
    has_floor: bool = False
    refused: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    misfits: tuple[Misfit, ...] = ()
    has_axis: bool = False
    has_reduction: bool = False
    has_keepdims: bool = False
    sizes: tuple[tuple[int, ...], ...] = DEFAULT_SIZES

    @property
    def op(self) -> Any:
        """The op itself, looked up when asked for so that the table imports no op."""
        import opsgrad

        return getattr(opsgrad, self.name)

    @property
    def points(self) -> tuple[Point, ...]:
        """The hand-checked points: kinks and specials."""
        return (*self.kinks, *self.specials)

    @property
    def differentiable(self) -> tuple[bool, ...]:
        """Whether each array argument has a gradient."""
        return tuple(role != LABELS for role in self.arguments)

    @property
    def reduces_axis(self) -> bool:
        """Whether a slice goes in and a single number comes out."""
        return self.has_axis and (self.has_keepdims or self.has_reduction)

    def states_scale(self, role: str) -> bool:
        """Whether errors are counted in the machine epsilon times a scale that the row states."""
        stated = {"vjp": self.gradient_scale, "jvp": self.derivative_scale}
        return stated.get(role) is not None

    def bad_input(self, family: str | None = None, dtype: str = "float64") -> list[Case]:
        """Return the calls that the op must refuse, all of them or those of one family.

        Those are derived from the roles of the arguments, the flags, ``refused`` and ``misfits``.
        """
        from opsgrad.conformance.bad_input import bad_input

        return bad_input(self, family, dtype)

    def value_bound(self, **params: Any) -> float:
        """Return the allowed error of the value, in units in the last place, at `params`."""
        if self.value_bound_at is None:
            return self.value_ulp
        return self.value_bound_at(**params)

"""What an op's signature says about its arguments: roles of arrays, ranges of parameters.

A body is annotated with the names below, and every call is checked against them before any work::

    def relumax(xp, x: Array, /, *, b: Positive = 1.0, axis: int = -1) -> Array: ...
    def nll_loss(xp, log_probs: Array, labels: Labels, /, *, axis: int = -1) -> Array: ...

Three parameters mean the same in every op and are known by name: ``axis``, ``keepdims`` and
``reduction``.
"""

import enum
import inspect
import math
import numbers
import operator
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias, get_args, get_origin

import numpy as np

from opsgrad._compiling import constant
from opsgrad._errors import ArgumentError, AxisError, ParameterError, RuleError
from opsgrad._typing import Array, DType

Shape: TypeAlias = tuple[int, ...]
Reduction: TypeAlias = Literal["none", "mean", "sum"]


class Role(enum.Enum):
    """What an array argument is to its op."""

    VALUES = "floating-point values"
    TARGETS = "floating-point values of the first argument's shape"
    LABELS = "integer labels of the first argument's shape without `axis`"
    SHARED = "floating-point values that have no batch axes of their own"


Targets = Annotated[Array, Role.TARGETS]
"""Floating-point values that go with the first argument one by one."""

Labels = Annotated[Array, Role.LABELS]
"""Integer labels, one for each slice of the first argument along ``axis``."""

Shared = Annotated[Array, Role.SHARED]
"""Weights and the like: values that every example of the batch shares."""


class Range(NamedTuple):
    """The values that a number may take."""

    words: str
    holds: Callable[[float], bool]


Finite = Annotated[float, Range("finite", math.isfinite)]
Positive = Annotated[float, Range("positive and finite", lambda v: 0.0 < v < math.inf)]
NonNegative = Annotated[float, Range("non-negative and finite", lambda v: 0.0 <= v < math.inf)]
Order = Annotated[float, Range("positive, or infinity", lambda v: v > 0.0)]


class Argument(NamedTuple):
    """An array argument of an op."""

    name: str
    role: Role
    optional: bool

    @property
    def differentiable(self) -> bool:
        """Whether the op has a gradient with respect to it."""
        return self.role is not Role.LABELS


class Parameter(NamedTuple):
    """A keyword parameter of an op, and how a value for it is checked."""

    name: str
    default: Any
    annotation: Any
    range: Range | None

    def check(self, op: str, value: Any) -> Any:
        """Return `value` as the body takes it, or raise."""
        if self.name == "axis":
            return integer(op, self.name, value)
        if self.name == "reduction":
            return _choice(op, self.name, value, get_args(Reduction))
        if self.name == "keepdims" or self.annotation is bool:
            return _boolean(op, self.name, value)
        if self.annotation is float:
            return _number(op, self.name, value, self.range)
        if get_origin(self.annotation) is Literal:
            return _choice(op, self.name, value, get_args(self.annotation))
        return value


class Signature:
    """The public signature of an op, read off its body."""

    def __init__(self, name: str, body: Callable[..., Any]) -> None:
        self.name = name
        written = list(inspect.signature(body).parameters.values())[1:]
        public = [_evaluated(parameter, body) for parameter in written]
        self.arguments = tuple(_argument(p) for p in public if p.kind is p.POSITIONAL_ONLY)
        self.parameters = {p.name: _parameter(p) for p in public if p.kind is p.KEYWORD_ONLY}
        if len(self.arguments) + len(self.parameters) != len(public):
            raise RuleError(
                f"{name}: an op's body takes `xp` and its arrays positional-only and its "
                "parameters keyword-only, as in body(xp, x, /, *, axis=-1), "
                f"got {inspect.signature(body)}"
            )
        if not self.arguments:
            raise RuleError(f"{name}: an op takes at least one array")
        for parameter in public:
            if parameter.name in ("y", "kept", "backend"):
                raise RuleError(
                    f"{name}: the name {parameter.name!r} is taken: y and kept mean the op's "
                    "result and residual, and backend where it runs"
                )
        for own in self.parameters.values():
            if own.default is not inspect.Parameter.empty:
                own.check(name, own.default)
        self.required = sum(not argument.optional for argument in self.arguments)
        self.floats = tuple(p.name for p in self.parameters.values() if p.annotation is float)
        self.public = inspect.Signature(
            [
                *(p.replace(annotation=_plain(p.annotation)) for p in public),
                inspect.Parameter(
                    "backend",
                    inspect.Parameter.KEYWORD_ONLY,
                    default=None,
                    annotation=str | None,
                ),
            ],
            return_annotation=inspect.Signature.empty,
        )

    def __str__(self) -> str:
        """Return the signature as a reader wants it: without annotations."""
        bare = [
            parameter.replace(annotation=inspect.Parameter.empty)
            for parameter in self.public.parameters.values()
        ]
        return str(inspect.Signature(bare))

    def match(self, arrays: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return one entry for each array argument, None where an optional one is left out."""
        if not self.required <= len(arrays) <= len(self.arguments):
            names = ", ".join(argument.name for argument in self.arguments)
            raise ArgumentError(
                f"{self.name}: takes the arrays ({names}) by position, got {len(arrays)} of them"
            )
        arrays += (None,) * (len(self.arguments) - len(arrays))
        for argument, array in zip(self.arguments, arrays, strict=True):
            if array is None and not argument.optional:
                raise ArgumentError(f"{self.name}: {argument.name} must be an array, got None")
        return arrays

    def complete(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return every parameter, given or default, checked as far as it can be without arrays."""
        for name in given:
            if name not in self.parameters:
                known = ", ".join([*self.parameters, "backend"])
                raise ArgumentError(
                    f"{self.name}: unknown keyword {name!r}; the parameters are {known}"
                )
        for name, parameter in self.parameters.items():
            if parameter.default is inspect.Parameter.empty and name not in given:
                raise ArgumentError(f"{self.name}: the parameter {name} must be given")
        return {
            name: parameter.check(self.name, given[name]) if name in given else parameter.default
            for name, parameter in self.parameters.items()
        }

    def place_axis(self, axis: int, shape: Shape) -> int:
        """Return `axis` counted from the end, or raise if the first argument does not have it."""
        ndim = len(shape)
        first = self.arguments[0].name
        if ndim == 0:
            raise AxisError(
                f"{self.name}: {first} must have at least one axis to run along, got shape ()"
            )
        if not -ndim <= axis < ndim:
            raise AxisError(
                f"{self.name}: axis must lie in [{-ndim}, {ndim}) for {first} of shape {shape}, "
                f"got {axis}"
            )
        return axis if axis < 0 else axis - ndim

    def round_floats(self, parameters: dict[str, Any], dtype: DType) -> None:
        """Round the floating parameters to the precision of the result, in place."""
        for name in self.floats:
            value = parameters[name]
            rounded = round_to(value, dtype)
            if (rounded == 0.0) != (value == 0.0) or math.isinf(rounded) != math.isinf(value):
                raise ParameterError(
                    f"{self.name}: {name}={value!r} becomes {rounded!r} when rounded to {dtype}, "
                    "the data type of the result"
                )
            parameters[name] = rounded


def _evaluated(parameter: inspect.Parameter, body: Callable[..., Any]) -> inspect.Parameter:
    """Return a parameter whose annotation, if it was postponed, is read as far as it can be."""
    if not isinstance(parameter.annotation, str):
        return parameter
    try:
        annotation = eval(parameter.annotation, body.__globals__)
    except (NameError, AttributeError, SyntaxError):  # imported for type checkers alone
        annotation = parameter.empty
    return parameter.replace(annotation=annotation)


def _argument(parameter: inspect.Parameter) -> Argument:
    roles = [word for word in get_args(parameter.annotation) if isinstance(word, Role)]
    return Argument(
        name=parameter.name,
        role=roles[0] if roles else Role.VALUES,
        optional=parameter.default is not parameter.empty,
    )


def _parameter(parameter: inspect.Parameter) -> Parameter:
    ranges = [word for word in get_args(parameter.annotation) if isinstance(word, Range)]
    return Parameter(
        name=parameter.name,
        default=parameter.default,
        annotation=_plain(parameter.annotation),
        range=ranges[0] if ranges else None,
    )


def _plain(annotation: Any) -> Any:
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


def integer(op: str, name: str, value: Any) -> int:
    """Return a parameter as an int, or raise if it is none."""
    try:
        if isinstance(value, (bool, np.bool_)):
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise ArgumentError(f"{op}: {name} must be an integer, got {value!r}") from None


def _boolean(op: str, name: str, value: Any) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise ArgumentError(f"{op}: {name} must be True or False, got {value!r}")
    return bool(value)


def _number(op: str, name: str, value: Any, allowed: Range | None) -> float:
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Real):
        raise ArgumentError(
            f"{op}: {name} must be a real number, got {value!r} of type {type(value).__name__}"
        )
    try:
        number = float(value)
    except OverflowError:
        number = math.inf  # too large to be one
    if allowed is not None and not allowed.holds(number):
        raise ParameterError(f"{op}: {name} must be {allowed.words}, got {value!r}")
    return number


def _choice(op: str, name: str, value: Any, choices: tuple[Any, ...]) -> Any:
    words = " or ".join(map(repr, choices))
    if not isinstance(value, str):
        raise ArgumentError(f"{op}: {name} must be {words}, got {value!r}")
    if value not in choices:
        raise ParameterError(f"{op}: {name} must be {words}, got {value!r}")
    return str(value)  # NumPy's strings as Python's: what is known of one serves the other


@constant
def round_to(value: float, dtype: DType) -> float:
    """Return `value` rounded to the precision of `dtype`."""
    name = str(dtype).rpartition(".")[2]
    if name in ("float16", "float32"):
        with np.errstate(over="ignore", under="ignore"):
            return float(np.dtype(name).type(value))
    if name == "bfloat16" and math.isfinite(value):
        with np.errstate(over="ignore", under="ignore"):
            bits = int(np.float32(value).view(np.uint32))
        # The upper half of a float32, rounded to nearest, ties to even.
        bits = (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000
        return float(np.uint32(bits).view(np.float32))
    return value

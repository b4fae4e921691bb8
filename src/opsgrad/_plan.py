"""A checked call: which backend runs it, in which data type, and how arrays go in and come out."""

import functools
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

from opsgrad._arguments import (
    Source,
    admit,
    check_fit,
    check_labels,
    home_of,
    place,
    precision,
    same_dtype,
)
from opsgrad._arrays import (
    diagonal_matrices,
    known,
    reduced,
    same_shape,
    spread,
    without_axis,
)
from opsgrad._errors import (
    ArgumentError,
    DeviceError,
    DTypeError,
    MixedBackendsError,
    RuleError,
    ShapeError,
)
from opsgrad._signature import Argument, Role, Shape, Signature
from opsgrad._typing import Array, DType, Namespace
from opsgrad.backends import asked_for, backend_in_force
from opsgrad.backends.protocol import Backend, Kernel, Work, frozen, nothing
from opsgrad.fusion.form import Form, Learnt

Arrays = tuple[Array | None, ...]
Narrow = Callable[[tuple[Any, ...], DType], Any]
"""A kernel that takes arrays in half precision as they are, and the data type of its results."""


class Rule(NamedTuple):
    """An op's body or one of its rules."""

    role: str
    """"value" for the body, or "forward" where its residual is wanted too; "vjp", "jvp",
    "derivative" or "jacobian"; "value_and_grad" for body and VJP rule together."""
    function: Callable[..., Any]
    keeps: tuple[str, ...]
    """The arrays that it works from: arguments, "y", and "kept" for each array of the residual."""
    directions: tuple[str, ...]
    """The cotangent or the tangents that it takes after these."""
    takes: tuple[str, ...]
    """The parameters that it takes."""
    places: tuple[int, ...] = ()
    """Where the arrays that it works from are among arguments, value and residual, in this order.
    """
    residual: bool = False
    """Of a body: whether it returns more than the value, for rules to keep."""

    def picked(self, op: str, at_hand: Sequence[Any]) -> tuple[Any, ...]:
        """Return what it works from, out of arguments, value and residual."""
        if "kept" in self.keeps and len(at_hand) != 1 + max(self.places):
            count = self.keeps.count("kept")
            returned = count + len(at_hand) - 1 - max(self.places)
            raise RuleError(
                f"{op}: the {self.role} rule takes a residual of {count}, but the body returns "
                f"{returned} after the result"
            )
        return tuple([at_hand[place] for place in self.places])

    @property
    def alone(self) -> "Rule":
        """Of a body: what returns its value, and computes nothing else."""
        return self._replace(function=_value_of(self.function)) if self.residual else self

    @property
    def forward(self) -> "Rule":
        """Of a body: what returns its value and its residual."""
        return self._replace(role="forward")


@functools.lru_cache(1024)  # the same function for the same body: it stands for what is compiled
def _value_of(body: Callable[..., Any]) -> Callable[..., Any]:
    def value(xp: Namespace, /, *arrays: Array | None, **parameters: Any) -> Array:
        return _first(body(xp, *arrays, **parameters))

    value.__module__ = body.__module__  # where other processes look for the op
    return value


def _first(out: Any) -> Any:
    """Return the value, of what a body returns."""
    return out[0] if isinstance(out, tuple) else out


class Input(NamedTuple):
    """An array argument in one call, without the array itself."""

    argument: Argument
    shape: Shape
    dtype: DType | None
    """Its data type; None where an optional argument is left out."""
    differentiable: bool
    """Whether it has a derivative: it is there and holds floating-point numbers."""

    @property
    def why_not(self) -> str:
        """Say why it has no derivative, as the rest of a sentence about it."""
        return "is left out" if self.dtype is None else "holds integers"


class Plan:
    """How one call of an op runs: everything but the arrays themselves."""

    def __init__(
        self,
        op: str,
        every: tuple[Input, ...],
        given: int,
        call: "_Call",
        dtypes: tuple[DType, DType],
        device: Any,
        *,
        elementwise: bool,
        rowwise: bool,
    ) -> None:
        backend = call.target
        self.op = op
        self.every = every
        self.given = given
        self.missing = (None,) * (len(every) - given)
        self.backend = backend
        self.takes_foreign = call.asked
        self.parameters = call.parameters
        self.result, self.compute = dtypes
        self.labels = backend.default_dtype("integral")
        self.device = device
        self.elementwise = elementwise
        self.rowwise = rowwise
        # Whether every array is already in the data type that the body computes in.
        self.exact = all(one.dtype in (None, self._computed(one)) for one in every)
        # Whether the library has an autodiff of its own that might be watching.
        self.may_record = type(backend).records is not Backend.records
        self.lazy = backend.capabilities.lazy
        # The numbers of the arguments that a VJP rule returns a gradient for.
        self.slopes = [n for n, one in enumerate(every) if one.argument.differentiable]
        self._taken_in: Any = None
        # What runs the body, by role, and the rules, by role and function.
        self._ready: dict[Any, Callable[..., Any]] = {}
        # Those that take arrays in half precision as they are, by role and function.
        self._narrows: dict[Any, Narrow | None] = {}
        # Those that return value and gradients together, by the arrays to differentiate by.
        self._joint: dict[tuple[int, ...], Callable[..., Any]] = {}
        # What is to be told of direct calls that take the arrays as the caller gave them.
        self.told: Callable[[str | tuple[int, ...], Learnt], None] | None = None
        self._direct_pull: Callable[..., Any] | None = None

    @property
    def inputs(self) -> tuple[Input, ...]:
        """The arrays that the caller gave, those passed as None included."""
        return self.every[: self.given]

    # -- running ---------------------------------------------------------------------------------

    def value(self, body: Rule, arrays: Arrays, *, rounded: bool = False) -> Array:
        """Run the body for its value alone.

        It has the data type that the body computes in, or, if it may be `rounded`, perhaps that of
        the result.
        """
        narrow = None if self.exact else self._narrow(body.alone)
        if narrow is not None:
            return _first(self._run_body_narrow(narrow, arrays, rounded))
        wide = arrays if self.exact else tuple(map(self._widen, self.every, arrays))
        # As `_run` has it, written out: every call comes through here.
        return _first((self._ready.get("value") or self._prepare(body.alone, "value"))(*wide))

    def forward(self, body: Rule, arrays: Arrays, *, rounded: bool = False) -> tuple[Any, ...]:
        """Run the body; return its value, as `value` does, and the arrays of its residual."""
        narrow = None if self.exact else self._narrow(body.forward)
        if narrow is not None:
            out = self._run_body_narrow(narrow, arrays, rounded)
        else:
            wide = arrays if self.exact else tuple(map(self._widen, self.every, arrays))
            out = (self._ready.get("forward") or self._prepare(body.forward, "forward"))(*wide)
        return out if isinstance(out, tuple) else (out,)

    def _run_body_narrow(self, narrow: Narrow, arrays: Arrays, rounded: bool) -> Any:
        stored = tuple(map(self._stored, self.every, arrays))
        return narrow(stored, self.result if rounded else self.compute)

    def _narrow(self, rule: Rule) -> Narrow | None:
        """Return a kernel that takes arrays in half precision as they are, if they are in it."""
        if self.result == self.compute:
            return None
        key = rule.role, rule.function
        if key in self._narrows:
            return self._narrows[key]
        kernel = self.kernel(rule)
        narrow = kernel.narrow if isinstance(kernel, Kernel) else None
        if kernel:  # else the backend is to be asked again
            self._narrows[key] = narrow
        return narrow

    def _run(self, rule: Rule, arrays: tuple[Any, ...]) -> Any:
        key = rule.role, rule.function
        return (self._ready.get(key) or self._prepare(rule, key))(*arrays)

    def _prepare(self, rule: Rule, key: Any) -> Callable[..., Any]:
        """Return what runs a body or rule on arrays alone, and keep it for the calls to come."""
        kernel = self.kernel(rule)
        if isinstance(kernel, Kernel):
            ready = kernel.call
            self._ask(kernel, rule)
        else:
            ready = self.backend.runner(rule.function, self._taken(rule))
        if kernel:  # else the backend is to be asked again
            self._ready[key] = ready
        return ready

    def _ask(self, kernel: Kernel, rule: Rule) -> None:
        """Ask for direct calls of a body or VJP rule: later calls skip all that is done here."""
        if kernel.direct is None or self.told is None:
            return
        if rule.role == "value":
            form = Form(classes=self._classes())
            kernel.direct(form, functools.partial(self.told, rule.role))
        elif rule.role == "vjp" and self.parameters.get("reduction", "none") == "none":
            # All of them have a gradient, or they would not go in as they are.
            shapes = tuple(self.every[number].shape for number in self.slopes)
            form = Form(shapes=shapes, places=tuple(self.slopes), size=self.given)
            kernel.direct(form, self._take_pull)

    def _take_pull(self, learnt: Learnt) -> None:
        self._direct_pull = learnt(self._direct_pull)

    def _classes(self) -> tuple[int, ...]:
        """Return, for each array, how many classes its labels name, 0 where it holds none."""
        return tuple(
            self.every[0].shape[self.parameters["axis"]] if one.argument.role is Role.LABELS else 0
            for one in self.every
        )

    def kernel(self, rule: Rule) -> Kernel | str:
        """Return what the backend offers for a rule, or why it offers nothing."""
        return self.backend.kernel(self._work(rule))

    def _work(self, rule: Rule) -> Work:
        return Work(
            op=self.op,
            role=rule.role,
            function=rule.function,
            names=(*rule.keeps, *rule.directions),
            parameters=self._taken(rule),
            dtype=self.compute,
            elementwise=self.elementwise,
            rowwise=self.rowwise,
            arguments=tuple(one.argument for one in self.every),
        )

    def _taken(self, rule: Rule) -> dict[str, Any]:
        return {name: self.parameters[name] for name in rule.takes}

    def value_and_gradients(
        self, rule: Rule, arrays: Arrays, numbers: tuple[int, ...]
    ) -> tuple[Array, tuple[Array, ...]] | None:
        """Return the value, and the gradients of its sum by `numbers`; None without a kernel."""
        out = (self._joint.get(numbers) or self._prepare_joint(rule, numbers))(*arrays)
        if out is None:
            return None
        value, *gradients = out
        by = [self.every[number] for number in numbers]
        for one, gradient in zip(by, gradients, strict=True):
            self._check_gradient(one, gradient)
        return self.finish(value, self.result), tuple(
            self.finish(gradient, one.dtype) for one, gradient in zip(by, gradients, strict=True)
        )

    def _prepare_joint(self, rule: Rule, numbers: tuple[int, ...]) -> Callable[..., Any]:
        """Return what computes value and gradients together, or returns None where nothing does."""
        kernel, share = self.kernel(rule), self._share()
        call: Callable[..., Any] = nothing
        if isinstance(kernel, Kernel) and share is not None:
            seed = self.backend.number(share, dtype=self.compute, device=self.device)
            call = self._fed(kernel, seed, numbers)
        if kernel:
            self._joint[numbers] = call
        return call

    def _share(self) -> float | None:
        """Return the cotangent of each value before it is reduced; None if that is not known."""
        if self.parameters.get("reduction") != "mean":
            return 1.0
        shape = self._examples_shape()
        return None if 0 in shape or not all(map(known, shape)) else 1.0 / math.prod(shape)

    def _fed(self, kernel: Kernel, seed: Any, numbers: tuple[int, ...]) -> Callable[..., Any]:
        """Return a kernel for value and gradients as a function of the op's arrays as they are."""
        if self.exact:
            if kernel.direct is not None and self.told is not None:
                shapes = (None, *(self.every[number].shape for number in numbers))
                form = Form((seed,), self._classes(), shapes, size=1 + len(numbers))
                kernel.direct(form, functools.partial(self.told, numbers))
            return functools.partial(kernel.call, seed)
        narrow = kernel.narrow
        if self.result == self.compute or narrow is None:
            return lambda *arrays: kernel.call(seed, *map(self._widen, self.every, arrays))
        stored = self.result if self._alike() else self.compute
        return lambda *arrays: narrow((seed, *map(self._stored, self.every, arrays)), stored)

    def pull(
        self, rule: Rule, kept: Sequence[Any], shape: Shape, values: Sequence[Any]
    ) -> tuple[Array | None, ...]:
        """Apply the VJP rule to the one cotangent, of `shape`: a gradient for each array given."""
        if self._direct_pull is not None:
            pulled_at_once: Arrays | None = self._direct_pull(*kept, *values)
            if pulled_at_once is not None:
                return pulled_at_once
        if len(values) != 1:
            raise ArgumentError(f"{self.op}: a pullback takes one cotangent, got {len(values)}")
        cotangent = self._cotangent(rule, values[0], shape)
        out = self._run_rule(rule, kept, (self._per_example(cotangent, rule, kept),))
        gradients = out if isinstance(out, tuple) else (out,)
        if len(gradients) != len(self.slopes):
            raise RuleError(
                f"{self.op}: the VJP rule must return {len(self.slopes)} gradients, one for each "
                f"floating-point argument, got {len(gradients)}"
            )
        pulled: list[Array | None] = [None] * self.given
        others = [cotangent, *kept]
        for number, gradient in zip(self.slopes, gradients, strict=True):
            one = self.every[number]
            if one.differentiable:
                self._check_gradient(one, gradient)
                pulled[number] = self.finish(gradient, one.dtype, others)
                others.append(pulled[number])
        return tuple(pulled)

    def _cotangent(self, rule: Rule, value: Any, shape: Shape) -> Array | None:
        """Check and take in a cotangent, at once if it is like the last one that came in as it is.

        The checks take 3 µs, as long as a small kernel.
        """
        try:
            form = type(value), value.dtype, value.shape, value.device
            if form == self._taken_in:
                return value
        except AttributeError:
            form = None
        source = self._direction(value, "the cotangent", "the result", shape)
        cotangent = self._bring(source, self._takes(rule))
        if cotangent is value:
            self._taken_in = form
        return cotangent

    def _check_gradient(self, one: Input, gradient: Any) -> None:
        shape = getattr(gradient, "shape", None)
        if shape is None or not same_shape(tuple(shape), one.shape):
            raise RuleError(
                f"{self.op}: the VJP rule must return a gradient of shape {one.shape} for "
                f"{one.argument.name}, got {'no array' if shape is None else tuple(shape)}"
            )

    def push(
        self, rule: Rule, kept: Sequence[Any], tangents: Arrays, dtype: DType | None = None
    ) -> Array:
        """Apply the JVP rule to the tangents that `tangents` took in."""
        out = self._run_rule(rule, kept, tangents)
        reduction = self.parameters.get("reduction", "none")
        if reduction != "none":
            out = self.backend.run(reduced, (out,), {"reduction": reduction})
        return self.finish(out, self.result if dtype is None else dtype, tangents)

    def check_labels(self, arrays: Sequence[Any]) -> None:
        """Check the labels of another call of this plan; nothing else depends on values."""
        for one, array in zip(self.every, arrays, strict=False):
            if one.argument.role is Role.LABELS:
                axis, shape = self.parameters.get("axis", -1), self.every[0].shape
                check_labels(self.op, one.argument.name, self.backend, array, shape, axis)

    def require_floating(self, numbers: Sequence[int]) -> None:
        """Raise if an array that a derivative is asked by holds integers or is left out."""
        for number in numbers:
            one = self.every[number]
            if not one.differentiable:
                raise DTypeError(
                    f"{self.op}: there is no gradient by {one.argument.name}, because it "
                    f"{one.why_not}"
                )

    def row_axis(self, number: int) -> int | None:
        """Return the axis that alone is mixed, counted from the end; None if it is not just one."""
        one = self.every[number]
        if one.argument.role is Role.SHARED or self.parameters.get("reduction", "none") != "none":
            return None
        axis: int = self.parameters.get("axis", -1)
        return axis if len(one.shape) >= -axis else None

    def _has_rows(self, one: Input) -> bool:
        return one.argument.role in (Role.VALUES, Role.TARGETS) and one.dtype is not None

    def matrices(self, role: str, rule: Rule, kept: Sequence[Any], number: int) -> Array | None:
        """Return the Jacobian's matrices as the op's own rule states them, None if it does not."""
        if role == "derivative":
            out = self._run_rule(rule, kept, ())
            partial = out[number] if isinstance(out, tuple) else out
            matrices = self.backend.run(diagonal_matrices, (partial,), {})
        elif number == 0:
            xp, axis = self.backend.namespace, self.parameters.get("axis", -1)
            rows = {"y", *(one.argument.name for one in self.every if self._has_rows(one))}
            last = [
                xp.moveaxis(k, axis, -1) if name in rows and k.ndim >= -axis else k
                for name, k in zip(rule.keeps, kept, strict=True)
            ]
            matrices = self._run_rule(rule, last, ())
        else:
            return None
        return self.finish(matrices, self.result, kept)

    def finish(self, array: Array, dtype: DType, others: Sequence[Any] = ()) -> Array:
        """Return a computed array in `dtype`, in memory that it shares with none of `others`."""
        if array.dtype != dtype:
            return self.backend.cast(array, dtype)
        for other in others:
            if hasattr(other, "dtype") and self.backend.shares_memory(array, other):
                return self.backend.cast(array, dtype)
        return array

    def _takes(self, rule: Rule) -> tuple[DType, ...]:
        """Return the data types in which a rule takes cotangents and tangents."""
        if self.parameters.get("reduction", "none") == "none" and self._narrow(rule):
            return self.compute, self.result
        return (self.compute,)

    def _run_rule(self, rule: Rule, kept: Sequence[Any], directions: Arrays) -> Any:
        narrow = None if self.exact else self._narrow(rule)
        if narrow is not None:
            return self._run_narrow(narrow, rule, kept, directions)
        if not self.exact:
            arguments = {one.argument.name: one for one in self.every}
            kept = [
                self._widen(arguments[name], array) if name in arguments else array
                for name, array in zip(rule.keeps, kept, strict=True)
            ]
        return self._run(rule, (*kept, *directions))

    def _run_narrow(
        self, narrow: Narrow, rule: Rule, kept: Sequence[Any], directions: Arrays
    ) -> Any:
        arguments = {one.argument.name: one for one in self.every}
        stored = [
            self._stored(arguments[name], array) if name in arguments else array
            for name, array in zip(rule.keeps, kept, strict=True)
        ]
        reduced = rule.role == "jvp" and self.parameters.get("reduction", "none") != "none"
        rounded = self._alike() and not reduced
        return narrow((*stored, *directions), self.result if rounded else self.compute)

    def _alike(self) -> bool:
        """Whether all floating-point arguments have the data type of the result."""
        return all(one.dtype in (None, self.result) for one in self.every if one.differentiable)

    def _per_example(self, cotangent: Array, rule: Rule, kept: Sequence[Any]) -> Array:
        """Spread the cotangent of a reduced loss: rules are stated for one value per example."""
        reduction = self.parameters.get("reduction", "none")
        if reduction == "none":
            return cotangent
        shape = self._examples_shape()
        like = self._examples(rule, kept) if self.lazy else None
        if like is None and not all(map(known, shape)):
            raise ShapeError(
                f"{self.op}: the gradient of a reduced loss needs the number of examples, got "
                f"shape {shape}"
            )
        return self.backend.run(spread, (cotangent, like), {"reduction": reduction, "shape": shape})

    def _examples_shape(self) -> Shape:
        """Return the shape that a reduced loss has before it is reduced."""
        shape = self.every[0].shape
        return without_axis(shape, self.parameters["axis"]) if "axis" in self.parameters else shape

    def _examples(self, rule: Rule, kept: Sequence[Any]) -> Array | None:
        """Return an array of one entry for each example, of those that a rule keeps."""
        axis = self.parameters.get("axis")
        roles = {one.argument.name: one.argument.role for one in self.every}
        for name, array in sorted(
            zip(rule.keeps, kept, strict=True), key=lambda pair: roles.get(pair[0]) != Role.LABELS
        ):
            role = roles.get(name)
            if role is Role.LABELS or (axis is None and role is Role.VALUES):
                return array
            if role in (Role.VALUES, Role.TARGETS) and array.shape[axis] != 0:
                return array[(*(slice(None),) * (array.ndim + axis), 0, ...)]
        return None

    # -- arrays in -------------------------------------------------------------------------------

    def _widen(self, one: Input, array: Array | None) -> Array | None:
        """Return an argument in the data type that the body computes in."""
        return array if array is None else self._cast(array, self._computed(one))

    def _computed(self, one: Input) -> DType:
        # Labels: PyTorch's unsigned integers cannot be compared with anything.
        return self.compute if one.argument.differentiable else self.labels

    def _stored(self, one: Input, array: Array | None) -> Array | None:
        """Return an argument as a kernel takes it that widens what it loads."""
        return array if one.differentiable else self._widen(one, array)

    def _cast(self, array: Array, dtype: DType) -> Array:
        return array if array.dtype == dtype else self.backend.cast(array, dtype)

    def tangents(self, values: Sequence[Any], *, none_is_zero: bool = False) -> Arrays:
        """Take in a tangent for each array given; return one for each floating-point argument."""
        if len(values) != self.given:
            raise ArgumentError(
                f"{self.op}: takes one tangent for each of the {self.given} arrays, "
                f"got {len(values)} tangents"
            )
        padded = (*values, *(None,) * (len(self.every) - self.given))
        for one, value in zip(self.every, padded, strict=True):
            self._check_tangent(one, value, none_is_zero)
        sources = [
            (one, self._tangent(one, value))
            for one, value in zip(self.every, padded, strict=True)
            if one.argument.differentiable
        ]
        return tuple(
            self._no_tangent(one) if source is None else self._bring(source)
            for one, source in sources
        )

    def _check_tangent(self, one: Input, value: Any, none_is_zero: bool) -> None:
        name = one.argument.name
        if one.differentiable and value is None and not none_is_zero:
            raise ArgumentError(f"{self.op}: the tangent of {name} must be an array, got None")
        if not one.differentiable and value is not None:
            raise DTypeError(
                f"{self.op}: the tangent of {name} must be None, because {name} {one.why_not}"
            )

    def _tangent(self, one: Input, value: Any) -> Source | None:
        if value is None:
            return None
        name = one.argument.name
        return self._direction(value, f"the tangent of {name}", name, one.shape)

    def _no_tangent(self, one: Input) -> Array | None:
        if one.dtype is None:
            return None
        return self.backend.namespace.zeros(one.shape, dtype=self.compute, device=self.device)

    def _direction(self, value: Any, word: str, like: str, shape: Shape) -> Source:
        """Check a cotangent or tangent, which must have `shape`, that of `like`."""
        if value is None:
            raise ArgumentError(f"{self.op}: {word} must be an array, got None")
        argument = Argument(word, Role.VALUES, optional=False)
        (source,) = admit(self.op, [argument], [value])
        if not source.weak:
            self._check_strong(source)
        if not same_shape(source.shape, shape):
            raise ShapeError(
                f"{self.op}: {word} must have the shape of {like}, {shape}, got {source.shape}"
            )
        return source

    def _bring(self, source: Source, takes: tuple[DType, ...] = ()) -> Array | None:
        """Take in a cotangent or tangent that has been checked; of `takes`, as it is."""
        if source.weak or source.backend is not self.backend:
            host = source.backend.to_numpy(source.array)
            return self.backend.asarray(host, dtype=self.compute, device=self.device)
        return (
            source.array if source.array.dtype in takes else self._cast(source.array, self.compute)
        )

    def _check_strong(self, source: Source) -> None:
        if source.backend.kind(source.array.dtype) != "floating":
            raise DTypeError(
                f"{self.op}: {source.name} must be floating-point numbers, "
                f"got data type {source.array.dtype}"
            )
        if source.backend is not self.backend:
            if self.takes_foreign or {source.backend.name, self.backend.name} == {"numpy", "dask"}:
                return
            raise MixedBackendsError(
                f"{self.op}: {source.name} is an array of {source.backend.name}, but the op ran on "
                f"{self.backend.name}"
            )
        device = self.backend.device(source.array)
        if device != self.device:
            raise DeviceError(
                f"{self.op}: {source.name} is on {device}, but the op ran on {self.device}"
            )


class Planner:
    """Makes the plans of one op, and keeps them: most calls repeat the shapes of an earlier one."""

    def __init__(self, signature: Signature) -> None:
        self.signature = signature
        self.check_shapes: Callable[..., None] | None = None
        self.elementwise = False
        self.rowwise = "axis" in signature.parameters
        self._has_labels = any(one.role is Role.LABELS for one in signature.arguments)
        self._kept: dict[Hashable, Plan] = {}
        # Direct calls, by what is wanted ("value", or the arrays of the gradients), the type of the
        # first array, and the parameters.
        self.known: dict[Hashable, Callable[..., Any]] = {}

    def describe(self, *, elementwise: bool = False, rowwise: bool = False) -> None:
        """Take in what a new rule says about the op; plans made before know nothing of it."""
        self.elementwise = self.elementwise or elementwise
        self.rowwise = self.rowwise or rowwise
        self._kept, self.known = {}, {}

    def direct(
        self,
        wanted: str | tuple[int, ...],
        given: tuple[Any, ...],
        parameters: Mapping[str, Any],
        backend: str | None,
    ) -> Any:
        """Return the result of a call that has gone the long way before; None for others."""
        if not given or backend is not None or backend_in_force() is not None:
            return None
        try:
            call = self.known.get(
                (wanted, type(given[0]), *(frozen(parameters) if parameters else ()))
            )
        except TypeError:
            return None
        return None if call is None else call(*given)

    def plan(
        self, given: tuple[Any, ...], parameters: Mapping[str, Any], backend: str | None
    ) -> tuple[Plan, Arrays]:
        """Check a call and settle how it runs; return that, and the arrays where they will run.

        Nothing is moved or computed before everything has been checked.
        """
        own = frozen(parameters) if parameters else ()
        # All that a plan depends on.
        key: Any = backend, backend_in_force(), own
        try:
            for x in given:
                key += (None,) if x is None else (type(x), x.dtype, x.shape, x.device)
            plan = self._kept.get(key)
        except (AttributeError, TypeError):
            key = _key_in_words(given, own, backend)
            plan = self._kept.get(key)
        if plan is not None:
            if self._has_labels:
                plan.check_labels(given)
            return plan, given + plan.missing if plan.missing else given
        plan, arrays = self._make(given, parameters, backend)
        # Only where the arrays go in as they came, so that they can do so again, and decide the
        # data type: PyTorch and JAX let the user change the default.
        decided = any(one.differentiable for one in plan.every)
        if key is not None and decided and all(a is b for a, b in zip(given, arrays, strict=False)):
            if len(self._kept) >= MOST_PLANS:
                self._kept.clear()
            self._kept[key] = plan
            if not (plan.missing or plan.takes_foreign) and plan.exact:
                plan.told = functools.partial(self._learn, type(given[0]), own)
        return plan, arrays

    def _learn(
        self, kind: type, own: tuple[Any, ...], wanted: str | tuple[int, ...], learnt: Learnt
    ) -> None:
        key = (wanted, kind, *own)
        call = learnt(self.known.get(key))
        if call is not None:
            self.known[key] = call

    def _make(
        self, given: tuple[Any, ...], parameters: Mapping[str, Any], backend: str | None
    ) -> tuple[Plan, Arrays]:
        call = self._check(given, parameters, backend)
        *dtypes, device = place(self.signature.name, call.sources, call.target)
        plan = self._plan(call, len(given), tuple(dtypes), device)
        present = {source.name: source.array for source in call.sources}
        arrays = tuple(present.get(argument.name) for argument in self.signature.arguments)
        if call.target is not call.home:
            plan.check_labels(arrays)  # which could not be looked at where they came from
        return plan, arrays

    def preview(
        self, given: tuple[Any, ...], parameters: Mapping[str, Any], backend: str | None
    ) -> tuple[Plan, str]:
        """Check a call; return its plan, and why it runs where it does. Nothing is moved."""
        call = self._check(given, parameters, backend)
        dtype = same_dtype(call.target, precision(call.home, call.target, call.sources))
        dtypes = call.target.floating_dtypes((dtype,))
        return self._plan(call, len(given), dtypes, None), _why(call, backend)

    def _check(
        self, given: tuple[Any, ...], parameters: Mapping[str, Any], backend: str | None
    ) -> "_Call":
        """Check everything about a call that can be checked where the arrays are."""
        signature, op = self.signature, self.signature.name
        values = signature.match(given)
        complete = signature.complete(parameters)
        asked = asked_for(backend, op)
        sources = admit(op, signature.arguments, values)
        home = home_of(op, sources, asked)
        target = asked or home
        if "axis" in complete:
            complete["axis"] = signature.place_axis(complete["axis"], sources[0].shape)
        check_fit(op, sources, complete.get("axis", -1))
        if self.check_shapes is not None:
            self.check_shapes(**{source.name: source.shape for source in sources})
        signature.round_floats(complete, precision(home, target, sources))
        floating = {source.name: source.floating for source in sources}
        return _Call(complete, sources, floating, home, target, asked is not None)

    def _plan(self, call: "_Call", given: int, dtypes: tuple[DType, DType], device: Any) -> Plan:
        present = {source.name: source for source in call.sources}
        every = tuple(
            Input(argument, (), None, differentiable=False)
            if (source := present.get(argument.name)) is None
            else Input(argument, source.shape, source.array.dtype, call.floating[argument.name])
            for argument in self.signature.arguments
        )
        return Plan(
            self.signature.name,
            every,
            given,
            call,
            dtypes,
            device,
            elementwise=self.elementwise,
            rowwise=self.rowwise,
        )


class _Call(NamedTuple):
    """A call that has been checked."""

    parameters: Mapping[str, Any]
    sources: list[Source]
    floating: Mapping[str, bool]
    """Whether each array that is there can be differentiated by, as it came."""
    home: Backend
    target: Backend
    asked: bool


def _why(call: _Call, backend: str | None) -> str:
    """Say why a call runs on its backend, as the rest of a sentence."""
    if backend is not None:
        return f"backend={backend!r} was passed"
    if call.asked:
        return f"use_backend({call.target.name!r}) is in force"
    for source in call.sources:
        if not source.weak and source.backend is call.home:
            return f"{source.name} is an array of {call.home.name}"
    return f"{call.home.name} takes lists and numbers where no array comes with them"


MOST_PLANS = 256


def _key_in_words(given: tuple[Any, ...], own: Hashable, backend: str | None) -> Hashable | None:
    """Return the key of arrays whose device is not told, or has no hash as CuPy's, if any."""
    try:
        described = [
            None if x is None else (type(x), x.dtype, x.shape, str(getattr(x, "device", None)))
            for x in given
        ]
        key = (backend, backend_in_force(), own, *described)
        hash(key)
    except (AttributeError, TypeError):  # a list, a number, or a parameter without a hash
        return None
    return key

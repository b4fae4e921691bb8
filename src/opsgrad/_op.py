"""The op: one body in array-API code, and the rules of its derivatives right under it."""

import abc
import functools
import inspect
import itertools
from collections.abc import Callable, Mapping
from typing import Any, Concatenate, Generic, NamedTuple, ParamSpec, TypeVar, overload

from opsgrad._arrays import same_shape, sum_to_shape, zero_product
from opsgrad._errors import ArgumentError, RuleError
from opsgrad._joint import from_arguments, joint
from opsgrad._plan import Arrays, Input, Plan, Planner, Rule
from opsgrad._signature import Shape, Signature
from opsgrad._typing import Array, Namespace
from opsgrad.backends.protocol import JOINT, Autodiff, Backend, Kernel

P = ParamSpec("P")
Function = TypeVar("Function", bound=Callable[..., Any])
Bound = dict[str, tuple[Rule, tuple[Any, ...]]]
"""By role, a rule and the arrays that it keeps."""


class Linearized(NamedTuple):
    """A function at a point: its value there, and its derivative as two linear maps."""

    value: Array
    pull: Callable[..., tuple[Any, ...]]
    """From a cotangent to a gradient for each array."""
    push: Callable[[tuple[Any, ...]], Array]
    """From a tangent for each array, None for zero, to the tangent of the value."""
    row_axis: Callable[[int], int | None]
    """From an array's number to the axis, counted from the end, that alone the function mixes; None
    where it is not row by row in that array."""
    matrices: Callable[[int], Array] | None
    """From an array's number to the matrices of the derivative, if a rule states them."""
    inputs: tuple[Input, ...]
    """Shape and data type of each array given."""
    backend: Backend
    device: Any

    def by_sum(self, numbers: tuple[int, ...]) -> tuple[Array, tuple[Any, ...]]:
        """Return the value, and the gradients of its sum by the arrays `numbers`."""
        gradients = self.pull(self.backend.namespace.ones_like(self.value))
        return self.value, tuple(gradients[number] for number in numbers)


class Differentiable(abc.ABC):
    """What the transforms take: an op, or a chain of ops."""

    __name__: str
    elementwise: bool = False

    @abc.abstractmethod
    def linearize(
        self,
        arrays: tuple[Any, ...],
        parameters: Mapping[str, Any],
        backend: str | None,
        roles: tuple[str, ...],
        by: tuple[int, ...] = (),
    ) -> Linearized:
        """Run, keeping what the rules for `roles` need; the arrays `by` must have a gradient."""

    def value_and_gradients(
        self,
        arrays: tuple[Any, ...],
        parameters: Mapping[str, Any],
        backend: str | None,
        numbers: tuple[int, ...],
    ) -> tuple[Array, tuple[Any, ...]]:
        """Run; return the value, and the gradients of its sum by the arrays `numbers`."""
        return self.linearize(arrays, parameters, backend, ("vjp",), by=numbers).by_sum(numbers)

    @abc.abstractmethod
    def pushforward(
        self,
        arrays: tuple[Any, ...],
        tangents: tuple[Any, ...],
        parameters: Mapping[str, Any],
        backend: str | None,
    ) -> tuple[Array, Array]:
        """Run, and apply the JVP rule to a tangent for each array; return both results."""

    @property
    @abc.abstractmethod
    def array_names(self) -> tuple[str, ...]:
        """The names of the array arguments."""

    def has_rule(self, role: str) -> bool:
        """Whether there is a rule for `role`: "vjp", "jvp", "derivative" or "jacobian"."""
        return False


def unwrap(
    taker: str, function: Any, parameters: Mapping[str, Any]
) -> tuple[Differentiable, dict[str, Any], str | None]:
    """Return the op under any `functools.partial`, all the parameters it gets, and the backend."""
    collected = dict(parameters)
    while isinstance(function, functools.partial):
        if function.args:
            raise ArgumentError(
                f"{taker}: a functools.partial of an op may fix keywords only, got {function!r}"
            )
        collected = function.keywords | collected
        function = function.func
    if not isinstance(function, Differentiable):
        raise ArgumentError(
            f"{taker}: takes an op, a chain of ops or a functools.partial of one, "
            f"got {function!r} of type {type(function).__name__}"
        )
    backend = collected.pop("backend", None)
    return function, collected, backend


class Op(Differentiable, Generic[P]):
    """A differentiable array function, written once: a body and the rules of its derivatives.

    The `op` decorator makes one of a body. Calling it runs the body on any backend; `vjp`, `jvp`,
    `jacobian` and `value_and_grad` use its rules.
    """

    __name__: str
    __qualname__: str

    def __init__(self, body: Callable[Concatenate[Namespace, P], Any]) -> None:
        functools.update_wrapper(self, body)
        self.signature = Signature(self.__name__, body)
        self.__signature__ = self.signature.public
        self.elementwise = False
        self._names = tuple(argument.name for argument in self.signature.arguments)
        parameters = tuple(self.signature.parameters)
        self._body = Rule("value", body, self.array_names, (), parameters)
        self._rules: dict[str, Rule] = {}
        self._joint_rules: dict[tuple[int, ...], Rule] = {}
        self._whole_rules: dict[str, Rule] = {}
        self._planner = Planner(self.signature)

    @property
    def body(self) -> Callable[Concatenate[Namespace, P], Any]:
        """The function that computes the op on a namespace, for use in other ops' bodies."""
        return self._body.function

    # -- running ---------------------------------------------------------------------------------

    @overload
    def __call__(self, *arrays: P.args, **parameters: P.kwargs) -> Any: ...
    @overload
    def __call__(self, *arrays: Any, backend: str | None, **parameters: Any) -> Any: ...
    def __call__(self, *arrays: Any, **parameters: Any) -> Any:
        backend = parameters.pop("backend", None) if parameters else None
        planner = self._planner
        if planner.known:
            out = planner.direct("value", arrays, parameters, backend)
            if out is not None:
                return out
        plan, placed = planner.plan(arrays, parameters, backend)
        if plan.may_record and plan.backend.records(placed):
            value = plan.backend.recorded(self._autodiff(plan), placed)
        else:
            value = plan.value(self._body, placed, rounded=True)
        return plan.finish(value, plan.result, placed)

    def linearize(
        self,
        arrays: tuple[Any, ...],
        parameters: Mapping[str, Any],
        backend: str | None,
        roles: tuple[str, ...],
        by: tuple[int, ...] = (),
    ) -> Linearized:
        rules = {role: self.rule(role) for role in roles}
        plan, placed = self._planner.plan(arrays, parameters, backend)
        plan.require_floating(by)
        return self._linearized(plan, placed, rules)

    def _linearized(self, plan: Plan, placed: Arrays, rules: Mapping[str, Rule]) -> Linearized:
        value, bound = self._run(plan, placed, rules)
        shape = tuple(value.shape)
        # By place: by name it takes twice as long, and small arrays take no longer than this.
        return Linearized(
            plan.finish(value, plan.result, placed),
            lambda *cotangent: plan.pull(*bound["vjp"], shape, cotangent),
            lambda tangents: plan.push(*bound["jvp"], plan.tangents(tangents, none_is_zero=True)),
            lambda number: self._row_axis(plan, number, shape),
            self._matrices(plan, bound),
            plan.inputs,
            plan.backend,
            plan.device,
        )

    def value_and_gradients(
        self,
        arrays: tuple[Any, ...],
        parameters: Mapping[str, Any],
        backend: str | None,
        numbers: tuple[int, ...],
    ) -> tuple[Array, tuple[Any, ...]]:
        direct = self._planner.direct(numbers, arrays, parameters, backend)
        if direct is not None:
            return direct[0], direct[1:]
        rules = {"vjp": self.rule("vjp")}
        plan, placed = self._planner.plan(arrays, parameters, backend)
        plan.require_floating(numbers)
        out = None
        if not (plan.may_record and plan.backend.records(placed)):
            out = plan.value_and_gradients(self._joint_rule(numbers), placed, numbers)
        return out or self._linearized(plan, placed, rules).by_sum(numbers)

    def _joint_rule(self, numbers: tuple[int, ...]) -> Rule:
        """Return body and VJP rule as one; always the same, for it stands for what is compiled."""
        known = self._joint_rules.get(numbers)
        if known is None:
            made = joint(self._body, self.rule("vjp"), self.signature.arguments, numbers)
            known = self._joint_rules.setdefault(numbers, made)
        return known

    def _row_axis(self, plan: Plan, number: int, shape: Shape) -> int | None:
        """Return the axis that alone is mixed; ops say so by `axis`, elementwise, or Jacobian."""
        if self.elementwise and not same_shape(plan.every[number].shape, shape):
            return None  # broadcasting has enlarged the argument
        return plan.row_axis(number) if plan.rowwise else None

    def pushforward(
        self,
        arrays: tuple[Any, ...],
        tangents: tuple[Any, ...],
        parameters: Mapping[str, Any],
        backend: str | None,
    ) -> tuple[Array, Array]:
        rule = self.rule("jvp")
        plan, placed = self._planner.plan(arrays, parameters, backend)
        taken = plan.tangents(tangents)
        value, bound = self._run(plan, placed, {"jvp": rule})
        return plan.finish(value, plan.result, placed), plan.push(*bound["jvp"], taken)

    def _run(self, plan: Plan, placed: Arrays, rules: Mapping[str, Rule]) -> tuple[Array, Bound]:
        """Run the body; return its value, and the rules as they fit, with what they keep."""
        records = plan.may_record and plan.backend.records(placed)
        if records or plan.lazy:
            rules = {role: self.whole(role) for role in rules}
        keeps = {name for rule in rules.values() for name in rule.keeps}
        # What a rule keeps of the result has all the digits that were computed.
        rounded = "y" not in keeps
        residual: list[Any] = []
        if records:
            value = plan.backend.recorded(self._autodiff(plan), placed)
        elif "kept" in keeps:
            value, *residual = plan.forward(self._body, placed, rounded=rounded)
        else:
            value = plan.value(self._body, placed, rounded=rounded)
        at_hand = *placed, value, *residual
        return value, {
            role: (rule, rule.picked(self.__name__, at_hand)) for role, rule in rules.items()
        }

    def whole(self, role: str) -> Rule:
        """Return a rule that keeps no residual, or for "value" the body without it.

        It is always the same. Libraries' own autodiff keeps arguments and value alone, for a
        residual has no graph. Lazy arrays are computed anew for a gradient: the residual would cost
        another pass there.
        """
        if role == "value":
            return self._body.alone
        rule = self.rule(role)
        if "kept" not in rule.keeps:
            return rule
        known = self._whole_rules.get(role)
        if known is None:
            made = from_arguments(self._body, rule, self.signature.arguments)
            known = self._whole_rules.setdefault(role, made)
        return known

    def _kept(self, plan: Plan, arrays: Arrays, rule: Rule, value: Array | None) -> tuple[Any, ...]:
        """Return what a rule without residual keeps; the body is run if it needs the value."""
        if value is None and "y" in rule.keeps:
            return self._run(plan, arrays, {rule.role: rule})[1][rule.role][1]
        return rule.picked(self.__name__, (*arrays, value))

    def preview(
        self, arrays: tuple[Any, ...], parameters: Mapping[str, Any], backend: str | None
    ) -> tuple[Backend, str, dict[str, str]]:
        """Return where a call would run, why there, and what would run for each role."""
        plan, why = self._planner.preview(arrays, parameters, backend)
        engines = {"value": _words("the body as it is written", plan.kernel(self.whole("value")))}
        for role in ("vjp", "jvp"):
            if role in self._rules:
                kernel = plan.kernel(self._rules[role])
                engines[role] = _words("the rule as it is written", kernel)
        if "vjp" in self._rules:
            kernel = plan.kernel(self._joint_rule((0,)))
            engines[JOINT] = _words("value, then vjp", kernel)
        return plan.backend, why, engines

    def _autodiff(self, plan: Plan) -> Autodiff:
        """Return the call as a library's own autodiff takes it in."""
        given, missing = plan.given, len(plan.every) - plan.given

        def value(*arrays: Array | None) -> Array:
            return plan.finish(plan.value(self._body, arrays), plan.compute, arrays)

        def pull(
            arrays: Arrays, cotangent: Array, value: Array | None = None
        ) -> tuple[Array | None, ...]:
            rule = self.whole("vjp")
            kept = self._kept(plan, arrays, rule, value)
            gradients = plan.pull(rule, kept, tuple(cotangent.shape), (cotangent,))
            return (*gradients, *(None,) * missing)

        def push(arrays: Arrays, tangents: Arrays, value: Array | None = None) -> Array:
            rule = self.whole("jvp")
            kept = self._kept(plan, arrays, rule, value)
            taken = plan.tangents(tangents[:given], none_is_zero=True)
            return plan.push(rule, kept, taken, plan.compute)

        rules = [self.whole(role) for role in ("vjp", "jvp") if role in self._rules]
        keeps = {name for rule in rules for name in rule.keeps}
        return Autodiff(
            op=self.__name__,
            value=value,
            pull=pull if self.has_rule("vjp") else None,
            push=push if self.has_rule("jvp") else None,
            keeps=tuple(name in keeps for name in (*self.array_names, "y")),
            differentiable=tuple(one.differentiable for one in plan.every),
        )

    def _matrices(self, plan: Plan, bound: Bound) -> Callable[[int], Array] | None:
        for role in ("derivative", "jacobian"):
            if role in bound:
                return functools.partial(plan.matrices, role, *bound[role])
        return None

    # -- rules -----------------------------------------------------------------------------------

    def rule(self, role: str) -> Rule:
        """Return the rule for `role`, or raise if the op has none."""
        try:
            return self._rules[role]
        except KeyError:
            how = f"@{self.__name__}.derivative or @{self.__name__}.{role}_rule"
            raise RuleError(f"{self.__name__}: has no {role} rule; add one with {how}") from None

    def has_rule(self, role: str) -> bool:
        return role in self._rules

    @property
    def array_names(self) -> tuple[str, ...]:
        return self._names

    def derivative(self, function: Function) -> Function:
        """Give an elementwise op its derivative: the VJP, JVP and Jacobian follow from it.

        The function takes ``xp``, the op's arrays and those of its parameters that it names, and
        returns the partial derivative with respect to each floating-point array (a tuple where
        there are several). An op with a ``reduction`` has the derivative of its unreduced values.
        """
        names = self.array_names
        if self.signature.required != len(names):
            raise RuleError(
                f"{self.__name__}: an op with optional arrays needs a vjp_rule and a jvp_rule"
            )
        takes = self._check_rule("derivative", function, names, 0)
        vjp, jvp = _elementwise_vjp(function), _elementwise_jvp(function, len(names))
        self._take_rule("vjp", vjp, names, ("cotangent",), takes)
        self._take_rule("jvp", jvp, names, self._tangents, takes)
        self._take_rule("derivative", function, names, (), takes)
        self.elementwise = True
        self._planner.describe(elementwise=True, rowwise=True)
        return function

    @property
    def _tangents(self) -> tuple[str, ...]:
        arguments = self.signature.arguments
        return tuple(f"tangent of {one.name}" for one in arguments if one.differentiable)

    def vjp_rule(self, *, keeps: str | tuple[str, ...]) -> Callable[[Function], Function]:
        """Give the op its vector-Jacobian product.

        Parameters
        ----------
        keeps : str or tuple of str
            What the backward pass keeps in memory: names of arguments, ``"y"`` for the result, or
            ``"kept"`` for the residual: the arrays that the body returns after the result.

        Returns
        -------
        callable
            Decorator of ``rule(xp, *kept, g, /, *, parameters)``, which returns the gradient with
            respect to each floating-point array (a tuple where there are several). In the place of
            ``"kept"`` it takes each array of the residual. It takes only those of the op's
            parameters that it names. For an op with a ``reduction``, `g` holds one value for each
            example.
        """
        return self._register("vjp", keeps, ("cotangent",))

    def jvp_rule(self, *, keeps: str | tuple[str, ...]) -> Callable[[Function], Function]:
        """Give the op its Jacobian-vector product.

        Like `vjp_rule`, for ``rule(xp, *kept, *tangents, /, *, parameters)``, with a tangent for
        each floating-point array, which returns the tangent of the result.
        """
        return self._register("jvp", keeps, self._tangents)

    def jacobian_rule(self, *, keeps: str | tuple[str, ...]) -> Callable[[Function], Function]:
        """Give the op the entries of its Jacobian with respect to its first argument.

        Like `vjp_rule`, for ``rule(xp, *kept, /, *, parameters)``, without ``axis``: the arrays
        have it last. The rule returns the matrices, with output and input as their last two axes.
        """
        if "kept" in (keeps, *keeps):
            raise RuleError(f"{self.__name__}: a jacobian rule cannot keep the residual")
        return self._register("jacobian", keeps, ())

    def check_shapes(self, function: Function) -> Function:
        """Give the op a check of its arrays' shapes, which runs before any work.

        The function takes the shape of each array that is there, under the array's name, and raises
        `ShapeError`.
        """
        self._planner.check_shapes = function
        return function

    def _register(
        self, role: str, keeps: str | tuple[str, ...], directions: tuple[str, ...]
    ) -> Callable[[Function], Function]:
        if not isinstance(keeps, str | tuple | list):
            raise RuleError(
                f"{self.__name__}: what the {role} rule keeps must be names, got {keeps!r}"
            )
        names = (keeps,) if isinstance(keeps, str) else tuple(keeps)
        known = {argument.name for argument in self.signature.arguments} | {"y", "kept"}
        for name in names:
            if name not in known:
                raise RuleError(
                    f"{self.__name__}: the {role} rule keeps {name!r}, which is none of "
                    f"{', '.join(sorted(known))}"
                )

        def register(function: Function) -> Function:
            spelled_out = _spelled_out(function, names, len(directions))
            takes = self._check_rule(role, function, spelled_out, len(directions))
            self._take_rule(role, function, spelled_out, directions, takes)
            self._planner.describe(rowwise=role == "jacobian")
            return function

        return register

    def _take_rule(
        self,
        role: str,
        function: Callable[..., Any],
        keeps: tuple[str, ...],
        directions: tuple[str, ...],
        takes: tuple[str, ...],
    ) -> None:
        if "kept" in keeps:
            self._body = self._body._replace(residual=True)
        residual = itertools.count(len(self._names) + 1)
        places = {name: place for place, name in enumerate((*self._names, "y"))}
        at = tuple(next(residual) if name == "kept" else places[name] for name in keeps)
        self._rules[role] = Rule(role, function, keeps, directions, takes, at)
        self._joint_rules.clear()
        self._whole_rules.clear()

    def _check_rule(
        self, role: str, function: Callable[..., Any], keeps: tuple[str, ...], directions: int
    ) -> tuple[str, ...]:
        """Return the parameters that a rule takes, or raise if its signature does not fit."""
        if not callable(function):
            raise RuleError(
                f"{self.__name__}: the {role} rule must be a function, got {function!r}"
            )
        parameters = list(inspect.signature(function).parameters.values())
        takes = tuple(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)
        arrays = len(parameters) - len(takes)
        expected = 1 + len(keeps) + directions
        if arrays != expected:
            raise RuleError(
                f"{self.__name__}: the {role} rule must take {expected} arguments by position: xp, "
                f"{', '.join(keeps) or 'nothing kept'} and {directions} more; it takes {arrays}"
            )
        for name in takes:
            own = name in self.signature.parameters and name != "reduction"
            if not own or (role == "jacobian" and name == "axis"):
                raise RuleError(
                    f"{self.__name__}: the {role} rule names the parameter {name!r}, which the op "
                    "does not pass to it"
                )
        return takes

    # -- being a well-behaved object -------------------------------------------------------------

    def __repr__(self) -> str:
        return f"<op {self.__name__}{self.signature}>"

    def __reduce__(self) -> str:
        return self.__qualname__


def op(body: Callable[Concatenate[Namespace, P], Any]) -> Op[P]:
    """Make a differentiable op of a body written against the array API standard.

    Parameters
    ----------
    body : callable
        ``body(xp, *arrays, /, *, parameters)``: `xp` is the namespace that runs it (NumPy, PyTorch,
        JAX, …). Arrays are positional-only and parameters keyword-only. It returns the result, or a
        tuple of the result and a residual, one array or more for the rules to keep. Three
        parameters mean the same in every op: ``axis`` (checked against the first array),
        ``keepdims`` and ``reduction``. An op that mixes one axis alone says so by having ``axis``
        or a Jacobian rule (for the last axis): then its Jacobian has batch axes.

    Returns
    -------
    Op
        The op: a callable with the body's signature, without ``xp`` and with ``backend=None``.
        Rules are added to it with its decorators ``derivative`` (elementwise ops), ``vjp_rule``,
        ``jvp_rule`` and ``jacobian_rule``.

    Raises
    ------
    RuleError
        A TypeError, if the body's signature is not of that form.

    Examples
    --------
    >>> import numpy as np
    >>> import opsgrad as og
    >>> @og.op
    ... def swish(xp, x, /, *, beta: float = 1.0):
    ...     return x / (1.0 + xp.exp(-beta * x))
    >>> @swish.derivative
    ... def _(xp, x, /, *, beta):
    ...     s = 1.0 / (1.0 + xp.exp(-beta * x))
    ...     return s + beta * x * s * (1.0 - s)
    >>> y, pull = og.vjp(swish, np.array([0.0, 1.0]))
    >>> pull(np.ones(2))[0].round(4)
    array([0.5   , 0.9277])
    >>> swish
    <op swish(x, /, *, beta=1.0, backend=None)>
    """
    if not inspect.isfunction(body):
        raise ArgumentError(f"op: takes a function written in Python, got {body!r}")
    return Op(body)


def _words(without: str, kernel: Kernel | str) -> str:
    """Say what runs: a kernel, or what there is `without` one, and why."""
    if isinstance(kernel, str):
        return f"{without}, because {kernel}"
    return kernel.words() if callable(kernel.words) else kernel.words


def _spelled_out(
    function: Callable[..., Any], keeps: tuple[str, ...], directions: int
) -> tuple[str, ...]:
    """Return what a rule keeps, with "kept" once for each array of the residual that it takes."""
    if "kept" not in keeps or not callable(function):
        return keeps
    parameters = inspect.signature(function).parameters.values()
    by_position = sum(parameter.kind is not parameter.KEYWORD_ONLY for parameter in parameters)
    residual = ("kept",) * max(1, by_position - len(keeps) - directions)
    place = keeps.index("kept")
    return keeps[:place] + residual + keeps[place + 1 :]


def _elementwise_vjp(derivative: Callable[..., Any]) -> Callable[..., Any]:
    def rule(xp: Namespace, /, *arrays_and_g: Array, **parameters: Any) -> tuple[Array, ...]:
        *arrays, g = arrays_and_g
        partials = _partials(derivative(xp, *arrays, **parameters))
        times = _multiply if len(arrays) == 1 else zero_product
        return tuple(
            sum_to_shape(xp, times(xp, g, partial), tuple(array.shape))
            for array, partial in zip(arrays, partials, strict=True)
        )

    rule.__module__ = derivative.__module__  # where other processes look for the op
    return rule


def _elementwise_jvp(derivative: Callable[..., Any], count: int) -> Callable[..., Any]:
    def rule(xp: Namespace, /, *arrays_and_tangents: Array, **parameters: Any) -> Array:
        arrays, tangents = arrays_and_tangents[:count], arrays_and_tangents[count:]
        partials = _partials(derivative(xp, *arrays, **parameters))
        # With several arrays, the zero tangent of one must contribute nothing even where its
        # derivative is infinite: prelu at x = -inf, by alpha.
        times = _multiply if count == 1 else zero_product
        first, *rest = (times(xp, t, p) for t, p in zip(tangents, partials, strict=True))
        return sum(rest, start=first)

    rule.__module__ = derivative.__module__
    return rule


def _multiply(xp: Namespace, factor: Array, slope: Array) -> Array:
    return factor * slope


def _partials(out: Any) -> tuple[Array, ...]:
    return out if isinstance(out, tuple) else (out,)

"""An op's body and a rule as one function, which a backend may compute in one pass."""

from collections.abc import Mapping, Sequence
from typing import Any

from opsgrad._arrays import reduced
from opsgrad._plan import Rule
from opsgrad._signature import Argument
from opsgrad._typing import Array, Namespace
from opsgrad.backends.protocol import JOINT, SEED


def joint(body: Rule, rule: Rule, arguments: Sequence[Argument], numbers: tuple[int, ...]) -> Rule:
    """Return the rule for an op's value and its gradients by the arrays `numbers`.

    Its function takes one number before the arrays, the cotangent of each value. Where it is
    traced, what body and VJP rule both compute is computed once, and what only gradients by other
    arrays need, not at all.
    """
    names = tuple(one.name for one in arguments)
    differentiable = tuple(one.name for one in arguments if one.differentiable)
    wanted = tuple(names[number] for number in numbers)

    def function(xp: Namespace, seed: Array, /, *arrays: Array, **parameters: Any) -> Any:
        value, kept = _forward(xp, body, rule, arrays, parameters)
        cotangent = xp.broadcast_to(seed, value.shape)
        taken = {name: parameters[name] for name in rule.takes}
        given = rule.function(xp, *kept, cotangent, **taken)
        every = given if isinstance(given, tuple) else (given,)
        gradients = dict(zip(differentiable, every, strict=True))
        reduction = parameters.get("reduction", "none")
        return reduced(xp, value, reduction), *(gradients[name] for name in wanted)

    return Rule(JOINT, function, (SEED, *names), (), body.takes)


def from_arguments(body: Rule, rule: Rule, arguments: Sequence[Argument]) -> Rule:
    """Return a rule that keeps the arguments alone, and finds by the body what else it needs."""
    names = tuple(one.name for one in arguments)
    takes = tuple(dict.fromkeys((*(set(body.takes) - {"reduction"}), *rule.takes)))

    def function(xp: Namespace, /, *given: Array, **parameters: Any) -> Any:
        arrays, directions = given[: len(names)], given[len(names) :]
        _, kept = _forward(xp, body, rule, arrays, parameters)
        taken = {name: parameters[name] for name in rule.takes}
        return rule.function(xp, *kept, *directions, **taken)

    function.__module__ = body.function.__module__  # where other processes look for the op
    return Rule(rule.role, function, names, rule.directions, takes, tuple(range(len(names))))


def _forward(
    xp: Namespace,
    body: Rule,
    rule: Rule,
    arrays: Sequence[Array],
    parameters: Mapping[str, Any],
) -> tuple[Array, tuple[Array, ...]]:
    """Run the body; return its value before it is reduced, and the arrays that the rule keeps."""
    single = {name: parameters[name] for name in body.takes if name != "reduction"}
    if "reduction" in body.takes:
        single["reduction"] = "none"
    out = body.function(xp, *arrays, **single)
    value, *residual = out if isinstance(out, tuple) else (out,)
    return value, rule.picked(body.function.__name__, (*arrays, value, *residual))

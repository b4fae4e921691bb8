"""An op's value and its gradients as one function, which a backend may compute in one pass."""

from collections.abc import Sequence
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
        reduction = parameters.get("reduction", "none")
        single = {name: parameters[name] for name in body.takes if name != "reduction"}
        if "reduction" in body.takes:
            single["reduction"] = "none"
        out = body.function(xp, *arrays, **single)
        value, residual = out if isinstance(out, tuple) else (out, None)
        at_hand = dict(zip(names, arrays, strict=True)) | {"y": value, "kept": residual}
        kept = [at_hand[name] for name in rule.keeps]
        cotangent = xp.broadcast_to(seed, value.shape)
        taken = {name: parameters[name] for name in rule.takes}
        given = rule.function(xp, *kept, cotangent, **taken)
        every = given if isinstance(given, tuple) else (given,)
        gradients = dict(zip(differentiable, every, strict=True))
        return reduced(xp, value, reduction), *(gradients[name] for name in wanted)

    return Rule(JOINT, function, (SEED, *names), (), body.takes)

"""The suite can fail: a wrong sign planted in any body or rule of any op is caught."""

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from engine import fresh_engine
from libraries import library_named

from opsgrad._op import Op
from opsgrad.conformance import TABLE, Row
from opsgrad.conformance.checks import (
    check_adjoint,
    check_against_oracle,
    check_value_and_grad,
    sample,
)


def copy_of(op: Any) -> Op[Any]:
    duplicate: Op[Any] = Op(op.body)
    duplicate._body, duplicate._rules = op._body, dict(op._rules)
    duplicate._planner = copy.copy(op._planner)
    duplicate._planner.describe()  # plans of its own
    duplicate.elementwise = op.elementwise
    return duplicate


def wrong(function: Callable[..., Any], number: int) -> Callable[..., Any]:
    """Return `function` with the sign of one of its results turned; a zero becomes one."""

    def mutated(*arguments: Any, **keywords: Any) -> Any:
        results = function(*arguments, **keywords)
        outs = list(results) if isinstance(results, tuple) else [results]
        xp, out = arguments[0], outs[number]
        outs[number] = xp.where(out == 0, xp.ones_like(out), -out)
        return tuple(outs) if isinstance(results, tuple) else outs[0]

    return mutated


def mistakes(row: Row) -> list[tuple[str, int]]:
    """Return what can be wrong: the value, each gradient, the tangent."""
    floating = sum(row.differentiable)
    return [("value", 0), *(("vjp", k) for k in range(floating)), ("jvp", 0)]


CASES = [
    pytest.param(row, role, number, id=f"{row.name}-{role}-{number}")
    for row in TABLE.values()
    for role, number in mistakes(row)
]


@pytest.mark.parametrize(("row", "role", "number"), CASES)
def test_wrong_sign_is_caught(row: Row, role: str, number: int, rng: np.random.Generator) -> None:
    op = copy_of(row.op)
    if role == "value":
        op._body = op._body._replace(function=wrong(op.body, 0))
    else:
        rule = op.rule(role)
        op._rules[role] = rule._replace(function=wrong(rule.function, number))
    arrays = sample(row, rng, (3, 5))
    check_against_oracle(row, library_named("numpy"), arrays, rng, **row.variants[0])
    with pytest.raises(AssertionError, match=rf"{row.name} {role} .* ULP, allowed"):
        check_against_oracle(row, library_named("numpy"), arrays, rng, op=op, **row.variants[0])


@pytest.mark.parametrize("compile_from", [1, math.inf])
@pytest.mark.parametrize(
    ("row", "role", "number"), [case for case in CASES if case.values[1] != "jvp"]
)
def test_wrong_sign_of_value_and_gradient_together_is_caught(
    row: Row,
    role: str,
    number: int,
    compile_from: float,
    rng: np.random.Generator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fresh_engine(monkeypatch, compile_from)
    op = copy_of(row.op)
    if role == "value":
        op._body = op._body._replace(function=wrong(op.body, 0))
    else:
        rule = op.rule(role)
        op._rules[role] = rule._replace(function=wrong(rule.function, number))
    arrays = sample(row, rng, (3, 5))
    with pytest.raises(AssertionError, match=rf"{row.name} {role} .* ULP, allowed"):
        check_value_and_grad(row, library_named("numpy"), arrays, op=op, **row.variants[0])


@pytest.mark.parametrize("role", ["vjp", "jvp"])
def test_wrong_rule_breaks_the_adjoint_identity(
    row: Row, role: str, rng: np.random.Generator
) -> None:
    op = copy_of(row.op)
    rule = op.rule(role)
    op._rules[role] = rule._replace(function=wrong(rule.function, 0))
    arrays = sample(row, rng, (3, 5))
    check_adjoint(row.op, library_named("numpy"), arrays, rng, **row.variants[0])
    with pytest.raises(AssertionError):
        check_adjoint(op, library_named("numpy"), arrays, rng, **row.variants[0])

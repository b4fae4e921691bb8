"""Transforms refuse what is no op, no tuple and no argument number, and directions elsewhere."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from libraries import library_parameters
from refusal import (
    TooEarlyError,
    all_refused,
    complaint,
    good,
    nothing_runs,
    refused,
    replaced,
)

import opsgrad as og
from opsgrad.conformance import TABLE
from opsgrad.conformance.target import Target

TRANSFORMS: dict[str, Callable[[Any], Any]] = {
    "vjp": lambda op: og.vjp(op, np.ones(3)),
    "jvp": lambda op: og.jvp(op, (np.ones(3),), (np.ones(3),)),
    "jacobian": lambda op: og.jacobian(op, np.ones(3)),
    "value_and_grad": og.value_and_grad,
    "chain": og.chain,
}


@functools.cache
def at(name: str) -> tuple[Any, Any, Any]:
    """Return an op's value, its pullback and its Jacobian at a good point."""
    arrays, op = good(name), TABLE[name].op
    return (*og.vjp(op, *arrays), og.jacobian(op, *arrays))


def good_tangents(name: str) -> tuple[Any, ...]:
    """Return tangents that the op takes at the good point."""
    floating = TABLE[name].differentiable
    return tuple(a if f else None for a, f in zip(good(name), floating, strict=True))


@pytest.mark.parametrize("other", library_parameters("torch", "array_api_strict"))
@pytest.mark.parametrize("name", TABLE)
def test_cotangents_and_tangents_of_another_library_are_refused(name: str, other: Target) -> None:
    op, arrays = TABLE[name].op, good(name)
    y, pull, jacobian = at(name)
    g, t = other.put(y), other.put(arrays[0])
    tangents = replaced(good_tangents(name), 0, t)
    first = TABLE[name].arguments[0]
    with nothing_runs(op):
        wrong = {
            "pull": complaint(lambda: pull(g), TypeError, name, "cotangent", other.name),
            "J.T @": complaint(lambda: jacobian.T @ g, TypeError, name, "cotangent", other.name),
            "J @": complaint(lambda: jacobian @ t, TypeError, name, first, other.name),
            "jvp": complaint(
                lambda: og.jvp(op, arrays, tangents), TypeError, name, "tangent", first
            ),
        }
    all_refused(wrong)


NO_TUPLES: dict[str, Callable[[np.ndarray], Any]] = {
    "array": lambda a: a,
    "None": lambda a: None,
    "number": lambda a: 1.0,
    "string": lambda a: "x",
    "dict": lambda a: {"x": a},
    "set": lambda a: {1.0},
    "generator": lambda a: iter((a,)),
}


@pytest.mark.parametrize("word", ["primals", "tangents"])
@pytest.mark.parametrize("name", TABLE)
def test_primals_and_tangents_that_are_no_tuples_are_refused(name: str, word: str) -> None:
    op, arrays = TABLE[name].op, good(name)
    wrong = {}
    with nothing_runs(op):
        for kind, make in NO_TUPLES.items():
            bad = make(arrays[0])
            both = (bad, arrays) if word == "primals" else (arrays, bad)
            words = ("jvp", name, word, type(bad).__name__)
            wrong[kind] = complaint(lambda both=both: og.jvp(op, *both), TypeError, *words)
    all_refused(wrong)


# Argument numbers

NO_NUMBERS: dict[str, Any] = {
    "string": "0",
    "name": "x",
    "float": 0.0,
    "None": None,
    "bool": True,
    "NumPy bool": np.False_,
    "complex": 0j,
    "array": np.zeros(1, np.int64),
    "object": object(),
}


def numbers(name: str) -> Iterator[tuple[Any, Any]]:
    """Yield argument numbers that the op does not have, and the error that each is."""
    count = len(TABLE[name].arguments)
    # A number that names no argument is wrong in its type or in its value: both are caught.
    for number in (count, count + 1, -1, -count, 10**9):
        yield number, (TypeError, ValueError, IndexError)
    for number in NO_NUMBERS.values():
        yield number, TypeError


@pytest.mark.parametrize("name", TABLE)
def test_bad_argnum_of_jacobian_is_refused(name: str) -> None:
    op, arrays = TABLE[name].op, good(name)
    bad = [*numbers(name), ((0,), TypeError), ([0], TypeError)]
    with nothing_runs(op):
        wrong = {
            repr(n): complaint(
                lambda n=n: og.jacobian(op, *arrays, argnum=n), error, "jacobian", name, "argnum"
            )
            for n, error in bad
        }
    all_refused(wrong)


@pytest.mark.parametrize("name", TABLE)
def test_bad_argnums_of_value_and_grad_are_refused(name: str) -> None:
    op, arrays = TABLE[name].op, good(name)
    bad = [*numbers(name), ([0], TypeError), ({0}, TypeError), (((0,),), TypeError)]
    bad += [((n, 0), error) for n, error in numbers(name)]
    with nothing_runs(op):
        wrong = {
            repr(n): complaint(
                lambda n=n: og.value_and_grad(op, n)(*arrays),
                error,
                "value_and_grad",
                name,
                "argnums",
            )
            for n, error in bad
        }
    all_refused(wrong)


def test_argnums_beyond_the_arrays_given_are_refused() -> None:
    x, w, _ = good("dense")
    wanted = (TypeError, ValueError, IndexError)
    bad = og.value_and_grad(og.dense, 2)
    refused(lambda: bad(x, w), wanted, "value_and_grad", "dense", "argnums", "2", op=og.dense)
    refused(lambda: og.jacobian(og.dense, x, w, argnum=2), wanted, "dense", "argnum", op=og.dense)


def undifferentiable() -> Iterator[tuple[str, tuple[Any, ...], int]]:
    """Yield ops, arrays, and the number of one without a gradient."""
    for name, row in TABLE.items():
        arrays = good(name)
        yield name, (arrays[0].astype(np.int64), *arrays[1:]), 0
        if "labels" in row.arguments:
            yield name, arrays, row.arguments.index("labels")
    x, w, _ = good("dense")
    yield "dense", (x, w, None), 2
    yield "dense", (x, w.astype(np.int32)), 1


@pytest.mark.parametrize(
    ("name", "arrays", "number"),
    [
        pytest.param(*one, id=f"{one[0]}-{TABLE[one[0]].arguments[one[2]]}")
        for one in undifferentiable()
    ],
)
def test_argument_numbers_of_what_has_no_gradient_are_refused(
    name: str, arrays: tuple[Any, ...], number: int
) -> None:
    op, word = TABLE[name].op, TABLE[name].arguments[number]
    calls = {
        "jacobian": lambda: og.jacobian(op, *arrays, argnum=number),
        "value_and_grad": lambda: og.value_and_grad(op, number)(*arrays),
        "value_and_grad of two": lambda: og.value_and_grad(op, (number, number))(*arrays),
    }
    with nothing_runs(op):
        wrong = {way: complaint(call, TypeError, name, word) for way, call in calls.items()}
    all_refused(wrong)


# What is no op

NO_OPS: dict[str, Any] = {
    "NumPy function": np.tanh,
    "lambda": lambda x: x,
    "builtin": abs,
    "string": "softmax",
    "None": None,
    "number": 3,
    "class": og.OpsgradError,
    "module": og,
    "array": np.ones(3),
    "transform": og.vjp,
    "method of an op": og.softmax.__call__,
    "body of an op": og.softmax.body,
    "list of ops": [og.softmax],
    "tuple of ops": (og.softmax, og.softmax),
    "partial of a function": functools.partial(np.sum, axis=0),
    "partial of a partial of a function": functools.partial(functools.partial(np.sum), axis=0),
    "value_and_grad of an op": og.value_and_grad(og.softmax),
}


@pytest.mark.parametrize("kind", NO_OPS)
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_what_is_no_op_is_refused_by_every_transform(transform: str, kind: str) -> None:
    bad = NO_OPS[kind]
    refused(lambda: TRANSFORMS[transform](bad), TypeError, transform)


@pytest.mark.parametrize("name", TABLE)
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_a_partial_with_arrays_is_refused_by_every_transform(transform: str, name: str) -> None:
    op = TABLE[name].op
    for bad in (
        functools.partial(op, np.ones(3)),
        functools.partial(functools.partial(op, np.ones(3)), axis=0),
        functools.partial(functools.partial(op, axis=0), np.ones(3)),
    ):
        call = lambda bad=bad: TRANSFORMS[transform](bad)  # noqa: E731
        refused(call, TypeError, transform, "functools.partial", "keywords", op=op)


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_a_partial_with_an_unknown_keyword_is_refused(transform: str) -> None:
    bad = functools.partial(og.softmax, axes=0)

    def call() -> Any:
        made = TRANSFORMS[transform](bad)
        return made(np.ones(3)) if callable(made) else made

    refused(call, TypeError, "softmax", "axes", op=og.softmax)


@pytest.mark.parametrize("word", ["op", "x", "primals", "tangents", "argnum", "argnums", "others"])
def test_the_transforms_own_names_are_no_parameters_of_ops(word: str) -> None:
    x = np.ones(3)
    calls = {
        "vjp": lambda: og.vjp(og.softmax, x, **{word: 0}),
        "value_and_grad": lambda: og.value_and_grad(og.softmax)(x, **{word: 0}),
        "chain": lambda: og.chain(og.softmax)(x, **{word: 0}),
    }
    if word not in ("primals", "tangents"):
        calls["jvp"] = lambda: og.jvp(og.softmax, (x,), (x,), **{word: 0})
    if word != "argnum":
        calls["jacobian"] = lambda: og.jacobian(og.softmax, x, **{word: 0})
    with nothing_runs(og.softmax):
        wrong = {way: complaint(call, TypeError, "softmax", word) for way, call in calls.items()}
    all_refused(wrong)


# Jacobians are operators, not arrays


@pytest.mark.parametrize("operator", ["J", "J.T"])
def test_a_jacobian_from_the_right_is_refused(operator: str) -> None:
    jacobian = og.jacobian(og.softmax, np.ones(3))
    right = jacobian if operator == "J" else jacobian.T
    refused(lambda: np.ones(3) @ right, TypeError, "softmax", "Jacobian")
    refused(lambda: [1.0, 1.0, 1.0] @ right, TypeError, "softmax", "Jacobian")


def test_work_before_a_check_is_noticed() -> None:
    with nothing_runs(og.softmax), pytest.raises(TooEarlyError):
        og.softmax(np.ones(3))

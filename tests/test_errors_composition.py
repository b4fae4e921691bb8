"""Chains refuse what is no op and parameters that do not fit; `op` and its rules refuse misuse."""

import functools
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import pytest
from refusal import Builtin, all_refused, complaint, nothing_runs, refused

import opsgrad as og

X = np.full((5, 4), 0.5)
W1, B1 = np.full((4, 3), 0.5), np.full(3, 0.5)
W2, B2 = np.full((3, 2), 0.5), np.full(2, 0.5)
PARAMS = ((W1, B1), (), (W2, B2))
G = np.full((5, 2), 0.5)
NET = og.chain(og.dense, og.sigmoid, og.dense)
NAME = NET.__name__

Reduction = Literal["none", "mean", "sum"]


def net_routes(x: Any, params: Any, /, **keywords: Any) -> dict[str, Callable[[], Any]]:
    """Return the ways to run the network."""
    ways = {
        "call": lambda: NET(x, params, **keywords),
        "vjp": lambda: og.vjp(NET, x, params, **keywords),
        "jvp": lambda: og.jvp(NET, (x, params), (x, params), **keywords),
        "value_and_grad": lambda: og.value_and_grad(NET)(x, params, **keywords),
        "jacobian": lambda: og.jacobian(NET, x, params, **keywords),
    }
    if not (
        isinstance(params, tuple) and len(params) == 0
    ):  # which an inner chain takes for none given
        ways["chain of chains"] = lambda: og.chain(NET, og.relu)(x, (params, ()), **keywords)
    return ways


def refused_by_the_net(
    x: Any, params: Any, builtin: Builtin, /, *words: str, **keywords: Any
) -> None:
    with nothing_runs():
        all_refused(
            {
                way: complaint(call, builtin, *words)
                for way, call in net_routes(x, params, **keywords).items()
            }
        )


# Chains


def test_a_chain_of_nothing_is_refused() -> None:
    refused(og.chain, TypeError, "chain")


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize(
    "bad",
    [3, np.tanh, "softmax", None, og.chain, [og.relu], (og.relu, og.relu), og.vjp],
    ids=["number", "function", "string", "None", "chain itself", "list", "tuple", "transform"],
)
def test_a_stage_that_is_no_op_is_refused(bad: Any, place: int) -> None:
    stages = [og.relu, og.softmax]
    stages.insert(place, bad)
    refused(lambda: og.chain(*stages), TypeError, "chain", repr(bad), op=og.relu)


@pytest.mark.parametrize(
    "params",
    [PARAMS[:2], (*PARAMS, ()), (), (W1, B1), ((W1, B1),), list(PARAMS[1:]), ((PARAMS,),)],
    ids=["too few", "too many", "none", "of one stage", "one", "list", "nested too deep"],
)
def test_params_of_a_wrong_count_are_refused(params: Any) -> None:
    refused_by_the_net(X, params, (TypeError, ValueError), NAME, "params", "3", str(len(params)))


@pytest.mark.parametrize(
    "params",
    [W1, 3, "abc", {0: (W1, B1), 1: (), 2: (W2, B2)}, iter(PARAMS), object()],
    ids=["array", "number", "string", "dict", "iterator", "object"],
)
def test_params_that_are_no_tuple_are_refused(params: Any) -> None:
    refused_by_the_net(X, params, TypeError, NAME, "params", "tuple")


@pytest.mark.parametrize(
    ("params", "stage"),
    [
        ((W1, (), (W2, B2)), "dense"),
        (((W1, B1), None, (W2, B2)), "sigmoid"),
        (((W1, B1), (), W2), "dense"),
        (((W1, B1), 0.5, (W2, B2)), "sigmoid"),
        (((W1, B1), (), "w"), "dense"),
        (((W1, B1), {}, (W2, B2)), "sigmoid"),
    ],
    ids=["first bare", "second None", "third bare", "second a number", "third a string", "dict"],
)
def test_params_of_a_stage_that_are_no_tuple_are_refused(params: Any, stage: str) -> None:
    refused_by_the_net(X, params, TypeError, NAME, "params", stage, "tuple")


@pytest.mark.parametrize("arrays", [(X,), (X, None)], ids=["left out", "None"])
def test_params_that_are_missing_are_refused(arrays: tuple[Any, ...]) -> None:
    tangents = arrays
    calls: dict[str, Callable[[], Any]] = {
        "call": lambda: NET(*arrays),
        "vjp": lambda: og.vjp(NET, *arrays),
        "jvp": lambda: og.jvp(NET, arrays, tangents),
        "value_and_grad": lambda: og.value_and_grad(NET)(*arrays),
        "jacobian": lambda: og.jacobian(NET, *arrays),
    }
    with nothing_runs():
        all_refused({way: complaint(call, TypeError, "dense") for way, call in calls.items()})


@pytest.mark.parametrize("count", [0, 3])
def test_a_wrong_number_of_arguments_of_a_chain_is_refused(count: int) -> None:
    arrays = (X, PARAMS, X)[:count]
    calls: dict[str, Callable[[], Any]] = {
        "call": lambda: NET(*arrays),
        "vjp": lambda: og.vjp(NET, *arrays),
        "jvp": lambda: og.jvp(NET, arrays, arrays),
        "value_and_grad": lambda: og.value_and_grad(NET)(*arrays),
    }
    with nothing_runs():
        all_refused(
            {way: complaint(call, TypeError, NAME, "params") for way, call in calls.items()}
        )


@pytest.mark.parametrize("keyword", ["axis", "params", "frobnicate", "Backend", "reduction"])
def test_an_unknown_keyword_of_a_chain_is_refused(keyword: str) -> None:
    refused_by_the_net(X, PARAMS, TypeError, "chain", keyword, **{keyword: 0})


def test_a_bad_array_in_a_stage_is_refused_with_the_stages_name() -> None:
    refused_by_the_net("abc", PARAMS, TypeError, "dense", "x")
    refused_by_the_net(X > 0, PARAMS, TypeError, "dense", "x", "bool")
    refused_by_the_net(X, ((W1.T, B1), (), (W2, B2)), ValueError, "dense", "w", "(out, in)")
    refused_by_the_net(X, ((W1, B1 > 0), (), (W2, B2)), TypeError, "dense", "b", "bool")
    refused_by_the_net(X, ((), (), (W2, B2)), TypeError, "dense", "w")


@pytest.mark.parametrize(
    ("params", "builtin", "words"),
    [
        (((W1, B1), (), ()), TypeError, ("dense", "w")),
        (((W1, B1), (X,), (W2, B2)), TypeError, ("sigmoid", "x")),
        (((W1, B1), (), (W2.T, B2)), ValueError, ("dense", "w", "(out, in)")),
        (((W1, B1), (), (W2, B1)), ValueError, ("dense", "b")),
        (((W1, B1), (), ("abc", B2)), TypeError, ("dense", "w")),
    ],
    ids=["missing", "too many", "laid out (out, in)", "b too long", "string"],
)
def test_a_bad_array_in_a_later_stage_is_refused(
    params: Any, builtin: Builtin, words: tuple[str, ...]
) -> None:
    # The earlier stages run: only they know the shape that this one gets.
    calls = net_routes(X, params)
    all_refused({way: complaint(call, builtin, *words) for way, call in calls.items()})


def test_a_stages_parameter_is_checked_when_the_chain_runs() -> None:
    for bad, builtin, word in (
        ({"axis": 5}, IndexError, "axis"),
        ({"axes": 0}, TypeError, "axes"),
        ({"axis": "last"}, TypeError, "axis"),
    ):
        net = og.chain(functools.partial(og.softmax, **bad))
        refused(lambda net=net: net(X), builtin, "softmax", word, op=og.softmax)


@pytest.mark.parametrize(
    ("tangents", "words"),
    [
        ((X,), (NAME, "tangent")),
        ((X, PARAMS, X), (NAME, "tangent")),
        ((), (NAME, "tangent")),
        ((X, PARAMS[:2]), (NAME, "tangents", "params")),
        ((X, None), (NAME, "tangents", "params")),
        ((X, W1), (NAME, "tangents", "params")),
        ((X, ((W1, B1), None, (W2, B2))), (NAME, "tangents", "params")),
        ((None, PARAMS), ("dense", "tangent", "x")),
        ((X, ((W1,), (), (W2, B2))), ("dense", "tangent")),
        ((X, ((W1, None), (), (W2, B2))), ("dense", "tangent", "b")),
        ((X[0], PARAMS), ("dense", "tangent", "x", "(5, 4)")),
        ((X, ((W1.T, B1), (), (W2, B2))), ("dense", "tangent", "w", "(4, 3)")),
        ((X > 0, PARAMS), ("dense", "tangent", "x", "bool")),
    ],
)
def test_bad_tangents_of_a_chain_are_refused(
    tangents: tuple[Any, ...], words: tuple[str, ...]
) -> None:
    call = lambda: og.jvp(NET, (X, PARAMS), tangents)  # noqa: E731
    refused(call, (TypeError, ValueError), *words)


@pytest.mark.parametrize(
    ("bad", "builtin"),
    [
        (G[0], ValueError),
        (G[:1], ValueError),
        (0.5, ValueError),
        (G.T, ValueError),
        (None, TypeError),
        ("abc", TypeError),
        (G > 0, TypeError),
        (G.astype(int), TypeError),
        (G + 0j, TypeError),
    ],
    ids=[
        "row",
        "one row",
        "number",
        "transposed",
        "None",
        "string",
        "bools",
        "integers",
        "complex",
    ],
)
def test_bad_cotangents_of_a_chain_are_refused(bad: Any, builtin: Builtin) -> None:
    _, pull = og.vjp(NET, X, PARAMS)
    jacobian = og.jacobian(NET, X, PARAMS)
    refused(lambda: pull(bad), builtin, "dense", "cotangent")
    refused(lambda: jacobian.T @ bad, builtin, "dense", "cotangent")


def test_bad_tangents_for_the_jacobian_of_a_chain_are_refused() -> None:
    jacobian = og.jacobian(NET, X, PARAMS)
    refused(lambda: jacobian @ X[0], ValueError, "dense", "tangent", "x")
    refused(lambda: jacobian @ (X > 0), TypeError, "dense", "tangent", "x")
    refused(lambda: jacobian @ None, TypeError, "dense", "tangent", "x")


@pytest.mark.parametrize("number", [2, -1, "0", None, True, 1.0])
def test_bad_argument_numbers_of_a_chain_are_refused(number: Any) -> None:
    wanted = (TypeError, ValueError, IndexError)
    jacobian = lambda: og.jacobian(NET, X, PARAMS, argnum=number)  # noqa: E731
    value_and_grad = lambda: og.value_and_grad(NET, number)(X, PARAMS)  # noqa: E731
    refused(jacobian, wanted, "jacobian", NAME, "argnum")
    refused(value_and_grad, wanted, "value_and_grad", NAME, "argnums")


def test_the_jacobian_by_the_params_of_a_chain_is_refused() -> None:
    call = lambda: og.jacobian(NET, X, PARAMS, argnum=1)  # noqa: E731
    refused(call, TypeError, "jacobian", NAME, "argnum", "vjp")


# The op decorator


def _keyword_or_positional(xp, x, *, axis=-1):
    return x


def _parameter_by_position(xp, x, /, axis=-1):
    return x


def _any_arrays(xp, /, *arrays):
    return arrays[0]


def _any_keywords(xp, x, /, **keywords):
    return x


def _no_arrays(xp, /, *, axis=-1):
    return axis


def _nothing():
    return None


def _result(xp, y, /):
    return y


def _residual(xp, x, kept, /):
    return x


def _own_backend(xp, x, /, *, backend=None):
    return x


def _array_called_backend(xp, backend, /):
    return backend


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (_keyword_or_positional, ("positional-only", "keyword-only")),
        (_parameter_by_position, ("positional-only", "keyword-only")),
        (_any_arrays, ("positional-only", "keyword-only")),
        (_any_keywords, ("positional-only", "keyword-only")),
        (_no_arrays, ("array",)),
        (_nothing, ("array",)),
        (_result, ("y",)),
        (_residual, ("kept",)),
        (_own_backend, ("backend",)),
        (_array_called_backend, ("backend",)),
    ],
)
def test_a_body_of_another_form_is_refused(
    body: Callable[..., Any], words: tuple[str, ...]
) -> None:
    refused(lambda: og.op(body), TypeError, body.__name__, *words)


@pytest.mark.parametrize(
    "bad",
    [3, None, "softmax", np.ones(3), np.exp, max, functools.partial(_no_arrays), object()],
    ids=["number", "None", "string", "array", "ufunc", "builtin", "partial", "object"],
)
def test_what_can_be_no_body_is_refused(bad: Any) -> None:
    refused(lambda: og.op(bad), TypeError, "op")


def scaled() -> Any:
    """Return a new op without rules."""

    @og.op
    def scaled(xp, x, /, *, factor: float = 2.0, reduction: Reduction = "none"):
        return x * factor

    return scaled


def paired() -> Any:
    """Return a new op of two arrays without rules."""

    @og.op
    def paired(xp, x, weights, /, *, axis: int = -1):
        return x * weights

    return paired


RULES: dict[str, tuple[Callable[[], Any], Callable[[Any], Any], tuple[str, ...]]] = {
    "vjp keeps an unknown name": (scaled, lambda op: op.vjp_rule(keeps="z"), ("vjp", "z", "x")),
    "jvp keeps an unknown name": (scaled, lambda op: op.jvp_rule(keeps="z"), ("jvp", "z", "x")),
    "jacobian keeps an unknown name": (
        scaled,
        lambda op: op.jacobian_rule(keeps="z"),
        ("jacobian", "z", "x"),
    ),
    "keeps one unknown name": (scaled, lambda op: op.vjp_rule(keeps=("x", "q")), ("vjp", "q")),
    "keeps a parameter": (scaled, lambda op: op.vjp_rule(keeps="factor"), ("vjp", "factor")),
    "keeps the namespace": (scaled, lambda op: op.vjp_rule(keeps="xp"), ("vjp", "xp")),
    "keeps names run together": (scaled, lambda op: op.vjp_rule(keeps="x, y"), ("vjp", "x, y")),
    "keeps a number": (scaled, lambda op: op.vjp_rule(keeps=3), ("vjp", "3")),
    "keeps None": (scaled, lambda op: op.vjp_rule(keeps=None), ("vjp", "None")),
    "keeps numbers": (scaled, lambda op: op.vjp_rule(keeps=(0,)), ("vjp", "0")),
    "vjp without g": (
        scaled,
        lambda op: op.vjp_rule(keeps="x")(lambda xp, x: x),
        ("vjp", "3", "2"),
    ),
    "vjp with more than g": (
        scaled,
        lambda op: op.vjp_rule(keeps="x")(lambda xp, x, y, g: x),
        ("vjp", "3", "4"),
    ),
    "vjp without what it keeps": (
        scaled,
        lambda op: op.vjp_rule(keeps=("x", "y"))(lambda xp, x, g: x),
        ("vjp", "4", "3"),
    ),
    "jvp without a tangent": (
        paired,
        lambda op: op.jvp_rule(keeps=("x", "weights"))(lambda xp, x, w, dx: x),
        ("jvp", "5", "4"),
    ),
    "jacobian with g": (
        scaled,
        lambda op: op.jacobian_rule(keeps="x")(lambda xp, x, g: x),
        ("jacobian", "2", "3"),
    ),
    "derivative with g": (
        scaled,
        lambda op: op.derivative(lambda xp, x, g: x),
        ("derivative", "2", "3"),
    ),
    "derivative without an array": (
        paired,
        lambda op: op.derivative(lambda xp, x: x),
        ("derivative", "3", "2"),
    ),
    "vjp names an unknown parameter": (
        scaled,
        lambda op: op.vjp_rule(keeps="x")(lambda xp, x, g, *, factr: x),
        ("vjp", "factr"),
    ),
    "derivative names an unknown parameter": (
        scaled,
        lambda op: op.derivative(lambda xp, x, *, axis: x),
        ("derivative", "axis"),
    ),
    "vjp names the reduction": (
        scaled,
        lambda op: op.vjp_rule(keeps="x")(lambda xp, x, g, *, reduction: x),
        ("vjp", "reduction"),
    ),
    "derivative names the backend": (
        scaled,
        lambda op: op.derivative(lambda xp, x, *, backend: x),
        ("derivative", "backend"),
    ),
    "vjp takes any keyword": (
        scaled,
        lambda op: op.vjp_rule(keeps="x")(lambda xp, x, g, **keywords: x),
        ("vjp",),
    ),
    "derivative is no function": (scaled, lambda op: op.derivative(3), ("derivative", "3")),
    "vjp is no function": (scaled, lambda op: op.vjp_rule(keeps="x")("g"), ("vjp",)),
}


@pytest.mark.parametrize("kind", RULES)
def test_a_rule_that_does_not_fit_its_op_is_refused(kind: str) -> None:
    make, misuse, words = RULES[kind]
    op = make()
    refused(lambda: misuse(op), TypeError, make.__name__, *words)


@pytest.mark.parametrize("transform", ["vjp", "jvp", "jacobian", "value_and_grad", "chain"])
def test_a_missing_rule_is_named_before_the_body_runs(transform: str) -> None:
    op, x = scaled(), np.ones(3)
    call, role = {
        "vjp": (lambda: og.vjp(op, x), "vjp"),
        "jvp": (lambda: og.jvp(op, (x,), (x,)), "jvp"),
        "jacobian": (lambda: og.jacobian(op, x), "rule"),
        "value_and_grad": (lambda: og.value_and_grad(op)(x), "vjp"),
        "chain": (lambda: og.vjp(og.chain(op), x), "vjp"),
    }[transform]
    refused(call, TypeError, "scaled", role, "derivative", op=op)


def test_a_jacobian_needs_both_of_the_rules() -> None:
    op = scaled()
    op.vjp_rule(keeps="x")(lambda xp, x, g: g)
    refused(lambda: og.jacobian(op, np.ones(3)), TypeError, "scaled", "jvp", op=op)


@pytest.mark.parametrize("count", [1, 3])
def test_a_vjp_rule_with_a_wrong_number_of_gradients_is_refused(count: int) -> None:
    op = paired()
    op.vjp_rule(keeps=())(lambda xp, g: (g,) * count)
    _, pull = og.vjp(op, np.ones(3), np.ones(3))
    wrong = complaint(lambda: pull(np.ones(3)), TypeError, "paired", "gradients", "2", str(count))
    assert wrong is None, wrong


@pytest.mark.parametrize("annotation", [float, int, bool, "no annotation"])
def test_a_parameter_without_a_default_has_to_be_given(annotation: Any) -> None:
    def shifted(xp, x, /, *, offset):
        return x

    if annotation is not None:
        shifted.__annotations__["offset"] = annotation
    op = og.op(shifted)
    refused(lambda: op(np.ones(3)), TypeError, "shifted", "offset", op=op)


def test_an_axis_without_a_default_has_to_be_given() -> None:
    @og.op
    def total(xp, x, /, *, axis: int):
        return xp.sum(x, axis=axis)

    refused(lambda: total(np.ones(3)), TypeError, "total", "axis", op=total)


def test_parameters_of_an_op_of_ones_own_are_checked_too() -> None:
    op = scaled()
    refused(lambda: op(np.ones(3), factor="2"), TypeError, "scaled", "factor", op=op)
    refused(lambda: op(np.ones(3), factor=None), TypeError, "scaled", "factor", op=op)
    refused(lambda: op(np.ones(3), factr=2), TypeError, "scaled", "factr", op=op)
    refused(lambda: op(np.ones(3), reduction="avg"), ValueError, "scaled", "reduction", op=op)
    refused(lambda: op("abc"), TypeError, "scaled", "x", op=op)
    refused(op, TypeError, "scaled", "x", op=op)

"""The suite can fail: ops with the mistakes that textbooks and libraries make, and bad backends."""

import functools
import importlib
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from libraries import library_named

import opsgrad as og
from opsgrad._op import Op
from opsgrad.backends.numpy import NumPyBackend
from opsgrad.conformance import TABLE
from opsgrad.conformance.bad_input import check_refused, check_unseen_labels
from opsgrad.conformance.checks import check_adjoint, check_against_oracle, sample
from opsgrad.conformance.suite.test_points import check_point
from opsgrad.conformance.suite.test_properties import Case, check_untouched
from opsgrad.conformance.target import Target
from opsgrad.ops._rows import class_mask, drop_axis, insert_axis, row_max


def impostor(op: Any, body: Callable[..., Any] | None = None, **rules: Callable[..., Any]) -> Op:
    """Return an op of the same name, signature and shape check, with another body or rules.

    Its residual, if any, is that of the op.
    """
    right = op.body
    wrong = body or right

    @functools.wraps(right)
    def run(xp: Any, *arrays: Any, **parameters: Any) -> Any:
        out = wrong(xp, *arrays, **parameters)
        if isinstance(out, tuple) or not op._body.residual:
            return out
        return out, *right(xp, *arrays, **parameters)[1:]

    copy = og.op(run)
    copy._body = copy._body._replace(residual=op._body.residual)
    copy._rules = dict(op._rules)
    copy.elementwise = op.elementwise
    copy._planner.describe(elementwise=op.elementwise, rowwise=op._planner.rowwise)
    if op._planner.check_shapes is not None:
        copy.check_shapes(op._planner.check_shapes)
    for role, function in rules.items():
        rule = op.rule(role)
        copy._rules[role] = rule._replace(function=function)
    return copy


def failed_points(op: Op) -> list[str]:
    """Return what the points say of an op that they find wrong."""
    row = TABLE[op.__name__]
    failed = []
    for point in (*row.kinks, *row.specials):
        try:
            check_point(row, point, library_named("numpy"), "float64", op=op)
        except AssertionError:
            failed.append(point.why)
    return failed


def fails_oracle(
    op: Op, rng: np.random.Generator, role: str, arrays: Any = None, **params: Any
) -> None:
    """Hold the right op to the oracle, and see the wrong one fail."""
    row, numpy = TABLE[op.__name__], library_named("numpy")
    arrays = sample(row, rng, (3, 5)) if arrays is None else arrays
    check_against_oracle(row, numpy, arrays, rng, only=role, **params)
    with pytest.raises(AssertionError, match=rf"{row.name} {role} .* ULP, allowed"):
        check_against_oracle(row, numpy, arrays, rng, op=op, only=role, **params)


@pytest.mark.parametrize("name", TABLE)
def test_an_impostor_without_mistakes_passes(name: str, rng: np.random.Generator) -> None:
    op = impostor(TABLE[name].op)
    row = TABLE[name]
    check_against_oracle(
        row, library_named("numpy"), sample(row, rng, (3, 5)), rng, op=op, **row.variants[0]
    )
    assert failed_points(op) == []


# -- backward rules --------------------------------------------------------------------------------


def test_relumax_without_the_term_of_the_maximum(rng: np.random.Generator) -> None:
    def vjp(xp: Any, x: Any, g: Any, /, *, b: float, axis: int) -> Any:
        y = og.relumax.body(xp, x, b=b, axis=axis)
        active = y > 0
        margin = xp.where(active, x - row_max(xp, x, axis) + b, 0 * x)
        total = xp.sum(margin, axis=axis, keepdims=True)
        return xp.where(active, g - xp.sum(y * g, axis=axis, keepdims=True), 0 * x) / total

    op = impostor(og.relumax, vjp=vjp)
    fails_oracle(op, rng, "vjp", b=3.0)
    assert any("the maximum's gradient is not dropped" in why for why in failed_points(op))
    x = sample(TABLE["relumax"], rng, (3, 5))
    with pytest.raises(AssertionError):
        check_adjoint(op, library_named("numpy"), x, rng, b=3.0)


def test_softmax_gradient_in_one_pass() -> None:
    def vjp(xp: Any, y: Any, g: Any, /, *, axis: int) -> Any:
        return y * (g - xp.sum(y * g, axis=axis, keepdims=True))

    failed = failed_points(impostor(og.softmax, vjp=vjp))
    assert "a large constant in the cotangent costs no digits" in failed


@pytest.mark.parametrize("role", ["value", "vjp", "jvp"])
@pytest.mark.parametrize("name", [row.name for row in TABLE.values() if row.has_axis])
def test_a_forgotten_axis(name: str, role: str, rng: np.random.Generator) -> None:
    row = TABLE[name]

    def always_last(function: Callable[..., Any]) -> Callable[..., Any]:
        def forgetful(xp: Any, *arrays: Any, axis: int, **parameters: Any) -> Any:
            return function(xp, *arrays, axis=-1, **parameters)

        return forgetful

    if role == "value":
        op = impostor(row.op, always_last(row.op.body))
    else:
        rule = row.op.rule(role)
        if "axis" not in rule.takes:
            pytest.skip("the rule takes no axis")
        op = impostor(row.op, **{role: always_last(rule.function)})
    fails_oracle(op, rng, role, sample(row, rng, (3, 3), axis=0), axis=0, **row.variants[-1])


def test_sigmoid_gradient_from_the_saved_value() -> None:
    def derivative(xp: Any, x: Any) -> Any:
        y = og.sigmoid.body(xp, x)
        return y * (1.0 - y)

    op = impostor(og.sigmoid)
    op.derivative(derivative)
    assert "sigmoid' keeps its digits where sigmoid is 1" in failed_points(op)


def test_a_tie_that_gives_all_to_the_first() -> None:
    def pull(xp: Any, x: Any, y: Any, g: Any, /, *, p: float, axis: int, keepdims: bool) -> Any:
        if p != float("inf") or 0 in x.shape:
            return og.lp_norm.rule("vjp").function(xp, x, y, g, p=p, axis=axis, keepdims=keepdims)
        first = np.argmax(np.abs(x), axis=axis, keepdims=True)
        slope = np.zeros_like(x)
        np.put_along_axis(slope, first, np.take_along_axis(np.sign(x), first, axis), axis)
        return slope * (g if keepdims else insert_axis(g, axis))

    assert "p = inf: ties share evenly" in failed_points(impostor(og.lp_norm, vjp=pull))


def test_label_gradient_as_p_minus_1(rng: np.random.Generator) -> None:
    def vjp(xp: Any, logits: Any, labels: Any, *given: Any, axis: int) -> Any:
        *_, g = given
        p = og.softmax.body(xp, logits, axis=axis)
        mask = class_mask(xp, logits, labels, axis)
        return xp.where(mask, p - 1.0, p) * insert_axis(g, axis)

    op = impostor(og.softmax_cross_entropy_with_integer_labels, vjp=vjp)
    fails_oracle(op, rng, "vjp", [np.asarray([[0.0, 40.0]]), np.asarray([1])])


# -- values ----------------------------------------------------------------------------------------


def test_softmax_with_a_plain_shift(rng: np.random.Generator) -> None:
    def body(xp: Any, x: Any, /, *, axis: int = -1) -> Any:
        e = xp.exp(x - row_max(xp, x, axis))
        return e / xp.sum(e, axis=axis, keepdims=True)

    fails_oracle(impostor(og.softmax, body), rng, "value", [rng.uniform(-300, 300, (4, 5))])


def test_log_softmax_as_it_is_written(rng: np.random.Generator) -> None:
    def body(xp: Any, x: Any, /, *, axis: int = -1) -> Any:
        shift = x - row_max(xp, x, axis)
        return shift - xp.log(xp.sum(xp.exp(shift), axis=axis, keepdims=True))

    op = impostor(og.log_softmax, body)
    fails_oracle(op, rng, "value", [np.asarray([[0.0, -40.0]])])
    assert "log_softmax keeps its digits at a dominant entry" in failed_points(op)


def test_a_norm_that_is_not_scaled() -> None:
    def body(xp: Any, x: Any, /, *, p: float = 2.0, axis: int = -1, keepdims: bool = False) -> Any:
        if p == float("inf"):
            out = row_max(xp, xp.abs(x), axis)
        else:
            out = xp.sum(xp.abs(x) ** p, axis=axis, keepdims=True) ** (1 / p)
        return drop_axis(xp, out, axis, keepdims)

    failed = failed_points(impostor(og.lp_norm, body))
    assert "lp_norm, p = 2 near float64's upper end" in failed
    assert "lp_norm, p = 2 near float64's lower end" in failed
    assert not any("p = 1 " in why for why in failed)


def test_prelu_as_a_maximum() -> None:
    def body(xp: Any, x: Any, alpha: Any, /) -> Any:
        return xp.maximum(x, alpha * x)

    failed = failed_points(impostor(og.prelu, body))
    assert "alpha above 1: not max(x, alpha x)" in failed
    assert "prelu(-inf) = 0 for alpha 0: 0 (-inf) is 0" in failed


# -- memory ----------------------------------------------------------------------------------------

POSITIVE = Case((np.asarray([1.0, 2.0]),), {}, np.ones(2), (np.ones(2),))
NEGATIVE = Case((np.asarray([-1.0, 2.0]),), {}, np.ones(2), (np.ones(2),))


def test_an_op_that_writes_into_its_argument() -> None:
    def body(xp: Any, x: Any, /) -> Any:
        return np.abs(x, out=x)

    check_untouched(og.abs, library_named("numpy"), NEGATIVE)
    with pytest.raises(AssertionError, match=r"op abs.* wrote into an argument"):
        check_untouched(impostor(og.abs, body), library_named("numpy"), NEGATIVE)


# -- backends --------------------------------------------------------------------------------------


class Noisy(NumPyBackend):
    """Gets everything slightly wrong, by no common factor: a rule may divide by what it kept."""

    def runner(self, function: Any, parameters: Mapping[str, Any]) -> Callable[..., Any]:
        right = super().runner(function, parameters)

        def run(*arrays: Any) -> Any:
            out = right(*arrays)
            return tuple(map(noisy, out)) if isinstance(out, tuple) else noisy(out)

        def noisy(one: Any) -> Any:
            return one + 1e-6 * np.max(np.abs(one))

        return run


class Narrow(NumPyBackend):
    """Computes float64 in float32."""

    def runner(self, function: Any, parameters: Mapping[str, Any]) -> Callable[..., Any]:
        right = super().runner(function, parameters)

        def run(*arrays: Any) -> Any:
            narrow = [
                one.astype("float32") if getattr(one, "dtype", None) == np.float64 else one
                for one in arrays
            ]
            return right(*narrow)

        return run


class Narrowing(Narrow):
    """Returns float32 for float64."""

    def floating_dtypes(self, dtypes: tuple[Any, ...]) -> tuple[Any, Any]:
        return np.dtype("float32"), np.dtype("float32")


class CoarseExp(NumPyBackend):
    """Has an `exp` that is off by 1 %."""

    def __init__(self) -> None:
        super().__init__()
        right = vars(self._namespace)
        self._namespace = SimpleNamespace(**{**right, "exp": lambda x: 1.01 * np.exp(x)})


class Careless(NumPyBackend):
    """Sees no memory that is shared."""

    def shares_memory(self, array: Any, other: Any) -> bool:
        return False


@pytest.fixture
def wrong_backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Target:
    """Put a wrong backend in the place of NumPy's."""
    registry = importlib.import_module("opsgrad.backends")
    backend = request.param()
    monkeypatch.setitem(registry._loaded, "numpy", backend)
    monkeypatch.setattr(registry, "_by_type", {})
    return Target(backend.name, backend)


@pytest.mark.parametrize("name", ["sigmoid", "softmax", "l2_norm", "squared_error", "dense"])
@pytest.mark.parametrize("role", ["value", "vjp", "jvp"])
@pytest.mark.parametrize("wrong_backend", [Noisy, Narrow, Narrowing], indirect=True)
def test_a_wrong_backend_is_caught(
    name: str, role: str, wrong_backend: Target, rng: np.random.Generator
) -> None:
    row = TABLE[name]
    op = impostor(row.op)  # without the plans that the op made for the right backend
    with pytest.raises(AssertionError):
        check_against_oracle(
            row, wrong_backend, sample(row, rng, (3, 5)), rng, op=op, only=role, **row.variants[0]
        )


@pytest.mark.parametrize("name", ["sigmoid", "softmax", "softplus", "log_softmax", "logsumexp"])
@pytest.mark.parametrize("wrong_backend", [CoarseExp], indirect=True)
def test_a_wrong_function_is_caught(
    name: str, wrong_backend: Target, rng: np.random.Generator
) -> None:
    row = TABLE[name]
    with pytest.raises(AssertionError):
        check_against_oracle(
            row, wrong_backend, sample(row, rng, (3, 5)), rng, op=impostor(row.op), only="value"
        )


@pytest.mark.parametrize("wrong_backend", [Careless], indirect=True)
def test_a_result_that_is_a_view_of_the_argument(wrong_backend: Target) -> None:
    """A backend that sees what is shared has such a result copied: it takes both mistakes."""

    def body(xp: Any, x: Any, /) -> Any:
        return x[...] if np.all(x >= 0) else np.abs(x)

    check_untouched(impostor(og.abs), wrong_backend, POSITIVE)
    with pytest.raises(AssertionError, match=r"op abs.*: a result shares memory"):
        check_untouched(impostor(og.abs, body), wrong_backend, POSITIVE)


# -- bad input -------------------------------------------------------------------------------------


def fails_refusals(op: Op, family: str, target: Target, match: str) -> None:
    """See the wrong op, or the right one on a wrong library, fail where it has to refuse."""
    row = TABLE[op.__name__]
    with pytest.raises(AssertionError, match=match):
        check_refused(row, row.bad_input(family), target, op=op)


def with_shape_check(op: Any, error: type[Exception], message: str) -> Op:
    """Return an impostor that refuses every call for its shapes, with this error."""

    def check(**shapes: Any) -> None:
        raise error(message)

    copy = impostor(op)
    copy.check_shapes(check)
    return copy


@pytest.mark.parametrize(
    ("error", "message", "match"),
    [
        (
            og.ShapeError,
            "prelu: x of {}",
            r"alpha of shape \(3,\), call: \['alpha', .* not mention",
        ),
        (og.ShapeError, "alpha (3,) (5, 4)", r"call: \['prelu'\] not mentioned"),
        (og.DTypeError, "prelu: alpha (3,) (5, 4)", "not caught as .*ValueError"),
        (ValueError, "prelu: alpha (3,) (5, 4)", "no OpsgradError but ValueError"),
    ],
    ids=["argument", "op", "type", "no OpsgradError"],
)
def test_a_wrong_error_is_caught(error: type[Exception], message: str, match: str) -> None:
    numpy = library_named("numpy")
    check_refused(TABLE["prelu"], TABLE["prelu"].bad_input("shapes"), numpy)
    fails_refusals(with_shape_check(og.prelu, error, message), "shapes", numpy, match)


def test_a_forgotten_check_is_caught() -> None:
    op = impostor(og.prelu)
    op.check_shapes(lambda **shapes: None)
    fails_refusals(op, "shapes", library_named("numpy"), "computed before the check")


class Hasty(NumPyBackend):
    """Computes with arrays before they are checked."""

    def normalize(self, array: Any) -> Any:
        return self.namespace.multiply(super().normalize(array), 1)


class Copying(NumPyBackend):
    """Copies arrays before they are checked."""

    def normalize(self, array: Any) -> Any:
        return self.asarray(super().normalize(array))


class Overwriting(NumPyBackend):
    """Writes into the caller's arrays."""

    def normalize(self, array: Any) -> Any:
        array = super().normalize(array)
        if array.dtype.kind == "f":
            array[...] = 0
        return array


class Blind(NumPyBackend):
    """Looks at no label."""

    def values_now(self, array: Any) -> Any:
        return None


@pytest.mark.parametrize(
    ("wrong_backend", "name", "family", "match"),
    [
        (Hasty, "softmax", "axis", "multiply was called before the check"),
        (Copying, "dense", "shapes", "an array was moved before the check"),
        (Overwriting, "l2_loss", "shapes", "an input was written to"),
        (Blind, "nll_loss", "labels", "label -1, call: something was computed before the check"),
    ],
    indirect=["wrong_backend"],
)
def test_work_before_the_check_is_caught(
    name: str, family: str, match: str, wrong_backend: Target
) -> None:
    fails_refusals(impostor(TABLE[name].op), family, wrong_backend, match)


@pytest.mark.parametrize("wrong_backend", [Blind], indirect=True)
@pytest.mark.parametrize("mistake", ["none", "wraps", "spreads"])
def test_a_label_that_is_not_seen_is_caught(mistake: str, wrong_backend: Target) -> None:
    def body(xp: Any, log_probs: Any, labels: Any, /, *, axis: int = -1, **rest: Any) -> Any:
        if mistake == "wraps":
            labels = xp.remainder(labels, max(1, log_probs.shape[axis]))
        y = right(xp, log_probs, labels, axis=axis, **rest)
        return y + 0 * xp.sum(y) if mistake == "spreads" else y

    right, row = og.nll_loss.body, TABLE["nll_loss"]
    case = next(case for case in row.bad_input("labels") if case.kind == "label -1")
    op = impostor(og.nll_loss, body)
    if mistake == "none":
        check_unseen_labels(row, case, wrong_backend, op=op)
        return
    with pytest.raises(AssertionError, match=r"nll_loss, label -1.*: value on numpy"):
        check_unseen_labels(row, case, wrong_backend, op=op)

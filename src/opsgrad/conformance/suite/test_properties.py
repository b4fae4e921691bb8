"""What holds of every op at whatever numbers come: laws, checked on examples that Hypothesis draws.

An example is one call of an op on arrays of many units (elements, slices or rows), and the units
are what is counted: at least `EXAMPLES` of them for each op and property, five times as many with
``--thorough``. NumPy gets them in many calls of all shapes, with up to four axes, none, and empty
ones. Other libraries get them in fewer calls; those that compile each new shape (JAX), or take
10 ms a call (Dask), in two to four calls of one shape or two. Numbers come from a small pool drawn
for each example, so that ties abound.
"""

import functools
import math
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

import opsgrad as og
from opsgrad.conformance import reference
from opsgrad.conformance.checks import call_value_and_grad, check_adjoint, floor_of, own_params
from opsgrad.conformance.excess import excess
from opsgrad.conformance.row import LABELS, Row
from opsgrad.conformance.suite.conftest import targets_of
from opsgrad.conformance.table import TABLE
from opsgrad.conformance.target import Target, to_numpy

Numbers: TypeAlias = npt.NDArray[Any]
Shape: TypeAlias = tuple[int, ...]
Draw: TypeAlias = Callable[[st.SearchStrategy[Any]], Any]

EXAMPLES = 200
"""How many units each op and property is tried on, at the least."""

SLICE_ROWS = [row for row in TABLE.values() if row.unit == "slice"]


# -- examples ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """One call, with a cotangent and tangents, all in NumPy."""

    arrays: tuple[Numbers, ...]
    params: dict[str, Any]
    cotangent: Numbers
    tangents: tuple[Numbers | None, ...]

    @property
    def axis(self) -> int:
        """The axis of the call, the last where the op has none."""
        return int(self.params.get("axis", -1))

    @property
    def dtype(self) -> np.dtype[Any]:
        """The data type of the floating-point arrays."""
        return self.arrays[0].dtype

    @property
    def eps(self) -> float:
        """The machine epsilon."""
        return float(np.finfo(self.dtype).eps)

    @property
    def tiny(self) -> float:
        """The smallest normal number."""
        return float(np.finfo(self.dtype).tiny)


class Kind(NamedTuple):
    """What numbers an example is made of."""

    values: str
    """``"any"`` for the whole range with infinities and NaN, ``"finite"`` for all of it but those,
    ``"modest"`` for 0 and 2^-10 to 32 in magnitude, ``"dyadic"`` for multiples of 1/8 up to 8."""
    inside: bool = True
    """Whether probabilities, log-probabilities and targets are what their names say."""
    reduced: bool = False
    """Whether reductions are tried."""
    params: bool = False
    """Whether parameters come from their whole range, where a new one costs no compilation."""


class Calls(NamedTuple):
    """How the examples are dealt out on one library."""

    examples: int
    units: int
    shape: Shape | None = None
    """The one shape to use, with its units along every axis but `axis`; None for all shapes."""
    axis: int = -1


def _calls(target: Target, kind: Kind, wanted: int) -> Iterator[Calls]:
    backend = target.backend
    if target.capabilities.lazy:
        yield Calls(1 + wanted // EXAMPLES, EXAMPLES, (EXAMPLES, 3))
    elif backend.traced(_identity) is not None:
        each = 1 + wanted // EXAMPLES  # the first example of each is the simplest one
        yield Calls(each, 100, (100, 4))
        yield Calls(each, 100, (3, 100), axis=0)
    elif target.name != "numpy":
        yield Calls(wanted // 16, 16)
    elif kind.params:
        yield Calls(wanted, 1)
    else:
        yield Calls(wanted // 4, 4)


def _identity(x: Any) -> Any:
    return x


AWKWARD = (0.0, 1.0, -1.0, 0.5, -0.0, 2.0, -0.5, -3.0, 3.0)
"""Numbers at which ops have kinks for some of the parameters that are tried."""


def _extremes(dtype: str) -> list[float]:
    info = np.finfo(dtype)
    most, tiny, least = float(info.max), float(info.tiny), float(info.smallest_subnormal)
    return [most, -most, tiny, -tiny, least, -least, 1.0 + float(info.eps)]


def _pool(draw: Draw, values: str, dtype: str, subnormal: bool) -> Numbers:
    """Draw the numbers that an example is made of: a few, so that there are ties."""
    raw = draw(_bytes(128))
    if values == "dyadic":
        return np.asarray(np.frombuffer(raw[:12], np.int8) // 2 / 8.0, dtype)
    modest = np.frombuffer(raw[:32], np.int32) / 2.0**26
    modest = np.where(np.abs(modest) < 2.0**-10, 0.0, modest).astype(dtype)
    awkward = np.asarray(AWKWARD, dtype)
    if values == "modest":
        return np.concatenate([modest, awkward])
    parts = draw(st.integers(1, 31))
    choices = [
        np.frombuffer(raw[-64:], dtype),  # bit patterns: exponents from all of the range
        np.asarray(_extremes(dtype), dtype),
        modest,
        awkward,
        np.asarray([np.inf, -np.inf, np.nan], dtype),
    ]
    chosen = [part for number, part in enumerate(choices) if parts >> number & 1]
    pool = np.concatenate(chosen)
    if not subnormal:
        pool = np.where(np.abs(pool) < np.finfo(dtype).tiny, np.zeros_like(pool), pool)
    if values == "finite":
        pool = np.where(np.isfinite(pool), pool, np.ones_like(pool))
    return pool


@functools.cache
def _bytes(count: int) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=count, max_size=count)


class _Picker:
    """Makes arrays of numbers from pools; the simplest array runs through its pool."""

    def __init__(self, draw: Draw, count: int) -> None:
        self.drawn = np.frombuffer(draw(_bytes(count)), dtype=np.uint8)
        self.used = 0

    def array(self, pool: Numbers, shape: Shape) -> Numbers:
        """Return an array of `shape`."""
        count = math.prod(shape)
        part = self.drawn[self.used : self.used + count]
        self.used += count
        picked: Numbers = pool[(part + np.arange(count)) % len(pool)].reshape(shape)
        return picked


SIDES = st.sampled_from((2, 3, 1, 4, 2, 3, 0))
PARAMETERS: dict[str, st.SearchStrategy[float]] = {
    "negative_slope": st.floats(
        width=32, allow_nan=False, allow_infinity=False, allow_subnormal=False
    ),
    "b": st.floats(2.0**-126, width=32, allow_infinity=False, allow_subnormal=False),
    "margin": st.floats(0, width=32, allow_infinity=False, allow_subnormal=False),
    "p": st.floats(2.0**-126, width=32, allow_subnormal=False),
}
"""The whole range of each parameter of the ops."""


def _shape(draw: Draw, row: Row, calls: Calls) -> tuple[Shape, int]:
    """Draw the shape of the first argument, and an axis of it."""
    if calls.shape is not None:
        return calls.shape, calls.axis if row.has_axis else -1
    least = 0 if row.unit == "element" and calls.units == 1 else 1
    rank = draw(st.integers(least, 4 if calls.units == 1 else 3))
    sides = [draw(SIDES) for _ in range(rank)]
    if calls.units > 1:
        sides.insert(draw(st.integers(0, rank)) if row.has_axis else 0, calls.units)
    axis = draw(st.integers(-len(sides), len(sides) - 1)) if row.has_axis else -1
    if row.has_axis and calls.units > 1 and sides[axis] == calls.units:
        axis = axis - 1 if axis > -len(sides) else axis + 1  # the units lie beside each other
    return tuple(sides), axis


def _shapes(draw: Draw, row: Row, shape: Shape, axis: int, fixed: bool) -> list[Shape]:
    """Return the shape of each argument of a call, given that of the first."""
    if row.unit == "matrix":
        width = 2 if fixed else draw(SIDES)
        biased = fixed or draw(st.booleans())
        return [shape, (shape[-1], width), (width,)][: 3 if biased else 2]
    if row.name == "prelu":
        kept = 1 if fixed else draw(st.integers(0, len(shape)))
        alpha = shape[len(shape) - kept :]
        if kept and not fixed and draw(st.booleans()):
            alpha = (1, *alpha[1:])
        return [shape, alpha]
    without = tuple(n for place, n in enumerate(shape) if place != axis % max(1, len(shape)))
    return [without if role == LABELS else shape for role in row.arguments]


def _inside(row: Row, role: str, x: Numbers) -> Numbers:
    """Return `x` made into what the argument's name says it is."""
    if role == "probs":
        return np.clip(np.abs(x), 2.0**-6, 1.0)
    if role == "log_probs":
        return -np.abs(x)
    if role == "targets":
        return np.where(x < 0, -1.0, 1.0).astype(x.dtype) if "hinge" in row.name else np.abs(x)
    return x


def result_shape(row: Row, shapes: Sequence[Shape], params: dict[str, Any]) -> Shape:
    """Return the shape that the contract gives the value, from nothing but the row."""
    if params.get("reduction", "none") != "none":
        return ()
    if row.unit == "element":
        return np.broadcast_shapes(*shapes)
    if row.unit == "matrix":
        return (*shapes[0][:-1], shapes[1][1])
    if not row.reduces_axis:
        return shapes[0]
    sides = list(shapes[0])
    axis = params.get("axis", -1)
    if params.get("keepdims", False):
        sides[axis] = 1
    else:
        del sides[axis]
    return tuple(sides)


def _case(draw: Draw, row: Row, target: Target, kind: Kind, calls: Calls) -> Case:
    """Draw a call of a row's op."""
    fixed = calls.shape is not None
    subnormal = not target.capabilities.flushes_subnormals
    dtype = target.dtypes[-1 if calls.axis == -1 else 0] if fixed else draw(_of(target.dtypes))
    shape, axis = _shape(draw, row, calls)
    if LABELS in row.arguments and shape[axis] == 0:  # no label could name a class
        shape = tuple(side or 1 for side in shape)
    params = dict(
        row.variants[axis] if fixed else row.variants[draw(st.integers(0, len(row.variants) - 1))]
    )
    for name in params:
        if kind.params and not fixed and name in PARAMETERS and draw(st.booleans()):
            params[name] = draw(PARAMETERS[name])
    if row.has_axis and (axis != -1 or draw(st.booleans())):
        params["axis"] = axis
    if row.has_keepdims and (calls.axis == 0 if fixed else draw(st.booleans())):
        params["keepdims"] = True
    if row.has_reduction and kind.reduced:
        reduction = "mean" if fixed else draw(_of(("none", "mean", "sum")))
        params |= {"reduction": reduction} if reduction != "none" else {}

    shapes = _shapes(draw, row, shape, axis, fixed)
    result = result_shape(row, shapes, params)
    pool = _pool(draw, kind.values, dtype, subnormal)
    others = _pool(draw, "any" if kind.values == "any" else "dyadic", dtype, subnormal)
    pick = _Picker(draw, 2 * sum(map(math.prod, shapes)) + math.prod(result))
    arrays = []
    for role, one in zip(row.arguments, shapes, strict=False):
        if role == LABELS:
            arrays.append(pick.array(np.arange(max(1, shape[axis])), one))
            continue
        drawn = pick.array(pool, one)
        arrays.append(_inside(row, role, drawn) if kind.inside else drawn)
    return Case(
        arrays=tuple(arrays),
        params=params,
        cotangent=pick.array(others, result),
        tangents=tuple(
            None if array.dtype.kind == "i" else pick.array(others, array.shape) for array in arrays
        ),
    )


@functools.cache
def _of(choices: tuple[Any, ...]) -> st.SearchStrategy[Any]:
    return st.sampled_from(choices)


@pytest.fixture
def wanted(request: pytest.FixtureRequest) -> int:
    """Return how many units to try each property on."""
    thorough = request.config.getoption("--thorough", default=False)
    return 5 * EXAMPLES if thorough else EXAMPLES


def hold(check: Callable[[Case], None], row: Row, target: Target, kind: Kind, wanted: int) -> None:
    """Run `check` on as many cases as are wanted."""
    for calls in _calls(target, kind, wanted):
        profile = settings(
            max_examples=max(2, calls.examples),
            deadline=None,
            database=None,
            derandomize=True,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
        )
        start = seed(zlib.crc32(f"{row.name} {check.__qualname__}".encode()))

        @st.composite
        def cases(draw: Draw, calls: Calls = calls) -> Case:
            return _case(draw, row, target, kind, calls)

        start(profile(given(cases())(check)))()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run tests of memory layouts where arrays are NumPy's."""
    if "host_target" in metafunc.fixturenames:
        eager = [target for target in targets_of(metafunc.config) if not target.traced]
        hosts = [t for t in eager if isinstance(t.put(np.zeros(1, "float32")), np.ndarray)]
        metafunc.parametrize("host_target", hosts, ids=str)


# -- calls and comparisons -----------------------------------------------------------------------


class Results(NamedTuple):
    """What a call gives, in NumPy."""

    value: Numbers
    gradients: tuple[Numbers | None, ...]
    derivative: Numbers


def run(row: Row, target: Target, case: Case) -> Results:
    """Return value, VJP and JVP."""
    arrays, tangents = target.put(case.arrays), target.put(case.tangents)
    y, pull = og.vjp(row.op, *arrays, **case.params)
    gradients = pull(target.put(case.cotangent))
    _, derivative = og.jvp(row.op, arrays, tangents, **case.params)
    return Results(to_numpy(y), to_numpy(gradients), to_numpy(derivative))


def value(row: Row, target: Target, case: Case) -> Numbers:
    """Return the value alone."""
    out: Numbers = to_numpy(row.op(*target.put(case.arrays), **case.params))
    return out


def gradients(
    row: Row, target: Target, case: Case, *cotangents: Numbers
) -> list[tuple[Numbers | None, ...]]:
    """Return the gradients for each cotangent."""
    _, pull = og.vjp(row.op, *target.put(case.arrays), **case.params)
    return [to_numpy(pull(target.put(g))) for g in cotangents]


def present(arrays: Sequence[Numbers | None]) -> list[Numbers]:
    """Return what is there: labels have no gradient."""
    return [array for array in arrays if array is not None]


def same(one: Numbers, two: Numbers) -> bool:
    """Whether two arrays hold the same bits, the sign of 0 included; NaN is NaN."""
    nan = np.isnan(one)
    return bool(
        one.dtype == two.dtype
        and np.array_equal(one, two, equal_nan=True)
        and np.array_equal(np.signbit(one) | nan, np.signbit(two) | nan)
    )


def value_bound(row: Row, target: Target, case: Case) -> float:
    """Return how many units in the last place the value may be off."""
    more = excess(target, row.name, str(case.dtype))
    return row.value_bound(**own_params(case.params)) + more


def gradient_bound(row: Row, target: Target, case: Case) -> float:
    """Return how many units of its scale a gradient may be off."""
    return row.gradient_ulp + excess(target, row.name, str(case.dtype))


def agree(
    row: Row, target: Target, case: Case, got: Numbers, expected: Numbers, times: float = 2.0
) -> None:
    """Hold a value to another that exact arithmetic makes the same: each may be off a bound."""
    assert got.shape == expected.shape
    if same(got, expected):
        return
    scale = np.abs(expected)
    if row.value_scale is not None:
        exact = reference.value_scale(row, case.arrays, **case.params)
        scale = np.maximum(scale, reference.to_float64(exact))
    near(target, case, got, expected, times * value_bound(row, target, case) * case.eps * scale)


def near(target: Target, case: Case, got: Numbers, expected: Numbers, allowed: Any) -> None:
    """Hold the difference of two arrays to what is allowed, and a bit of the subnormal range."""
    flushed = 4 * case.tiny if target.capabilities.flushes_subnormals else 4 * case.tiny * case.eps
    with np.errstate(all="ignore"):
        wrong = ~(np.abs(np.float64(got) - np.float64(expected)) <= allowed + flushed)
    wrong &= ~((got == expected) | (np.isnan(got) & np.isnan(expected)))
    assert not np.any(wrong), f"{got} != {expected}"


# -- properties of every op ----------------------------------------------------------------------


def test_every_number_is_taken(row: Row, eager_target: Target, wanted: int) -> None:
    """Value, VJP and JVP neither raise nor warn, and have the shapes and data types to have."""

    def total(case: Case) -> None:
        with warnings.catch_warnings(), np.errstate(all="raise"):
            warnings.simplefilter("error")
            out = run(row, eager_target, case)
        shape = result_shape(row, [array.shape for array in case.arrays], case.params)
        for result in (out.value, out.derivative):
            assert (result.shape, result.dtype) == (shape, case.dtype)
        for gradient, array in zip(out.gradients, case.arrays, strict=True):
            assert (gradient is None) == (array.dtype.kind == "i")
            if gradient is not None:
                assert (gradient.shape, gradient.dtype) == (array.shape, array.dtype)

    kind = Kind("any", inside=False, reduced=True, params=True)
    hold(total, row, eager_target, kind, wanted)


def test_value_and_gradients_together(row: Row, eager_target: Target, wanted: int) -> None:
    """`value_and_grad` gives the value, and what the pullback makes of ones, within ULPs."""

    def together(case: Case) -> None:
        got, by = call_value_and_grad(row.op, eager_target, case.arrays, case.params)
        terms = math.log2(max(2, case.arrays[0].size))  # reduced losses may be added in any order
        agree(row, eager_target, case, got, value(row, eager_target, case), times=2.0 + terms)
        ones = np.ones(got.shape, case.dtype)
        (expected,) = gradients(row, eager_target, case, ones)
        if all(map(same, present(by), present(expected))):
            return
        bound = 2 * gradient_bound(row, eager_target, case) * case.eps
        scales = _gradient_scales(row, eager_target, case, ones)
        floor = np.asarray(floor_of(row, case.arrays, ones, case.params), dtype=np.float64)
        scales[0] = scales[0] + floor
        for one, other, scale in zip(present(by), present(expected), scales, strict=True):
            near(eager_target, case, one, other, bound * scale)

    hold(together, row, eager_target, Kind("modest", reduced=True), wanted)


def check_untouched(op: Any, target: Target, case: Case) -> None:
    """Hold an op to writing into none of its arguments and sharing memory with none."""
    put = target.put
    arrays, tangents, g = put(case.arrays), put(case.tangents), put(case.cotangent)
    given = [one for one in (*arrays, *tangents, g) if one is not None]
    before = [to_numpy(one).tobytes() for one in given]
    y, pull = og.vjp(op, *arrays, **case.params)
    kept = to_numpy(y).tobytes()
    results = [one for one in pull(g) if one is not None]
    results += [y, *og.jvp(op, arrays, tangents, **case.params)]
    assert [to_numpy(one).tobytes() for one in given] == before, f"{op} wrote into an argument"
    assert to_numpy(y).tobytes() == kept, f"{op}: the pullback wrote into the value"
    hosts = [to_numpy(one) for one in given]
    if target.capabilities.lazy or not all(host.flags.writeable for host in hosts):
        return  # arrays that nobody can write to may share memory
    for place, result in enumerate(results):
        others = (*hosts, *(to_numpy(one) for one in results[:place]))
        host = to_numpy(result)
        shared = any(np.may_share_memory(host, one) for one in others)
        assert not shared, f"{op}: a result shares memory"


def test_arguments_stay_as_they_are(row: Row, eager_target: Target, wanted: int) -> None:
    """No argument is written to, and no result shares memory with one."""

    def untouched(case: Case) -> None:
        check_untouched(row.op, eager_target, case)

    hold(untouched, row, eager_target, Kind("any", inside=False, reduced=True), wanted)


def test_units_do_not_see_each_other(row: Row, eager_target: Target, wanted: int) -> None:
    """A unit's value and gradients are bitwise the same whatever stands in the other units."""

    def independent(case: Case) -> None:
        first = case.arrays[0]
        if first.ndim == 0 or first.size == 0:
            return
        lengthwise = case.axis if row.unit == "slice" else -1
        batch = np.moveaxis(first, lengthwise, -1).shape[:-1]
        if row.unit == "element":
            batch = first.shape
        keep = (np.arange(math.prod(batch)) % 3 != 1).reshape(batch)
        mask = keep if row.unit == "element" else np.expand_dims(keep, lengthwise)
        junk = np.resize(np.asarray([np.nan, np.inf, -np.inf, 1e30], first.dtype), first.shape)
        other = replace(case, arrays=(np.where(mask, first, junk), *case.arrays[1:]))
        one, two = run(row, eager_target, case), run(row, eager_target, other)
        kept = np.broadcast_to(mask, first.shape)
        pairs = [(present(one.gradients)[0], present(two.gradients)[0], kept)]
        if not row.reduces_axis:
            pairs += [(one.value, two.value, np.broadcast_to(mask, one.value.shape))]
        else:
            pairs += [(one.value, two.value, keep.reshape(one.value.shape))]
        for right, got, where in pairs:
            assert same(got[where], right[where]), f"{got} != {right} where {where}"

    hold(independent, row, eager_target, Kind("modest"), wanted)


def test_nan_stays_nan(row: Row, eager_target: Target, wanted: int) -> None:
    """NaN in the first argument makes the value of its unit NaN."""
    if row.name == "nll_loss":
        wanted = 0  # only the label's entry is looked at

    def stays(case: Case) -> None:
        first = case.arrays[0]
        if row.name == "multiclass_hinge_loss" and first.shape[case.axis] == 1:
            return  # a single class costs nothing, whatever its score
        hit = (np.arange(first.size) % 5 == 0).reshape(first.shape)
        spoilt = np.where(hit, np.asarray(np.nan, first.dtype), first)
        got = value(row, eager_target, replace(case, arrays=(spoilt, *case.arrays[1:])))
        if row.unit == "slice":
            keepdims = not row.reduces_axis or bool(case.params.get("keepdims"))
            hit = np.any(hit, axis=case.axis, keepdims=keepdims)
        elif row.unit == "matrix":
            hit = np.any(hit, axis=-1, keepdims=True)
        assert np.all(np.isnan(got[np.broadcast_to(hit, got.shape)])), f"{got}"

    if wanted:
        hold(stays, row, eager_target, Kind("finite"), wanted)


CAN_CANCEL = ("dense", "log_cross_entropy", "softmax_cross_entropy")
"""Ops that sum products, some of which may overflow to either infinity."""


def test_finite_numbers_give_no_nan(row: Row, eager_target: Target, wanted: int) -> None:
    """Finite arguments of any size have a value that is a number, or an infinity."""

    def number(case: Case) -> None:
        got = value(row, eager_target, case)
        assert not np.any(np.isnan(got)), f"{got}"

    if row.name not in CAN_CANCEL:
        hold(number, row, eager_target, Kind("finite"), wanted)


FACTORS = (-1.0, 2.0, -0.25, 64.0)


def test_derivatives_scale_exactly(row: Row, eager_target: Target, wanted: int) -> None:
    """A power of two in the cotangent or in the tangents comes out as it went in."""

    def homogeneous(case: Case) -> None:
        factor = case.dtype.type(FACTORS[case.cotangent.size % len(FACTORS)])
        scaled = replace(
            case,
            cotangent=case.cotangent * factor,
            tangents=tuple(None if u is None else u * factor for u in case.tangents),
        )
        one, two = run(row, eager_target, case), run(row, eager_target, scaled)
        pairs = [(one.derivative, two.derivative)]
        pairs += zip(present(one.gradients), present(two.gradients), strict=True)
        for before, after in pairs:
            # Near the subnormal range a term may have lost digits on one side only.
            certain = np.abs(before) > case.tiny / case.eps**2
            assert np.array_equal((before * factor)[certain], after[certain]), f"{before} {after}"

    hold(homogeneous, row, eager_target, Kind("modest", reduced=True), wanted)


def test_pullback_is_additive(row: Row, eager_target: Target, wanted: int) -> None:
    """The gradient of a sum of cotangents is the sum of the gradients, within the op's ULPs."""

    def additive(case: Case) -> None:
        one, two = case.cotangent, np.flip(case.cotangent)
        by_sum, by_one, by_two = gradients(row, eager_target, case, one + two, one, two)
        bound = gradient_bound(row, eager_target, case)
        scales = zip(
            *(_gradient_scales(row, eager_target, case, g) for g in (one, two)), strict=True
        )
        parts = zip(present(by_sum), present(by_one), present(by_two), scales, strict=True)
        most = float(np.max(np.abs(case.cotangent), initial=0.0))
        for both, first, second, (scale, other) in parts:
            allowed = (2 * bound + 1) * case.eps * (scale + other) + 64 * case.eps**2 * most
            near(eager_target, case, both, np.float64(first) + second, allowed)

    hold(additive, row, eager_target, Kind("dyadic"), wanted)


def _gradient_scales(row: Row, target: Target, case: Case, g: Numbers) -> list[Numbers]:
    """Return the magnitudes that a gradient's error is measured in."""
    if row.gradient_scale is not None:
        exact = reference.vjp_scale(row, case.arrays, g, **case.params)
        return [reference.to_float64(one) for one in exact if one is not None]
    if row.unit == "matrix":  # linear in the weights: magnitudes for all that is multiplied
        case = replace(case, arrays=tuple(np.abs(array) for array in case.arrays))
    (out,) = gradients(row, target, case, np.abs(g))
    return [np.abs(np.float64(one)) for one in present(out)]


def test_adjoint_identity(row: Row, eager_target: Target, wanted: int) -> None:
    """VJP and JVP are each other's transposes, at kinks and ties too."""

    def adjoint(case: Case) -> None:
        if case.arrays[0].size == 0 and case.params.get("reduction") == "mean":
            return  # the mean of nothing is NaN, and so is its derivative
        number = zlib.crc32(b"".join(array.tobytes() for array in case.arrays))
        directions = np.random.default_rng(number)
        check_adjoint(row.op, eager_target, case.arrays, directions, **case.params)

    hold(adjoint, row, eager_target, Kind("modest", reduced=True), wanted)


def _layouts(array: Numbers) -> Iterator[Numbers]:
    yield np.asfortranarray(array)
    spread = np.zeros(tuple(2 * side for side in array.shape), array.dtype)
    step: tuple[Any, ...] = (..., *(slice(None, None, 2),) * array.ndim)
    every_other = spread[step]
    every_other[...] = array
    yield every_other
    yield np.flip(np.flip(array).copy())
    fixed = array.copy()
    fixed.setflags(write=False)
    yield fixed
    yield array.astype(array.dtype.newbyteorder())


def test_memory_layout_does_not_matter(row: Row, host_target: Target, wanted: int) -> None:
    """Fortran, strided, reversed, read-only and byte-swapped arrays give what contiguous ones do.

    Elementwise ops give the same bits, the others the same within their ULPs.
    """

    def indifferent(case: Case) -> None:
        right = run(row, host_target, case)
        every = [list(_layouts(array)) for array in case.arrays]
        g_layouts = list(_layouts(case.cotangent))
        for number, g in enumerate(g_layouts):
            arrays = [layouts[number] for layouts in every]
            y, pull = og.vjp(row.op, *arrays, **case.params)
            by = present(pull(g))
            assert all(one.dtype.isnative for one in (y, *by))
            if row.unit == "element":
                assert same(y, right.value)
                for got, expected in zip(by, present(right.gradients), strict=True):
                    # What is broadcast is summed, and a sum's last bits depend on its order.
                    assert got.shape != y.shape or same(got, expected)
                continue
            agree(row, host_target, case, y, right.value)
            if all(map(same, by, present(right.gradients))):
                continue
            bound = 2 * gradient_bound(row, host_target, case) * case.eps
            scales = _gradient_scales(row, host_target, case, case.cotangent)
            for got, expected, scale in zip(by, present(right.gradients), scales, strict=True):
                near(host_target, case, got, expected, bound * scale)

    hold(indifferent, row, host_target, Kind("modest"), wanted)


# -- properties of ops along an axis -------------------------------------------------------------


@pytest.mark.parametrize("row", SLICE_ROWS, ids=lambda row: row.name)
def test_order_along_the_axis_does_not_matter(row: Row, eager_target: Target, wanted: int) -> None:
    """Permuting the slices permutes the value, or leaves a reduced one as it is, within ULPs."""

    def symmetric(case: Case) -> None:
        length = case.arrays[0].shape[case.axis]
        order = np.random.default_rng(length + case.arrays[0].size).permutation(length)
        back = np.argsort(order)
        arrays = tuple(
            back[array] if array.dtype.kind == "i" else np.take(array, order, axis=case.axis)
            for array in case.arrays
        )
        expected = value(row, eager_target, case)
        got = value(row, eager_target, replace(case, arrays=arrays))
        if not row.reduces_axis:
            got = np.take(got, back, axis=case.axis)
        agree(row, eager_target, case, got, expected)

    hold(symmetric, row, eager_target, Kind("modest"), wanted)


@pytest.mark.parametrize("row", SLICE_ROWS, ids=lambda row: row.name)
def test_any_axis_is_like_the_last(row: Row, eager_target: Target, wanted: int) -> None:
    """An op along an axis gives what it gives along the last one, within ULPs."""

    def moved(case: Case) -> None:
        arrays = tuple(
            array if array.dtype.kind == "i" else np.moveaxis(array, case.axis, -1).copy()
            for array in case.arrays
        )
        params = {k: v for k, v in case.params.items() if k not in ("axis", "keepdims")}
        got = value(row, eager_target, replace(case, arrays=arrays, params=params))
        expected = value(row, eager_target, case)
        got = got.reshape(expected.shape) if row.reduces_axis else np.moveaxis(got, -1, case.axis)
        agree(row, eager_target, case, got, expected)

    hold(moved, row, eager_target, Kind("modest"), wanted)


SHIFT_INVARIANT = (
    "softmax",
    "log_softmax",
    "relumax",
    "softmax_cross_entropy",
    "softmax_cross_entropy_with_integer_labels",
    "multiclass_hinge_loss",
)


@pytest.mark.parametrize("name", SHIFT_INVARIANT)
def test_translation_changes_nothing(name: str, eager_target: Target, wanted: int) -> None:
    """Adding a number to all of a slice, without rounding, changes no bit of value and gradient."""
    row = TABLE[name]

    def invariant(case: Case) -> None:
        first = case.arrays[0]
        shift = np.asarray([0.0, 37.0, -256.0, 1.5][first.size % 4], first.dtype)
        moved = replace(case, arrays=(first + shift, *case.arrays[1:]))
        one, two = run(row, eager_target, case), run(row, eager_target, moved)
        assert np.array_equal(one.value, two.value), f"{one.value} != {two.value}"
        by_first, by_second = present(one.gradients)[0], present(two.gradients)[0]
        assert np.array_equal(by_first, by_second), f"{by_first} != {by_second}"

    hold(invariant, row, eager_target, Kind("dyadic"), wanted)


@pytest.mark.parametrize("name", ["softmax", "relumax"])
def test_probabilities(name: str, eager_target: Target, wanted: int) -> None:
    """Probabilities lie in [0, 1] and sum to 1 within the ULPs of their terms."""
    row = TABLE[name]

    def sums_to_one(case: Case) -> None:
        y = value(row, eager_target, case)
        assert np.all((y >= 0) & (y <= 1)), f"{y}"
        if y.size == 0:
            return
        sums = np.apply_along_axis(math.fsum, case.axis, np.float64(y))
        allowed = value_bound(row, eager_target, case) * case.eps + y.shape[case.axis] * case.tiny
        assert np.all(np.abs(sums - 1.0) <= allowed), f"{sums}"

    hold(sums_to_one, row, eager_target, Kind("finite"), wanted)


def test_relumax_support(eager_target: Target, wanted: int) -> None:
    """Relumax is 0 where x <= max - b in exact arithmetic, nowhere else, and so is its gradient."""
    row = TABLE["relumax"]

    def support(case: Case) -> None:
        if case.arrays[0].size == 0:
            return
        rows = np.moveaxis(case.arrays[0], case.axis, -1).reshape(
            -1, case.arrays[0].shape[case.axis]
        )
        b = Fraction(float(case.dtype.type(case.params["b"])))
        exact = [[Fraction(float(entry)) for entry in one] for one in rows]
        active = np.asarray([[x - max(one) + b > 0 for x in one] for one in exact])
        (by,) = gradients(row, eager_target, case, case.cotangent)[0]
        assert by is not None
        for out in (value(row, eager_target, case), by):
            along = np.moveaxis(out, case.axis, -1).reshape(rows.shape)
            assert not np.any(along[~active]), f"{out}"
            if out is not by:
                assert np.all(along[active] > 0), f"{out}"

    hold(support, row, eager_target, Kind("modest"), wanted)


# -- properties of single ops --------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sigmoid", "tanh", "softplus", "log_sigmoid", "relu"])
def test_rising(name: str, eager_target: Target, wanted: int) -> None:
    """Activations rise with x, within their ULPs."""
    row = TABLE[name]

    def rising(case: Case) -> None:
        x = np.sort(np.ravel(case.arrays[0])).reshape(case.arrays[0].shape)
        y = np.ravel(value(row, eager_target, replace(case, arrays=(x,)))).astype(np.float64)
        y = np.clip(y, -np.finfo(case.dtype).max, np.finfo(case.dtype).max)
        slack = 2 * value_bound(row, eager_target, case) * case.eps * np.abs(y[1:])
        assert np.all(np.diff(y) >= -slack - 2 * case.tiny), f"{y}"

    hold(rising, row, eager_target, Kind("finite"), wanted)


def test_sigmoid_of_opposites(eager_target: Target, wanted: int) -> None:
    """sigmoid(x) and sigmoid(-x) sum to 1, within ULPs of 1."""
    row = TABLE["sigmoid"]

    def complementary(case: Case) -> None:
        (x,) = case.arrays
        left = value(row, eager_target, replace(case, arrays=(-x,)))
        right = value(row, eager_target, case)
        allowed = (value_bound(row, eager_target, case) + 1) * case.eps
        assert np.all(np.abs(np.float64(left) + right - 1.0) <= allowed), f"{left} {right}"

    hold(complementary, row, eager_target, Kind("finite"), wanted)


def test_log_sigmoid_is_minus_softplus(eager_target: Target, wanted: int) -> None:
    """log_sigmoid(x) = -softplus(-x), within the ULPs of both."""
    row = TABLE["log_sigmoid"]

    def mirrored(case: Case) -> None:
        (x,) = case.arrays
        expected = -value(TABLE["softplus"], eager_target, replace(case, arrays=(-x,)))
        agree(row, eager_target, case, value(row, eager_target, case), expected)

    hold(mirrored, row, eager_target, Kind("finite"), wanted)


@pytest.mark.parametrize(("name", "parity"), [("tanh", -1), ("sign", -1), ("abs", 1)])
def test_parity(name: str, parity: int, eager_target: Target, wanted: int) -> None:
    """Odd and even functions are odd and even: the last two exactly, tanh within its ULPs."""
    row = TABLE[name]

    def symmetric(case: Case) -> None:
        (x,) = case.arrays
        expected = parity * value(row, eager_target, case)
        got = value(row, eager_target, replace(case, arrays=(-x,)))
        agree(row, eager_target, case, got, expected, 2.0 if name == "tanh" else 0.0)

    hold(symmetric, row, eager_target, Kind("finite"), wanted)


NORMS = ("lp_norm", "l1_norm", "l2_norm", "squared_l2_norm")


@pytest.mark.parametrize("name", NORMS)
def test_norms_scale(name: str, eager_target: Target, wanted: int) -> None:
    """A power of two comes out of a norm as it went in: exactly, but for broken p within ULPs."""
    row = TABLE[name]

    def homogeneous(case: Case) -> None:
        (x,) = case.arrays
        factor = x.dtype.type([2.0, 0.25, -(2.0**40), 2.0**-30][x.size % 4])
        got = value(row, eager_target, replace(case, arrays=(x * factor,)))
        outside = factor**2 if name == "squared_l2_norm" else abs(factor)
        expected = value(row, eager_target, case) * outside
        exact = case.params.get("p", 2.0) in (1.0, 2.0, math.inf)
        agree(row, eager_target, case, got, expected, 0.0 if exact else 2.0)

    hold(homogeneous, row, eager_target, Kind("modest"), wanted)


@pytest.mark.parametrize("name", NORMS[:3])
def test_triangle_inequality(name: str, eager_target: Target, wanted: int) -> None:
    """The norm of a sum is at most the sum of the norms, within ULPs, for p >= 1."""
    row = TABLE[name]

    def triangle(case: Case) -> None:
        if case.params.get("p", 2.0) < 1:
            return
        (x,) = case.arrays
        y = np.flip(x)
        sides = [value(row, eager_target, replace(case, arrays=(z,))) for z in (x, y, x + y)]
        one, two, both = map(np.float64, sides)
        slack = 1 + (2 * value_bound(row, eager_target, case) + 2) * case.eps
        assert np.all(both <= (one + two) * slack), f"{sides}"

    hold(triangle, row, eager_target, Kind("modest"), wanted)


RANGES = {
    "sigmoid": (0.0, 1.0),
    "tanh": (-1.0, 1.0),
    "relu": (0.0, math.inf),
    "abs": (0.0, math.inf),
    "sign": (-1.0, 1.0),
    "softplus": (0.0, math.inf),
    "log_sigmoid": (-math.inf, 0.0),
    "log_softmax": (-math.inf, 0.0),
    "cross_entropy": (0.0, math.inf),
    "log_cross_entropy": (0.0, math.inf),
    "nll_loss": (0.0, math.inf),
    "softmax_cross_entropy": (0.0, math.inf),
    "softmax_cross_entropy_with_integer_labels": (0.0, math.inf),
    "squared_error": (0.0, math.inf),
    "l2_loss": (0.0, math.inf),
    "hinge_loss": (0.0, math.inf),
    "multiclass_hinge_loss": (0.0, math.inf),
    **dict.fromkeys(NORMS, (0.0, math.inf)),
}


@pytest.mark.parametrize("name", RANGES)
def test_range(name: str, eager_target: Target, wanted: int) -> None:
    """Losses and norms are not negative, and bounded functions keep to their bounds."""
    low, high = RANGES[name]

    def bounded(case: Case) -> None:
        got = value(TABLE[name], eager_target, case)
        assert np.all((got >= low) & (got <= high)), f"{got}"

    hold(bounded, TABLE[name], eager_target, Kind("finite"), wanted)

"""The functions of compiled kernels: accuracy, special values, the same bits at any width."""

import ctypes
import functools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import mpmath
import numpy as np
import numpy.typing as npt
import pytest

pytest.importorskip("llvmlite", reason="llvmlite is not installed")

import llvmlite.binding as llvm
from llvmlite import ir

from opsgrad.fusion import cpu, functions
from opsgrad.fusion.functions import BINARY, FLOAT32, FLOAT64, I64, UNARY, Format, Functions
from opsgrad.fusion.tables import Task

Array = npt.NDArray[Any]
Kernel = Callable[..., Array]

FORMS = (FLOAT32, FLOAT64)
WIDTHS = {FLOAT32: 16, FLOAT64: 8}

LIMITS = {
    ("exp", FLOAT32): 0.95,
    ("exp", FLOAT64): 0.95,
    ("expm1", FLOAT32): 1.4,
    ("expm1", FLOAT64): 1.3,
    ("log", FLOAT32): 0.9,
    ("log", FLOAT64): 0.9,
    ("log1p", FLOAT32): 1.0,
    ("log1p", FLOAT64): 0.95,
    ("log2", FLOAT32): 1.0,
    ("log2", FLOAT64): 1.0,
    ("tanh", FLOAT32): 1.4,
    ("tanh", FLOAT64): 1.4,
    ("pow", FLOAT32): 0.52,
    ("pow", FLOAT64): 1.3,
}
"""The largest errors allowed, in units in the last place of the exact result."""

CASES = [pytest.param(*case, id=f"{case[0]}-{case[1].dtype}") for case in LIMITS]


# -- kernels ---------------------------------------------------------------------------------------


def module_of(name: str, form: Format, width: int) -> ir.Module:
    """Return a loop that applies a function to so many numbers at a time."""
    pointer = ir.PointerType()
    operation: Any = UNARY.get(name) or BINARY[name]
    count = 1 if name in UNARY else 2
    module = ir.Module()
    signature = ir.FunctionType(ir.VoidType(), [I64] + [pointer] * (count + 1))
    function = ir.Function(module, signature, "kernel")
    length, *pointers = function.args
    entry, body, end = (function.append_basic_block() for _ in range(3))
    builder = ir.IRBuilder(entry)
    builder.branch(body)
    builder.position_at_end(body)
    position = builder.phi(I64)
    position.add_incoming(I64(0), entry)
    size = form.dtype.itemsize
    *inputs, output = (builder.gep(p, [position], source_etype=form.real) for p in pointers)
    compute = Functions(builder, form, width)
    values = [builder.load(p, align=size, typ=compute.real) for p in inputs]
    builder.store(operation(compute, *values), output, align=size)
    after = builder.add(position, I64(width))
    position.add_incoming(after, builder.block)
    builder.cbranch(builder.icmp_signed("<", after, length), body, end)
    builder.position_at_end(end)
    builder.ret_void()
    return module


def compiled(name: str, form: Format, width: int, processor: str = "") -> Kernel:
    """Return a function of arrays that runs a kernel."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    module = llvm.parse_assembly(str(module_of(name, form, width)))
    module.verify()
    machine = llvm.Target.from_default_triple().create_target_machine(
        cpu=processor or llvm.get_host_cpu_name(),
        features="" if processor else llvm.get_host_cpu_features().flatten(),
        opt=2,
        jit=True,
    )
    passes = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(2))
    passes.getModulePassManager().run(module, passes)
    engine = llvm.create_mcjit_compiler(module, machine)
    engine.finalize_object()
    pointers = [ctypes.c_void_p] * (2 if name in UNARY else 3)
    kernel = ctypes.CFUNCTYPE(None, ctypes.c_int64, *pointers)(
        engine.get_function_address("kernel")
    )

    def call(*arrays: Array) -> Array:
        length = arrays[0].size
        padding = np.ones(-length % width)
        padded = [np.concatenate((x, padding), dtype=form.dtype) for x in arrays]
        out = np.empty_like(padded[0])
        kernel(out.size, *(x.ctypes.data for x in (*padded, out)))
        return out[:length]

    call.engine = engine  # type: ignore[attr-defined]  # which owns the code
    return call


kernel_of = functools.cache(compiled)


# -- errors ----------------------------------------------------------------------------------------


def unit_of(exact: Array, dtype: Any) -> Array:
    """Return units in the last place."""
    info = np.finfo(dtype)
    binade = np.where(np.isfinite(exact) & (exact != 0), np.frexp(exact)[1] - 1, info.minexp)
    return np.ldexp(1.0, np.maximum(binade, info.minexp) - info.nmant)


def largest_error(got: Array, exact: Array, rest: Array | float = 0.0) -> float:
    """Return the largest error in units in the last place of the exact result.

    This is `exact` and so many units as `rest` says.
    """
    info = np.finfo(got.dtype)
    wanted = exact.astype(np.float64)
    with np.errstate(all="ignore"):
        unit = unit_of(wanted, got.dtype)
        largest = float(info.max)
        wanted[np.abs(wanted) - largest >= math.ulp(largest) / 2] *= np.inf
        if got.dtype == np.float32:
            wanted[np.abs(wanted) >= 2.0**128 - 2.0**103] *= np.inf
        error = np.abs((got - wanted) / unit - rest)
        same = (got == wanted) & ~np.isfinite(wanted) | np.isnan(got) & np.isnan(wanted)
    error[same] = 0.0
    error[np.isnan(error)] = np.inf
    return float(error.max())


def exact_values(name: str, arrays: tuple[Array, ...]) -> tuple[Array, Array | float]:
    """Return the exact values at given points, and how many units in the last place are missing."""
    with np.errstate(all="ignore"):
        if arrays[0].dtype == np.float32:
            # NumPy's float64 is exact to 2^-28 units of float32.
            wide = [x.astype(np.float64) for x in arrays]
            return np.asarray(getattr(np, name)(*wide)), 0.0
    function = {"pow": mpmath.power, "log2": lambda x: mpmath.log(x) / mpmath.ln2}.get(name)
    function = function or getattr(mpmath, name)
    with mpmath.workdps(40):
        rows = zip(*(x.tolist() for x in arrays), strict=True)
        values = [function(*map(mpmath.mpf, row)) for row in rows]
        rounded = np.array([float(value) for value in values])
        units = unit_of(rounded, np.float64).tolist()
        pairs = zip(values, rounded.tolist(), units, strict=True)
        rest = [(one - near) / unit if math.isfinite(near) else 0 for one, near, unit in pairs]
    return rounded, np.array(rest, np.float64)


def around(places: Array, dtype: Any, rng: np.random.Generator, count: int) -> Array:
    """Return numbers at and close to the places."""
    chosen = rng.choice(places, count)
    spread = np.ldexp(rng.standard_normal(count), rng.integers(-np.finfo(dtype).nmant, -3, count))
    return np.asarray(chosen * (1.0 + spread))


def points(name: str, form: Format, count: int, rng: np.random.Generator) -> tuple[Array, ...]:
    """Return about so many points: over the whole range, and close to where it is hard."""
    info = np.finfo(form.dtype)
    ends = np.log([float(info.max), float(info.smallest_normal), float(info.smallest_subnormal)])
    part = count // 5
    if name == "pow":
        wide = np.exp(rng.uniform(0.93 * ends[1], 0.93 * ends[0], count - 2 * part))
        base = np.concatenate((wide, around(np.ones(1), form.dtype, rng, part)))
        base = np.concatenate((base, rng.uniform(0.5, 2.0, part))).astype(form.dtype)
        base = np.where(base == 1, form.dtype.type(1.5), base)
        wanted = rng.uniform(ends[2], ends[0], count)
        return base, (wanted / np.log(base.astype(np.float64))).astype(form.dtype)
    reach = {"exp": 2.0 - ends[2], "expm1": 1.02 * ends[0], "tanh": form.tanh_end}.get(name, 100.0)
    exponentials = name in ("exp", "expm1", "tanh")
    steps = np.arange(1, 80) * math.log(2.0) / 2.0
    places = (
        np.concatenate((steps, ends, steps / 2.0))
        if exponentials
        else np.sqrt(2.0) ** (np.arange(-40, 40))
    )
    bits = rng.integers(0, 2 ** (8 * form.dtype.itemsize - 1), part)
    x = np.concatenate(
        [
            bits.astype(f"u{form.dtype.itemsize}").view(form.dtype),
            rng.uniform(-reach, reach, part),
            around(np.concatenate((places, 1.0 - places)), form.dtype, rng, part),
            np.ldexp(rng.standard_normal(part), rng.integers(-40, 3, part)),
            rng.standard_normal(part // 2) * float(info.smallest_normal),
            rng.uniform(-1.5, 1.5, part - part // 2),
        ],
        dtype=form.dtype,
    )
    x = x[np.isfinite(x)]
    x *= rng.choice(np.array([-1, 1], form.dtype), x.size)
    if name in ("log", "log2"):
        x = np.abs(x)
    if name == "log1p":
        x = np.where(x < -1, -x, x)
    return (x[x != (-1 if name == "log1p" else 0)],)


@functools.cache
def sample(name: str, form: Format) -> tuple[tuple[Array, ...], Array, Array | float]:
    """Return points and the exact values there."""
    count = 1_000_000 if form is FLOAT32 else 20_000
    with np.errstate(all="ignore"):
        arrays = points(name, form, count, np.random.default_rng(20261))
    return arrays, *exact_values(name, arrays)


def measured(name: str, form: Format, kernel: Kernel) -> float:
    original = next(one for one in FORMS if one.dtype == form.dtype)
    arrays, exact, rest = sample(name, original)
    return largest_error(kernel(*arrays), exact, rest)


@pytest.mark.parametrize(("name", "form"), CASES)
def test_accuracy(name: str, form: Format) -> None:
    worst = measured(name, form, kernel_of(name, form, WIDTHS[form]))
    assert worst <= LIMITS[name, form], f"{name} {form.dtype}: {worst:.3f} ULP"
    assert worst > 0.45  # of so many points: else they are not what they should be


@pytest.mark.parametrize("name", [name for name, form in LIMITS if form is FLOAT32])
def test_oracle_of_float32(name: str) -> None:
    """NumPy's float64, against which float32 is measured, agrees with mpmath."""
    rng = np.random.default_rng(20262)
    with np.errstate(all="ignore"):
        arrays = points(name, FLOAT32, 1_000, rng)
        exact, _ = exact_values(name, arrays)
        high, low = exact_values(name, tuple(x.astype(np.float64) for x in arrays))
        usual = np.abs(high) >= np.finfo(np.float64).smallest_normal
    assert largest_error(exact[usual], high[usual], np.asarray(low)[usual]) <= 4.0


@pytest.mark.parametrize(("name", "form"), CASES)
@pytest.mark.parametrize("width", [1, 4])
def test_same_bits_at_any_width(name: str, form: Format, width: int) -> None:
    arrays = tuple(x[-50_000:] for x in sample(name, form)[0])
    one = kernel_of(name, form, width)(*arrays)
    np.testing.assert_array_equal(one, kernel_of(name, form, WIDTHS[form])(*arrays), strict=True)


@pytest.mark.parametrize(("name", "form"), CASES)
def test_same_bits_without_avx512(name: str, form: Format) -> None:
    features = llvm.get_host_cpu_features()
    if not (features.get("avx2") and features.get("fma")):
        pytest.skip("no processor of the x86-64-v3 kind")
    arrays = tuple(x[-50_000:] for x in sample(name, form)[0])
    one = compiled(name, form, WIDTHS[form], "x86-64-v3")(*arrays)
    np.testing.assert_array_equal(one, kernel_of(name, form, WIDTHS[form])(*arrays), strict=True)


@pytest.mark.parametrize(("name", "form"), CASES)
def test_no_poison_and_nothing_reordered(name: str, form: Format) -> None:
    """Conversions to integers are undefined for NaN; flags would let LLVM change roundings."""
    text = str(module_of(name, form, WIDTHS[form]))
    words = set(text.replace("(", " ").split())
    flags = {"fast", "reassoc", "contract", "nnan", "ninf", "nsz", "arcp", "afn", "nsw", "nuw"}
    assert not words & (flags | {"fptosi", "fptoui", "exact"})


# -- special values --------------------------------------------------------------------------------


def specials(form: Format) -> Array:
    """Return numbers at which functions have values of their own, with both signs."""
    info = np.finfo(form.dtype)
    ends = np.log([float(info.max), float(info.smallest_normal), float(info.smallest_subnormal)])
    last = 2.0**info.nmant
    values = [0.0, 0.5, 1.0, 1.0 - float(info.epsneg), 1.0 + float(info.eps), 1.5, 2.0, 2.5, 3.0]
    values += [last - 1.0, last, last + 1.0, 2.0 * last - 1.0, 2.0 * last, 4.0 * last]
    values += [*ends, 2.0 * ends[0], float(info.max) / 2.0, float(info.max), np.inf, np.nan]
    values += [float(info.smallest_subnormal), 3.0 * float(info.smallest_subnormal)]
    values += [float(info.smallest_normal), float(info.smallest_normal) / 2.0]
    positive = np.array(values, form.dtype)
    positive = np.concatenate((positive, np.nextafter(positive, np.inf, dtype=form.dtype)))
    return np.unique(np.concatenate((positive, -positive)).view(f"i{form.dtype.itemsize}")).view(
        form.dtype
    )


@pytest.mark.parametrize(("name", "form"), CASES)
@pytest.mark.parametrize("vector", [False, True], ids=["scalar", "vector"])
def test_special_values(name: str, form: Format, vector: bool) -> None:
    with np.errstate(all="ignore"):
        x = specials(form)
        arrays = (x,) if name in UNARY else tuple(a.ravel() for a in np.meshgrid(x, x))
        wanted = getattr(np, name)(*arrays)
        got = kernel_of(name, form, WIDTHS[form] if vector else 1)(*arrays)
        info = np.finfo(form.dtype)
        close = np.abs(got - wanted) <= 4 * np.maximum(
            np.spacing(np.abs(wanted)), info.smallest_subnormal
        )
    right = np.isnan(got) & np.isnan(wanted)
    right |= ((got == wanted) | close) & (np.signbit(got) == np.signbit(wanted))
    wrong = [np.array(a)[~right] for a in (*arrays, got, wanted)]
    assert right.all(), f"{name} at, got, NumPy's: {list(zip(*wrong, strict=True))[:5]}"


@pytest.mark.parametrize("form", FORMS, ids=lambda form: str(form.dtype))
@pytest.mark.parametrize(
    ("name", "at", "value"),
    [
        ("exp", (np.inf,), np.inf),
        ("exp", (-np.inf,), 0.0),
        ("expm1", (-0.0,), -0.0),
        ("expm1", (np.inf,), np.inf),
        ("expm1", (-np.inf,), -1.0),
        ("log", (0.0,), -np.inf),
        ("log", (-0.0,), -np.inf),
        ("log", (-1.0,), np.nan),
        ("log", (np.inf,), np.inf),
        ("log1p", (-1.0,), -np.inf),
        ("log1p", (-2.0,), np.nan),
        ("log1p", (-0.0,), -0.0),
        ("tanh", (-0.0,), -0.0),
        ("tanh", (-np.inf,), -1.0),
        ("pow", (1.0, np.nan), 1.0),
        ("pow", (np.nan, 0.0), 1.0),
        ("pow", (-1.0, np.inf), 1.0),
        ("pow", (-8.0, 3.0), -512.0),
        ("pow", (-8.0, 0.5), np.nan),
        ("pow", (-0.0, -3.0), -np.inf),
        ("pow", (-np.inf, 0.5), np.inf),
        ("pow", (-np.inf, -3.0), -0.0),
    ],
)
def test_contract(name: str, at: tuple[float, ...], value: float, form: Format) -> None:
    """What must hold whatever NumPy says."""
    (got,) = kernel_of(name, form, WIDTHS[form])(*(np.full(1, x, form.dtype) for x in at))
    assert math.isnan(got) if math.isnan(value) else got == value
    assert math.isnan(value) or math.copysign(1.0, got) == math.copysign(1.0, value)


@pytest.mark.parametrize(("name", "form"), [case for case in CASES if case.values[0] != "pow"])
def test_nan_stays_nan(name: str, form: Format) -> None:
    """Of every kind: no bits of a NaN may turn it into a number."""
    info = np.finfo(form.dtype)
    kind = f"u{form.dtype.itemsize}"
    payload = np.random.default_rng(1).integers(1, 2**info.nmant, 1_000).astype(kind)
    exponent = np.array(np.inf, form.dtype).view(kind)
    sign = np.array(-0.0, form.dtype).view(kind)
    bits = np.concatenate((payload | exponent, payload | exponent | sign))
    assert np.isnan(kernel_of(name, form, WIDTHS[form])(bits.view(form.dtype))).all()


# -- planted mistakes ------------------------------------------------------------------------------

TABLES = {
    "exp": "exp",
    "expm1": "expm1",
    "tanh": "expm1",
    "log": "log",
    "log1p": "log",
    "log2": "log",
}


def moved(table: tuple[float, ...], name: str, number: int, units: float) -> tuple[float, ...]:
    """Return coefficients of which one is wrong, by so many units of the function.

    At the end of the interval: relative to e^r or to the logarithm.
    """
    if name == "log":
        weight = 0.17 ** (2 * number + 2) / 2.0
    else:
        weight = (math.log(2.0) / 2.0) ** (number + 2)
    return tuple(c + (units / weight if k == number else 0.0) for k, c in enumerate(table))


@pytest.mark.parametrize(("name", "form"), [case for case in CASES if case.values[0] != "pow"])
def test_wrong_coefficient_is_caught(name: str, form: Format) -> None:
    """By any coefficient wrong enough to move the result by two units."""
    table = TABLES[name]
    right = getattr(form, table)
    for number in range(len(right)):
        wrong = moved(right, table, number, 2.0 * float(np.finfo(form.dtype).eps))
        planted: Format = replace(form, **{table: wrong})  # type: ignore[arg-type]
        worst = measured(name, planted, compiled(name, planted, WIDTHS[form]))
        assert worst > LIMITS[name, form], f"coefficient {number} of {table}: {worst:.3f} ULP"


@pytest.mark.parametrize("form", FORMS, ids=lambda form: str(form.dtype))
def test_wrong_coefficient_of_pow_is_caught(form: Format, monkeypatch: pytest.MonkeyPatch) -> None:
    if form is FLOAT32:
        inside = functions.IN_FLOAT64
        wrong = moved(tuple(inside.log), "log", 0, 2.0**-30)
        monkeypatch.setattr(functions, "IN_FLOAT64", replace(inside, log=wrong))
    else:
        first, *rest = functions.LOG_BEYOND
        monkeypatch.setattr(functions, "LOG_BEYOND", (first + 2.0**-48, *rest))
    worst = measured("pow", form, compiled("pow", form, WIDTHS[form]))
    assert worst > LIMITS["pow", form]


def test_harness_sees_every_kind_of_error() -> None:
    exact = np.array([1.0, 1e300, 5e-324, 0.0])
    assert largest_error(exact, exact) == 0.0
    for number, wrong in ((0, 1.0 + 2.0**-52), (2, 1e-323), (3, 5e-324)):
        got = exact.copy()
        got[number] = wrong
        assert largest_error(got, exact) == 1.0
    for number, wrong in ((0, np.nan), (1, np.inf), (3, -np.inf)):
        got = exact.copy()
        got[number] = wrong
        assert largest_error(got, exact) == np.inf
    assert largest_error(np.array([1.0]), np.array([1.0]), np.array([0.5])) == 0.5
    huge = np.array([3.5e38])
    assert largest_error(np.array([np.inf], np.float32), huge) == 0.0
    assert largest_error(np.array([3.4028235e38], np.float32), huge) == np.inf


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("columns", [1, 300])
def test_the_exponent_of_a_number_takes_no_logarithm(dtype: type, columns: int) -> None:
    def body(xp: Any, x: Any, /, *, axis: int) -> Any:
        return xp.floor(xp.log2(xp.max(x, axis=axis)))

    info = np.finfo(dtype)
    tiny, small = info.smallest_subnormal, info.smallest_normal
    edges = [1.0, 3.0, 0.75, 1 - info.epsneg, 2 - info.eps, info.max, small, tiny, 5 * tiny]
    numbers = np.array([*edges, small / 3, 2.0**100 * (1 - info.epsneg)], dtype)
    spread = np.exp2(np.random.default_rng(0).uniform(-120, 120, 500)).astype(dtype)
    x = np.concatenate([numbers, spread])
    task = Task(body, ("x",), {"axis": -1}, np.dtype(dtype), False, frozenset())
    out = cpu.Fused(task, 0)(np.repeat(x[:, None], columns, axis=1))
    np.testing.assert_array_equal(out, [math.frexp(float(one))[1] - 1 for one in x])
    special = np.array([0.0, -0.0, math.inf, math.nan, -1.0], dtype)
    out = cpu.Fused(task, 0)(np.repeat(special[:, None], columns, axis=1))
    np.testing.assert_array_equal(out, [-math.inf, -math.inf, math.inf, math.nan, math.nan])

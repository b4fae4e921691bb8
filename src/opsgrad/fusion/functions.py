"""The functions of a kernel, as LLVM instructions on vectors and on single numbers.

All are free of branches, so that they run on as many numbers at once as the processor takes, and
make their roundings explicit: nothing here may be reassociated or contracted. Only instructions
that every vector unit has are used, so that a number comes out the same bit for bit in a vector of
any width.

The polynomials are minimax ones, from a Remez exchange at 50 digits: the largest relative error
over the interval of their argument is smallest among all with that number of terms, with the
coefficients rounded to the data type one by one, from the constant upwards, and the rest fitted
again after each. The error is given with each, in units in the last place of 1.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from llvmlite import ir

I1, I32, I64 = ir.IntType(1), ir.IntType(32), ir.IntType(64)
LN2 = 0.6931471805599453
LN2_REST = 2.3190468138462996e-17
"""What log 2 has beyond `LN2`."""
LOG2_E = 1.4426950408889634
LOG2_E_REST = 2.0355273740931033e-17


@dataclass(frozen=True)
class Format:
    """A floating-point format: its LLVM types and what the functions need to know of it."""

    dtype: np.dtype[Any]
    real: Any
    integer: Any
    mantissa: int
    """The number of explicit bits of the significand."""
    bias: int
    exp: Sequence[float]
    """(e^r - 1 - r)/r² in powers of r, for |r| ≤ log(2)/2, best for e^r."""
    expm1: Sequence[float]
    """The same for r from log ¾ to log 3/2, best for e^r - 1."""
    log: Sequence[float]
    """(2 artanh(s) - 2s)/s³ in powers of s², for |s| ≤ (1 - MIDDLE)/(1 + MIDDLE)."""
    exp_range: tuple[float, float]
    """Below the first exp is 0, above the second it is infinite."""
    expm1_range: tuple[float, float]
    """Below the first expm1 is -1, above the second it is infinite."""
    tanh_end: float
    """From here on tanh is 1."""
    has_subnormals: bool = True
    """Whether arguments and results of exp and log may be subnormal."""

    @property
    def smallest_normal(self) -> float:
        """The smallest normal number."""
        return float(np.finfo(self.dtype).smallest_normal)

    @property
    def largest_divisor(self) -> float:
        """Between one over this and this, the inverse is normal, and so is what it is short of."""
        return 2.0 ** (self.bias - self.mantissa - 4)

    @property
    def tiny(self) -> float:
        """Where x²/2 is nothing beside x."""
        return 2.0 ** -(self.mantissa + 5)

    @property
    def ln2_high(self) -> float:
        """The first bits of log 2, so few that the product with an exponent is exact."""
        bits = self.mantissa - self.bias.bit_length() - 1
        return math.ldexp(math.floor(math.ldexp(LN2, bits)), -bits)

    @property
    def ln2_low(self) -> float:
        return (LN2 - self.ln2_high) + LN2_REST

    def integer_of(self, value: float) -> int:
        """Return the bits of a number of the format."""
        return int(self.dtype.type(value).view(f"i{self.dtype.itemsize}"))


FLOAT32 = Format(
    np.dtype(np.float32),
    ir.FloatType(),
    I32,
    mantissa=23,
    bias=127,
    # 0.03 units.
    exp=(0.49999994, 0.16666521, 0.041668262, 0.008368675, 0.0013821059),
    # 0.1 units.
    expm1=(0.5000001, 0.16666585, 0.041659735, 0.008358684, 0.0014596203),
    # 0.009 units.
    log=(0.66666806, 0.39973634, 0.2998213),
    exp_range=(-104.0, 89.0),
    expm1_range=(-20.0, 89.0),
    tanh_end=10.0,
)
FLOAT64 = Format(
    np.dtype(np.float64),
    ir.DoubleType(),
    I64,
    mantissa=52,
    bias=1023,
    # 0.02 units.
    exp=(
        0.5000000000000011, 0.1666666666666646, 0.0416666666665285, 0.008333333333472625,
        0.0013888888943818217, 0.00019841269542555077, 2.48014930251195e-05,
        2.7557560812501286e-06, 2.763025276355745e-07, 2.5006711676230802e-08,
    ),
    # 0.09 units.
    expm1=(
        0.49999999999999994, 0.1666666666666732, 0.04166666666667899, 0.008333333332660063,
        0.0013888888886076515, 0.00019841272044571027, 2.4801577660413266e-05,
        2.7554402923597247e-06, 2.7588325867282714e-07, 2.6425760547839844e-08,
    ),
    # 0.01 units.
    log=(
        0.6666666666666786, 0.3999999999904662, 0.28571428828465356, 0.22222189404490372,
        0.18184054302887082, 0.15301251715625278, 0.14925974226101307,
    ),
    exp_range=(-746.0, 710.0),
    expm1_range=(-40.0, 710.0),
    tanh_end=20.0,
)  # fmt: skip
FORMATS = {one.dtype: one for one in (FLOAT32, FLOAT64)}

IN_FLOAT64 = replace(
    FLOAT64,
    # 0.0004 units of float32.
    exp=(
        0.5000000067786248, 0.16666665867728925, 0.0416662945662776, 0.008333497252390415,
        0.0013944688265202414, 0.0001979030643272293,
    ),
    # 2^-37 of the logarithm: y·log x, of which exp takes 104 at most, is wrong by 2^-30.
    log=(0.6666666525364594, 0.4000042805803573, 0.28531220764666737, 0.2370020725644393),
    exp_range=FLOAT32.exp_range,
    has_subnormals=False,
)  # fmt: skip
"""float64 for arguments and results of float32, as exact as these need."""

LOG_BEYOND = (
    0.4000000000000398, 0.2857142856926302, 0.22222222669998443, 0.1818177123693332,
    0.1538735961524427, 0.1324289852534293, 0.13324203228398615,
)  # fmt: skip
"""((2 artanh(s) - 2s)/s³ - 2/3)/s² in powers of s²: wrong by 2^-65 of the logarithm at most."""

MIDDLE = 0.697
"""Logarithms are of 2^k times a number from here to twice this.

Little below √½: then 2·(log(1 + f) - f) stays below ⅛ and its rounding errors small, without which
log2 is wrong by up to 1.08 units in the last place.
"""


class Functions:
    """The functions on values of one width: 1 for single numbers, else vectors."""

    def __init__(self, builder: Any, form: Format, width: int) -> None:
        self.builder = builder
        self.form = form
        self.width = width
        self.real = self.vector(form.real)
        self.integer = self.vector(form.integer)

    def vector(self, scalar: Any) -> Any:
        """Return the type of as many of a scalar as there are."""
        return scalar if self.width == 1 else ir.VectorType(scalar, self.width)

    def number(self, value: float) -> Any:
        """Return a constant, in each entry."""
        return _constant(self.real, self.form.dtype.type(value).item(), self.width)

    def whole(self, value: int) -> Any:
        """Return an integer constant, in each entry."""
        return _constant(self.integer, value, self.width)

    def call(self, name: str, *operands: Any, flags: Sequence[str] = ()) -> Any:
        """Call an LLVM intrinsic of the operands' type."""
        module = self.builder.module
        lanes = "" if self.width == 1 else f"v{self.width}"
        full = f"llvm.{name}.{lanes}f{8 * self.form.dtype.itemsize}"
        signature = ir.FunctionType(self.real, [self.real] * len(operands))
        intrinsic = module.globals.get(full) or ir.Function(module, signature, full)
        return self.builder.call(intrinsic, operands, fastmath=flags)

    def fma(self, x: Any, y: Any, z: Any) -> Any:
        """Return x·y + z, rounded once."""
        return self.call("fma", x, y, z)

    def bits(self, x: Any) -> Any:
        return self.builder.bitcast(x, self.integer)

    def of_bits(self, x: Any) -> Any:
        return self.builder.bitcast(x, self.real)

    def select(self, condition: Any, one: Any, other: Any) -> Any:
        return self.builder.select(condition, one, other)

    def polynomial(self, x: Any, coefficients: Sequence[float]) -> Any:
        """Return a polynomial, its coefficients from the constant upwards.

        By Horner's rule: kernels work on several vectors at a time, which hides how long each step
        takes, and no scheme has fewer steps.
        """
        *rest, last = coefficients
        value = self.number(last)
        for coefficient in reversed(rest):
            value = self.fma(value, x, self.number(coefficient))
        return value

    # -- exponentials ----------------------------------------------------------------------------

    def _reduced(self, x: Any, offset: int, shift: float = 0.0) -> tuple[Any, Any]:
        """Return n + offset in the last bits of an integer, and r = x - n·log 2.

        n is the whole number nearest to (x - shift)/log 2.
        """
        form, b = self.form, self.builder
        # Adding 1.5·2^mantissa leaves a whole number in the last bits, here with the offset added.
        magic = self.number(1.5 * 2.0**form.mantissa + offset)
        near = b.fsub(x, self.number(shift)) if shift else x
        shifted = self.fma(near, self.number(1.0 / LN2), magic)
        count = b.fsub(shifted, magic)
        rest = self.fma(count, self.number(-form.ln2_high), x)
        rest = self.fma(count, self.number(-form.ln2_low), rest)
        return self.bits(shifted), rest

    def _to_exponent(self, bits: Any) -> Any:
        """Return an integer's last bits where the exponent of a number is."""
        return self.builder.shl(bits, self.whole(self.form.mantissa))

    def _within(self, x: Any, low: float, high: float) -> Any:
        """Return x or the end of the range nearest to it; NaN stays NaN."""
        b, least, most = self.builder, self.number(low), self.number(high)
        x = self.select(b.fcmp_ordered("<", x, least), least, x)
        return self.select(b.fcmp_ordered(">", x, most), most, x)

    def exp(self, x: Any, more: Any = None) -> Any:
        """Return e^x, or e^(x + more) for something so small that (x + more) - x is lost."""
        x = self._within(x, *self.form.exp_range)
        count, rest = self._reduced(x, self._biases)
        if more is not None:
            rest = self.builder.fadd(rest, more)
        return self._scaled_exp(count, rest)

    def exp2(self, x: Any) -> Any:
        """Return 2^x: exact for whole numbers, which `pow` is not."""
        b = self.builder
        x = self._within(x, *(end / LN2 for end in self.form.exp_range))
        magic = self.number(1.5 * 2.0**self.form.mantissa + self._biases)
        shifted = b.fadd(x, magic)
        rest = b.fmul(b.fsub(x, b.fsub(shifted, magic)), self.number(LN2))
        return self._scaled_exp(self.bits(shifted), rest)

    @property
    def _biases(self) -> int:
        # Twice the bias, because the exponent is put into two powers of two.
        return (2 if self.form.has_subnormals else 1) * self.form.bias

    def _scaled_exp(self, count: Any, rest: Any) -> Any:
        """Return e^rest·2^n, with n + `_biases` in the last bits of `count`."""
        b, form = self.builder, self.form
        value = self.polynomial(rest, (1.0, 1.0, *form.exp))
        scale = self._to_exponent(count)
        if form.has_subnormals:
            # 2^n itself may lie beyond the range although the result does not: half of n first.
            half = b.shl(count, self.whole(form.mantissa - 1))
            half = b.and_(half, self.whole(form.integer_of(math.inf)))
            value = b.fmul(value, self.of_bits(half))
            scale = b.sub(scale, half)
        return b.fmul(value, self.of_bits(scale))

    def _grown(self, x: Any, offset: int) -> tuple[Any, Any, Any]:
        """Return 2^(n + offset), r, and (e^r - 1) - r, where x = n·log 2 + r.

        e^r lies from ¾ to 3/2: 2^n·(e^r - 1) + (2^n - 1) is ½ or more for n = 1, -¼ or less for -1,
        so that the rounding errors of r and e^r - 1 count little. With |r| ≤ log(2)/2, expm1 is
        wrong by up to 1.9 units in the last place, so by 1.2.
        """
        b, form = self.builder, self.form
        count, rest = self._reduced(x, form.bias + offset, 0.5 * math.log(1.125))
        beyond = b.fmul(b.fmul(rest, rest), self.polynomial(rest, form.expm1))
        return self.of_bits(self._to_exponent(count)), rest, beyond

    def expm1(self, x: Any) -> Any:
        b = self.builder
        # Half the result, and then twice that: 2^n may lie beyond the range.
        half, rest, beyond = self._grown(self._within(x, *self.form.expm1_range), -1)
        value = self.fma(half, b.fadd(rest, beyond), b.fsub(half, self.number(0.5)))
        value = b.fadd(value, value)
        # Half a subnormal number would lose a bit, and the sum the sign of -0.0.
        tiny = b.fcmp_ordered("<", self.call("fabs", x), self.number(self.form.tiny))
        return self.select(tiny, x, value)

    def tanh(self, x: Any) -> Any:
        """Return tanh x = g/(g + 2), with g = e^2|x| - 1, as a sum of which the quotient is small.

        Up to ½ it is |x| + (g - |x|·(g + 2))/(g + 2), and 1 - 2/(g + 2) beyond. With 2|x| = n·log 2
        + r, n is 0 or 1 below ½, and g - 2|x| = 2^n·(e^r - 1 - r) + (2^n - 1)·(r + 1 - log 2).
        """
        b = self.builder
        size = self.call("fabs", x)
        size = self._within(size, 0.0, self.form.tanh_end)
        twice = b.fadd(size, size)
        power, rest, beyond = self._grown(twice, 0)
        one = self.number(1.0)
        below = self.fma(power, b.fadd(rest, beyond), b.fadd(power, one))
        more = b.fmul(b.fsub(power, one), b.fadd(rest, self.number(1.0 - LN2)))
        more = self.fma(power, beyond, more)
        above = self.fma(b.fneg(size), b.fadd(twice, more), more)
        large = b.fcmp_ordered(">", size, self.number(0.5 * math.log(3.0)))
        above = self.select(large, self.number(-2.0), above)
        value = b.fadd(self.select(large, one, size), b.fdiv(above, below))
        return self.call("copysign", value, x)

    # -- logarithms ------------------------------------------------------------------------------

    def _split(self, x: Any) -> tuple[Any, Any]:
        """Return k and m with x = 2^k·m, for a normal number: k where an exponent is, with bias.

        m lies from `MIDDLE` to twice that.
        """
        form, b = self.form, self.builder
        middle, digits = form.integer_of(MIDDLE), form.mantissa
        bits = b.add(self.bits(x), self.whole((form.bias << digits) - middle))
        rest = b.and_(bits, self.whole((1 << digits) - 1))
        return bits, self.of_bits(b.add(rest, self.whole(middle)))

    def _whole_number(self, exponent: Any, bias: Any) -> Any:
        """Return as a number what `_split` returns where an exponent is, less the bias."""
        b, digits = self.builder, self.form.mantissa
        # No conversion: for 64 bits there is none on vectors without AVX-512.
        whole = b.lshr(exponent, self.whole(digits))
        whole = self.of_bits(b.or_(whole, self.whole(self.form.integer_of(2.0**digits))))
        return b.fsub(whole, b.fadd(self.number(2.0**digits), bias))

    def _log_parts(self, x: Any) -> tuple[Any, Any]:
        """Return k as a number and f with x = 2^k·(1 + f), for a positive, finite x."""
        form, b = self.form, self.builder
        bias = self.number(form.bias)
        if form.has_subnormals:
            tiny = b.fcmp_ordered("<", x, self.number(form.smallest_normal))
            lift = form.mantissa + 2
            x = self.select(tiny, b.fmul(x, self.number(2.0**lift)), x)
            bias = self.select(tiny, self.number(form.bias + lift), bias)
        exponent, significand = self._split(x)
        return self._whole_number(exponent, bias), b.fsub(significand, self.number(1.0))

    def _log_tail(self, f: Any) -> Any:
        """Return twice log(1 + f) - f, from the series in s = f/(2 + f)."""
        b = self.builder
        s = b.fdiv(f, b.fadd(f, self.number(2.0)))
        z, square = b.fmul(s, s), b.fmul(f, f)
        terms = [2.0 * coefficient for coefficient in self.form.log]
        inner = self.fma(z, self.polynomial(z, terms), square)
        return self.fma(s, inner, b.fneg(square))

    def _log(self, k: Any, f: Any, missing: Any = None) -> Any:
        """Return k·log 2 + log(1 + f), or of 1 + f + missing."""
        b, form = self.builder, self.form
        # k·log 2 + f with its rounding error: else results for k = ±1 miss by a whole unit.
        high = b.fmul(k, self.number(form.ln2_high))
        total = b.fadd(high, f)
        lost = b.fsub(f, b.fsub(total, high))
        if missing is not None:
            lost = b.fadd(lost, missing)
        lost = self.fma(k, self.number(form.ln2_low), lost)
        return b.fadd(total, self.fma(self._log_tail(f), self.number(0.5), lost))

    def _of_positive(self, x: Any, value: Any, at: Any) -> Any:
        """Return `value`, with the logarithm's special values where `at` is 0, below, or inf."""
        b, zero = self.builder, self.number(0.0)
        value = self.select(b.fcmp_ordered("==", at, zero), self.number(-math.inf), value)
        value = self.select(b.fcmp_ordered("<", at, zero), self.number(math.nan), value)
        infinite = b.fcmp_unordered("==", at, self.number(math.inf))  # or NaN
        return self.select(infinite, x, value)

    def log(self, x: Any) -> Any:
        return self._of_positive(x, self._log(*self._log_parts(x)), x)

    def log1p(self, x: Any) -> Any:
        """Return log(1 + x) = k·log 2 + log(1 + f), with f = x/2^k + (1/2^k - 1)."""
        b, form = self.builder, self.form
        one = self.number(1.0)
        total = b.fadd(one, x)
        exponent, _ = self._split(total)
        biased = b.and_(exponent, self.whole(-1 << form.mantissa))
        power = b.sub(biased, self.whole(form.bias << form.mantissa))
        # x/2^k and 1/2^k are exact: only their sum f is rounded, and by nothing where k is 0.
        scale = self.of_bits(b.sub(self.bits(one), power))
        zero = self.number(0.0)  # for the two largest k, where 1/2^k is no normal number
        scale = self.select(b.fcmp_ordered(">", scale, zero), scale, zero)
        lowered = self.of_bits(b.sub(self.bits(x), power))
        shift = b.fsub(scale, one)
        f = b.fadd(lowered, shift)
        missing = b.fsub(lowered, b.fsub(f, shift))
        value = self._log(self._whole_number(exponent, self.number(form.bias)), f, missing)
        value = self._of_positive(x, value, total)
        return self.select(b.fcmp_ordered("==", x, zero), x, value)

    def log2(self, x: Any) -> Any:
        b = self.builder
        k, f = self._log_parts(x)
        factor = self.number(LOG2_E)
        rest = self.number(LOG2_E - float(self.form.dtype.type(LOG2_E)) + LOG2_E_REST)
        # k + f/log 2 with its rounding errors.
        product = b.fmul(f, factor)
        total = b.fadd(k, product)
        lost = b.fsub(product, b.fsub(total, k))
        lost = b.fadd(lost, self.fma(f, factor, b.fneg(product)))
        lost = self.fma(f, rest, lost)
        low = self.fma(self._log_tail(f), self.number(0.5 * LOG2_E), lost)
        return self._of_positive(x, b.fadd(total, low), x)

    def floor_log2(self, x: Any) -> Any:
        """Return the exponent of a number, which norms ask for in this way; no logarithm is taken.

        It is exact, where that of 2^k - 1 unit, rounded before it is rounded down, may be k.
        """
        b, form = self.builder, self.form
        few = b.fcmp_ordered("<", x, self.number(form.smallest_normal))
        shift = 2.0**form.mantissa
        raised = self.select(few, b.fmul(x, self.number(shift)), x)
        missing = self.select(few, self.number(form.mantissa), self.number(0.0))
        whole = self._whole_number(self.bits(raised), self.number(form.bias))
        return self._of_positive(x, b.fsub(whole, missing), x)

    # -- powers ----------------------------------------------------------------------------------

    def pow(self, x: Any, y: Any) -> Any:
        b = self.builder
        one, zero = self.number(1.0), self.number(0.0)
        size = self.call("fabs", x)
        value = self._pow_in_double(size, y) if self.form is FLOAT32 else self._pow(size, y)
        whole = b.fcmp_ordered("==", self.call("floor", y), y)
        half = b.fmul(y, self.number(0.5))
        odd = b.and_(whole, b.fcmp_unordered("!=", self.call("floor", half), half))
        value = self.select(odd, self.call("copysign", value, x), value)
        undefined = b.and_(b.fcmp_ordered("<", x, zero), b.not_(whole))
        undefined = b.and_(undefined, b.fcmp_ordered("!=", x, self.number(-math.inf)))
        value = self.select(undefined, self.number(math.nan), value)
        # One to any power is 1, NaN included, and so is anything to the power of 0.
        certain = b.or_(b.fcmp_ordered("==", x, one), b.fcmp_ordered("==", y, zero))
        # -1 to the power of infinity too.
        endless = b.and_(b.fcmp_ordered("==", size, one), self.isinf(y))
        return self.select(b.or_(certain, endless), one, value)

    def _pow_in_double(self, size: Any, y: Any) -> Any:
        """Return size^y, from a logarithm with 15 bits more than float32 has."""
        double = Functions(self.builder, IN_FLOAT64, self.width)
        b = self.builder
        size, y = (b.fpext(one, double.real) for one in (size, y))
        k, f = double._log_parts(size)
        value = double.fma(double._log_tail(f), double.number(0.5), f)
        value = double.fma(k, double.number(LN2), value)
        value = double.exp(b.fmul(y, double._of_positive(size, value, size)))
        return b.fptrunc(value, self.real)

    def _pow(self, size: Any, y: Any) -> Any:
        b = self.builder
        high, low = self._log_extended(size)
        product = b.fmul(y, high)
        rest = self.fma(y, low, self.fma(y, high, b.fneg(product)))
        # Beyond the range of exp it may be anything, infinite and NaN too; within, below 2^-42.
        small = b.fcmp_ordered("<", self.call("fabs", rest), self.number(2.0**-30))
        return self.exp(product, self.select(small, rest, self.number(0.0)))

    def _two_sum(self, x: Any, y: Any) -> tuple[Any, Any]:
        b = self.builder
        total = b.fadd(x, y)
        back = b.fsub(total, x)
        return total, b.fadd(b.fsub(x, b.fsub(total, back)), b.fsub(y, back))

    def _log_extended(self, x: Any) -> tuple[Any, Any]:
        """Return log x as the sum of two numbers, to about ten bits more than one holds."""
        b, form = self.builder, self.form
        k, f = self._log_parts(x)
        two = self.number(2.0)
        below = b.fadd(f, two)
        below_rest = b.fsub(f, b.fsub(below, two))
        inverse = b.fdiv(self.number(1.0), below)
        s = b.fmul(f, inverse)
        s_rest = self.fma(b.fneg(s), below_rest, self.fma(b.fneg(s), below, f))
        s_rest = b.fmul(s_rest, inverse)
        z = b.fmul(s, s)
        z_rest = self.fma(s, s, b.fneg(z))
        cube = b.fmul(s, z)
        cube_rest = self.fma(s, z, b.fneg(cube))
        cube_rest = self.fma(s, z_rest, cube_rest)
        third = self.number(2.0 / 3.0)
        term = b.fmul(cube, third)
        term_rest = self.fma(cube, third, b.fneg(term))
        term_rest = self.fma(cube, self.number(2.0**-54 * (2.0 / 3.0)), term_rest)
        term_rest = self.fma(cube_rest, third, term_rest)
        tail = b.fmul(b.fmul(cube, z), self.polynomial(z, LOG_BEYOND))
        head, one = self._two_sum(b.fmul(k, self.number(form.ln2_high)), b.fmul(two, s))
        head, other = self._two_sum(head, term)
        # What s misses counts 2/(1 - s²) times.
        slope = self.fma(self.fma(z, z, z), two, two)
        rest = b.fadd(tail, self.fma(slope, s_rest, term_rest))
        rest = self.fma(k, self.number(form.ln2_low), rest)
        rest = b.fadd(b.fadd(one, other), rest)
        total = b.fadd(head, rest)
        rest = b.fsub(rest, b.fsub(total, head))
        total = self._of_positive(x, total, x)
        return total, self.select(self.isfinite(total), rest, self.number(0.0))

    # -- the rest --------------------------------------------------------------------------------

    def isfinite(self, x: Any) -> Any:
        return self.builder.fcmp_ordered("<", self.call("fabs", x), self.number(math.inf))

    def isinf(self, x: Any) -> Any:
        return self.builder.fcmp_ordered("==", self.call("fabs", x), self.number(math.inf))

    def isnan(self, x: Any) -> Any:
        return self.builder.fcmp_unordered("uno", x, x)


def _constant(kind: Any, value: Any, width: int) -> Any:
    return ir.Constant(kind, value if width == 1 else [value] * width)


UNARY: dict[str, Callable[[Functions, Any], Any]] = {
    "abs": lambda f, x: f.call("fabs", x),
    "ceil": lambda f, x: f.call("ceil", x),
    "floor": lambda f, x: f.call("floor", x),
    "trunc": lambda f, x: f.call("trunc", x),
    "sqrt": lambda f, x: f.call("sqrt", x),
    "negative": lambda f, x: f.builder.fneg(x),
    "exp": Functions.exp,
    "exp2": Functions.exp2,
    "expm1": Functions.expm1,
    "log": Functions.log,
    "log1p": Functions.log1p,
    "log2": Functions.log2,
    "tanh": Functions.tanh,
    "isfinite": Functions.isfinite,
    "isinf": Functions.isinf,
    "isnan": Functions.isnan,
}

BINARY: dict[str, Callable[[Functions, Any, Any], Any]] = {
    "add": lambda f, x, y: f.builder.fadd(x, y),
    "subtract": lambda f, x, y: f.builder.fsub(x, y),
    "multiply": lambda f, x, y: f.builder.fmul(x, y),
    "divide": lambda f, x, y: f.builder.fdiv(x, y),
    "maximum": lambda f, x, y: f.call("maximum", x, y),
    "minimum": lambda f, x, y: f.call("minimum", x, y),
    "pow": Functions.pow,
}

COMPARISONS = {
    "less": "<",
    "less_equal": "<=",
    "greater": ">",
    "greater_equal": ">=",
    "equal": "==",
    "not_equal": "!=",
}

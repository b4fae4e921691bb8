"""The functions of a kernel, as LLVM instructions on vectors and on single numbers.

All are free of branches, so that they run on as many numbers at once as the processor takes, and
make their roundings explicit: nothing here may be reassociated or contracted. Polynomials are the
Taylor series of exp and of the inverse hyperbolic tangent, long enough for the data type.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from llvmlite import ir

I1, I32, I64 = ir.IntType(1), ir.IntType(32), ir.IntType(64)
LN2 = 0.6931471805599453


@dataclass(frozen=True)
class Format:
    """A floating-point format: its LLVM types and what the functions need to know of it."""

    dtype: np.dtype[Any]
    real: Any
    integer: Any
    mantissa: int
    """The number of explicit bits of the significand."""
    bias: int
    ln2_high: float
    """log 2 rounded so that its product with an exponent is exact."""
    ln2_low: float
    exp_terms: int
    log_terms: int
    exp_range: tuple[float, float]
    """Below the first exp is 0, above the second it is infinite."""

    @property
    def smallest_normal(self) -> float:
        """The smallest normal number."""
        return float(np.finfo(self.dtype).smallest_normal)


# log 2 = 0.693147180559945309417232121458176568…
FLOAT32 = Format(
    np.dtype(np.float32),
    ir.FloatType(),
    I32,
    23,
    127,
    0.693145751953125,
    1.42860682030941723212e-6,
    7,
    5,
    (-104.0, 89.0),
)
FLOAT64 = Format(
    np.dtype(np.float64),
    ir.DoubleType(),
    I64,
    52,
    1023,
    0.693147180369123816490,
    1.90821492927058770002e-10,
    13,
    10,
    (-746.0, 710.0),
)
FORMATS = {one.dtype: one for one in (FLOAT32, FLOAT64)}


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

    def call(self, name: str, *operands: Any) -> Any:
        """Call an LLVM intrinsic of the operands' type."""
        module = self.builder.module
        lanes = "" if self.width == 1 else f"v{self.width}"
        full = f"llvm.{name}.{lanes}f{8 * self.form.dtype.itemsize}"
        signature = ir.FunctionType(self.real, [self.real] * len(operands))
        intrinsic = module.globals.get(full) or ir.Function(module, signature, full)
        return self.builder.call(intrinsic, operands)

    def fma(self, x: Any, y: Any, z: Any) -> Any:
        """Return x·y + z, rounded once."""
        return self.call("fma", x, y, z)

    def bits(self, x: Any) -> Any:
        return self.builder.bitcast(x, self.integer)

    def of_bits(self, x: Any) -> Any:
        return self.builder.bitcast(x, self.real)

    def select(self, condition: Any, one: Any, other: Any) -> Any:
        return self.builder.select(condition, one, other)

    def polynomial(self, x: Any, coefficients: list[float]) -> Any:
        """Return a polynomial, its coefficients from the constant upwards."""
        *rest, last = coefficients
        value = self.number(last)
        for coefficient in reversed(rest):
            value = self.fma(value, x, self.number(coefficient))
        return value

    # -- exponentials ----------------------------------------------------------------------------

    def _reduced(self, x: Any) -> tuple[Any, Any]:
        """Return n and r with x = n·log 2 + r, n a whole number as an integer, |r| ≤ log(2)/2."""
        form, b = self.form, self.builder
        # Adding 1.5·2^mantissa leaves the nearest whole number in the last bits.
        magic = self.number(1.5 * 2.0**form.mantissa)
        shifted = self.fma(x, self.number(1.0 / LN2), magic)
        count = b.fsub(shifted, magic)
        rest = self.fma(count, self.number(-form.ln2_high), x)
        rest = self.fma(count, self.number(-form.ln2_low), rest)
        return b.sub(self.bits(shifted), self.bits(magic)), rest

    def _power_of_two(self, exponent: Any) -> Any:
        biased = self.builder.add(exponent, self.whole(self.form.bias))
        return self.of_bits(self.builder.shl(biased, self.whole(self.form.mantissa)))

    def _within(self, x: Any, low: float, high: float) -> Any:
        b, least, most = self.builder, self.number(low), self.number(high)
        x = self.select(b.fcmp_ordered("<", x, least), least, x)
        return self.select(b.fcmp_ordered(">", x, most), most, x)

    def _expm1_of_rest(self, rest: Any) -> Any:
        terms = [1.0 / math.factorial(k) for k in range(2, self.form.exp_terms + 1)]
        tail = self.builder.fmul(self.builder.fmul(rest, rest), self.polynomial(rest, terms))
        return self.builder.fadd(rest, tail)

    def exp(self, x: Any) -> Any:
        b = self.builder
        count, rest = self._reduced(self._within(x, *self.form.exp_range))
        value = b.fadd(self.number(1.0), self._expm1_of_rest(rest))
        # In two steps: 2^n itself may lie beyond the range although the result does not.
        half = b.ashr(count, self.whole(1))
        value = b.fmul(value, self._power_of_two(half))
        return b.fmul(value, self._power_of_two(b.sub(count, half)))

    def exp2(self, x: Any) -> Any:
        b = self.builder
        low, high = (bound / LN2 for bound in self.form.exp_range)
        x = self._within(x, low, high)
        magic = self.number(1.5 * 2.0**self.form.mantissa)
        shifted = b.fadd(x, magic)
        rest = b.fmul(b.fsub(x, b.fsub(shifted, magic)), self.number(LN2))
        count = b.sub(self.bits(shifted), self.bits(magic))
        value = b.fadd(self.number(1.0), self._expm1_of_rest(rest))
        half = b.ashr(count, self.whole(1))
        value = b.fmul(value, self._power_of_two(half))
        return b.fmul(value, self._power_of_two(b.sub(count, half)))

    def expm1(self, x: Any) -> Any:
        b = self.builder
        low, high = self.form.exp_range
        count, rest = self._reduced(self._within(x, low / 2.0, high))
        half = b.ashr(count, self.whole(1))
        one, two = self._power_of_two(half), self._power_of_two(b.sub(count, half))
        # 2^n·(e^r - 1) + (2^n - 1), in units of 2^(n/2).
        inverse = self._power_of_two(b.neg(half))
        value = self.fma(two, self._expm1_of_rest(rest), b.fsub(two, inverse))
        value = b.fmul(value, one)
        return self.select(b.fcmp_unordered("==", x, self.number(0.0)), x, value)

    def tanh(self, x: Any) -> Any:
        b = self.builder
        size = self.call("fabs", x)
        twice = self._within(b.fadd(size, size), 0.0, 64.0)
        grown = self.expm1(twice)
        value = b.fdiv(grown, b.fadd(grown, self.number(2.0)))
        value = self.select(b.fcmp_ordered(">", size, self.number(22.0)), self.number(1.0), value)
        return self.call("copysign", value, x)

    # -- logarithms ------------------------------------------------------------------------------

    def _split_exponent(self, x: Any) -> tuple[Any, Any]:
        """Return k and m with x = m·2^k, m from √½ to √2, for a normal number."""
        form, b = self.form, self.builder
        middle = int(np.sqrt(form.dtype.type(0.5)).view(f"i{form.dtype.itemsize}"))
        bits = self.bits(x)
        exponent = b.ashr(b.sub(bits, self.whole(middle)), self.whole(form.mantissa))
        return exponent, self.of_bits(b.sub(bits, b.shl(exponent, self.whole(form.mantissa))))

    def _log_parts(self, x: Any) -> tuple[Any, Any, Any]:
        """Return k as a number, f = m - 1, and the rest of log m beyond f, of a number above 0."""
        form, b = self.form, self.builder
        tiny = b.fcmp_ordered("<", x, self.number(form.smallest_normal))
        lift = 2.0 ** (form.mantissa + 2)
        lifted = self.select(tiny, b.fmul(x, self.number(lift)), x)
        exponent, significand = self._split_exponent(lifted)
        lowered = b.sub(exponent, self.whole(form.mantissa + 2))
        exponent = self.select(tiny, lowered, exponent)
        f = b.fsub(significand, self.number(1.0))
        return b.sitofp(exponent, self.real), f, self._log1p_tail(f)

    def _log1p_tail(self, f: Any) -> Any:
        """Return log(1 + f) - f + f²/2 from the series in s = f/(2 + f)."""
        b = self.builder
        s = b.fdiv(f, b.fadd(f, self.number(2.0)))
        z = b.fmul(s, s)
        terms = [2.0 / (2 * k + 3) for k in range(self.form.log_terms)]
        series = b.fmul(z, self.polynomial(z, terms))
        half = b.fmul(self.number(0.5), b.fmul(f, f))
        return b.fmul(s, b.fadd(half, series))

    def _log(self, x: Any, correction: Any = None) -> Any:
        """Return log x + correction for a positive, finite x."""
        form, b = self.form, self.builder
        k, f, tail = self._log_parts(x)
        half = b.fmul(self.number(0.5), b.fmul(f, f))
        low = b.fmul(k, self.number(form.ln2_low))
        if correction is not None:
            low = b.fadd(low, correction)
        inner = b.fsub(b.fsub(half, b.fadd(tail, low)), f)
        return b.fsub(b.fmul(k, self.number(form.ln2_high)), inner)

    def _of_positive(self, x: Any, value: Any, at: Any) -> Any:
        """Return `value`, with the logarithm's special values where `at` is 0, below, or inf."""
        b, zero = self.builder, self.number(0.0)
        value = self.select(b.fcmp_ordered("==", at, zero), self.number(-math.inf), value)
        value = self.select(b.fcmp_ordered("<", at, zero), self.number(math.nan), value)
        infinite = b.fcmp_unordered("==", at, self.number(math.inf))  # or NaN
        return self.select(infinite, x, value)

    def log(self, x: Any) -> Any:
        return self._of_positive(x, self._log(x), x)

    def log1p(self, x: Any) -> Any:
        b = self.builder
        total = b.fadd(self.number(1.0), x)
        # The rounding error of 1 + x, by TwoSum: x may be large or small.
        back = b.fsub(total, self.number(1.0))
        missing = b.fadd(b.fsub(x, back), b.fsub(self.number(1.0), b.fsub(total, back)))
        value = self._log(total, b.fdiv(missing, total))
        value = self._of_positive(x, value, total)
        return self.select(b.fcmp_ordered("==", x, self.number(0.0)), x, value)

    def log2(self, x: Any) -> Any:
        b = self.builder
        k, f, tail = self._log_parts(x)
        half = b.fmul(self.number(0.5), b.fmul(f, f))
        natural = b.fadd(f, b.fsub(tail, half))
        value = self.fma(natural, self.number(1.0 / LN2), k)
        return self._of_positive(x, value, x)

    # -- powers ----------------------------------------------------------------------------------

    def pow(self, x: Any, y: Any) -> Any:
        b = self.builder
        one, zero = self.number(1.0), self.number(0.0)
        size = self.call("fabs", x)
        value = self._pow_in_double(size, y) if self.form is FLOAT32 else self._pow(size, y)
        whole = b.fcmp_ordered("==", self.call("floor", y), y)
        half = b.fmul(y, self.number(0.5))
        odd = b.and_(whole, b.fcmp_unordered("!=", self.call("floor", half), half))
        below = b.fcmp_ordered("<", self.call("copysign", one, x), zero)  # -0.0 too
        value = self.select(b.and_(below, odd), b.fneg(value), value)
        undefined = b.and_(b.fcmp_ordered("<", x, zero), b.not_(whole))
        undefined = b.and_(undefined, self.isfinite(x))
        undefined = b.and_(undefined, self.isfinite(y))
        value = self.select(undefined, self.number(math.nan), value)
        # One to any power is 1, NaN included, and so is anything to the power of 0.
        certain = b.or_(b.fcmp_ordered("==", x, one), b.fcmp_ordered("==", y, zero))
        return self.select(certain, one, value)

    def _pow_in_double(self, size: Any, y: Any) -> Any:
        double = Functions(self.builder, FLOAT64, self.width)
        size, y = (self.builder.fpext(one, double.real) for one in (size, y))
        value = double.exp(self.builder.fmul(y, double.log(size)))
        return self.builder.fptrunc(value, self.real)

    def _pow(self, size: Any, y: Any) -> Any:
        b = self.builder
        high, low = self._log_extended(size)
        product = b.fmul(y, high)
        rest = self.fma(y, low, self.fma(y, high, b.fneg(product)))
        rest = self.select(self.isfinite(rest), rest, self.number(0.0))
        value = self.exp(product)
        return b.fmul(value, b.fadd(self.number(1.0), rest))

    def _two_sum(self, x: Any, y: Any) -> tuple[Any, Any]:
        b = self.builder
        total = b.fadd(x, y)
        back = b.fsub(total, x)
        return total, b.fadd(b.fsub(x, b.fsub(total, back)), b.fsub(y, back))

    def _log_extended(self, x: Any) -> tuple[Any, Any]:
        """Return log x as the sum of two numbers, to about ten bits more than one holds."""
        b, form = self.builder, self.form
        k, f, _ = self._log_parts(x)
        two = self.number(2.0)
        below = b.fadd(f, two)
        below_rest = b.fsub(f, b.fsub(below, two))
        s = b.fdiv(f, below)
        s_rest = self.fma(b.fneg(s), below_rest, self.fma(b.fneg(s), below, f))
        s_rest = b.fdiv(s_rest, below)
        z = b.fmul(s, s)
        z_rest = self.fma(s, s, b.fneg(z))
        cube = b.fmul(s, z)
        cube_rest = self.fma(s, z, b.fneg(cube))
        cube_rest = self.fma(s, z_rest, cube_rest)
        cube_rest = self.fma(b.fmul(self.number(3.0), z), s_rest, cube_rest)
        third = self.number(2.0 / 3.0)
        term = b.fmul(cube, third)
        term_rest = self.fma(cube, third, b.fneg(term))
        term_rest = self.fma(cube, self.number(2.0**-54 * (2.0 / 3.0)), term_rest)
        term_rest = self.fma(cube_rest, third, term_rest)
        terms = [2.0 / (2 * k + 5) for k in range(form.log_terms)]
        tail = b.fmul(b.fmul(cube, z), self.polynomial(z, terms))
        head, one = self._two_sum(b.fmul(k, self.number(form.ln2_high)), b.fmul(two, s))
        head, other = self._two_sum(head, term)
        rest = b.fadd(tail, self.fma(two, s_rest, term_rest))
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

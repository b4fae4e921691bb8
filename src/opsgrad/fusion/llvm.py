"""A row program printed as LLVM instructions.

Vectors hold neighbours in memory: mostly entries of one row, or, where the axis is not the last
one, the same entry of neighbouring rows. Tails are masked: rows of any length take the same way.
"""

import functools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from llvmlite import ir

from opsgrad.fusion.functions import BINARY, COMPARISONS, FORMATS, I1, I32, I64, UNARY, Functions
from opsgrad.fusion.graph import Node
from opsgrad.fusion.lanes import POINTER, AcrossRows, AlongRow, Frame, Lanes, ShortRows, combine
from opsgrad.fusion.program import SHORT, TOGETHER, UNROLL, Guard, Phase, Place, Program
from opsgrad.fusion.trace import BOOLEAN, INTEGER, Kind

BLOCK = 16
"""How many vectors are added up before the sum is put aside: sums stay short, errors small."""
SHORT_BLOCK = 4
"""The same for short rows, whose terms all go into one vector: a sum of 13 of them cost 2 ULP."""


Variables = dict[int, list[Any]]
"""Memory for what is collected of each reduction."""


class Inverse(NamedTuple):
    """One over a number that is the same along the row."""

    high: list[Any]
    low: list[Any]
    """What the rounded inverse is short of."""
    regular: Any
    """Whether multiplying by the inverse, instead of dividing, gives the quotient."""


class Printer:
    """Prints one program for one way of laying vectors."""

    def __init__(
        self, program: Program, inputs: Sequence[Any], width: int, *, flat: bool = False
    ) -> None:
        self.program = program
        self.graph = program.graph
        self.inputs = inputs
        self.width = width
        self.flat = flat
        self.form = FORMATS[self.graph.dtype]
        self.module = ir.Module("opsgrad")
        signature = ir.FunctionType(ir.VoidType(), [I64, I64, I64, POINTER, POINTER, POINTER])
        self.function = ir.Function(self.module, signature, "kernel")
        self.frame = Frame(self.function, self.form, width)
        self.builder = self.frame.builder
        self.vector = self.frame.vector
        self.lanes: Lanes
        self.rows: dict[int, list[Any]] = {}
        self.inverses: dict[int, Inverse] = {}

    # -- the frame -------------------------------------------------------------------------------

    def print(self) -> str:
        """Return the module as text: the kernel, and its entry for NumPy's own objects."""
        self._kernel()
        return str(self.module) + _entry(len(self.inputs) + len(self.program.outputs))

    def _kernel(self) -> None:
        frame, b = self.frame, self.builder
        begin, end, frame.length, pointers, strides, frame.scratch = self.function.args
        for number in range(len(self.inputs) + len(self.program.outputs)):
            frame.base.append(b.load(frame.at(pointers, 8 * number), typ=POINTER))
            frame.row_stride.append(b.load(frame.at(strides, 16 * number), typ=I64))
            frame.column_stride.append(b.load(frame.at(strides, 16 * number + 8), typ=I64))
        self._rows(begin, end)
        b.ret_void()

    def _rows(self, begin: Any, end: Any) -> None:
        """Print the loop over the rows."""
        if not self.flat:
            begin = self._rows_in_fours(begin, end)
        with self._loop(begin, end, 1) as self.frame.row:
            self._row(AlongRow(self.frame, UNROLL))

    def _rows_in_fours(self, begin: Any, end: Any) -> Any:
        """Print the loop over short rows; return the first row that is left over."""
        b = self.builder
        rows = b.mul(b.sdiv(b.sub(end, begin), I64(UNROLL)), I64(UNROLL))
        short = b.icmp_signed("<=", self.frame.length, I64(SHORT))
        left = b.add(begin, b.select(short, rows, I64(0)))
        with self._loop(begin, left, UNROLL) as self.frame.row:
            self._row(ShortRows(self.frame))
        return left

    @contextmanager
    def _loop(self, begin: Any, end: Any, step: int) -> Iterator[Any]:
        """Loop while the counter is below `end`."""
        b = self.builder
        before = b.block
        check = self.function.append_basic_block("check")
        body = self.function.append_basic_block("body")
        after = self.function.append_basic_block("after")
        b.branch(check)
        b.position_at_end(check)
        counter = b.phi(I64)
        counter.add_incoming(begin, before)
        b.cbranch(b.icmp_signed("<", counter, end), body, after)
        b.position_at_end(body)
        yield counter
        counter.add_incoming(b.add(counter, I64(step)), b.block)
        b.branch(check)
        b.position_at_end(after)

    def _least(self, first: Any, step: int, end: Any) -> Any:
        """Return first + step, but no more than the end."""
        b = self.builder
        last = b.add(first, I64(step))
        return b.select(b.icmp_signed("<", last, end), last, end)

    def _variable(self, kind: Any) -> Any:
        """Return memory for a number that a loop changes; LLVM makes registers of it."""
        with self.builder.goto_entry_block():
            return self.builder.alloca(kind)

    # -- a row -----------------------------------------------------------------------------------

    def _row(self, lanes: Lanes) -> None:
        self._begin(lanes)
        for phase in self.program.phases:
            if phase.guard is None:
                self._phase(phase)
            else:
                self._guarded(phase, phase.guard)
        self._store_row()

    def _begin(self, lanes: Lanes) -> None:
        self.lanes, self.rows, self.inverses = lanes, {}, {}

    def _store_row(self) -> None:
        """Print what is stored once for a row."""
        for number, kind in enumerate(self.program.kinds):
            if kind not in (Kind.TABLE, Kind.COLUMN):
                values = self._row_value(self.program.outputs[number])
                self.lanes.store_row(len(self.inputs) + number, values)

    def _prepare(self, phase: Phase) -> None:
        """Compute what a phase needs of a row, before its loop."""
        for number in phase.steps:
            for argument in self.graph.nodes[number].arguments:
                if not self.graph.nodes[argument].columns:
                    self._row_value(argument)
            if self._divides_by_row(self.graph.nodes[number]):
                self._inverse(self.graph.nodes[number].arguments[1])
        for number in phase.stored:
            if not self.graph.nodes[self.program.outputs[number]].columns:
                self._row_value(self.program.outputs[number])

    def _phase(self, phase: Phase) -> None:
        self._prepare(phase)
        totals = {n: self._accumulators(n) for n in phase.reductions}
        sums = {n: self._accumulators(n) for n in phase.reductions}
        if isinstance(self.lanes, AlongRow):
            self._along_the_row(phase, totals, sums)
        elif isinstance(self.lanes, ShortRows):
            whole = self._blocks(self.frame.length, self.width, totals, sums, SHORT_BLOCK)
            with whole as column, self._masked(column):
                self._entries(phase, column, sums)
        else:
            with self._blocks(self.frame.length, 1, totals, sums) as column:
                self._entries(phase, column, sums)
        self._put_aside(totals, sums)
        for number, variables in totals.items():
            values = [self.builder.load(variable, typ=self.vector.real) for variable in variables]
            self.rows[number] = self.lanes.reduced(self.graph.nodes[number].kind, values)

    def _guarded(self, phase: Phase, guard: Guard) -> None:
        """Print a phase that is skipped where no row at hand needs it."""
        b = self.builder
        needed = self._needed(guard)
        rows, inverses, before = dict(self.rows), dict(self.inverses), b.block
        with b.if_then(needed):
            self._phase(phase)
            found = {number: self.rows[number] for number in phase.reductions}
            inside = b.block
        # What else has been computed inside is not there where the phase is skipped.
        self.rows, self.inverses = rows, inverses
        for number, values in found.items():
            self.rows[number] = []
            for value in values:
                either = b.phi(value.type)
                either.add_incoming(value, inside)
                either.add_incoming(ir.Constant(value.type, None), before)
                self.rows[number].append(either)

    def _needed(self, guard: Guard) -> Any:
        """Return whether a row at hand needs what is guarded."""
        b, width = self.builder, self.lanes.row.width
        holds = self._row_value(guard.condition)
        any_row = functools.reduce(b.or_, holds if guard.holds else map(b.not_, holds))
        if self.frame.mask is not None:
            any_row = b.and_(any_row, self.frame.mask)
        if width > 1:
            bits = ir.IntType(width)
            any_row = b.icmp_unsigned("!=", b.bitcast(any_row, bits), bits(0))
        return any_row

    def _along_the_row(self, phase: Phase, totals: Variables, sums: Variables) -> None:
        b, step = self.builder, self.width * UNROLL
        whole = b.mul(b.sdiv(self.frame.length, I64(step)), I64(step))
        with self._blocks(whole, step, totals, sums) as column:
            self._entries(phase, column, sums)
        four, self.lanes = self.lanes, AlongRow(self.frame, 1)
        with self._loop(whole, self.frame.length, self.width) as column, self._masked(column):
            self._entries(phase, column, sums)
        self.lanes = four

    @contextmanager
    def _masked(self, column: Any) -> Iterator[None]:
        """Mask what lies beyond the end of the row."""
        self.frame.mask = self.frame.below(column, self.frame.length)
        yield
        self.frame.mask = None

    @contextmanager
    def _blocks(
        self, end: Any, step: int, totals: Variables, sums: Variables, block: int = BLOCK
    ) -> Iterator[Any]:
        """Loop along the row, putting the sums aside after every `block` steps."""
        if not sums:
            with self._loop(I64(0), end, step) as column:
                yield column
            return
        with self._loop(I64(0), end, step * block) as first:
            with self._loop(first, self._least(first, step * block, end), step) as column:
                yield column
            self._put_aside(totals, sums)

    # -- reductions ------------------------------------------------------------------------------

    def _accumulators(self, number: int) -> list[Any]:
        """Return variables for a reduction: for its totals, or for the sums of a block."""
        start = self._start(number)
        variables = [self._variable(start.type) for _ in range(self.lanes.accumulators)]
        for variable in variables:
            self.builder.store(start, variable)
        return variables

    def _start(self, number: int) -> Any:
        """Return what a reduction begins with."""
        kind = self.graph.nodes[number].kind
        return self.vector.number({"sum": 0.0, "max": -math.inf, "min": math.inf}[kind])

    def _accumulate(self, number: int, values: list[Any], sums: Variables) -> None:
        """Add values to the sums of a block."""
        b, kind, mask = self.builder, self.graph.nodes[number].kind, self.frame.mask
        for value, variable in zip(values, sums[number], strict=False):
            before = b.load(variable, typ=value.type)
            after = combine(self.vector, kind, before, value)
            if mask is not None and not isinstance(self.lanes, AcrossRows):
                after = b.select(mask, after, before)
            b.store(after, variable)

    def _put_aside(self, totals: Variables, sums: Variables) -> None:
        b = self.builder
        for number, variables in sums.items():
            kind = self.graph.nodes[number].kind
            for total, variable in zip(totals[number], variables, strict=True):
                value = b.load(variable, typ=self.vector.real)
                before = b.load(total, typ=value.type)
                b.store(combine(self.vector, kind, before, value), total)
                if kind == "sum":
                    b.store(self.vector.number(0.0), variable)

    # -- values along the row --------------------------------------------------------------------

    def _entries(self, phase: Phase, column: Any, sums: Variables) -> None:
        """Compute the steps of a phase for the vectors at `column`."""
        values: dict[int, list[Any]] = {}
        kept = dict(phase.kept)
        done = self._done(phase)
        for number in phase.steps:
            place = self.program.places.get(number)
            if place is not None and number not in kept and number in done:
                addresses = self._kept(place, column)
                values[number] = [self.frame.load(a, self.vector.real) for a in addresses]
            else:
                values[number] = self._value(number, values, column)
            if number in kept:
                self._store(values[number], self._kept(kept[number], column))
        for number in phase.reductions:
            argument = self.graph.nodes[number].arguments[0]
            self._accumulate(number, self._operand(argument, values), sums)
        for output in phase.stored:
            node = self.program.outputs[output]
            if self.program.kinds[output] is Kind.COLUMN:
                self._add(self._operand(node, values), len(self.inputs) + output, column)
            elif self.program.places.get(node) != Place(True, output) or node not in kept:
                addresses = self.lanes.addresses(len(self.inputs) + output, column)
                self._store(self._operand(node, values), addresses)

    def _add(self, values: list[Any], number: int, column: Any) -> None:
        """Add values to the sums over the rows that belong together, which the first one begins."""
        b, frame = self.builder, self.frame
        if isinstance(self.lanes, ShortRows):
            values = [functools.reduce(b.fadd, values)]
        place = frame.at(frame.base[number], b.mul(column, I64(frame.size)))
        part = b.sdiv(frame.row, I64(TOGETHER))
        place = frame.at(place, b.mul(part, frame.row_stride[number]))
        begins = b.icmp_signed("==", b.srem(frame.row, I64(TOGETHER)), I64(0))
        for copy, value in enumerate(values):
            address = frame.at(place, copy * self.width * frame.size)
            before = frame.load(address, value.type)
            before = b.select(begins, self.vector.number(0.0), before)
            frame.store(b.fadd(before, value), address)

    def _store(self, values: list[Any], addresses: list[Any]) -> None:
        for value, address in zip(values, addresses, strict=True):
            self.frame.store(value, address)

    def _kept(self, place: Place, column: Any) -> list[Any]:
        if place.output:
            return self.lanes.addresses(len(self.inputs) + place.number, column)
        return self.lanes.scratch(place.number, column)

    def _done(self, phase: Phase) -> set[int]:
        """Return what earlier phases have kept."""
        before = self.program.phases[: self.program.phases.index(phase)]
        return {number for one in before for number, _ in one.kept}

    def _value(self, number: int, values: dict[int, list[Any]], column: Any) -> list[Any]:
        node = self.graph.nodes[number]
        if node.kind == "input":
            load = self.lanes.table_input if node.rows else self.lanes.column_input
            return load(node.detail, column)
        if node.kind == "index":
            return self.lanes.index(column)
        operands = [self._operand(n, values) for n in node.arguments]
        if self._divides_by_row(node):
            return self._quotients(node.arguments[1], *operands)
        return [self._apply(self.vector, node, list(each)) for each in zip(*operands, strict=True)]

    def _operand(self, number: int, values: dict[int, list[Any]]) -> list[Any]:
        """Return a node as one vector for each copy."""
        if number in values:
            return values[number]
        return self.lanes.spread(self._row_value(number))

    # -- values of a row -------------------------------------------------------------------------

    def _row_value(self, number: int) -> list[Any]:
        """Return a node that is the same along the row, computed when first asked for."""
        if number not in self.rows:
            node, lanes = self.graph.nodes[number], self.lanes
            if node.kind == "constant":
                out = [self._constant(node)] * lanes.row_copies
            elif node.kind == "length":
                length = self.frame.length
                if lanes.row_integer == I32:
                    length = self.builder.trunc(length, I32)
                if lanes.row.width > 1:
                    length = self.frame.splat(length, lanes.row.width)
                out = [length] * lanes.row_copies
            elif node.kind == "input":
                out = lanes.row_input(node.detail, node)
            elif node.kind == "pick":
                out = self._pick(*node.arguments)
            elif node.kind == "floor" and self.graph.nodes[node.arguments[0]].kind == "log2":
                (inner,) = self.graph.nodes[node.arguments[0]].arguments
                out = [lanes.row.floor_log2(value) for value in self._row_value(inner)]
            else:
                operands = [self._row_value(n) for n in node.arguments]
                out = [self._apply(lanes.row, node, list(e)) for e in zip(*operands, strict=True)]
            self.rows[number] = out
        return self.rows[number]

    def _pick(self, terms: int, index: int) -> list[Any]:
        """Return the entry at an index along the row, 0 where there is none."""
        b, row = self.builder, self.lanes.row
        length = self.frame.length
        if row.width > 1:
            length = self.frame.splat(length, row.width)
        places = self._row_value(index)
        if places[0].type != length.type:
            length = b.trunc(length, places[0].type)
        inside = [b.icmp_unsigned("<", place, length) for place in places]
        nothing = ir.Constant(length.type, None)
        places = [b.select(one, place, nothing) for one, place in zip(inside, places, strict=True)]
        # A sum of -0.0 and zeros is 0.0.
        zero = row.number(0.0)
        entries = [b.fadd(entry, zero) for entry in self._at(terms, places, {})]
        return [b.select(one, entry, zero) for one, entry in zip(inside, entries, strict=True)]

    def _at(self, number: int, places: list[Any], known: dict[int, list[Any]]) -> list[Any]:
        """Return a value along the row at one place of each row."""
        node = self.graph.nodes[number]
        if not node.columns:
            return self._row_value(number)
        if number not in known:
            if node.kind == "input":
                known[number] = self.lanes.entries(node, places)
            elif node.kind == "index":
                known[number] = places
            else:
                operands = zip(*[self._at(n, places, known) for n in node.arguments], strict=True)
                known[number] = [self._apply(self.lanes.row, node, list(e)) for e in operands]
        return known[number]

    def _constant(self, node: Node) -> Any:
        functions = self.lanes.row
        if node.dtype == self.graph.dtype:
            return functions.number(node.detail)
        kind = functions.vector(self.lanes.row_integer if node.dtype == INTEGER else I1)
        value = int(node.detail)
        return ir.Constant(kind, value if functions.width == 1 else [value] * functions.width)

    # -- division by a number of the row ---------------------------------------------------------

    def _divides_by_row(self, node: Node) -> bool:
        if node.kind != "divide":
            return False
        divisor = self.graph.nodes[node.arguments[1]]
        # LLVM knows what to do about a power of two.
        exact = divisor.kind == "constant" and math.frexp(divisor.detail)[0] in (-0.5, 0.5)
        return not divisor.columns and not exact

    def _inverse(self, number: int) -> Inverse:
        """Return the inverse of a number of the row as the sum of two, computed when first asked.

        A division takes as long as a third of exp. Multiplied by both parts, x/s is wrong by no
        more than 0.5001 units in the last place (near underflow 1), and exact where the quotient is
        a number of the data type. The high part is rounded towards 0, so that both have the same
        sign: else an infinite x would give inf - inf.
        """
        if number not in self.inverses:
            divisors = self._row_value(number)
            high, low = zip(*map(self._inverted, divisors), strict=True)
            self.inverses[number] = Inverse(list(high), list(low), self._regular(divisors))
        return self.inverses[number]

    def _inverted(self, divisor: Any) -> tuple[Any, Any]:
        """Return the parts of an inverse."""
        b, row = self.builder, self.lanes.row
        one, zero = row.number(1.0), row.number(0.0)
        near = b.fdiv(one, divisor)
        lower = row.fma(near, row.number(-(2.0**-self.form.mantissa)), near)
        rest = row.fma(b.fneg(near), divisor, one)
        high = b.select(b.fcmp_ordered(">", rest, zero), near, lower)
        return high, b.fmul(row.fma(b.fneg(high), divisor, one), high)

    def _regular(self, divisors: list[Any]) -> Any:
        """Return whether the inverses of all of these are in range."""
        b, row, limit = self.builder, self.lanes.row, self.form.largest_divisor
        sizes = [row.call("fabs", divisor) for divisor in divisors]
        tests = [b.fcmp_ordered(">", size, row.number(1.0 / limit)) for size in sizes]
        tests += [b.fcmp_ordered("<", size, row.number(limit)) for size in sizes]
        every = functools.reduce(b.and_, tests)
        if row.width > 1:
            bits = ir.IntType(row.width)
            every = b.icmp_unsigned("==", b.bitcast(every, bits), ir.Constant(bits, -1))
        return every

    def _quotients(self, number: int, dividends: list[Any], divisors: list[Any]) -> list[Any]:
        b, inverse = self.builder, self._inverse(number)
        high, low = self.lanes.spread(inverse.high), self.lanes.spread(inverse.low)
        with b.if_else(inverse.regular) as (then, otherwise):
            with then:
                products = [
                    self.vector.fma(x, major, b.fmul(x, minor))
                    for x, major, minor in zip(dividends, high, low, strict=True)
                ]
                multiplied = b.block
            with otherwise:
                quotients = [b.fdiv(x, y) for x, y in zip(dividends, divisors, strict=True)]
                divided = b.block
        out = []
        for product, quotient in zip(products, quotients, strict=True):
            either = b.phi(product.type)
            either.add_incoming(product, multiplied)
            either.add_incoming(quotient, divided)
            out.append(either)
        return out

    # -- functions -------------------------------------------------------------------------------

    def _apply(self, functions: Functions, node: Node, operands: list[Any]) -> Any:
        b, kind = self.builder, node.kind
        if kind == "where":
            return b.select(*operands)
        if kind == "logical_not":
            return b.not_(operands[0])
        if kind in ("logical_and", "logical_or"):
            return (b.and_ if kind == "logical_and" else b.or_)(*operands)
        given = self.graph.nodes[node.arguments[0]].dtype
        if kind == "astype":
            convert = b.uitofp if given == BOOLEAN else b.sitofp
            return convert(operands[0], functions.real)
        if kind in COMPARISONS:
            sign = COMPARISONS[kind]
            if given == INTEGER:
                return b.icmp_signed(sign, *operands)
            compare = b.fcmp_unordered if kind == "not_equal" else b.fcmp_ordered
            return compare(sign, *operands)
        return (UNARY[kind] if len(operands) == 1 else BINARY[kind])(functions, *operands)


def _entry(count: int) -> str:
    """Return the function ``call(block, run, team, helpers, memory, object, …)``.

    The block holds what calls for arrays of the same shapes repeat: rows, length, the length of a
    shorter row after the last, the address of the strides, bytes of scratch memory, grain. `run` is
    the team's function; where it is null, the caller computes alone. The objects are NumPy's
    arrays: where their data is stands behind the head of every object. To ask for it in Python, and
    to hand all this over one by one, would take as long as a small kernel.
    """
    objects = "".join(f", ptr %object{number}" for number in range(count))
    copies = "".join(
        f"""
  %from{number} = getelementptr i8, ptr %object{number}, i64 {object.__basicsize__}
  %data{number} = load ptr, ptr %from{number}
  %to{number} = getelementptr ptr, ptr %pointers, i64 {number}
  store ptr %data{number}, ptr %to{number}"""
        for number in range(count)
    )
    kinds = {"rows": "i64", "length": "i64", "rest": "i64", "strides": "ptr", "size": "i64"}
    loads = "".join(
        f"""
  %{name}.at = getelementptr i64, ptr %block, i64 {number}
  %{name} = load {kind}, ptr %{name}.at"""
        for number, (name, kind) in enumerate([*kinds.items(), ("grain", "i64")])
    )
    table = "i64 %length, ptr %pointers, ptr %strides"
    sizes = "i64 %size, i64 %grain, i64 %helpers"
    return f"""
define void @call(ptr %block, ptr %run, ptr %team, i64 %helpers, ptr %memory{objects}) {{
  %pointers = alloca ptr, i64 {count}{copies}{loads}
  %alone = icmp eq ptr %run, null
  br i1 %alone, label %by.itself, label %with.team
by.itself:
  call void @kernel(i64 0, i64 %rows, {table}, ptr %memory)
  br label %done
with.team:
  call void %run(ptr %team, ptr @kernel, i64 %rows, {table}, ptr %memory, {sizes})
  br label %done
done:
  %shorter = icmp sgt i64 %rest, 0
  br i1 %shorter, label %last, label %end
last:
  %after = add i64 %rows, 1
  call void @kernel(i64 %rows, i64 %after, i64 %rest, ptr %pointers, ptr %strides, ptr null)
  br label %end
end:
  ret void
}}
"""

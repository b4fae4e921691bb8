"""A row program printed as LLVM instructions.

Vectors hold neighbours in memory: mostly entries of one row, or, where the axis is not the last
one, the same entry of neighbouring rows. Tails are masked: rows of any length take the same way.
"""

import enum
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from llvmlite import ir

from opsgrad.fusion.functions import BINARY, COMPARISONS, FORMATS, I1, I32, I64, UNARY, Functions
from opsgrad.fusion.graph import Node
from opsgrad.fusion.program import UNROLL, Phase, Place, Program
from opsgrad.fusion.trace import BOOLEAN, INTEGER, Kind

POINTER = ir.PointerType()
BLOCK = 16
"""How many vectors are added up before the sum is put aside: sums stay short, errors small."""


class Lanes(enum.Enum):
    """What the entries of a vector are."""

    COLUMNS = "entries of one row"
    ROWS = "one entry of neighbouring rows"


class Printer:
    """Prints one program for one way of laying vectors."""

    def __init__(self, program: Program, inputs: Sequence[Any], lanes: Lanes, width: int) -> None:
        self.program = program
        self.graph = program.graph
        self.inputs = inputs
        self.lanes = lanes
        self.width = width
        self.form = FORMATS[self.graph.dtype]
        self.module = ir.Module("opsgrad")
        signature = ir.FunctionType(ir.VoidType(), [I64, I64, I64, POINTER, POINTER, POINTER])
        self.function = ir.Function(self.module, signature, "kernel")
        self.builder = ir.IRBuilder(self.function.append_basic_block("entry"))
        self.scalar = Functions(self.builder, self.form, 1)
        self.vector = Functions(self.builder, self.form, width)
        self.copies = 1
        self.mask: Any = None
        self.rows: dict[int, list[Any]] = {}

    # -- the frame -------------------------------------------------------------------------------

    def print(self) -> str:
        """Return the module as text: the kernel, and its entry for NumPy's own objects."""
        self._kernel()
        self._entry()
        return str(self.module)

    def _entry(self) -> None:
        """Print ``call(begin, end, length, strides, scratch, object, …)``.

        The objects are NumPy's arrays: where their data is stands behind the head of every object.
        To ask for it in Python would take as long as a small kernel.
        """
        count = len(self.inputs) + len(self.program.outputs)
        signature = ir.FunctionType(ir.VoidType(), [I64] * 3 + [POINTER] * (2 + count))
        function = ir.Function(self.module, signature, "call")
        begin, end, length, strides, scratch, *objects = function.args
        self.builder = b = ir.IRBuilder(function.append_basic_block("entry"))
        room = b.alloca(ir.ArrayType(POINTER, count))
        pointers = b.inttoptr(b.ptrtoint(room, I64), POINTER)
        for number, one in enumerate(objects):
            data = b.load(self._at(one, object.__basicsize__), typ=POINTER)
            b.store(data, self._at(pointers, 8 * number))
        b.call(self.function, [begin, end, length, pointers, strides, scratch])
        b.ret_void()

    def _kernel(self) -> None:
        begin, end, self.length, pointers, strides, self.scratch = self.function.args
        b = self.builder
        count = len(self.inputs) + len(self.program.outputs)
        self.base, self.row_stride, self.column_stride = [], [], []
        for number in range(count):
            self.base.append(b.load(self._at(pointers, 8 * number), typ=POINTER))
            self.row_stride.append(b.load(self._at(strides, 16 * number), typ=I64))
            self.column_stride.append(b.load(self._at(strides, 16 * number + 8), typ=I64))
        if self.lanes is Lanes.COLUMNS:
            with self._loop(begin, end, 1) as self.row:
                self._row()
        else:
            step = self.width * UNROLL
            whole = b.add(begin, b.mul(b.sdiv(b.sub(end, begin), I64(step)), I64(step)))
            self.copies = UNROLL
            with self._loop(begin, whole, step) as self.row:
                self._row()
            self.copies = 1
            with self._loop(whole, end, self.width) as self.row:
                self.mask = self._mask(self.row, end)
                self._row()
                self.mask = None
        b.ret_void()

    def _at(self, pointer: Any, offset: Any) -> Any:
        offset = I64(offset) if isinstance(offset, int) else offset
        return self.builder.gep(pointer, [offset], source_etype=ir.IntType(8))

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

    def _variable(self, kind: Any) -> Any:
        """Return memory for a number that a loop changes; LLVM makes registers of it."""
        with self.builder.goto_entry_block():
            return self.builder.alloca(kind)

    def _mask(self, first: Any, end: Any) -> Any:
        """Return which entries of the vector from `first` on lie before `end`."""
        b = self.builder
        left = b.trunc(b.sub(end, first), I32)
        places = ir.Constant(ir.VectorType(I32, self.width), list(range(self.width)))
        return b.icmp_signed("<", places, self._splat(left))

    def _splat(self, value: Any) -> Any:
        b = self.builder
        kind = ir.VectorType(value.type, self.width)
        one = b.insert_element(ir.Constant(kind, ir.Undefined), value, I32(0))
        zeros = ir.Constant(ir.VectorType(I32, self.width), [0] * self.width)
        return b.shuffle_vector(one, ir.Constant(kind, ir.Undefined), zeros)

    # -- a row -----------------------------------------------------------------------------------

    def _row(self) -> None:
        self.rows = {}
        for phase in self.program.phases:
            self._phase(phase)
        for number, kind in enumerate(self.program.kinds):
            if kind is not Kind.TABLE:
                self._store_row(number)

    def _phase(self, phase: Phase) -> None:
        for number in phase.steps:
            for argument in self.graph.nodes[number].arguments:
                if not self.graph.nodes[argument].columns:
                    self._row_value(argument)
        for number in phase.stored:
            if not self.graph.nodes[self.program.outputs[number]].columns:
                self._row_value(self.program.outputs[number])
        sums = {n: self._accumulators(n) for n in phase.reductions}
        if self.lanes is Lanes.COLUMNS:
            self._along_the_row(phase, sums)
        else:
            self._across_rows(phase, sums)
        for number, (totals, _) in sums.items():
            self.rows[number] = self._reduced(self.graph.nodes[number].kind, totals)

    def _along_the_row(self, phase: Phase, sums: Any) -> None:
        b, step = self.builder, self.width * UNROLL
        whole = b.mul(b.sdiv(self.length, I64(step)), I64(step))
        self.copies = UNROLL
        with self._blocks(whole, step, sums) as column:
            self._entries(phase, column, sums)
        self.copies = 1
        with self._loop(whole, self.length, self.width) as column:
            self.mask = self._mask(column, self.length)
            self._entries(phase, column, sums)
            self.mask = None
        self._put_aside(sums)

    def _across_rows(self, phase: Phase, sums: Any) -> None:
        with self._blocks(self.length, 1, sums) as column:
            self._entries(phase, column, sums)

    @contextmanager
    def _blocks(self, end: Any, step: int, sums: Any) -> Iterator[Any]:
        """Loop along the row, putting the sums aside after every `BLOCK` steps."""
        b = self.builder
        if not sums:
            with self._loop(I64(0), end, step) as column:
                yield column
            return
        with self._loop(I64(0), end, step * BLOCK) as first:
            last = b.add(first, I64(step * BLOCK))
            last = b.select(b.icmp_signed("<", last, end), last, end)
            with self._loop(first, last, step) as column:
                yield column
            self._put_aside(sums)

    # -- reductions ------------------------------------------------------------------------------

    def _accumulators(self, number: int) -> tuple[list[Any], list[Any]]:
        """Return memory for the totals of a reduction, and for the sums of the current block."""
        kind = self.graph.nodes[number].kind
        start = self.vector.number({"sum": 0.0, "max": -math.inf, "min": math.inf}[kind])
        count = UNROLL if self.lanes is Lanes.COLUMNS else self.copies
        both = [[self._variable(start.type) for _ in range(count)] for _ in range(2)]
        for variable in (*both[0], *both[1]):
            self.builder.store(start, variable)
        return both[0], both[1]

    def _accumulate(self, number: int, values: list[Any], sums: Any) -> None:
        b, kind = self.builder, self.graph.nodes[number].kind
        _, current = sums[number]
        for value, variable in zip(values, current, strict=False):
            before = b.load(variable, typ=value.type)
            after = self._combine(kind, before, value)
            if self.mask is not None and self.lanes is Lanes.COLUMNS:
                after = b.select(self.mask, after, before)
            b.store(after, variable)

    def _combine(self, kind: str, one: Any, other: Any) -> Any:
        if kind == "sum":
            return self.builder.fadd(one, other)
        name = {"max": "maximum", "min": "minimum"}[kind]
        return self.vector.call(name, one, other)

    def _put_aside(self, sums: Any) -> None:
        b = self.builder
        for number, (totals, current) in sums.items():
            kind = self.graph.nodes[number].kind
            for total, variable in zip(totals, current, strict=True):
                value = b.load(variable, typ=self.vector.real)
                b.store(self._combine(kind, b.load(total, typ=value.type), value), total)
                if kind == "sum":
                    b.store(self.vector.number(0.0), variable)

    def _reduced(self, kind: str, variables: list[Any]) -> list[Any]:
        b = self.builder
        values = [b.load(variable, typ=self.vector.real) for variable in variables]
        if self.lanes is Lanes.ROWS:
            return values
        while len(values) > 1:
            pairs = zip(values[::2], values[1::2], strict=True)
            values = [self._combine(kind, one, other) for one, other in pairs]
        (value,) = values
        width = self.width
        while width > 1:
            width //= 2
            swap = [k ^ width if k < 2 * width else k for k in range(self.width)]
            order = ir.Constant(ir.VectorType(I32, self.width), swap)
            value = self._combine(kind, value, b.shuffle_vector(value, value, order))
        return [b.extract_element(value, I32(0))]

    # -- values along the row --------------------------------------------------------------------

    def _entries(self, phase: Phase, column: Any, sums: Any) -> None:
        """Compute the steps of a phase for the vectors at `column`."""
        values: dict[int, list[Any]] = {}
        kept = dict(phase.kept)
        done = self._done(phase)
        for number in phase.steps:
            place = self.program.places.get(number)
            if place is not None and number not in kept and number in done:
                values[number] = [
                    self._load(a, self._type(number)) for a in self._kept(place, column)
                ]
            else:
                values[number] = self._value(number, values, column)
            if number in kept:
                for address, value in zip(
                    self._kept(kept[number], column), values[number], strict=True
                ):
                    self._store(value, address)
        for number in phase.reductions:
            argument = self.graph.nodes[number].arguments[0]
            self._accumulate(number, self._operand(argument, values), sums)
        for output in phase.stored:
            node = self.program.outputs[output]
            if self.program.places.get(node) == Place(True, output) and node in kept:
                continue
            addresses = self._addresses(len(self.inputs) + output, column)
            for address, value in zip(addresses, self._operand(node, values), strict=True):
                self._store(value, address)

    def _done(self, phase: Phase) -> set[int]:
        """Return what earlier phases have kept."""
        before = self.program.phases[: self.program.phases.index(phase)]
        return {number for one in before for number, _ in one.kept}

    def _value(self, number: int, values: dict[int, list[Any]], column: Any) -> list[Any]:
        node = self.graph.nodes[number]
        if node.kind == "input":
            return self._input(node, column)
        if node.kind == "index":
            return self._index(column)
        operands = [self._operand(n, values) for n in node.arguments]
        return [self._apply(self.vector, node, list(each)) for each in zip(*operands, strict=True)]

    def _operand(self, number: int, values: dict[int, list[Any]]) -> list[Any]:
        """Return a node as one vector for each copy."""
        if number in values:
            return values[number]
        found = self._row_value(number)
        if self.lanes is Lanes.COLUMNS:
            (value,) = found
            if isinstance(value, ir.Constant):
                vector = ir.Constant(
                    ir.VectorType(value.type, self.width), [value.constant] * self.width
                )
            else:
                vector = self._splat(value)
            if value.type == I64:
                vector = self.builder.trunc(vector, ir.VectorType(I32, self.width))
            return [vector] * self.copies
        return found

    def _index(self, column: Any) -> list[Any]:
        b = self.builder
        first = self._splat(b.trunc(column, I32))
        if self.lanes is Lanes.ROWS:
            return [first] * self.copies
        kind = ir.VectorType(I32, self.width)
        return [
            b.add(first, ir.Constant(kind, [copy * self.width + k for k in range(self.width)]))
            for copy in range(self.copies)
        ]

    # -- values of a row -------------------------------------------------------------------------

    def _row_value(self, number: int) -> list[Any]:
        """Return a node that is the same along the row, computed when first asked for."""
        if number not in self.rows:
            node = self.graph.nodes[number]
            functions = self.scalar if self.lanes is Lanes.COLUMNS else self.vector
            count = 1 if self.lanes is Lanes.COLUMNS else self.copies
            if node.kind == "constant":
                out = [self._constant(node, functions)] * count
            elif node.kind == "length":
                out = [self._whole(self.length, functions)] * count
            elif node.kind == "input":
                out = self._row_input(node)
            else:
                operands = [self._row_value(n) for n in node.arguments]
                out = [
                    self._apply(functions, node, list(each)) for each in zip(*operands, strict=True)
                ]
            self.rows[number] = out
        return self.rows[number]

    def _constant(self, node: Node, functions: Functions) -> Any:
        if node.dtype == self.graph.dtype:
            return functions.number(node.detail)
        if node.dtype == INTEGER:
            kind = functions.vector(I64 if functions.width == 1 else I32)
        else:
            kind = functions.vector(I1)
        value = int(node.detail)
        return ir.Constant(kind, value if functions.width == 1 else [value] * functions.width)

    def _whole(self, value: Any, functions: Functions) -> Any:
        if functions.width == 1:
            return value
        return self._splat(self.builder.trunc(value, I32))

    def _row_input(self, node: Node) -> list[Any]:
        number = node.detail
        if self.lanes is Lanes.COLUMNS or not node.rows:
            offset = self.builder.mul(self.row, self.row_stride[number])
            kind = I64 if node.dtype == INTEGER else self.form.real
            value = self.builder.load(self._at(self.base[number], offset), typ=kind)
            if self.lanes is Lanes.COLUMNS:
                return [value]
            return [self._splat(value)] * self.copies
        size = node.dtype.itemsize
        kind = ir.VectorType(I64, self.width) if node.dtype == INTEGER else self.vector.real
        out = []
        for copy in range(self.copies):
            row = self.builder.add(self.row, I64(copy * self.width))
            address = self._at(self.base[number], self.builder.mul(row, I64(size)))
            value = self._load(address, kind)
            if node.dtype == INTEGER:
                value = self.builder.trunc(value, ir.VectorType(I32, self.width))
            out.append(value)
        return out

    def _store_row(self, output: int) -> None:
        """Write a result that is one number for each row."""
        b, number = self.builder, len(self.inputs) + output
        values = self._row_value(self.program.outputs[output])
        if self.lanes is Lanes.COLUMNS:
            offset = b.mul(self.row, self.row_stride[number])
            b.store(values[0], self._at(self.base[number], offset))
            return
        size = self.form.dtype.itemsize
        for copy, value in enumerate(values):
            row = b.add(self.row, I64(copy * self.width))
            self._store(value, self._at(self.base[number], b.mul(row, I64(size))))

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

    # -- memory ----------------------------------------------------------------------------------

    def _type(self, number: int) -> Any:
        dtype = self.graph.nodes[number].dtype
        if dtype == self.graph.dtype:
            return self.vector.real
        return ir.VectorType(I32 if dtype == INTEGER else I1, self.width)

    def _input(self, node: Node, column: Any) -> list[Any]:
        number = node.detail
        if self.lanes is Lanes.ROWS and not node.rows:
            offset = self.builder.mul(column, self.column_stride[number])
            value = self.builder.load(self._at(self.base[number], offset), typ=self.form.real)
            return [self._splat(value)] * self.copies
        return [self._load(a, self.vector.real) for a in self._addresses(number, column)]

    def _addresses(self, number: int, column: Any) -> list[Any]:
        """Return where the vectors of an input or output are, one for each copy."""
        b, size = self.builder, self.form.dtype.itemsize
        if self.lanes is Lanes.COLUMNS:
            offset = b.add(b.mul(self.row, self.row_stride[number]), b.mul(column, I64(size)))
        else:
            offset = b.add(b.mul(self.row, I64(size)), b.mul(column, self.column_stride[number]))
        first = self._at(self.base[number], offset)
        return [self._at(first, copy * self.width * size) for copy in range(self.copies)]

    def _kept(self, place: Place, column: Any) -> list[Any]:
        if place.output:
            return self._addresses(len(self.inputs) + place.number, column)
        b, size = self.builder, self.form.dtype.itemsize
        across = self.width * UNROLL if self.lanes is Lanes.ROWS else 1
        entry = b.add(b.mul(self.length, I64(place.number)), column)
        first = self._at(self.scratch, b.mul(entry, I64(size * across)))
        return [self._at(first, copy * self.width * size) for copy in range(self.copies)]

    def _load(self, address: Any, kind: Any) -> Any:
        size = 8 if kind.element == I64 else self.form.dtype.itemsize
        if self.mask is None:
            return self.builder.load(address, align=4 if kind.element == I32 else size, typ=kind)
        return self._masked("load", kind, address, None)

    def _store(self, value: Any, address: Any) -> None:
        if self.mask is None:
            self.builder.store(value, address, align=self.form.dtype.itemsize)
        else:
            self._masked("store", value.type, address, value)

    def _masked(self, what: str, kind: Any, address: Any, value: Any) -> Any:
        # Printed in the form of before LLVM 21, which every later one understands.
        element = {"float": "f32", "double": "f64", "i64": "i64", "i32": "i32"}[str(kind.element)]
        name = f"llvm.masked.{what}.v{self.width}{element}.p0"
        masks = ir.VectorType(I1, self.width)
        align = I32(8 if element in ("f64", "i64") else 4)
        if what == "load":
            arguments = [address, align, self.mask, ir.Constant(kind, [0] * self.width)]
            signature = ir.FunctionType(kind, [POINTER, I32, masks, kind])
        else:
            arguments = [value, address, align, self.mask]
            signature = ir.FunctionType(ir.VoidType(), [kind, POINTER, I32, masks])
        function = self.module.globals.get(name) or ir.Function(self.module, signature, name)
        return self.builder.call(function, arguments)

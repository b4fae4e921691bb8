"""How the vectors of a kernel lie in the table: along a row, across rows, or short rows in fours.

A kernel computes several vectors side by side, its copies, which hides how long each instruction
takes. What is the same along the row is computed once for a row: on one number, or on a vector of
rows.
"""

import abc
import functools
from typing import Any

from llvmlite import ir

from opsgrad.fusion.functions import I32, I64, Format, Functions
from opsgrad.fusion.graph import Node
from opsgrad.fusion.program import UNROLL
from opsgrad.fusion.trace import INTEGER

POINTER = ir.PointerType()


class Frame:
    """What a kernel has in hand: where the arrays are, the row that it is at, access to memory."""

    def __init__(self, function: Any, form: Format, width: int) -> None:
        self.form = form
        self.width = width
        self.size = form.dtype.itemsize
        self.builder = ir.IRBuilder(function.append_basic_block("entry"))
        self.vector = Functions(self.builder, form, width)
        self.base: list[Any] = []
        self.row_stride: list[Any] = []
        self.column_stride: list[Any] = []
        self.length: Any = None
        self.scratch: Any = None
        self.row: Any = None
        self.mask: Any = None
        """Which entries of a vector are there; None where all are."""

    def at(self, pointer: Any, offset: Any) -> Any:
        """Return the address so many bytes on."""
        offset = I64(offset) if isinstance(offset, int) else offset
        return self.builder.gep(pointer, [offset], source_etype=ir.IntType(8))

    def place(self, number: int, row: Any, column: Any = None) -> Any:
        """Return where a row of an array is, or an entry of it."""
        b = self.builder
        place = self.at(self.base[number], b.mul(row, self.row_stride[number]))
        return place if column is None else self.at(place, b.mul(column, I64(self.size)))

    def below(self, first: Any, end: Any) -> Any:
        """Return which entries of the vector from `first` on lie before `end`."""
        b = self.builder
        return b.icmp_signed("<", self.counted(0), self.splat(b.trunc(b.sub(end, first), I32)))

    def counted(self, first: int) -> Any:
        """Return a vector that counts up from `first`."""
        kind = ir.VectorType(I32, self.width)
        return ir.Constant(kind, list(range(first, first + self.width)))

    def splat(self, value: Any, width: int | None = None) -> Any:
        """Return a number in each entry of a vector."""
        width = self.width if width is None else width
        if isinstance(value, ir.Constant):
            return ir.Constant(ir.VectorType(value.type, width), [value.constant] * width)
        nothing = ir.Constant(ir.VectorType(value.type, 1), ir.Undefined)
        one = self.builder.insert_element(nothing, value, I32(0))
        return self.shuffled(one, one, [0] * width)

    def shuffled(self, one: Any, other: Any, order: list[int]) -> Any:
        """Return entries of two vectors, counted from one to the other, in another order."""
        kind = ir.VectorType(I32, len(order))
        return self.builder.shuffle_vector(one, other, ir.Constant(kind, order))

    def load(self, address: Any, kind: Any) -> Any:
        """Load a vector; entries that are masked out are 0."""
        align = 8 if kind.element == I64 else self.size
        if self.mask is None:
            return self.builder.load(address, align=align, typ=kind)
        zeros = ir.Constant(kind, [0] * self.width)
        return self._masked("load", kind, [address, I32(align), self.mask, zeros])

    def store(self, value: Any, address: Any) -> None:
        """Store a vector of numbers, but for entries that are masked out."""
        if self.mask is None:
            self.builder.store(value, address, align=self.size)
        else:
            self._masked("store", value.type, [value, address, I32(self.size), self.mask])

    def _masked(self, what: str, kind: Any, arguments: list[Any]) -> Any:
        # Printed in the form of before LLVM 21, which every later one understands.
        element = {"float": "f32", "double": "f64", "i64": "i64"}[str(kind.element)]
        name = f"llvm.masked.{what}.v{self.width}{element}.p0"
        result = kind if what == "load" else ir.VoidType()
        signature = ir.FunctionType(result, [one.type for one in arguments])
        module = self.builder.module
        function = module.globals.get(name) or ir.Function(module, signature, name)
        return self.builder.call(function, arguments)


def combine(functions: Functions, kind: str, one: Any, other: Any) -> Any:
    """Return one step of a reduction."""
    if kind == "sum":
        return functions.builder.fadd(one, other)
    name = {"max": "maximum", "min": "minimum"}[kind]
    # Which of 0.0 and -0.0 is the larger one costs four of seven instructions; NumPy's own maximum
    # leaves it open too.
    return functions.call(name, one, other, flags=("nsz",))


class Lanes(abc.ABC):
    """A way of laying vectors."""

    row_integer: Any = I64
    """The type of whole numbers that are the same along the row."""

    def __init__(self, frame: Frame, copies: int, row_width: int) -> None:
        self.frame = frame
        self.copies = copies
        self.row = Functions(frame.builder, frame.form, row_width)
        """For what is computed once for a row."""
        self.row_copies = 1
        """How many vectors, or numbers, a node has that is the same along the row."""
        self.accumulators = copies
        """How many vectors a reduction is collected in."""

    @abc.abstractmethod
    def addresses(self, number: int, column: Any) -> list[Any]:
        """Return where the vectors of an array that is a table are."""

    @abc.abstractmethod
    def scratch(self, number: int, column: Any) -> list[Any]:
        """Return where the vectors of a row of scratch memory are."""

    @abc.abstractmethod
    def index(self, column: Any) -> list[Any]:
        """Return the indices along the row."""

    @abc.abstractmethod
    def spread(self, values: list[Any]) -> list[Any]:
        """Return what is the same along the row as one vector for each copy."""

    @abc.abstractmethod
    def row_input(self, number: int, node: Node) -> list[Any]:
        """Load what is the same along the row."""

    @abc.abstractmethod
    def entries(self, node: Node, places: list[Any]) -> list[Any]:
        """Load one entry of each row of an input."""

    @abc.abstractmethod
    def store_row(self, number: int, values: list[Any]) -> None:
        """Store what is the same along the row."""

    @abc.abstractmethod
    def reduced(self, kind: str, values: list[Any]) -> list[Any]:
        """Return the result of a reduction from what its accumulators hold."""

    def column_input(self, number: int, column: Any) -> list[Any]:
        """Load the vectors of an input that has no rows."""
        return self.table_input(number, column)

    def table_input(self, number: int, column: Any) -> list[Any]:
        """Load the vectors of an input that is a table."""
        kind = self.frame.vector.real
        return [self.frame.load(address, kind) for address in self.addresses(number, column)]

    def _successive(self, first: Any, size: int | None = None) -> list[Any]:
        """Return where vectors are that follow one another, of entries of `size` bytes."""
        step = self.frame.width * (self.frame.size if size is None else size)
        return [self.frame.at(first, copy * step) for copy in range(self.copies)]

    def _gathered(self, node: Node, addresses: list[Any]) -> Any:
        """Load numbers from here and there into a vector."""
        b, kind = self.frame.builder, self._type(node)
        entries = ir.Constant(ir.VectorType(kind, len(addresses)), ir.Undefined)
        for lane, address in enumerate(addresses):
            entries = b.insert_element(entries, b.load(address, typ=kind), I32(lane))
        return entries

    def _type(self, node: Node) -> Any:
        return I64 if node.dtype == INTEGER else self.frame.form.real


class AlongRow(Lanes):
    """Neighbouring entries of one row; the copies follow one another."""

    def __init__(self, frame: Frame, copies: int) -> None:
        super().__init__(frame, copies, 1)
        self.accumulators = UNROLL  # the tail, one vector at a time, is added to the first

    def addresses(self, number: int, column: Any) -> list[Any]:
        return self._successive(self.frame.place(number, self.frame.row, column))

    def scratch(self, number: int, column: Any) -> list[Any]:
        b, frame = self.frame.builder, self.frame
        entry = b.add(b.mul(frame.length, I64(number)), column)
        return self._successive(frame.at(frame.scratch, b.mul(entry, I64(frame.size))))

    def index(self, column: Any) -> list[Any]:
        b, frame = self.frame.builder, self.frame
        first = frame.splat(b.trunc(column, I32))
        return [b.add(first, frame.counted(copy * frame.width)) for copy in range(self.copies)]

    def spread(self, values: list[Any]) -> list[Any]:
        (value,) = values
        if value.type == I64:
            value = _narrowed(self.frame, value)
        return [self.frame.splat(value)] * self.copies

    def row_input(self, number: int, node: Node) -> list[Any]:
        place = self.frame.place(number, self.frame.row)
        return [self.frame.builder.load(place, typ=self._type(node))]

    def entries(self, node: Node, places: list[Any]) -> list[Any]:
        address = self.frame.place(node.detail, self.frame.row, places[0])
        return [self.frame.builder.load(address, typ=self._type(node))]

    def store_row(self, number: int, values: list[Any]) -> None:
        self.frame.builder.store(values[0], self.frame.place(number, self.frame.row))

    def reduced(self, kind: str, values: list[Any]) -> list[Any]:
        step = functools.partial(combine, self.frame.vector, kind)
        while len(values) > 1:
            pairs = zip(values[::2], values[1::2], strict=True)
            values = [step(one, other) for one, other in pairs]
        return [self.frame.builder.extract_element(_folded(self.frame, step, values[0], 1), I32(0))]


class ShortRows(Lanes):
    """Neighbouring entries of a row; the copies are neighbouring rows.

    One row at a time, a row of ten entries takes as long as its instructions one after the other.
    What is the same along the row is a vector of the four rows.
    """

    def __init__(self, frame: Frame) -> None:
        super().__init__(frame, UNROLL, UNROLL)

    def addresses(self, number: int, column: Any) -> list[Any]:
        b, frame = self.frame.builder, self.frame
        rows = [b.add(frame.row, I64(copy)) for copy in range(self.copies)]
        return [frame.place(number, row, column) for row in rows]

    def scratch(self, number: int, column: Any) -> list[Any]:
        b, frame = self.frame.builder, self.frame
        rows = [I64(number * self.copies + copy) for copy in range(self.copies)]
        entries = [b.add(b.mul(frame.length, row), column) for row in rows]
        return [frame.at(frame.scratch, b.mul(entry, I64(frame.size))) for entry in entries]

    def index(self, column: Any) -> list[Any]:
        frame = self.frame
        first = frame.splat(frame.builder.trunc(column, I32))
        return [frame.builder.add(first, frame.counted(0))] * self.copies

    def spread(self, values: list[Any]) -> list[Any]:
        (value,) = values
        if value.type.element == I64:
            value = _narrowed(self.frame, value)
        width = self.frame.width
        return [self.frame.shuffled(value, value, [row] * width) for row in range(self.copies)]

    def row_input(self, number: int, node: Node) -> list[Any]:
        frame, kind = self.frame, self._type(node)
        place = frame.place(number, frame.row)
        if not node.rows:
            return [frame.splat(frame.builder.load(place, typ=kind), self.copies)]
        align = 8 if kind == I64 else frame.size
        return [frame.builder.load(place, align=align, typ=ir.VectorType(kind, self.copies))]

    def entries(self, node: Node, places: list[Any]) -> list[Any]:
        b, frame, (place,) = self.frame.builder, self.frame, places
        rows = [b.add(frame.row, I64(copy)) for copy in range(self.copies)]
        columns = [b.extract_element(place, I32(copy)) for copy in range(self.copies)]
        pairs = zip(rows, columns, strict=True)
        return [self._gathered(node, [frame.place(node.detail, *pair) for pair in pairs])]

    def store_row(self, number: int, values: list[Any]) -> None:
        place = self.frame.place(number, self.frame.row)
        self.frame.builder.store(values[0], place, align=self.frame.size)

    def reduced(self, kind: str, values: list[Any]) -> list[Any]:
        # Two rows are folded into the halves of one vector, and so on: with four rows that takes
        # less than half the instructions of folding each.
        frame, step = self.frame, functools.partial(combine, self.frame.vector, kind)
        part = frame.width
        while len(values) > 1:
            part //= 2
            values = [
                self._folded_together(step, one, other, part)
                for one, other in zip(values[::2], values[1::2], strict=True)
            ]
        folded = _folded(frame, step, values[0], self.copies)
        return [frame.shuffled(folded, folded, list(range(0, frame.width, part)))]

    def _folded_together(self, step: Any, one: Any, other: Any, part: int) -> Any:
        """Fold the halves of each group of entries; the groups of `one` come before `other`'s."""
        every = range(0, 2 * self.frame.width, 2 * part)
        low = [first + k for first in every for k in range(part)]
        high = [first + part + k for first in every for k in range(part)]
        shuffled = self.frame.shuffled
        return step(shuffled(one, other, low), shuffled(one, other, high))


class AcrossRows(Lanes):
    """The same entry of neighbouring rows, which are neighbours in memory."""

    row_integer = I32

    def __init__(self, frame: Frame, copies: int) -> None:
        super().__init__(frame, copies, frame.width)
        self.row_copies = copies

    def addresses(self, number: int, column: Any) -> list[Any]:
        b, frame = self.frame.builder, self.frame
        first = frame.at(frame.base[number], b.mul(column, frame.column_stride[number]))
        return self._successive(frame.at(first, b.mul(frame.row, I64(frame.size))))

    def scratch(self, number: int, column: Any) -> list[Any]:
        b, frame = self.frame.builder, self.frame
        entry = b.add(b.mul(frame.length, I64(number)), column)
        rows = frame.width * UNROLL
        return self._successive(frame.at(frame.scratch, b.mul(entry, I64(frame.size * rows))))

    def index(self, column: Any) -> list[Any]:
        return [self.frame.splat(self.frame.builder.trunc(column, I32))] * self.copies

    def spread(self, values: list[Any]) -> list[Any]:
        return values

    def row_input(self, number: int, node: Node) -> list[Any]:
        b, frame, kind = self.frame.builder, self.frame, self._type(node)
        if not node.rows:
            return [frame.splat(b.load(frame.base[number], typ=kind))] * self.copies
        size = node.dtype.itemsize
        first = frame.at(frame.base[number], b.mul(frame.row, I64(size)))
        vectors = ir.VectorType(kind, frame.width)
        values = [frame.load(address, vectors) for address in self._successive(first, size)]
        return [_narrowed(frame, v) for v in values] if kind == I64 else values

    def entries(self, node: Node, places: list[Any]) -> list[Any]:
        return [self._entries(node, copy, place) for copy, place in enumerate(places)]

    def _entries(self, node: Node, copy: int, place: Any) -> Any:
        """Load one entry of each row of a vector; where there is no row, one of the first."""
        b, frame = self.frame.builder, self.frame
        addresses = []
        for lane in range(frame.width):
            offset = I64(copy * frame.width + lane)
            if frame.mask is not None:
                offset = b.select(b.extract_element(frame.mask, I32(lane)), offset, I64(0))
            entry = frame.at(
                frame.base[node.detail], b.mul(b.add(frame.row, offset), I64(frame.size))
            )
            column = b.zext(b.extract_element(place, I32(lane)), I64)
            addresses.append(frame.at(entry, b.mul(column, frame.column_stride[node.detail])))
        return self._gathered(node, addresses)

    def store_row(self, number: int, values: list[Any]) -> None:
        frame = self.frame
        offset = frame.builder.mul(frame.row, I64(frame.size))
        places = self._successive(frame.at(frame.base[number], offset))
        for value, place in zip(values, places, strict=True):
            frame.store(value, place)

    def reduced(self, kind: str, values: list[Any]) -> list[Any]:
        return values

    def column_input(self, number: int, column: Any) -> list[Any]:
        b, frame = self.frame.builder, self.frame
        place = frame.at(frame.base[number], b.mul(column, frame.column_stride[number]))
        return [frame.splat(b.load(place, typ=frame.form.real))] * self.copies


def _narrowed(frame: Frame, values: Any) -> Any:
    """Return whole numbers in 32 bits, as wide as a vector of indices has them."""
    vector = isinstance(values.type, ir.VectorType)
    narrow = ir.VectorType(I32, values.type.count) if vector else I32
    if isinstance(values, ir.Constant):
        return ir.Constant(narrow, values.constant)
    b = frame.builder
    for limit, sign in ((-(1 << 31), "<"), ((1 << 31) - 1, ">")):  # no label becomes another
        end = ir.Constant(values.type, [limit] * narrow.count if vector else limit)
        values = b.select(b.icmp_signed(sign, values, end), end, values)
    return b.trunc(values, narrow)


def _folded(frame: Frame, step: Any, value: Any, groups: int) -> Any:
    """Return a vector each of whose groups of entries is folded to one, in its first entry."""
    part = frame.width // groups
    while part > 1:
        part //= 2
        value = step(value, frame.shuffled(value, value, [k ^ part for k in range(frame.width)]))
    return value

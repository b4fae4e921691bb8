"""A row program printed as CUDA C++.

In most kernels a row is held in the registers of the threads that share it: it is read once, and
whatever a later pass along it needs is there. The longest rows are read again in every pass.
"""

import functools
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from opsgrad.fusion.graph import REDUCTIONS, Node
from opsgrad.fusion.online import Mask, Online, online
from opsgrad.fusion.program import Phase, Program
from opsgrad.fusion.trace import BOOLEAN, INTEGER, Input, Kind

STORED = {
    "float16": "float16",
    "bfloat16": "bfloat16",
    "float32": "float",
    "float64": "double",
    "int64": "i64",
}
"""The types of C++ that arrays of a data type hold."""
SIZES = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8, "int64": 8}
BY_VALUE = "a number"
"""In the place of a data type: no array, but one number, as the bits of a double."""
BLOCK = 16
"""So many chunks are added up before the sum is put aside, in rows that are not in registers."""
STEP = "GROUP * CLUSTER * CHUNK"
"""How far all threads together come with a chunk each."""
AHEAD = 64
"""Of each input a thread reads so many bytes, in the data type that is computed in, before
it adds up what depends on their maximum: twice as many spilled in float64."""

OPERATORS = {
    "add": "+",
    "subtract": "-",
    "multiply": "*",
    "divide": "/",
    "less": "<",
    "less_equal": "<=",
    "greater": ">",
    "greater_equal": ">=",
    "equal": "==",
    "not_equal": "!=",
    "logical_and": "&&",
    "logical_or": "||",
}
REDUCERS = {"sum": "Sum", "max": "Maximum", "min": "Minimum"}


class Shape(NamedTuple):
    """How the threads of a kernel share the work."""

    layout: str
    """"flat": an array without rows; "rows"; "columns": rows that run across memory."""
    threads: int
    """In a block."""
    group: int
    """How many of a block share a row."""
    cluster: int
    """How many blocks share a row."""
    chunk: int
    """How many entries a thread reads at once."""
    chunks: int
    """How many chunks of a row a thread holds; 0: the row is read again in every pass."""
    wide: int = 1
    """How many rows lie side by side in a block, where they run across memory."""
    peeled: bool = False
    """Whether rows begin and end within chunks, of which then a part is read and written."""

    @property
    def reach(self) -> int:
        """The longest row, or 0 for no limit."""
        whole = self.group * self.cluster * self.chunk * self.chunks
        return whole - self.chunk + 1 if self.peeled else whole


@functools.cache
def header() -> str:
    """Return what all kernels are made of."""
    return Path(__file__).with_name("rows.cuh").read_text()


class Source(NamedTuple):
    """A kernel to be compiled."""

    name: str
    code: str


def printed(
    program: Program,
    inputs: Sequence[Input | None],
    storage: Sequence[str],
    shape: Shape,
    name: str,
) -> Source:
    """Print a program; `storage` are the data types of its inputs and outputs in memory."""
    return Source(name, "\n".join(_Printer(program, inputs, storage, shape, name).lines()) + "\n")


class _Printer:
    def __init__(
        self,
        program: Program,
        inputs: Sequence[Input | None],
        storage: Sequence[str],
        shape: Shape,
        name: str,
    ) -> None:
        self.program = program
        self.nodes = program.graph.nodes
        self.inputs = inputs
        self.storage = storage
        self.shape = shape
        self.name = name
        self.known: set[int] = set()
        """What is the same along the row and has been computed."""
        self.divisors: set[int] = set()
        self.done: set[int] = set()
        """What earlier phases have kept."""

    @property
    def streams(self) -> bool:
        return self.shape.chunks == 0

    # -- the frame -------------------------------------------------------------------------------

    def lines(self) -> Iterator[str]:
        """Yield the lines of the whole program."""
        shape, double = self.shape, self.program.graph.dtype == np.float64
        most = max([len(phase.reductions) for phase in self.program.phases], default=0)
        yield f"typedef {'double' if double else 'float'} real;"
        for macro, value in {
            "DOUBLE": int(double),
            "THREADS": shape.threads,
            "GROUP": shape.group,
            "CLUSTER": shape.cluster,
            "WIDE": shape.wide,
            "REDUCTIONS": max(most, 1),
            "CHUNK": shape.chunk,
            "CHUNKS": shape.chunks,
        }.items():
            yield f"#define {macro} {value}"
        yield header()
        cluster = f"__cluster_dims__({shape.cluster}, 1, 1) " if shape.cluster > 1 else ""
        yield f'extern "C" __global__ void {cluster}__launch_bounds__(THREADS, 1) {self.name}('
        yield "    " + ",\n    ".join(self._arguments()) + ") {"
        for line in self._body():
            yield f"  {line}"
        yield "}"

    def _arguments(self) -> Iterator[str]:
        for number, one in enumerate(self.inputs):
            if self.storage[number] == BY_VALUE:
                yield f"const i64 input{number}"
            elif one is not None:
                kind = STORED[self.storage[number]]
                yield f"const {kind}* __restrict__ input{number}"
        for number in range(len(self.program.outputs)):
            kind = STORED[self.storage[len(self.inputs) + number]]
            yield f"{kind}* __restrict__ output{number}"
        yield "const i64 rows"
        yield "const i64 entries"
        yield "const i64 inner"

    def _body(self) -> Iterator[str]:
        shape = self.shape
        if any(phase.reductions for phase in self.program.phases):
            yield "__shared__ real room[ROOM];"
            yield "int turn = 0;"
        if shape.layout == "flat":
            yield "const i64 piece = (i64)THREADS * CHUNK * CHUNKS;"
            yield "const int lane = threadIdx.x;"
            yield "const i64 step = gridDim.x * piece;"
            yield "for (i64 first = blockIdx.x * piece; first < entries; first += step) {"
            yield "  i64 base = first;"
            yield "  int length = (int)(entries - base < piece ? entries - base : piece);"
        elif shape.layout == "rows":
            yield "int length = (int)entries;"
            yield from self._rows()
        else:
            yield "int length = (int)entries;"
            yield "const int lane = threadIdx.x / WIDE;"
            yield "const i64 tiles = (inner + WIDE - 1) / WIDE;"
            yield "for (i64 tile = blockIdx.x; tile < rows / inner * tiles; tile += gridDim.x) {"
            yield "  const i64 outer = tile / tiles;"
            yield "  const i64 mine = tile % tiles * WIDE + threadIdx.x % WIDE;"
            yield "  const bool live = mine < inner;"
            yield "  const i64 place = live ? mine : inner - 1;"
            yield "  const i64 row = outer * inner + place;"
            yield "  i64 base = outer * length * inner + place;"
        for line in self._row():
            yield f"  {line}"
        yield "}"

    def _rows(self) -> Iterator[str]:
        if self.shape.cluster > 1:
            yield "all_blocks();  // which must have started before any writes to another"
            yield "const int lane = block_in_cluster() * THREADS + threadIdx.x;"
            yield "const i64 step = gridDim.x / CLUSTER;"
            yield "for (i64 row = blockIdx.x / CLUSTER; row < rows; row += step) {"
            yield "  const bool live = true;"
        elif self.shape.group == self.shape.threads:
            yield "const int lane = threadIdx.x;"
            yield "for (i64 row = blockIdx.x; row < rows; row += gridDim.x) {"
            yield "  const bool live = true;"
        else:
            yield "const int lane = threadIdx.x % GROUP;"
            yield "const i64 together = THREADS / GROUP, step = gridDim.x * together;"
            yield "for (i64 first = blockIdx.x * together; first < rows; first += step) {"
            yield "  const i64 mine = first + threadIdx.x / GROUP;"
            yield "  const bool live = mine < rows;"
            yield "  const i64 row = live ? mine : rows - 1;  // all threads take part in shuffles"
        yield "  i64 base = row * length;"
        if self.shape.peeled:
            yield "  const int before = (int)(base % CHUNK);  // in the chunk where the row begins"

    def _row(self) -> Iterator[str]:
        phases = enumerate(self.program.phases)
        for number, phase in phases:
            found = online(self.program, number) if self.streams else None
            if found is None:
                yield from self._phase(number, phase)
            else:
                yield from self._online(phase, found)
                next(phases)  # which it has done too
        for number, kind in enumerate(self.program.kinds):
            if kind is not Kind.TABLE:
                node = self.program.outputs[number]
                yield from self._once(node)
                yield f"if (live && lane == 0) narrow(output{number}[row], {self._name(node)});"

    # -- values of a row -------------------------------------------------------------------------

    def _once(self, *roots: int) -> Iterator[str]:
        """Yield the steps that are taken once for a row, for what `roots` need."""
        for number in self.program.graph.cone(
            roots, lambda n: n in self.known or self.nodes[n].columns
        ):
            node = self.nodes[number]
            if node.columns or number in self.known or node.kind in ("constant", "length"):
                continue
            self.known.add(number)
            if node.kind == "pick":
                yield from self._pick(number, *node.arguments)
            else:
                yield f"const {self._type(node)} {self._name(number)} = {self._row_value(node)};"

    def _pick(self, number: int, terms: int, place: int) -> Iterator[str]:
        """Print the entry of a row at an index, which all threads compute."""
        cone = list(self.program.graph.cone((terms,), lambda n: not self.nodes[n].columns))
        yield from self._once(*[n for n in cone if not self.nodes[n].columns])
        at = self._name(place)
        yield f"real s{number} = 0;"
        yield f"if (0 <= {at} && {at} < length) {{"
        yield f"  const i64 column = {at};"
        yield "  const int v = 0;"
        for step in cone:
            node = self.nodes[step]
            if self._is_loaded(step) and node.columns:
                address = self._address(f"input{node.detail}", node.rows)
                yield f"  const auto raw{step} = load<1>({address});"
            if node.columns:
                yield f"  const {self._type(node)} v{step} = {self._value(step)};"
        yield f"  s{number} += v{terms};  // a sum of -0.0 and zeros is 0.0"
        yield "}"

    def _row_value(self, node: Node) -> str:
        if node.kind == "input":
            if self.storage[node.detail] == BY_VALUE:
                return f"(real)__longlong_as_double(input{node.detail})"
            place = "row" if node.rows else "0"
            value = f"input{node.detail}[{place}]"
            return value if node.dtype == INTEGER else f"(real)wide({value})"
        return self._apply(node)

    # -- a phase ---------------------------------------------------------------------------------

    def _phase(self, number: int, phase: Phase) -> Iterator[str]:
        stored = [self.program.outputs[output] for output in phase.stored]
        yield from self._beforehand(phase.steps, phase.reductions, stored)
        yield from self._streamed(phase) if self.streams else self._held(number, phase)
        yield from self._reduced(phase.reductions)
        self.done.update(n for n, _ in phase.kept)

    def _beforehand(
        self, steps: Sequence[int], reductions: Sequence[int], stored: Sequence[int] = ()
    ) -> Iterator[str]:
        """Print what a pass needs before it begins."""
        needed = [n for step in steps for n in self.nodes[step].arguments]
        needed += [*stored, *[self.nodes[n].arguments[0] for n in reductions]]
        yield from self._once(*[n for n in needed if not self.nodes[n].columns])
        yield from self._row_divisors(steps)
        for reduced in reductions:
            yield f"{REDUCERS[self.nodes[reduced].kind]} all{reduced};"

    def _reduced(self, reductions: Sequence[int]) -> Iterator[str]:
        """Print the exchange of what threads have reduced."""
        if reductions:
            names = ", ".join(f"all{n}" for n in reductions)
            yield f"reduce(room, turn++, {names});"
            for reduced in reductions:
                self.known.add(reduced)
                yield f"const real s{reduced} = all{reduced}.total;"

    def _row_divisors(self, steps: Sequence[int]) -> Iterator[str]:
        for step in steps:
            node = self.nodes[step]
            if node.kind == "divide":
                divisor = node.arguments[1]
                if self._inverts(divisor) and divisor not in self.divisors:
                    self.divisors.add(divisor)
                    yield f"const Divisor d{divisor}({self._name(divisor)});"

    def _inverts(self, divisor: int) -> bool:
        """Whether a divisor is one for the whole row, and not one that the compiler knows."""
        node = self.nodes[divisor]
        return not node.columns and node.kind != "constant"

    def _held(self, number: int, phase: Phase) -> Iterator[str]:
        """Print a pass along a row that is in registers, or will be after it."""
        loads = [n for n in phase.steps if self._is_loaded(n) and n not in self.known]
        self.known.update(loads)
        yield from self._registers(number, phase, loads)
        # No branches around what is computed: that would keep two versions of every register. What
        # lies beyond the row is 0, and whatever comes of it goes into no sum and into no memory.
        if loads:
            yield "UNROLLED for (int k = 0; k < CHUNKS; ++k) {"
            yield f"  {self._column()}"
            for one in loads:
                yield f"  raw{one}[k] = {self._stored(one)}();"
                yield f"  if (column < length) raw{one}[k] = {self._load(self.nodes[one])};"
            yield "}"
        yield "UNROLLED for (int k = 0; k < CHUNKS; ++k) {"
        yield f"  {self._column()}"
        for line in self._chunk(phase):
            yield f"  {line}"
        for reduced in phase.reductions:
            yield f"  if (column < length) all{reduced}.add(part{reduced}.total);"
        yield "}"

    def _registers(self, number: int, phase: Phase, loads: Sequence[int]) -> Iterator[str]:
        fresh = {n for n, _ in phase.kept}
        for one in loads:
            yield f"{self._stored(one)} raw{one}[CHUNKS];"
        for one in sorted(fresh):
            yield f"{self._type(self.nodes[one])} keep{one}[CHUNKS][CHUNK];"
        if number > 0:
            yield "forget(length);"
            yield "forget(base);"
        for one in phase.steps:
            if self._is_loaded(one) and one not in loads:
                yield f"forget(raw{one});"
            elif self._is_kept(one, fresh):
                yield f"forget(keep{one});"

    def _stored(self, number: int) -> str:
        return f"Chunk<{STORED[self.storage[self.nodes[number].detail]]}, CHUNK>"

    def _column(self) -> str:
        return f"const int column = (k * (GROUP * CLUSTER) + lane) * CHUNK{self._before};"

    @property
    def _before(self) -> str:
        return " - before" if self.shape.peeled else ""

    def _streamed(self, phase: Phase) -> Iterator[str]:
        """Print a pass that reads its inputs again."""
        inner = [f"UNROLLED_BY(4) for (int k = 0; k < {BLOCK}; ++k) {{"]
        inner += [f"  const i64 column = start + k * ({STEP});"]
        inner += ["  if (column < length) {"]
        for one in phase.steps:
            if self._is_loaded(one):
                inner.append(f"    const auto raw{one} = {self._load(self.nodes[one])};")
        inner += [f"    {line}" for line in self._chunk_of_block(phase)]
        yield from self._blocks(phase.reductions, [*inner, "  }", "}"])

    def _blocks(self, reductions: Sequence[int], inner: Iterable[str]) -> Iterator[str]:
        """Print a pass along a row that puts its sums aside from time to time."""
        first = f"lane * CHUNK{self._before}"
        yield f"for (i64 start = {first}; start < length; start += (i64){BLOCK} * {STEP}) {{"
        for reduced in reductions:
            yield f"  {REDUCERS[self.nodes[reduced].kind]} block{reduced};"
        for line in inner:
            yield f"  {line}"
        for reduced in reductions:
            yield f"  all{reduced}.add(block{reduced}.total);"
        yield "}"

    def _chunk_of_block(self, phase: Phase) -> Iterator[str]:
        yield from self._chunk(phase)
        for reduced in phase.reductions:
            yield f"block{reduced}.add(part{reduced}.total);"

    def _online(self, phase: Phase, found: Online) -> Iterator[str]:
        """Print a pass that finds a maximum and, few entries behind, sums that depend on it."""
        roots = (found.entry, *found.conditions)
        cone = self.program.graph.cone(roots, lambda n: not self.nodes[n].columns)
        again = [n for n in cone if self.nodes[n].columns]
        yield from self._beforehand((*phase.steps, *again), phase.reductions)
        yield "Peak peak;"
        for number, *_ in found.sums:
            yield f"Part online{number};"
        yield from self._blocks(phase.reductions, self._online_block(phase, again, found))
        yield from self._reduced(phase.reductions)
        for number, *_ in found.sums:
            yield f"Sum all{number};"
            yield f"all{number}.total = peak.settled(online{number}, s{found.top});"
        yield from self._reduced([one.number for one in found.sums])

    def _online_block(self, phase: Phase, again: Sequence[int], found: Online) -> Iterator[str]:
        loads = sorted({n for n in (*phase.steps, *again) if self._is_loaded(n)})
        held = AHEAD // self.program.graph.dtype.itemsize // self.shape.chunk
        each = [f"  UNROLLED for (int h = 0; h < {held}; ++h) {{"]
        each += [
            f"    const i64 column = start + (k + h) * ({STEP});",
            "    if (column < length) {",
        ]
        yield f"UNROLLED_BY(1) for (int k = 0; k < {BLOCK}; k += {held}) {{"
        for one in loads:
            yield f"  {self._stored(one)} held{one}[{held}];"
        yield from each
        for one in loads:
            yield f"      const auto raw{one} = held{one}[h] = {self._load(self.nodes[one])};"
        for line in self._chunk_of_block(phase):
            yield f"      {line}"
        yield "  }}"
        top = f"block{found.top}.total"
        parts = ", ".join(f"online{one.number}" for one in found.sums)
        yield f"  if (!({top} <= peak.top)) peak.rise({top}, {parts});"
        yield from each
        for one in loads:
            yield f"      const auto raw{one} = held{one}[h];"
        for line in self._terms(again, found):
            yield f"      {line}"
        yield "  }}"
        yield "}"
        for number, *_ in found.sums:
            yield f"online{number}.put_aside();"

    def _terms(self, steps: Sequence[int], found: Online) -> Iterator[str]:
        """Print what a chunk adds to sums of terms."""
        for number, *_ in found.sums:
            yield f"real chunk{number} = 0;"
        yield "UNROLLED for (int v = 0; v < CHUNK; ++v) {"
        for step in steps:
            node = self.nodes[step]
            yield f"  const {self._type(node)} {self._name(step)} = {self._value(step)};"
        entry = self._name(found.entry)
        there = "inside(column + v, length)" if self.shape.peeled else "true"
        yield f"  const bool there = {there}, low = {entry} < peak.top;"
        yield f"  const real one = term({entry}, low ? peak.base : peak.top);"
        for number, below, at_top in found.sums:
            yield f"  chunk{number} += there && low && {self._mask(below)} ? one : 0;"
            yield f"  online{number}.once_below += there && !low && {self._mask(below)} ? one : 0;"
            yield f"  online{number}.at_top += there && !low && {self._mask(at_top)} ? one : 0;"
        yield "}"
        for number, *_ in found.sums:
            yield f"online{number}.block += chunk{number};"

    def _mask(self, mask: Mask) -> str:
        return str(mask).lower() if isinstance(mask, bool) else self._name(mask)

    def _chunk(self, phase: Phase) -> Iterator[str]:
        """Print what is done with a chunk of a row."""
        for reduced in phase.reductions:
            yield f"{REDUCERS[self.nodes[reduced].kind]} part{reduced};"
        for output in phase.stored:
            kind = STORED[self.storage[len(self.inputs) + output]]
            yield f"Chunk<{kind}, CHUNK> out{output};"
        yield "UNROLLED for (int v = 0; v < CHUNK; ++v) {"
        kept = {n for n, _ in phase.kept}
        for step in phase.steps:
            node = self.nodes[step]
            value = f"keep{step}[k][v]" if self._is_kept(step, kept) else self._value(step)
            yield f"  const {self._type(node)} {self._name(step)} = {value};"
            if step in kept and not self.streams:
                yield f"  keep{step}[k][v] = {self._name(step)};"
        there = "if (inside(column + v, length)) " if self.shape.peeled else ""
        for reduced in phase.reductions:
            value = self._name(self.nodes[reduced].arguments[0])
            yield f"  {there}part{reduced}.add({value});"
        for output in phase.stored:
            yield f"  narrow(out{output}.at[v], {self._name(self.program.outputs[output])});"
        yield "}"
        for output in phase.stored:
            yield self._store(output)

    def _is_kept(self, step: int, fresh: set[int]) -> bool:
        return step in self.program.places and step not in fresh and step in self.done

    def _is_loaded(self, number: int) -> bool:
        return self.nodes[number].kind == "input"

    def _value(self, number: int) -> str:
        """Return an entry of the row."""
        node = self.nodes[number]
        if node.kind == "input":
            at = f"raw{number}.at[v]" if self.streams else f"raw{number}[k].at[v]"
            return f"(real)wide({at})"
        if node.kind == "index":
            return "(int)column + v"
        return self._apply(node)

    # -- memory ----------------------------------------------------------------------------------

    def _address(self, array: str, rows: bool) -> str:
        if not rows:
            return f"{array} + column"
        if self.shape.layout == "columns":
            return f"{array} + base + column * inner"
        return f"{array} + base + column"

    def _load(self, node: Node) -> str:
        return f"load<CHUNK>({self._address(f'input{node.detail}', node.rows)}{self._part})"

    @property
    def _part(self) -> str:
        """What tells which entries of a chunk there are, where not all may be."""
        if self.shape.peeled:
            return ", column, length"
        return ", length - column" if self.shape.layout == "flat" else ""

    def _store(self, output: int) -> str:
        inside = "true" if self.streams else "column < length"
        if self.shape.layout != "flat":
            inside += " && live"
        address = self._address(f"output{output}", rows=True)
        return f"if ({inside}) store<CHUNK>({address}, out{output}{self._part});"

    # -- expressions -----------------------------------------------------------------------------

    def _type(self, node: Node) -> str:
        if node.dtype == BOOLEAN:
            return "bool"
        if node.dtype == INTEGER:
            return "int" if node.columns else "i64"
        return "real"

    def _name(self, number: int) -> str:
        node = self.nodes[number]
        if node.kind == "constant":
            return self._constant(node)
        if node.kind == "length":
            return "length"
        return f"{'v' if node.columns else 's'}{number}"

    def _constant(self, node: Node) -> str:
        if node.dtype in (INTEGER, BOOLEAN):
            return repr(int(node.detail))
        value = float(node.detail)
        if math.isnan(value):
            return "not_a_number()"
        if math.isinf(value):
            return "infinity()" if value > 0 else "(-infinity())"
        return f"((real){value.hex()})"

    def _apply(self, node: Node) -> str:
        names = [self._operand(node, n) for n in node.arguments]
        kind = node.kind
        if kind == "where":
            return "{} ? {} : {}".format(*names)
        if kind == "negative":
            return f"-{names[0]}"
        if kind == "logical_not":
            return f"!{names[0]}"
        if kind == "astype":
            return f"(real){names[0]}"
        if kind == "divide" and node.arguments[1] in self.divisors and node.columns:
            return f"fn_divide({names[0]}, d{node.arguments[1]})"
        if kind in OPERATORS:
            return f"{names[0]} {OPERATORS[kind]} {names[1]}"
        assert kind not in REDUCTIONS
        return f"fn_{kind}({', '.join(names)})"

    def _operand(self, node: Node, number: int) -> str:
        """Return an argument; a label, of 64 bits, in 32 where places are compared with it."""
        name = self._name(number)
        given = self.nodes[number]
        if node.columns and given.dtype == INTEGER and not given.columns and given.arguments == ():
            return name if given.kind != "input" else f"saturated({name})"
        return name


def weight(program: Program, storage: Sequence[str], chunk: int) -> float:
    """Return how many registers an entry of a row takes, held from pass to pass."""
    nodes = program.graph.nodes
    held: dict[int, float] = {}
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    for number, phase in enumerate(program.phases):
        kept = {n for n, _ in phase.kept}
        for step in phase.steps:
            node = nodes[step]
            if node.kind == "input":
                # Two of 16 bits share a register if they are loaded together, until they are used.
                held[step] = max(SIZES[storage[node.detail]] / 4, 0.75 if chunk > 1 else 1.0)
                first.setdefault(step, number)
            elif step in kept:
                held[step] = max(node.dtype.itemsize / 4, 1.0)
                first[step] = number + 1
            last[step] = number
    return max(
        [
            sum(held[n] for n in held if first[n] <= number <= last[n])
            for number in range(len(program.phases))
        ],
        default=0.0,
    )


def overhead(program: Program) -> int:
    """Return about how many registers a thread needs beside the entries of the row it holds."""
    nodes = program.graph.nodes
    reductions = sum(len(phase.reductions) for phase in program.phases)
    divisors = {
        nodes[step].arguments[1]
        for phase in program.phases
        for step in phase.steps
        if nodes[step].kind == "divide" and not nodes[nodes[step].arguments[1]].columns
    }
    double = program.graph.dtype.itemsize == 8
    return (32 + reductions + 4 * len(divisors)) * (3 if double else 2) // 2

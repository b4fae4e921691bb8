"""A row program printed for an axis that is not the last: rows lie side by side in memory.

Vectors hold the same entry of neighbouring rows, and one entry of a row is far from the next. Four
vectors side by side, a strip, are taken through all phases while their rows are in the cache. Where
the entries of a row lie a multiple of 4 KB apart, they fall on the same few lines of the caches,
and on a page each. So many strips are taken together then, a tile, that memory is read in runs of
4 KB: strip by strip for some entries of the rows, then for the next. What is found of a row
meanwhile waits in memory.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from opsgrad.fusion.functions import I1, I64
from opsgrad.fusion.lanes import AcrossRows, combine
from opsgrad.fusion.llvm import BLOCK, Inverse, Printer
from opsgrad.fusion.program import TILE, UNROLL, Guard, Phase, Program

RUN = 8
"""How many entries of its rows a strip of a tile is computed for at a time, of all tables together:
more do not find room in the first cache. With twice as many, passes took 1.2 to 1.6 times as long,
of one table as of four."""


class StripPrinter(Printer):
    """Prints one program for vectors across rows, strip by strip."""

    def _rows(self, begin: Any, end: Any) -> None:
        b, frame, step = self.builder, self.frame, self.width * UNROLL
        whole = b.add(begin, b.mul(b.sdiv(b.sub(end, begin), I64(step)), I64(step)))
        with self._loop(begin, whole, step) as frame.row:
            self._row(AcrossRows(frame, UNROLL))
        with self._loop(whole, end, self.width) as frame.row:
            frame.mask = frame.below(frame.row, end)
            self._row(AcrossRows(frame, 1))
            frame.mask = None


class TilePrinter(Printer):
    """Prints one program for vectors across rows, tile by tile.

    It has no scratch memory, and the number of rows is a multiple of a strip's.
    """

    def __init__(self, program: Program, inputs: Sequence[Any], width: int) -> None:
        super().__init__(program, inputs, width)
        self.tile_rows = TILE * UNROLL * width
        self.places = {node: place for place, node in enumerate(program.row_values)}
        """Which rows of a tile's memory are for what is the same along a row."""
        first = len(self.places)
        self.inverted = {node: first + 2 * n for n, node in enumerate(program.divisors)}
        """And which two are for the inverses of divisors, from where on."""
        self.sums = first + 2 * len(self.inverted)
        """From where on they are for the sums of a block."""
        self.known: set[int] = set()
        """Which nodes, of the first, have been found."""
        self.known_inverses: set[int] = set()
        self.tile: tuple[Any, Any]

    def _rows(self, begin: Any, end: Any) -> None:
        with self._loop(begin, end, self.tile_rows) as first:
            self.tile = first, self._least(first, self.tile_rows, end)
            for phase in self.program.phases:
                self._phase(phase)
            with self._strips():
                self._store_row()

    @contextmanager
    def _strips(self) -> Iterator[None]:
        """Print a loop over the strips of a tile, with nothing computed yet at each turn."""
        with self._loop(*self.tile, self.width * UNROLL) as self.frame.row:
            self._begin(AcrossRows(self.frame, UNROLL))
            yield

    def _phase(self, phase: Phase) -> None:
        self._begin_phase(phase)
        if phase.guard is None:
            self._passes(phase)
        else:
            with self.builder.if_then(self._needed_by_tile(phase.guard)):
                self._passes(phase)
        self.known.update(phase.reductions)

    def _begin_phase(self, phase: Phase) -> None:
        """Find what a phase needs of each row; its reductions begin."""
        with self._strips():
            self._prepare(phase)
            for number in [n for n in self.rows if n in self.places.keys() - self.known]:
                self._store(self.rows[number], self._addresses(self.places[number]))
            for number in [
                n for n in self.inverses if n in self.inverted.keys() - self.known_inverses
            ]:
                self._store(self.inverses[number].high, self._addresses(self.inverted[number]))
                self._store(self.inverses[number].low, self._addresses(self.inverted[number] + 1))
            for number in phase.reductions:
                self._clear(number, self.places[number])
        self.known.update(n for n in self.rows if n in self.places)
        self.known_inverses.update(n for n in self.inverses if n in self.inverted)

    def _needed_by_tile(self, guard: Guard) -> Any:
        """Return whether a row of the tile needs what is guarded."""
        b, needed = self.builder, self._variable(I1)
        b.store(I1(0), needed)
        with self._strips():
            b.store(b.or_(b.load(needed, typ=I1), self._needed(guard)), needed)
        return b.load(needed, typ=I1)

    def _passes(self, phase: Phase) -> None:
        """Print what a phase does along the rows."""
        if phase.reductions:
            self._phase_in_blocks(phase)
        else:
            self._runs(phase, I64(0), self.frame.length)

    def _phase_in_blocks(self, phase: Phase) -> None:
        """Print a phase that reduces: sums stay short, as they do along a row."""
        places = dict(enumerate(phase.reductions, start=self.sums))
        block = BLOCK * self._run(phase)
        with self._loop(I64(0), self.frame.length, block) as first:
            with self._strips():
                for place, number in places.items():
                    self._clear(number, place)
            self._runs(phase, first, self._least(first, block, self.frame.length))
            with self._strips():
                for place, number in places.items():
                    self._collect(number, self._found(place), self.places[number])

    def _runs(self, phase: Phase, begin: Any, end: Any) -> None:
        """Print a phase for a part of the rows' entries."""
        run = self._run(phase)
        with self._loop(begin, end, run) as first:
            last = self._least(first, run, end)
            with self._strips():
                self._prepare(phase)
                sums = {n: self._accumulators(n) for n in phase.reductions}
                with self._loop(first, last, 1) as column:
                    self._entries(phase, column, sums)
                for place, number in enumerate(phase.reductions, start=self.sums):
                    values = [self.builder.load(v, typ=self.vector.real) for v in sums[number]]
                    self._collect(number, values, place)

    def _run(self, phase: Phase) -> int:
        """Return how many entries are taken at a time."""
        nodes, places = self.graph.nodes, self.program.places
        kept = {step: places[step].number for step in phase.steps if step in places}
        inputs = {s for s in phase.steps if s not in kept and nodes[s].kind == "input"}
        return max(1, RUN // (len(inputs) + len({*kept.values(), *phase.stored})))

    # -- what is the same along the row ----------------------------------------------------------

    def _row_value(self, number: int) -> list[Any]:
        if number in self.known and number not in self.rows:
            self.rows[number] = self._found(self.places[number])
        return super()._row_value(number)

    def _inverse(self, number: int) -> Inverse:
        if number in self.known_inverses and number not in self.inverses:
            high, low = (self._found(self.inverted[number] + part) for part in range(2))
            self.inverses[number] = Inverse(high, low, self._regular(self._row_value(number)))
        return super()._inverse(number)

    def _clear(self, number: int, place: int) -> None:
        """Begin a reduction."""
        self._store([self._start(number)] * self.lanes.copies, self._addresses(place))

    def _collect(self, number: int, values: list[Any], place: int) -> None:
        """Add to a reduction."""
        kind = self.graph.nodes[number].kind
        pairs = zip(self._found(place), values, strict=True)
        sums = [combine(self.vector, kind, before, value) for before, value in pairs]
        self._store(sums, self._addresses(place))

    def _found(self, place: int) -> list[Any]:
        return [self.frame.load(address, self.vector.real) for address in self._addresses(place)]

    def _addresses(self, place: int) -> list[Any]:
        """Return where vectors of a row of a tile's memory are."""
        b, frame = self.builder, self.frame
        entry = b.add(b.sub(frame.row, self.tile[0]), I64(place * self.tile_rows))
        first = frame.at(frame.scratch, b.mul(entry, I64(frame.size)))
        return [frame.at(first, n * self.width * frame.size) for n in range(self.lanes.copies)]

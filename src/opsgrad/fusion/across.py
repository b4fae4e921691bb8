"""A row program printed for an axis that is not the last: rows lie side by side in memory.

Vectors hold the same entry of neighbouring rows. One after the other, the entries of a row are far
apart, each on a page of its own. So many rows are taken together, a tile: their entries are read in
runs of 4 KB. A tile is gone through strip by strip, some entries of its rows at a time; what is
found of a row meanwhile waits in memory.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from opsgrad.fusion.functions import I64
from opsgrad.fusion.lanes import AcrossRows, combine
from opsgrad.fusion.llvm import BLOCK, Printer
from opsgrad.fusion.program import UNROLL, Phase, Program

RUN = 8
"""How many entries of its rows a strip is computed for at a time. Where rows lie a power of two
apart, more do not find room in the first cache: with 16, passes took 1.6 times as long."""


class AcrossPrinter(Printer):
    """Prints one program for vectors across rows."""

    def __init__(self, program: Program, inputs: Sequence[Any], width: int) -> None:
        super().__init__(program, inputs, width)
        self.strip = width * UNROLL
        self.places = {node: place for place, node in enumerate(program.row_values)}
        """Which rows of a tile's memory are for what is the same along a row."""
        self.known: set[int] = set()
        """What of that has been found."""
        self.tile: tuple[Any, Any]

    def _rows(self, begin: Any, end: Any) -> None:
        rows = self.program.tile * self.strip
        with self._loop(begin, end, rows) as first:
            self.tile = first, self._least(first, rows, end)
            for phase in self.program.phases:
                self._phase(phase)
            for _ in self._strips():
                self._store_row()

    def _strips(self) -> Iterator[None]:
        """Print loops over the strips of a tile, and over single vectors, masked, at its end.

        What the caller prints at each turn is inside.
        """
        b, frame, (first, last) = self.builder, self.frame, self.tile
        strips = b.sdiv(b.sub(last, first), I64(self.strip))
        whole = b.add(first, b.mul(strips, I64(self.strip)))
        with self._loop(first, whole, self.strip) as frame.row:
            self._begin(AcrossRows(frame, UNROLL, first))
            yield
        with self._loop(whole, last, self.width) as frame.row:
            frame.mask = frame.below(frame.row, last)
            self._begin(AcrossRows(frame, 1, first))
            yield
            frame.mask = None

    def _phase(self, phase: Phase) -> None:
        for _ in self._strips():
            self._prepare(phase)
            for number in (self.places.keys() & self.rows.keys()) - self.known:
                self._store_whole(self.rows[number], self.places[number])
            for number in phase.reductions:
                self._clear(number, self.places[number])
        self.known |= self.places.keys() & self.rows.keys()
        if phase.reductions:
            self._phase_in_blocks(phase)
        else:
            self._runs(phase, I64(0), self.frame.length)
        self.known.update(phase.reductions)

    def _phase_in_blocks(self, phase: Phase) -> None:
        """Print a phase that reduces: sums stay short, as they do along a row."""
        places = dict(enumerate(phase.reductions, start=len(self.places)))
        with self._loop(I64(0), self.frame.length, BLOCK * RUN) as first:
            for _ in self._strips():
                for place, number in places.items():
                    self._clear(number, place)
            self._runs(phase, first, self._least(first, BLOCK * RUN, self.frame.length))
            for _ in self._strips():
                for place, number in places.items():
                    self._collect(number, self._load_whole(place), self.places[number])

    def _runs(self, phase: Phase, begin: Any, end: Any) -> None:
        """Print a phase for a part of the rows' entries."""
        with self._loop(begin, end, RUN) as first:
            last = self._least(first, RUN, end)
            for _ in self._strips():
                self._prepare(phase)
                sums = {n: self._accumulators(n) for n in phase.reductions}
                with self._loop(first, last, 1) as column:
                    self._entries(phase, column, sums)
                for place, number in enumerate(phase.reductions, start=len(self.places)):
                    values = [self.builder.load(v, typ=self.vector.real) for v in sums[number]]
                    self._collect(number, values, place)

    # -- what is the same along the row ----------------------------------------------------------

    def _row_value(self, number: int) -> list[Any]:
        if number in self.known and number not in self.rows:
            self.rows[number] = self._load_whole(self.places[number])
        return super()._row_value(number)

    def _clear(self, number: int, place: int) -> None:
        """Begin a reduction."""
        self._store_whole([self._start(number)] * self.lanes.copies, place)

    def _collect(self, number: int, values: list[Any], place: int) -> None:
        """Add to a reduction."""
        kind = self.graph.nodes[number].kind
        pairs = zip(self._load_whole(place), values, strict=True)
        sums = [combine(self.vector, kind, before, value) for before, value in pairs]
        self._store_whole(sums, place)

    # Vectors are whole here: a divisor of 0, for no row at all, would have all of them divided.

    def _load_whole(self, place: int) -> list[Any]:
        real = self.vector.real
        size = self.frame.size
        return [self.builder.load(a, align=size, typ=real) for a in self._addresses(place)]

    def _store_whole(self, values: list[Any], place: int) -> None:
        for value, address in zip(values, self._addresses(place), strict=True):
            self.builder.store(value, address, align=self.frame.size)

    def _addresses(self, place: int) -> list[Any]:
        """Return where vectors of a row of a tile's memory are, which follows scratch memory."""
        b, frame, rows = self.builder, self.frame, self.program.tile * self.strip
        row = b.add(b.mul(frame.length, I64(self.program.scratch)), I64(place))
        entry = b.add(b.mul(row, I64(rows)), b.sub(frame.row, self.tile[0]))
        first = frame.at(frame.scratch, b.mul(entry, I64(frame.size)))
        return [frame.at(first, n * self.width * frame.size) for n in range(self.lanes.copies)]

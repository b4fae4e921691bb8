"""``python -m opsgrad.conformance.accuracy``: measure, and write the report."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from opsgrad.conformance.accuracy import picture
from opsgrad.conformance.accuracy.inputs import LENGTHS, QUICK_LENGTHS
from opsgrad.conformance.accuracy.measure import (
    DTYPES,
    Record,
    functions,
    measure,
    measure_in_parallel,
)
from opsgrad.conformance.accuracy.report import Report
from opsgrad.conformance.table import TABLE


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the ops named on the command line, all by default, and write the report.

    Returns
    -------
    int
        0, also where goals are exceeded: the report says so.
    """
    options = _parser().parse_args(arguments)
    names = options.ops or list(TABLE)
    if options.processes > 1:
        batches = measure_in_parallel(names, quick=options.quick, processes=options.processes)
    else:
        batches = measure(names, quick=options.quick)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        records = [r for batch in _shown(batches, len(names) * len(DTYPES)) for r in batch]
        report = Report(records, functions(), _listed(QUICK_LENGTHS if options.quick else LENGTHS))
    _write(options.output, report.markdown())
    _write(options.json, json.dumps(report.json(), indent=1, ensure_ascii=False) + "\n")
    if options.picture and importlib.util.find_spec("matplotlib") is not None:
        picture.draw(records, options.picture)
    print(f"{len(report.failing)} of {len(records)} measurements exceed goal and excess")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("opsgrad.conformance.accuracy", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer inputs")
    parser.add_argument("--ops", nargs="*", choices=list(TABLE), metavar="OP", help="only these")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path("docs/accuracy.md"))
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/accuracy.json"))
    parser.add_argument("--picture", type=Path, default=None, help="a PNG (needs matplotlib)")
    return parser


def _shown(batches: Iterable[list[Record]], total: int) -> Iterator[list[Record]]:
    """Yield the batches, with a progress bar if tqdm is installed, else a line for each."""
    if importlib.util.find_spec("tqdm") is not None:
        yield from importlib.import_module("tqdm").tqdm(batches, total=total, unit="op")
        return
    for number, batch in enumerate(batches, 1):
        print(f"{number}/{total} {batch[0].op} {batch[0].dtype}", file=sys.stderr)
        yield batch


def _listed(lengths: Sequence[int]) -> str:
    *most, last = [f"{n:,}" for n in lengths]
    return f"{', '.join(most)} and {last}" if most else last


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())

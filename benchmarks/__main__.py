"""``python -m benchmarks``: measure, write the figures as JSON, and draw the page from them."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from math import prod
from pathlib import Path
from typing import Any

from benchmarks.files import lines, write
from benchmarks.threads import limit_threads, thread_count

PARTS = ("overhead", "speed", "scaling", "starts", "memory")
"""In this order: the overhead is that of ops without a kernel, and the others compile theirs."""
FILES = {part: "cpu" if part == "speed" else part for part in PARTS}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the parts asked for, and write the page of all that was measured so far."""
    parser = _parser()
    options = parser.parse_args(arguments)
    limit_threads(options.threads)
    from opsgrad.conformance.accuracy.report import cpu_model, versions

    try:
        measurers = _measurers(options)
    except ValueError as problem:
        parser.error(str(problem))
    for part in sorted(options.parts, key=PARTS.index):
        machine = {"cpu": cpu_model(), "versions": versions(), "threads": thread_count()}
        entry = {**machine, part: measurers[part]()}
        path = options.results / f"{FILES[part]}.json"
        write(path, lines(entry))
    _report(options)
    return 0


def _report(options: argparse.Namespace) -> None:
    """Write and print the page, and draw the picture, of all the results that are there."""
    from benchmarks import picture
    from benchmarks.report import Report

    files = {part: options.results / f"{name}.json" for part, name in FILES.items()}
    report = Report({part: json.loads(f.read_text()) for part, f in files.items() if f.exists()})
    write(options.page, report.page())
    picture.draw(report.cases, options.picture)
    print(report.summary())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("benchmarks", description=__doc__)
    parser.add_argument("--threads", type=int, choices=(1, 2), default=1)
    parser.add_argument("--minutes", type=float, default=18.0, help="for the speed of all cases")
    parser.add_argument("--quick", action="store_true", help="small float32 arrays, in a minute")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--ops", nargs="+", metavar="OP", help="only these")
    parser.add_argument(
        "--roles", nargs="+", metavar="ROLE", help='"value", "VJP", "loss and gradient"'
    )
    parser.add_argument(
        "--shapes", nargs="+", type=_shape, metavar="ROWSxCOLUMNS", help="those of the rows' sizes"
    )
    parser.add_argument("--dtypes", nargs="+", choices=("float32", "float64"))
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--page", type=Path, default=Path("docs/benchmarks.md"))
    parser.add_argument("--picture", type=Path, default=Path("docs/images/benchmarks.png"))
    return parser


def _shape(text: str) -> tuple[int, ...]:
    return tuple(int(length) for length in text.split("x"))


def _measurers(options: argparse.Namespace) -> dict[str, Callable[[], Any]]:
    """Return what measures each part; the libraries are imported only now."""
    from tqdm import tqdm

    from benchmarks import details, speed
    from benchmarks.cases import DTYPES, ROLES, cases
    from opsgrad.conformance import TABLE

    ops, roles = options.ops or list(TABLE), options.roles or ROLES
    if unknown := [word for word in (*ops, *roles) if word not in (*TABLE, *ROLES)]:
        raise ValueError(f"unknown: {', '.join(unknown)}")
    if options.quick:
        options.minutes = min(options.minutes, 1.0)
        options.shapes = options.shapes or [(64, 10), (512, 512)]
        options.dtypes = options.dtypes or ["float32"]
    chosen = list(cases(ops, roles, options.shapes, options.dtypes or DTYPES))
    scaled = [case for case in speed.scaled() if not options.quick or prod(case.shape) < 2**21]

    def shown(groups: Any, total: int, name: str) -> list[Any]:
        return list(tqdm(groups, total=total, desc=name, unit="group", file=sys.stderr))

    return {
        "speed": lambda: shown(speed.measure(chosen, options.minutes), len(chosen), "speed"),
        "scaling": lambda: shown(speed.measure(scaled, 2.0), len(scaled), "scaling"),
        "overhead": lambda: shown(
            details.overhead(0.2 if options.quick else 2.0), len(details.CALLED), "overhead"
        ),
        "starts": lambda: details.starts(3 if options.quick else details.PROCESSES),
        "memory": lambda: list(details.memory(ops)),
    }


if __name__ == "__main__":
    sys.exit(main())

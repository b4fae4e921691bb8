"""``python -m benchmarks.gpu``: all checks that need a GPU, in a limited time."""

import argparse
import datetime as dt
import importlib
import importlib.util
import json
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

PARTS = ("conformance", "sanitizer", "speed")
NEEDED = {"numpy": "numpy", "array_api_compat": "array-api-compat", "mpmath": "mpmath"}
"""What has to be there for anything at all, and what pip calls it."""
SHARES = {"conformance": 0.15, "sanitizer": 0.12}
"""Of all the time, for each library and each tool; what is left is for the speed."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parts asked for, and write results and page; 1 if anything is wrong."""
    start = perf_counter()
    options = _parser().parse_args(arguments)
    missing = [pip for module, pip in NEEDED.items() if importlib.util.find_spec(module) is None]
    if missing:
        names = " ".join(missing)
        print(
            f"{sys.executable} lacks: {names}\nInstall: {sys.executable} -m pip install {names}\n"
            "Without a network, bring wheels, by `pip download --no-deps` elsewhere. Those "
            "of array-api-compat and mpmath run as they are: PYTHONPATH=FILE.whl make gpu-check",
            file=sys.stderr,
        )
        return 2
    if options.dry_run:
        return dry_run(options)
    reason = _why_no_gpu()
    if reason is not None:
        print(
            f"This needs a GPU: {reason}\nWithout one: make gpu-check ARGUMENTS=--dry-run",
            file=sys.stderr,
        )
        return 2
    return Run(options, start + 60 * options.minutes).run()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("benchmarks.gpu", description=__doc__)
    parser.add_argument("--dry-run", action="store_true", help="build everything, start nothing")
    parser.add_argument("--minutes", type=float, default=8.5, help="for all of it")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--only", metavar="WORDS", default="", help="cases whose names hold them")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/gpu.json"))
    parser.add_argument("--page", type=Path, default=Path("docs/gpu-results.md"))
    return parser


def _why_no_gpu() -> str | None:
    import opsgrad as og

    return og.backends()["cupy"].why_unavailable()


def _goals(options: argparse.Namespace) -> list[Any]:
    from benchmarks.gpu.goals import goals

    return [goal for goal in goals() if options.only in goal.name]


def dry_run(options: argparse.Namespace) -> int:
    """Build the kernels of every goal, and write the page if nothing was measured yet."""
    from benchmarks.files import write
    from benchmarks.gpu import kernels, report
    from benchmarks.gpu.goals import goals
    from tools.cuda_kernels import NoDevice

    compiles = kernels.compiler_is_there()
    device = NoDevice if compiles else kernels.Printer
    built, failures = [], []
    for goal in _goals(options):
        try:
            built.append(kernels.build(goal, device))
        except Exception as problem:  # all that fail are to be told
            built.append("✗")
            failures.append(f"{goal.name}: {type(problem).__name__}: {problem}")
    print(report.goals_table(_goals(options), built))
    done = f"compiled for sm_{kernels.CHIP}" if compiles else "printed; NVRTC is not there"
    print(f"{len(built)} cases, kernels {done}; nothing was started. {len(failures)} failed.")
    print("\n".join(failures))
    if not options.results.exists():
        write(options.page, report.page(None, goals()))
    return 1 if failures or not built else 0


class Run:
    """One run on a GPU; results are written after every step."""

    def __init__(self, options: argparse.Namespace, end: float) -> None:
        self.options = options
        self.end = end
        self.whole = 60 * options.minutes
        self.results: dict[str, Any] = {
            "gpu": _gpu(),
            "date": dt.datetime.now(dt.UTC).date().isoformat(),
            "versions": _versions(),
            "complete": False,
        }

    def run(self) -> int:
        """Run the parts, and return 1 if anything was wrong."""
        for part in PARTS:
            if part in self.options.parts:
                getattr(self, part)()
        self.results["complete"] = True
        self.write()
        if "speed" in self.results:
            from benchmarks.gpu.report import summary

            print(summary(self.results))
        return 1 if is_wrong(self.results) else 0

    def conformance(self) -> None:
        """Run the conformance suite on CuPy's arrays, and on PyTorch's on the GPU."""
        from benchmarks.gpu import checks

        self.results["conformance"] = []
        for library in ("cupy", "torch"):
            result = checks.conformance(library, SHARES["conformance"] * self.whole)
            self.note("conformance", {**result, "of": f"conformance on {library}"})

    def sanitizer(self) -> None:
        """Run the sanitizer's tools."""
        from benchmarks.gpu import checks

        self.results["sanitizer"] = []
        for tool in checks.TOOLS:
            self.note("sanitizer", checks.sanitizer(tool, SHARES["sanitizer"] * self.whole))

    def speed(self) -> None:
        """Time all goals."""
        from benchmarks.gpu import speed
        from benchmarks.gpu.timing import Gpu

        gpu = Gpu()
        self.results["copy"] = speed.large_copy(gpu)
        self.results["speed"] = []
        for row in speed.measure(gpu, _goals(self.options), self.end):
            self.note("speed", row)

    def note(self, part: str, row: dict[str, Any]) -> None:
        """Keep a result, and say it."""
        self.results[part].append(row)
        self.write()
        print(part, json.dumps(row, ensure_ascii=False), flush=True)

    def write(self) -> None:
        """Write what there is."""
        from benchmarks.files import lines, write
        from benchmarks.gpu import report
        from benchmarks.gpu.goals import goals

        write(self.options.results, lines(self.results))
        write(self.options.page, report.page(self.results, goals()))


def is_wrong(results: dict[str, Any]) -> bool:
    """Whether a check found something, a result is wrong or a case broke; slow is not wrong."""
    checks = [*results.get("conformance", []), *results.get("sanitizer", [])]
    unclean = any("clean" in one and not one["clean"] for one in checks)
    return unclean or any(row.get("wrong") or row.get("broken") for row in results.get("speed", []))


def _gpu() -> str:
    import cupy

    properties = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)
    name = properties["name"]
    memory = properties["totalGlobalMem"] / 2**30
    words = name.decode() if isinstance(name, bytes) else str(name)
    return f"{words}, {memory:.0f} GiB"


def _versions() -> dict[str, str]:
    import cupy

    driver = cupy.cuda.runtime.driverGetVersion()
    found = {
        "Python": platform.python_version(),
        "CUDA driver": f"{driver // 1000}.{driver % 1000 // 10}",
    }
    for module in ("numpy", "cupy", "torch", "triton"):
        if importlib.util.find_spec(module) is not None:
            found[module] = importlib.import_module(module).__version__
    return found


if __name__ == "__main__":
    sys.exit(main())

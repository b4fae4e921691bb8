"""The conformance suite and the sanitizer, each in processes of their own, for a limited time."""

import importlib.metadata
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

OUTCOMES = ("passed", "failed", "error", "skipped", "xfailed", "xpassed")
MOST_PROCESSES = 8
LISTED = 20
"""As many failures are written down."""
TIME_TO_STOP = 20.0
"""The seconds that pytest has to sum up when it is interrupted."""
FOUND = 9
"""The status with which the sanitizer is to end when it has found something."""
TOOLS = ("memcheck", "racecheck")

Result = dict[str, Any]


def conformance(library: str, seconds: float) -> Result:
    """Run the conformance suite on a library's arrays on the GPU, as far as it comes."""
    missing = [name for name in ("pytest", "hypothesis") if not _installed(name)]
    if library == "torch" and not _installed("torch"):
        missing.append("torch")
    if missing:
        return {"of": library, "skipped": f"not installed: {', '.join(missing)}"}
    if library == "torch":
        import torch

        if not torch.cuda.is_available():
            return {"of": library, "skipped": "PyTorch does not see the GPU"}
    code, text = _run(pytest_command(library), seconds, signal.SIGINT)
    return {"of": library, **tallied(text, code)}


def pytest_command(library: str) -> list[str]:
    """Return the command line; the repository's own settings of pytest are left out of it."""
    command = [sys.executable, "-m", "pytest", "-c", os.devnull, "--rootdir", ".", "-q", "-rfE"]
    command += ["-p", "no:cacheprovider", "--pyargs", "opsgrad.conformance", "--backend", library]
    if not any(one.name == "opsgrad" for one in importlib.metadata.entry_points(group="pytest11")):
        command += ["-p", "opsgrad_pytest"]
    if library == "torch":
        command += ["-p", "benchmarks.gpu.torch_on_gpu"]
    if _installed("xdist"):
        command += ["-n", str(min(MOST_PROCESSES, os.cpu_count() or 1))]
    return command


def tallied(text: str, code: int | None) -> Result:
    """Return the counts in pytest's last lines; `code` None says that it was interrupted."""
    lines = text.strip().splitlines()
    counts: dict[str, int] = {}
    for line in reversed(lines):
        found = re.findall(r"(\d+) (passed|failed|errors?|skipped|xfailed|xpassed)\b", line)
        if found and " in " in line:
            counts = {outcome.removesuffix("s"): int(count) for count, outcome in found}
            break
    failures = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    result: Result = {name: counts.get(name, 0) for name in OUTCOMES}
    result["complete"] = code in (0, 1)
    result["clean"] = counts.get("passed", 0) > 0 and not (
        failures or code not in (0, None) or result["failed"] or result["error"]
    )
    result["failures"] = [line[:200] for line in failures[:LISTED]]
    if not counts:
        result["said"] = "\n".join(lines[-5:])[-1000:]
    return result


def sanitizer(tool: str, seconds: float) -> Result:
    """Run kernels of every kind under a tool of NVIDIA's compute-sanitizer."""
    program = shutil.which("compute-sanitizer") or _in_toolkit()
    if program is None:
        return {"of": tool, "skipped": "compute-sanitizer is not installed"}
    command = [program, "--tool", tool, "--error-exitcode", str(FOUND)]
    command += [sys.executable, "-m", "benchmarks.gpu.launches"]
    code, text = _run(command, seconds, signal.SIGTERM)
    return {"of": tool, **sanitized(text, code)}


def sanitized(text: str, code: int | None) -> Result:
    """Return what the sanitizer found."""
    said = [line for line in text.splitlines() if line.strip()]
    summary = [line for line in said if "SUMMARY" in line]
    if code is None:
        return {"clean": False, "complete": False, "said": f"it came to: {said[-1:]}"}
    words = summary or said[-5:]
    return {"clean": code == 0, "complete": True, "said": "\n".join(words)[-1000:]}


def _in_toolkit() -> str | None:
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH") or "/usr/local/cuda"
    program = Path(home, "bin", "compute-sanitizer")
    return str(program) if program.exists() else None


def _run(command: list[str], seconds: float, stop: signal.Signals) -> tuple[int | None, str]:
    """Run a command; return its status, None if its time was over, and what it printed."""
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as process:
        try:
            text, _ = process.communicate(timeout=max(seconds, 1.0))
        except subprocess.TimeoutExpired:
            process.send_signal(stop)
        else:
            return process.returncode, text
        try:
            text, _ = process.communicate(timeout=TIME_TO_STOP)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            text, _ = process.communicate()
        return None, text


def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None

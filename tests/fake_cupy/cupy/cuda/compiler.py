"""The compiler: g++, with an emulator of a device in place of CUDA."""

import atexit
import functools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from cupy._history import history

EMULATOR = Path(__file__).parents[3] / "cuda_emulator"
LEVEL = os.environ.get("FAKE_CUPY_OPTIMIZE", "-O1")
COMPILE = ["g++", "-std=c++17", LEVEL, "-ffp-contract=off", "-fPIC", "-w", "-fsanitize=alignment"]


def compile_using_nvrtc(
    source: str, options: tuple[str, ...] = (), arch: Any = None, filename: str = "kern.cu"
) -> tuple[bytes, None]:
    """Return a shared library; the real one returns machine code of a device."""
    history.compiled.append((source, options))
    with tempfile.TemporaryDirectory() as folder:
        code, library = Path(folder, filename), Path(folder, "library.so")
        code.write_text(source)
        command = [*COMPILE, "-shared", "-include", str(_header()), "-x", "c++", str(code)]
        _run([*command, "-o", str(library)])
        return library.read_bytes(), None


@functools.cache
def _header() -> Path:
    """Return the emulator with a precompiled copy: g++ spent half its time on what it includes."""
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    header = Path(shutil.copy(EMULATOR / "emulator.h", folder))
    _run([*COMPILE, "-x", "c++-header", str(header), "-o", f"{header}.gch"])
    return header


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[:5000])

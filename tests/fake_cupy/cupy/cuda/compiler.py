"""The compiler: g++, with an emulator of a device in place of CUDA."""

import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from cupy._history import history

EMULATOR = Path(__file__).parents[3] / "cuda_emulator"


def compile_using_nvrtc(
    source: str, options: tuple[str, ...] = (), arch: Any = None, filename: str = "kern.cu"
) -> tuple[bytes, None]:
    """Return a shared library; the real one returns machine code of a device."""
    history.compiled.append((source, options))
    with tempfile.TemporaryDirectory() as folder:
        code, library = Path(folder, filename), Path(folder, "library.so")
        code.write_text(source)
        level = os.environ.get("FAKE_CUPY_OPTIMIZE", "-O1")
        command = ["g++", "-x", "c++", "-std=c++17", level, "-ffp-contract=off", "-shared", "-fPIC"]
        command += ["-w", "-include", str(EMULATOR / "emulator.h"), str(code), "-o", str(library)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(done.stderr[:5000])
        return library.read_bytes(), None

"""One number of threads for every library, said before any of them is imported."""

import os


def limit_threads(count: int) -> None:
    """Let NumPy, PyTorch and JAX, none of which may be imported yet, use `count` threads."""
    for library in ("OMP", "OPENBLAS", "MKL", "OPSGRAD"):
        os.environ[f"{library}_NUM_THREADS"] = str(count)
    os.environ["NPROC"] = str(count)  # the size of XLA's pool
    flags = os.environ.get("XLA_FLAGS", "")
    eigen = "true" if count > 1 else "false"
    os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_multi_thread_eigen={eigen}".strip()


def thread_count() -> int:
    """Return the number that `limit_threads` was given, 1 if it was not called."""
    return int(os.environ.get("OMP_NUM_THREADS", "1"))

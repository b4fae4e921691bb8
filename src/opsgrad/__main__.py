"""Print what an issue report needs: `python -m opsgrad`."""

import importlib.metadata
import platform

import opsgrad as og

PACKAGES = ("numpy", "array-api-compat", "torch", "jax", "dask")


def report() -> str:
    """Return the versions, and which backends can run here and why the others cannot."""
    lines = [f"opsgrad {og.__version__}", f"Python {platform.python_version()}"]
    for name in PACKAGES:
        try:
            lines.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return "\n".join([*lines, "", "backends", repr(og.backends())])


if __name__ == "__main__":
    print(report())

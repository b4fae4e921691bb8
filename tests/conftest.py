import importlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import array_api_compat
import numpy as np
import pytest
from libraries import library_parameters

from opsgrad.backends import _gpu
from opsgrad.backends.cupy import _namespace
from opsgrad.conformance import TABLE, Row
from opsgrad.conformance.target import Target
from opsgrad.fusion import cuda

if importlib.util.find_spec("jax") is not None:
    import jax

    jax.config.update("jax_enable_x64", True)

if importlib.util.find_spec("dask") is not None:
    import dask

    # Chunks in this thread: quicker for small arrays, and under NumPy's error state of the caller.
    dask.config.set(scheduler="synchronous")


FAKE = Path(__file__).parent / "fake_cupy"


@pytest.fixture(scope="module")
def cupy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Return the stand-in, which has CuPy's name for the tests of a file."""
    backends = sys.modules["opsgrad.backends"]  # opsgrad.backends is the function

    def modules() -> list[str]:
        return [name for name in sys.modules if "cupy" in name.split(".")[:2]]

    with pytest.MonkeyPatch.context() as patch:
        for name in modules():
            patch.delitem(sys.modules, name)
        patch.delattr(array_api_compat, "cupy", raising=False)
        patch.syspath_prepend(FAKE)
        patch.setattr(backends, "_loaded", dict(backends._loaded))
        patch.setattr(backends, "_by_type", {})
        patch.setattr(_gpu, "_known", {})
        patch.setattr(cuda, "_first_line", _raised)  # or a kernel that is refused would go unseen
        # What one process of this test run has compiled, the others need not.
        patch.setenv("OPSGRAD_CACHE_DIR", str(tmp_path_factory.getbasetemp().parent / "kernels"))
        backends._loaded.pop("cupy", None)
        _namespace.cache_clear()
        _gpu._launcher.cache_clear()
        yield importlib.import_module("cupy")
        for name in modules():
            del sys.modules[name]
        if hasattr(array_api_compat, "cupy"):
            del array_api_compat.cupy
    _namespace.cache_clear()
    _gpu._launcher.cache_clear()


def _raised(error: Exception) -> str:
    raise error


@pytest.fixture
def history(cupy: Any) -> Any:
    cupy.history.clear()
    return cupy.history


@pytest.fixture(params=library_parameters())
def library(request: pytest.FixtureRequest) -> Target:
    return request.param


@pytest.fixture(params=TABLE.values(), ids=TABLE)
def row(request: pytest.FixtureRequest) -> Row:
    return request.param


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20260)

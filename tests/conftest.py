import importlib.util

import numpy as np
import pytest
from libraries import library_parameters

from opsgrad.conformance import TABLE, Row
from opsgrad.conformance.target import Target

if importlib.util.find_spec("jax") is not None:
    import jax

    jax.config.update("jax_enable_x64", True)

if importlib.util.find_spec("dask") is not None:
    import dask

    # Chunks in this thread: quicker for small arrays, and under NumPy's error state of the caller.
    dask.config.set(scheduler="synchronous")


@pytest.fixture(params=library_parameters())
def library(request: pytest.FixtureRequest) -> Target:
    return request.param


@pytest.fixture(params=TABLE.values(), ids=TABLE)
def row(request: pytest.FixtureRequest) -> Row:
    return request.param


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20260)

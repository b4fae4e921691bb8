"""Fixtures of the suite: which libraries it runs on, which ops, which data types."""

import functools
from collections.abc import Iterator
from fnmatch import fnmatch

import numpy as np
import pytest

from opsgrad.conformance.defects import defects_file, read_defects
from opsgrad.conformance.table import TABLE
from opsgrad.conformance.target import (
    Target,
    backend_targets,
    installed_targets,
    namespace_target,
)


@functools.cache
def _targets(backends: tuple[str, ...], namespaces: tuple[str, ...]) -> tuple[Target, ...]:
    named = [target for name in backends for target in backend_targets(name)]
    named += [namespace_target(name) for name in namespaces]
    return tuple(named or installed_targets())


def targets_of(config: pytest.Config) -> tuple[Target, ...]:
    """Return the targets that the command line names, all that are installed by default."""
    backends = config.getoption("--backend", default=None) or ()
    namespaces = config.getoption("--namespace", default=None) or ()
    return _targets(tuple(backends), tuple(namespaces))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test on every target, op and data type that its arguments ask for."""
    wanted = metafunc.fixturenames
    targets = targets_of(metafunc.config)
    eager = [target for target in targets if not target.traced]
    if "target" in wanted and "dtype" in wanted:
        pairs = [(target, dtype) for target in targets for dtype in target.dtypes]
        metafunc.parametrize(("target", "dtype"), pairs, ids=str)
    elif "target" in wanted:
        metafunc.parametrize("target", targets, ids=str)
    if "eager_target" in wanted and "dtype" in wanted:
        pairs = [(target, dtype) for target in eager for dtype in target.dtypes]
        metafunc.parametrize(("eager_target", "dtype"), pairs, ids=str)
    elif "eager_target" in wanted:
        metafunc.parametrize("eager_target", eager, ids=str)
    chosen = [str(mark.args[0]) for mark in metafunc.definition.iter_markers("parametrize")]
    if "row" in wanted and not any("row" in names for names in chosen):
        metafunc.parametrize("row", TABLE.values(), ids=TABLE)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Expect the failures that the libraries' known defects cause."""
    known = [*read_defects(defects_file())]
    for target in targets_of(config):
        if target.backend.defects is not None:
            known += read_defects(target.backend.defects)
    for item in items:
        for target in _targets_in(item):
            for defect in known:
                if defect.backend == target.backend.name and fnmatch(item.name, defect.test):
                    item.add_marker(pytest.mark.xfail(reason=defect.link, strict=True))


def _targets_in(item: pytest.Item) -> list[Target]:
    parameters = getattr(item, "callspec", None)
    values = parameters.params.values() if parameters is not None else ()
    return [value for value in values if isinstance(value, Target)]


@pytest.fixture
def rng() -> np.random.Generator:
    """Return the same random numbers for every test."""
    return np.random.default_rng(20260)


@pytest.fixture(autouse=True)
def _dask_in_this_thread() -> Iterator[None]:
    """Compute Dask's chunks in the test's own thread: quicker for small arrays."""
    try:
        import dask
    except ImportError:
        yield
        return
    with dask.config.set(scheduler="synchronous"):
        yield

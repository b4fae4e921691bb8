"""The libraries that a test runs on, by name, skipped with the reason where one is missing."""

import functools
import importlib.util
from typing import Any

import pytest

from opsgrad.conformance.target import Target, backend_targets, namespace_target

_PACKAGES = {
    "numpy": "numpy",
    "array_api_strict": "array_api_strict",
    "torch": "torch",
    "jax": "jax",
    "jax-traced": "jax",
    "dask": "dask",
}


def installed(name: str) -> bool:
    """Whether the library is there."""
    return importlib.util.find_spec(_PACKAGES[name]) is not None


@functools.cache
def library_named(name: str) -> Target:
    """Return the target called `name`."""
    if name == "array_api_strict":
        return namespace_target(name)
    targets = backend_targets(_PACKAGES[name])
    return next(target for target in targets if target.name == name)


def library_parameters(*names: str) -> list[Any]:
    """Return pytest parameters for libraries: those named, or all."""
    parameters = []
    for name in names or _PACKAGES:
        skip = pytest.mark.skipif(not installed(name), reason=f"{_PACKAGES[name]} is not installed")
        parameters.append(
            pytest.param(library_named(name) if installed(name) else None, id=name, marks=skip)
        )
    return parameters

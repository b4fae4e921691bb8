"""The array libraries that every test of an op runs on, behind one face."""

import functools
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

import opsgrad as og


@dataclass(frozen=True)
class Library:
    """How arrays get into a library, and how a call is made there."""

    name: str
    package: str
    from_numpy: Callable[[np.ndarray], Any]
    run: Callable[..., Any] = lambda function, *arrays: function(*arrays)
    flushes_subnormals: bool = False
    excess: dict[tuple[str, str], float] = field(default_factory=dict)
    """By how many ULP a library's own function exceeds 1: added to the goals of ops made of it."""

    def put(self, array: Any) -> Any:
        """Return a NumPy array (or None) in this library."""
        return None if array is None else self.from_numpy(np.asarray(array))

    @property
    def installed(self) -> bool:
        return importlib.util.find_spec(self.package) is not None


def _strict(array: np.ndarray) -> Any:
    import array_api_strict

    return array_api_strict.asarray(array)


def _torch(array: np.ndarray) -> Any:
    import torch

    return torch.tensor(array)


def _jax(array: np.ndarray) -> Any:
    import jax.numpy as jnp

    return jnp.asarray(array)


@functools.cache
def _jitted(function: Callable[..., Any]) -> Any:
    import jax

    return jax.jit(function)


def _jit(function: Callable[..., Any], *arrays: Any) -> Any:
    return _jitted(function)(*arrays)


def _dask(array: np.ndarray) -> Any:
    import dask.array as da

    return da.from_array(array, chunks=2)  # so that every axis is split


# XLA's own functions exceed 1 ULP (numerics.md, section 7), float32 and float64: tanh 3.5 and 6.3,
# log1p 2.3 and 1.9.
_LOG1P = ("softplus", "log_sigmoid", "log_softmax", "logsumexp", "softmax_cross_entropy")
_XLA = {("tanh", "float32"): 2.5, ("tanh", "float64"): 5.3}
_XLA |= {(op, "float32"): 1.3 for op in _LOG1P} | {(op, "float64"): 0.9 for op in _LOG1P}

LIBRARIES = {
    library.name: library
    for library in (
        Library("numpy", "numpy", np.array),
        Library("array-api-strict", "array_api_strict", _strict),
        Library("torch", "torch", _torch),
        Library("jax", "jax", _jax, flushes_subnormals=True, excess=_XLA),
        Library("jax-jit", "jax", _jax, _jit, flushes_subnormals=True, excess=_XLA),
        Library("dask", "dask", _dask),
    )
}


def library_parameters(*names: str) -> list[Any]:
    """Return pytest parameters for libraries, skipped with the reason where one is missing."""
    chosen = [LIBRARIES[name] for name in names or LIBRARIES]
    return [
        pytest.param(
            library,
            id=library.name,
            marks=pytest.mark.skipif(
                not library.installed, reason=f"{library.package} is not installed"
            ),
        )
        for library in chosen
    ]


def to_numpy(array: Any) -> Any:
    """Return an array, or a nest of tuples of them, in NumPy; None stays None."""
    if isinstance(array, tuple | list):
        return tuple(to_numpy(one) for one in array)
    return None if array is None else og.to_numpy(array)

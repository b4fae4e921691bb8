"""What the suite runs on: a backend, or the array namespace of a library, under one face."""

import functools
import importlib
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import opsgrad as og
from opsgrad.backends.protocol import Backend, Capabilities
from opsgrad.backends.standard import StandardBackend

Arrays = tuple[Any, ...]


@dataclass(frozen=True)
class Target:
    """A library under test, and how arrays get there and calls are made there."""

    name: str
    backend: Backend
    traced: bool = False
    """Whether calls run under the library's tracing compiler."""
    rows: bool = False
    """Whether arrays are split up along their first axis alone, instead of along every one."""

    @property
    def capabilities(self) -> Capabilities:
        """What the library can do."""
        return self.backend.capabilities

    @property
    def dtypes(self) -> tuple[str, ...]:
        """The data types to test in."""
        return ("float64", "float32") if self.capabilities.float64 else ("float32",)

    @property
    def sees_labels(self) -> bool:
        """Whether labels can be looked at before an op runs on them."""
        return not (self.traced or self.capabilities.lazy) and self.capabilities.on_host

    def put(self, array: Any) -> Any:
        """Return a NumPy array, or a nest of tuples of them, in the library; None stays None."""
        if isinstance(array, tuple):
            return tuple(self.put(one) for one in array)
        if array is None:
            return None
        put = self.backend.asarray_in_rows if self.rows else self.backend.asarray_in_pieces
        return put(np.asarray(array))

    def run(self, function: Callable[..., Any], *arrays: Any) -> Any:
        """Call a function of arrays alone, traced if this target is; bring results to NumPy."""
        call = _traced(self.backend, function) if self.traced else function
        return to_numpy(call(*map(self.put, arrays)))

    def run_all(self, calls: Sequence[tuple[Callable[..., Any], Sequence[Any]]]) -> tuple[Any, ...]:
        """Make many calls as one if this target is traced: a program of its own takes it longer."""

        def every(*given: Any) -> tuple[Any, ...]:
            return tuple(
                function(*arrays) for (function, _), arrays in zip(calls, given, strict=True)
            )

        if not self.traced:
            return tuple(self.run(function, *arrays) for function, arrays in calls)
        results: tuple[Any, ...] = self.run(every, *(tuple(arrays) for _, arrays in calls))
        return results

    def __str__(self) -> str:
        return self.name


@functools.cache
def _traced(backend: Backend, function: Callable[..., Any]) -> Callable[..., Any]:
    traced = backend.traced(function)
    assert traced is not None
    return traced


def to_numpy(array: Any) -> Any:
    """Return an array, or a nest of tuples of them, in NumPy; None stays None."""
    if isinstance(array, tuple | list):
        return tuple(to_numpy(one) for one in array)
    return None if array is None else og.to_numpy(array)


def backend_targets(name: str) -> list[Target]:
    """Return the targets of the backend called `name`: eager, and traced or in rows if it can."""
    with og.use_backend(name) as backend:  # raises, with the reason, where it cannot run
        targets = [Target(name, backend)]
        if backend.traced(lambda x: x) is not None:
            targets.append(Target(f"{name}-traced", backend, traced=True))
        if type(backend).asarray_in_rows is not Backend.asarray_in_rows:
            targets.append(Target(f"{name}-rows", backend, rows=True))
        return targets


def namespace_target(name: str) -> Target:
    """Return the target of an array namespace that can be imported as `name`."""
    return Target(name, StandardBackend(importlib.import_module(name)))


def installed_targets() -> list[Target]:
    """Return the targets of every backend that can run here, and of array-api-strict."""
    targets = [
        target
        for name, backend in og.backends().items()
        if backend.available
        for target in backend_targets(name)
    ]
    if importlib.util.find_spec("array_api_strict") is not None:
        targets.append(namespace_target("array_api_strict"))
    return targets

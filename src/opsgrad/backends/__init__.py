"""Which backends there are, which one an array belongs to, and which one is asked for."""

import contextlib
import contextvars
import difflib
import importlib
import reprlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from opsgrad._errors import ArgumentError, UnknownBackendError
from opsgrad._typing import Array
from opsgrad.backends.protocol import Backend
from opsgrad.backends.standard import StandardBackend

__all__ = [
    "Backend",
    "asked_for",
    "backend_in_force",
    "backend_of",
    "backends",
    "get_backend",
    "host_array",
    "to_numpy",
    "use_backend",
]

_BUILTIN = {
    "numpy": "opsgrad.backends.numpy:NumPyBackend",
    "torch": "opsgrad.backends.torch:TorchBackend",
    "jax": "opsgrad.backends.jax:JaxBackend",
    "dask": "opsgrad.backends.dask:DaskBackend",
}
_loaded: dict[str, Backend] = {}
_standard: dict[Any, StandardBackend] = {}
_by_type: dict[type, Backend | None] = {}
_in_force: contextvars.ContextVar[str | None] = contextvars.ContextVar("backend", default=None)


def get_backend(name: str, taker: str = "opsgrad") -> Backend:
    """Return the backend called `name`, whether or not it can run here; `taker` is who asks."""
    if not isinstance(name, str):
        raise ArgumentError(
            f"{taker}: backend must be a name, got {name!r} of type {type(name).__name__}"
        )
    if name not in _BUILTIN:
        near = difflib.get_close_matches(name, _BUILTIN)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise UnknownBackendError(
            f"{taker}: unknown backend {name!r}: {hint}known are {', '.join(map(repr, _BUILTIN))}"
        )
    if name not in _loaded:
        module, _, attribute = _BUILTIN[name].partition(":")
        _loaded[name] = getattr(importlib.import_module(module), attribute)()
    return _loaded[name]


def backend_of(value: object) -> Backend | None:
    """Return the backend that owns `value`, or None if it is not an array."""
    try:
        return _by_type[type(value)]
    except KeyError:
        backend = _find(value)
        _by_type[type(value)] = backend
        return backend


def _find(value: object) -> Backend | None:
    if isinstance(value, type | np.ma.MaskedArray):  # a masked array would lose its mask
        return None
    for name in _BUILTIN:
        if get_backend(name).owns(value):
            return get_backend(name)
    if hasattr(value, "__array_namespace__"):
        namespace = value.__array_namespace__()
        return _standard.setdefault(namespace, StandardBackend(namespace))
    return None


def backend_in_force() -> str | None:
    """Return the name that `use_backend` put in force, if any."""
    return _in_force.get()


def asked_for(name: str | None, op: str) -> Backend | None:
    """Return the backend that a call's ``backend=`` or the context asks for, if any."""
    if name is None:
        name = _in_force.get()
        if name is None:
            return None
    backend = get_backend(name, op)
    backend.require(op)
    return backend


@contextlib.contextmanager
def use_backend(name: str) -> Iterator[Backend]:
    """Run every op within the context on the backend called `name`.

    The same as passing ``backend=name`` to each call; a call's own ``backend=`` wins. The choice
    belongs to the current thread or asyncio task.

    Parameters
    ----------
    name : str
        One of the names in `backends`.

    Yields
    ------
    Backend
        The backend itself.

    Raises
    ------
    UnknownBackendError
        If nothing is called `name`; the message lists the near matches.
    BackendUnavailableError
        If the backend cannot run here; the message says why.

    Examples
    --------
    >>> import opsgrad as og
    >>> with og.use_backend("numpy"):
    ...     og.relu([-1.0, 2.0])
    array([0., 2.])
    """
    backend = get_backend(name, "use_backend")
    backend.require("use_backend")
    token = _in_force.set(name)
    try:
        yield backend
    finally:
        _in_force.reset(token)


class _Table(Mapping[str, Backend]):
    """The backends by name; printed, a table of what is available and why not."""

    def __getitem__(self, name: str) -> Backend:
        if name not in _BUILTIN:
            raise KeyError(name)
        return get_backend(name)

    def __iter__(self) -> Iterator[str]:
        return iter(_BUILTIN)

    def __len__(self) -> int:
        return len(_BUILTIN)

    def __repr__(self) -> str:
        rows = ((name, self[name].why_unavailable() or "available") for name in self)
        return "\n".join(f"{name:<8}{state}" for name, state in rows)


def backends() -> Mapping[str, Backend]:
    """Return the backends that opsgrad knows, by name.

    Printed, it is a table of what is available here and, where something is not, why.

    Returns
    -------
    Mapping of str to Backend
        Each has ``available``, ``why_unavailable()``, ``asarray(value)`` and ``to_numpy(array)``.

    Examples
    --------
    >>> import opsgrad as og
    >>> og.backends()["numpy"].available
    True
    >>> "torch" in og.backends()
    True
    """
    return _Table()


def host_array(op: str, name: str, value: object) -> Array:
    """Return a list or a number as a NumPy array, or raise if it is neither."""
    if not isinstance(value, list | tuple | bool | int | float | complex):
        raise ArgumentError(
            f"{op}: {name} must be an array, a list or a number, "
            f"got {reprlib.repr(value)} of type {type(value).__name__}"
        )
    try:
        return np.array(value)
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"{op}: {name} is no rectangular list of numbers: {error}") from None


def to_numpy(x: Array) -> Array:
    """Bring an array of any backend to NumPy.

    Parameters
    ----------
    x : array
        An array of any array-API library, a list or a number. Lazy arrays are computed; tensors of
        PyTorch are detached; bfloat16 becomes float32, because NumPy has no bfloat16.

    Returns
    -------
    numpy.ndarray
        It may share memory with `x`.

    Raises
    ------
    TypeError
        If `x` is no array and cannot be made one.

    Examples
    --------
    >>> import opsgrad as og
    >>> og.to_numpy([1.0, 2.0])
    array([1., 2.])
    """
    backend = backend_of(x)
    if backend is not None:
        return backend.to_numpy(x)
    host = host_array("to_numpy", "x", x)
    if host.dtype.kind not in "biufc":
        raise ArgumentError(f"to_numpy: x must hold numbers, got {reprlib.repr(x)}")
    return host

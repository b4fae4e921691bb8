"""Which backends there are, which one an array belongs to, and which one is asked for."""

import contextlib
import contextvars
import functools
import importlib
import reprlib
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from opsgrad._compiling import constant
from opsgrad._errors import ArgumentError, UnknownBackendError
from opsgrad._typing import Array
from opsgrad.backends.protocol import Autodiff, Backend, Capabilities, Kernel, Work
from opsgrad.backends.standard import StandardBackend

__all__ = [
    "Autodiff",
    "Backend",
    "Capabilities",
    "Kernel",
    "Work",
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
    "cupy": "opsgrad.backends.cupy:CupyBackend",
}
_GROUP = "opsgrad.backends"
"""The entry-point group in which other packages offer a `Backend`, a subclass or an instance."""

_loaded: dict[str, Backend] = {}
_standard: dict[Any, StandardBackend] = {}
_by_type: dict[type, Backend | None] = {}
_in_force: contextvars.ContextVar[str | None] = contextvars.ContextVar("backend", default=None)


@constant
def backend_in_force() -> str | None:
    """Return the name that `use_backend` put in force, if any."""
    return _in_force.get()


class BrokenBackend(Backend):
    """The place of a plugin that could not be loaded; it says why."""

    def __init__(self, name: str, error: Exception) -> None:
        super().__init__()
        self.name = name
        self.error = error

    def why_unavailable(self) -> str:
        return f"its plugin could not be loaded: {self.error!r}"

    def owns(self, array: object) -> bool:
        return False


@functools.cache
def _plugins() -> Mapping[str, Any]:
    """Return the entry points of other packages, by name; looked up when first needed."""
    import importlib.metadata  # 19 ms

    found = importlib.metadata.entry_points(group=_GROUP)
    return {entry.name: entry for entry in found if entry.name not in _BUILTIN}


def _load(name: str) -> Backend:
    if name in _BUILTIN:
        module, _, attribute = _BUILTIN[name].partition(":")
        backend: Backend = getattr(importlib.import_module(module), attribute)()
        return backend
    try:
        offered = _plugins()[name].load()
        backend = offered() if isinstance(offered, type) else offered
        if getattr(backend, "name", None) != name:
            raise TypeError(f"expected an opsgrad.Backend called {name!r}, got {backend!r}")
    except Exception as error:  # whatever a plugin does wrong, the others go on
        warnings.warn(
            f"opsgrad: the backend plugin {name!r} could not be loaded: {error!r}", stacklevel=4
        )
        return BrokenBackend(name, error)
    return backend


def get_backend(name: str, taker: str = "opsgrad") -> Backend:
    """Return the backend called `name`, whether or not it can run here; `taker` is who asks."""
    if not isinstance(name, str):
        raise ArgumentError(
            f"{taker}: backend must be a name, got {name!r} of type {type(name).__name__}"
        )
    if name not in _loaded:
        if name not in _BUILTIN and name not in _plugins():
            raise UnknownBackendError(f"{taker}: unknown backend {name!r}: {_hint(name)}")
        _loaded.setdefault(name, _load(name))  # of threads that come first together, one wins
    return _loaded[name]


def _hint(name: str) -> str:
    import difflib  # 1 ms

    known = [*_BUILTIN, *_plugins()]
    near = difflib.get_close_matches(name, known)
    guess = f"did you mean {near[0]!r}? " if near else ""
    return f"{guess}known are {', '.join(map(repr, known))}"


def backend_of(value: object) -> Backend | None:
    """Return the backend that owns `value`, or None if it is not an array."""
    try:
        return _by_type[type(value)]
    except KeyError:
        backend = _find(value)
        _by_type[type(value)] = backend
        return backend


@constant
def _load_builtin() -> None:
    for name in _BUILTIN:
        get_backend(name)


def _owner(names: Iterable[str], value: object) -> Backend | None:
    return next((b for b in map(get_backend, names) if b.owns(value)), None)


_NO_ARRAYS = (type, list, tuple, int, float, complex, str)


def _is_masked(array: Array) -> bool:
    """Whether an array is one of numpy.ma's, which would lose its mask."""
    # Who has one has imported numpy.ma, which takes 9 ms.
    return "numpy.ma" in sys.modules and isinstance(array, np.ma.MaskedArray)


def _find(value: object) -> Backend | None:
    # Builtin types must not make us look for plugins.
    if isinstance(value, _NO_ARRAYS) and not isinstance(value, np.generic):
        return None
    if isinstance(value, np.ndarray) and _is_masked(value):
        return None
    _load_builtin()
    backend = _owner(_BUILTIN, value) or _owner(_plugins(), value)
    if backend is not None:
        return backend
    if hasattr(value, "__array_namespace__"):
        namespace = value.__array_namespace__()
        return _standard.setdefault(namespace, StandardBackend(namespace))
    return None


def asked_for(name: str | None, op: str) -> Backend | None:
    """Return the backend that a call's ``backend=`` or the context asks for, if any."""
    if name is None:
        name = backend_in_force()
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
        if name not in set(self):
            raise KeyError(name)
        return get_backend(name)

    def __iter__(self) -> Iterator[str]:
        return iter((*_BUILTIN, *_plugins()))

    def __len__(self) -> int:
        return len(_BUILTIN) + len(_plugins())

    def __repr__(self) -> str:
        rows = ((name, self[name].why_unavailable() or "available") for name in self)
        width = max(map(len, self)) + 2
        return "\n".join(f"{name:<{width}}{state}" for name, state in rows)


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
    except (TypeError, ValueError, RuntimeError) as error:
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

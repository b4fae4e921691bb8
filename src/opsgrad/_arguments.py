"""Taking in the arrays of a call: whose they are, whether they fit, and where they run."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from opsgrad._arrays import known, same_shape, without_axis
from opsgrad._errors import (
    DeviceError,
    DTypeError,
    LabelError,
    MixedBackendsError,
    ShapeError,
)
from opsgrad._signature import Argument, Role, Shape
from opsgrad._typing import Array, DType
from opsgrad.backends import backend_of, get_backend, host_array
from opsgrad.backends.protocol import Backend


class Source:
    """An array as the caller passed it.

    A list or a number is `weak`: it comes as a NumPy array and takes the data type of the others.
    """

    def __init__(self, argument: Argument, array: Array, backend: Backend, *, weak: bool) -> None:
        self.argument = argument
        self.array = array
        self.backend = backend
        self.weak = weak

    @property
    def name(self) -> str:
        """The argument's name."""
        return self.argument.name

    @property
    def floating(self) -> bool:
        """Whether the op can be differentiated by it: a list or a number becomes floating-point."""
        if not self.argument.differentiable:
            return False
        return self.weak or self.backend.kind(self.array.dtype) == "floating"

    @property
    def shape(self) -> Shape:
        """The array's shape."""
        return tuple(self.array.shape)


def admit(op: str, arguments: Sequence[Argument], values: Sequence[Any]) -> list[Source]:
    """Return the arrays of a call that are there, or raise if one is no array of numbers."""
    sources = [
        _source(op, argument, value)
        for argument, value in zip(arguments, values, strict=True)
        if value is not None
    ]
    for source in sources:
        check_kind(op, source)
    return sources


def _source(op: str, argument: Argument, value: Any) -> Source:
    backend = backend_of(value)
    if backend is not None:
        return Source(argument, backend.normalize(value), backend, weak=False)
    array = host_array(op, argument.name, value)
    if argument.role is Role.LABELS:
        array = _whole_labels(op, argument.name, array, value)
    return Source(argument, array, get_backend("numpy"), weak=True)


def _whole_labels(op: str, name: str, array: Array, value: Any) -> Array:
    """Return a list of labels as integers where NumPy made them something else."""
    if array.size == 0:
        return array.astype(np.int64)
    if array.dtype.kind in "fO":  # integers too large for 64 bits, or not integers
        entries = np.asarray(value, dtype=object).ravel()
        if all(isinstance(entry, int) for entry in entries):
            raise LabelError(f"{op}: {name} must fit in 64 bits, got {max(entries, key=abs)}")
    return array


def check_kind(op: str, source: Source) -> None:
    """Raise unless an array holds the kind of numbers that its role asks for."""
    kind = source.backend.kind(source.array.dtype)
    if source.argument.role is Role.LABELS:
        if kind != "integer":
            raise DTypeError(
                f"{op}: {source.name} must be integers, got data type {source.array.dtype}"
            )
    elif kind not in ("floating", "integer"):
        raise DTypeError(
            f"{op}: {source.name} must be real numbers, got data type {source.array.dtype}"
        )


def home_of(op: str, sources: Sequence[Source], asked: Backend | None = None) -> Backend:
    """Return the backend that the arrays belong to, or raise if there are two and none is asked."""
    strong = [source for source in sources if not source.weak]
    if not strong:
        return get_backend("numpy")
    home = strong[0].backend
    if all(source.backend is home for source in strong):
        _check_devices(op, strong)
        return home
    names = {source.backend.name for source in strong}
    if names == {"numpy", "dask"}:  # Dask takes NumPy arrays in
        return get_backend("dask")
    if asked is not None:
        return home
    described = ", ".join(f"{source.name} is of {source.backend.name}" for source in strong)
    raise MixedBackendsError(
        f"{op}: all arrays must belong to one backend, but {described}; pass backend=NAME to move "
        "them all to one"
    )


def _check_devices(op: str, strong: Sequence[Source]) -> None:
    if len(strong) < 2:
        return
    devices = [source.backend.device(source.array) for source in strong]
    if any(device != devices[0] for device in devices):
        described = ", ".join(
            f"{source.name} is on {device}" for source, device in zip(strong, devices, strict=True)
        )
        raise DeviceError(f"{op}: all arrays must be on one device, but {described}")


def check_fit(op: str, sources: Sequence[Source], axis: int) -> None:
    """Check the shapes of targets and labels against the first array, and the labels' values."""
    first = sources[0]
    for source in sources[1:]:
        if source.argument.role is Role.TARGETS and not same_shape(source.shape, first.shape):
            raise ShapeError(
                f"{op}: {source.name} must have the shape of {first.name}, {first.shape}, "
                f"got {source.shape}"
            )
        if source.argument.role is Role.LABELS:
            expected = without_axis(first.shape, axis)
            if not same_shape(source.shape, expected):
                raise ShapeError(
                    f"{op}: {source.name} must have the shape of {first.name} without axis {axis}, "
                    f"{expected}, got {source.shape}"
                )
            check_labels(op, source.name, source.backend, source.array, first.shape, axis)


def check_labels(
    op: str, name: str, backend: Backend, labels: Array, shape: Shape, axis: int
) -> None:
    """Raise if a label names no class along `axis` of `shape`, where labels can be looked at."""
    classes = shape[axis]
    values = backend.values_now(labels)
    if values is None or values.size == 0 or not known(classes):
        return
    # A negative number is a large one without its sign: one pass instead of two.
    unsigned = values.view(values.dtype.str.replace("i", "u"))
    if np.maximum.reduce(unsigned, axis=None) >= classes:
        place = tuple(int(i) for i in np.argwhere((values < 0) | (values >= classes))[0])
        raise LabelError(
            f"{op}: {name} must lie in [0, {classes}) for a first array of shape {shape}, "
            f"got {values[place]}" + (f" at index {place}" if place else "")
        )


def floating_dtypes(backend: Backend, sources: Sequence[Source]) -> tuple[DType, DType]:
    """Return the data types of the result and of the computation, from the arrays as they are."""
    return backend.floating_dtypes(
        tuple(source.array.dtype for source in sources if _votes(source))
    )


def precision(home: Backend, target: Backend, sources: Sequence[Source]) -> DType:
    """Return the data type that the result will have on `target`, before anything is moved."""
    deciding = [s for s in sources if _votes(s) and s.backend.kind(s.array.dtype) == "floating"]
    if all(s.backend is home for s in deciding):
        return floating_dtypes(home if deciding else target, deciding)[0]
    return target.floating_dtypes(tuple(same_dtype(target, s.array.dtype) for s in deciding))[0]


def same_dtype(backend: Backend, dtype: DType) -> DType:
    """Return a library's data type of the same name as that of another one."""
    return getattr(backend.namespace, str(dtype).rpartition(".")[2], dtype)


def _votes(source: Source) -> bool:
    return source.argument.role is not Role.LABELS and not source.weak


def place(op: str, sources: Sequence[Source], target: Backend) -> tuple[DType, DType, Any]:
    """Move the arrays to `target` and settle the data types of result and computation.

    Returns these and the device.
    """
    movers = [source for source in sources if not source.weak and source.backend is not target]
    hosts = [source.backend.to_numpy(source.array) for source in movers]
    for source, host in zip(movers, hosts, strict=True):
        reason = target.why_not(host)
        if reason is not None:
            raise DTypeError(f"{op}: {source.name} cannot be moved: {reason}")
    there = [target.device(s.array) for s in sources if not s.weak and s.backend is target]
    for source, host in zip(movers, hosts, strict=True):
        source.array = target.asarray(host, device=there[0] if there else None)
        source.backend = target
    result, compute = floating_dtypes(target, sources)
    devices = [target.device(source.array) for source in sources if not source.weak]
    device = devices[0] if devices else None
    integral = target.default_dtype("integral")
    for source in sources:
        if source.weak:
            dtype = integral if source.argument.role is Role.LABELS else result
            source.array = target.asarray(source.array, dtype=dtype, device=device)
            source.backend = target
    return result, compute, target.device(sources[0].array)

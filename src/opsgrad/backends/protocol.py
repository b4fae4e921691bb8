"""What a backend is: an array library, and how its arrays are taken in, run and handed back."""

import contextlib
import contextvars
import importlib.util
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from opsgrad._errors import BackendUnavailableError
from opsgrad._signature import Argument
from opsgrad._typing import Array, DType, Namespace
from opsgrad.fusion.form import Form, Learnt

if TYPE_CHECKING:
    from pathlib import Path

Kind = str
"""One of "floating", "integer", "bool", "complex", "other"."""

JOINT = "value_and_grad"
"""The role of an op's body and VJP rule together."""
SEED = "cotangent of each value"
"""The name of the one number that such work takes before the op's arrays."""

_KINDS = {
    "floating": "real floating",
    "integer": "integral",
    "bool": "bool",
    "complex": "complex floating",
}


def not_installed(module: str, words: str) -> str | None:
    """Return `words`, which say what to install, if there is no `module`."""
    return words if importlib.util.find_spec(module) is None else None


def nothing(*_: Array | None) -> None:
    """Take no arrays: in the place of a kernel, where there is none."""


def quiet() -> Any:
    """Return a context in which NumPy keeps its floating-point events to itself.

    inf - inf and 0 / 0 happen on purpose, ahead of a `where`.
    """
    return np.errstate(all="ignore")


def _silent() -> list[tuple[contextvars.ContextVar[Any], Any]]:
    """Return the variable in which NumPy keeps what events lead to, and its value for nothing."""
    context = contextvars.Context()
    context.run(np.seterr, all="ignore")
    return list(context.items())


_SILENT = _silent()


def quietly(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return `function` so that NumPy keeps its floating-point events to itself while it runs.

    That is `np.errstate` as a decorator, in 0.15 µs a call instead of 0.4.
    """
    if len(_SILENT) != 1:  # a NumPy that keeps it elsewhere
        return quiet()(function)  # type: ignore[no-any-return]
    ((variable, silence),) = _SILENT

    def run(*arrays: Array | None) -> Any:
        token = variable.set(silence)
        try:
            return function(*arrays)
        finally:
            variable.reset(token)

    return run


def frozen(parameters: Mapping[str, Any]) -> tuple[tuple[Any, ...], ...]:
    """Return parameters as a key that tells apart what compares equal: True, 1, 1.0; 0.0, -0.0."""
    key: tuple[tuple[Any, ...], ...] = ()
    for name, value in parameters.items():  # a comprehension takes half as long again
        kind = type(value)
        key += ((name, kind, value) if kind in _PLAIN else _told_apart(name, value),)
    return key


_PLAIN = frozenset((int, str, bool))


def _told_apart(name: str, value: Any) -> tuple[Any, ...]:
    # NumPy's own numbers as Python's: torch.compile takes them for arrays, without a hash.
    plain = value.item() if isinstance(value, np.generic) else value
    sign = math.copysign(1.0, value) if isinstance(value, float) else 1.0
    return name, type(value), plain, sign


def thawed(key: Any) -> dict[str, Any]:
    """Return the parameters of which `frozen` made a key."""
    return {name: value for name, _, value, *_ in key}


class Capabilities(NamedTuple):
    """What a library can do, declared for the conformance suite, which guesses nothing."""

    float64: bool = True
    """Whether it keeps float64 data as it is."""
    half: tuple[str, ...] = ()
    """Which of "float16" and "bfloat16" it has."""
    exact_sums: bool = True
    """Whether sums across the contiguous axis are as exact as sums along it."""
    flushes_subnormals: bool = False
    """Whether numbers below the smallest normal one may become 0."""
    lazy: bool = False
    """Whether values are computed only when asked for."""
    on_host: bool = True
    """Whether values can be looked at without waiting for a device."""


class Work(NamedTuple):
    """What a backend may offer a kernel for: the body of an op, one of its rules, or both."""

    op: str
    """The op's name."""
    role: str
    """"value" for the body; "forward" for a body that returns a tuple, of the value and what rules
    keep beside it; "vjp", "jvp", "derivative" or "jacobian" for a rule; "value_and_grad" for body
    and VJP rule together, which return a tuple of the value and the gradients asked for."""
    function: Callable[..., Any]
    """The body or the rule itself: ``function(xp, *arrays, **parameters)``."""
    names: tuple[str, ...]
    """The names of the arrays that it takes: arguments, "y", "kept" for each array of the residual,
    "cotangent", "tangent"; or
    "cotangent of each value", one number as the backend's `number` has it."""
    parameters: Mapping[str, Any]
    """The parameters that it takes; ``axis`` counts from the end."""
    dtype: DType
    """The data type that it computes in: that of all its arrays but labels."""
    elementwise: bool
    """Whether the op is stated by its `derivative` rule, and mixes no entries."""
    rowwise: bool
    """Whether one axis alone is mixed, or none: ``axis``, the last where there is no such name."""
    arguments: tuple[Argument, ...] = ()
    """The op's array arguments, with their roles; a VJP rule returns a gradient for each that is
    differentiable, in this order."""


class Kernel(NamedTuple):
    """What a backend runs in place of a body or rule."""

    call: Callable[..., Any]
    """Takes the arrays that the function takes, without ``xp``, and returns what it returns. One
    for "value_and_grad" may return None for arrays that it leaves to body and rule by themselves.
    """
    words: str | Callable[[], str]
    """What it is, in a few words for `which_backend`, or what tells when asked."""
    narrow: Callable[[tuple[Any, ...], DType], Any] | None = None
    """The same on arrays that are stored in less precision than is computed in: takes all of them,
    and the data type of the results, but for what "forward" returns after the value, which is never
    rounded. None: they are widened before, and results rounded after."""
    direct: Callable[[Form, Callable[[Learnt], None]], None] | None = None
    """Takes what is to be told of a direct call, of that form, once the kernel has run. A direct
    call takes only arrays of the types, shapes and layouts that it knows, at once and without
    Python; for others it returns None."""


class Autodiff(NamedTuple):
    """One call of an op as a function of its arrays, with its rules, for a library's own autodiff.

    ``arrays`` is one entry for each argument of the op, None where an optional one is left out.
    """

    op: str
    value: Callable[..., Array]
    """``value(*arrays)``, in the data type that the op computes in: for half precision, float32."""
    pull: Callable[..., tuple[Array | None, ...]] | None
    """``pull(arrays, cotangent, value=None)``: a gradient for each array; None if the op has no VJP
    rule. The value is computed again if the rule needs it and it is not given."""
    push: Callable[..., Array] | None
    """``push(arrays, tangents, value=None)``, None for a zero tangent: the tangent of the value, in
    its data type; None if the op has no JVP rule."""
    keeps: tuple[bool, ...]
    """Whether `pull` and `push` need each array, and last the value; others may be None."""
    differentiable: tuple[bool, ...]
    """Whether each array has a gradient: it is there and holds floating-point numbers."""


class Backend:
    """An array library that opsgrad runs its ops on.

    A subclass names the library and overrides what differs from the defaults, which hold for every
    library that follows the array API standard and computes eagerly on the CPU.

    Attributes
    ----------
    name : str
        The word that ``backend=`` and `use_backend` take.

    Examples
    --------
    >>> import opsgrad as og
    >>> backend = og.backends()["numpy"]
    >>> backend.name, backend.available
    ('numpy', True)
    >>> backend.asarray([1.0, 2.0])
    array([1., 2.])
    """

    name: str = ""
    defects: "Path | None" = None
    """A file of the library's own known defects, in the form of ``conformance/defects.txt``."""

    def __init__(self) -> None:
        self._kinds: dict[DType, Kind] = {}
        self._dtypes: dict[tuple[DType, ...], tuple[DType, DType]] = {}

    # -- the library -----------------------------------------------------------------------------

    def why_unavailable(self) -> str | None:
        """Say why the backend cannot run here and what would help, or None if it can."""
        return None

    @property
    def available(self) -> bool:
        """Whether the backend can run here."""
        return self.why_unavailable() is None

    def require(self, taker: str) -> None:
        """Raise `BackendUnavailableError` if the backend, which `taker` asks for, cannot run."""
        reason = self.why_unavailable()
        if reason is not None:
            raise BackendUnavailableError(
                f"{taker}: backend {self.name!r} is not available: {reason}"
            )

    def owns(self, array: object) -> bool:
        """Whether `array` is one of this library's arrays."""
        raise NotImplementedError

    @property
    def namespace(self) -> Namespace:
        """The library's array API namespace."""
        raise NotImplementedError

    # -- arrays in and out -----------------------------------------------------------------------

    def asarray(self, value: Any, *, dtype: DType | None = None, device: Any = None) -> Array:
        """Bring a NumPy array, a list or a number to this backend, as a copy."""
        return self.namespace.asarray(value, dtype=dtype, device=device, copy=True)

    def cast(self, array: Array, dtype: DType) -> Array:
        """Return a copy of one of this backend's arrays in another data type, or the same."""
        return self.namespace.astype(array, dtype)

    def number(self, value: float, *, dtype: DType, device: Any) -> Any:
        """Return one number for kernels that take one: by default an array of no axes."""
        return self.namespace.asarray(value, dtype=dtype, device=device)

    def shares_memory(self, one: Array, other: Array) -> bool:
        """Whether writing into one of two arrays might change the other."""
        return one is other

    def asarray_in_pieces(self, value: Any) -> Array:
        """Bring a NumPy array here split up, where the library has such a thing: for testing."""
        return self.asarray(value)

    def asarray_in_rows(self, value: Any) -> Array:
        """Bring a NumPy array here split up along the first of several axes: for testing."""
        return self.asarray(value)

    def why_not(self, host: Array) -> str | None:
        """Say why a NumPy array cannot be brought here without changing its values, if so."""
        return None

    def to_numpy(self, array: Array) -> Array:
        """Bring one of this backend's arrays to NumPy."""
        return np.asarray(array)

    def normalize(self, array: Array) -> Array:
        """Return `array` as the plain array that bodies expect."""
        return array

    def device(self, array: Array) -> Any:
        """Return the device of `array`, or None where there is only one."""
        return None

    def beside(self, array: Array) -> contextlib.AbstractContextManager[Any]:
        """Return a context in which the library computes where `array` is."""
        return contextlib.nullcontext()

    def values_now(self, array: Array) -> Array | None:
        """Return `array` in NumPy to look at, or None if that would trace, compute or wait."""
        return self.to_numpy(array)

    @property
    def capabilities(self) -> Capabilities:
        """What the library can do."""
        return Capabilities()

    def traced(self, function: Callable[..., Any]) -> Callable[..., Any] | None:
        """Return `function` under the library's tracing compiler; None if it has none."""
        return None

    def synchronize(self) -> None:
        """Wait until all work handed to the backend is done."""

    # -- data types ------------------------------------------------------------------------------

    def kind(self, dtype: DType) -> Kind:
        """Return which of the kinds of numbers `dtype` holds."""
        try:
            return self._kinds[dtype]
        except KeyError:
            self._kinds[dtype] = kind = self._find_kind(dtype)
            return kind

    def _find_kind(self, dtype: DType) -> Kind:
        isdtype = self.namespace.isdtype
        try:
            return next((kind for kind, name in _KINDS.items() if isdtype(dtype, name)), "other")
        except TypeError:  # a data type that the library itself does not know
            return "other"

    def default_dtype(self, kind: str) -> DType:
        """Return the library's own default for "real floating" or "integral" numbers."""
        info: Any = self.namespace
        return info.__array_namespace_info__().default_dtypes()[kind]

    def floating_dtypes(self, dtypes: tuple[DType, ...]) -> tuple[DType, DType]:
        """Return the data type of the result for arguments of `dtypes`, and the one to compute in.

        Integers take part only if there is nothing else: then the library's default is the result.
        Numbers narrower than float32 are computed in float32 and rounded once.
        """
        floating = tuple(dtype for dtype in dtypes if self.kind(dtype) == "floating")
        if not floating:
            # Not cached: PyTorch and JAX let the user change the default.
            floating = (self.default_dtype("real floating"),)
        try:
            return self._dtypes[floating]
        except KeyError:
            xp = self.namespace
            result = xp.result_type(*floating)
            compute = xp.float32 if xp.finfo(result).bits < 32 else result
            self._dtypes[floating] = result, compute
            return result, compute

    # -- running ---------------------------------------------------------------------------------

    def run(
        self,
        function: Callable[..., Any],
        arrays: tuple[Array | None, ...],
        parameters: Mapping[str, Any],
    ) -> Any:
        """Run an op's body or rule on arrays of this backend."""
        return function(self.namespace, *arrays, **parameters)

    def runner(
        self, function: Callable[..., Any], parameters: Mapping[str, Any]
    ) -> Callable[..., Any]:
        """Return a body or rule as a callable on arrays, to be called many times as `run` is."""
        # No `def`: torch.compile, which may meet it, cannot make annotations again.
        return lambda *arrays: self.run(function, arrays, parameters)

    def kernel(self, work: Work) -> Kernel | str:
        """Offer something better than `run` for a body or rule, or say in words why there is none.

        Asked once for each op, role, and shape and data type of the arrays. The words complete a
        sentence that ends in "because"; no words at all mean that the next call is to ask again.
        """
        return f"the backend {self.name!r} has no kernels"

    def records(self, arrays: tuple[Array | None, ...]) -> bool:
        """Whether the library's own autodiff watches any of the arrays."""
        return False

    def recorded(self, call: Autodiff, arrays: tuple[Array | None, ...]) -> Array:
        """Return the value of a call that enters the library's own autodiff with the op's rules.

        Called only where `records` said yes.
        """
        return call.value(*arrays)

    def __repr__(self) -> str:
        reason = self.why_unavailable()
        return f"<backend {self.name}: {'available' if reason is None else reason}>"

"""What a refusal has to be, and running bad calls on a library to see that each meets with one.

A call is refused as it should be if it raises an error that is both an `OpsgradError` and the
builtin that people catch for that mistake, if the message names what is meant, and if nothing was
computed, moved or overwritten before.
"""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

import opsgrad as og
from opsgrad.backends.protocol import Capabilities
from opsgrad.conformance.bad_input.arrays import unseen
from opsgrad.conformance.bad_input.case import Arrays, Builtin, Case
from opsgrad.conformance.row import Row
from opsgrad.conformance.target import Target, to_numpy

Calls: TypeAlias = Mapping[str, Callable[[], Any]]


class TooEarlyError(Exception):
    """Work was done before the input had been checked."""


# -- nothing before the check ----------------------------------------------------------------------

DESCRIBING = {"isdtype", "result_type", "finfo", "iinfo", "can_cast", "__array_namespace_info__"}
"""The functions of a namespace that describe data types: a check may use them."""


class _Idle:
    """A namespace that describes and does no work."""

    def __init__(self, namespace: Any) -> None:
        self._namespace = namespace

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._namespace, name)
        if name in DESCRIBING or isinstance(found, type) or not callable(found):
            return found
        return _early(f"{name} was called")


def _early(what: str) -> Callable[..., Any]:
    def fail(*args: Any, **keywords: Any) -> Any:
        raise TooEarlyError(what)

    return fail


def _idle(namespace: Any) -> property:
    """Return what stands in for a backend's `namespace`, a property or an attribute."""

    def get(backend: Any) -> Any:
        is_property = hasattr(namespace, "__get__")
        return _Idle(namespace.__get__(backend, type(backend)) if is_property else namespace)

    return property(get)


WORK: dict[str, Callable[[Any], Any]] = {
    "run": lambda right: _early("something was computed"),
    "kernel": lambda right: _early("something was computed"),
    "recorded": lambda right: _early("autodiff took in the call"),
    "cast": lambda right: _early("an array was cast"),
    "asarray": lambda right: _early("an array was moved"),
    "namespace": _idle,
}
"""What of a backend does work, and what stands in for it until the check is over."""


@contextlib.contextmanager
def nothing_runs(op: Any = None) -> Iterator[None]:
    """Fail if within the context a body runs, a backend computes, or an array is moved."""
    _load_backends()
    with contextlib.ExitStack() as stack:
        if hasattr(op, "body"):
            early = op._body._replace(function=_early("the body ran"))
            _replace(stack, op, "_body", early)
            _replace(stack, op._planner, "_kept", {})  # plans keep what runs their body
        for backend in _with_subclasses(og.Backend):
            for name in WORK.keys() & vars(backend).keys():
                _replace(stack, backend, name, WORK[name](vars(backend)[name]))
        yield


@functools.cache
def _load_backends() -> None:
    """Import the backends that are loaded when first used: their classes are not there before."""
    dict(og.backends())


def _replace(stack: contextlib.ExitStack, owner: Any, name: str, value: Any) -> None:
    stack.callback(setattr, owner, name, vars(owner)[name])
    setattr(owner, name, value)


def _with_subclasses(parent: type[og.Backend]) -> Iterator[type[og.Backend]]:
    yield parent
    for child in parent.__subclasses__():
        yield from _with_subclasses(child)


# -- one refusal -----------------------------------------------------------------------------------


def complaint(call: Callable[[], Any], builtin: Builtin, *words: str) -> str | None:
    """Return what is wrong with the refusal that `call` meets with, None if it is right."""
    try:
        result = call()
    except Exception as caught:
        error = caught
    else:
        return f"accepted, with the result {result!r}"
    described = f"{type(error).__name__}: {error}"
    if isinstance(error, TooEarlyError):
        return f"{error} before the check"
    if not isinstance(error, og.OpsgradError):
        return f"no OpsgradError but {described}"
    if not isinstance(error, builtin):
        return f"not caught as {builtin} is {described}"
    missing = [word for word in words if not _mentions(str(error), word)]
    return f"{missing} not mentioned in {described}" if missing else None


def _mentions(message: str, word: str) -> bool:
    if word.isidentifier():
        return re.search(rf"(?<!\w){word}(?!\w)", message) is not None
    return word in message


def refused(call: Callable[[], Any], builtin: Builtin, *words: str, op: Any = None) -> None:
    """Assert that `call` is refused, before any work."""
    with nothing_runs(op):
        wrong = complaint(call, builtin, *words)
    assert wrong is None, wrong


def all_refused(complaints: Mapping[str, str | None]) -> None:
    """Assert that none of the calls, by name, was met with anything but the right refusal."""
    faults = [f"{way}: {wrong}" for way, wrong in complaints.items() if wrong is not None]
    assert not faults, "\n".join(faults)


def routes(op: Any, arrays: Arrays, params: Mapping[str, Any]) -> dict[str, Callable[[], Any]]:
    """Return the ways to call an op, by name."""
    ways: dict[str, Callable[[], Any]] = {
        "call": lambda: op(*arrays, **params),
        "vjp": lambda: og.vjp(op, *arrays, **params),
        "jvp": lambda: og.jvp(op, arrays, (None,) * len(arrays), **params),
        "value_and_grad": lambda: og.value_and_grad(op)(*arrays, **params),
    }
    if arrays:
        ways["jacobian"] = lambda: og.jacobian(op, *arrays, **params)
    return ways


# -- the cases of an op on a library ---------------------------------------------------------------


def possible(case: Case, capabilities: Capabilities) -> bool:
    """Whether a library has the data types of the case's arrays."""
    return all(_holds(capabilities, array) for array in _arrays_of(case))


def _holds(capabilities: Capabilities, array: Any) -> bool:
    if array.dtype == np.float16:
        return "float16" in capabilities.half
    if capabilities.float64:
        return True
    if array.dtype.kind in "iu":
        info = np.iinfo(np.int32)
        return bool(np.all((array >= info.min) & (array <= info.max)))
    return array.dtype not in (np.float64, np.complex128)


def _arrays_of(case: Case) -> Iterator[Any]:
    """Yield the arrays that go to the library; objects, text and the like stay in NumPy."""
    for value in (*case.arrays, *(case.cotangents or ()), *(case.tangents or ())):
        if type(value) is np.ndarray and value.dtype.kind in "biufc":
            yield value


class _SeenError(Exception):
    """All calls were made: leaves a trace that need not be compiled."""


def check_refused(row: Row, cases: Sequence[Case], target: Target, *, op: Any = None) -> None:
    """Assert that each of the calls is refused on a library, and so is every transform of it.

    `op` stands in for the row's own, for planting mistakes.
    """
    given = {id(array): array for case in cases for array in _arrays_of(case)}
    faults: list[str] = []

    def make_calls(*placed: Any) -> Any:
        there = dict(zip(given, placed, strict=True))
        faults.extend(_faults(op or row.op, row.name, cases, there))
        raise _SeenError

    placed = [target.put(array) for array in given.values()]
    make = target.backend.traced(make_calls) if target.traced else make_calls
    assert make is not None
    try:
        make(*placed)
    except _SeenError:
        pass
    else:
        raise AssertionError(f"{row.name} on {target}: the calls were not made")
    if not target.capabilities.lazy and any(map(_changed, placed, given.values())):
        faults.append("an input was written to")
    assert not faults, _report(f"{row.name} on {target}", faults)


def _report(what: str, faults: Sequence[str], most: int = 20) -> str:
    more = [f"and {len(faults) - most} more"] * (len(faults) > most)
    return "\n".join((f"{what}: {len(faults)} faults", *faults[:most], *more))


def _changed(placed: Any, original: Any) -> bool:
    return not np.array_equal(to_numpy(placed), original, equal_nan=original.dtype.kind in "fc")


def _faults(op: Any, name: str, cases: Iterable[Case], there: Mapping[int, Any]) -> Iterator[str]:
    linearized = _linearizer(op)
    ready = [(case, _ways(op, case, there, linearized)) for case in cases]
    with nothing_runs(op):
        for case, ways in ready:
            for way, call in ways.items():
                wrong = complaint(call, case.builtin, name, *case.words)
                if wrong is not None:
                    yield f"{case}, {way}: {wrong}"


def _ways(op: Any, case: Case, there: Mapping[int, Any], linearized: Callable[..., Any]) -> Calls:
    """Return the ways to make the bad call; for a bad direction, the op has run at its point."""

    def put(values: Arrays) -> Arrays:
        return tuple(there.get(id(value), value) for value in values)

    arrays, params = put(case.arrays), case.params
    if case.tangents is not None:
        tangents = put(case.tangents)
        ways: dict[str, Callable[[], Any]] = {"jvp": lambda: og.jvp(op, arrays, tangents, **params)}
        if _first_tangent_alone(case):
            _, jacobian = linearized(arrays, params)
            ways["J @"] = lambda: jacobian @ tangents[0]
        return ways
    if case.cotangents is None:
        return routes(op, arrays, params)
    cotangents = put(case.cotangents)
    pull, jacobian = linearized(arrays, params)
    ways = {"pull": lambda: pull(*cotangents)}
    if len(cotangents) == 1:
        ways["J.T @"] = lambda: jacobian.T @ cotangents[0]
    return ways


def _first_tangent_alone(case: Case) -> bool:
    """Whether the case has a bad tangent of its first array, good ones of the others."""
    pairs = list(zip(case.arrays, case.tangents or (), strict=False))
    if len(pairs) != len(case.tangents or ()) or len(pairs) != len(case.arrays):
        return False
    (x, dx), *others = pairs
    good = all(tangent is None or tangent is array for array, tangent in others)
    return good and dx is not x and x.dtype.kind == "f"


def _linearizer(op: Any) -> Callable[..., Any]:
    """Return a function to the op's pullback and Jacobian at a point, run once for each."""
    known: dict[Any, Any] = {}

    def linearized(arrays: Arrays, params: Mapping[str, Any]) -> Any:
        key = (*map(id, arrays), *params.items())
        if key not in known:
            pull = og.vjp(op, *arrays, **params)[1]
            known[key] = pull, og.jacobian(op, *arrays, **params)
        return known[key]

    return linearized


# -- labels that nobody can look at ----------------------------------------------------------------


def check_unseen_labels(row: Row, case: Case, target: Target, *, op: Any = None) -> None:
    """Assert that labels of no class give NaN in their own rows, and change no other row.

    For libraries that trace, or compute later: there is no value to look at when the op is called.
    """
    scores, labels = case.arrays
    run = _derivatives(op or row.op, labels.shape, tuple(case.params.items()))
    shown = to_numpy(target.run(run, scores, labels))
    for word, got, right in zip(ROLES, shown, _with_nan(run, case), strict=True):
        np.testing.assert_allclose(
            got, right, rtol=1e-5, atol=1e-6, err_msg=f"{row.name}, {case}: {word} on {target}"
        )


ROLES = ("value", "gradient", "tangent")


@functools.cache
def _derivatives(
    op: Any, shape: tuple[int, ...], params: tuple[tuple[str, Any], ...]
) -> Callable[..., Any]:
    """Return a function to the value, gradient and tangent; the same one for the same arguments."""
    keywords, ones = dict(params), np.ones(shape).tolist()

    def run(scores: Any, labels: Any) -> Any:
        y, pull = og.vjp(op, scores, labels, **keywords)
        tangent = og.jvp(op, (scores, labels), (scores, None), **keywords)[1]
        return y, pull(ones)[0], tangent

    return run


def _with_nan(run: Callable[..., Any], case: Case) -> tuple[Any, ...]:
    """Return what `run` has to give: NaN for labels of no class, the rest as without them."""
    scores, labels = case.arrays
    bad, mended = unseen(case)
    axis = case.params.get("axis", -1)
    if scores.shape[axis] == 0:
        nothing = np.full(labels.shape, np.nan)
        return nothing, np.zeros(scores.shape), nothing
    value, gradient, tangent = map(np.array, run(scores, mended))
    value[bad] = tangent[bad] = np.moveaxis(gradient, axis, -1)[bad] = np.nan
    return value, gradient, tangent

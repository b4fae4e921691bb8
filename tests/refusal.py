"""What the tests of bad input share: a good call of every op, and what a refusal has to be.

A call is refused as it should be if it raises an error that is both an `OpsgradError` and the
builtin that people catch for that mistake, if the message names what is meant, and if nothing was
computed, moved or overwritten before.
"""

import contextlib
import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

import opsgrad as og
from opsgrad.conformance import TABLE

# Batch, entries along the last axis; `dense` has three outputs. All are different.
BATCH, CLASSES = 5, 4
SHAPE = (BATCH, CLASSES)

Builtin = type[BaseException] | tuple[type[BaseException], ...]
OUT_OF_RANGE: Builtin = (ValueError, IndexError)


class TooEarlyError(Exception):
    """Work was done before the input had been checked."""


@dataclass(frozen=True)
class Case:
    """A bad call of an op, and the refusal that it has to meet with.

    Those of one op and kind, which differ in `where`, are one test.
    """

    name: str
    kind: str
    arrays: tuple[Any, ...]
    params: Mapping[str, Any] = field(default_factory=dict)
    builtin: Builtin = TypeError
    words: tuple[str, ...] = ()
    where: str = ""


def parametrize(cases: Iterable[Case]) -> pytest.MarkDecorator:
    """Run a test with the cases of each op and kind, under a readable name."""
    groups: dict[str, list[Case]] = {}
    for case in cases:
        groups.setdefault(f"{case.name}-{case.kind}", []).append(case)
    for name, group in groups.items():
        assert len({case.where for case in group}) == len(group), f"two cases called {name}"
    return pytest.mark.parametrize("cases", groups.values(), ids=groups.keys())


# Good calls


def good(name: str, dtype: Any = np.float64, shape: tuple[int, ...] = SHAPE) -> tuple[Any, ...]:
    """Return arrays that the op takes; labels stay int64."""
    row = TABLE[name]
    arrays = row.sample(np.random.default_rng(0), shape, -1)
    return tuple(
        array.astype(dtype) if floating else array
        for array, floating in zip(arrays, row.differentiable, strict=True)
    )


def zero_dimensional(name: str) -> tuple[Any, ...]:
    """Return arrays without any axis, one for each argument."""
    return tuple(np.asarray(0.5) if f else np.asarray(0) for f in TABLE[name].differentiable)


def replaced(arrays: tuple[Any, ...], place: int, value: Any) -> tuple[Any, ...]:
    """Return `arrays` with another value at `place`."""
    return (*arrays[:place], value, *arrays[place + 1 :])


def arguments(name: str) -> list[inspect.Parameter]:
    """Return the array arguments that the op's public signature shows."""
    public = inspect.signature(TABLE[name].op).parameters.values()
    return [one for one in public if one.kind is one.POSITIONAL_ONLY]


def parameters(name: str) -> tuple[str, ...]:
    """Return the names of the op's own parameters."""
    public = inspect.signature(TABLE[name].op).parameters.values()
    return tuple(p.name for p in public if p.kind is p.KEYWORD_ONLY and p.name != "backend")


# Refusals


@contextlib.contextmanager
def nothing_runs(op: Any = None) -> Iterator[None]:
    """Fail if within the context a body or rule runs, or an array is moved."""

    def early(what: str) -> Callable[..., Any]:
        def fail(*args: Any, **keywords: Any) -> Any:
            raise TooEarlyError(what)

        return fail

    with pytest.MonkeyPatch.context() as patch:
        if hasattr(op, "body"):
            patch.setattr(op, "_body", op._body._replace(function=early("the body ran")))
        for backend in _with_subclasses(og.Backend):
            if "run" in vars(backend):
                patch.setattr(backend, "run", early("something was computed"))
            if "asarray" in vars(backend):
                patch.setattr(backend, "asarray", early("an array was moved"))
        yield


def _with_subclasses(cls: type) -> Iterator[type]:
    yield cls
    for subclass in cls.__subclasses__():
        yield from _with_subclasses(subclass)


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


def routes(
    op: Any, arrays: tuple[Any, ...], params: Mapping[str, Any]
) -> dict[str, Callable[[], Any]]:
    """Return the ways to call an op, by name."""
    ways = {
        "call": lambda: op(*arrays, **params),
        "vjp": lambda: og.vjp(op, *arrays, **params),
        "jvp": lambda: og.jvp(op, arrays, (None,) * len(arrays), **params),
        "value_and_grad": lambda: og.value_and_grad(op)(*arrays, **params),
    }
    if arrays:
        ways["jacobian"] = lambda: og.jacobian(op, *arrays, **params)
    return ways


def refused_by_every_route(cases: Iterable[Case]) -> None:
    """Assert that the op refuses each of the calls, and so does every transform of it."""
    faults = [fault for case in cases for fault in _faults(case)]
    assert not faults, "\n".join(faults)


def _faults(case: Case) -> Iterator[str]:
    op = TABLE[case.name].op
    inputs = (*case.arrays, *case.params.values())
    before = [_picture(value) for value in inputs]
    with nothing_runs(op):
        for route, call in routes(op, case.arrays, case.params).items():
            wrong = complaint(call, case.builtin, case.name, *case.words)
            if wrong is not None:
                yield f"{case.where} {route}: {wrong}".lstrip()
    if [_picture(value) for value in inputs] != before:
        yield f"{case.where}: an input was written to"


def _picture(value: Any) -> Any:
    """Return the bytes of an array, or how anything else prints."""
    return value.tobytes() if isinstance(value, np.ndarray | np.generic) else repr(value)

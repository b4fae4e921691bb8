"""`og.which_backend` says where a call would run, why, and what runs there; it moves nothing."""

import asyncio
import functools
import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from libraries import library_parameters

import opsgrad as og
from opsgrad.backends import Backend, Kernel, Work
from opsgrad.backends.numpy import NumPyBackend
from opsgrad.conformance import Row
from opsgrad.conformance.checks import sample
from opsgrad.conformance.target import Target

registry: Any = sys.modules["opsgrad.backends"]  # opsgrad.backends is the function
named = pytest.mark.parametrize("library", library_parameters("numpy", "torch", "jax", "dask"))


class Motionless(NumPyBackend):
    """A backend that nothing can be brought to, and on which nothing can run."""

    name = "motionless"

    def owns(self, array: object) -> bool:
        return False

    def refuse(self, *_: Any, **__: Any) -> Any:
        raise AssertionError("something was moved or run")

    asarray = cast = run = to_numpy = refuse

    def kernel(self, work: Work) -> Kernel | str:
        if work.role == "value":
            return Kernel(self.refuse, f"the kernel for {work.op} in {work.dtype}")
        return "it has none for rules"


@pytest.fixture
def motionless(monkeypatch: pytest.MonkeyPatch) -> Backend:
    backend = Motionless()
    monkeypatch.setattr(registry, "_loaded", registry._loaded | {"motionless": backend})
    monkeypatch.setitem(registry._BUILTIN, "motionless", "")
    return backend


# -- why there -------------------------------------------------------------------------------------


@named
def test_by_the_type_of_the_array(library: Target) -> None:
    choice = og.which_backend(og.softmax, library.put(np.zeros((2, 3))))
    assert (choice.op, choice.backend) == ("softmax", library.name)
    assert choice.why == f"x is an array of {library.name}"


@named
def test_by_flag(library: Target) -> None:
    choice = og.which_backend(og.softmax, np.zeros(3), backend=library.name)
    assert (choice.backend, choice.why) == (library.name, f"backend='{library.name}' was passed")


@named
def test_by_context(library: Target) -> None:
    with og.use_backend(library.name):
        choice = og.which_backend(og.softmax, np.zeros(3))
        by_flag = og.which_backend(og.softmax, np.zeros(3), backend="numpy")
    assert choice.backend == library.name
    assert choice.why == f"use_backend('{library.name}') is in force"
    assert (by_flag.backend, by_flag.why) == ("numpy", "backend='numpy' was passed")


def test_by_nothing_but_lists() -> None:
    choice = og.which_backend(og.softmax, [1.0, 2.0])
    assert choice.backend == "numpy"
    assert choice.why == "numpy takes lists and numbers where no array comes with them"


@named
def test_the_first_array_that_is_one_decides(library: Target) -> None:
    scores = library.put(np.zeros((2, 3)))
    assert og.which_backend(og.nll_loss, scores, [0, 1]).why.startswith("log_probs is an array of ")
    choice = og.which_backend(og.squared_error, [[0.0] * 3] * 2, scores)
    assert (choice.backend, choice.why) == (library.name, f"target is an array of {library.name}")


def test_dask_takes_numpy_arrays_in() -> None:
    da = pytest.importorskip("dask.array")
    choice = og.which_backend(og.squared_error, np.zeros(3), da.zeros(3))
    assert (choice.backend, choice.why) == ("dask", "target is an array of dask")


def test_parameters_of_a_partial_count() -> None:
    op = functools.partial(og.softmax, axis=0, backend="numpy")
    assert og.which_backend(op, [[1.0]]).why == "backend='numpy' was passed"
    with pytest.raises(og.AxisError):
        og.which_backend(functools.partial(og.softmax, axis=2), [[1.0]])


# -- what runs there -------------------------------------------------------------------------------


def test_every_op_has_its_roles(row: Row, rng: np.random.Generator) -> None:
    choice = og.which_backend(row.op, *sample(row, rng, (3, 4)), **row.variants[0])
    assert list(choice.engines) == ["value", "vjp", "jvp", "value_and_grad"]
    for engine in choice.engines.values():
        words = ("a compiled loop", "as it is written, because no kernel", "the body", "the rule")
        assert engine.startswith((*words, "value, then vjp, because"))


def test_what_has_no_kernel_says_why() -> None:
    pytest.importorskip("llvmlite", reason="llvmlite is not installed")
    choice = og.which_backend(og.dense, np.ones((2, 3)), np.ones((3, 4)))
    assert all("it calls matmul" in engine for engine in choice.engines.values())

    @og.op
    def reverse(xp: Any, x: Any, /) -> Any:
        return xp.flip(x)

    engine = og.which_backend(reverse, [1.0]).engines["value"]
    assert engine == "the body as it is written, because kernels are for what runs row by row"


def test_an_op_without_rules() -> None:
    @og.op
    def plain(xp: Any, x: Any, /) -> Any:
        return x

    assert list(og.which_backend(plain, [1.0]).engines) == ["value"]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_kernels_are_told_and_nothing_is_moved(motionless: Backend, dtype: str) -> None:
    x = np.zeros((2, 3), dtype)
    choice = og.which_backend(og.nll_loss, x, np.array([0, 1]), backend="motionless")
    assert dict(choice.engines) == {
        "value": f"the kernel for nll_loss in {dtype}",
        "vjp": "the rule as it is written, because it has none for rules",
        "jvp": "the rule as it is written, because it has none for rules",
        "value_and_grad": "value, then vjp, because it has none for rules",
    }
    with pytest.raises(AssertionError, match="something was moved"):
        og.nll_loss(x, np.array([0, 1]), backend="motionless")
    with og.use_backend("motionless"):
        assert og.which_backend(og.softmax, [1.0, 2.0]).backend == "motionless"


def test_it_prints_a_sentence_for_each_role(motionless: Backend) -> None:
    choice = og.which_backend(og.relu, np.zeros(2), backend="motionless")
    assert str(choice) == repr(choice)
    assert str(choice).split("\n") == [
        "relu runs on motionless, because backend='motionless' was passed",
        "  value           the kernel for relu in float64",
        "  vjp             the rule as it is written, because it has none for rules",
        "  jvp             the rule as it is written, because it has none for rules",
        "  value_and_grad  value, then vjp, because it has none for rules",
    ]


# -- bad calls -------------------------------------------------------------------------------------


def test_chains_are_asked_stage_by_stage() -> None:
    with pytest.raises(og.ArgumentError, match=r"which_backend: takes a single op, .*its stages"):
        og.which_backend(og.chain(og.dense, og.relu), np.ones((1, 2)), ())


@pytest.mark.parametrize("what", [np.exp, 3, None, "softmax"], ids=str)
def test_what_is_no_op_is_refused(what: Any) -> None:
    with pytest.raises(og.ArgumentError, match="which_backend: takes an op"):
        og.which_backend(what, np.ones(2))


BAD: dict[str, Callable[[Any], Any]] = {
    "no array": lambda ask: ask(og.softmax),
    "text": lambda ask: ask(og.softmax, "x"),
    "complex": lambda ask: ask(og.softmax, np.ones(2, complex)),
    "axis": lambda ask: ask(og.softmax, np.ones(2), axis=1),
    "keyword": lambda ask: ask(og.softmax, np.ones(2), axes=0),
    "parameter": lambda ask: ask(og.lp_norm, np.ones(2), p=-1.0),
    "shape": lambda ask: ask(og.squared_error, np.ones(2), np.ones(3)),
    "label": lambda ask: ask(og.nll_loss, np.ones((1, 2)), np.array([2])),
    "name": lambda ask: ask(og.softmax, np.ones(2), backend="nmpy"),
    "name's type": lambda ask: ask(og.softmax, np.ones(2), backend=3),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_bad_calls_raise_what_the_call_would(bad: Callable[[Any], Any]) -> None:
    with pytest.raises(og.OpsgradError) as asked:
        bad(og.which_backend)
    with pytest.raises(og.OpsgradError) as called:
        bad(lambda op, *arrays, **parameters: op(*arrays, **parameters))
    assert (type(asked.value), str(asked.value)) == (type(called.value), str(called.value))


def test_an_unavailable_backend_is_refused(
    motionless: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Motionless, "why_unavailable", lambda self: "it sleeps")
    with pytest.raises(og.BackendUnavailableError, match="not available: it sleeps"):
        og.which_backend(og.softmax, np.ones(2), backend="motionless")


# -- whose choice ----------------------------------------------------------------------------------


def where() -> str:
    return og.which_backend(og.relu, [1.0]).backend


def test_contexts_of_two_threads_are_apart(motionless: Backend) -> None:
    """Both are inside at once, and each sees its own choice, before, within and after."""
    barrier = threading.Barrier(2, timeout=10)
    seen: dict[str, list[str]] = {}

    def work(name: str) -> None:
        seen[name] = [where()]
        with og.use_backend(name):
            barrier.wait()
            seen[name].append(where())
            barrier.wait()
        seen[name].append(where())

    threads = [threading.Thread(target=work, args=(name,)) for name in ("motionless", "dask")]
    pytest.importorskip("dask")
    with og.use_backend("numpy"):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert where() == "numpy"
    assert seen == {name: ["numpy", name, "numpy"] for name in ("motionless", "dask")}


def test_contexts_of_tasks_are_apart(motionless: Backend) -> None:
    """A task starts with the choice of whoever made it, and keeps its own to itself."""

    async def inside() -> list[str]:
        seen = [where()]
        with og.use_backend("numpy"):
            await asyncio.sleep(0)
            seen.append(where())
        await asyncio.sleep(0)
        return [*seen, where()]

    async def both() -> list[Any]:
        with og.use_backend("motionless"):
            tasks = [asyncio.create_task(inside()), asyncio.create_task(inside())]
            await asyncio.sleep(0)
            seen = where()
            return [seen, *await asyncio.gather(*tasks)]

    expected = ["motionless", "numpy", "motionless"]
    assert asyncio.run(both()) == ["motionless", expected, expected]
    assert where() == "numpy"


def test_contexts_nest_and_end_with_an_error(motionless: Backend) -> None:
    def fail() -> None:
        with og.use_backend("numpy"):
            assert where() == "numpy"
            raise ZeroDivisionError

    with og.use_backend("motionless"):
        with pytest.raises(ZeroDivisionError):
            fail()
        assert where() == "motionless"
    assert where() == "numpy"

"""Ops called from many threads, from asyncio tasks, and from forked and spawned processes."""

import asyncio
import multiprocessing
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import pytest

import opsgrad as og
from opsgrad.backends import backend_in_force
from opsgrad.backends.standard import StandardBackend
from opsgrad.conformance.checks import sample
from opsgrad.conformance.row import Row
from opsgrad.conformance.table import TABLE
from opsgrad.conformance.target import Target, backend_targets, namespace_target, to_numpy

THREADS = 8
CALLS = 1000
"""Calls in each thread. Dask takes 10 ms a call and array-api-strict 1 ms: they get fewer."""


class Job(NamedTuple):
    """A call to make again and again."""

    row: Row
    arrays: tuple[Any, ...]
    """In the target's library."""
    pulls: bool
    """Whether the gradients are asked for, or the value alone."""

    def run(self) -> tuple[bytes, ...]:
        """Make the call; return all the bits that come out."""
        params = self.row.variants[0]
        if not self.pulls:
            return (to_numpy(self.row.op(*self.arrays, **params)).tobytes(),)
        y, pull = og.vjp(self.row.op, *self.arrays, **params)
        return tuple(to_numpy(one).tobytes() for one in (y, *pull(y)) if one is not None)


def jobs(target: Target) -> list[Job]:
    """Return calls of every op: value and VJP, in each data type, on two shapes."""
    rng = np.random.default_rng(8)
    compiles = target.backend.traced(abs) is not None
    many = target.name == "numpy"
    made = []
    for row in TABLE.values():
        # More shapes than an op keeps plans for: threads drop each other's.
        lengths = range(1, 300) if many and row.name == "softmax" else (5,) if compiles else (5, 2)
        for length in lengths:
            for dtype in target.dtypes:
                arrays = target.put(tuple(sample(row, rng, (3, length), dtype=dtype)))
                made += [Job(row, arrays, pulls) for pulls in (False, True)]
    return made


def calls_of(target: Target) -> int:
    """Return how many calls to make in each thread."""
    if target.capabilities.lazy:
        return CALLS // 200
    return CALLS // 10 if isinstance(target.backend, StandardBackend) else CALLS


def together(work: Callable[[int], Any]) -> list[Any]:
    """Return what `work` returns in each of `THREADS` threads that start at once."""
    barrier = threading.Barrier(THREADS)

    def begin(number: int) -> Any:
        barrier.wait()
        return work(number)

    with ThreadPoolExecutor(THREADS) as threads:
        return list(threads.map(begin, range(THREADS)))


def test_threads_get_the_serial_results(eager_target: Target) -> None:
    """8 threads of 1,000 calls each, of every op, get the bits that one thread gets."""
    every = jobs(eager_target)
    calls = calls_of(eager_target)

    def work(number: int) -> list[tuple[int, tuple[bytes, ...]]]:
        drawn = random.Random(number)
        chosen = [drawn.randrange(len(every)) for _ in range(calls)]
        return [(one, every[one].run()) for one in chosen]

    found = together(work)  # first, when nothing is kept or compiled yet
    serial = {one: every[one].run() for one in {one for part in found for one, _ in part}}
    for part in found:
        for one, got in part:
            assert got == serial[one], f"{every[one].row.name}, pulls={every[one].pulls}"


def test_threads_keep_the_error_state(eager_target: Target) -> None:
    """Calls that overflow or divide by 0 inside leave each thread's NumPy error state alone."""
    x = np.asarray([-np.inf, np.inf, 1e38, np.nan, -np.inf], "float32")

    def work(number: int) -> bool:
        with np.errstate(all="raise" if number % 2 else "warn"):
            before = np.geterr()
            for _ in range(1 + calls_of(eager_target) // 20):
                y, pull = og.vjp(og.softmax, eager_target.put(x))
                to_numpy(pull(y))
            return np.geterr() == before

    before = np.geterr()
    assert all(together(work))
    assert np.geterr() == before


def named(target: Target) -> str:
    """Return the target's name for `use_backend`; skip where it has none."""
    if isinstance(target.backend, StandardBackend):
        pytest.skip("use_backend takes registered backends, and this is a bare namespace")
    return target.backend.name


def test_use_backend_is_the_threads_own(eager_target: Target) -> None:
    """What a thread puts in force with use_backend, no other thread sees."""
    name = named(eager_target)
    barrier = threading.Barrier(THREADS)

    def seen() -> bool:
        barrier.wait()
        return backend_in_force() is None and isinstance(og.relu([1.0]), np.ndarray)

    def work(number: int) -> bool:
        if number % 2:
            return seen() and seen() and seen()
        before = seen()
        with og.use_backend(name) as backend:
            barrier.wait()
            inside = backend_in_force() == name and backend.owns(og.relu([1.0]))
        return before and inside and seen()

    with ThreadPoolExecutor(THREADS) as threads:
        assert all(threads.map(work, range(THREADS)))
    assert backend_in_force() is None


def test_use_backend_is_the_tasks_own(eager_target: Target) -> None:
    """What an asyncio task puts in force with use_backend, no other task sees."""
    name = named(eager_target)

    async def inside() -> bool:
        with og.use_backend(name) as backend:
            for _ in range(3):
                await asyncio.sleep(0)
                if backend_in_force() != name or not backend.owns(og.relu([1.0])):
                    return False
        return backend_in_force() is None

    async def outside() -> bool:
        for _ in range(5):
            await asyncio.sleep(0)
            if backend_in_force() is not None or not isinstance(og.relu([1.0]), np.ndarray):
                return False
        return True

    async def both() -> list[bool]:
        tasks: list[Coroutine[Any, Any, bool]] = [inside(), outside(), inside(), outside()]
        return await asyncio.gather(*tasks)

    assert all(asyncio.run(both()))


# -- processes -------------------------------------------------------------------------------------


def results(name: str, standard: bool, op: Any = None) -> list[bytes]:
    """Return the bits of a few calls on the target called `name`; run in other processes."""
    target = namespace_target(name) if standard else backend_targets(name)[0]
    # Large enough for any engine, in pieces too, so that it does not matter what has been compiled.
    x = target.put(np.linspace(-3, 3, 1 << 16, dtype="float32").reshape(256, 256))
    out = []
    for one in (op or og.softmax, og.sigmoid, og.lp_norm, og.relumax):
        y, pull = og.vjp(one, x)
        out += [to_numpy(y).tobytes(), to_numpy(pull(y)[0]).tobytes()]
    return out


def elsewhere(target: Target) -> tuple[str, bool]:
    """Return the name by which `results` finds a target again, and whether it is a namespace's."""
    standard = isinstance(target.backend, StandardBackend)
    return target.name if standard else target.backend.name, standard


def forked(name: str, standard: bool) -> None:
    """Compare results in a forked child with the parent's, which has made calls before."""
    before = results(name, standard)
    with multiprocessing.get_context("fork").Pool(1) as pool:
        got = pool.apply_async(results, (name, standard)).get(timeout=60)
    assert got == before
    assert results(name, standard) == before


NO_FORK = {
    "jax": "JAX is multithreaded and may deadlock in a forked child: "
    "https://github.com/jax-ml/jax/pull/18989",
    "torch": "PyTorch may deadlock in a forked child once its thread pool runs: "
    "https://github.com/pytorch/pytorch/issues/17199",
}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_forked_child(eager_target: Target) -> None:
    """A forked child goes on with what its parent has set up."""
    if eager_target.name in NO_FORK:
        pytest.skip(NO_FORK[eager_target.name])
    name, standard = elsewhere(eager_target)
    # From a process of its own: this one may have loaded libraries that must not be forked.
    code = f"import {__name__} as suite; suite.forked({name!r}, {standard})"
    # Dask's pool of threads does not survive a fork; its scheduler without threads does.
    settings = os.environ | {"DASK_SCHEDULER": "synchronous"}
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120, env=settings)


def test_spawned_child(eager_target: Target) -> None:
    """A spawned child takes a pickled op and gets the same bits."""
    name, standard = elsewhere(eager_target)
    here = results(name, standard)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        there = pool.submit(results, name, standard, og.softmax).result(timeout=120)
    assert there == here

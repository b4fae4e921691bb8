"""The rows of one kernel, computed by several threads.

A hand-off through Python threads costs more than many a kernel. So the workers are native threads
that run `threads.ll` and never touch Python. For some microseconds after a job they spin on a word
in memory, where the next job is seen at once; then they sleep, and cost nothing.

The caller works too, and rows are handed out in pieces to whoever asks. Workers are volunteers: one
that wakes too late, or gets no CPU, is not waited for. So what goes wrong with threads costs speed,
never a result:

- a caller that finds the team at work for another thread computes its rows alone;
- a forked child, which has no workers, starts its own; the parent's rest while it forks;
- where no team can be had (no llvmlite, Windows, a machine not known here), callers compute alone.

Workers take over the caller's floating-point modes, so that no result depends on who computed it.
"""

import atexit
import contextlib
import ctypes
import functools
import os
import platform
import re
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from opsgrad._errors import ParameterError

SPIN = 50_000
"""How many nanoseconds a worker looks out for the next job before it sleeps."""

PATIENCE = 1_000_000
"""How many nanoseconds it does so at most while others are still busy with the last job."""

WORTH = 100_000
"""How many nanoseconds of work must be left for sleepers to be woken, which takes 5 to 60 µs."""

PIECES = 2
"""How many pieces there are for each thread: who is early takes from who is late."""

LIMIT = 1024
"""The most threads that a team can have."""

VARIABLE = "OPSGRAD_NUM_THREADS"
"""The environment variable that says how many threads to use."""

_ALIGNMENT = 128
_ARGUMENTS = (*[ctypes.c_int64] * 3, *[ctypes.c_void_p] * 3)
_KERNEL = ctypes.CFUNCTYPE(None, *_ARGUMENTS)
_NEW = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)
_GROW = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p, ctypes.c_int64)
_STOP = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p)
_RUN = ctypes.CFUNCTYPE(
    None,
    *[ctypes.c_void_p] * 2,
    *[ctypes.c_int64] * 2,
    *[ctypes.c_void_p] * 3,
    *[ctypes.c_int64] * 3,
)


# -- for callers -----------------------------------------------------------------------------------


def run(
    kernel: int,
    rows: int,
    length: int,
    pointers: Any,
    strides: Any,
    scratch: int = 0,
    grain: int = 1,
) -> None:
    """Run a kernel for the rows from 0 to `rows`, on several threads where that pays.

    Parameters
    ----------
    kernel
        The address of a function ``void (int64 begin, int64 end, int64 length, void **pointers,
        int64 *strides, void *scratch)``, which may run on several threads at once.
    rows
        The number of rows.
    length
        The length of a row, handed on to the kernel.
    pointers, strides
        Addresses or ctypes arrays, handed on to the kernel.
    scratch
        How many bytes of memory each thread needs for itself; their contents are undefined.
    grain
        The fewest rows worth handing to a thread. Every piece but the last is a multiple of it.
    """
    helpers, team, _, call = crew()
    memory = memory_of_thread(scratch) if scratch else None
    call(team, kernel, rows, length, pointers, strides, memory, scratch, grain, helpers)


def crew() -> "Crew":
    """Return who computes now, for code that calls the team itself."""
    return _team.crew or _team.gather()


def get_num_threads() -> int:
    """Return how many threads a kernel may run on."""
    if _team.number is None:
        _team.number = _default()
    return _team.number


def set_num_threads(number: int) -> None:
    """Set how many threads a kernel may run on, at most `LIMIT`; kernels that run keep theirs."""
    if number < 1:
        raise ParameterError(f"set_num_threads: number must be 1 or more, got {number}")
    _team.number = number
    _team.crew = None


def _default() -> int:
    """Return what the environment says, or the number of CPUs that this process may use."""
    wanted = os.environ.get(VARIABLE, "")
    if wanted.isdecimal() and int(wanted) > 0:
        return int(wanted)
    if wanted:
        warnings.warn(f"{VARIABLE} must be a positive integer, got {wanted!r}", stacklevel=2)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


# -- scratch memory of callers ---------------------------------------------------------------------

_own = threading.local()


def memory_of_thread(size: int) -> Any:
    """Return memory that only this thread uses.

    The array itself, not its address: what a call under way refers to outlives the interpreter,
    even in a daemon thread.
    """
    if getattr(_own, "size", -1) < size:
        block = ctypes.create_string_buffer(size + _ALIGNMENT)
        offset = -ctypes.addressof(block) % _ALIGNMENT
        _own.memory = (ctypes.c_char * size).from_buffer(block, offset)
        _own.size = size
    return _own.memory


# -- the team --------------------------------------------------------------------------------------


class Crew(NamedTuple):
    """Who computes, and how it is called."""

    helpers: int
    team: int | None
    run: int | None
    """The address of the function that runs a kernel on the team; None without one."""
    call: Callable[..., None]
    """That function, or what is in its place."""


def _alone(
    _team: None,
    kernel: int,
    rows: int,
    length: int,
    pointers: Any,
    strides: Any,
    memory: Any,
    *_: int,
) -> None:
    """Run a kernel without a team."""
    _KERNEL(kernel)(0, rows, length, pointers, strides, memory)


_ALONE = Crew(0, None, None, _alone)

crew_words = (ctypes.c_int64 * 4)()
"""The crew as `direct.ll` reads it: whether it is known, its function, team and helpers."""


class _Team:
    """The one team of this process, and who of it is to be called."""

    def __init__(self) -> None:
        self.number: int | None = None
        self._crew: Crew | None = None
        self.address: int | None = None
        self.starting = threading.Lock()

    @property
    def crew(self) -> Crew | None:
        """Who computes; None where that has to be settled again."""
        return self._crew

    @crew.setter
    def crew(self, crew: Crew | None) -> None:
        self._crew = crew
        words = (0, 0, 0, 0) if crew is None else (1, crew.run or 0, crew.team or 0, crew.helpers)
        for place, word in enumerate(words):
            crew_words[place] = word

    def gather(self) -> Crew:
        """Return the crew for the number of threads asked for, and keep it for later calls."""
        # Whoever finds the lock taken goes alone: it may be a signal handler of the very thread
        # that has it, which would wait for ever.
        if not self.starting.acquire(blocking=False):
            return _ALONE
        try:
            return self._gathered(get_num_threads())
        finally:
            self.starting.release()

    def _gathered(self, number: int) -> Crew:
        crew = _ALONE
        code = _code() if number > 1 else None
        if code is not None:
            self.address = self.address or code.new(_settings())
        if code is not None and self.address is not None:
            wanted = min(number, LIMIT) - 1
            with _signals_blocked():
                workers = code.grow(self.address, wanted)
            if workers < 0:
                return _ALONE
            crew = Crew(min(workers, wanted), self.address, code.run_at, code.run)
        self.crew = crew
        # Another thread may have asked for another number meanwhile.
        if number != self.number:
            self.crew = None
        return crew

    def end_workers(self) -> None:
        """End the workers; where the team is at work for another thread, they stay."""
        if self.address is not None and (code := _code()) is not None:
            self.crew = None
            code.stop(self.address)

    def before_fork(self) -> None:
        """Have no workers and no compilation under way, so that a child finds all in order.

        Later calls start workers again. The wait has an end: the thread that forks may itself be
        inside `gather`, in a signal handler.
        """
        _own.forks = self.starting.acquire(timeout=1)
        if _own.forks:
            self.end_workers()

    def after_fork(self) -> None:
        """Let the parent start workers again."""
        if _own.forks:
            self.starting.release()

    def in_child(self) -> None:
        """Leave the parent's team alone; the first call starts another."""
        self.crew, self.address, self.starting = None, None, threading.Lock()

    def at_exit(self) -> None:
        """End the workers for good. Those still at work end with the process."""
        self.end_workers()
        self.crew = _ALONE


def _settings() -> Any:
    """Return the numbers that `threads.ll` calls settings."""
    values = (time.CLOCK_MONOTONIC, SPIN, PATIENCE, WORTH, PIECES)
    return (ctypes.c_int64 * len(values))(*values)


@contextlib.contextmanager
def _signals_blocked() -> Iterator[None]:
    """Have threads that are started meanwhile leave signals, Ctrl-C above all, to the others.

    But not those of faults: they belong to the thread at fault, and faulthandler reports them.
    """
    faults = {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals() - faults)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_team = _Team()
atexit.register(_team.at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_team.before_fork,
        after_in_parent=_team.after_fork,
        after_in_child=_team.in_child,
    )


# -- native code -----------------------------------------------------------------------------------


class _Code(NamedTuple):
    """The functions of `threads.ll` that Python calls."""

    new: Callable[..., int | None]
    grow: Callable[..., int]
    stop: Callable[..., int]
    run: Callable[..., None]
    run_at: int


@functools.cache
def _code() -> _Code | None:
    """Return the native functions, or nothing where they cannot be had."""
    try:
        return _compile() if os.name == "posix" and ctypes.sizeof(ctypes.c_void_p) == 8 else None
    # Whatever is missing, there is a way without a team.
    except Exception:
        return None


def _compile() -> _Code:
    import llvmlite.binding as llvm

    from opsgrad.fusion import compiler

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    text = _text(platform.machine())
    # LLVM ends the process over a name that it cannot resolve; here a missing one is an error.
    library = ctypes.CDLL(None)
    for name in re.findall(r"^declare .*@(\w+)\(", text, re.MULTILINE):
        llvm.add_symbol(name, ctypes.cast(getattr(library, name), ctypes.c_void_p).value)
    machine = llvm.Target.from_default_triple().create_target_machine(opt=2, jit=True)
    # To compile it takes 24 ms, as long as to load LLVM.
    code = compiler.kept(f"team\n{text}", lambda: _object_code(text, machine))
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    kinds = {"new": _NEW, "grow": _GROW, "stop": _STOP, "run": _RUN}
    addresses = {name: engine.get_function_address(f"opsgrad_team_{name}") for name in kinds}
    functions = {name: kind(addresses[name]) for name, kind in kinds.items()}
    # Never freed: workers may run this code until the process is gone.
    engine.detach()
    return _Code(**functions, run_at=addresses["run"])


def _object_code(text: str, machine: Any) -> bytes:
    import llvmlite.binding as llvm

    module = llvm.parse_assembly(text)
    module.verify()
    code: bytes = machine.emit_object(module)
    return code


def _text(machine: str) -> str:
    """Return the instructions for a machine."""
    name = {"x86_64": "x86_64", "aarch64": "aarch64", "arm64": "aarch64"}[machine]
    here = Path(__file__).parent
    parts = (here / "threads.ll", here / f"threads_{name}.ll")
    return "\n".join(part.read_text(encoding="utf-8") for part in parts)

"""From LLVM instructions to the address of machine code, compiled once for all processes.

Importing this module loads LLVM, so only what is about to run a kernel may import it.
"""

import contextlib
import functools
import hashlib
import importlib
import itertools
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llvmlite
import llvmlite.binding as llvm

from opsgrad.fusion.store import Store, chosen_directory

KERNEL = "kernel"
"""The name of the function in every module."""
CALL = "call"
"""The name of another one in some: the kernel as Python calls it."""

# Reentrant and held over every fork: a child must find neither LLVM nor the lock in use by a thread
# that it does not have.
_LOCK = threading.RLock()
_own = threading.local()


def _before_fork() -> None:
    _LOCK.acquire()
    _own.forks = True


def _after_fork() -> None:
    # Another thread may have imported this module after this one had begun to fork.
    if getattr(_own, "forks", False):
        _own.forks = False
        _LOCK.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork
    )


def load(key: str, text: Callable[[], str]) -> int:
    """Return the address of the function `kernel`, which lives as long as the process.

    `key` describes the program completely: data type, lanes and width too. `text` returns the LLVM
    module and is called only when neither this process nor the disk has the object code. Where LLVM
    refuses the module, or the system machine code made at run time, a RuntimeError is raised.
    """
    return load_all(key, text, (KERNEL,))[0]


def load_all(key: str, text: Callable[[], str], symbols: tuple[str, ...]) -> tuple[int, ...]:
    """Return the addresses of several functions of one module: see `load`."""
    with _LOCK:
        return _compiler().load(key, text, symbols)


def kept(key: str, make: Callable[[], bytes]) -> bytes:
    """Return object code from the disk, or else made and kept there, for an engine of one's own.

    Without the lock, which whoever forks holds while it waits for the team's.
    """
    store, digest = Store(chosen_directory()), _digest(key)
    code = store.read(digest)
    if code is None:
        code = make()
        store.write(digest, code)
    return code


def _digest(key: str) -> bytes:
    return hashlib.sha256(repr((host(), key)).encode()).digest()


class Compiler:
    """Compiles for this processor, keeps the object code in a store, and links it.

    One thread at a time may use it.
    """

    def __init__(self, store: Store) -> None:
        llvm.initialize_native_target()
        self._store = store
        self._machine = _machine()
        self._engine = llvm.create_lljit_compiler(self._machine, use_jit_link=True)
        self._addresses: dict[str, tuple[int, ...]] = {}
        self._linked: list[Any] = []  # code goes when its tracker goes
        self._names = map("opsgrad{}".format, itertools.count())

    def load(self, key: str, text: Callable[[], str], symbols: tuple[str, ...]) -> tuple[int, ...]:
        """Return the addresses of functions: see the function `load_all`."""
        if key not in self._addresses:
            self._addresses[key] = self._load(key, text, symbols)
        return self._addresses[key]

    def _load(self, key: str, text: Callable[[], str], symbols: tuple[str, ...]) -> tuple[int, ...]:
        digest = _digest(key)
        stored = self._store.read(digest)
        if stored is not None:
            with contextlib.suppress(RuntimeError):
                return self._link(stored, symbols)
        code = self._compile(text())
        addresses = self._link(code, symbols)
        self._store.write(digest, code)
        return addresses

    def _compile(self, text: str) -> bytes:
        llvm.initialize_native_asmprinter()
        module = llvm.parse_assembly(text)
        module.verify()
        module.triple = self._machine.triple
        module.data_layout = str(self._machine.target_data)
        # Level 3 takes longer, and the kernels are as fast; they are made of vectors already.
        options = llvm.create_pipeline_tuning_options(speed_level=2)
        options.loop_vectorization = options.slp_vectorization = False
        builder = llvm.create_pass_builder(self._machine, options)
        builder.getModulePassManager().run(module, builder)
        code: bytes = self._machine.emit_object(module)
        return code

    def _link(self, code: bytes, symbols: tuple[str, ...]) -> tuple[int, ...]:
        # The process has what LLVM makes of loops and of missing instructions: memset, fma, …
        library = llvm.JITLibraryBuilder().add_object_img(code).add_current_process()
        for symbol in symbols:
            library.export_symbol(symbol)
        linked = library.link(self._engine, next(self._names))
        self._linked.append(linked)
        return tuple(int(linked[symbol]) for symbol in symbols)


@functools.cache
def host() -> tuple[str, ...]:
    """Return what object code depends on, beside the program."""
    return (
        str(importlib.import_module("opsgrad").__version__),  # no dependence on what it imports
        _source(),
        llvmlite.__version__,
        ".".join(map(str, llvm.llvm_version_info)),
        _triple(),
        llvm.get_host_cpu_name(),
        llvm.get_host_cpu_features().flatten(),
    )


@functools.cache
def _source() -> str:
    """Return a digest of this package's files: an edit of the printer outdates what it printed."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _triple() -> str:
    # On Windows too, ELF is what links in memory: it asks for no symbols of Microsoft's run time.
    return str(llvm.get_process_triple()) + ("-elf" if os.name == "nt" else "")


def _machine() -> Any:
    # Code independent of its position: an object's sections lie side by side wherever it is linked,
    # so constants are near, and functions of the process are reached through a table.
    return llvm.Target.from_triple(_triple()).create_target_machine(
        cpu=llvm.get_host_cpu_name(),
        features=llvm.get_host_cpu_features().flatten(),
        opt=2,
        reloc="pic",
        codemodel="small",
        jit=True,
    )


@functools.cache
def _compiler() -> Compiler:
    return Compiler(Store(chosen_directory()))

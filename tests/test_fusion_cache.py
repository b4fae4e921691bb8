"""Machine code persists between processes, and nothing found on the disk is trusted blindly."""

import ctypes
import functools
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("llvmlite", reason="kernels are compiled by llvmlite")
pytest.importorskip("platformdirs", reason="the cache's directory is named by platformdirs")

from opsgrad.fusion import compiler, store

# kernel(buffer, which) clears 4,096 bytes, which LLVM makes a call of memset of, and returns an
# entry of a table times a number: both are constants that the code finds by their addresses.
MODULE = """
@table = internal constant [4 x double] [double 1.0, double 2.5, double -3.0, double {last}]

define double @kernel(ptr %buffer, i64 %which) {{
entry:
  br label %loop
loop:
  %k = phi i64 [ 0, %entry ], [ %next, %loop ]
  %at = getelementptr i8, ptr %buffer, i64 %k
  store i8 0, ptr %at
  %next = add i64 %k, 1
  %more = icmp slt i64 %next, 4096
  br i1 %more, label %loop, label %done
done:
  %place = getelementptr double, ptr @table, i64 %which
  %entry.value = load double, ptr %place
  %value = fmul double %entry.value, 0.7
  ret double %value
}}
"""
LAST = 11.0


def module(last: float = LAST) -> str:
    return MODULE.format(last=last)


def unwanted() -> str:
    raise AssertionError("the module was printed although the object code was there")


def results(address: int) -> list[float]:
    kernel = ctypes.CFUNCTYPE(ctypes.c_double, ctypes.c_void_p, ctypes.c_int64)(address)
    buffer = ctypes.create_string_buffer(b"x" * 4096)
    found = [kernel(buffer, k) for k in range(4)]
    assert buffer.raw[:4096] == bytes(4096)
    return found


EXPECTED = [1.0 * 0.7, 2.5 * 0.7, -3.0 * 0.7, LAST * 0.7]


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Start with nothing compiled, kept in `tmp_path`/cache; what is returned starts again."""
    monkeypatch.setenv(store.VARIABLE, str(tmp_path / "cache"))
    # The process's own compiler stays: other tests run its kernels.
    another = functools.cache(compiler._compiler.__wrapped__)
    monkeypatch.setattr(compiler, "_compiler", another)
    return another.cache_clear


@pytest.fixture
def entry(tmp_path: Path, fresh: Callable[[], None]) -> Path:
    """Return the file of the kernel "one", which this process has forgotten."""
    assert results(compiler.load("one", module)) == EXPECTED
    fresh()
    (path,) = (tmp_path / "cache").iterdir()
    return path


def files(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache").iterdir())


def loads_anew() -> bool:
    """Return whether loading the kernel "one" compiles it."""
    asked = []
    address = compiler.load("one", lambda: asked.append(1) or module())  # type: ignore[func-returns-value]
    assert results(address) == EXPECTED
    return bool(asked)


def python(code: str, **environment: str) -> "subprocess.Popen[str]":
    preamble = "from test_fusion_cache import *\n"
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    return subprocess.Popen(
        [sys.executable, "-c", preamble + code],
        env=os.environ | environment | {"PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def output(process: "subprocess.Popen[str]") -> str:
    out, error = process.communicate(timeout=60)
    assert process.returncode == 0, error
    return out


# -- what is found ---------------------------------------------------------------------------------


def test_a_fresh_process_links_what_another_compiled(entry: Path) -> None:
    code = "address = compiler.load('one', unwanted); print(results(address), address)"
    found = [output(python(code)).rpartition(" ") for _ in range(2)]
    assert [values for values, _, _ in found] == [str(EXPECTED)] * 2
    # The system places code anew in every process, so linking it elsewhere was put to the test.
    addresses = {address for _, _, address in found}
    assert len(addresses) == 2 or not sys.platform.startswith("linux")


def test_a_process_asks_for_each_kernel_once(fresh: Callable[[], None]) -> None:
    address = compiler.load("one", module)
    assert compiler.load("one", unwanted) == address
    assert results(compiler.load("two", lambda: module(5.0)))[3] == 5.0 * 0.7
    assert results(address) == EXPECTED


def test_a_warm_process_neither_prints_nor_parses(
    entry: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiler.llvm, "parse_assembly", unwanted)
    assert results(compiler.load("one", unwanted)) == EXPECTED


def test_a_module_that_llvm_refuses_is_not_kept(tmp_path: Path, fresh: Callable[[], None]) -> None:
    for wrong in ("nonsense", "define void @other() {\n ret void\n}"):
        with pytest.raises(RuntimeError):
            compiler.load("one", lambda wrong=wrong: wrong)
    assert files(tmp_path) == []
    assert loads_anew()


# -- what is not trusted ---------------------------------------------------------------------------


def turned(content: bytes, place: int) -> bytes:
    """Return the bytes with one bit turned."""
    changed = bytearray(content)
    changed[place] ^= 1
    return bytes(changed)


SPOILERS: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "cut in the header": lambda content: content[:40],
    "cut after the header": lambda content: content[: store.HEADER.size],
    "cut": lambda content: content[:-1],
    "too long": lambda content: content + b"\0",
    "zeros": lambda content: bytes(len(content)),
    "magic": lambda content: turned(content, 0),
    "key": lambda content: turned(content, 20),
    "length": lambda content: turned(content, 50),
    "digest": lambda content: turned(content, 60),
    "code": lambda content: turned(content, -1),
}


@pytest.mark.parametrize("spoil", SPOILERS.values(), ids=SPOILERS)
def test_a_spoilt_file_is_rebuilt(entry: Path, spoil: Callable[[bytes], bytes]) -> None:
    sound = entry.read_bytes()
    entry.write_bytes(spoil(sound))
    assert loads_anew()
    assert entry.read_bytes() == sound


def test_whole_files_that_do_not_link_are_rebuilt(entry: Path, fresh: Callable[[], None]) -> None:
    for code in (b"", b"no object code", entry.read_bytes()[store.HEADER.size :][:300]):
        store.Store(entry.parent).write(bytes.fromhex(entry.name.partition(".")[0]), code)
        assert len(entry.read_bytes()) == store.HEADER.size + len(code)
        fresh()
        assert loads_anew()


@pytest.mark.parametrize("part", range(len(compiler.host())))
def test_code_of_another_version_or_processor_is_not_found(
    entry: Path, part: int, fresh: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    host = list(compiler.host())
    host[part] += "+other"
    monkeypatch.setattr(compiler, "host", lambda: tuple(host))
    assert loads_anew()
    (other,) = set(entry.parent.iterdir()) - {entry}
    # Nor when it lies where our own belongs.
    other.write_bytes(entry.read_bytes())
    fresh()
    assert loads_anew()


needs_owners = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="files have no owners here")


@needs_owners
@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702])
def test_a_directory_that_others_may_write_to_is_refused(entry: Path, mode: int) -> None:
    before = entry.stat()
    entry.parent.chmod(mode)
    with pytest.warns(RuntimeWarning, match="others own or may write to"):
        assert loads_anew()
    compiler.load("two", module)  # warnings are errors here
    entry.parent.chmod(0o700)
    assert [(one, one.stat()) for one in entry.parent.iterdir()] == [(entry, before)]


@needs_owners
def test_a_directory_of_another_user_is_refused(
    entry: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store.os, "geteuid", lambda: entry.stat().st_uid + 1)
    with pytest.warns(RuntimeWarning, match="others own or may write to"):
        assert loads_anew()


@needs_owners
def test_a_file_that_others_may_write_to_is_rebuilt(entry: Path) -> None:
    entry.chmod(0o666)
    assert loads_anew()
    assert entry.stat().st_mode & 0o777 == 0o600


@needs_owners
def test_the_directory_is_made_for_the_owner_alone(tmp_path: Path, entry: Path) -> None:
    assert (tmp_path / "cache").stat().st_mode & 0o777 == 0o700
    assert entry.stat().st_mode & 0o777 == 0o600


# -- a disk that takes nothing ---------------------------------------------------------------------


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_without_a_directory(
    tmp_path: Path, place: str, fresh: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("not a directory")
    monkeypatch.setenv(store.VARIABLE, str(tmp_path / place))
    assert loads_anew()
    fresh()
    assert loads_anew()


def test_an_empty_variable_keeps_nothing(
    tmp_path: Path, fresh: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(store.VARIABLE, "")
    monkeypatch.chdir(tmp_path)
    assert loads_anew()
    assert list(tmp_path.iterdir()) == []


def test_without_the_variable_it_is_the_user_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    import platformdirs

    monkeypatch.delenv(store.VARIABLE, raising=False)
    assert store.chosen_directory() == Path(platformdirs.user_cache_dir("opsgrad", False))
    monkeypatch.setitem(sys.modules, "platformdirs", None)
    assert store.chosen_directory() is None


@needs_owners
@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_that_cannot_be_written_is_read(entry: Path) -> None:
    entry.parent.chmod(0o500)
    assert not loads_anew()
    assert results(compiler.load("two", module)) == EXPECTED
    assert list(entry.parent.iterdir()) == [entry]
    entry.parent.chmod(0o700)


@pytest.mark.parametrize("error", [PermissionError, OSError], ids=["read-only", "full"])
def test_a_file_that_cannot_be_made(
    entry: Path, error: type[OSError], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*given: object) -> None:
        raise error

    monkeypatch.setattr(store.tempfile, "mkstemp", refuse)
    assert not loads_anew()
    assert results(compiler.load("two", module)) == EXPECTED


def test_a_disk_that_fills_up_leaves_nothing_behind(tmp_path: Path) -> None:
    pytest.importorskip("resource", reason="this system sets no limits to files")
    code = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
print(results(compiler.load("one", module)) == EXPECTED)
"""
    assert output(python(code, **{store.VARIABLE: str(tmp_path / "cache")})) == "True\n"
    assert files(tmp_path) == []


# -- several at once -------------------------------------------------------------------------------


def test_many_processes_write_at_once(tmp_path: Path) -> None:
    code = """
for count in range(12):
    assert results(compiler.load(f"shared {count % 3}", module)) == EXPECTED
    compiler._compiler()._addresses.clear()
    for path in compiler._compiler()._store._directory.iterdir():
        path.unlink(missing_ok=True)
print("well")
"""
    started = [python(code, **{store.VARIABLE: str(tmp_path / "cache")}) for _ in range(4)]
    assert [output(process) for process in started] == ["well\n"] * 4
    assert not [path for path in files(tmp_path) if path.name.startswith("unfinished-")]


def test_eight_threads_compile_one_kernel_once(fresh: Callable[[], None]) -> None:
    asked: list[int] = []
    found: list[int] = []
    together = threading.Barrier(8)

    def text() -> str:
        asked.append(1)
        return module()

    def ask() -> None:
        together.wait()
        found.append(compiler.load("one", text))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(asked) == 1
    assert len(set(found)) == 1
    assert len(found) == 8
    assert results(found[0]) == EXPECTED


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_child_forked_while_a_thread_compiles_can_compile(tmp_path: Path) -> None:
    code = """
import os, signal, threading, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads
compiling = threading.Event()
def text():
    compiling.set()
    return module()
def compile_all():
    for count in range(20):
        compiler.load(f"kernel {count}", text)
thread = threading.Thread(target=compile_all)
thread.start()
compiling.wait()
child = os.fork()
if child == 0:
    signal.alarm(20)
assert results(compiler.load("one", module)) == EXPECTED
if child == 0:
    os._exit(0)
thread.join()
print(os.waitpid(child, 0)[1])
"""
    assert output(python(code, **{store.VARIABLE: ""})) == "0\n"


# -- size ------------------------------------------------------------------------------------------


def test_the_oldest_files_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "LIMIT", 5 * (store.HEADER.size + 1000))
    kept = store.Store(tmp_path / "cache")
    foreign = tmp_path / "cache" / "foreign"
    foreign.write_bytes(bytes(10_000))
    abandoned = tmp_path / "cache" / f"unfinished-x{store.SUFFIX}"
    abandoned.write_bytes(bytes(500))
    os.utime(abandoned, (0, 0))
    keys = [bytes([k]) * 32 for k in range(8)]
    for age, key in enumerate(keys, 1):
        kept.write(key, bytes(1000))
        path = tmp_path / "cache" / (key.hex() + store.SUFFIX)
        os.utime(path, (age, age))
    assert [kept.read(key) is not None for key in keys] == [False] * 3 + [True] * 5
    assert foreign.exists()
    assert not abandoned.exists()

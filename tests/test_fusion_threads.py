"""Threads change how long a kernel takes, and nothing else: no result, no fork, no exit."""

import ctypes
import os
import platform
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

llvm = pytest.importorskip("llvmlite.binding", reason="kernels are compiled by llvmlite")

from opsgrad import ParameterError  # noqa: E402
from opsgrad.fusion import threads  # noqa: E402

native = pytest.mark.skipif(os.name != "posix", reason="threads are those of POSIX")
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads what Linux says of processes")

KERNEL = """
define void @kernel(i64 %begin, i64 %end, i64 %length, ptr %pointers, ptr %strides, ptr %scratch) {
entry:
  %out = load ptr, ptr %pointers
  %who_at = getelementptr ptr, ptr %pointers, i64 1
  %who = load ptr, ptr %who_at
  %empty = icmp sge i64 %begin, %end
  br i1 %empty, label %done, label %row
row:
  %r = phi i64 [ %begin, %entry ], [ %r_next, %add ]
  br label %put
put:
  %c = phi i64 [ 0, %row ], [ %c_next, %put ]
  %place = getelementptr i64, ptr %scratch, i64 %c
  %value = add i64 %r, %c
  store volatile i64 %value, ptr %place
  %c_next = add i64 %c, 1
  %more_put = icmp slt i64 %c_next, %length
  br i1 %more_put, label %put, label %get
get:
  %d = phi i64 [ 0, %put ], [ %d_next, %get ]
  %sum = phi i64 [ 0, %put ], [ %sum_next, %get ]
  %from = getelementptr i64, ptr %scratch, i64 %d
  %loaded = load volatile i64, ptr %from
  %sum_next = add i64 %sum, %loaded
  %d_next = add i64 %d, 1
  %more_get = icmp slt i64 %d_next, %length
  br i1 %more_get, label %get, label %add
add:
  %out_at = getelementptr i64, ptr %out, i64 %r
  %old = load i64, ptr %out_at
  %new = add i64 %old, %sum_next
  store i64 %new, ptr %out_at
  %mark_at = getelementptr i64, ptr %who, i64 %r
  %mark = ptrtoint ptr %scratch to i64
  store i64 %mark, ptr %mark_at
  %r_next = add i64 %r, 1
  %more = icmp slt i64 %r_next, %end
  br i1 %more, label %row, label %done
done:
  ret void
}
"""
"""Adds, to entry r of the first array, the sum of r + c over the row, through scratch memory, whose
address it writes to the second array."""

MODES = """
declare void @llvm.x86.sse.ldmxcsr(ptr)
define void @kernel(i64 %begin, i64 %end, i64 %length, ptr %pointers, ptr %strides, ptr %scratch) {
  call void @llvm.x86.sse.ldmxcsr(ptr %pointers)
  ret void
}
"""

HALVES = """
define void @kernel(i64 %begin, i64 %end, i64 %length, ptr %pointers, ptr %strides, ptr %scratch) {
entry:
  %out = load ptr, ptr %pointers
  br label %row
row:
  %r = phi i64 [ %begin, %entry ], [ %r_next, %next ]
  %place = getelementptr double, ptr %out, i64 %r
  br label %loop
loop:
  %c = phi i64 [ 0, %row ], [ %c_next, %loop ]
  %value = load volatile double, ptr %place
  %half = fmul double %value, 5.0e-1
  %c_next = add i64 %c, 1
  %more_loop = icmp slt i64 %c_next, %length
  br i1 %more_loop, label %loop, label %next
next:
  store double %half, ptr %place
  %r_next = add i64 %r, 1
  %more = icmp slt i64 %r_next, %end
  br i1 %more, label %row, label %done
done:
  ret void
}
"""


def compiled(text: str) -> int:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    module = llvm.parse_assembly(text)
    machine = llvm.Target.from_default_triple().create_target_machine(jit=True)
    engine = llvm.create_mcjit_compiler(module, machine)
    engine.finalize_object()
    address: int = engine.get_function_address("kernel")
    engine.detach()
    return address


@pytest.fixture(scope="module")
def kernel() -> int:
    return compiled(KERNEL)


@pytest.fixture(autouse=True)
def _number() -> Iterator[None]:
    before = threads.get_num_threads()
    yield
    threads.set_num_threads(before)


def addresses(*arrays: np.ndarray) -> ctypes.Array[ctypes.c_void_p]:
    return (ctypes.c_void_p * len(arrays))(*[array.ctypes.data for array in arrays])


def call(kernel: int, rows: int, length: int = 5, grain: int = 1) -> np.ndarray:
    """Run the kernel and return who computed each row, once the sums are found right."""
    out, who = np.zeros(rows, np.int64), np.zeros(rows, np.int64)
    threads.run(kernel, rows, length, addresses(out, who), None, 8 * length, grain)
    expected = np.arange(rows) * length + length * (length - 1) // 2
    np.testing.assert_array_equal(out, expected)
    return who


def until(condition: Callable[[], bool], seconds: float = 20.0) -> bool:
    """Return whether it comes true: other programs may have the CPUs for a while."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
    return False


# -- results ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [1, 2, 3, 8])
@pytest.mark.parametrize("rows", [0, 1, 2, 3, 7, 64, 1001])
@pytest.mark.parametrize("grain", [-1, 1, 4, 64, 5000])
def test_every_row_is_computed_once(kernel: int, number: int, rows: int, grain: int) -> None:
    threads.set_num_threads(number)
    for _ in range(20):
        call(kernel, rows, grain=grain)


@native
@pytest.mark.parametrize("number", [2, 4])
def test_helpers_take_part(kernel: int, number: int) -> None:
    threads.set_num_threads(number)
    assert until(lambda: len(set(call(kernel, 1000, length=5000 * number))) == number)


@native
def test_short_jobs_that_follow_each_other_get_helpers(kernel: int) -> None:
    threads.set_num_threads(2)
    assert until(lambda: len(set(call(kernel, 64, length=100))) == 2)


def test_one_thread_is_the_callers(kernel: int) -> None:
    threads.set_num_threads(1)
    assert len(set(call(kernel, 1000, length=1000))) == 1


@native
def test_pieces_are_multiples_of_the_grain(kernel: int) -> None:
    threads.set_num_threads(2)
    for _ in range(50):
        changes = np.flatnonzero(np.diff(call(kernel, 1000, length=300, grain=48))) + 1
        assert not np.any(changes % 48)


def test_scratch_memory_grows(kernel: int) -> None:
    threads.set_num_threads(3)
    for length in (10, 100_000, 3, 130_000):
        for _ in range(5):
            call(kernel, 20, length=length)


def test_callers_from_many_threads(kernel: int) -> None:
    threads.set_num_threads(2)
    errors: list[BaseException] = []

    def work() -> None:
        try:
            for turn in range(500):
                call(kernel, 40 + turn % 60, length=20)
        except BaseException as error:
            errors.append(error)

    callers = [threading.Thread(target=work) for _ in range(8)]
    for caller in callers:
        caller.start()
    for turn in range(40):
        threads.set_num_threads(1 + turn % 4)
        time.sleep(0.002)
    for caller in callers:
        caller.join(60)
    assert not any(caller.is_alive() for caller in callers)
    assert errors == []


@native
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="sets modes of x86")
def test_floating_point_modes_are_the_callers(kernel: int) -> None:
    modes, halves = compiled(MODES), compiled(HALVES)
    plain, flushing = np.array([0x1F80, 0x9FC0], np.uint32).reshape(2, 1)
    smallest = np.finfo(np.float64).smallest_normal
    threads.set_num_threads(2)
    call(kernel, 1000, length=1000)
    for setting, expected in ((flushing, 0.0), (plain, smallest / 2)):
        for _ in range(20):
            values = np.full(1000, smallest)
            pointers = addresses(values)
            try:
                threads._KERNEL(modes)(0, 0, 0, setting.ctypes.data, None, None)
                threads.run(halves, 1000, 300, pointers, None)
            finally:
                threads._KERNEL(modes)(0, 0, 0, plain.ctypes.data, None, None)
            assert set(values) == {expected}


# -- the number of threads -------------------------------------------------------------------------


def test_the_number_of_threads_changes(kernel: int) -> None:
    for number in (1, 4, 2, 8, 1, 3):
        threads.set_num_threads(number)
        assert threads.get_num_threads() == number
        assert len(set(call(kernel, 500, length=100))) <= number


def test_no_threads_are_too_few() -> None:
    with pytest.raises(ParameterError, match="number must be 1 or more, got 0"):
        threads.set_num_threads(0)


def test_absurdly_many_threads_are_not_started(
    kernel: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "LIMIT", 6)
    threads.set_num_threads(10**9)
    assert len(set(call(kernel, 500, length=100))) <= 6


def test_the_environment_says_how_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(threads.VARIABLE, "3")
    assert threads._default() == 3
    monkeypatch.delenv(threads.VARIABLE)
    assert 1 <= threads._default() <= (os.cpu_count() or 1)
    monkeypatch.setenv(threads.VARIABLE, "many")
    with pytest.warns(UserWarning, match="must be a positive integer, got 'many'"):
        assert threads._default() >= 1


# -- no team ---------------------------------------------------------------------------------------


def test_without_a_team_callers_compute_alone(kernel: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_code", lambda: None)
    threads.set_num_threads(4)
    assert len(set(call(kernel, 1000, length=1000))) == 1


def test_inside_the_start_of_the_team_callers_compute_alone(kernel: int) -> None:
    threads.set_num_threads(2)
    with threads._team.starting:
        assert len(set(call(kernel, 1000, length=1000))) == 1
    call(kernel, 1000)


@native
def test_a_team_can_be_had_here() -> None:
    """What `run` does without, a test must not."""
    threads._compile()


@pytest.mark.parametrize(
    "triple", ["x86_64-linux-gnu", "x86_64-apple-darwin", "aarch64-linux-gnu", "arm64-apple-darwin"]
)
def test_the_code_suits_machines_of_others(triple: str) -> None:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    module = llvm.parse_assembly(threads._text(triple.split("-")[0]))
    module.triple = triple
    module.verify()
    machine = llvm.Target.from_triple(triple).create_target_machine()
    undefined = {f.name for f in module.functions if f.is_declaration and "llvm." not in f.name}
    assert all(hasattr(ctypes.CDLL(None), name) for name in undefined)
    assert machine.emit_object(module)


def test_a_machine_that_is_not_known_has_no_team(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "abacus")
    assert threads._code.__wrapped__() is None


# -- processes -------------------------------------------------------------------------------------


def script(text: str, *options: str, **environment: str) -> str:
    """Run a program that may use the helpers of this file; return what it prints."""
    start = """
        import ctypes, os, signal, sys, threading as python_threads, time
        from test_fusion_threads import *
        kernel = compiled(KERNEL)
        threads.set_num_threads(2)
    """
    program = textwrap.dedent(start) + textwrap.dedent(text)
    paths = [os.path.dirname(__file__), *sys.path]  # noqa: PTH120
    result = subprocess.run(
        [sys.executable, *options, "-c", program],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)} | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout.strip()


CHILD = """
        def child(fork=os.fork):
            process = fork()
            if process == 0:
                try:
                    for _ in range(20):
                        call(kernel, 1000, length=100)
                    threads._team.at_exit()
                finally:
                    os._exit(0 if sys.exc_info()[0] is None else 1)
            end = time.monotonic() + 20
            while time.monotonic() < end:
                found, status = os.waitpid(process, os.WNOHANG)
                if found:
                    return status
                time.sleep(0.001)
            os.kill(process, signal.SIGKILL)
            return "hangs"
"""


@native
@forks
def test_a_forked_child_starts_its_own_team() -> None:
    text = """
        assert until(lambda: len(set(call(kernel, 1000, length=1000))) == 2)
        process = os.fork()
        if process == 0:
            os._exit(not until(lambda: len(set(call(kernel, 1000, length=1000))) == 2))
        assert os.waitpid(process, 0)[1] == 0
        assert until(lambda: len(set(call(kernel, 1000, length=1000))) == 2)
        print("good")
    """
    assert script(text, "-Werror") == "good"


@native
@forks
def test_a_child_forked_while_the_team_is_at_work() -> None:
    text = """
        go = True
        def work():
            while go:
                call(kernel, 1000, length=50)
        call(kernel, 1000, length=50)  # imports: a child forked inside one waits for it for ever
        workers = [python_threads.Thread(target=work) for _ in range(2)]
        for worker in workers: worker.start()
        states = {child() for _ in range(20)}
        go = False
        for worker in workers: worker.join()
        print(states)
    """
    assert script(CHILD + text, "-Wignore") == "{0}"


@native
@forks
def test_a_child_that_python_knows_nothing_of() -> None:
    text = """
        assert until(lambda: len(set(call(kernel, 1000, length=1000))) == 2)
        states = {child(ctypes.PyDLL(None).fork)}
        time.sleep(0.1)
        states |= {child(ctypes.PyDLL(None).fork)}
        print(states)
    """
    assert script(CHILD + text) == "{0}"


@native
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_processes_of_multiprocessing(method: str) -> None:
    text = f"""
        import multiprocessing
        call(kernel, 1000)
        with multiprocessing.get_context("{method}").Pool(1) as pool:
            print(pool.apply(threads.get_num_threads))
    """
    assert script(text, OPSGRAD_NUM_THREADS="3") == "3"


@pytest.mark.parametrize("end", ["pass", "atexit.unregister(threads._team.at_exit)", "os._exit(0)"])
@pytest.mark.parametrize("spin", [0, 10**15])
def test_exit_while_workers_spin_or_sleep(spin: int, end: str) -> None:
    text = f"""
        import atexit
        threads.SPIN = {spin}
        for _ in range(200):
            call(kernel, 1000, length=100)
        print("good", flush=True)
        time.sleep(0.01)
        {end}
    """
    assert script(text) == "good"


@pytest.mark.parametrize("number", [1, 2])
def test_exit_while_a_daemon_computes(number: int) -> None:
    text = f"""
        threads.set_num_threads({number})
        def work():
            while True:
                call(kernel, 100, length=50_000)
        python_threads.Thread(target=work, daemon=True).start()
        time.sleep(0.05)
        print("good", flush=True)
    """
    assert script(text) == "good"


@native
def test_workers_leave_signals_to_python() -> None:
    text = """
        call(kernel, 1000, length=1000)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        os.kill(os.getpid(), signal.SIGINT)
        print(signal.SIGINT in signal.sigpending(), flush=True)
        os._exit(0)
    """
    # The threads of NumPy's library for matrices do take signals.
    assert script(text, OPENBLAS_NUM_THREADS="1") == "True"


@native
def test_the_callers_signals_are_as_before(kernel: int) -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    threads.set_num_threads(4)
    call(kernel, 1000)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before


@native
def test_idle_workers_sleep() -> None:
    text = """
        import resource
        def used():
            usage = resource.getrusage(resource.RUSAGE_SELF)
            return usage.ru_utime + usage.ru_stime
        threads.set_num_threads(4)
        for _ in range(100):
            call(kernel, 1000, length=100)
        time.sleep(0.05)
        before = used()
        time.sleep(1)
        print(used() - before)
    """
    assert float(script(text)) < 0.005


@linux
def test_threads_that_cannot_be_started_are_done_without() -> None:
    text = """
        import resource
        threads._code()
        pages = int(open("/proc/self/statm").read().split()[0])
        size = pages * resource.getpagesize() + 4 * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (size, size))
        call(kernel, 1000)
        print(threads._team.crew[0])
    """
    assert script(text) == "0"

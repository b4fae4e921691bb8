"""Memory of large results: kept for later ones, bounded, and the system may have it back."""

import contextlib
import copy
import ctypes
import functools
import gc
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine import fresh_engine
from numpy._core.multiarray import get_handler_name

import opsgrad as og
from opsgrad.backends import _engine
from opsgrad.fusion import memory

pytestmark = [
    pytest.mark.skipif(
        not sys.platform.startswith("linux") or memory.VARIABLE in os.environ,
        reason="there is no pool here",
    ),
    pytest.mark.skipif(_engine.why_unavailable() is not None, reason="llvmlite is not installed"),
]
COUNT = memory.LARGE // 4
"""float32 numbers of the smallest array that comes from the pool."""
MIB = 2**18
"""float32 numbers of a MiB."""
OURS, USUAL = "opsgrad", "default_allocator"


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    fresh_engine(monkeypatch)
    gc.collect()
    fill()


def apart(test: Callable[[], None]) -> Callable[[], None]:
    """Have a test run in a process without the threads and the memory of other libraries."""
    name, here = test.__name__, str(Path(__file__).parent)
    code = f"import {__name__} as tests; tests.fill(); tests.{name}.__wrapped__()"

    @functools.wraps(test)
    def passes() -> None:
        path = os.pathsep.join([here, *filter(None, sys.path)])
        run(code, PYTHONPATH=path, PYTHONWARNINGS="ignore:.*multi-threaded:DeprecationWarning")

    return passes


def fill() -> None:
    """Have the pool full: nothing fits beside this block, and no test asks for as much."""
    large(memory.MOST // 4 - 2048)


@pytest.fixture(scope="module")
def x() -> Any:
    return np.linspace(-1.0, 1.0, COUNT, dtype=np.float32)


def large(count: int = COUNT) -> Any:
    """Return an array from the pool, which takes no time: no page of it is there yet."""
    return memory.empty((count,), np.dtype("float32"))


def address(array: Any) -> int:
    return int(array.ctypes.data)


def mapped(*addresses: int) -> list[bool]:
    """Return whether memory is there, which the C library has given back once it is freed."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    ranges = [[int(one, 16) for one in line.split()[0].split("-")] for line in lines]
    return [any(begin <= one < end for begin, end in ranges) for one in addresses]


def run(code: str, **environment: str) -> None:
    """Run a program that must end well and have nothing to say."""
    result = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")


# -- what is kept ----------------------------------------------------------------------------------


@pytest.mark.parametrize("contiguous", [True, False], ids=["direct", "the long way"])
def test_a_result_takes_the_memory_of_an_earlier_one(x: Any, contiguous: bool) -> None:
    given = x if contiguous else x[::-1]
    for _ in range(2):
        y = og.relu(given)
        place = address(y)
        del y
        assert mapped(place) == [True]
        y = og.relu(given)
        assert address(y) == place
        np.testing.assert_array_equal(y, np.maximum(given, 0.0))
        other = og.relu(given)  # not what is in use
        assert address(other) != place
        assert get_handler_name(y) == get_handler_name(other) == OURS
        del y, other


def test_results_for_pytorch_too(x: Any) -> None:
    torch = pytest.importorskip("torch")
    y = og.relu(torch.from_numpy(x))
    place = y.data_ptr()
    del y
    assert mapped(place) == [True]
    assert og.relu(torch.from_numpy(x)).data_ptr() == place


def test_small_results_are_numpys_own(x: Any) -> None:
    logits, labels = x.reshape(-1, 64), np.zeros(COUNT // 64, int)
    loss_and_gradient = og.value_and_grad(og.softmax_cross_entropy_with_integer_labels)
    for _ in range(2):
        for given in (logits, logits[::-1]):
            handlers = [get_handler_name(one) for one in loss_and_gradient(given, labels)]
            assert handlers == [USUAL, OURS]
        for small in (x[:-1], x[-2::-1]):
            assert get_handler_name(og.relu(small)) == USUAL
    assert get_handler_name() == USUAL
    assert get_handler_name(np.empty_like(x)) == USUAL


@pytest.mark.parametrize(
    ("kept", "wanted", "taken"),
    [
        (64, 64, True),
        (64, 57, True),
        (64, 56, False),
        (64, 65, False),
    ],
)
def test_a_block_is_taken_if_it_is_not_much_too_large(kept: int, wanted: int, taken: bool) -> None:
    place = address(large(kept * MIB))
    array = large(wanted * MIB)
    assert (address(array) == place) is taken
    assert mapped(place) == [True]


@apart
def test_there_is_a_limit_and_the_oldest_goes_first() -> None:
    arrays = [large(33 * MIB) for _ in range(20)]
    places = [address(array) for array in arrays]
    for number in range(20):
        arrays[number] = None
    assert mapped(*places) == [False] * 5 + [True] * 15
    place = address(large(200 * MIB))
    assert mapped(*places, place) == [False] * 11 + [True] * 10
    again = [large(33 * MIB) for _ in range(9)]
    assert [address(array) for array in again] == places[:10:-1]


def test_what_exceeds_the_limit_is_not_kept() -> None:
    place = address(large())
    excess = address(large(memory.MOST // 4))
    assert mapped(place, excess) == [True, False]


def lazily_freed() -> int:
    """Return how many bytes of this process the system may take."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("LazyFree:"))
    return int(line.split()[1]) * 1024


def test_the_system_may_have_what_is_kept(x: Any) -> None:
    before = lazily_freed()
    y = og.relu(x)
    assert lazily_freed() <= before
    place = address(y)
    del y
    assert lazily_freed() >= before + 0.9 * memory.LARGE
    y = og.relu(x)
    assert address(y) == place
    assert lazily_freed() <= before


def test_it_may_take_it_at_any_time(x: Any) -> None:
    y = og.relu(x)
    place = address(y)
    del y
    dont_need, page = 4, 4096  # which takes it now
    library = ctypes.CDLL(None)
    from_page = ctypes.c_void_p(-(-place // page) * page)
    assert library.madvise(from_page, ctypes.c_size_t(memory.LARGE - page), dont_need) == 0
    y = og.relu(x)
    assert address(y) == place
    np.testing.assert_array_equal(y, np.maximum(x, 0.0))


# -- arrays like others ----------------------------------------------------------------------------


def test_arrays_are_like_others(x: Any) -> None:
    y = og.relu(x)
    assert y.flags.owndata
    assert y.base is None
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(y, 5)), y)
    np.testing.assert_array_equal(copy.deepcopy(y), y)


@pytest.mark.parametrize("count", [10, COUNT - 1, COUNT + 1, 3 * COUNT])
def test_arrays_can_be_resized(x: Any, count: int) -> None:
    y = og.relu(x)
    y.resize(count, refcheck=False)
    expected = np.maximum(x, 0.0)
    expected.resize(count, refcheck=False)
    np.testing.assert_array_equal(y, expected)
    place = address(y)
    del y
    if count >= COUNT:
        assert address(large(count)) == place


def test_no_reference_is_lost(x: Any) -> None:
    usual = ctypes.py_object.from_address(memory.numpy_table()[memory.DEFAULT]).value
    ours = capsule_of(large())
    for given in (x, x[::-1]):
        og.relu(given)
        before = [sys.getrefcount(one) for one in (x.dtype, usual, ours)]
        for _ in range(10):
            og.relu(given)
        assert [sys.getrefcount(one) for one in (x.dtype, usual, ours)] == before


def test_memory_is_traced(x: Any) -> None:
    og.relu(x)
    tracemalloc.start()
    try:
        for _ in range(3):
            y = og.relu(x)
            assert memory.LARGE <= tracemalloc.get_traced_memory()[0] < memory.LARGE + 50_000
            del y
            assert tracemalloc.get_traced_memory()[0] < 50_000
    finally:
        tracemalloc.stop()


# -- whose memory it is ----------------------------------------------------------------------------


HANDLER_OF_THE_USER = """
import ctypes, os
import numpy as np
import opsgrad as og
from numpy._core.multiarray import get_handler_name
from opsgrad.fusion import memory

class Handler(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char * 127), ("version", ctypes.c_uint8)]
    _fields_ += [(name, ctypes.c_void_p) for name in "context malloc calloc realloc free".split()]

def copied():
    usual = ctypes.c_void_p.from_address(memory.numpy_table()[memory.DEFAULT]).value
    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.restype, get.argtypes = ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_char_p]
    return Handler.from_buffer_copy(Handler.from_address(get(usual, b"mem_handler")))

handler, kind = copied(), ctypes.create_string_buffer(b"mem_handler")
handler.name = b"of the user"
new = ctypes.pythonapi.PyCapsule_New
new.restype, new.argtypes = ctypes.py_object, [ctypes.c_void_p] * 3
capsule = new(ctypes.addressof(handler), ctypes.addressof(kind), None)
function = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.py_object)
set_handler = function(memory.numpy_table()[memory.SET])

x = np.ones(memory.LARGE // 4, np.float32)
assert get_handler_name(og.relu(x)) == "opsgrad"  # which is learnt
before = set_handler(capsule)
for given in (x, x[::-1]):
    assert get_handler_name(og.relu(given)) == "of the user"
assert get_handler_name() == "of the user"
set_handler(before)
assert get_handler_name(og.relu(x)) == "opsgrad"
os._exit(0)  # before the handler, which arrays may still need, is gone
"""


def test_a_handler_of_the_user_stays_in_force() -> None:
    run(HANDLER_OF_THE_USER)


def test_a_process_that_is_to_give_memory_back_keeps_none() -> None:
    code = """
import numpy as np, opsgrad as og
from numpy._core.multiarray import get_handler_name
from opsgrad.fusion import memory
for x in (np.ones(memory.LARGE // 8), np.ones(memory.LARGE // 8)[::-1]):
    for _ in range(2):
        y = og.relu(x)
        assert get_handler_name(y) == "default_allocator"
        assert (y == 1).all()
"""
    run(code, **{memory.VARIABLE: "65536"})


def test_workers_of_dask_are_such_processes() -> None:
    pytest.importorskip("distributed")
    import dask

    assert memory.VARIABLE in dask.config.get("distributed.nanny.pre-spawn-environ")


LITTLE_MEMORY = """
import resource
import numpy as np
from numpy._core.multiarray import get_handler_name
from opsgrad.fusion import memory

def room(size):
    with open("/proc/self/statm") as file:
        held = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + size, -1))

def make(size):
    return memory.empty((size // 4,), np.dtype("float32"))

mib = 2**20
make(100 * mib), make(300 * mib)
room(300 * mib)  # some of which the C library may take for itself when it finds too little
y = make(450 * mib)
try:
    make(450 * mib)
except MemoryError:
    pass
else:
    raise AssertionError("there cannot be so much memory")
assert get_handler_name() == "default_allocator"
"""


def test_what_is_kept_is_in_no_results_way() -> None:
    run(LITTLE_MEMORY)


# -- threads, forks and the end --------------------------------------------------------------------


class Handler(ctypes.Structure):
    """PyDataMem_Handler, without calloc and realloc."""

    _fields_ = (
        ("name", ctypes.c_char * 127),
        ("version", ctypes.c_uint8),
        ("context", ctypes.c_void_p),
        ("malloc", ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)),
        ("others", ctypes.c_void_p * 2),
        ("free", ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 3)),
    )


def capsule_of(array: Any) -> Any:
    """Return the object that holds the handler of an array."""
    return ctypes.py_object.from_address(id(array) + object.__basicsize__ + 72).value


def handler_of(array: Any) -> Handler:
    """Return the handler that an array belongs to."""
    pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)
    get = pointer(ctypes.cast(ctypes.pythonapi.PyCapsule_GetPointer, ctypes.c_void_p).value or 0)
    return Handler.from_address(get(capsule_of(array), b"mem_handler"))


def hammer(number: int, handler: Handler, until: Callable[[], bool], wrong: list[int]) -> None:
    """Take memory and give it back without the interpreter's lock; nobody else may write to it."""
    rounds = 0
    while not until():
        rounds += 1
        mine = number * 1_000_000 + rounds
        blocks = [handler.malloc(handler.context, size * 4 * MIB) for size in (32, 33, 34)]
        words = [ctypes.c_int64.from_address(block + 32) for block in blocks]
        for word in words:
            word.value = mine
        for block, word in zip(blocks, words, strict=True):
            if word.value != mine:
                wrong.append(number)
            word.value = 0
            handler.free(handler.context, block, 1)  # who frees may have another size in mind


@contextlib.contextmanager
def hammering() -> Iterator[list[int]]:
    """Yield what goes wrong while four threads take memory and give it back."""
    wrong: list[int] = []
    handler = handler_of(large())
    stop = threading.Event()
    arguments = [(number, handler, stop.is_set, wrong) for number in range(4)]
    workers = [threading.Thread(target=hammer, args=each) for each in arguments]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    for worker in workers:
        worker.start()
    yield wrong
    stop.set()
    for worker in workers:
        worker.join()
    sys.setswitchinterval(before)


def test_no_block_has_two_owners() -> None:
    with hammering() as wrong:
        time.sleep(2)
    assert wrong == []


def test_results_of_threads_are_their_own() -> None:
    wrong = []

    def work(number: int) -> None:
        x = np.full(COUNT + 64 * number, number + 1.0, np.float32)
        for _ in range(8):
            y = og.relu(x)
            if not (y[:: 1 << 10] == number + 1.0).all():
                wrong.append(number)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert wrong == []


def child(work: Callable[[], bool]) -> int:
    """Return how a forked child ends, which has a few seconds for what must come out true."""
    process = os.fork()
    if process == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(20)
        os._exit(0 if work() else 1)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


@apart
def test_a_child_does_not_wait_for_a_thread_that_it_lacks() -> None:
    array = large()
    in_use = ctypes.c_int64.from_address(handler_of(array).context)

    def work() -> bool:
        nonlocal array
        place = address(array)
        array = None
        return mapped(place) == [False] and get_handler_name(large()) == OURS

    in_use.value = 1
    try:
        assert child(work) == 0
    finally:
        in_use.value = 0


@apart
def test_forked_children_have_memory_too() -> None:
    def work() -> bool:
        arrays = [large() for _ in range(3)]
        for number, array in enumerate(arrays):
            array[::4096] = number
        return all((array[::4096] == number).all() for number, array in enumerate(arrays))

    with hammering() as wrong:
        for _ in range(20):
            assert child(work) == 0
    assert wrong == []


EXIT = """
import atexit, sys, threading
import numpy as np
import opsgrad as og
from opsgrad.fusion import memory

x = np.ones(memory.LARGE // 8)
made = threading.Event()

class Late:
    def __init__(self):
        self.array, self.itself = og.relu(x), self
        self.relu = og.relu
    def __del__(self):
        if self.relu(x) is None:
            raise AssertionError

def work():
    kept = []
    while True:
        kept = [og.relu(x), *kept][:2]
        made.set()

here = og.relu(x)
np.kept_here = og.relu(x)
sys.kept_here = Late()
late = Late()
atexit.register(og.relu, x)
{daemon}
"""
DAEMON = "threading.Thread(target=work, daemon=True).start(); made.wait()"


@pytest.mark.parametrize("daemon", ["", DAEMON], ids=["alone", "beside a daemon"])
def test_exit_with_large_arrays(daemon: str) -> None:
    for _ in range(2):
        run(EXIT.format(daemon=daemon))

"""Who takes part in a goal on a GPU: ours and its peers, each on several sets of arrays."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import opsgrad as og
from benchmarks import peers
from benchmarks.cases import LOSS, VALUE, VJP, Case
from benchmarks.contestants import plain, torch_call, torch_function
from benchmarks.gpu.goals import array_form, least_bytes
from benchmarks.gpu.kernels import ROLES
from benchmarks.gpu.timing import Calls, sets_needed

OURS, EAGER, COMPILED = "opsgrad", "PyTorch", "torch.compile"
NAIVE, COPY = "naive CuPy", "copy"
MODE = "max-autotune-no-cudagraphs"
"""As max-autotune, without its graphs: these would copy arrays that change from call to call."""
CLOSE = {"float32": 1e-5, "bfloat16": 0.02}
"""How far results may lie from a peer's, of the largest; the conformance suite is stricter."""
ODD = 1e-6
"""The share of entries that may lie farther: at a kink the last bit decides on which side."""


class UnableError(Exception):
    """A case cannot be measured with what is installed."""


class Arrays(NamedTuple):
    """One set of a case's arrays, in the library whose arrays ours is given."""

    given: tuple[Any, ...]
    cotangent: Any


class Library(NamedTuple):
    """How random arrays are made on the GPU."""

    normal: Callable[[tuple[int, ...], str], Any]
    labels: Callable[[tuple[int, ...], int], Any]


def library_of(case: Case) -> str:
    """Return whose arrays ours is given: CuPy's, or PyTorch's where CuPy's have no such type."""
    return "torch" if case.dtype == "bfloat16" else "cupy"


def sets(case: Case) -> list[Arrays]:
    """Return as many sets of arrays as calls have to take turns on."""
    make = _torch_library() if library_of(case) == "torch" else _cupy_library()

    def one(name: str) -> Any:
        shape, dtype = array_form(case, name)
        if dtype == "int64":
            return make.labels(shape, case.shape[case.axis])
        return make.normal(shape, dtype)

    names = case.row.op.array_names
    return [
        Arrays(tuple(map(one, names)), one("cotangent"))
        for _ in range(sets_needed(least_bytes(case)))
    ]


def _cupy_library() -> Library:
    import cupy

    random = cupy.random.RandomState(0)
    return Library(
        lambda shape, dtype: random.standard_normal(shape, dtype=dtype),
        lambda shape, classes: random.randint(0, classes, shape, dtype="int64"),
    )


def _torch_library() -> Library:
    torch = _gpu_torch()
    if torch is None:
        raise UnableError(f"its arrays are PyTorch's: {why_no_torch()}")
    return Library(
        lambda shape, dtype: torch.randn(shape, dtype=getattr(torch, dtype), device="cuda"),
        lambda shape, classes: torch.randint(0, classes, shape, device="cuda"),
    )


def why_no_torch() -> str | None:
    """Say why PyTorch takes no part, None if it does."""
    if not peers.installed("PyTorch"):
        return "PyTorch is not installed"
    return None if peers.torch().cuda.is_available() else "PyTorch does not see the GPU"


def _gpu_torch() -> Any:
    return peers.torch() if why_no_torch() is None else None


# -- the calls -------------------------------------------------------------------------------------


def ours(case: Case, arrays: Sequence[Arrays]) -> Calls:
    """Return the calls of ours, on each set."""
    op, keywords = case.row.op, case.keywords
    if case.role == VALUE:
        return [functools.partial(op, *one.given, **keywords) for one in arrays]
    if case.role == VJP:
        pulls = [og.vjp(op, *one.given, **keywords)[1] for one in arrays]
        return [functools.partial(p, o.cotangent) for p, o in zip(pulls, arrays, strict=True)]
    loss = functools.partial(og.value_and_grad(op), reduction="mean", **keywords)
    return [functools.partial(loss, *one.given) for one in arrays]


def engine(case: Case, arrays: Arrays) -> str:
    """Say what runs ours; after a call, whether the compiler took its kernel too."""
    reduction = {"reduction": "mean"} if case.role == LOSS else {}
    choice = og.which_backend(case.row.op, *arrays.given, **case.keywords, **reduction)
    return choice.engines[ROLES[case.role]]


def others(case: Case, arrays: Sequence[Arrays]) -> dict[str, Callable[[], Calls]]:
    """Return what makes the calls of the others: naive CuPy, and PyTorch, compiled or not."""
    makers: dict[str, Callable[[], Calls]] = {}
    if library_of(case) == "cupy":
        backend = og.backends()["cupy"]
        makers[NAIVE] = lambda: [plain(case, backend, *one) for one in arrays]
    if _gpu_torch() is not None and torch_function(case) is not None:
        makers[EAGER] = lambda: _torch_calls(case, torch_function(case), arrays)
        makers[COMPILED] = lambda: compiled(case, arrays)
    return makers


def compiled(case: Case, arrays: Sequence[Arrays]) -> Calls:
    """Return PyTorch's calls after its compiler."""
    import torch._functorch.config

    torch._functorch.config.donated_buffer = False  # pullbacks are called again and again
    torch._dynamo.reset()
    made = torch.compile(torch_function(case), mode=MODE, dynamic=False)
    return _torch_calls(case, made, arrays)


def _torch_calls(case: Case, function: Any, arrays: Sequence[Arrays]) -> Calls:
    return [
        torch_call(case, function, [tensor(a) for a in one.given], tensor(one.cotangent))
        for one in arrays
    ]


def tensor(array: Any) -> Any:
    """Return an array of either library as a tensor that nothing watches, without copying it."""
    torch = peers.torch()
    return array.detach() if isinstance(array, torch.Tensor) else torch.from_dlpack(array)


def copies(moved: int) -> Calls:
    """Return copies that read and write as many bytes as are `moved` in all."""
    import cupy

    count = max(1, moved // 2)

    def one() -> Callable[[], Any]:
        source, target = cupy.ones(count, dtype="uint8"), cupy.empty(count, dtype="uint8")
        return functools.partial(cupy.copyto, target, source)

    return [one() for _ in range(sets_needed(moved))]


# -- agreement -------------------------------------------------------------------------------------


def reference(case: Case, arrays: Arrays) -> Any:
    """Return what a peer gives in float32: PyTorch, naive CuPy where that is missing."""
    function = torch_function(case) if _gpu_torch() is not None else None
    if function is None:
        return plain(case, og.backends()["cupy"], *arrays)()
    wide = [_float32(tensor(one)) for one in (*arrays.given, arrays.cotangent)]
    return torch_call(case, function, wide[:-1], wide[-1])()


def _float32(tensor: Any) -> Any:
    return tensor.float() if tensor.is_floating_point() else tensor


def why_wrong(result: Any, expected: Any, dtype: str) -> str | None:
    """Say how a result differs from what is expected, None if it does not."""
    pairs = list(zip(_flat(result), _flat(expected), strict=True))
    return next((words for one, other in pairs if (words := _why_wrong(one, other, dtype))), None)


def _flat(result: Any) -> list[Any]:
    if isinstance(result, tuple | list):
        return [array for one in result for array in _flat(one)]
    return [] if result is None else [result]


def _why_wrong(one: Any, other: Any, dtype: str) -> str | None:
    if hasattr(other, "detach"):
        one, other = tensor(one).float(), other.detach()
    if tuple(one.shape) != tuple(other.shape):
        return f"its shape is {tuple(one.shape)}, not {tuple(other.shape)}"
    close = abs(one - other) <= CLOSE[dtype] * abs(other).max()  # not of NaN
    apart = math.prod(one.shape) - int(close.sum())
    if apart <= ODD * math.prod(one.shape):
        return None
    return f"{apart} of {math.prod(one.shape)} entries are wrong"

"""PyTorch tensors on any device."""

import functools
import inspect
import sys
from collections.abc import Callable
from typing import Any, cast

import numpy as np

from opsgrad._typing import Array, DType, Namespace
from opsgrad.backends import _engine, _gpu
from opsgrad.backends.protocol import (
    JOINT,
    Autodiff,
    Backend,
    Capabilities,
    Kernel,
    Work,
    not_installed,
    nothing,
)


class TorchBackend(Backend):
    """PyTorch tensors."""

    name = "torch"

    def why_unavailable(self) -> str | None:
        return not_installed("torch", "PyTorch is not installed: pip install torch")

    @property
    def namespace(self) -> Namespace:
        import array_api_compat.torch as compat

        return cast("Namespace", compat)

    def owns(self, array: object) -> bool:
        torch = sys.modules.get("torch")  # who has a tensor has imported it
        return torch is not None and isinstance(array, torch.Tensor)

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(half=("float16", "bfloat16"))

    def default_dtype(self, kind: str) -> DType:
        import torch

        return torch.get_default_dtype() if kind == "real floating" else torch.int64

    def asarray(self, value: Any, *, dtype: DType | None = None, device: Any = None) -> Array:
        import torch

        # PyTorch takes neither negative strides nor foreign byte order, and warns of read-only
        # memory: a native, contiguous copy has none of these.
        host = np.array(value, order="C")
        if not host.dtype.isnative:
            host = host.astype(host.dtype.newbyteorder("="))
        return torch.asarray(host, dtype=dtype, device=device)

    def number(self, value: float, *, dtype: DType, device: Any) -> Any:
        if device.type == "cuda":  # where kernels, if there are any, are CuPy's
            return value
        return super().number(value, dtype=dtype, device=device)

    def to_numpy(self, array: Array) -> Array:
        import torch

        host = array.detach().cpu().resolve_conj().resolve_neg()
        if host.dtype == torch.bfloat16:  # NumPy has none; float32 holds every bfloat16
            host = host.to(torch.float32)
        return host.numpy()

    def shares_memory(self, one: Array, other: Array) -> bool:
        import torch

        if torch.compiler.is_compiling():  # which cannot tell, and removes a needless copy
            return True
        try:
            storage, another = one.untyped_storage(), other.untyped_storage()
            if type(one) is not torch.Tensor:  # a fake tensor has a storage without memory
                return bool(storage._cdata == another._cdata)
            return bool(storage.data_ptr() == another.data_ptr())
        except RuntimeError:  # inside torch.func transforms tensors have no storage of their own
            return one is other

    def device(self, array: Array) -> Any:
        return array.device

    def values_now(self, array: Array) -> Array | None:
        import torch

        if array.device.type != "cpu" or torch.compiler.is_compiling():
            return None
        try:
            return _memory(array) if type(array) is torch.Tensor else array.detach().numpy()
        except RuntimeError:  # inside torch.func transforms, and for fake tensors
            return None

    def kernel(self, work: Work) -> Kernel | str:
        import torch

        if torch.compiler.is_compiling():  # which can keep no kernel; other calls ask again
            return ""
        shared = _Shared(self, work)
        return Kernel(shared, shared.words, shared.narrow)

    def records(self, arrays: tuple[Array | None, ...]) -> bool:
        import torch

        if torch.compiler.is_compiling():
            return False
        # Forward mode is rare: where it is on, all calls count as watched.
        if torch.autograd.forward_ad._current_level < 0:
            return torch.is_grad_enabled() and any(map(_watched, arrays))
        return _forward_levels() == 1

    def recorded(self, call: Autodiff, arrays: tuple[Array | None, ...]) -> Array:
        import torch

        backward = torch.autograd.forward_ad._current_level < 0
        if call.pull is None or not (backward or call.push):
            return call.value(*arrays)
        return cast("Array", _function().apply(_Opaque(call), *arrays))

    def synchronize(self) -> None:
        import torch

        if torch.cuda.is_available():
            torch.cuda.synchronize()


# -- in the engines --------------------------------------------------------------------------------


class _Shared:
    """A body or rule that runs in one of the engines, on the memory of the tensors themselves.

    It runs in PyTorch as it is written where no engine takes it, and where PyTorch must
    see each of its steps: to trace, transform or record them.
    """

    def __init__(self, backend: TorchBackend, work: Work) -> None:
        self.backend = backend
        self.work = work
        self.first = int(work.role == JOINT)  # before it comes the seed
        self.plain = work._replace(dtype=np.dtype(str(work.dtype).removeprefix("torch.")))
        self.offered = _engine.offer(self.plain)
        self.compiled = nothing if isinstance(self.offered, str) else self.offered

    def __call__(self, *tensors: Array | None) -> Any:
        import torch

        if not torch.compiler.is_compiling():
            out = self._on_cpu(tensors)
            if out is None and getattr(tensors[self.first], "is_cuda", False):
                out = self._on_gpu(tensors, tensors[self.first], self.plain.dtype.name)
            if out is not None:
                return out
        if self.work.role == JOINT:
            return None
        return self.backend.run(self.work.function, tensors, self.work.parameters)

    def narrow(self, tensors: tuple[Any, ...], dtype: DType) -> Any:
        """Run it on tensors in half precision too: on a GPU as they are, else widened before."""
        import torch

        if not torch.compiler.is_compiling() and getattr(tensors[self.first], "is_cuda", False):
            out = self._on_gpu(tensors, tensors[self.first], str(dtype).removeprefix("torch."))
            if out is not None:
                return out
        return self(*map(self._widened, tensors))

    def _widened(self, tensor: Any) -> Any:
        import torch

        half = getattr(tensor, "dtype", None) in (torch.float16, torch.bfloat16)
        return self.backend.cast(tensor, self.work.dtype) if half else tensor

    def _on_cpu(self, tensors: tuple[Array | None, ...]) -> Any:
        arrays = _arrays(tensors, "is_cpu", _memory)
        out = None if arrays is None else self.compiled(*arrays)
        return None if out is None else _tensors(out, _from_numpy)

    def _on_gpu(self, tensors: tuple[Array | None, ...], first: Any, dtype: str) -> Any:
        """Run CuPy's kernel on PyTorch's current stream; None where that cannot be.

        Its results are stored as `dtype`.
        """
        import torch

        # PyTorch says "cuda" of AMD's devices too. What a graph captures must be in memory that it
        # keeps, which CuPy knows nothing of.
        if (
            torch.version.hip is not None
            or self.narrow_of_cupy is None
            or torch.cuda.is_current_stream_capturing()
        ):
            return None
        import cupy

        device = first.device
        stream = torch.cuda.current_stream(device).cuda_stream
        # The stream is the device's: the device must be current first.
        with cupy.cuda.Device(device.index), cupy.cuda.ExternalStream(stream, device.index):
            arrays = _arrays(tensors[self.first :], "is_cuda", _of_cupy)
            if arrays is None:
                return None
            out = self.narrow_of_cupy((*tensors[: self.first], *arrays), dtype)
            return _tensors(out, _from_cupy)

    @functools.cached_property
    def of_cupy(self) -> Kernel | str:
        """CuPy's kernel for it, or why there is none; no words where CuPy cannot run."""
        from opsgrad.backends import backends

        return _gpu.offer(self.plain, nothing) if backends()["cupy"].available else ""

    @functools.cached_property
    def narrow_of_cupy(self) -> Callable[..., Any] | None:
        """CuPy's kernel as a function of arrays, and of the data type of its results."""
        return self.of_cupy.narrow if isinstance(self.of_cupy, Kernel) else None

    def words(self) -> str:
        """Say what runs."""
        there = ""
        if isinstance(self.of_cupy, Kernel):
            there = "; on a CUDA device CuPy's kernel"
        elif self.of_cupy and not isinstance(self.offered, str):
            there = f"; on a CUDA device as it is written, because {self.of_cupy}"
        if isinstance(self.offered, str):
            return f"as it is written, because {self.offered}{there}"
        otherwise = "below, off the CPU, and where PyTorch traces or records each step"
        return f"{self.offered.words(otherwise)}{there}"


def _arrays(
    tensors: tuple[Array | None, ...], on: str, take: Callable[[Array], Array]
) -> list[Array | None] | None:
    """Return tensors as another library's arrays of the same memory, as it takes them.

    None unless all are plain tensors of the device that `on` asks for, and PyTorch need not see
    what is done with them.
    """
    import torch

    c = torch._C
    if (
        c._len_torch_dispatch_stack()  # make_fx, fake tensors, counters of operations
        or c._functorch.peek_interpreter_stack() is not None  # the transforms of torch.func
        or c._is_tracing()  # torch.jit.trace
        or torch.autograd.forward_ad._current_level >= 0
    ):
        return None
    recording = torch.is_grad_enabled()
    arrays = []
    for tensor in tensors:
        if tensor is not None and (
            type(tensor) not in (torch.Tensor, torch.nn.Parameter)
            or not getattr(tensor, on)
            or tensor.is_neg()
            or (recording and tensor.requires_grad)
        ):
            return None
        try:
            arrays.append(None if tensor is None else take(tensor))
        # Sparse ones have no memory, nor those of `is_grads_batched=True`.
        except (RuntimeError, BufferError):
            return None
    return arrays


class _Exported:
    """The memory of a tensor, for `numpy.from_dlpack`.

    Not ``tensor.numpy()``: after that the tensor can never be resized again.
    """

    def __init__(self, capsule: Any) -> None:
        self.capsule = capsule

    def __dlpack__(self, **_: Any) -> Any:
        return self.capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0  # the CPU


def _memory(tensor: Array) -> Array:
    """Return a plain tensor of the CPU as a read-only NumPy array of the same memory."""
    import torch

    # Three times as fast as `from_dlpack` of the tensor itself.
    return np.from_dlpack(_Exported(torch.to_dlpack(tensor)))


def _tensors(out: Any, take: Callable[[Array], Array]) -> Any:
    """Return results of an engine as tensors of the same memory, as PyTorch takes them."""
    if isinstance(out, tuple):
        return tuple([_tensors(one, take) for one in out])
    return None if out is None else take(out)


def _from_numpy(array: Any) -> Array:
    import torch

    return torch.from_numpy(np.asarray(array))


def _of_cupy(tensor: Array) -> Array:
    """Return a plain tensor of a CUDA device as a CuPy array of the same memory."""
    import cupy
    import torch

    plain = tensor.detach()  # PyTorch exports none that asks for a gradient
    if plain.dtype == torch.bfloat16:
        return _gpu.Bits(cupy.from_dlpack(plain.view(torch.int16)))
    return cupy.from_dlpack(plain)


def _from_cupy(array: Any) -> Array:
    import torch

    if isinstance(array, _gpu.Bits):
        return torch.from_dlpack(array.bits).view(torch.bfloat16)
    return torch.from_dlpack(array)


# -- in PyTorch's autograd -------------------------------------------------------------------------


class _Opaque:
    """A call of an op, which PyTorch must not take for a tuple of tensors."""

    def __init__(self, call: Autodiff) -> None:
        self.call = call


def _watched(array: Array | None) -> bool:
    """Whether reverse mode follows a tensor, inside the transforms of torch.func too."""
    import torch

    unwrap = getattr(torch.func, "debug_unwrap", None)  # since PyTorch 2.7
    while array is not None and not array.requires_grad:
        inner = array if unwrap is None else unwrap(array, recurse=False)
        if inner is array:
            return False
        array = inner
    return array is not None


def _forward_levels() -> int:
    """Return how many forward modes are nested here, where there is one at least.

    Of several, PyTorch follows a rule in the innermost alone, and gives 0 for the others:
    https://github.com/pytorch/pytorch/issues/197867
    """
    import torch._functorch.eager_transforms as transforms

    return max(1, getattr(transforms, "JVP_NESTING", 2))


@functools.cache
def _function() -> Any:
    """Return the one function that takes ops into autograd; made late, for it needs PyTorch."""
    import torch

    class OpsgradFunction(torch.autograd.Function):  # type: ignore[misc]
        generate_vmap_rule = True

        @staticmethod
        def forward(holder: _Opaque, *arrays: Array | None) -> Array:
            return holder.call.value(*arrays)

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Array) -> None:
            holder, *arrays = inputs
            ctx.call = holder.call
            # Inputs and output alone: a residual that is neither would have no graph of its own,
            # and second derivatives would be wrong. It is computed again.
            pairs = zip((*arrays, output), holder.call.keeps, strict=True)
            saved = [array if kept else None for array, kept in pairs]
            ctx.save_for_backward(*saved)
            ctx.save_for_forward(*saved)

        @staticmethod
        def backward(ctx: Any, cotangent: Array) -> tuple[Array | None, ...]:
            *arrays, value = ctx.saved_tensors
            return None, *ctx.call.pull(arrays, cotangent, value)

        @staticmethod
        def jvp(ctx: Any, _: None, *tangents: Array | None) -> Array:
            *arrays, value = ctx.saved_tensors
            return cast("Array", ctx.call.push(arrays, tangents, value))

    # PyTorch asks for it in every call, and it takes 20 µs to find out.
    OpsgradFunction.forward.__signature__ = inspect.signature(  # type: ignore[attr-defined]
        OpsgradFunction.forward
    )
    return OpsgradFunction

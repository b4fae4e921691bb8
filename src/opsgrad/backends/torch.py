"""PyTorch tensors on any device."""

import importlib.util
from typing import Any, cast

import array_api_compat
import numpy as np

from opsgrad._typing import Array, DType, Namespace
from opsgrad.backends.protocol import Backend, Capabilities


class TorchBackend(Backend):
    """PyTorch tensors."""

    name = "torch"

    def why_unavailable(self) -> str | None:
        if importlib.util.find_spec("torch") is None:
            return "PyTorch is not installed: pip install torch"
        return None

    @property
    def namespace(self) -> Namespace:
        import array_api_compat.torch as compat

        return cast("Namespace", compat)

    def owns(self, array: object) -> bool:
        return bool(array_api_compat.is_torch_array(array))

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(half=("float16", "bfloat16"))

    def asarray(self, value: Any, *, dtype: DType | None = None, device: Any = None) -> Array:
        import torch

        # PyTorch takes neither negative strides nor foreign byte order, and warns of read-only
        # memory: a native, contiguous copy has none of these.
        host = np.array(value, order="C")
        if not host.dtype.isnative:
            host = host.astype(host.dtype.newbyteorder("="))
        return torch.asarray(host, dtype=dtype, device=device)

    def to_numpy(self, array: Array) -> Array:
        import torch

        host = array.detach().cpu().resolve_conj().resolve_neg()
        if host.dtype == torch.bfloat16:  # NumPy has none; float32 holds every bfloat16
            host = host.to(torch.float32)
        return host.numpy()

    def shares_memory(self, one: Array, other: Array) -> bool:
        try:
            return bool(one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr())
        except RuntimeError:  # inside torch.func transforms tensors have no storage of their own
            return one is other

    def device(self, array: Array) -> Any:
        return array.device

    def values_now(self, array: Array) -> Array | None:
        import torch

        if array.device.type != "cpu" or torch.compiler.is_compiling():
            return None
        try:
            return array.detach().numpy()
        except RuntimeError:  # inside torch.func transforms, and for fake tensors
            return None

    def synchronize(self) -> None:
        import torch

        if torch.cuda.is_available():
            torch.cuda.synchronize()

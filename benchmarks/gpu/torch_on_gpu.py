"""A plugin for pytest: the conformance suite's PyTorch tensors are made on the GPU."""

import os
from typing import Any

import opsgrad as og
from opsgrad.backends.protocol import Capabilities
from opsgrad.backends.torch import TorchBackend

DEVICE = os.environ.get("OPSGRAD_TORCH_DEVICE", "cuda")

_capabilities: Any = vars(TorchBackend)["capabilities"]
_asarray = TorchBackend.asarray


def _on_device(self: TorchBackend) -> Capabilities:
    """Return what PyTorch can do where the host does not look at labels."""
    declared: Capabilities = _capabilities.fget(self)
    return declared._replace(on_host=DEVICE == "cpu")


def _there(self: TorchBackend, value: Any, *, dtype: Any = None, device: Any = None) -> Any:
    return _asarray(self, value, dtype=dtype, device=DEVICE if device is None else device)


def pytest_configure() -> None:
    """Put what the backend makes on the GPU, for all of this process."""
    assert "torch" in og.backends()
    TorchBackend.capabilities = property(_on_device)  # type: ignore[assignment, method-assign]
    TorchBackend.asarray = _there  # type: ignore[method-assign]

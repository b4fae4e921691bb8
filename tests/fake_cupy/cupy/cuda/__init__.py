"""Devices, streams and the runtime."""

import threading
from typing import Any, Self

from cupy._history import history
from cupy.cuda import runtime as runtime

_now = threading.local()


def current_device() -> int:
    """Return the number of the thread's current device."""
    return getattr(_now, "device", 0)


class Device:
    """A device; as in CuPy, it has no hash."""

    def __init__(self, number: Any = None) -> None:
        self.id = current_device() if number is None else getattr(number, "id", number)
        self._before: list[int] = []

    compute_capability = "80"

    def use(self) -> None:
        _now.device = self.id

    def synchronize(self) -> None:
        history.wait("device")

    def __enter__(self) -> Self:
        self._before.append(current_device())
        self.use()
        return self

    def __exit__(self, *_: object) -> None:
        _now.device = self._before.pop()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Device) and self.id == other.id

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<CUDA Device {self.id}>"


class Stream:
    """A stream of the device that is current when it is made."""

    def __init__(self, name: str = "other") -> None:
        self.name = name
        self.device_id = current_device()
        self._before: Any = None

    def synchronize(self) -> None:
        history.wait("stream")

    def __enter__(self) -> Self:
        self._before = get_current_stream()
        _streams()[self.device_id] = self
        return self

    def __exit__(self, *_: object) -> None:
        _streams()[self.device_id] = self._before


class ExternalStream(Stream):
    """A stream of another library, by its address."""

    def __init__(self, ptr: int, device_id: int = -1) -> None:
        super().__init__(f"external {ptr}")


def _streams() -> dict[int, Stream]:
    """Return the current streams of the thread, one for each device."""
    if not hasattr(_now, "streams"):
        _now.streams = {}
    streams: dict[int, Stream] = _now.streams
    return streams


def get_current_stream() -> Stream:
    """Return the current stream of the current device."""
    return _streams().get(current_device()) or Stream("null")


from cupy.cuda import compiler as compiler  # noqa: E402
from cupy.cuda import device  # noqa: E402, F401
from cupy.cuda import driver as driver  # noqa: E402
from cupy.cuda import function as function  # noqa: E402

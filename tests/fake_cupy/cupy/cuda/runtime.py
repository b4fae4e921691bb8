"""The CUDA runtime's own functions; tests set what they return."""

import os


class CUDARuntimeError(RuntimeError):
    def __init__(self, status: int) -> None:
        super().__init__(f"status {status}")
        self.status = status


def getDeviceCount() -> int:  # noqa: N802
    status = int(os.environ.get("FAKE_CUPY_STATUS", "0"))
    if status:
        raise CUDARuntimeError(status)
    return int(os.environ.get("FAKE_CUPY_DEVICES", "2"))


def driverGetVersion() -> int:  # noqa: N802
    return int(os.environ.get("FAKE_CUPY_DRIVER", "0"))


def runtimeGetVersion() -> int:  # noqa: N802
    return 13020

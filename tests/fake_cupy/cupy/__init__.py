"""A stand-in for CuPy, for tests on machines without a GPU: NumPy inside, CuPy's manners outside.

It has two devices. Like CuPy it computes on the current device only, refuses arrays of another one,
takes no NumPy array for one of its own, and turns none of its arrays into NumPy's unasked. What the
host asks of the devices is recorded in `history`.
"""

import numpy as np

from cupy import _array

__version__ = "0.fake"

# The functions that are not CuPy's own are NumPy's, run as CuPy runs its kernels.
for _name, _value in vars(np).items():
    if not _name.startswith("_") and not hasattr(_array, _name) and _name != "test":
        _is_function = callable(_value) and not isinstance(_value, type)
        globals()[_name] = _array.launching(_name, _value) if _is_function else _value

from cupy import cuda as cuda  # noqa: E402
from cupy import fft as fft  # noqa: E402
from cupy import linalg as linalg  # noqa: E402
from cupy._array import array as array  # noqa: E402
from cupy._array import asarray as asarray  # noqa: E402
from cupy._array import ascontiguousarray as ascontiguousarray  # noqa: E402
from cupy._array import empty as empty  # noqa: E402
from cupy._array import from_dlpack as from_dlpack  # noqa: E402
from cupy._array import may_share_memory as may_share_memory  # noqa: E402
from cupy._array import ndarray as ndarray  # noqa: E402
from cupy._history import history as history  # noqa: E402

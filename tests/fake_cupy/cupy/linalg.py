"""NumPy's, run as CuPy runs its kernels."""

import numpy as np

from cupy._array import launching

globals().update(
    {
        name: launching(name, getattr(np.linalg, name))
        for name in np.linalg.__all__
        if name.islower()
    }
)

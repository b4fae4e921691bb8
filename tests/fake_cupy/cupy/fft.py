"""NumPy's, run as CuPy runs its kernels."""

import numpy as np

from cupy._array import launching

globals().update({name: launching(name, getattr(np.fft, name)) for name in np.fft.__all__})

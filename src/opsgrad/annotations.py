"""What the body of an op of one's own is annotated with, so that its calls are checked.

Array arguments are `Array`, or say what they are to the op: `Targets`, `Labels`, `Shared`. A float
parameter says which values it may take: `Finite`, `Positive`, `NonNegative`, `Order`. Everything
else about a call (shapes, data types, devices, label range) follows from these.

Examples
--------
>>> import numpy as np
>>> import opsgrad as og
>>> from opsgrad.annotations import Array, Namespace, Positive
>>> @og.op
... def soft_threshold(xp: Namespace, x: Array, /, *, width: Positive = 1.0) -> Array:
...     return xp.where(x > width, x - width, xp.where(x < -width, x + width, 0.0 * x))
>>> soft_threshold(np.array([-3.0, 0.5, 2.0]))
array([-2.,  0.,  1.])
>>> soft_threshold(np.array([1.0]), width=-1.0)
Traceback (most recent call last):
    ...
opsgrad._errors.ParameterError: soft_threshold: width must be positive and finite, got -1.0
"""

from opsgrad._signature import (
    Finite,
    Labels,
    NonNegative,
    Order,
    Positive,
    Reduction,
    Shared,
    Targets,
)
from opsgrad._typing import Array, Namespace

__all__ = [
    "Array",
    "Finite",
    "Labels",
    "Namespace",
    "NonNegative",
    "Order",
    "Positive",
    "Reduction",
    "Shared",
    "Targets",
]

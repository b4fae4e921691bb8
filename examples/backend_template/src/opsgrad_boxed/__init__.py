"""A backend of opsgrad in a package of its own."""

from opsgrad_boxed.arrays import Boxed
from opsgrad_boxed.backend import BoxedBackend

__all__ = ["Boxed", "BoxedBackend"]

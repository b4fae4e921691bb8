"""Any other array library that follows the array API standard: its own namespace, as it is."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from opsgrad._typing import Array, Namespace
from opsgrad.backends.protocol import Backend


class StandardBackend(Backend):
    """The arrays of one array API namespace, such as array-api-strict's."""

    def __init__(self, namespace: Any) -> None:
        super().__init__()
        self._namespace = namespace
        self.name = namespace.__name__

    @property
    def namespace(self) -> Namespace:
        return self._namespace  # type: ignore[no-any-return]

    def owns(self, array: object) -> bool:
        return (
            hasattr(array, "__array_namespace__") and array.__array_namespace__() is self._namespace
        )

    def device(self, array: Array) -> Any:
        return array.device

    def run(
        self,
        function: Callable[..., Any],
        arrays: tuple[Array | None, ...],
        parameters: Mapping[str, Any],
    ) -> Any:
        # Such a library may compute through NumPy (array-api-strict does): see NumPyBackend.run.
        with np.errstate(all="ignore"):
            return function(self._namespace, *arrays, **parameters)

"""Any other array library that follows the array API standard: its own namespace, as it is."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

from opsgrad._typing import Array, DType, Namespace
from opsgrad.backends.protocol import Backend, Capabilities, quiet, quietly


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

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(exact_sums=False)  # nothing is promised

    def cast(self, array: Array, dtype: DType) -> Array:
        with quiet():
            return super().cast(array, dtype)

    def values_now(self, array: Array) -> Array | None:
        try:
            return self.to_numpy(array)
        except (RuntimeError, TypeError, ValueError):  # on a device that NumPy cannot read
            return None

    def device(self, array: Array) -> Any:
        return array.device

    def run(
        self,
        function: Callable[..., Any],
        arrays: tuple[Array | None, ...],
        parameters: Mapping[str, Any],
    ) -> Any:
        # Such a library may compute through NumPy, as array-api-strict does.
        return quietly(functools.partial(function, self._namespace, **parameters))(*arrays)

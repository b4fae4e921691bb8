"""JAX arrays: eager calls are compiled by XLA, traced ones join the caller's trace."""

import functools
import sys
from collections.abc import Callable, Hashable, Mapping
from typing import Any, cast

import numpy as np

from opsgrad._errors import DTypeError
from opsgrad._typing import Array, DType, Namespace
from opsgrad.backends.protocol import Autodiff, Backend, Capabilities, frozen, not_installed, thawed


@functools.lru_cache(maxsize=1024)
def _compiled(function: Callable[..., Any], parameters: Hashable) -> Any:
    import jax
    import jax.numpy as jnp

    return jax.jit(functools.partial(function, jnp, **thawed(parameters)))


class JaxBackend(Backend):
    """JAX arrays and tracers."""

    name = "jax"

    def why_unavailable(self) -> str | None:
        return not_installed("jax", "JAX is not installed: pip install jax")

    @property
    def namespace(self) -> Namespace:
        import jax.numpy as jnp

        return cast("Namespace", jnp)

    def owns(self, array: object) -> bool:
        jax = sys.modules.get("jax")  # who has an array of JAX's has imported it
        return jax is not None and isinstance(array, jax.Array | jax.core.Tracer)

    @property
    def capabilities(self) -> Capabilities:
        import jax

        return Capabilities(
            float64=jax.config.jax_enable_x64,
            half=("float16", "bfloat16"),
            flushes_subnormals=True,  # XLA on the CPU
            on_host=jax.default_backend() == "cpu",
        )

    def traced(self, function: Callable[..., Any]) -> Callable[..., Any]:
        import jax

        return cast("Callable[..., Any]", jax.jit(function))

    def asarray(self, value: Any, *, dtype: DType | None = None, device: Any = None) -> Array:
        import jax.numpy as jnp

        host = np.asarray(value)
        reason = self.why_not(host) if dtype is None and isinstance(value, np.ndarray) else None
        if reason is not None:
            raise DTypeError(reason)
        return jnp.array(host, dtype=dtype, device=device)

    def why_not(self, host: Array) -> str | None:
        import jax

        if jax.config.jax_enable_x64:
            return None
        if host.dtype in (np.float64, np.complex128):
            return (
                f"backend 'jax' would silently turn {host.dtype} data into its 32-bit form: call "
                "jax.config.update('jax_enable_x64', True) first, or pass float32 data"
            )
        if host.dtype.kind in "iu" and host.dtype.itemsize == 8 and host.size:
            info = np.iinfo(np.int32)
            if host.min() < info.min or host.max() > info.max:
                return (
                    f"backend 'jax' would silently wrap {host.dtype} values that do not fit in 32 "
                    "bits: call jax.config.update('jax_enable_x64', True) first"
                )
        return None

    def values_now(self, array: Array) -> Array | None:
        import jax

        if isinstance(array, jax.core.Tracer) or not array.is_fully_addressable:
            return None
        if any(device.platform != "cpu" for device in array.devices()):
            return None
        return np.asarray(array)

    def to_numpy(self, array: Array) -> Array:
        if array.dtype == "bfloat16":  # NumPy has none; float32 holds every bfloat16
            array = array.astype("float32")
        return np.asarray(array)

    def synchronize(self) -> None:
        import jax

        jax.effects_barrier()

    def run(
        self,
        function: Callable[..., Any],
        arrays: tuple[Array | None, ...],
        parameters: Mapping[str, Any],
    ) -> Any:
        # Op by op, JAX compiles every step of a body for every new shape (about 400 ms) and spends
        # 306 µs a call afterwards; compiled as one, 50 µs.
        try:
            compiled = _compiled(function, frozen(parameters))
        except TypeError:  # a parameter of a user's op that cannot be hashed
            return function(self.namespace, *arrays, **parameters)
        return compiled(*arrays)

    def records(self, arrays: tuple[Array | None, ...]) -> bool:
        import jax

        return any(isinstance(array, jax.core.Tracer) for array in arrays)

    def recorded(self, call: Autodiff, arrays: tuple[Array | None, ...]) -> Array:
        from opsgrad.backends._jax_autodiff import record

        return record(call, arrays)

"""A small program that launches kernels of every kind once, for the sanitizer to watch."""

import sys
from typing import Any

import numpy as np

import opsgrad as og
from tools.cuda_kernels import ELEMENTWISE, SHAPES

MAPS, ROWS = ("softplus",), ("softmax", "relumax", "softmax_cross_entropy_with_integer_labels")
HALF = ("softplus", "softmax")
"""What runs in float16 too: under the sanitizer every kernel takes long."""


def main() -> int:
    """Launch everything, and compare with NumPy."""
    import cupy

    cupy.cuda.set_allocator(None)  # arrays in a pool have neighbours, which hide what is beyond
    wrong = 0
    for ops, shapes in ((MAPS, ELEMENTWISE), (ROWS, SHAPES)):
        for name, shape in shapes.items():
            for op in ops:
                for dtype in ("float32", "float16") if op in HALF else ("float32",):
                    wrong += not agrees(cupy, op, shape, dtype)
                    print(f"{op}, {name}, {dtype}", flush=True)
    print(f"{wrong} of them wrong")
    return int(wrong > 0)


def agrees(cupy: Any, name: str, shape: tuple[int, ...], dtype: str) -> bool:
    """Run an op on the GPU, in kernels, and on the CPU, and say whether they agree."""
    op, rng = getattr(og, name), np.random.default_rng(0)
    axis = -2 if len(shape) == 3 else -1
    row_wise = name in ROWS
    keywords = {"axis": axis} if row_wise else {}
    arrays = [rng.standard_normal(shape).astype(dtype)]
    rows = tuple(np.delete(shape, axis).tolist()) if row_wise else shape
    labelled = name.endswith("labels")
    if labelled:
        arrays.append(rng.integers(0, shape[axis], rows))
    g = rng.standard_normal(rows if labelled else shape).astype(dtype)
    there = [cupy.array(one) for one in arrays]
    got = _everything(op, there, cupy.array(g), keywords)
    engines = og.which_backend(op, *there, **keywords).engines
    if any(engines[role] != "a CUDA kernel" for role in ("value", "vjp", "value_and_grad")):
        return False
    exact = [one.astype("float64") if one.dtype.kind == "f" else one for one in arrays]
    expected = _everything(op, exact, g.astype("float64"), keywords)
    tolerance = 16 * float(np.finfo(dtype).eps)
    for one, other in zip(got, expected, strict=True):
        scale = max(float(np.max(np.abs(other))), 1e-30)
        if not np.max(np.abs(og.to_numpy(one).astype("float64") - other)) <= tolerance * scale:
            return False
    return True


def _everything(op: Any, arrays: list[Any], g: Any, keywords: dict[str, Any]) -> list[Any]:
    """Return value and gradient, from a kernel each, and for losses from one for both too."""
    value, pull = og.vjp(op, *arrays, **keywords)
    both = og.value_and_grad(op)(*arrays, **keywords) if len(arrays) > 1 else ()
    return [value, pull(g)[0], *both]


if __name__ == "__main__":
    sys.exit(main())

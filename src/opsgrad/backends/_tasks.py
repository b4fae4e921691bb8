"""What both engines ask of a body or rule before they compile it."""

from typing import Any

import numpy as np

from opsgrad._signature import Role
from opsgrad.backends.protocol import JOINT, SEED, Work

MOST_PARAMETERS = 16
"""So many parameter sets of a body or rule are compiled. Who changes one from step to step, as in
annealing, would wait for the compiler each time: from then on it runs as it is written."""
MOST_KNOWN = 4096


def why_not(work: Work) -> str | None:
    """Say why no engine takes a body or rule of this kind, as a clause, or None."""
    if not work.rowwise or work.role not in ("value", "forward", "vjp", "jvp", JOINT):
        return "kernels are for what runs row by row"
    if work.dtype not in (np.float32, np.float64):
        return f"kernels compute in float32 and float64, not in {work.dtype}"
    return None


def task_of(work: Work) -> Any:
    """Return a body or rule as a task for an engine."""
    from opsgrad.fusion import tables

    return tables.Task(
        function=work.function,
        names=work.names,
        parameters=work.parameters,
        dtype=np.dtype(work.dtype),
        elementwise=work.elementwise,
        labels=frozenset(one.name for one in work.arguments if one.role is Role.LABELS),
        numbers=frozenset({SEED}),
        residual=work.role == "forward",
    )

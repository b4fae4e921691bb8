"""Bad input: for every op the calls that it must refuse, and what the refusal must be.

The calls are derived from the op's row and signature, kind by kind; `opsgrad.conformance.row.Row`
leads to them with ``row.bad_input()``. `check_refused` makes them on a library.
"""

from __future__ import annotations

from opsgrad.conformance.bad_input.case import (
    BATCH,
    CLASSES,
    OUT_OF_RANGE,
    SHAPE,
    Builtin,
    Case,
    replaced,
)
from opsgrad.conformance.bad_input.families import FAMILIES, bad_input
from opsgrad.conformance.bad_input.refusal import (
    TooEarlyError,
    all_refused,
    check_refused,
    check_unseen_labels,
    complaint,
    nothing_runs,
    possible,
    refused,
    routes,
)

__all__ = [
    "BATCH",
    "CLASSES",
    "FAMILIES",
    "OUT_OF_RANGE",
    "SHAPE",
    "Builtin",
    "Case",
    "TooEarlyError",
    "all_refused",
    "bad_input",
    "check_refused",
    "check_unseen_labels",
    "complaint",
    "nothing_runs",
    "possible",
    "refused",
    "replaced",
    "routes",
]

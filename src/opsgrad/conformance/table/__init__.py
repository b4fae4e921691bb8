"""The conformance table: one `Row` for every op."""

from __future__ import annotations

from opsgrad.conformance.row import Row
from opsgrad.conformance.table import (
    activations,
    cross_entropy,
    dense,
    losses,
    norms,
    softmax,
)

__all__ = ["TABLE"]

TABLE: dict[str, Row] = {
    row.name: row
    for family in (activations, softmax, cross_entropy, losses, norms, dense)
    for row in family.ROWS
}

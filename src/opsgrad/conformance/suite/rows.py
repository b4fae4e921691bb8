"""Choosing rows of the table for a test."""

from typing import Any

import pytest

from opsgrad.conformance.table import TABLE


def rows_with(*features: str) -> list[Any]:
    """Return pytest parameters for the rows that have any of `features`."""
    chosen = [row for row in TABLE.values() if any(getattr(row, f) for f in features)]
    return [pytest.param(row, id=row.name) for row in chosen]

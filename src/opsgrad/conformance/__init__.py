"""What every op must do, stated independently of how the ops are written."""

from opsgrad.conformance.row import Point, Row
from opsgrad.conformance.table import TABLE

__all__ = ["TABLE", "Point", "Row"]

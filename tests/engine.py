"""The CPU engine, as tests want to find it."""

import pytest

from opsgrad.backends import _engine
from opsgrad.conformance import TABLE


def fresh_engine(patch: pytest.MonkeyPatch, compile_from: float = _engine.FROM) -> None:
    """Have nothing compiled, nor any call learnt, and compile from so many entries on."""
    patch.setattr(_engine, "FROM", compile_from)
    patch.setattr(_engine, "_known", {})
    for row in TABLE.values():
        patch.setattr(row.op._planner, "known", {})
        patch.setattr(row.op._planner, "_kept", {})

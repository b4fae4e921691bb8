"""Pages whose examples need a library that is not there are skipped, with the reason."""

import importlib.util
import re

import pytest

import opsgrad as og

collect_ignore_glob = ["*.py"]  # the pages are tested, not what builds them

_IMPORT = re.compile(r"(?:import|from)\s+(\w+)")


def _why_not(module: str) -> str | None:
    """Say why a module cannot be used here, None if it can."""
    backend = og.backends().get(module)
    if backend is not None:  # CuPy may be installed where there is no device
        return backend.why_unavailable()
    return None if importlib.util.find_spec(module) else f"{module} is not installed"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the examples of a page if one of them imports what is not there."""
    for item in items:
        examples = getattr(getattr(item, "dtest", None), "examples", ())
        imported = {found[1] for one in examples if (found := _IMPORT.match(one.source))}
        reasons = [reason for module in sorted(imported) if (reason := _why_not(module))]
        if reasons:
            item.add_marker(pytest.mark.skip(reason="; ".join(reasons)))

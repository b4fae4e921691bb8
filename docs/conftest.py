"""Pages whose examples import a library that is not installed are skipped, with the reason."""

import importlib.util
import re

import pytest

_IMPORT = re.compile(r"(?:import|from)\s+(\w+)")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the examples of a page if one of them imports what is not there."""
    for item in items:
        examples = getattr(getattr(item, "dtest", None), "examples", ())
        imported = [found[1] for one in examples if (found := _IMPORT.match(one.source))]
        missing = sorted({name for name in imported if importlib.util.find_spec(name) is None})
        if missing:
            reason = f"{' and '.join(missing)} not installed"
            item.add_marker(pytest.mark.skip(reason=reason))

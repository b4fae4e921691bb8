"""What the pages take for granted: on writing a backend, that the template is installed."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

TEMPLATE = Path(__file__).parents[1] / "examples" / "backend_template" / "src"


@pytest.fixture(autouse=True)
def _the_template_is_installed(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    if Path(request.node.path).name != "writing-a-backend.md":
        yield
        return
    registry = sys.modules["opsgrad.backends"]
    information = tmp_path / "opsgrad_boxed-0.1.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Name: opsgrad-boxed\nVersion: 0.1\n")
    entry = "[opsgrad.backends]\nboxed = opsgrad_boxed:BoxedBackend\n"
    (information / "entry_points.txt").write_text(entry)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.syspath_prepend(TEMPLATE)
    monkeypatch.setattr(registry, "_loaded", {})
    monkeypatch.setattr(registry, "_by_type", {})
    registry._plugins.cache_clear()
    yield
    registry._plugins.cache_clear()

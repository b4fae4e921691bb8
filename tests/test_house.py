"""The house is in order: op, row and re-export go together; imports point one way."""

import importlib
import inspect
import pkgutil
import tomllib
from pathlib import Path
from typing import Any

import pytest

import opsgrad as og
import opsgrad.ops
from opsgrad._op import Op
from opsgrad.conformance import TABLE

ROOT = Path(__file__).parents[1]


def defined_ops() -> dict[str, Any]:
    found = {}
    for module in pkgutil.iter_modules(opsgrad.ops.__path__):
        names = vars(importlib.import_module(f"opsgrad.ops.{module.name}"))
        found |= {
            name: value
            for name, value in names.items()
            if isinstance(value, Op) and value.__module__.endswith(module.name)
        }
    return found


def complaints(defined: dict[str, Any], public: list[str], table: Any) -> list[str]:
    """Return what is missing for ops, public names and rows to go together."""
    exported = {name for name in public if isinstance(getattr(og, name, None), Op)}
    return [
        *(f"{name} is not exported by opsgrad" for name in defined if name not in public),
        *(f"{name} has no row in the conformance table" for name in defined if name not in table),
        *(f"{name} has a row, but no op" for name in table if name not in defined),
        *(f"{name} is exported, but no op" for name in exported if name not in defined),
    ]


def test_every_op_is_exported_and_has_a_row() -> None:
    assert complaints(defined_ops(), og.__all__, TABLE) == []


@pytest.mark.parametrize("missing", ["row", "export", "op"])
def test_a_missing_piece_is_noticed(missing: str) -> None:
    defined, public, table = defined_ops(), list(og.__all__), dict(TABLE)
    if missing == "row":
        del table["softmax"]
    elif missing == "export":
        public.remove("softmax")
    else:
        del defined["softmax"]
    assert any("softmax" in complaint for complaint in complaints(defined, public, table))


def test_all_is_true() -> None:
    for name in og.__all__:
        assert hasattr(og, name), name
    imported = {
        name
        for name, value in vars(og).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    }
    assert imported == set(og.__all__) - {"__version__"}


def test_every_op_has_its_rules() -> None:
    for name, op in defined_ops().items():
        assert op.has_rule("vjp"), name
        assert op.has_rule("jvp"), name


def test_rows_agree_with_signatures() -> None:
    for name, row in TABLE.items():
        arguments = row.op.signature.arguments
        assert len(arguments) == len(row.arguments), name
        assert [a.differentiable for a in arguments] == list(row.differentiable), name
        for params in row.variants:
            assert set(params) <= set(row.op.signature.parameters), name


def test_imports_point_one_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """The contracts of pyproject.toml, which `make lint` runs too."""
    cli = pytest.importorskip("importlinter.cli")
    monkeypatch.chdir(ROOT)
    assert cli.lint_imports(cache_dir=None, no_logo=True) == 0


def test_version_has_one_source() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["dynamic"] == ["version"]
    assert f"## [{og.__version__}]" in (ROOT / "CHANGELOG.md").read_text()

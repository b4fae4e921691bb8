"""The example that trains on more data than a worker may hold, on a real cluster of two workers."""

import contextlib
import importlib
import io
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

for module in ("dask", "distributed", "tqdm"):
    pytest.importorskip(module, reason="needed: pip install 'opsgrad[dask,demo]'")

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


@pytest.fixture(scope="module")
def example() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLES)
        yield importlib.import_module("out_of_core")
        sys.modules.pop("out_of_core", None)


@pytest.fixture(scope="module")
def run(example: ModuleType) -> tuple[Any, str]:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        outcome = example.main(["--data", "400", "--memory-limit", "384", "--epochs", "1"])
    return outcome, printed.getvalue()


def test_no_worker_ever_holds_the_data(run: tuple[Any, str]) -> None:
    outcome, _ = run
    assert outcome.peak_bytes < outcome.limit_bytes < outcome.data_bytes


def test_gradients_are_those_of_a_single_machine(run: tuple[Any, str]) -> None:
    assert run[0].difference < 2e-6


def test_the_network_learns(run: tuple[Any, str]) -> None:
    outcome, _ = run
    assert outcome.last_loss < 0.7 * outcome.first_loss
    assert outcome.accuracy > 0.5


def test_the_table_says_so(run: tuple[Any, str]) -> None:
    outcome, printed = run
    assert f"{outcome.accuracy:.2%}" in printed
    assert f"{outcome.difference:.1e}" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "400", "--memory-limit", "400"], "--data must exceed"),
        (["--memory-limit", "100"], "--memory-limit"),
        (["--epochs", "0"], "--epochs"),
        (["--batch", "80"], "--batch"),
        (["--directory", "nowhere"], "--directory"),
    ],
)
def test_bad_arguments_are_refused(
    example: ModuleType,
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        example.main(arguments)
    assert message in capsys.readouterr().err


def test_missing_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(SystemExit, match=r"pip install 'opsgrad\[dask,demo\]'"):
        runpy.run_path(str(EXAMPLES / "out_of_core.py"))

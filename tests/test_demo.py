"""The demo in examples/ runs, learns, repeats itself, and refuses to train on a wrong gradient."""

import contextlib
import importlib
import io
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest

import opsgrad as og

for module in ("sklearn", "matplotlib", "tqdm"):
    pytest.importorskip(module, reason="the demo needs it: pip install 'opsgrad[demo]'")

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
HIDDEN = 32


class Outcome(NamedTuple):
    """What one run of the program left behind."""

    rows: list[Any]
    output: str
    figure: Path


@pytest.fixture(scope="module")
def digits() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLES)
        digits = importlib.import_module("digits")
        # A quarter of the hidden units, for a gradient check in a quarter of the time.
        patch.setattr(digits, "HIDDEN", HIDDEN)
        yield digits
        for name in ("digits", "plots"):
            sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def outcome(digits: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    figure = tmp_path_factory.mktemp("demo") / "figure.png"
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        rows = digits.main(["--epochs", "10", "--seed", "3", "--output", str(figure)])
    return Outcome(rows, printed.getvalue(), figure)


def test_figure_is_written(outcome: Outcome) -> None:
    written = outcome.figure.read_bytes()
    assert written.startswith(b"\x89PNG")
    assert 10_000 < len(written) < 200_000
    assert str(outcome.figure) in outcome.output


def test_gradient_checks_are_reported(outcome: Outcome) -> None:
    checks = [line for line in outcome.output.splitlines() if line.startswith("gradient check")]
    assert len(checks) == 2
    assert all("max relative error" in line and "float64" in line for line in checks)


def test_both_networks_learn(outcome: Outcome) -> None:
    sigmoid, rect, _ = outcome.rows
    assert sigmoid.accuracy > 0.93
    assert rect.accuracy > 0.93


def test_networks_have_the_textbook_number_of_parameters(outcome: Outcome) -> None:
    assert [row.parameters for row in outcome.rows] == [64 * HIDDEN + HIDDEN + HIDDEN * 10 + 10] * 3


def test_relumax_reads_the_same_digits_with_exact_zeros(outcome: Outcome) -> None:
    _, rect, relumax = outcome.rows
    assert relumax.accuracy == rect.accuracy
    assert "probability exactly 0 for" in outcome.output


def test_table_names_each_network(outcome: Outcome) -> None:
    for row in outcome.rows:
        assert f"{row.network:<26}{row.parameters:>12,}{row.accuracy:>16.2%}" in outcome.output


def test_same_seed_gives_the_same_numbers(digits: ModuleType) -> None:
    def numbers(seed: int) -> tuple[list[float], list[float], list[Any]]:
        settings = digits.parse(["--epochs", "2", "--seed", str(seed)])
        run = digits.train(digits.RECT, *digits.load(seed), settings)
        return run.losses, run.accuracies, [array for stage in run.parameters for array in stage]

    losses, accuracies, arrays = numbers(seed=5)
    again = numbers(seed=5)
    assert (losses, accuracies) == again[:2]
    assert all(np.array_equal(one, two) for one, two in zip(arrays, again[2], strict=True))
    assert losses != numbers(seed=6)[0]


@pytest.mark.parametrize("backend", ["torch", "jax", "dask"])
def test_other_backends_follow_numpy(digits: ModuleType, backend: str) -> None:
    if not og.backends()[backend].available:
        pytest.skip(f"{backend}: {og.backends()[backend].why_unavailable()}")
    train_set, test_set = digits.load(seed=0)
    train_set = digits.Digits(*(array[:96] for array in train_set))

    def losses(backend: str) -> list[float]:
        settings = digits.parse(["--epochs", "1", "--backend", backend])
        run: list[float] = digits.train(digits.RECT, train_set, test_set, settings).losses
        return run

    assert losses(backend) == pytest.approx(losses("numpy"), rel=1e-4)


def test_wrong_gradient_stops_the_program(
    digits: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def wrong_sign(*arguments: Any, **parameters: Any) -> Any:
        value, pull = og.vjp(*arguments, **parameters)

        def wrong_pull(cotangent: Any) -> Any:
            gradient, (*others, (weights, bias)) = pull(cotangent)
            return gradient, (*others, (weights, -bias))

        return value, wrong_pull

    monkeypatch.setattr(digits, "og", SimpleNamespace(**(vars(og) | {"vjp": wrong_sign})))
    figure = tmp_path / "figure.png"
    with pytest.raises(SystemExit, match="gradient check failed"):
        digits.main(["--epochs", "1", "--output", str(figure)])
    assert not figure.exists()


def test_unknown_backend_is_an_error_of_the_command_line(
    digits: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        digits.main(["--backend", "nunpy"])
    assert "nunpy" in capsys.readouterr().err


@pytest.mark.parametrize("module", ["sklearn.datasets", "matplotlib", "tqdm"])
def test_missing_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    monkeypatch.syspath_prepend(EXAMPLES)
    for name in ("digits", "plots"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(SystemExit, match=r"pip install 'opsgrad\[demo\]'"):
        runpy.run_path(str(EXAMPLES / "digits.py"))

"""Backends of other packages: found by name, held to the suite, unable to break the others."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from opsgrad.conformance.defects import defects_file, read_defects

PACKAGE = Path(__file__).parent / "boxed_package"


def run(arguments: list[str], folder: Path, path: Path = PACKAGE, **more: str) -> tuple[int, str]:
    environment = os.environ | {"PYTHONPATH": str(path)} | more
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


SUITE = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", "--pyargs"]


def test_a_plugin_passes_the_suite_by_name(tmp_path: Path) -> None:
    code, out = run([*SUITE, "opsgrad.conformance", "--backend", "boxed"], tmp_path)
    assert code == 0, out[-5000:]
    assert " passed" in out


def test_a_broken_plugin_fails_by_op_role_input_and_expected_value(tmp_path: Path) -> None:
    arguments = [*SUITE, "opsgrad.conformance.suite.test_values", "--backend", "boxed"]
    code, out = run([*arguments, "-k", "oracle and softmax"], tmp_path, OPSGRAD_BOXED_BROKEN="1")
    assert code == 1
    assert "softmax vjp {} on boxed" in out
    assert "ULP, allowed" in out
    assert "for [[[" in out
    assert "expected [[" in out
    assert "log_softmax vjp" not in out


def test_the_suite_runs_on_any_namespace(tmp_path: Path) -> None:
    pytest.importorskip("array_api_strict")
    arguments = [*SUITE, "opsgrad.conformance.suite.test_values"]
    code, out = run([*arguments, "--namespace", "array_api_strict", "-k", "oracle"], tmp_path)
    assert code == 0, out[-5000:]


def test_an_unknown_backend_is_named(tmp_path: Path) -> None:
    code, out = run([*SUITE, "opsgrad.conformance", "--backend", "boxd"], tmp_path)
    assert code != 0
    assert "unknown backend 'boxd': did you mean 'boxed'?" in out


def plugin(folder: Path, name: str, code: str) -> None:
    """Write a package that offers a backend."""
    (folder / f"{name}.py").write_text(code)
    information = folder / f"{name}-0.1.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1\n")
    (information / "entry_points.txt").write_text(f"[opsgrad.backends]\n{name} = {name}:Plugin\n")


@pytest.mark.parametrize(
    "code",
    ["raise RuntimeError('no such device')", "Plugin = 3", "from opsgrad import Backend as Plugin"],
    ids=["raises", "no backend", "no name"],
)
def test_a_broken_plugin_does_not_stop_the_others(tmp_path: Path, code: str) -> None:
    plugin(tmp_path, "broken", code)
    program = """
import warnings, opsgrad as og
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    print(og.backends())
    print(og.softmax([0.0, 0.0]))
print(len([w for w in caught if "'broken' could not be loaded" in str(w.message)]))
try:
    og.softmax([0.0], backend="broken")
except og.BackendUnavailableError as error:
    print(error)
"""
    status, out = run(["-c", program], tmp_path, path=tmp_path)
    assert status == 0, out
    assert "broken  its plugin could not be loaded" in out
    assert "[0.5 0.5]\n1\nsoftmax: backend 'broken' is not available" in out


def test_plugins_are_not_looked_for_until_needed(tmp_path: Path) -> None:
    plugin(tmp_path, "loud", "raise SystemExit('loaded')")
    program = "import numpy, opsgrad as og; og.softmax([0.0]); og.softmax(numpy.zeros(2))"
    assert run(["-c", program], tmp_path, path=tmp_path) == (0, "")


def test_a_known_defect_is_expected_and_must_have_a_link(tmp_path: Path) -> None:
    known = tmp_path / "defects.txt"
    known.write_text("# boxed\n\nboxed test_against_oracle* https://example.org/1\n")
    (defect,) = read_defects(known)
    assert defect == ("boxed", "test_against_oracle*", "https://example.org/1")
    known.write_text("boxed test_against_oracle* soon\n")
    with pytest.raises(ValueError, match="expected 'backend test link'"):
        read_defects(known)
    assert read_defects(defects_file()) == []

    known.write_text("boxed test_against_oracle*softmax] https://example.org/1\n")
    arguments = [*SUITE, "opsgrad.conformance.suite.test_values", "--backend", "boxed"]
    chosen = ["-k", "oracle and boxed-float64-softmax", "-rx"]
    more = {"OPSGRAD_BOXED_BROKEN": "1", "OPSGRAD_BOXED_DEFECTS": str(known)}
    code, out = run([*arguments, *chosen], tmp_path, **more)
    assert "https://example.org/1" in out
    assert code == 0, out
    code, out = run([*arguments, *chosen], tmp_path, OPSGRAD_BOXED_DEFECTS=str(known))
    assert code == 1, "a defect that is gone must be noticed"


def test_python_m_opsgrad_reports(tmp_path: Path) -> None:
    code, out = run(["-m", "opsgrad"], tmp_path)
    assert code == 0
    assert out.startswith("opsgrad ")
    assert "numpy  available" in out

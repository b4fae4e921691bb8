"""Backends of other packages: found by name, held to the suite, unable to break the others."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from opsgrad.conformance.defects import defects_file, read_defects

TEMPLATE = Path(__file__).parents[1] / "examples" / "backend_template"


def run(
    arguments: list[str], folder: Path, path: Path | None = None, **more: str
) -> tuple[int, str]:
    here = os.environ.get("PYTHONPATH")
    paths = os.pathsep.join(filter(None, [path and str(path), here]))
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": paths} | more,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the template of `examples/` as a wheel, and install it into a folder."""
    pytest.importorskip("hatchling")
    pytest.importorskip("pip")
    folder = tmp_path_factory.mktemp("template")
    source = shutil.copytree(TEMPLATE, folder / "source")
    pip = ["-m", "pip", "--disable-pip-version-check", "--quiet"]
    # Offline: what builds it is here, and what it needs is under test.
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", ".", str(source)]
    code, out = run(build, folder)
    assert code == 0, out
    (wheel,) = folder.glob("*.whl")
    target = ["--no-deps", "--no-index", "--target", str(folder / "site")]
    code, out = run([*pip, "install", *target, str(wheel)], folder)
    assert code == 0, out
    return folder / "site"


def test_the_template_is_a_wheel_with_the_entry_point(installed: Path) -> None:
    (wheel,) = installed.parent.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (entries,) = [name for name in names if name.endswith("entry_points.txt")]
        text = archive.read(entries).decode()
    assert "boxed = opsgrad_boxed:BoxedBackend" in text
    assert {"opsgrad_boxed/__init__.py", "opsgrad_boxed/backend.py"} < set(names)


SUITE = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", "--pyargs"]


def test_the_page_on_writing_a_backend(installed: Path, tmp_path: Path) -> None:
    """Every block of it runs as written, with the template installed."""
    page = TEMPLATE.parents[1] / "docs" / "writing-a-backend.md"
    assert page.read_text().count(">>>") > 20
    assert run(["-m", "doctest", str(page)], tmp_path, installed) == (0, "")


def test_a_plugin_passes_the_suite_by_name(installed: Path, tmp_path: Path) -> None:
    code, out = run([*SUITE, "opsgrad.conformance", "--backend", "boxed"], tmp_path, installed)
    assert code == 0, out[-5000:]
    assert " passed" in out


WRONG = """
import os
from pathlib import Path
from opsgrad import softmax
from opsgrad.backends import Kernel
from opsgrad_boxed import BoxedBackend

class Plugin(BoxedBackend):
    name = "wrong"
    defects = Path(os.environ["DEFECTS"]) if "DEFECTS" in os.environ else None

    def run(self, function, arrays, parameters):
        out = super().run(function, arrays, parameters)
        wrong = os.environ.get("WRONG") == "softmax vjp"
        return -out if wrong and function is softmax.rule("vjp").function else out

    def kernel(self, work):
        kernel = super().kernel(work)
        if os.environ.get("WRONG") == "softmax kernel" and isinstance(kernel, Kernel):
            return kernel._replace(call=lambda x: x)
        return kernel
"""


def with_wrong_plugin(folder: Path, installed: Path) -> Path:
    """Return the folder, with a plugin that is right unless the environment asks for a mistake."""
    plugin(folder, "wrong", WRONG)
    shutil.copytree(installed / "opsgrad_boxed", folder / "opsgrad_boxed")  # as a library alone
    return folder


def test_a_wrong_plugin_fails_by_op_role_input_and_expected_value(
    installed: Path, tmp_path: Path
) -> None:
    path = with_wrong_plugin(tmp_path, installed)
    arguments = [*SUITE, "opsgrad.conformance.suite.test_values", "--backend", "wrong"]
    chosen = ["-k", "oracle and softmax"]
    code, out = run([*arguments, *chosen], tmp_path, path, WRONG="softmax vjp")
    assert code == 1
    assert "softmax vjp {} on wrong" in out
    assert "ULP, allowed" in out
    assert "for [[[" in out
    assert "expected [[" in out
    assert "log_softmax vjp" not in out


def test_a_wrong_kernel_fails(installed: Path, tmp_path: Path) -> None:
    path = with_wrong_plugin(tmp_path, installed)
    arguments = [*SUITE, "opsgrad.conformance.suite.test_values", "--backend", "wrong"]
    chosen = ["-k", "oracle and wrong-float32-softmax]"]
    assert run([*arguments, *chosen], tmp_path, path)[0] == 0
    code, out = run([*arguments, *chosen], tmp_path, path, WRONG="softmax kernel")
    assert code == 1
    assert "softmax value {} on wrong" in out


def test_the_suite_runs_on_any_namespace(tmp_path: Path) -> None:
    pytest.importorskip("array_api_strict")
    arguments = [*SUITE, "opsgrad.conformance.suite.test_values"]
    code, out = run([*arguments, "--namespace", "array_api_strict", "-k", "oracle"], tmp_path)
    assert code == 0, out[-5000:]


def test_an_unknown_backend_is_named(installed: Path, tmp_path: Path) -> None:
    code, out = run([*SUITE, "opsgrad.conformance", "--backend", "boxd"], tmp_path, installed)
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
    status, out = run(["-c", program], tmp_path, tmp_path)
    assert status == 0, out
    assert "broken  its plugin could not be loaded" in out
    assert "[0.5 0.5]\n1\nsoftmax: backend 'broken' is not available" in out


def test_a_plugin_goes_on_beside_those_that_raise(tmp_path: Path) -> None:
    """Whatever two others raise at import, and wherever they stand in the order of names."""
    plugin(tmp_path, "aaa", "import no_such_library")
    plugin(tmp_path, "zzz", "1 / 0")
    code = "from opsgrad.backends.numpy import NumPyBackend as N\nclass Plugin(N): name = 'sound'"
    plugin(tmp_path, "sound", code)
    program = """
import warnings, opsgrad as og
warnings.simplefilter("ignore")
print(og.softmax([0.0, 0.0], backend="sound"), og.which_backend(og.relu, [1.0], backend="sound"))
print({name: backend.available for name, backend in og.backends().items()})
print(og.to_numpy(og.relu([-1.0])))
"""
    status, out = run(["-c", program], tmp_path, tmp_path)
    assert status == 0, out
    assert "[0.5 0.5] relu runs on sound, because backend='sound' was passed" in out
    for word in ("'aaa': False", "'sound': True", "'zzz': False", "'numpy': True"):
        assert word in out


def test_plugins_are_not_looked_for_until_needed(tmp_path: Path) -> None:
    plugin(tmp_path, "loud", "raise SystemExit('loaded')")
    program = "import numpy, opsgrad as og; og.softmax([0.0]); og.softmax(numpy.zeros(2))"
    assert run(["-c", program], tmp_path, tmp_path) == (0, "")


def test_a_known_defect_is_expected_and_must_have_a_link(installed: Path, tmp_path: Path) -> None:
    path = with_wrong_plugin(tmp_path, installed)
    known = tmp_path / "defects.txt"
    known.write_text("# known\n\nwrong test_against_oracle* https://example.org/1\n")
    (defect,) = read_defects(known)
    assert defect == ("wrong", "test_against_oracle*", "https://example.org/1")
    known.write_text("wrong test_against_oracle* soon\n")
    with pytest.raises(ValueError, match="expected 'backend test link'"):
        read_defects(known)
    assert read_defects(defects_file()) == []

    known.write_text("wrong test_against_oracle*softmax] https://example.org/1\n")
    arguments = [*SUITE, "opsgrad.conformance.suite.test_values", "--backend", "wrong"]
    chosen = ["-k", "oracle and wrong-float64-softmax", "-rx"]
    more = {"WRONG": "softmax vjp", "DEFECTS": str(known)}
    code, out = run([*arguments, *chosen], tmp_path, path, **more)
    assert "https://example.org/1" in out
    assert code == 0, out
    code, out = run([*arguments, *chosen], tmp_path, path, DEFECTS=str(known))
    assert code == 1, "a defect that is gone must be noticed"


def test_python_m_opsgrad_reports(tmp_path: Path) -> None:
    code, out = run(["-m", "opsgrad"], tmp_path)
    assert code == 0
    assert out.startswith("opsgrad ")
    assert "numpy  available" in out

"""The documentation: nothing stale gets in, nothing is left out, and every example runs."""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import opsgrad as og
from benchmarks.report import Report as Speed
from docs.generate import sources, tables
from docs.generate.tables import Measurements, complaints
from opsgrad.conformance import TABLE
from opsgrad.conformance.accuracy.report import FAMILIES, Report

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def measured() -> Measurements:
    return Measurements.read(ROOT)


def test_the_tables_are_those_of_this_library(measured: Measurements) -> None:
    assert complaints(measured) == []


def with_accuracy(measured: Measurements, change: Callable[[Any], Any]) -> Measurements:
    """Return measurements with each accuracy record as `change` returns it, left out if None."""
    changed = [change(record) for record in measured.accuracy.records]
    report = replace(measured.accuracy, records=[one for one in changed if one is not None])
    return replace(measured, accuracy=report)


def with_speed(
    measured: Measurements, change: Callable[[Mapping[str, Any]], Mapping[str, Any] | None]
) -> Measurements:
    part = measured.speed.results["speed"]
    groups = [one for group in part["speed"] if (one := change(group)) is not None]
    results = {**measured.speed.results, "speed": {**part, "speed": groups}}
    return replace(measured, speed=Speed(results))


def of_version(measured: Measurements, version: str) -> Measurements:
    libraries = {**measured.accuracy.libraries, "opsgrad": version}
    return replace(measured, accuracy=replace(measured.accuracy, libraries=libraries))


STALE: dict[str, tuple[Callable[[Measurements], Measurements], str]] = {
    "an op that was not measured": (
        lambda m: with_accuracy(m, lambda r: None if r.op == "relumax" else r),
        "accuracy: relumax value float32 was not measured; run `make accuracy`",
    ),
    "a role that was not measured": (
        lambda m: with_accuracy(m, lambda r: None if (r.op, r.role) == ("tanh", "jvp") else r),
        "accuracy: tanh jvp float64 was not measured; run `make accuracy`",
    ),
    "an op that is no more": (
        lambda m: with_accuracy(m, lambda r: replace(r, op="swish") if r.op == "relu" else r),
        "accuracy: swish value float32 was measured, but is not in the conformance table",
    ),
    "a goal that has changed": (
        lambda m: with_accuracy(m, lambda r: replace(r, goal=9.0) if r.op == "softmax" else r),
        "accuracy: softmax value float32 was measured against 9; its goal is 5",
    ),
    "a figure that the page does not have": (
        lambda m: with_accuracy(m, lambda r: replace(r, ulp=0.123) if r.op == "dense" else r),
        "Other losses, and the affine map on docs/accuracy.md is not what",
    ),
    "another version": (
        lambda m: of_version(m, "0.0.9"),
        f"accuracy: measured with opsgrad 0.0.9, this is {og.__version__}; run `make accuracy`",
    ),
    "a timed op that is no more": (
        lambda m: with_speed(m, lambda g: {**g, "op": "swish"} if g["op"] == "relu" else g),
        "benchmarks: swish was measured, but is not in the conformance table; run `make bench`",
    ),
    "a role that was not timed": (
        lambda m: with_speed(m, lambda g: None if (g["op"], g["role"]) == ("tanh", "VJP") else g),
        "benchmarks: tanh was measured without VJP; run `make bench`",
    ),
    "a page of other timings": (
        lambda m: replace(m, speed_page=m.speed_page.replace("0.", "1.", 1)),
        "benchmarks: docs/benchmarks.md is not what benchmarks/results say; run `make bench`",
    ),
}


@pytest.mark.parametrize("kind", STALE)
def test_what_is_stale_is_refused(measured: Measurements, kind: str) -> None:
    plant, words = STALE[kind]
    assert any(words in complaint for complaint in complaints(plant(measured)))


def test_an_op_without_measurements_is_refused(measured: Measurements) -> None:
    table = {**TABLE, "swish": replace(TABLE["relu"], name="swish")}
    assert "accuracy: swish vjp float32 was not measured; run `make accuracy`" in complaints(
        measured, table
    )


def test_an_op_that_was_never_timed_says_so(measured: Measurements) -> None:
    untimed = with_speed(measured, lambda g: None if g["op"] == "relu" else g)
    assert tables.speed(untimed, "relu").startswith("Not measured")
    assert "| relu | value | 512×512 |" in tables.speed(measured, "relu")


def test_figures_survive_being_written_and_read() -> None:
    measured = Measurements.read(ROOT).accuracy
    again = Report.read(measured.json())
    assert again.records == measured.records
    assert any(record.ulp == float("inf") for record in again.records)


def test_the_matrix_has_every_op(measured: Measurements) -> None:
    matrix = tables.support(measured)
    for name in TABLE:
        assert matrix.count(f"| [{name}]({name}.md) | ") == len(tables.RULES), name
    assert sorted(name for ops in FAMILIES.values() for name in ops) == sorted(TABLE)


def test_the_matrix_says_what_is_compiled(measured: Measurements) -> None:
    pytest.importorskip("llvmlite")
    assert "(softmax.md) | vjp | yes |" in tables.support(measured)
    assert "(dense.md) | value | no |" in tables.support(measured)


def test_definitions_are_shown_without_their_docstrings() -> None:
    assert sources.definition(og.tanh.body) == (
        "@op\ndef tanh(xp: Namespace, x: Array, /) -> Array:\n    return xp.tanh(x)"
    )
    (rule,) = sources.rules(og.tanh)
    assert sources.definition(rule).startswith("@tanh.derivative\ndef _(")
    found = {one.__name__ for one in sources.helpers([og.tanh.body, rule])}
    assert found == {"square_of_one_plus"}
    found = {one.__name__ for one in sources.helpers([og.softmax.body])}
    assert found >= {"shifted_exp", "row_max", "difference", "ShiftedExp"}


def test_every_example_of_the_pages_runs() -> None:
    """What is shown as Python is a doctest, but on the page that test_plugins.py runs by itself."""
    pages = [
        page for page in (ROOT / "docs").rglob("*.md") if page.parent.name not in ("ops", "api")
    ]
    assert len(pages) > 5
    for page in pages:
        text = page.read_text("utf-8")
        for block in re.findall(r"^```\{?(?:python|code).*\n(.*)", text, flags=re.MULTILINE):
            runs = block.startswith(">>>") or page.name == "writing-a-backend.md"
            assert runs, f"{page.name}: {block}"


# -- the pages, which need the packages of the extra `docs` ----------------------------------------


@pytest.fixture(scope="module")
def pages() -> Any:
    pytest.importorskip("matplotlib")
    pytest.importorskip("llvmlite")
    return pytest.importorskip("docs.generate.pages")


@pytest.mark.parametrize("op", ["sigmoid", "relumax", "lp_norm"])
def test_the_page_of_an_op(pages: Any, measured: Measurements, op: str) -> None:
    page = pages.op_page(TABLE[op], measured, derived=True)
    found = re.findall(r"^## (.*)", page, flags=re.MULTILINE)
    assert found == [
        *("Definition", "Derivation", "Beside the plain form"),
        *("Kinks and special values", "Where it runs", "Accuracy", "Speed"),
    ]
    assert f"```{{include}} ../derivations/{op}.md" in page
    assert page.count("<svg") == 4
    assert not set(re.findall(r"#0[\d]0000|#0[12]0[12]0[12]", page))  # each has become a variable
    for table in (part for part in page.split("\n\n") if part.startswith("| ")):
        assert len({re.sub(r"\\\|", "", line).count("|") for line in table.splitlines()}) == 1
    assert "Derivation" not in pages.op_page(TABLE[op], measured, derived=False)


def test_where_the_plain_form_is_as_good_the_page_says_so(pages: Any) -> None:
    assert pages.plots.errors_of(TABLE["relu"]).plain_is_as_exact
    sigmoid = pages.plots.errors_of(TABLE["sigmoid"])
    assert not sigmoid.plain_is_as_exact
    assert sigmoid.ours["vjp"].max() < 4 < 1e6 < sigmoid.plain["vjp"].max()


def test_the_picture_of_the_start_page(pages: Any, measured: Measurements) -> None:
    picture = pages.start.picture(measured)
    assert "phase 2" in picture
    assert "fmul" in picture
    untimed = with_speed(measured, lambda group: None)
    assert "<svg" not in pages.start.picture(untimed)


def test_pages_of_what_is_no_more_are_removed(pages: Any, tmp_path: Path) -> None:
    folder = tmp_path / "ops"
    pages.keep(folder, {"one.md": "1", "two.md": "2"})
    before = (folder / "one.md").stat().st_mtime_ns
    pages.keep(folder, {"one.md": "1"})
    assert [path.name for path in folder.iterdir()] == ["one.md"]
    assert (folder / "one.md").stat().st_mtime_ns == before  # so that Sphinx does not read it again


def test_every_name_that_is_no_op_has_a_page(pages: Any) -> None:
    written = pages.api_pages()
    errors = [name for name in og.__all__ if name.endswith("Error")]
    for name in set(og.__all__) - set(TABLE) - set(errors):
        assert f"{name}.md" in written, name
    for name in errors:
        assert f"autoexception:: {name}" in written["errors.md"]


def test_a_name_without_a_page_is_refused(pages: Any) -> None:
    documented = [f"opsgrad.{name}" for name in og.__all__]
    assert pages.missing(documented) == []
    documented.remove("opsgrad.softmax")
    assert pages.missing(documented) == ["softmax has no page"]

"""The pages of ops and of every other public name, written from the things themselves."""

import inspect
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, get_args, get_origin

import numpy as np

import opsgrad as og
from benchmarks.report import markdown
from docs.generate import plots, sources, start, tables
from opsgrad import annotations
from opsgrad._signature import Range, Role
from opsgrad.conformance import TABLE, Row
from opsgrad.conformance.accuracy.report import FAMILIES
from opsgrad.conformance.row import Point

ERRORS, START = "errors", "start.html"
MOST_ENTRIES = 8
WIDE = "---\nhide-toc: true\n---\n\n"


def write(root: Path, measured: tables.Measurements) -> None:
    """Write all pages into `docs/ops` and `docs/api`, and remove what is there besides."""
    docs = root / "docs"
    derived = (docs / "derivations").is_dir()
    ops = {f"{name}.md": op_page(row, measured, derived=derived) for name, row in TABLE.items()}
    others = {
        "index.md": ops_index(),
        "support.md": support(measured),
        START: start.picture(measured),
    }
    keep(docs / "ops", ops | others)
    keep(docs / "api", api_pages())


def keep(folder: Path, pages: dict[str, str]) -> None:
    """Make a folder hold these pages and no others; those that are as they were stay untouched."""
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        if old.name not in pages:
            old.unlink()
    for name, text in pages.items():
        path = folder / name
        if not path.exists() or path.read_text("utf-8") != text:
            path.write_text(text, "utf-8")


def missing(documented: Iterable[str], public: Sequence[str] = og.__all__) -> list[str]:
    """Return a complaint for each public name that no page documents."""
    found = set(documented)
    return [f"{name} has no page" for name in public if f"opsgrad.{name}" not in found]


# -- an op -----------------------------------------------------------------------------------------


def op_page(row: Row, measured: tables.Measurements, *, derived: bool) -> str:
    """Return the page of an op."""
    parts = [
        f"# {row.name}",
        _pictures(plots.shape_of(row)),
        _documented("autofunction", row.name),
        f"## Definition\n\n{_definition(row)}",
    ]
    if derived:
        parts.append(f"## Derivation\n\n```{{include}} ../derivations/{row.name}.md\n```")
    parts += [
        f"## Beside the plain form\n\n{_plain_form(row)}",
        f"## Kinks and special values\n\n{_points(row)}",
        f"## Where it runs\n\n{_backends(row)}",
        f"## Accuracy\n\n{ACCURACY}\n\n{tables.accuracy(measured, row.name)}",
        f"## Speed\n\n{tables.speed(measured, row.name)}",
    ]
    return "\n\n".join(parts)


ACCURACY = """\
The largest error in units in the last place (ULP), over the whole floating-point range; a + is an
error beyond the goal by no more than the library's own functions exceed one ULP.
[Accuracy](../accuracy.md) tells how this is measured."""
PLAIN = """\
The largest errors in float32, in units in the last place, of this op on NumPy and of the formula as
a textbook writes it: over the whole range of numbers and kinds of rows that the
[accuracy report](../accuracy.md) draws, and against its oracle."""


def summary(thing: Any) -> str:
    """Return the first line of a docstring."""
    return (inspect.getdoc(thing) or "").partition("\n")[0]


def _documented(directive: str, thing: str, *options: str) -> str:
    lines = [".. currentmodule:: opsgrad", "", f".. {directive}:: {thing}"]
    for option in options:
        name, _, value = option.partition(": ")
        lines.append(f"   :{name}: {value}".rstrip())
    return "```{eval-rst}\n" + "\n".join(lines) + "\n```"


def _pictures(panels: Sequence[str]) -> str:
    figures = "".join(f"<figure>{panel}</figure>\n" for panel in panels)
    return f'```{{raw}} html\n<div class="plots">\n{figures}</div>\n```'


def _code(text: str, language: str = "python") -> str:
    return f"```{language}\n{text}\n```"


def _definition(row: Row) -> str:
    op, rules = row.op, sources.rules(row.op)
    shown = "\n\n\n".join(sources.definition(one) for one in (op.body, *rules))
    words = (
        f"All there is, in `{op.__module__.replace('.', '/')}.py`; docstrings aside. `xp` is the "
        "namespace that runs it: an array library, or the tracer that makes a compiled loop of it."
    )
    called = "\n\n\n".join(sources.definition(one) for one in sources.helpers((op.body, *rules)))
    if not called:
        return f"{words}\n\n{_code(shown)}"
    hidden = f"<details>\n<summary>What it calls</summary>\n\n{_code(called)}\n\n</details>"
    return f"{words}\n\n{_code(shown)}\n\n{hidden}"


def _plain_form(row: Row) -> str:
    found = plots.errors_of(row)
    numbers = ", ".join(
        f"{plots.TITLES[role]} {found.largest('ours', role)} here and "
        f"{found.largest('plain', role)} in the plain form"
        for role in found.ours
    )
    if found.plain_is_as_exact:
        return f"Here the textbook's form keeps the goals too: {numbers} (float32, ULP)."
    return f"{PLAIN} At most: {numbers}.\n\n{_pictures(plots.error_panels(found))}"


def _backends(row: Row) -> str:
    by_words: dict[str, list[str]] = {}
    for role, words in tables.words_of_engines(row).items():
        by_words.setdefault(words, []).append(role)
    listed = "\n".join(f"- {', '.join(roles)}: {words}" for words, roles in by_words.items())
    return (
        "On every backend, in value, VJP and JVP: [what runs where](support.md) has the matrix. On "
        f"NumPy arrays, as {{py:obj}}`opsgrad.which_backend` says:\n\n{listed}"
    )


def _points(row: Row) -> str:
    kinks = _points_table(row.kinks) if row.kinks else "The op has no kinks.\n"
    specials = _points_table(row.specials)
    return (
        "Worked out by hand, and tested on every backend, values and gradients. A gradient is that "
        "for the cotangent beside it, ones where there is none.\n\n"
        f'<div class="points">\n\n{kinks}\n'
        f"<details>\n<summary>{len(row.specials)} special values: infinities, NaN, empty arrays, "
        f"the ends of the range</summary>\n\n{specials}\n</details>\n</div>"
    )


def _points_table(points: Sequence[Point]) -> str:
    head = ("where", "arguments", "value", "cotangent", "gradients")
    rows = [
        (
            _cell(point.why + (" (float64)" if point.float64_only else "")),
            ", ".join([*map(_number, point.arrays), *_keywords(point)]),
            _number(point.value),
            "" if point.cotangent is None else _number(point.cotangent),
            "" if point.gradients is None else ", ".join(map(_number, point.gradients)),
        )
        for point in points
    ]
    return markdown(head, rows)


def _keywords(point: Point) -> list[str]:
    return [f"{_code_cell(f'{name}={value!r}')}" for name, value in point.params.items()]


def _number(nested: Any) -> str:
    return _code_cell(_digits(nested))


def _digits(nested: Any) -> str:
    if isinstance(nested, np.ndarray):
        return f"shape {nested.shape}" if nested.size == 0 else _digits(nested.tolist())
    if isinstance(nested, list | tuple):
        if len(nested) > MOST_ENTRIES:
            return f"[{', '.join(map(_digits, nested[:3]))}, … {len(nested):,} entries]"
        return f"[{', '.join(map(_digits, nested))}]"
    return f"{nested:.6g}" if isinstance(nested, float) else str(nested)


def _code_cell(text: str) -> str:
    return f"`{_cell(text)}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


# -- the pages that lead to them -------------------------------------------------------------------


def ops_index() -> str:
    """Return the list of ops, by family."""
    parts = ["# Ops\n\nEach is written once, and each of these pages is made from that."]
    for family, ops in FAMILIES.items():
        rows = [(f"[`{name}`]({name}.md)", _cell(summary(TABLE[name].op))) for name in ops]
        parts.append(f"## {family}\n\n{markdown(('op', 'what it does'), rows)}\n{_toctree(ops)}")
    return "\n\n".join(parts)


def support(measured: tables.Measurements) -> str:
    """Return the page of the support matrix."""
    return f"{WIDE}# What runs where\n\n{tables.MARKS}\n\n{tables.support(measured)}"


def _toctree(names: Iterable[str]) -> str:
    return "```{toctree}\n:hidden:\n\n" + "\n".join(names) + "\n```"


# -- everything else that is public ----------------------------------------------------------------


def api_pages() -> dict[str, str]:
    """Return a page for every public name that is no op; the errors share one."""
    names = [name for name in og.__all__ if name not in TABLE]
    errors = [name for name in names if _is_error(getattr(og, name))]
    others = [name for name in names if name not in errors]
    pages = {f"{name}.md": _api_page(name) for name in others}
    blocks = [_documented("autoexception", name, "show-inheritance") for name in errors]
    pages[f"{ERRORS}.md"] = "\n\n".join(["# Errors", ERRORS_WORDS, *blocks])
    pages["annotations.md"] = _annotations_page()
    rows = [(f"[`{name}`]({name}.md)", _cell(summary(getattr(og, name)))) for name in others]
    rows += [
        (f"[{ERRORS}]({ERRORS}.md)", "What is raised: typed, and naming op and argument."),
        ("[annotations](annotations.md)", summary(annotations)),
    ]
    pages["index.md"] = (
        "# Everything else\n\nAll public names that are not [ops](../ops/index.md).\n\n"
        + markdown(("name", "what it is"), rows)
        + "\n"
        + _toctree([*others, ERRORS, "annotations"])
    )
    return pages


MEMBERS = {
    "Op": ["members: body, derivative, vjp_rule, jvp_rule, jacobian_rule, check_shapes"],
    "Chain": [],
}
"""Of classes that have more than what is for their users."""
ERRORS_WORDS = """\
Every error names the op and the argument, and comes before any work. All of them are
`OpsgradError`, and the builtin error that one would catch besides."""


def _is_error(thing: Any) -> bool:
    return inspect.isclass(thing) and issubclass(thing, Exception)


def _api_page(name: str) -> str:
    thing = getattr(og, name)
    if inspect.isclass(thing):
        return f"# {name}\n\n{_documented('autoclass', name, 'members')}"
    blocks = [f"# {name}", _documented("autofunction", name)]
    returned = _returned(thing)
    if returned is not None:
        path = f"{returned.__module__}.{returned.__qualname__}"
        blocks.append(_documented("autoclass", path, *MEMBERS.get(returned.__name__, ["members"])))
    return "\n\n".join(blocks)


def _annotations_page() -> str:
    rows = [
        (f"`{name}`", _cell(_meaning(getattr(annotations, name)))) for name in annotations.__all__
    ]
    listed = markdown(("annotation", "what it says"), rows)
    return f"# Annotations\n\n{_documented('automodule', 'opsgrad.annotations')}\n\n{listed}"


def _meaning(annotation: Any) -> str:
    """Return what an annotation says of an argument, in the words of the errors it leads to."""
    if annotation is Any:
        return "An array of any library, of floating-point values."
    if inspect.isclass(annotation):
        return summary(annotation)
    marks = get_args(annotation)
    match marks[-1]:
        case Role() as role:
            return f"An array: {role.value}."
        case Range() as allowed:
            return f"A number that is {allowed.words}."
    return "One of " + ", ".join(f'"{one}"' for one in marks) + "."


def _returned(function: Any) -> Any:
    """Return the class of what a function returns, if it is ours and has no page of its own."""
    annotation = inspect.signature(function, eval_str=True).return_annotation
    returned = get_origin(annotation) or annotation
    ours = inspect.isclass(returned) and returned.__module__.startswith("opsgrad.")
    return returned if ours and returned.__name__ not in og.__all__ else None

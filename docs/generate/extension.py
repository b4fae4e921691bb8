"""The Sphinx extension that makes the pages at every build, and holds the build to them.

Before the build it refuses tables that are stale and writes the pages; after reading it refuses a
public name without one.
"""

import re
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.domains.python import PyXRefRole
from sphinx.environment import BuildEnvironment
from sphinx.errors import ExtensionError

import opsgrad as og
from docs.generate import mathematics, pages, tables

ROOT = Path(__file__).parents[2]


def setup(app: Sphinx) -> dict[str, Any]:
    """Enter the extension."""
    app.add_role("name", _name)
    app.connect("builder-inited", _write)
    app.connect("doctree-read", _number_citations)
    app.connect("env-check-consistency", _check)
    app.add_html_math_renderer(
        "mathml",
        inline_renderers=(mathematics.visit_inline, None),
        block_renderers=(mathematics.visit_block, None),
    )
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _name(
    role: str,
    source: str,
    text: str,
    line: int,
    inliner: Any,
    options: Any = None,
    content: Any = (),
) -> tuple[list[nodes.Node], list[nodes.system_message]]:
    """Link what stands in single backquotes if it is a public name, and show it as code if not."""
    if text in og.__all__:
        found: Any = PyXRefRole()
        linked = found("py:obj", source, f"{text} <opsgrad.{text}>", line, inliner)
        return linked[0], linked[1]
    return [nodes.literal(source, text)], []


def _write(app: Sphinx) -> None:
    measured = tables.Measurements.read(ROOT)
    _refuse(tables.complaints(measured))
    pages.write(ROOT, measured)


def _number_citations(app: Sphinx, doctree: nodes.document) -> None:
    """Show [1] where numpydoc has put a label of its own, which it takes back in RST files only."""
    for text in list(doctree.findall(nodes.Text)):
        if number := re.fullmatch(r"\[R[0-9a-f]+-(\w+)\]", text.astext()):
            text.parent.replace(text, nodes.Text(f"[{number[1]}]"))


def _check(app: Sphinx, env: BuildEnvironment) -> None:
    _refuse(pages.missing(env.domains.python_domain.objects))


def _refuse(complaints: list[str]) -> None:
    if complaints:
        raise ExtensionError("\n".join(complaints))

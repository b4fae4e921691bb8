"""What the documentation makes of the library itself: pages, tables and pictures, at every build.

A Sphinx extension. Before the build it refuses tables that are stale and writes the pages; after
reading it refuses a public name without one.
"""

from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.nodes import Node, system_message
from sphinx.application import Sphinx
from sphinx.domains.python import PyXRefRole
from sphinx.environment import BuildEnvironment
from sphinx.errors import ExtensionError

import opsgrad as og
from docs.generate import mathematics, pages, tables

ROOT = Path(__file__).parents[2]


def setup(app: Sphinx) -> dict[str, Any]:
    """Enter the extension."""
    app.add_role("name", Name())
    app.connect("builder-inited", _write)
    app.connect("env-check-consistency", _check)
    app.add_html_math_renderer(
        "mathml",
        inline_renderers=(mathematics.visit_inline, None),
        block_renderers=(mathematics.visit_block, None),
    )
    return {"parallel_read_safe": True, "parallel_write_safe": True}


class Name(PyXRefRole):
    """What stands in single backquotes in docstrings: a public name, or an argument's."""

    def run(self) -> tuple[list[Node], list[system_message]]:
        """Link public names to their pages, and show all others as code."""
        if self.text not in og.__all__:
            return [nodes.literal(self.rawtext, self.text)], []
        self.name, self.target = "py:obj", f"opsgrad.{self.target}"
        return super().run()


def _write(app: Sphinx) -> None:
    measured = tables.Measurements.read(ROOT)
    _refuse(tables.complaints(measured))
    pages.write(ROOT, measured)


def _check(app: Sphinx, env: BuildEnvironment) -> None:
    _refuse(pages.missing(env.domains.python_domain.objects))


def _refuse(complaints: list[str]) -> None:
    if complaints:
        raise ExtensionError("\n".join(complaints))

"""Formulas as MathML, made by docutils at build: browsers show it without a script."""

import re
from typing import Any

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.util.logging import getLogger

LOGGER = getLogger(__name__)


def visit_inline(translator: Any, node: nodes.math) -> None:
    """Write a formula in the text."""
    translator.body.append(_mathml(node, as_block=False))
    raise nodes.SkipNode


def visit_block(translator: Any, node: nodes.math_block) -> None:
    """Write a formula of its own, in a box that scrolls where it is wider than the page."""
    translator.body.append(f'<div class="math">{_mathml(node, as_block=True)}</div>\n')
    raise nodes.SkipNode


def _mathml(node: nodes.Node, *, as_block: bool) -> str:
    # TeX takes a digit without braces, docutils does not.
    tex = re.sub(r"(\\[td]?frac)(\d)(\d)", r"\1{\2}{\3}", node.astext())
    try:
        text = tex2mathml(tex, as_block=as_block)
    except MathError as problem:
        LOGGER.warning("%s in the formula %s", problem, tex, location=node)
        return ""
    return _calm(text)


def _calm(text: str) -> str:
    """Keep braces that enclose no more than a part of a line from growing as high as the line.

    And bars from having spaces around them: browsers take them for operators.
    """
    text = re.sub(r"(<mrow>\s*)?<mo>\{</mo>", lambda m: m[0] if m[1] else _still("{"), text)
    text = re.sub(r"<mo>\}</mo>(\s*</mrow>)?", lambda m: m[0] if m[1] else _still("}"), text)
    return text.replace('<mo stretchy="false">|</mo>', _still("|"))


def _still(fence: str) -> str:
    return f'<mo stretchy="false" lspace="0" rspace="0">{fence}</mo>'

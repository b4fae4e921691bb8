"""The documentation: `make docs` builds it into build/docs."""

import sys
from pathlib import Path

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS.parent))  # the benchmarks, and docs.generate

import opsgrad  # noqa: E402

project = "opsgrad"
author = copyright = "the opsgrad developers"  # noqa: A001
version = release = opsgrad.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "numpydoc",
    "sphinx_copybutton",
    "docs.generate.extension",
]
exclude_patterns = ["derivations/**", "generate/**"]
nitpicky = True

default_role = "name"
add_module_names = False
autodoc_typehints = "none"
autodoc_member_order = "bysource"
numpydoc_show_class_members = False

myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3
html_math_renderer = "mathml"
copybutton_prompt_text = r">>> |\.\.\. "
copybutton_prompt_is_regexp = True

highlight_options = {"python": {"stripnl": True}}  # doctests in Markdown end with a blank line

html_theme = "furo"
html_title = f"opsgrad {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
pygments_style = "tango"
pygments_dark_style = "monokai"

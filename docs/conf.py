"""Sphinx's settings for the manual."""

import re

project = "Manyhands"
author = "Manyhands contributors"
extensions = ["myst_parser", "sphinx.ext.autodoc"]
html_theme = "furo"
html_title = "Manyhands"
exclude_patterns = ["benchmarks/*"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "none"


def setup(app):
    app.connect("autodoc-process-docstring", plain_text)


def plain_text(app, what, name, obj, options, lines):
    """Our docstrings are plain text: tables of arguments stay as they are, and stars are stars."""
    shown, in_table = [], False
    for line in lines:
        begins = bool(re.match(r"\w+ {2,}\S", line)) and (not shown or not shown[-1].strip())
        if begins and not in_table:
            shown += ["::", ""]
        in_table = bool(line.strip()) and (in_table or begins)
        shown.append("    " + line if in_table else line if line.startswith((">>>", "...")) else line.replace("*", r"\*"))
    lines[:] = shown

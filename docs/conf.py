"""Sphinx's settings for the manual."""

project = "Manyhands"
author = "Manyhands contributors"
extensions = ["myst_parser", "sphinx.ext.autodoc"]
html_theme = "furo"
html_title = "Manyhands"
exclude_patterns = ["benchmarks/*"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "none"

"""How Sphinx builds the documentation: `make docs`."""

project = "Chappe"
author = "The Chappe authors"
copyright = "2026, the Chappe authors"
extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "Chappe"
myst_heading_anchors = 3
nitpicky = True

"""How Sphinx builds the documentation: `make docs`."""

project = "Noria"
author = "The Noria authors"
copyright = "2026, the Noria authors"
extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "Noria"
myst_heading_anchors = 3
nitpicky = True

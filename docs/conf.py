"""Sphinx: the Markdown pages of this directory, as a site. `make docs` builds it into build/docs."""

from fastgw import __version__

project = "fastgw"
author = "The fastgw developers"
copyright = "The fastgw developers"
version = release = __version__

extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
myst_heading_anchors = 3
html_theme = "furo"
html_title = f"fastgw {__version__}"

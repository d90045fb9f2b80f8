"""The documentation as a site: `make docs`. Nothing is fetched, neither here nor by the browser."""

import sys
from pathlib import Path

from hklflow import __version__

sys.path[:0] = [str(Path(__file__).parent / "_ext"), str(Path(__file__).parent)]

project = "hklflow"
author = "the hklflow developers"
copyright = f"2026, {author}"
release = __version__

extensions = ["myst_parser", "hklflow_site"]
exclude_patterns = ["_build", "_ext"]
myst_enable_extensions = ["dollarmath", "deflist", "colon_fence"]
myst_heading_anchors = 4
html_math_renderer = "mathml"

highlight_language = "none"

html_theme = "furo"
html_title = f"hklflow {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False

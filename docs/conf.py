"""Configuration of the documentation. `nox -s docs` builds it; nothing on the built pages needs the network."""

import os
import sys
import warnings
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the examples are small: a second thread costs more than it gives
HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))

project = "fuse"
author = "The fuse packages contributors"
project_copyright = author
language = "en"

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
    "sphinxcontrib.mermaid",
    "docstrings",
    "included_pages",
    "mathml",
    "mermaid_script",
    "pages",
]
exclude_patterns = ["_build", "_built", "_ext", "gallery", "**/sg_execution_times.rst"]
exclude_patterns += ["sg_execution_times.rst"]

# Every name that a page refers to must exist. Types of other libraries have no pages here.
nitpicky = True
nitpick_ignore_regex = [
    (r"py:.*", r"(?!fuse_).*"),
    (r"py:class", r"fuse_\w+\.(?!functional\.|lightning\.)\w+\..*"),  # types of a signature that are not public
]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "show-inheritance": True}
python_maximum_signature_line_length = 88
python_use_unqualified_type_names = True
autosummary_generate = False  # pages.py writes the pages
autosummary_filename_map = {"fuse_core.collate": "fuse_core.collate-function"}  # beside Collate
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
add_module_names = False
toc_object_entries_show_parents = "hide"

myst_enable_extensions = ["colon_fence", "dollarmath", "attrs_inline"]
myst_fence_as_directive = ["mermaid"]
myst_heading_anchors = 3
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

# The scripts run in the build. A script whose content did not change is not run again.
sphinx_gallery_conf = {
    "examples_dirs": "gallery",
    "gallery_dirs": "examples",
    "filename_pattern": r"\.py$",
    "within_subsection_order": "FileNameSortKey",
    "download_all_examples": False,
    "capture_repr": (),  # only what is printed: seed_everything returns the seed
    "show_memory": False,
    "show_signature": False,
    "min_reported_time": 3600,
    "abort_on_example_error": True,
    "reset_modules": ("matplotlib",),
    "plot_gallery": os.environ.get("FUSE_DOCS_GALLERY", "1") == "1",
}

highlight_language = "none"
html_theme = "pydata_sphinx_theme"
html_title = "fuse"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_js_files = ["names.js"]
html_search_scorer = str(HERE / "_static" / "search_score.js")
html_favicon = "_static/favicon.svg"
html_context = {"default_mode": "auto"}
html_show_sourcelink = False
html_copy_source = False
html_sidebars = {"index": [], "ideas": []}
html_theme_options = {
    "logo": {"text": "fuse"},
    "header_links_before_dropdown": 6,
    "navbar_end": ["theme-switcher"],
    "show_prev_next": True,
    "footer_start": ["copyright"],
    "footer_end": [],
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
    "secondary_sidebar_items": ["page-toc"],
    "show_toc_level": 2,
}

linkcheck_anchors = False
linkcheck_timeout = 20

warnings.filterwarnings("ignore", category=UserWarning, module="pytorch_lightning")
warnings.filterwarnings("ignore", message=".*LeafSpec.* is deprecated")  # Lightning's use of torch, printed with a path

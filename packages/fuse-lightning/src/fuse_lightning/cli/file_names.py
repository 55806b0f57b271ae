"""What the commands write to the run folder."""

from fuse_lightning.report.run_page import DATA_FILE, PAGE_FILE
from fuse_lightning.run_folder import LOG_FILES, MODEL_DIR_FILES, PREDICTIONS_FILE

CONFIG_FILE = "config.yaml"
CONFIG_START = "# pytorch_lightning=="  # a folder whose config.yaml starts with this is that of a run
CONFIG_FILES = (CONFIG_FILE, "config_[0-9]*.yaml")
LOGS = "logs"
RESULT_FILE = "result.json"
REPORT_FILES = (PAGE_FILE, DATA_FILE)

WRITTEN = (
    *CONFIG_FILES,
    *MODEL_DIR_FILES,
    PREDICTIONS_FILE,
    RESULT_FILE,
    *REPORT_FILES,
    *(f"{LOGS}/{name}" for name in LOG_FILES),
)
"""Patterns of the files that `--overwrite` replaces."""

# Folders within the run folder, see earlier_run.py. The names of the other two start with that of the first.
EARLIER_RUN = ".earlier_run"
EARLIER_RUN_IN_PART = ".earlier_run_in_part"  # the rest is still, or again, in the run folder
EARLIER_RUN_REMOVED = ".earlier_run_removed"

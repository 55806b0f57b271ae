import pytest

from tools import environments
from tools.packages import PACKAGES


class Session:
    """Records the environment variables of the commands that install and build."""

    def __init__(self):
        self.environments = []

    def run_install(self, *command, env):
        self.environments.append(env)


@pytest.mark.parametrize(("links", "expected"), [("/wheels,/more", {"UV_FIND_LINKS": "/wheels,/more"}), ("", {})])
def test_builds_and_installs_find_wheels_where_pip_finds_them(monkeypatch, tmp_path, links, expected):
    monkeypatch.setattr(environments, "uv_find_links", lambda: links)
    session = Session()
    environments.build_distribution(session, PACKAGES["fuse-optim"], "wheel", tmp_path)
    environments.install(session, "pytest")
    assert session.environments == [expected, expected]

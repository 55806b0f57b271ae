import re
import tomllib

import pytest

from tools.packages import PACKAGES, ROOT

CONTRACTS = tomllib.loads((ROOT / "tools" / "importlinter.toml").read_text())["tool"]["importlinter"]["contracts"]
LAYERS = {contract["containers"][0]: contract["layers"] for contract in CONTRACTS if "containers" in contract}


def test_every_package_has_layers():
    assert set(LAYERS) == {package.import_name for package in PACKAGES.values()}


@pytest.mark.parametrize("package", PACKAGES.values(), ids=lambda package: package.short_name)
def test_the_page_draws_the_layers_that_are_checked(package):
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    section = re.search(rf"^## {package.name}$(.+?)(^## |\Z)", page, flags=re.DOTALL | re.MULTILINE)[1]
    drawing = re.search(r"```mermaid\n(.+?)```", section, flags=re.DOTALL)[1]
    modules = {module for layer in LAYERS[package.import_name] for module in re.split(r"[ |:]+", layer)}
    assert [module for module in sorted(modules) if not re.search(rf"\b{module}\b", drawing)] == []

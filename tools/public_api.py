"""Prints the breaking changes of a package's public names: `public_api.py fuse_losses OLD_SRC NEW_SRC`, one a line.

Public are the names in `__all__` of the package and of its subpackages. Needs griffe, which reads source files only.
"""

import sys
from pathlib import Path

import griffe


def public_modules(package: str, source: Path) -> dict[str, griffe.Module]:
    """The package and each subpackage with `__all__`, as modules with only those names."""
    root = griffe.load(package, search_paths=[source], allow_inspection=False)
    found = {}
    for path in sorted(source.joinpath(package).rglob("__init__.py")):
        name = ".".join(path.parent.relative_to(source).parts)
        module = root if name == package else root[name.removeprefix(f"{package}.")]
        if module.exports is None or any(part.startswith("_") for part in name.split(".")):
            continue
        found[name] = public = griffe.Module(name)
        public.exports = [str(export) for export in module.exports if str(export) != "__version__"]
        for export in public.exports:
            member = module.members[export]
            if member.is_module and export in member.members:  # a function and its file have one name
                member = member.members[export]
            # Not set_member: a class that moves loses the module in which the names of its bases are found.
            public.members[export] = (
                griffe.Alias(export, member.final_target, parent=public) if member.is_alias else member
            )
    return found


def breaking_changes(package: str, old_source: Path, new_source: Path) -> list[str]:
    """What a user of the old version may have to change, a line each."""
    old, new = public_modules(package, old_source), public_modules(package, new_source)
    found = []
    for name, module in old.items():
        if name not in new:
            found.append(f"{name}: was removed")
            continue
        for change in griffe.find_breaking_changes(module, new[name]):
            what = getattr(change.old_value, "name", "")
            found.append(f"{change.obj.path}: {change.kind.value} {what} {change.details}".rstrip())
    return found


if __name__ == "__main__":
    for line in breaking_changes(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])):
        print(line)

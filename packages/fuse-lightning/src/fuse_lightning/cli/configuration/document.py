"""Configuration files and options as one tree of YAML nodes, in which each node knows where it was written."""

from pathlib import Path
from typing import Any

import yaml

COMPONENTS = {"model": "fuse_lightning.LightningModuleDefault", "data": "fuse_lightning.DataModuleDefault"}
NEEDS_CLASS = "it needs class_path, such as {}, and its init_args."
CLASS_KEYS = ("class_path", "init_args", "dict_kwargs")
STRING, NULL, MAPPING = (f"tag:yaml.org,2002:{name}" for name in ("str", "null", "map"))


class Document:
    """The configuration that a command's arguments give: later files and options override earlier ones.

    `problems` has a line for each file that cannot be read, and for each key that a mapping holds twice.
    """

    def __init__(self, arguments: list[str]) -> None:
        self.root: Any = yaml.MappingNode(MAPPING, [])
        self.problems: list[str] = []
        for argument, following in zip(arguments, [*arguments[1:], "--"], strict=True):
            option, equals, text = argument.partition("=")
            text = text if equals else "true" if following.startswith("--") else following
            if option in ("-c", "--config"):
                self.root = merged(self.root, self._file(Path(text)))
            elif option.startswith("--") and not option.startswith("--print_config") and "+" not in option:
                self.root = with_value(self.root, option.removeprefix("--").split("."), self._option(option, text))

    def _file(self, path: Path) -> Any:
        node = self._read(path)
        if not isinstance(node, yaml.MappingNode) and not self.problems:
            self.problems.append(f"{path} holds no keys; it needs trainer, model and data.")
        parts = [(key, self._component(name, value, path.parent)) for name, (key, value) in entries(node).items()]
        return yaml.MappingNode(MAPPING, parts)

    def _option(self, option: str, text: str) -> Any:
        try:
            value = self._compose(text, option) or yaml.ScalarNode(NULL, "")
        except yaml.YAMLError:
            value = yaml.ScalarNode(STRING, text)
        value.start_mark = yaml.Mark(option, 0, 0, 0, None, 0)
        return self._component(option.removeprefix("--"), value, Path())

    def _component(self, key: str, value: Any, folder: Path) -> Any:
        """The value of a key; of a module or data in a file of its own, what that file holds."""
        if key not in COMPONENTS or not is_text(value) or not (folder / value.value).is_file():
            return value
        node = self._read(folder / value.value)
        if "class_path" not in entries(node):
            self.problems.append(f"{folder / value.value}: {key}: {NEEDS_CLASS.format(COMPONENTS[key])}")
        return node or value

    def _read(self, path: Path) -> Any:
        try:
            return self._compose(path.read_text(encoding="utf-8"), str(path))
        except (OSError, UnicodeDecodeError) as error:
            self.problems.append(f"{path} cannot be read: {error}.")
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else "?"
            self.problems.append(f"{path}:{line}: this is not YAML: {error.problem}. Check indentation and colons.")
        return None

    def _compose(self, text: str, source: str) -> Any:
        loader = yaml.SafeLoader(text)
        loader.name = source  # the marks of its nodes get this name
        root = loader.get_single_node()
        self._check_keys(loader, root, "")
        return root

    def _check_keys(self, loader: yaml.SafeLoader, node: Any, prefix: str) -> None:
        """Find keys that a mapping holds twice, and replace `<<: *anchor` by what it names."""
        if isinstance(node, yaml.MappingNode):
            names = [key.value for key, _ in node.value]
            for position, (key, _) in enumerate(node.value):
                if key.value in names[:position] and key.value != "<<":
                    self.problems.append(f"{place(key, prefix + key.value)}: this key is there twice.")
            loader.flatten_mapping(node)
        for name, (_, value) in entries(node).items():
            self._check_keys(loader, value, f"{prefix}{name}.")


def entries(node: Any) -> dict[str, tuple[Any, Any]]:
    """The nodes of key and value, by key, in a mapping; the items by position in a list; none in anything else."""
    if isinstance(node, yaml.SequenceNode):
        return {str(position): (item, item) for position, item in enumerate(node.value)}
    return {key.value: (key, value) for key, value in node.value} if isinstance(node, yaml.MappingNode) else {}


def is_text(node: Any) -> bool:
    """Whether it is a single value, and not null."""
    return isinstance(node, yaml.ScalarNode) and node.tag != NULL


def place(node: Any, key: str) -> str:
    """Where a node was written: the option, or the file with line and key."""
    mark = node.start_mark
    return mark.name if mark.name.startswith("--") else f"{mark.name}:{mark.line + 1}: {key}"


def merged(earlier: Any, later: Any) -> Any:
    """The later node, with what an earlier mapping holds beside it."""
    if not (isinstance(earlier, yaml.MappingNode) and isinstance(later, yaml.MappingNode)):
        return later
    result = entries(earlier)
    for name, (key, value) in entries(later).items():
        result[name] = (key, merged(result[name][1], value) if name in result else value)
    return yaml.MappingNode(MAPPING, list(result.values()), later.start_mark)


def with_value(node: Any, path: list[str], value: Any) -> Any:
    """A node with the value of an option in its place. As in the parser, the option may leave out `init_args`."""
    if not path or isinstance(node, yaml.SequenceNode):  # what belongs to an item of a list, the parser judges
        return node if path else merged(node, value)
    names = [yaml.ScalarNode(STRING, name, value.start_mark) for name in ("class_path", path[0])]
    result = {"class_path": (names[0], node)} if is_text(node) else entries(node)  # a class by its path alone
    if "class_path" in result and path[0] not in CLASS_KEYS:
        return with_value(yaml.MappingNode(MAPPING, list(result.values())), ["init_args", *path], value)
    _, old = result.get(path[0], (None, None))
    result[path[0]] = (names[1], with_value(old, path[1:], value))
    return yaml.MappingNode(MAPPING, list(result.values()), value.start_mark)

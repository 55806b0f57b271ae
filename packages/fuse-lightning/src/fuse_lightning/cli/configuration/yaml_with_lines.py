"""Configuration files and options as one tree of YAML nodes, in which each node knows where it was written."""

from pathlib import Path
from typing import Any

import yaml

CLASS_KEYS = ("class_path", "init_args", "dict_kwargs")
STRING, NULL, MAPPING = (f"tag:yaml.org,2002:{name}" for name in ("str", "null", "map"))
Problem = tuple[Any, str, str]  # a node, its dotted key, and what is wrong with it


def read_arguments(arguments: list[str]) -> tuple[yaml.MappingNode, list[Problem]]:
    """What a command's arguments configure, later ones overriding earlier ones, and keys that a file holds twice."""
    root = yaml.MappingNode(MAPPING, [])
    problems: list[Problem] = []
    for argument, following in zip(arguments, [*arguments[1:], "--"], strict=True):
        option, equals, text = argument.partition("=")
        text = text if equals else "true" if following.startswith("--") else following
        if option in ("-c", "--config"):
            folder, node = Path(text).parent, _read(Path(text).read_text(encoding="utf-8"), text, problems)
        elif option.startswith("--") and not option.startswith("--print_config") and "+" not in option:
            folder, node = Path(), _read(text, option, problems)
            for name in reversed(option.removeprefix("--").split(".")):
                node = _mapping(name, node)
        else:
            continue
        parts = entries(node)
        for key in ("model", "data"):  # each may be in a file of its own
            if key in parts and is_text(parts[key][1]) and (path := folder / parts[key][1].value).is_file():
                parts[key] = (parts[key][0], _read(path.read_text(encoding="utf-8"), str(path), problems))
        root = _merged(root, yaml.MappingNode(MAPPING, list(parts.values()), node.start_mark))
    return root, problems


def _read(text: str, source: str, problems: list[Problem]) -> yaml.Node:
    loader = yaml.SafeLoader(text)
    loader.name = source  # the marks of its nodes get this name
    root = loader.get_single_node() or yaml.ScalarNode(NULL, "", loader.get_mark())
    _check_keys(loader, root, "", problems)
    return root


def _check_keys(loader: yaml.SafeLoader, node: Any, prefix: str, problems: list[Problem]) -> None:
    """Find keys that a mapping holds twice, and replace `<<: *anchor` by what it names."""
    if isinstance(node, yaml.MappingNode):
        names = [key.value for key, _ in node.value]
        for position, (key, _) in enumerate(node.value):
            if key.value in names[:position] and key.value != "<<":
                problems.append((key, prefix + key.value, "this key is there twice."))
        loader.flatten_mapping(node)
    for name, (_, value) in entries(node).items():
        _check_keys(loader, value, f"{prefix}{name}.", problems)


def _mapping(key: str, value: Any) -> yaml.MappingNode:
    """A mapping of one key, which was written where its value is."""
    return yaml.MappingNode(MAPPING, [(yaml.ScalarNode(STRING, key, value.start_mark), value)], value.start_mark)


def _merged(earlier: Any, later: Any) -> Any:
    """The later node, with what an earlier mapping holds beside it. An option's path may leave out `init_args`."""
    if isinstance(later, yaml.MappingNode) and is_option(later):
        if isinstance(earlier, yaml.SequenceNode):  # it belongs to the last item, which is left to the parser
            return earlier
        if is_text(earlier):  # a class by its path alone
            earlier = _mapping("class_path", earlier)
        if "class_path" in entries(earlier) and not any(key in CLASS_KEYS for key in entries(later)):
            later = _mapping("init_args", later)
    if not (isinstance(earlier, yaml.MappingNode) and isinstance(later, yaml.MappingNode)):
        return later
    result = entries(earlier)
    for name, (key, value) in entries(later).items():
        result[name] = (key, _merged(result[name][1], value) if name in result else value)
    return yaml.MappingNode(MAPPING, list(result.values()), later.start_mark)


def entries(node: Any) -> dict[str, tuple[Any, Any]]:
    """The nodes of key and value, by key, in a mapping; the items by position in a list; none in anything else."""
    if isinstance(node, yaml.SequenceNode):
        return {f"[{position}]": (item, item) for position, item in enumerate(node.value)}
    return {key.value: (key, value) for key, value in node.value} if isinstance(node, yaml.MappingNode) else {}


def is_text(node: Any) -> bool:
    """Whether it is a single value, and not null."""
    return isinstance(node, yaml.ScalarNode) and node.tag != NULL


def is_option(node: Any) -> bool:
    """Whether it was written on the command line."""
    return bool(node.start_mark.name.startswith("--"))

"""Checks before the first step that every key that a component reads is there."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from .did_you_mean import nearest_keys
from .flat_keys import has_branch, provides
from .ndict import NDict
from .tree_and_table import table

BATCH = "the batch"


class WiringError(ValueError):
    """The keys of some components do not fit together. The message lists all problems.

    Attributes:
        problems: one sentence per problem.
        notes: one sentence per check that was not possible.
    """

    def __init__(self, problems: Iterable[str], notes: Iterable[str] = ()) -> None:
        self.problems = tuple(problems)
        self.notes = tuple(notes)
        super().__init__(self.problems, self.notes)

    def __str__(self) -> str:
        count = f"{len(self.problems)} problem{'s' * (len(self.problems) > 1)}"
        lines = [f"{count} in how components are wired:", *(f"- {problem}" for problem in self.problems)]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


@dataclass(frozen=True)
class Wiring:
    """The writer and the readers of each key. `print` shows them as a table.

    Attributes:
        writers: for each key, the component that writes it, or the batch.
        readers: for each key that is read, its readers in the order of the components.
        notes: one sentence per check that was not possible.
    """

    writers: dict[str, str] = field(default_factory=dict)
    readers: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        keys = dict.fromkeys((*self.writers, *self.readers))
        rows = [(key, self.writers.get(key, "-"), ", ".join(self.readers.get(key, ["-"]))) for key in keys]
        return "\n".join([table(("key", "written by", "read by"), rows), *(f"note: {note}" for note in self.notes)])

    def to_mermaid(self) -> str:
        """A flowchart in the Mermaid language, which GitHub draws. Components are boxes, keys are rounded.

        Put it into a Markdown file as a code block of the language `mermaid`.
        """
        keys = [key for key in dict.fromkeys((*self.writers, *self.readers)) if self._is_drawn(key)]
        actors = dict.fromkeys(self.writers.get(key, "") for key in keys)
        actors.update(dict.fromkeys(reader for key in keys for reader in self.readers.get(key, ())))
        actors.pop("", None)
        names = {actor: f"c{i}" for i, actor in enumerate(actors)}
        lines = ["flowchart LR"]
        lines += [f'    {name}["{_escaped(actor)}"]' for actor, name in names.items()]
        for i, key in enumerate(keys):
            lines.append(f'    k{i}(["{_escaped(key)}"])')
            if key in self.writers:
                lines.append(f"    {names[self.writers[key]]} --> k{i}")
            lines += [f"    k{i} --> {names[reader]}" for reader in self.readers.get(key, ())]
        return "\n".join(lines)

    def _is_drawn(self, key: str) -> bool:
        """Not drawn: keys of the batch that no component reads."""
        return key in self.readers or self.writers[key] != BATCH


def _escaped(label: str) -> str:
    return label.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;").replace(">", "&gt;")


def check_wiring(
    components: Mapping[str, Any] | Iterable[Any], available_keys: Iterable[str] | Mapping[str, Any]
) -> Wiring:
    """Follow the keys from component to component and report all mistakes at once.

    A component declares its keys in `reads` and `writes`. One that only declares `reads` writes nothing. A key can be
    read if the batch holds it or a key below it, or if an earlier component writes it, a key below it or a branch
    above it.

    A component that declares neither is skipped, with a note. It may write any key outside of `data`. So a key that is
    missing after it becomes a note instead of a problem, except below `data`.

    Args:
        components: the components in the order in which they run, by name or in a sequence.
        available_keys: the dotted keys of the batch, or the batch itself.

    Raises:
        WiringError: a component reads a key that is not there, or two components write the same key. The message lists
            all problems, with the nearest keys and their writers.

    Example:
        >>> class Model:
        ...     reads, writes = ("data.image",), ("model.logits.cls",)
        >>> class Loss:
        ...     reads = ("model.logits.cls", "data.label")
        >>> print(check_wiring({"lenet": Model(), "cross_entropy": Loss()}, ["data.image", "data.label"]))
        key               written by     read by
        data.image        the batch      Model 'lenet'
        data.label        the batch      Loss 'cross_entropy'
        model.logits.cls  Model 'lenet'  Loss 'cross_entropy'
    """
    named = _named(components)
    available = _keys("available_keys", available_keys)
    wiring = Wiring(writers=dict.fromkeys(available, BATCH))
    later_writers = {key: name for name, component in reversed(named) for key in _declared(name, component, "writes")}
    undeclared: list[str] = []
    problems: list[str] = []
    for name, component in named:
        if getattr(component, "reads", None) is None and getattr(component, "writes", None) is None:
            undeclared.append(name)
            wiring.notes.append(f"{name} declares neither reads nor writes and was skipped.")
            continue
        for key in _declared(name, component, "reads"):
            wiring.readers.setdefault(key, []).append(name)
            if not _is_there(key, wiring.writers):
                problem = f"{name} reads {key!r}, which nothing before it provides.{_hint(key, wiring, later_writers)}"
                if undeclared and not key.startswith("data."):
                    wiring.notes.append(f"{problem} {undeclared[-1]}, which declares no keys, may write it.")
                else:
                    problems.append(problem)
        for key in _declared(name, component, "writes"):
            other = wiring.writers.get(key, BATCH)
            if other != BATCH:
                problems.append(f"{key!r} is written by {other} and again by {name}. Give one of them another key.")
            wiring.writers[key] = name
    if problems:
        raise WiringError(problems, wiring.notes)
    return wiring


def _named(components: Mapping[str, Any] | Iterable[Any]) -> list[tuple[str, Any]]:
    """The components with unique names."""
    if isinstance(components, Mapping | nn.ModuleDict):
        return [(f"{_kind(component)} {name!r}", component) for name, component in components.items()]
    listed = list(components)
    kinds = [_kind(component) for component in listed]
    unique = [kind if kinds.count(kind) == 1 else f"{kind} {kinds[:i].count(kind)}" for i, kind in enumerate(kinds)]
    return list(zip(unique, listed, strict=True))


def _declared(name: str, component: Any, attribute: str) -> Iterable[str]:
    return _keys(f"{name}.{attribute}", getattr(component, attribute, None) or ())


def _keys(what: str, keys: Any) -> Iterable[str]:
    if isinstance(keys, str):
        raise TypeError(f"{what} takes a sequence of keys, got the string {keys!r}. Use [{keys!r}].")
    return NDict(keys) if isinstance(keys, Mapping) else keys


def _kind(component: Any) -> str:
    return str(getattr(component, "__name__", type(component).__name__))


def _is_there(key: str, writers: Mapping[str, str]) -> bool:
    written = (other for other, writer in writers.items() if writer != BATCH)
    return key in writers or has_branch(writers, key) or provides(written, key)


def _hint(key: str, wiring: Wiring, later_writers: Mapping[str, str]) -> str:
    if key in later_writers:
        return f" {later_writers[key]} writes it, but runs later: move it forward."
    nearest = nearest_keys(key, wiring.writers)
    if not nearest:
        return f" There are: {', '.join(map(repr, wiring.writers)) or 'no keys at all'}."
    writers = {near: wiring.writers.get(near) for near in nearest}
    origins = {None: "a branch", BATCH: "in the batch"}
    described = [f"{near!r} ({origins.get(writer, f'written by {writer}')})" for near, writer in writers.items()]
    return f" Nearest keys: {', '.join(described)}."

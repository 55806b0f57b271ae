"""Checks before the first step that every key that a component reads is there."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from .did_you_mean import nearest_keys
from .flat_keys import branches_above, has_branch, keys_at_or_below, keys_below, plain, provides
from .ndict import NDict
from .tree_and_table import table

BATCH = "the batch"


class WiringError(ValueError):
    """The keys of some components do not fit together. The message lists all problems.

    Attributes:
        problems: one sentence per problem.
        notes: one sentence per check that was not possible.

    Example:
        >>> class Loss:
        ...     reads = ["model.logits.cls"]
        >>> try:
        ...     check_wiring({"ce": Loss()}, ["data.image"])
        ... except WiringError as error:
        ...     print(error.problems[0])
        Loss 'ce' reads 'model.logits.cls', which nothing before it provides. There are: 'data.image'.
    """

    subject = "in how components are wired"

    def __init__(self, problems: Iterable[str], notes: Iterable[str] = ()) -> None:
        self.problems = tuple(problems)
        self.notes = tuple(notes)
        super().__init__(self.problems, self.notes)

    def __str__(self) -> str:
        count = f"{len(self.problems)} problem{'s' * (len(self.problems) > 1)}"
        lines = [f"{count} {self.subject}:", *(f"- {problem}" for problem in self.problems)]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


@dataclass(frozen=True)
class Wiring:
    """The writer and the readers of each key. `print` shows them as a table.

    Attributes:
        writers: for each key, the component that writes it, or the batch.
        readers: for each key that is read, its readers in the order of the components.
        notes: one sentence per check that was not possible.

    Example:
        >>> class Model:
        ...     reads, writes = ["data.image"], ["model.logits.cls"]
        >>> wiring = check_wiring({"net": Model()}, ["data.image"])
        >>> wiring.writers
        {'data.image': 'the batch', 'model.logits.cls': "Model 'net'"}
        >>> wiring.readers
        {'data.image': ["Model 'net'"]}
    """

    writers: dict[str, str] = field(default_factory=dict)
    readers: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        keys = dict.fromkeys((*self.writers, *self.readers))
        rows = [(key, self.writers.get(key, "-"), ", ".join(self.readers.get(key, ["-"]))) for key in keys]
        return "\n".join([table(("key", "written by", "read by"), rows), *(f"note: {note}" for note in self.notes)])

    def to_mermaid(self, labels: Mapping[str, str] | None = None) -> str:
        """A flowchart in the Mermaid language, which GitHub draws. Components are boxes, keys are rounded.

        Keys of the batch that no component reads are left out. Put it into a Markdown file as a code block of the
        language `mermaid`. `labels` are texts by key, for the edge from its writer.
        """
        keys = [key for key, writer in self.writers.items() if writer != BATCH or key in self.readers]
        keys += [key for key in self.readers if key not in self.writers]
        actors = dict.fromkeys(self.writers.get(key, "") for key in keys)
        actors.update(dict.fromkeys(reader for key in keys for reader in self.readers.get(key, ())))
        actors.pop("", None)
        names = {actor: f"c{i}" for i, actor in enumerate(actors)}
        lines = ["flowchart LR"]
        lines += [f'    {name}["{_escaped(actor)}"]' for actor, name in names.items()]
        for i, key in enumerate(keys):
            label = (labels or {}).get(key)
            arrow = f'-- "{_escaped(label)}" -->' if label else "-->"
            lines.append(f'    k{i}(["{_escaped(key)}"])')
            if key in self.writers:
                lines.append(f"    {names[self.writers[key]]} {arrow} k{i}")
            lines += [f"    k{i} --> {names[reader]}" for reader in self.readers.get(key, ())]
        return "\n".join(lines)


def _escaped(label: str) -> str:
    return label.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;").replace(">", "&gt;")


def check_wiring(
    components: Mapping[str, Any] | Iterable[Any], available_keys: Iterable[str] | Mapping[str, Any]
) -> Wiring:
    """Follow the keys from component to component and report all mistakes at once.

    A component declares its keys in `reads` and `writes`. One that only declares `reads` writes nothing. A key can be
    read if the batch holds it or a key below it, or if an earlier component writes it, a key below it or a branch
    above it.

    A component may also declare `optional_reads`, the keys that it reads if they are there, and `removes`, the keys and
    branches that it removes. Writing a branch replaces the keys below it.

    A component that declares no keys is skipped, with a note. It may write any key outside of `data`. So a key that is
    missing after it becomes a note instead of a problem, except below `data`.

    Args:
        components: the components in the order in which they run, by name or in a sequence.
        available_keys: the dotted keys of the batch, or the batch itself.

    Raises:
        WiringError: a component reads a key that is not there, or writes a key or branch that another component has
            written. The message lists all problems, with the nearest keys and their writers.
        TypeError: the keys of a component are not a sequence of strings.

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
    declared = [(name, _DeclaredKeys(name, component)) for name, component in unique_names(components)]
    wiring = Wiring(writers=dict.fromkeys(_keys("available_keys", available_keys), BATCH))
    there = dict(wiring.writers)
    gone: dict[str, str] = {}  # removed keys, and the components that removed them
    undeclared: list[str] = []
    problems: list[str] = []
    for position, (name, keys) in enumerate(declared):
        if not keys.are_declared:
            undeclared.append(name)
            wiring.notes.append(f"{name} declares neither reads nor writes and was skipped.")
            continue
        for key in dict.fromkeys(keys.reads):
            wiring.readers.setdefault(key, []).append(name)
            if not _is_there(key, there, gone):
                problem = f"{name} reads {key!r}, which nothing before it provides."
                problem += _hint(key, there, gone, declared[position:])
                if undeclared and not key.startswith("data."):
                    wiring.notes.append(f"{problem} {undeclared[-1]}, which declares no keys, may write it.")
                else:
                    problems.append(problem)
        for key in keys.optional_reads:
            if _is_there(key, there, gone):
                wiring.readers.setdefault(key, []).append(name)
        for key in keys.removes:
            if not _is_there(key, there, gone):
                wiring.notes.append(f"{name} removes {key!r}, which nothing before it provides.")
        for key in keys_at_or_below(there, keys.removes):
            del there[key]
        gone.update(dict.fromkeys(keys.removes, name))
        for rewritten in keys_at_or_below(gone, keys.writes):
            del gone[rewritten]
        for key in keys.writes:
            if there.get(key, BATCH) != BATCH:
                problems.append(
                    f"{key!r} is written by {there[key]} and again by {name}. Give one of them another key."
                )
            for below in keys_below(there, key + "."):
                if there[below] == name:
                    continue
                writer = there.pop(below)
                if writer != BATCH:
                    problems.append(
                        f"{name} writes the branch {key!r}, which replaces {below!r}, written by {writer}. "
                        f"Give one of them another key."
                    )
            there[key] = wiring.writers[key] = name
    if problems:
        raise WiringError(problems, wiring.notes)
    return wiring


class _DeclaredKeys:
    """The keys that a component declares, checked and read once."""

    def __init__(self, name: str, component: Any) -> None:
        attributes = {one: getattr(component, one, None) for one in ("reads", "optional_reads", "removes", "writes")}
        # A model whose parts decide may have no reads and no writes to tell, and an empty `optional_reads`.
        self.are_declared = any(attributes[one] is not None for one in ("reads", "writes")) or any(attributes.values())
        for attribute, keys in attributes.items():
            if isinstance(keys, Iterator) or (callable(keys) and not isinstance(keys, Iterable)):
                kind = "an iterator, which can be read only once" if isinstance(keys, Iterator) else "a method"
                raise TypeError(f"{name}.{attribute} is {kind}. Use a tuple of keys, or a property that returns one.")
        self.reads, self.optional_reads, self.removes, self.writes = (
            _keys(f"{name}.{attribute}", keys) for attribute, keys in attributes.items()
        )


def unique_names(components: Mapping[str, Any] | Iterable[Any]) -> list[tuple[str, Any]]:
    """The components with unique names."""
    if isinstance(components, Mapping | nn.ModuleDict):
        return [(f"{_kind(component)} {name!r}", component) for name, component in components.items()]
    listed = list(components)
    kinds = [_kind(component) for component in listed]
    unique = [kind if kinds.count(kind) == 1 else f"{kind} {kinds[:i].count(kind)}" for i, kind in enumerate(kinds)]
    return list(zip(unique, listed, strict=True))


def _keys(what: str, keys: Any) -> tuple[str, ...]:
    if isinstance(keys, str):
        raise TypeError(f"{what} takes a sequence of keys, got the string {plain(keys)!r}. Use [{plain(keys)!r}].")
    if keys is not None and not isinstance(keys, Iterable):
        raise TypeError(f"{what} takes a sequence of keys, got {keys!r}.")
    found = tuple(NDict(keys) if isinstance(keys, Mapping) else () if keys is None else keys)
    for key in found:
        if not isinstance(key, str):
            raise TypeError(f"{what} holds {key!r} of type {type(key).__name__}. Keys are strings.")
    return tuple(map(plain, found))


def _kind(component: Any) -> str:
    return str(getattr(component, "__name__", type(component).__name__))


def _is_there(key: str, writers: Mapping[str, str], gone: Iterable[str]) -> bool:
    if key in writers or has_branch(writers, key):
        return True
    above = branches_above(key)
    written = [branch for branch in above if writers.get(branch, BATCH) != BATCH]
    removed = [branch for branch in (*above, key) if branch in gone]
    return bool(written) and not any(branch.startswith(written[-1] + ".") for branch in removed)


def _hint(
    key: str, writers: Mapping[str, str], gone: Mapping[str, str], now_and_later: list[tuple[str, _DeclaredKeys]]
) -> str:
    remover = next((name for lost, name in gone.items() if provides([lost], key)), None)
    if remover is not None:
        return f" {remover} removes it."
    later = next((name for name, keys in now_and_later[1:] if provides(keys.writes, key)), None)
    if later is not None:
        return f" {later} writes it, but runs later: move it forward."
    name, keys = now_and_later[0]
    if provides(keys.writes, key):
        return f" Only {name} writes it, after reading it: correct one of the two keys."
    nearest = nearest_keys(key, writers)
    if not nearest:
        return f" There are: {', '.join(map(repr, writers)) or 'no keys at all'}."
    origins = {None: "a branch", BATCH: "in the batch"}
    written_by = {near: writers.get(near) for near in nearest}
    described = [f"{near!r} ({origins.get(writer, f'written by {writer}')})" for near, writer in written_by.items()]
    return f" Nearest keys: {', '.join(described)}."

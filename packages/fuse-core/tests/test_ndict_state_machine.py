"""NDict does what nested dictionaries do, in any order of operations.

The model is a tree of plain dicts: a node is `[leaf or NOTHING, {segment: node}]`, without nodes that hold nothing.
"""

import copy
import pickle
from collections import OrderedDict

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from fuse_core import NDict, NDictView, NestedKeyError

NOTHING = object()

# Few segments, so that keys meet often; odd ones, to try the search for branches.
SEGMENTS = ["a", "b", "c", "\n", "|"]
paths = st.lists(st.sampled_from(SEGMENTS), min_size=1, max_size=3).map(tuple)
leaves = st.integers(0, 5) | st.none() | st.lists(st.integers(0, 1), max_size=2)
dotted = paths.map(".".join)


def new_node():
    return [NOTHING, {}]


def flat(node, prefix=()):
    """All leaves of a node by their paths."""
    found = {} if node[0] is NOTHING else {prefix: node[0]}
    for segment, child in node[1].items():
        found.update(flat(child, (*prefix, segment)))
    return found


def flat_mapping(mapping, prefix=()):
    """All leaves of a mapping with nested or dotted keys, by their paths; later ones win."""
    found = {}
    for key, value in mapping.items():
        path = (*prefix, *key.split("."))
        if isinstance(value, dict):
            found.update(flat_mapping(value, path))
        else:
            found[path] = value
    return found


def holds_a_key_twice(mapping):
    """Whether a key is spelt both dotted and nested in one mapping."""

    def count(mapping):
        return sum(count(value) if isinstance(value, dict) else 1 for value in mapping.values())

    return count(mapping) > len(flat_mapping(mapping))


mappings = st.recursive(
    st.dictionaries(dotted, leaves, max_size=2),
    lambda inner: st.dictionaries(
        dotted,
        leaves | inner | inner.map(OrderedDict) | inner.filter(lambda inner: not holds_a_key_twice(inner)).map(NDict),
        max_size=3,
    ),
    max_leaves=6,
)


class Model:
    """A tree of plain dicts."""

    def __init__(self):
        self.root = new_node()

    def find(self, path):
        node = self.root
        for segment in path:
            node = node[1].get(segment)
            if node is None:
                return None
        return node

    def set_leaf(self, path, value):
        node = self.root
        for segment in path:
            node = node[1].setdefault(segment, new_node())
        node[0] = value

    def delete(self, path):
        """Remove the node and the nodes above that are left with nothing."""
        *above, last = path
        nodes = [self.root]
        for segment in above:
            nodes.append(nodes[-1][1][segment])
        del nodes[-1][1][last]
        for parent, segment, node in reversed(list(zip(nodes, above, nodes[1:], strict=False))):
            if node[0] is NOTHING and not node[1]:
                del parent[1][segment]

    def assign(self, path, value):
        if isinstance(value, dict):
            if self.find(path) is not None:
                self.delete(path)
            for below, leaf in flat_mapping(value).items():
                self.set_leaf((*path, *below), leaf)
        else:
            self.set_leaf(path, value)


class NDictMachine(RuleBasedStateMachine):
    """Runs each operation on an NDict and on the model."""

    copies = Bundle("copies")

    def __init__(self):
        super().__init__()
        self.nd = NDict()
        self.model = Model()

    def target(self, path, through_view):
        """The NDict and the dotted key, or the view of a branch above and the rest of the key."""
        if len(path) > 1 and through_view and self.model.find(path[:1]) is not None:
            return NDictView(self.nd, path[0]), ".".join(path[1:])
        return self.nd, ".".join(path)

    @rule(path=paths, value=leaves | mappings, through_view=st.booleans())
    def assign(self, path, value, through_view):
        target, key = self.target(path, through_view)
        if isinstance(value, dict) and holds_a_key_twice(value):
            with pytest.raises(ValueError, match="occurs twice"):
                target[key] = value
        else:
            target[key] = value
            self.model.assign(path, value)

    @rule(
        mapping=mappings.filter(lambda mapping: not holds_a_key_twice(mapping)),
        how=st.sampled_from(["update", "merge", "|=", "|", "pairs", "right |"]),
    )
    def add(self, mapping, how):
        new = flat_mapping(mapping)
        if how == "update":
            self.nd.update(mapping)
        elif how == "merge":
            self.nd.merge(NDict(mapping))
        elif how == "|=":
            self.nd |= mapping
        elif how == "|":
            self.nd = self.nd | mapping
        elif how == "pairs":
            self.nd.update(list(mapping.items()))
        else:
            self.nd = mapping | self.nd
            new = {path: value for path, value in new.items() if path not in flat(self.model.root)}
        for path, value in new.items():
            self.model.set_leaf(path, value)

    @rule(first=st.sampled_from(SEGMENTS), mapping=mappings.filter(lambda mapping: not holds_a_key_twice(mapping)))
    def add_through_view(self, first, mapping):
        NDictView(self.nd, first).update(mapping)
        for path, value in flat_mapping(mapping).items():
            self.model.set_leaf((first, *path), value)

    @rule(path=paths, through_view=st.booleans())
    def delete(self, path, through_view):
        target, key = self.target(path, through_view)
        if self.model.find(path) is None:
            with pytest.raises(NestedKeyError):
                del target[key]
        else:
            del target[key]
            self.model.delete(path)

    @rule(path=paths, through_view=st.booleans())
    def pop(self, path, through_view):
        target, key = self.target(path, through_view)
        node = self.model.find(path)
        if node is None:
            assert target.pop(key, NOTHING) is NOTHING
            with pytest.raises(NestedKeyError):
                target.pop(key)
        else:
            popped = target.pop(key)
            if node[0] is NOTHING:
                assert {tuple(k.split(".")): v for k, v in popped.items()} == flat(node)
            else:
                assert popped == node[0]
            self.model.delete(path)

    @rule()
    def popitem(self):
        if not flat(self.model.root):
            with pytest.raises(KeyError):
                self.nd.popitem()
        else:
            last = list(self.nd)[-1]
            key, value = self.nd.popitem()
            assert key == last
            path = tuple(key.split("."))
            node = self.model.find(path)
            assert node[0] == value
            below = node[1]
            self.model.delete(path)
            for rest, leaf in flat([NOTHING, below]).items():
                self.model.set_leaf((*path, *rest), leaf)

    @rule(path=paths, value=leaves | mappings, through_view=st.booleans())
    def setdefault(self, path, value, through_view):
        target, key = self.target(path, through_view)
        node = self.model.find(path)
        if node is None and isinstance(value, dict) and holds_a_key_twice(value):
            with pytest.raises(ValueError, match="occurs twice"):
                target.setdefault(key, value)
            return
        result = target.setdefault(key, value)
        if node is None:
            self.model.assign(path, value)
            assert result == value
        elif node[0] is NOTHING:
            assert isinstance(result, NDictView)
        else:
            assert result == node[0]

    @rule(first=st.sampled_from(SEGMENTS))
    def clear_branch(self, first):
        NDictView(self.nd, first).clear()
        node = self.model.find((first,))
        if node is not None:
            leaf = node[0]
            self.model.delete((first,))
            if leaf is not NOTHING:
                self.model.set_leaf((first,), leaf)

    @rule()
    def clear(self):
        self.nd.clear()
        self.model.root = new_node()

    @rule(
        target=copies,
        how=st.sampled_from([NDict.copy, NDict.clone, copy.copy, copy.deepcopy, NDict, lambda nd: NDict(nd.items())]),
    )
    def duplicate(self, how):
        """A copy goes on while the original is kept, to see later that it did not change."""
        original, self.nd = self.nd, how(self.nd)
        assert type(self.nd) is NDict
        return original, dict(original)

    @rule(kept=consumes(copies))
    def copies_are_independent(self, kept):
        original, contents = kept
        assert dict(original) == contents

    @rule(protocol=st.integers(0, pickle.HIGHEST_PROTOCOL))
    def pickle(self, protocol):
        self.nd = pickle.loads(pickle.dumps(self.nd, protocol))

    @rule()
    def unflatten(self):
        def nested(node):
            return {segment: nested(child) if child[0] is NOTHING else child[0] for segment, child in node[1].items()}

        def holds_both(node):
            return any((child[0] is not NOTHING and child[1]) or holds_both(child) for child in node[1].values())

        if holds_both(self.model.root):
            with pytest.raises(ValueError, match="holds both"):
                self.nd.unflatten()
        else:
            assert self.nd.unflatten() == nested(self.model.root)
            assert NDict(self.nd.unflatten()) == self.nd

    @rule(path=paths)
    def look(self, path):
        key = ".".join(path)
        node = self.model.find(path)
        assert (key in self.nd) == (node is not None)
        if node is None:
            assert self.nd.get(key, NOTHING) is NOTHING
            with pytest.raises(NestedKeyError):
                self.nd[key]
        elif node[0] is not NOTHING:
            assert self.nd[key] is self.nd.get(key)
            assert self.nd[key] == node[0]
        else:
            view = self.nd[key]
            below = {".".join(rest): leaf for rest, leaf in flat(node).items()}
            assert isinstance(view, NDictView)
            assert dict(view) == dict(view.items()) == below
            assert view == below
            assert len(view) == len(below)
            assert view.to_dict() == view.copy() == self.nd.get_sub_dict(key) == below
            assert all(segment in view for segment in node[1])

    @invariant()
    def holds_the_models_leaves(self):
        expected = {".".join(path): value for path, value in flat(self.model.root).items()}
        assert dict(self.nd) == expected
        assert self.nd == expected
        assert len(self.nd) == len(expected)
        assert set(self.nd) == set(self.nd.keypaths()) == set(expected)
        assert set(self.nd.top_level_keys()) == set(self.model.root[1])
        for segment in SEGMENTS:
            assert (segment in self.nd) == (segment in self.model.root[1])


TestNDict = NDictMachine.TestCase

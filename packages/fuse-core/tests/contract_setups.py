"""Small set-ups of components, built through a `Mistake`: each number, key, type and output can be changed by rule."""

import torch
from torch import nn
from torch.nn import functional as F

from fuse_core import TensorSpec

PLUS_ONE, TWICE = (lambda number: number + 1), (lambda number: number * 2)
NUMBERS = {"plus one": PLUS_ONE, "twice": TWICE}
KEYS = {
    "a letter lost": lambda key: key[:-1],
    "two letters swapped": lambda key: key[:-2] + key[-1] + key[-2],
    "another branch": lambda key: "data" + key[key.index(".") :] if key.startswith("model") else "model" + key[4:],
}
IMAGE_TYPES = {"uint8": torch.uint8, "float64": torch.float64, "int64": torch.int64}
INDEX_TYPES = {"float32": torch.float32, "float64": torch.float64}
OUTPUTS = {
    "detached": torch.Tensor.detach,
    "mean over the batch": lambda tensor: tensor.mean(0),
    "first axes swapped": lambda tensor: tensor.transpose(0, 1),
    "flattened": lambda tensor: tensor.flatten(),
    "first sample only": lambda tensor: tensor[:1],
    "batch in the channels": lambda tensor: tensor.reshape(1, -1, *tensor.shape[2:]),
    "one more axis": lambda tensor: tensor.unsqueeze(1),
}
LOSS_VALUES = {
    "detached": torch.Tensor.detach,
    "not reduced": lambda loss: loss.expand(3),
    "as a constant": lambda loss: loss * 0 + loss.new_zeros(1),
}


class Mistake:
    """Registers where a set-up can go wrong; makes one change at one site."""

    def __init__(self, site=None, rule=None):
        self.site, self.rule = site, rule
        self.sites = {}  # (component, what) -> the rules that apply

    def _changed(self, component, what, rules, value):
        self.sites[component, what] = rules
        return rules[self.rule](value) if (component, what) == self.site else value

    def number(self, component, what, value):
        return self._changed(component, what, NUMBERS, value)

    def key(self, component, value):
        return self._changed(component, f"key {value}", KEYS, value)

    def dtype(self, component, what, value):
        wrong = IMAGE_TYPES if value.is_floating_point else INDEX_TYPES
        return self._changed(component, what, {name: lambda _, new=new: new for name, new in wrong.items()}, value)

    def output(self, component, what, rules=OUTPUTS):
        self.sites[component, what] = rules
        return rules[self.rule] if (component, what) == self.site else nn.Identity()

    def flag(self, component, what):
        self.sites[component, what] = {"done": None}
        return (component, what) == self.site


class Model(nn.Module):
    """Reads one key, writes what `parts` give, one after another or each from the first."""

    def __init__(self, mistake, name, trunk, heads, image="data.image"):
        super().__init__()
        self.image = mistake.key(name, image)
        self.reads = [self.image]
        self.trunk, self.heads = trunk, nn.ModuleDict(heads)
        self.keys = {head: f"model.logits.{head}" for head in heads}
        self.writes = list(self.keys.values())
        self.spoil = {head: mistake.output(name, f"output {head}") for head in heads}
        self.changes_input = mistake.flag(name, "changes its input")
        if mistake.flag(name, "trunk frozen"):
            trunk.requires_grad_(False)
        if mistake.flag(name, "head frozen"):
            next(iter(self.heads.values())).requires_grad_(False)
        self.cuts_trunk = mistake.flag(name, "trunk detached")

    def forward(self, batch_dict):
        image = batch_dict[self.image]
        if self.changes_input:
            image.mul_(2)
        features = self.trunk(image)
        features = features.detach() if self.cuts_trunk else features
        for head, part in self.heads.items():
            batch_dict[self.keys[head]] = self.spoil[head](part(features))
        return batch_dict


class Loss:
    def __init__(self, mistake, name, function, pred, target):
        self.function = function
        self.reads = [mistake.key(name, pred), mistake.key(name, target)]
        self.spoil = mistake.output(name, "value", LOSS_VALUES)

    def __call__(self, batch_dict):
        return self.spoil(self.function(*(batch_dict[key] for key in self.reads)))


class Accuracy:
    """A metric that reads values, so that it runs on zeros."""

    def __init__(self, mistake, name, classes, pred, target):
        self.classes = mistake.number(name, "classes", classes)
        self.reads = [mistake.key(name, pred), mistake.key(name, target)]

    def update(self, batch_dict):
        pred, target = (batch_dict[key] for key in self.reads)
        if pred.shape[1] != self.classes:
            raise ValueError(f"Accuracy of {self.classes} classes got {pred.shape[1]} scores per sample.")
        if target.is_floating_point() or target.shape != pred.argmax(1).shape:
            raise ValueError("Accuracy needs one class index per sample.")
        self.correct = (pred.argmax(1) == target).float().mean().item()

    def compute(self):
        return self.correct


def weighted_cross_entropy(mistake, name, classes):
    weight = torch.ones(mistake.number(name, "class weights", classes))
    return lambda pred, target: F.cross_entropy(pred, target, weight=weight)


def with_drops(mistake, components, losses):
    return {name: one for name, one in components.items() if name not in losses or not mistake.flag(name, "dropped")}


def classification(mistake):
    n = mistake.number
    trunk = nn.Sequential(
        nn.Conv2d(n("net", "channels", 1), 8, 3),
        nn.BatchNorm2d(n("net", "normed", 8)),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    heads = {
        "cls": nn.Linear(n("net", "features", 8), n("net", "classes", 5)),
        "age": nn.Linear(8, n("net", "ages", 1)),
    }
    components = {
        "net": Model(mistake, "net", trunk, heads),
        "ce": Loss(mistake, "ce", weighted_cross_entropy(mistake, "ce", 5), "model.logits.cls", "data.label"),
        "mse": Loss(mistake, "mse", lambda pred, target: ((pred - target) ** 2).mean(), "model.logits.age", "data.age"),
        "accuracy": Accuracy(mistake, "accuracy", 5, "model.logits.cls", "data.label"),
    }
    spec = {
        "data.image": TensorSpec(
            (None, n("batch", "image channels", 1), 16, 16), mistake.dtype("batch", "image", torch.float32)
        ),
        "data.label": TensorSpec((None,), mistake.dtype("batch", "label", torch.int64)),
        "data.age": TensorSpec((None,) if mistake.flag("batch", "age without its axis") else (None, 1)),
    }
    return with_drops(mistake, components, ["ce", "mse"]), spec


def segmentation(mistake):
    def soft_dice(pred, target):
        one_hot = F.one_hot(target, mistake_classes).movedim(-1, 1).float()
        probabilities = pred.softmax(1)
        return 1 - 2 * (probabilities * one_hot).mean() / (probabilities + one_hot).mean()

    n = mistake.number
    mistake_classes = n("dice", "classes", 3)
    trunk = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(n("unet", "inner", 4), 4, 3, padding=1, stride=1)
    )
    heads = {"seg": nn.Conv2d(n("unet", "features", 4), n("unet", "classes", 3), 1)}
    components = {
        "unet": Model(mistake, "unet", trunk, heads),
        "dice": Loss(mistake, "dice", soft_dice, "model.logits.seg", "data.seg"),
        "ce": Loss(mistake, "ce", weighted_cross_entropy(mistake, "ce", 3), "model.logits.seg", "data.seg"),
    }
    size = n("batch", "mask size", 16)
    spec = {
        "data.image": TensorSpec((None, 1, 16, 16), mistake.dtype("batch", "image", torch.float32)),
        "data.seg": TensorSpec(
            (None, 1, size, size) if mistake.flag("batch", "mask with channels") else (None, size, size),
            mistake.dtype("batch", "mask", torch.int64),
        ),
    }
    return components, spec


def regression(mistake):
    n = mistake.number
    trunk = nn.Sequential(nn.Linear(n("mlp", "inputs", 12), 16), nn.LayerNorm(n("mlp", "normed", 16)), nn.GELU())
    components = {
        "mlp": Model(mistake, "mlp", trunk, {"dose": nn.Linear(n("mlp", "features", 16), 1)}, image="data.table"),
        "huber": Loss(mistake, "huber", F.huber_loss, "model.logits.dose", "data.dose"),
    }
    spec = {
        "data.table": TensorSpec((None, n("batch", "columns", 12)), mistake.dtype("batch", "table", torch.float32)),
        "data.dose": TensorSpec((None,) if mistake.flag("batch", "dose without its axis") else (None, 1)),
    }
    return with_drops(mistake, components, ["huber"]), spec


def multi_label(mistake):
    n = mistake.number
    trunk = nn.Sequential(
        nn.Conv3d(n("net", "channels", 1), 4, 3), nn.InstanceNorm3d(4), nn.ReLU(), nn.AdaptiveMaxPool3d(1), nn.Flatten()
    )
    components = {
        "net": Model(mistake, "net", trunk, {"findings": nn.Linear(n("net", "features", 4), n("net", "labels", 7))}),
        "bce": Loss(mistake, "bce", F.binary_cross_entropy_with_logits, "model.logits.findings", "data.findings"),
    }
    spec = {
        "data.image": TensorSpec((None, 1, 8, 8, 8), mistake.dtype("batch", "volume", torch.float32)),
        "data.findings": TensorSpec((None, n("batch", "labels", 7))),
    }
    return with_drops(mistake, components, ["bce"]), spec


class Recurrent(nn.Module):
    def __init__(self, words, features):
        super().__init__()
        self.embedding = nn.Embedding(words, features)
        self.gru = nn.GRU(features, 8, batch_first=True)

    def forward(self, tokens):
        return self.gru(self.embedding(tokens))[0]


def sequence(mistake):
    n = mistake.number
    components = {
        "tagger": Model(
            mistake,
            "tagger",
            Recurrent(50, 6),
            {"tags": nn.Linear(n("tagger", "features", 8), n("tagger", "tags", 4))},
            image="data.tokens",
        ),
        "ce": Loss(
            mistake, "ce", lambda pred, target: weighted(pred.movedim(-1, 1), target), "model.logits.tags", "data.tags"
        ),
    }
    weighted = weighted_cross_entropy(mistake, "ce", 4)
    spec = {
        "data.tokens": TensorSpec((None, 11), mistake.dtype("batch", "tokens", torch.int64)),
        "data.tags": TensorSpec((None, n("batch", "length", 11)), mistake.dtype("batch", "tags", torch.int64)),
    }
    return with_drops(mistake, components, ["ce"]), spec


SETUPS = (classification, segmentation, regression, multi_label, sequence)


def all_mistakes():
    """Every change at every site of every set-up."""
    for setup in SETUPS:
        recorder = Mistake()
        setup(recorder)
        yield from ((setup, site, rule) for site, rules in recorder.sites.items() for rule in rules)

import pickle
import subprocess
import sys
import threading
from collections import Counter

import pytest
import torch
from contract_setups import SETUPS, Accuracy, Mistake, all_mistakes
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import fuse_core
from fuse_core import ContractError, TensorSpec, check_contract

SPEC = {"data.image": TensorSpec((None, 8)), "data.label": TensorSpec((None,), torch.int64)}
MISTAKES = list(all_mistakes())


class Model(nn.Module):
    """Writes what a function gives for its linear layer's scores."""

    def __init__(self, function=lambda scores: scores, reads="data.image", writes="model.logits.cls"):
        super().__init__()
        self.linear = nn.Linear(8, 5)
        self.function = function
        self.reads, self.writes = [reads], [writes]

    def forward(self, batch_dict):
        batch_dict[self.writes[0]] = self.function(self.linear(batch_dict[self.reads[0]]))
        return batch_dict


class Loss:
    reads = ("model.logits.cls", "data.label")

    def __init__(self, function=F.cross_entropy):
        self.function = function

    def __call__(self, batch_dict):
        return self.function(*(batch_dict[key] for key in self.reads))


def problems(components, spec=SPEC, **options):
    with pytest.raises(ContractError) as info:
        check_contract(components, spec, **options)
    assert str(info.value).startswith(f"{len(info.value.problems)} problem")
    return "\n".join(info.value.problems)


# ------------------------------------------------------------------------------------------------- seeded mistakes


@pytest.mark.parametrize("setup", SETUPS)
def test_set_ups_without_a_mistake_raise_no_alarm(setup):
    assert check_contract(*setup(Mistake())).notes == []


def test_mistakes_made_by_rule_are_found_and_name_the_component():
    assert len(MISTAKES) >= 200
    missed, misnamed = Counter(), Counter()
    for setup, (component, what), rule in MISTAKES:
        components, spec = setup(Mistake((component, what), rule))
        try:
            check_contract(components, spec)
            missed[component, what, rule] += 1
        except ContractError as error:
            # A component that was dropped cannot be named, and a mistake in the batch shows in what reads it.
            is_named = any(repr(component) in problem for problem in error.problems)
            misnamed[component, what, rule] += not is_named and component in components
    # Two outputs for one target: elementwise operations allow it, as they do for every mask of one channel.
    assert set(missed) <= {("net", "ages", "plus one"), ("net", "ages", "twice")}
    assert misnamed.total() == 0


# ---------------------------------------------------------------------------------------------------- what is found


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (
            lambda scores: scores.mean(0),
            r"Model 'net' writes 'model\.logits\.cls' of shape \(5,\) for 6 samples and \(5,\) for 14",
        ),
        (
            lambda scores: scores[::2],
            r"writes 'model\.logits\.cls' of shape \(3, 5\) for 6 samples and \(7, 5\) for 14\. Keep",
        ),
        (
            lambda scores: scores.reshape(2, -1),
            r"of shape \(2, 15\) for 6 samples and \(2, 35\) for 14\. Keep the samples",
        ),
        (torch.Tensor.detach, r"Loss 'ce' depends on no trainable parameter\. It reads .* Is what it reads detached\?"),
        (
            lambda scores: scores.double().detach(),
            r"Model 'net': no loss trains 'linear\.weight', 'linear\.bias'\. Add a loss",
        ),
        (
            lambda scores: scores.unsqueeze(-1),
            r"Loss 'ce' fails for a batch of 6: .* \(B, 5, 1\) float32 from Model 'net'",
        ),
        (lambda scores: scores + torch.zeros(5, device="meta"), r"Model 'net' fails for a batch of 6: .*cpu.*meta"),
    ],
)
def test_a_wrong_output_of_a_model_is_found(function, message):
    with pytest.raises(ContractError, match=message):
        check_contract({"net": Model(function), "ce": Loss()}, SPEC)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (
            lambda pred, target: F.cross_entropy(pred, target, reduction="none"),
            r"returns a loss of shape \(6,\)\. Reduce it",
        ),
        (
            lambda pred, target: F.cross_entropy(pred, target, weight=torch.ones(4)),
            r"'ce' fails for a batch of 6: weight tensor",
        ),
        (
            lambda pred, target: (pred[:, :1] - target).abs().mean(),
            r"'ce' compares each sample with each other one, \(6, 1\) with \(6,\) for 6 samples: make",
        ),
        (
            lambda pred, target: F.mse_loss(pred[:, :1], target.float()),
            r"'ce' compares each sample with each other one",
        ),
        (
            lambda pred, target: F.smooth_l1_loss(pred, target[:, None].float()),
            r"'ce' compares \(6, 5\) with \(6, 1\): make the shapes equal\. It reads",
        ),
        (
            lambda pred, target: torch.where(target > 0, pred[:, :1], 0.0).mean(),
            r"'ce' compares each sample with each other one, \(6,\) with \(6, 1\) for 6 samples",
        ),
        (
            lambda pred, target: ((pred[:, :1] > 0) == target).float().mean() * pred.mean(),
            r"'ce' compares each sample with each other one, \(6, 1\) with \(6,\) for 6 samples",
        ),
        (
            lambda pred, target: F.cross_entropy(pred, target.int()),
            r"'ce' gets class indices of torch\.int32: convert them to torch\.int64\. It reads",
        ),
        (
            lambda pred, target: torch.subtract(pred[:, :1], target).abs().mean(),
            r"'ce' compares each sample with each other one, \(6, 1\) with \(6,\) for 6 samples",
        ),
        (
            lambda pred, target: F.poisson_nll_loss(pred[:, :1], target),
            r"'ce' compares each sample with each other one, \(6, 1\) with \(6,\) for 6 samples",
        ),
        (
            lambda pred, target: F.gaussian_nll_loss(pred[:, :1], target, pred[:, 1:2].exp()),
            r"'ce' compares each sample with each other one, \(6, 1\) with \(6,\) for 6 samples",
        ),
        (lambda pred, target: pred.sum().detach(), r"Loss 'ce' depends on no trainable parameter"),
        (
            lambda pred, target: F.cross_entropy(pred.mul_(2), target),
            r"Loss 'ce' changes 'model\.logits\.cls' of Model 'net' in place",
        ),
    ],
)
def test_a_wrong_loss_is_found(function, message):
    with pytest.raises(ContractError, match=message):
        check_contract({"net": Model(), "ce": Loss(function)}, SPEC)


def test_pairs_of_samples_made_on_purpose_are_no_problem():
    def contrastive(pred, target):
        norms = pred.norm(dim=1)
        return ((norms[:, None] - norms) * (target[:, None] == target) + norms.unsqueeze(1) * norms).mean()

    check_contract({"net": Model(), "contrastive": Loss(contrastive)}, SPEC)


def test_pairs_of_a_tensor_with_itself_are_no_problem():
    def ranking(pred, target):
        norms = pred.norm(dim=1)
        return (norms.view(-1, 1) - norms).relu().mean()

    check_contract({"net": Model(), "ranking": Loss(ranking)}, SPEC)


def test_samples_on_another_axis_are_a_note_unless_they_are_predictions():
    class Paths(Loss):
        reads = ("model.paths", "data.label")

    def make(key):
        net = Model(lambda scores: scores[None].expand(3, -1, -1), writes=key)
        loss = Paths(lambda pred, target: F.cross_entropy(pred.mean(0), target))
        loss.reads = (key, "data.label")
        return {"net": net, "loss": loss}

    notes = check_contract(make("model.paths"), SPEC).notes
    found = "Model 'net' writes 'model.paths' of shape (3, 6, 5) for 6 samples and (3, 14, 5) for 14."
    assert notes == [f"{found} Keep the samples on the first axis."]
    assert notes[0] in problems(make("model.logits.paths")).replace("logits.", "")


def test_all_pairs_of_two_kept_axes_are_no_problem():
    def distances(pred, target):
        norms = pred.square().sum(1, keepdim=True)
        return (norms + norms.T - 2 * pred @ pred.T).mean()

    check_contract({"net": Model(), "distances": Loss(distances)}, SPEC)


def test_outputs_without_a_batch_axis_are_a_note_unless_they_are_predictions():
    class Prototypes(Model):
        def forward(self, batch_dict):
            batch_dict["model.prototypes"] = self.linear.weight
            return super().forward(batch_dict)

    note = check_contract({"net": Prototypes(), "ce": Loss()}, SPEC).notes[0]
    assert note.startswith(
        "Prototypes 'net' writes 'model.prototypes' of shape (5, 8) for 6 samples and (5, 8) for 14."
    )


@pytest.mark.parametrize(
    "in_training", [lambda scores: scores[:, None].expand(-1, 2, -1), lambda scores: scores[:, :3]]
)
def test_an_output_may_have_another_shape_in_eval_mode(in_training):
    class DeepSupervision(Model):
        def forward(self, batch_dict):
            super().forward(batch_dict)
            if self.training:
                batch_dict["model.logits.cls"] = in_training(batch_dict["model.logits.cls"])
            return batch_dict

    loss = Loss(lambda pred, target: pred.square().mean())
    check_contract({"net": DeepSupervision(), "loss": loss}, SPEC, real=True)


def test_several_outputs_per_sample_are_no_problem():
    class Views(Loss):
        reads = ("model.logits.cls",)

    views = Model(lambda scores: torch.cat([scores, scores]))
    contract = check_contract({"net": views, "loss": Views(lambda pred: pred.square().mean())}, SPEC)
    assert contract.keys["model.logits.cls"].shape == ("?", 5)


@pytest.mark.parametrize("read", [dict, lambda batch: dict(batch.items()), lambda batch: {**batch}])
def test_a_loss_that_takes_the_whole_batch_reads_each_key(read):
    def loss(batch_dict):
        values = read(batch_dict)
        return F.cross_entropy(values["model.logits.cls"], values["data.label"])

    assert check_contract({"net": Model(), "loss": loss}, SPEC).keys["model.logits.cls"].readers == ["loss 'loss'"]


def test_certain_problems_and_failures_are_told_apart():
    class Unused(Model):
        def __init__(self):
            super().__init__()
            self.unused = nn.Linear(2, 2)

    def error(function=F.cross_entropy, model=None):
        with pytest.raises(ContractError) as info:
            check_contract({"net": model or Model(), "ce": Loss(function)}, SPEC)
        one = info.value
        return len(one.certain), len(one.failures), len(one.problems)

    assert error(lambda pred, target: F.mse_loss(pred[:, :1], target.float())) == (1, 0, 1)
    assert error(lambda pred, target: pred.detach().sum()) == (1, 0, 2)
    assert error(lambda pred, target: F.cross_entropy(pred[:, :4], pred)) == (0, 1, 1)
    assert error(lambda pred, target: (pred[:, :1] - target).abs().mean()) == (0, 0, 1)
    assert error(model=Unused()) == (0, 0, 1)


def test_all_problems_are_told_at_once():
    components = {"net": Model(lambda scores: scores.mean(0)), "again": Model(), "ce": Loss(lambda pred, target: pred)}
    components["again"].linear.requires_grad_(False)
    found = problems(components)
    for message in (
        "'model.logits.cls' is written by Model 'net' and again by Model 'again'",
        "Model 'net' writes 'model.logits.cls' of shape (5,)",
        "Loss 'ce' returns a loss of shape (6, 5)",
        "Model 'again': 'linear.weight', 'linear.bias' do not require a gradient. Train them, or pass frozen=['again.",
    ):
        assert message in found


def test_wrong_dtypes_are_found_where_fake_tensors_allow_them():
    for dtype in (torch.uint8, torch.float64):
        found = problems({"net": Model(), "ce": Loss()}, SPEC | {"data.image": TensorSpec((None, 8), dtype)})
        assert f"Model 'net' multiplies {dtype} by torch.float32: convert one of them" in found


def test_what_is_declared_frozen_is_not_missed():
    class TwoParts(Model):
        def __init__(self):
            super().__init__()
            self.backbone = nn.Linear(8, 8).requires_grad_(False)

    components = {"net": TwoParts(), "ce": Loss()}
    assert "'backbone.weight', 'backbone.bias' do not require a gradient" in problems(components)
    for frozen in ("net", "net.backbone"):
        check_contract(components, SPEC, frozen=[frozen])
    assert "do not require a gradient" in problems(components, frozen=["net.back"])


def test_the_part_of_a_model_that_fails_is_named():
    model = Model()
    model.linear = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(7, 5))
    found = problems({"net": model, "ce": Loss()})
    assert "It fails in its part 'linear.2' (Linear). It reads 'data.image' (B, 8) float32 from the batch." in found


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype stage")
def test_a_batch_of_nested_tensors_is_no_problem():
    images = torch.nested.nested_tensor([torch.ones(2, 8), torch.ones(3, 8)])
    model = Model(lambda scores: scores)
    model.linear = nn.Sequential(Padded(), nn.Linear(8, 5))
    batch = {"data.image": images, "data.label": torch.tensor([0, 1])}
    check_contract({"net": model, "ce": Loss()}, batch)


class Padded(nn.Module):
    def forward(self, images):
        return images.to_padded_tensor(0.0).mean(1)


def test_a_head_that_nothing_reads_is_a_problem_and_other_outputs_a_note():
    head = Model(reads="model.logits.cls", writes="model.logits.seg")
    head.linear = nn.Linear(5, 2)
    found = problems({"net": Model(), "head": head, "ce": Loss()})
    assert "Model 'head' writes 'model.logits.seg', which nothing reads. Add a loss, or remove the head." in found
    assert "Model 'head': no loss trains 'linear.weight', 'linear.bias'" in found


def test_an_output_that_is_no_head_of_several_is_a_head_too():
    found = problems({"net": Model(writes="model.logits")})
    assert "Model 'net' writes 'model.logits', which nothing reads. Add a loss, or remove the head." in found


def test_an_output_beside_logits_that_are_read_is_a_note():
    class Output:
        reads, writes = ("model.logits.cls",), ("model.output.cls",)

        def __call__(self, batch_dict):
            return {"model.output.cls": batch_dict["model.logits.cls"].softmax(1)}

    contract = check_contract({"net": Model(), "output": Output(), "ce": Loss()}, SPEC)
    assert contract.notes == ["Output 'output' writes 'model.output.cls', which nothing reads."]


def test_other_versions_of_an_output_that_is_read_are_a_note():
    class Ensemble(Model):
        def forward(self, batch_dict):
            batch_dict["model.logits.cls_0"] = super().forward(batch_dict)["model.logits.cls"] * 1
            return batch_dict

    contract = check_contract({"net": Ensemble(), "ce": Loss()}, SPEC)
    assert contract.notes == ["Ensemble 'net' writes 'model.logits.cls_0', which nothing reads."]


def test_prediction_keys_must_exist():
    components = {"net": Model(), "ce": Loss()}
    check_contract(components, SPEC, prediction_keys=["model.logits.cls"])
    found = problems(components, prediction_keys=["model.output.cls"])
    assert (
        found
        == "The prediction key 'model.output.cls' is not in the batch at the end. Nearest keys: 'model.logits.cls'."
    )


def test_a_key_that_is_declared_but_not_written_is_found():
    model = Model()
    model.writes = ["model.logits.cls", "model.features"]
    assert "Model 'net' does not write 'model.features'. Remove it from `writes`." in problems(
        {"net": model, "ce": Loss()}
    )


class Undeclared(nn.Module):
    """A model that declares no keys and returns a new mapping."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.BatchNorm1d(8), nn.Linear(8, 5))

    def forward(self, batch_dict):
        return {"model.logits.cls": self.layers(batch_dict["data.image"])}


def test_components_without_declared_keys_are_checked_too():
    loss = Loss()
    contract = check_contract({"net": Undeclared(), "ce": lambda batch_dict: loss(batch_dict)}, SPEC)
    assert contract.keys["model.logits.cls"].writer == "Undeclared 'net'"
    assert contract.keys["data.label"].readers == ["<lambda> 'ce'"]
    assert len(contract.trained_by["Undeclared 'net'"]) == 4


def test_a_later_component_that_overwrites_a_key_is_found():
    found = problems({"net": Model(), "again": Undeclared(), "ce": Loss()})
    assert "Undeclared 'again' overwrites 'model.logits.cls', written by Model 'net'. Rename one of them." in found


# -------------------------------------------------------------------------------------------------- values and reality


def real_batch(labels, images=None):
    return {
        "data.image": torch.ones(4, 8) if images is None else images,
        "data.label": torch.tensor(labels),
        "data.sample_id": list("abcd"),
    }


def test_class_indices_of_a_real_batch_must_be_in_range():
    components = {"net": Model(), "ce": Loss()}
    check_contract(components, real_batch([0, 4, -100, 255]))
    found = problems(components, real_batch([0, 4, 7, 1]))
    assert found.startswith(
        "Loss 'ce' reads class 7 in 'data.label', but 'model.logits.cls' of Model 'net' holds 5 classes. Correct"
    )


@pytest.mark.parametrize(
    "function",
    [
        lambda pred, target: (pred.mean(1) - target).square().mean(),
        lambda pred, target: F.binary_cross_entropy_with_logits(pred, (target[:, None] > torch.arange(5)).float()),
        lambda pred, target: F.cross_entropy(pred, target, ignore_index=7),
    ],
)
def test_integers_that_are_no_class_indices_are_no_problem(function):
    check_contract({"net": Model(), "loss": Loss(function)}, real_batch([0, 4, 7, 1]))


def test_a_metric_that_needs_values_is_updated_with_zeros():
    metric = Accuracy(Mistake(), "accuracy", 5, "model.logits.cls", "data.label")
    check_contract({"net": Model(), "ce": Loss(), "accuracy": metric}, SPEC)
    assert not hasattr(metric, "correct")
    metric.classes = 6
    found = problems({"net": Model(), "ce": Loss(), "accuracy": metric})
    assert "Accuracy 'accuracy' fails for a batch of 6: Accuracy of 6 classes got 5 scores per sample." in found


def test_a_model_that_needs_values_is_named_and_checked_on_real_tensors_if_asked():
    def branches(scores):
        return scores * 2 if scores.sum() > 0 else scores[:, :4]

    components = {"net": Model(branches), "ce": Loss()}
    contract = check_contract(components, SPEC)
    assert contract.notes[0].startswith("Model 'net' was not checked, because it needs values: ")
    components["net"].function = lambda scores: scores[:, :1] if scores.sum().isfinite() else scores
    components["ce"].function = lambda pred, target: F.cross_entropy(pred, target, weight=torch.ones(5))
    assert check_contract(components, SPEC).notes
    assert "Loss 'ce' fails for a batch of 2: weight tensor should be" in problems(components, real=True)


def test_values_that_are_not_finite_are_found_on_real_tensors():
    components = {"net": Model(lambda scores: scores / 0), "ce": Loss()}
    check_contract(components, real_batch([0] * 4))
    found = problems(components, real_batch([0] * 4), real=True)
    assert "Model 'net' gives values that are not finite: 'model.logits.cls'. Check its initialization." in found


def test_values_that_are_not_finite_in_the_batch_are_named():
    found = problems(
        {"net": Model(), "ce": Loss()}, real_batch([0] * 4) | {"data.image": torch.full((4, 8), torch.nan)}, real=True
    )
    assert "'model.logits.cls'. It reads such values: 'data.image'." in found


def test_components_and_batch_are_not_changed():
    model, batch = Undeclared(), real_batch([0] * 4)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    check_contract({"net": model, "ce": Loss()}, batch)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert model.training
    assert not any(parameter.grad is not None for parameter in model.parameters())
    assert list(batch) == ["data.image", "data.label", "data.sample_id"]


def test_a_component_that_cannot_be_copied_is_a_note():
    loss = Loss()
    loss.lock = threading.Lock()
    contract = check_contract({"net": Model(), "ce": loss}, SPEC)
    assert "Loss 'ce' was not checked, because it needs values: cannot pickle '_thread.lock' object" in contract.notes


def test_sample_ids_may_be_a_spec():
    contract = check_contract({"net": Model(), "ce": Loss()}, SPEC | {"data.sample_id": TensorSpec((None,))})
    assert contract.keys["data.sample_id"].shape == ("B",)


def test_samples_are_collated():
    samples = [{"data": {"image": torch.ones(8), "label": 1, "name": "a"}}] * 3
    contract = check_contract({"net": Model(), "ce": Loss()}, samples)
    assert contract.keys["data.image"].shape == ("B", 8)
    assert (contract.keys["data.name"].shape, contract.keys["data.name"].dtype) == (None, "list")


def test_other_checks_can_be_plugged_in():
    def expects_probabilities(name, component, batch_dict):
        if isinstance(component, Loss):
            yield f"{name} gets logits of shape {tuple(batch_dict['model.logits.cls'].shape)}."

    assert (
        problems({"net": Model(), "ce": Loss()}, check_component=expects_probabilities)
        == "Loss 'ce' gets logits of shape (6, 5)."
    )


def test_a_recurrence_over_the_samples_is_found_on_real_tensors():
    class Recurrent(Model):
        def __init__(self):
            super().__init__()
            self.linear = nn.GRU(8, 5)  # not batch_first
            self.function = lambda output: output[0][:, -1]

    components = {"net": Recurrent(), "ce": Loss()}
    spec = SPEC | {"data.image": TensorSpec((None, 7, 8))}
    check_contract(components, spec)
    assert "Recurrent 'net': a sample's 'model.logits.cls' depend on the other" in problems(components, spec, real=True)


@pytest.mark.parametrize(
    "function",
    [lambda scores: scores.softmax(0), lambda scores: scores - scores.mean(0), lambda scores: scores.flip(0)],
)
def test_samples_that_influence_one_another_are_found_on_real_tensors(function):
    components = {"net": Model(function), "ce": Loss()}
    check_contract(components, SPEC)
    found = problems(components, real=True)
    assert "Model 'net': a sample's 'model.logits.cls' depend on the other samples. Keep samples apart" in found


def test_a_small_influence_of_other_samples_is_found():
    torch.manual_seed(0)
    found = problems({"net": Model(lambda scores: (scores / 50).softmax(0)), "ce": Loss()}, real=True)
    assert "a sample's 'model.logits.cls' depend on the other samples" in found


@pytest.mark.parametrize(
    "function",
    [
        lambda scores: F.normalize(scores) @ F.normalize(scores).T,  # pairs of samples
        lambda scores: torch.stack([scores, scores * 2]),  # as the hidden states of two recurrent layers
    ],
)
def test_pairs_and_hidden_states_are_no_influence(function):
    net = Model(function, writes="model.hidden")
    loss = Loss(lambda pred, target: pred.square().mean())
    loss.reads = ("model.hidden", "data.label")
    check_contract({"net": net, "loss": loss}, SPEC, real=True)


def test_the_nodes_of_one_graph_are_no_samples():
    class Graph(Model):
        def forward(self, batch_dict):
            graph = torch.zeros(2, 5).index_add(0, batch_dict["data.graph"], self.linear(batch_dict["data.image"]))
            batch_dict["model.logits.cls"] = graph
            return batch_dict

    nodes = {"data.image": torch.rand(7, 8), "data.graph": torch.tensor([0, 0, 0, 1, 1, 1, 1])}
    check_contract({"net": Graph(), "ce": Loss()}, nodes | {"data.label": torch.tensor([0, 1])}, real=True)


@pytest.mark.parametrize("part", [nn.BatchNorm1d(5), nn.Dropout(), nn.LayerNorm(5)])
def test_batch_norm_and_random_numbers_are_no_influence(part):
    check_contract({"net": Model(part), "ce": Loss()}, SPEC, real=True, frozen=["net.function"])
    check_contract({"net": Model(part), "ce": Loss()}, real_batch([0, 1, 2, 3]), real=True)


def test_a_component_may_run_in_one_mode_only():
    components = {"net": OnlyInTraining(), "ce": Loss()}
    assert "Loss 'ce' fails for a batch of 14" in problems(components)
    for real in (False, True):
        contract = check_contract(components, SPEC, only_in={"ce": "train"}, real=real)
        assert contract.keys["model.logits.cls"].shape == ("B", 5)
    assert contract.keys["model.logits.cls"].readers == ["Loss 'ce'"]
    with_accuracy = components | {
        "net": Model(),
        "accuracy": lambda batch_dict: {"model.seen": batch_dict["data.label"]},
    }
    contract = check_contract(with_accuracy, SPEC, only_in={"accuracy": "eval"})
    assert contract.keys["model.seen"].writer == "<lambda> 'accuracy'"


class OnlyInTraining(Model):
    """Writes its scores in train mode only."""

    def forward(self, batch_dict):
        return super().forward(batch_dict) if self.training else batch_dict


@pytest.mark.parametrize(
    ("values", "sizes"),
    [
        ({}, (4, 8)),
        ({"data.edges": torch.ones(9, 2)}, (4, 4)),
        ({"data.similarity": torch.ones(4, 4)}, (4, 4)),
        ({"data.any": object()}, (4, 4)),
        ({"a": 1}, (4, 8)),
    ],
)
def test_a_real_batch_is_checked_with_its_own_size_and_twice_this_size(values, sizes):
    seen = []

    def look(scores):
        seen.append(len(scores))
        return scores

    check_contract({"net": Model(look), "ce": Loss()}, real_batch([0, 1, 2, 3]) | values)
    assert tuple(seen) == sizes


def test_a_batch_of_one_sample_is_checked_with_this_size():
    class Bag(Model):
        def forward(self, batch_dict):
            batch_dict["model.logits.cls"] = self.linear(batch_dict["data.image"][0])[None]
            assert len(batch_dict["data.image"]) == 1
            return batch_dict

    contract = check_contract(
        {"net": Bag(), "ce": Loss()}, {"data.image": torch.ones(1, 8), "data.label": torch.ones(1).long()}
    )
    assert contract.keys["model.logits.cls"].shape == ("B", 5)


def lazy():
    return nn.LazyLinear(5)


def scripted():
    return torch.jit.script(nn.Linear(8, 5))


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
@pytest.mark.parametrize("make", [lazy, scripted])
def test_what_cannot_be_copied_to_fake_tensors_is_a_note(make):
    model = Model()
    model.linear = make()
    notes = check_contract({"net": model, "ce": Loss()}, SPEC).notes
    assert any(note.startswith("Model 'net' was not checked, because it needs values: it ") for note in notes)


def test_compiled_and_checkpointed_models_run_as_they_are():
    model = Model(lambda scores: checkpoint(torch.relu, scores, use_reentrant=True))
    model.linear = torch.compile(model.linear, backend="eager")
    assert len(check_contract({"net": model, "ce": Loss()}, SPEC).trained_by["Model 'net'"]) == 2


def test_a_model_that_returns_a_tensor_is_no_loss():
    class Returns(Model):
        def forward(self, batch_dict):
            return self.linear(batch_dict["data.image"])

    assert "Model 'net' returns a tensor. Write it to 'model.logits.cls', and return the batch." in problems(
        {"net": Returns(function=None), "ce": Loss()}
    ).replace("Returns", "Model")


def test_a_backward_that_fails_is_told():
    class Broken(torch.autograd.Function):
        @staticmethod
        def forward(_, scores):
            return scores.clone()

        @staticmethod
        def backward(_, gradient):
            return gradient[:, :2]

    found = problems({"net": Model(Broken.apply), "ce": Loss()})
    assert "Loss 'ce': its backward fails: Function BrokenBackward returned an invalid gradient" in found


def test_random_numbers_are_drawn_as_without_the_check():
    components = {"net": Model(nn.Dropout()), "ce": Loss()}
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    check_contract(components, SPEC, real=True)
    assert torch.equal(torch.rand(3), expected)


# --------------------------------------------------------------------------------------------------------- the result


def test_the_contract_is_a_table_and_a_drawing():
    contract = check_contract({"net": Model(), "ce": Loss()}, SPEC)
    assert str(contract).splitlines()[3:] == [
        "model.logits.cls  (B, 5)  float32  cpu     Model 'net'  Loss 'ce'",
        "",
        "component    trainable tensors  gradients from",
        "Model 'net'  2                  Loss 'ce'",
    ]
    assert contract.trained_by == {"Model 'net'": {"linear.weight": ["Loss 'ce'"], "linear.bias": ["Loss 'ce'"]}}
    assert '    c1 -- "(B, 5) float32" --> k2\n    k2 --> c2' in contract.to_mermaid()


def test_an_output_that_grows_with_the_batch_is_found():
    components = {
        "net": Model(lambda scores: scores.flatten().expand(len(scores), -1)),
        "loss": Loss(lambda pred, target: pred.square().mean()),
    }
    found = "Model 'net' writes 'model.logits.cls' of shape ({0}, {1}) for {0} samples and ({2}, {3}) for {2}. Keep"
    assert found.format(6, 30, 14, 70) in problems(components)
    notes = check_contract(components, real_batch([0] * 4)).notes  # eval mode might have twice the resolution
    assert notes[0].startswith(found.format(4, 20, 8, 40))


def test_a_spec_without_a_batch_axis_is_checked_with_its_sizes():
    spec = {"data.image": TensorSpec((7, 8)), "data.label": TensorSpec((7,), torch.int64)}
    contract = check_contract({"net": Model(), "ce": Loss()}, spec, real=True)
    assert contract.keys["model.logits.cls"].shape == ("B", 5)
    contract.check_batch({"data.image": torch.ones(7, 8), "data.label": torch.zeros(7, dtype=torch.int64)})


def test_a_wrong_spec_is_refused():
    with pytest.raises(
        ValueError, match=r"TensorSpec\(shape=\) holds each axis' size, and None for the batch axis, got"
    ):
        TensorSpec((-1, 8))
    with pytest.raises(TypeError, match=r"TensorSpec\(dtype=\) takes a torch\.dtype .*, got 'float32'\."):
        TensorSpec((None, 8), "float32")


def test_tensors_of_inference_mode_are_no_problem():
    class Distilled(Model):
        def forward(self, batch_dict):
            with torch.inference_mode():
                batch_dict["model.teacher"] = self.linear(batch_dict["data.image"])
            return super().forward(batch_dict)

    contract = check_contract({"net": Distilled(), "ce": Loss()}, SPEC)
    assert contract.keys["model.teacher"].shape == ("B", 5)


def test_class_indices_of_uint8_are_no_problem():
    labels = torch.tensor([0, 1, 2, 3], dtype=torch.uint8)
    check_contract({"net": Model(), "ce": Loss()}, real_batch([0] * 4) | {"data.label": labels}, real=True)
    F.cross_entropy(torch.zeros(4, 5), labels)


def test_a_spec_that_contradicts_a_real_batch_names_both():
    contract = check_contract({"net": Model(), "ce": Loss()}, SPEC)
    contract.check_batch(real_batch([0, 1, 2, 3]))
    message = r"checked with 'data\.image' as \(B, 8\) float32, but the batch holds \(B, 9\) float32\."
    with pytest.raises(ContractError, match=message):
        contract.check_batch(real_batch([0, 1, 2, 3], torch.ones(4, 9)))
    with pytest.raises(ContractError, match=r"'data\.label' as \(B\) int64, but the batch holds list\."):
        contract.check_batch({"data.image": torch.ones(4, 8), "data.label": [0, 1, 2, 3]})


def test_a_real_batch_is_compared_beside_tensors_of_a_fixed_size():
    components, anchors = {"net": Model(), "ce": Loss()}, {"data.anchors": TensorSpec((9, 2))}
    contract = check_contract(components, anchors | SPEC)
    batch = {"data.anchors": torch.ones(9, 2), "data.image": torch.ones(4, 8), "data.label": torch.zeros(4).long()}
    contract.check_batch(batch)
    with pytest.raises(ContractError, match=r"'data\.anchors' as \(9, 2\) float32, but the batch holds \(8, 2\)"):
        contract.check_batch(batch | {"data.anchors": torch.ones(8, 2)})


def test_the_error_pickles():
    error = ContractError(["one"], ["a note"])
    assert (
        str(pickle.loads(pickle.dumps(error)))
        == str(error)
        == "1 problem in how components fit together:\n- one\nnote: a note"
    )


def test_it_is_imported_only_when_called():
    program = "import sys, fuse_core; assert 'fuse_core.contract' not in sys.modules; fuse_core.check_contract"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_unknown_names_of_the_package_are_attribute_errors():
    with pytest.raises(AttributeError, match="no attribute 'check_contracts'"):
        fuse_core.check_contracts  # noqa: B018


def test_negative_class_indices_are_found():
    found = problems({"net": Model(), "ce": Loss()}, real_batch([0, 4, -1, 1]))
    assert "Loss 'ce' reads class -1 in 'data.label', but 'model.logits.cls' of Model 'net' holds 5" in found


def test_a_label_beyond_a_single_score_is_found():
    model = Model(lambda scores: scores[:, :1])
    found = problems({"net": model, "ce": Loss()}, real_batch([0, 1, 0, 1]))
    assert "reads class 1 in 'data.label', but 'model.logits.cls' of Model 'net' holds 1 class. Correct" in found
    binary = Loss(lambda pred, target: F.binary_cross_entropy_with_logits(pred, target[:, None].float()))
    check_contract({"net": model, "bce": binary}, real_batch([0, 1, 0, 1]))


@pytest.mark.parametrize("move", [lambda scores: scores, lambda scores: scores.movedim(1, -1)])
def test_the_class_axis_of_sequences_may_be_first_or_last(move):
    def function(pred, target):
        return F.cross_entropy(pred if pred.shape[1] == 5 else pred.movedim(-1, 1), target)

    model = Model(lambda scores: move(scores[:, :, None].expand(-1, -1, 3)))
    components = {"net": model, "ce": Loss(function)}
    batch = real_batch([[0, 1, 4]] * 4)
    check_contract(components, batch)
    batch["data.label"][0, 0] = 5
    found = problems(components, batch)
    assert "reads class 5 in 'data.label', but 'model.logits.cls' of Model 'net' holds 5 classes. Correct" in found


def test_parameters_used_by_a_function_get_no_gradient():
    net = Model()
    check_contract({"net": lambda batch: net(batch), "loss": Loss()}, SPEC)
    assert all(parameter.grad is None for parameter in net.parameters())


def test_a_part_that_two_models_share_is_trained_in_both():
    first, second = Model(), Model(writes="model.logits.again")
    second.linear = first.linear
    again = Loss()
    again.reads = ("model.logits.again", "data.label")
    contract = check_contract({"first": first, "ce": Loss(), "second": second, "again": again}, SPEC)
    trained = contract.trained_by["Model 'second'"]
    assert trained == contract.trained_by["Model 'first'"]
    assert trained["linear.weight"] == ["Loss 'ce'", "Loss 'again'"]


def test_an_optional_read_is_a_read():
    reader = Loss(lambda label: label.sum() * 0)
    reader.reads, reader.optional_reads = ("data.label",), ("model.logits.other",)
    components = {"net": Model(), "loss": Loss(), "other": Model(writes="model.logits.other"), "reader": reader}
    assert "nothing reads" not in problems(components)
    reader.optional_reads = ()
    assert "nothing reads" in problems(components)


def test_an_unread_output_of_trained_layers_beside_an_untrained_one_stops_nothing():
    class WithLeftOver(Model):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(8, 2)  # left over, as in many backbones
            self.writes = ["model.logits.cls", "model.output.attention"]

        def forward(self, batch_dict):
            batch_dict["model.logits.cls"] = scores = self.linear(batch_dict["data.image"])
            batch_dict["model.output.attention"] = scores.softmax(1)
            return batch_dict

    with pytest.raises(ContractError) as error:
        check_contract({"net": WithLeftOver(), "loss": Loss()}, SPEC)
    assert error.value.certain == ()


@pytest.mark.parametrize(
    "function",
    [
        lambda scores: torch.func.vmap(lambda one: one * one.sum())(scores),
        lambda scores: scores + torch.eye(5).to_sparse().mul(torch.tensor(2.0)).to_dense()[0],
    ],
)
def test_functions_over_tensors_without_a_storage_are_no_problem(function):
    check_contract({"net": Model(function), "loss": Loss()}, SPEC)


def test_all_distances_of_an_unreduced_loss_stop_nothing():
    nearest = Loss(lambda logits, label: F.l1_loss(logits[:, :1], label.float(), reduction="none").min(1).values.mean())
    with pytest.raises(ContractError) as error:
        check_contract({"net": Model(), "loss": nearest}, SPEC)
    assert error.value.certain == ()


@pytest.mark.parametrize(("result", "message"), [(1.0, "returns a float"), ((1, 2), "returns a tuple")])
def test_a_loss_that_returns_no_tensor_is_found(result, message):
    assert message in problems({"net": Model(), "loss": Loss(lambda logits, label: result)})


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"only_in": {"nett": "train"}}, ValueError, "takes names of components with 'train' or 'eval'"),
        ({"only_in": {"net": "training"}}, ValueError, "got 'net': 'training'"),
        ({"frozen": "net"}, TypeError, r"Use \['net'\]"),
        ({"prediction_keys": "model.logits.cls"}, TypeError, "takes a sequence"),
    ],
)
def test_options_that_would_do_nothing_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        check_contract({"net": Model(), "loss": Loss()}, SPEC, **options)


def test_a_mask_of_the_batch_may_leave_labels_out():
    class Labeled(Loss):
        reads = ("model.logits.cls", "data.label", "data.is_unlabeled")

        def __call__(self, batch_dict):
            scores, label = batch_dict["model.logits.cls"], batch_dict["data.label"]
            if label.sum() > -9:
                kept = ~batch_dict["data.is_unlabeled"]
            return F.cross_entropy(scores[kept], label[kept])

    batch = real_batch([0, 4, -1, 1]) | {"data.is_unlabeled": torch.tensor([False, False, True, False])}
    check_contract({"net": Model(), "ce": Labeled()}, batch)


def test_what_a_metric_returns_from_its_update_is_no_loss():
    class Correct(Accuracy):
        def update(self, batch_dict):
            scores, label = (batch_dict[key] for key in self.reads)
            return scores.argmax(1) == label

    metric = Correct(Mistake(), "correct", 5, "model.logits.cls", "data.label")
    check_contract({"net": Model(), "ce": Loss(), "correct": metric}, SPEC)


def test_a_loss_that_is_no_scalar_in_eval_mode_stops_no_training():
    class PerSample(nn.Module):
        reads = Loss.reads

        def forward(self, batch_dict):
            reduction = "mean" if self.training else "none"
            return F.cross_entropy(*(batch_dict[key] for key in self.reads), reduction=reduction)

    with pytest.raises(ContractError, match=r"returns a loss of shape \(14,\)") as info:
        check_contract({"net": Model(), "ce": PerSample()}, SPEC)
    assert info.value.certain == ()


def test_a_head_that_undeclared_components_may_read_later_stops_no_training():
    class TwoHeads(Model):
        def __init__(self):
            super().__init__()
            self.side = nn.Linear(8, 2)

        def forward(self, batch_dict):
            batch_dict["model.logits.side"] = self.side(batch_dict["data.image"])
            return super().forward(batch_dict)

    class WarmUp(nn.Module):
        def forward(self, batch_dict):
            if batch_dict["global_step"] < 100:
                return torch.zeros(())
            return batch_dict["model.logits.side"].square().mean()

    def certain(**losses):
        with pytest.raises(ContractError, match=r"writes 'model\.logits\.side', which nothing reads") as info:
            check_contract({"net": TwoHeads(), "ce": Loss(), **losses}, SPEC | {"global_step": 0})
        return info.value.certain

    assert len(certain()) == 1
    assert certain(warm_up=WarmUp()) == ()

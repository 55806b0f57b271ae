import copy

import pytest
import torch
from torch import nn

from fuse_core import NDict, NestedKeyError, WiringError, check_wiring
from fuse_models import Head1D, ModelEnsemble, ModelMultiHead, ModelWrapDictToSeq, ModelWrapSeqToDict
from fuse_models.ensemble import members as ensemble_members

KEY = "model.output.cls"


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


class Fixed(nn.Module):
    """Writes the predictions that it was made with, and says what it saw."""

    def __init__(self, prediction, key=KEY):
        super().__init__()
        self.register_buffer("prediction", torch.as_tensor(prediction))
        self.key = key
        self.seen = None

    def forward(self, batch_dict):
        self.seen = set(batch_dict)
        batch_dict["model.mine"] = "overwritten"
        batch_dict[self.key] = self.prediction
        return batch_dict


def network(classes=3):
    """Logits and probabilities by a small convolutional network with normalization and dropout."""
    layers = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(), nn.Flatten(), nn.Linear(4 * 4 * 4, classes)
    )
    return ModelWrapSeqToDict(
        model=layers,
        model_inputs=["data.image"],
        model_outputs=["model.logits.cls", KEY],
        post_forward_processing_function=lambda logits: (logits, logits.softmax(1)),
    )


def trained_networks(count=3):
    """Networks whose running statistics differ too."""
    members = [network() for _ in range(count)]
    for i, member in enumerate(members):
        member(NDict({"data.image": torch.randn(8, 2, 6, 6) * (i + 1)}))
    return members


@pytest.fixture
def batch():
    return NDict({"data.image": torch.randn(5, 2, 6, 6), "data.sample_id": list("abcde")})


def test_it_writes_each_prediction_their_average_vote_and_deviation():
    predictions = torch.tensor([[[0.6, 0.4]], [[0.6, 0.4]], [[0.0, 1.0]]])
    batch = NDict({"data.x": 1})
    result = ModelEnsemble([Fixed(prediction) for prediction in predictions], [KEY])(batch)
    assert result is batch
    for i in range(3):
        assert batch[f"{KEY}_ensemble_{i}"].equal(predictions[i])
    torch.testing.assert_close(batch[f"{KEY}_ensemble_average"], torch.tensor([[0.4, 0.6]]))
    assert batch[f"{KEY}_ensemble_majority_vote"].tolist() == [0]
    deviation = ((predictions - predictions.mean(0)) ** 2).mean(0).sqrt()  # over the number of models, not one less
    torch.testing.assert_close(batch[f"{KEY}_ensemble_std"], deviation)


def test_one_model_deviates_by_zero():
    batch = ModelEnsemble([Fixed([[0.6, 0.4]])], [KEY])(NDict({"data.x": 1}))
    assert batch[f"{KEY}_ensemble_std"].tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize("kind", [NDict, dict])
def test_models_do_not_see_one_anothers_writes_and_the_batch_keeps_its_own(kind):
    members = [Fixed([[0.6, 0.4]]) for _ in range(2)]
    batch = kind({"data.x": 1, "model.mine": "kept"})
    ModelEnsemble(members, [KEY])(batch)
    assert members[0].seen == members[1].seen == {"data.x", "model.mine"}
    assert batch["model.mine"] == "kept"
    assert KEY not in batch


def test_models_do_not_share_nested_plain_dicts():
    class Nested(nn.Module):
        def forward(self, batch_dict):
            assert "mine" not in batch_dict["model"]
            batch_dict["model"]["mine"] = torch.rand(2, 3).softmax(1)
            batch_dict["p"] = batch_dict["model"]["mine"]
            return batch_dict

    batch = {"model": {}}
    ModelEnsemble([Nested(), Nested()], ["p"])(batch)
    assert batch["model"] == {}


def test_dense_maps_are_voted_on_at_each_voxel():
    maps = [torch.randn(2, 3, 4, 4, 4).softmax(1) for _ in range(3)]
    batch = ModelEnsemble([Fixed(one) for one in maps], [KEY])(NDict({"data.x": 1}))
    vote = batch[f"{KEY}_ensemble_majority_vote"]
    assert vote.shape == (2, 4, 4, 4)
    votes = torch.stack([one.argmax(1) for one in maps])
    decided = votes.mode(0).values
    has_majority = (votes == decided).sum(0) >= 2
    assert has_majority.any()
    assert vote[has_majority].equal(decided[has_majority])


def test_classes_may_be_on_another_axis():
    maps = [torch.rand(2, 4, 4, 3).softmax(-1) for _ in range(3)]
    batch = ModelEnsemble([Fixed(one) for one in maps], [KEY], classes_axis=-1)(NDict({"data.x": 1}))
    assert batch[f"{KEY}_ensemble_majority_vote"].shape == (2, 4, 4)


def test_logits_are_known_by_their_key_and_averaged_as_asked_for(batch):
    members = trained_networks()
    for average in ("probabilities", "logits"):
        result = ModelEnsemble(members, ["model.logits.cls", KEY], average=average).eval()(batch.copy())
        from_logits = result["model.logits.cls_ensemble_average"].softmax(1)
        torch.testing.assert_close(from_logits, result[f"{KEY}_ensemble_average"])
        mean = torch.stack([result[f"{KEY}_ensemble_{i}"] for i in range(3)]).mean(0)
        assert torch.allclose(from_logits, mean) == (average == "probabilities")


def test_what_a_key_holds_can_be_said(batch):
    scores = [Fixed(torch.randn(5, 3), key="scores") for _ in range(3)]
    result = ModelEnsemble(scores, {"scores": "logits"}, average="probabilities")(batch)
    expected = torch.stack([one.prediction.softmax(1) for one in scores]).mean(0)
    torch.testing.assert_close(result["scores_ensemble_average"].softmax(1), expected)


def test_values_are_not_voted_on(batch):
    members = [Fixed(torch.full((5, 1), float(i)), key="model.output.age") for i in range(3)]
    ensemble = ModelEnsemble(members, {"model.output.age": "values"}, average="logits")
    result = ensemble(batch)
    assert result["model.output.age_ensemble_average"].unique().tolist() == [1.0]
    assert "model.output.age_ensemble_majority_vote" not in result
    assert "model.output.age_ensemble_majority_vote" not in ensemble.writes


def labels(number, count=3):
    """Members with sigmoid scores."""
    layers = [nn.Sequential(nn.Flatten(), nn.Linear(72, number), nn.Sigmoid()) for _ in range(count)]
    return [ModelWrapSeqToDict(model=one, model_inputs=["data.image"], model_outputs=[KEY]) for one in layers]


@pytest.mark.parametrize("number", [1, 3])
def test_sigmoid_scores_are_averaged_and_voted_on_for_each_label(batch, number):
    members = labels(number)
    scores = torch.stack([member(batch.copy())[KEY] for member in members])
    result = ModelEnsemble(members, {KEY: "labels"}, average="logits").eval()(batch)
    torch.testing.assert_close(result[f"{KEY}_ensemble_average"], scores.logit().mean(0).sigmoid())
    assert result[f"{KEY}_ensemble_majority_vote"].equal((scores > 0.5).float().mean(0).gt(0.5).long())


@pytest.mark.parametrize("number", [1, 3])
def test_sigmoid_scores_that_are_not_told_are_an_error(batch, number):
    with pytest.raises(ValueError, match=r"ModelEnsemble .*'model\.output\.cls'.*'labels'"):
        ModelEnsemble(labels(number), [KEY]).eval()(batch)


def headed(mode):
    head = Head1D("cls", mode, conv_inputs=[("model.backbone_features", 72)], num_outputs=3)
    return ModelMultiHead(nn.Flatten(), [head], conv_inputs=["data.image"])


@pytest.mark.parametrize("mode", ["classification", "multilabel", "regression"])
def test_kinds_are_taken_from_the_heads(mode, batch):
    kinds = {"classification": ("probabilities", "logits"), "multilabel": ("labels", "label_logits")}
    output, logits = kinds.get(mode, ("values", None))
    members = [headed(mode), headed(mode)]
    assert ModelEnsemble(members).prediction_keys == {KEY: output}
    if logits:
        ensemble = ModelEnsemble(members, ["model.logits.cls", KEY])
        assert ensemble.prediction_keys == {"model.logits.cls": logits, KEY: output}
        result = ensemble.eval()(batch)
        scores = torch.stack([result[f"{KEY}_ensemble_{i}"] for i in range(2)])
        torch.testing.assert_close(result[f"{KEY}_ensemble_average"], scores.mean(0))


@pytest.mark.parametrize("change", ["replaced", "mode"])
def test_a_head_that_becomes_one_of_another_kind_is_an_error(batch, change):
    ensemble = ModelEnsemble([headed("classification") for _ in range(2)]).eval()
    ensemble(batch.copy())
    model = ensemble.models[1]
    if change == "replaced":
        model.heads[0] = headed("multilabel").heads[0]
    else:
        model.heads[0].mode = "multilabel"
    with pytest.raises(
        ValueError, match=r"takes 'model\.output\.cls' for probabilities, but model 1 now declares labels"
    ):
        ensemble(batch)


def test_members_of_another_precision_keep_it(batch):
    ensemble = ModelEnsemble([Fixed([[0.5, 0.5]]), Fixed(torch.tensor([[0.3, 0.7]], dtype=torch.float16))], [KEY])
    result = ensemble(batch)
    assert [result[f"{KEY}_ensemble_{i}"].dtype for i in range(2)] == [torch.float32, torch.float16]


def test_fx_traces_an_ensemble(batch):
    ensemble = ModelEnsemble([headed("classification") for _ in range(3)], average_weights=[1, 2, 3]).eval()
    keys = [f"{KEY}_ensemble_{name}" for name in (0, "average", "std", "majority_vote")]
    plain = ModelWrapDictToSeq(ensemble, keys, "data.image")
    traced = torch.fx.symbolic_trace(plain)
    torch.testing.assert_close(traced(batch["data.image"]), plain(batch["data.image"]))


def test_prediction_keys_may_be_replaced_later(batch):
    members = [network() for _ in range(2)]
    ensemble = ModelEnsemble(members, [KEY]).eval()
    ensemble.prediction_keys = {"model.logits.cls": "logits", KEY: "probabilities"}
    result = ensemble(batch.copy())
    for i, member in enumerate(members):
        alone = member(batch.copy())
        for key in ("model.logits.cls", KEY):
            assert result[f"{key}_ensemble_{i}"].equal(alone[key])


@pytest.mark.parametrize("mode", ["multilabel", "regression"])
def test_an_ensemble_of_ensembles_takes_the_kinds_of_their_averages(batch, mode):
    def member():
        head = Head1D("cls", mode, [("model.backbone_features", 72)], num_outputs=3)
        return ModelMultiHead(nn.Flatten(), [head], conv_inputs=["data.image"])

    key = KEY if mode == "regression" else "model.logits.cls"
    folds = [ModelEnsemble([member() for _ in range(2)], [key]) for _ in range(3)]
    ensemble = ModelEnsemble(folds, [f"{key}_ensemble_average"]).eval()
    result = ensemble(batch.copy())
    averages = torch.stack([fold(batch.copy())[f"{key}_ensemble_average"] for fold in folds])
    expected = averages.mean(0) if mode == "regression" else averages.sigmoid().mean(0).logit()
    torch.testing.assert_close(result[f"{key}_ensemble_average_ensemble_average"], expected)


def test_kinds_that_differ_are_an_error():
    members = [
        ModelMultiHead(nn.Identity(), [Head1D("cls", mode, [("model.backbone_features", 4)])], conv_inputs=["x"])
        for mode in ("classification", "multilabel")
    ]
    with pytest.raises(ValueError, match=r"declare 'model\.output\.cls' as different kinds, labels and probabilities"):
        ModelEnsemble(members)


def test_averages_are_weighted(batch):
    members = trained_networks()
    result = ModelEnsemble(members, [KEY], average_weights=[3, 1, 0.5]).eval()(batch)
    alone = torch.stack([result[f"{KEY}_ensemble_{i}"] for i in range(3)])
    expected = (alone * torch.tensor([3, 1, 0.5])[:, None, None]).sum(0) / 4.5
    torch.testing.assert_close(result[f"{KEY}_ensemble_average"], expected)


@pytest.mark.parametrize("weights", ["equal", [1, "a"], [1, 0, 1], [1, -1, 1], [1, torch.nan, 1], 3])
def test_weights_are_positive_numbers(weights):
    with pytest.raises(ValueError, match=r"average_weights=\) takes a positive number for each model, got"):
        ModelEnsemble([network() for _ in range(3)], [KEY], average_weights=weights)


def test_there_is_one_weight_for_each_model(batch):
    message = r"average_weights=\) takes one weight for each model, got 2 for 3 models"
    with pytest.raises(ValueError, match=message):
        ModelEnsemble([network() for _ in range(3)], [KEY], average_weights=[1, 2])
    ensemble = ModelEnsemble([network() for _ in range(2)], [KEY], average_weights=[1, 2])
    ensemble.models.append(network())
    with pytest.raises(ValueError, match=message):
        ensemble(batch)


def test_an_ensemble_without_models_is_an_error(batch):
    ensemble = ModelEnsemble([network()], [KEY])
    del ensemble.models[0]
    with pytest.raises(ValueError, match="ModelEnsemble has no models left"):
        ensemble(batch)


def test_in_low_memory_one_model_at_a_time_is_on_the_device(batch):
    """The meta device stands for the accelerator; with no values there, predictions are of that device too."""
    devices = []

    class Watching(nn.Linear):
        def forward(self, x):
            devices.append([weight.device.type for weight in ensemble.parameters()][::2])
            return super().forward(x)

    layers = [nn.Sequential(nn.Flatten(), Watching(72, 3), nn.Softmax(1)) for _ in range(3)]
    members = [ModelWrapSeqToDict(model=one, model_inputs=["data.image"], model_outputs=[KEY]) for one in layers]
    ensemble = ModelEnsemble(members, [KEY], low_memory=True).eval()
    assert ensemble(batch.copy())[f"{KEY}_ensemble_average"].shape == (5, 3)
    devices.clear()
    for module in ensemble.modules():  # leaving the meta device needs new values
        module.cpu = lambda module=module: module.to_empty(device="cpu")
    ensemble({"data.image": batch["data.image"].to("meta")})
    assert devices == [["meta", "cpu", "cpu"], ["cpu", "meta", "cpu"], ["cpu", "cpu", "meta"]]
    assert not any(weight.is_meta for weight in ensemble.parameters())


def test_low_memory_gives_the_same_without_gradients(batch):
    members = trained_networks()
    result = ModelEnsemble(members, [KEY], low_memory=True).eval()(batch.copy())
    assert not result[f"{KEY}_ensemble_average"].requires_grad
    assert_same_results(result, ModelEnsemble(members, [KEY]).eval()(batch.copy()))
    half = ModelEnsemble(members, [KEY], low_memory=True).double()
    assert {weight.dtype for weight in half.parameters()} == {torch.float64}


def test_low_memory_and_vmap_exclude_one_another():
    with pytest.raises(ValueError, match=r"execution='vmap'\) needs all models at once"):
        ModelEnsemble([network()], [KEY], execution="vmap", low_memory=True)


def test_without_keys_all_declared_outputs_are_taken():
    def member():
        head = ModelWrapSeqToDict(
            model=nn.Linear(4, 2),
            model_inputs=["model.backbone_features"],
            model_outputs=["model.logits.cls", KEY],
            post_forward_processing_function=lambda logits: (logits, logits.softmax(1)),
        )
        regression = ModelWrapSeqToDict(
            model=nn.Linear(4, 1), model_inputs=["model.backbone_features"], model_outputs=["model.output.age"]
        )
        return ModelMultiHead(nn.Identity(), [head, regression], conv_inputs=["data.x"])

    ensemble = ModelEnsemble([member(), member()])
    assert ensemble.prediction_keys == {KEY: "probabilities", "model.output.age": "values"}
    assert set(ensemble(NDict({"data.x": torch.rand(3, 4)}))) == {"data.x", *ensemble.writes}


@pytest.mark.parametrize("execution", ["sequential", "vmap"])
def test_training_mode_moves_the_running_statistics_of_each_model(batch, execution):
    ensemble = ModelEnsemble(trained_networks(), [KEY], execution=execution).train()
    before = [copy.deepcopy(model.state_dict()) for model in ensemble.models]
    ensemble(batch)
    for model, state in zip(ensemble.models, before, strict=True):
        assert model.state_dict()["model.1.num_batches_tracked"] == state["model.1.num_batches_tracked"] + 1
        assert not model.state_dict()["model.1.running_mean"].equal(state["model.1.running_mean"])


def test_slices_hold_models():
    members = trained_networks()
    assert list(ModelEnsemble(members, [KEY]).models[1:]) == members[1:]


def test_train_and_eval_reach_every_model_and_return_the_ensemble():
    ensemble = ModelEnsemble(trained_networks(), [KEY])
    assert ensemble.eval() is ensemble
    assert not any(module.training for module in ensemble.modules())
    assert ensemble.train() is ensemble
    assert all(module.training for module in ensemble.modules())


# ------------------------------------------------------------------------------------------------------ execution


def vmap_and_sequential(members, keys=("model.logits.cls", KEY), **options):
    return [ModelEnsemble(members, keys, execution=way, **options).eval() for way in ("vmap", "sequential")]


def assert_same_results(first, second):
    assert set(first) == set(second)
    for key in first:
        if isinstance(first[key], torch.Tensor):
            torch.testing.assert_close(first[key], second[key], rtol=1e-4, atol=1e-6, msg=key)
        else:
            assert first[key] == second[key]


def count_vectorised(monkeypatch):
    calls = []
    run = ensemble_members.vmap
    monkeypatch.setattr(ensemble_members, "vmap", lambda *args, **options: calls.append(1) or run(*args, **options))
    return calls


def test_vectorised_and_one_after_another_give_the_same(batch, monkeypatch):
    calls = count_vectorised(monkeypatch)
    vmap, sequential = vmap_and_sequential(trained_networks(4))
    with torch.inference_mode():
        assert_same_results(vmap(batch.copy()), sequential(batch.copy()))
    assert len(calls) == 1


def test_the_vectorised_pass_compiles_in_one_graph(batch):
    torch._dynamo.reset()
    vmap, _ = vmap_and_sequential(trained_networks())
    plain = dict(batch)
    compiled = torch.compile(vmap, fullgraph=True, backend="eager")
    assert_same_results(compiled(dict(plain)), vmap(dict(plain)))


def test_vectorised_gradients_reach_every_model_and_are_the_same(batch):
    members = trained_networks()
    gradients = []
    for ensemble in vmap_and_sequential(members):
        ensemble.zero_grad()
        ensemble(batch.copy())["model.logits.cls_ensemble_average"].pow(2).sum().backward()
        gradients.append([parameter.grad.clone() for parameter in ensemble.parameters()])
    assert all(gradient.abs().sum() > 0 for gradient in gradients[0])
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)


def change_by_loading(ensemble):
    ensemble.load_state_dict({name: tensor * 2 for name, tensor in ensemble.state_dict().items()})


def change_by_assigning(ensemble):
    ensemble.load_state_dict({name: tensor * 2 for name, tensor in ensemble.state_dict().items()}, assign=True)


def change_by_data(ensemble):  # as weight averaging does, which no version counter sees
    for parameter in ensemble.parameters():
        parameter.data.mul_(2)


def change_by_optimizer(ensemble):
    for parameter in ensemble.parameters():
        parameter.grad = torch.ones_like(parameter)
    torch.optim.SGD(ensemble.parameters(), lr=0.1).step()


def change_a_layer(ensemble):
    for model in ensemble.models:
        model.model[5] = nn.Linear(64, 3)


CHANGES = [change_by_loading, change_by_assigning, change_by_data, change_by_optimizer, change_a_layer]


@pytest.mark.parametrize("change", CHANGES)
def test_vectorised_results_are_those_of_the_weights_of_the_moment(batch, change):
    vmap, sequential = vmap_and_sequential(trained_networks())
    before = vmap(batch.copy())
    change(vmap)
    after = vmap(batch.copy())
    assert not torch.allclose(before[f"{KEY}_ensemble_0"], after[f"{KEY}_ensemble_0"])
    assert_same_results(after, sequential(batch.copy()))  # of the same members


def test_vectorised_models_may_be_moved_to_another_dtype(batch):
    vmap, sequential = vmap_and_sequential(trained_networks())
    vmap(batch.copy())
    vmap.double()
    batch["data.image"] = batch["data.image"].double()
    result = vmap(batch.copy())
    assert result[f"{KEY}_ensemble_average"].dtype == torch.float64
    assert_same_results(result, sequential(batch.copy()))


def test_hooks_see_each_model_by_itself(batch, monkeypatch):
    calls = count_vectorised(monkeypatch)
    ensemble = ModelEnsemble(trained_networks(), [KEY], execution="vmap").eval()
    seen = []
    ensemble.models[1].model[0].register_forward_hook(lambda module, args, output: seen.append(output.shape))
    ensemble(batch)
    assert seen == [(5, 4, 4, 4)]
    assert not calls


@pytest.mark.parametrize("register", ["register_full_backward_hook", "register_full_backward_pre_hook"])
def test_backward_hooks_are_called(batch, register):
    ensemble = ModelEnsemble(trained_networks(), [KEY], execution="vmap").eval()
    seen = []
    getattr(ensemble.models[1].model[5], register)(lambda module, *gradients: seen.append(module))
    ensemble(batch)[f"{KEY}_ensemble_1"].square().sum().backward()
    assert seen == [ensemble.models[1].model[5]]


def test_modules_and_weights_that_a_model_uses_twice_keep_their_values(batch):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(72, 72)
            self.same_module = self.first
            self.same_weight = nn.Linear(72, 72)
            self.same_weight.weight = self.first.weight

        def forward(self, image):
            return self.same_weight(self.same_module(self.first(image.flatten(1))))

    members = [ModelWrapSeqToDict(model=Twice(), model_inputs=["data.image"], model_outputs=["p"]) for _ in range(3)]
    vmap, sequential = vmap_and_sequential(members, {"p": "values"})
    results, gradients = [], []
    for ensemble in (vmap, sequential):
        ensemble.zero_grad()
        results.append(ensemble(batch.copy()))
        results[-1]["p_ensemble_average"].pow(2).sum().backward()
        gradients.append([parameter.grad.clone() for parameter in ensemble.parameters()])
    assert_same_results(*results)
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)


def test_vectorised_members_that_draw_random_numbers_draw_their_own(batch):
    class Dropping(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(72, 3)

        def forward(self, image):
            return nn.functional.dropout(self.layer(image.flatten(1)), training=True)  # in eval mode too

    members = [ModelWrapSeqToDict(model=Dropping(), model_inputs=["data.image"], model_outputs=["p"])] * 3
    result = ModelEnsemble(members, {"p": "values"}, execution="vmap").eval()(batch)
    assert not result["p_ensemble_0"].equal(result["p_ensemble_1"])


class Calibrated(nn.Module):
    """Probabilities at a temperature, which is an attribute and in the extra state."""

    def __init__(self, activation=nn.ReLU):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(72, 8), activation(), nn.Linear(8, 3))
        self.temperature = 1.0

    def forward(self, image):
        return (self.layers(image) / self.temperature).softmax(1)

    def get_extra_state(self):
        return {"temperature": self.temperature}

    def set_extra_state(self, state):
        self.temperature = state["temperature"]


def calibrated(activation=nn.ReLU):
    return ModelWrapSeqToDict(model=Calibrated(activation), model_inputs=["data.image"], model_outputs=[KEY]).eval()


def calibrate(ensemble):
    for i, member in enumerate(ensemble.models):
        member.model.temperature = 1.0 + i
    return ensemble


def load_a_calibrated_state(ensemble):
    ensemble.load_state_dict(calibrate(copy.deepcopy(ensemble)).state_dict())
    return ensemble


def replace_a_member(ensemble):
    ensemble.models[1] = calibrated(nn.Tanh)
    return ensemble


def append_a_member(ensemble):
    ensemble.models.append(calibrated(nn.Tanh))
    return ensemble


def delete_a_member(ensemble):
    del ensemble.models[0]
    return ensemble


def assign_a_list(ensemble):
    ensemble.models = nn.ModuleList([calibrated(nn.Tanh), calibrated()])
    return ensemble


def assign_a_plain_list(ensemble):
    ensemble.models = [calibrated(nn.Tanh), calibrated()]
    return ensemble


def assign_a_slice(ensemble):
    ensemble.models = ensemble.models[1:3]
    return ensemble


def insert_a_member(ensemble):
    ensemble.models.insert(0, calibrated(nn.Tanh))
    return ensemble


def replace_a_layer(ensemble):
    ensemble.models[1].model.layers[2] = nn.Tanh().eval()
    return ensemble


def normalise_the_weights_of_one(ensemble):
    nn.utils.parametrizations.weight_norm(ensemble.models[1].model.layers[1])
    return ensemble.eval()


def replace_a_forward(ensemble):
    ensemble.models[1].model.forward = lambda image: torch.full((len(image), 3), 1 / 3)
    return ensemble


def share_a_member(ensemble):
    ensemble.models[1] = ensemble.models[0]
    return ensemble


def quantize(ensemble):
    return torch.ao.quantization.quantize_dynamic(ensemble, {nn.Linear}, dtype=torch.qint8)


MEMBER_CHANGES = [
    calibrate,
    load_a_calibrated_state,
    replace_a_member,
    append_a_member,
    insert_a_member,
    assign_a_list,
    assign_a_plain_list,
    replace_a_layer,
    normalise_the_weights_of_one,
    replace_a_forward,
    delete_a_member,
    assign_a_slice,
    share_a_member,
    quantize,
]
SAME_ARCHITECTURE = [delete_a_member, assign_a_slice, share_a_member, quantize]


@pytest.mark.filterwarnings("ignore:.*quantiz.*deprecated")
@pytest.mark.parametrize("execution", ["sequential", "vmap"])
@pytest.mark.parametrize("change", MEMBER_CHANGES, ids=lambda change: change.__name__)
def test_changed_members_give_what_they_give_alone_or_are_refused(batch, execution, change):
    ensemble = ModelEnsemble([calibrated() for _ in range(4)], [KEY], execution=execution).eval()
    ensemble(batch.copy())
    ensemble = change(ensemble)
    if execution == "vmap" and change not in SAME_ARCHITECTURE:  # int8 layers have no weights to stack
        with pytest.raises(ValueError, match=r"needs models of one architecture, but models 0 and \d differ in"):
            ensemble(batch)
        return
    result = ensemble(batch.copy())
    assert {key for key in result if key.startswith(KEY)} == set(ensemble.writes)
    alone = [member(batch.copy())[KEY] for member in ensemble.models]
    for i, prediction in enumerate(alone):
        torch.testing.assert_close(result[f"{KEY}_ensemble_{i}"], prediction)
    torch.testing.assert_close(result[f"{KEY}_ensemble_average"], torch.stack(alone).mean(0))


@pytest.mark.parametrize("execution", ["sequential", "vmap"])
def test_members_without_parameters_give_what_they_give_alone(batch, execution):
    members = [
        ModelWrapSeqToDict(model=nn.Softmax(dim=1), model_inputs=["data.image"], model_outputs=["p"]) for _ in range(2)
    ]
    result = ModelEnsemble(members, ["p"], execution=execution).eval()(batch)
    assert result["p_ensemble_1"].equal(batch["data.image"].softmax(1))


@pytest.mark.filterwarnings("ignore:Lazy modules")
@pytest.mark.parametrize("execution", ["sequential", "vmap"])
def test_members_with_lazy_layers_run(batch, execution, monkeypatch):
    calls = count_vectorised(monkeypatch)
    layers = [nn.Sequential(nn.Flatten(), nn.LazyLinear(3), nn.Softmax(1)) for _ in range(2)]
    members = [ModelWrapSeqToDict(model=one, model_inputs=["data.image"], model_outputs=[KEY]) for one in layers]
    ensemble = ModelEnsemble(members, [KEY], execution=execution).eval()
    first = ensemble(batch.copy())  # initializes the layers
    assert_same_results(ensemble(batch.copy()), first)
    assert len(calls) == (1 if execution == "vmap" else 0)


def test_vmap_needs_one_architecture():
    with pytest.raises(ValueError, match=r"models 0 and 1 differ in attribute 'out_features' of 'model\.5': 3 and 4"):
        ModelEnsemble([network(3), network(4)], [KEY], execution="vmap")


def test_models_of_several_architectures_run_one_after_another(batch, monkeypatch):
    calls = count_vectorised(monkeypatch)
    other = network()
    other.model.insert(3, nn.Tanh())
    ModelEnsemble([network(), other], [KEY]).eval()(batch)
    assert not calls


def test_it_copies_and_its_state_dict_loads(batch):
    ensemble = ModelEnsemble(trained_networks(), [KEY]).eval()
    fresh = ModelEnsemble([network() for _ in range(3)], [KEY]).eval()
    fresh.load_state_dict(ensemble.state_dict())
    assert list(ensemble.state_dict())[:2] == ["models.0.model.0.weight", "models.0.model.0.bias"]
    expected = ensemble(batch.copy())
    assert_same_results(fresh(batch.copy()), expected)
    assert_same_results(copy.deepcopy(ensemble)(batch.copy()), expected)


# ---------------------------------------------------------------------------------------------------- wiring and errors


def test_it_declares_what_the_models_read_and_what_it_writes():
    first, second = network(), network()
    second.model_inputs = second.reads = ("data.other",)
    ensemble = ModelEnsemble([first, second], [KEY])
    assert ensemble.reads == ("data.image", "data.other")
    assert ensemble.writes == tuple(f"{KEY}_ensemble_{name}" for name in (0, 1, "average", "std", "majority_vote"))

    class Loss:
        reads = (f"{KEY}_ensemble_mean",)

    with pytest.raises(WiringError, match=rf"Nearest keys: .*'{KEY}_ensemble_\w+' \(written by ModelEnsemble\)"):
        check_wiring([ensemble, Loss()], ["data.image", "data.other"])


def test_undeclared_models_leave_the_reads_open():
    assert ModelEnsemble([Fixed([[0.6, 0.4]])], [KEY]).reads is None


def test_a_key_that_a_model_does_not_declare_is_an_error_at_construction():
    with pytest.raises(ValueError, match=r"model 0 \(ModelWrapSeqToDict\) does not write 'model\.output\.clas'.*cls'"):
        ModelEnsemble([network()], ["model.output.clas"])


def test_a_key_that_an_undeclared_model_did_not_write_is_named():
    ensemble = ModelEnsemble([Fixed([[0.6, 0.4]]), Fixed([[0.6, 0.4]], key="p")], [KEY])
    with pytest.raises(NestedKeyError, match=r"ModelEnsemble, in what model 1 returned, reads 'model\.output\.cls'"):
        ensemble(NDict({"data.x": 1}))


def test_undeclared_models_need_keys():
    with pytest.raises(ValueError, match=r"needs prediction_keys: there is no 'model\.output\.<head>' that all"):
        ModelEnsemble([Fixed([[0.6, 0.4]])])


def test_predictions_of_several_shapes_are_an_error():
    with pytest.raises(ValueError, match=r"one shape, but those for 'model\.output\.cls' have \(1, 2\), \(1, 3\)"):
        ModelEnsemble([Fixed([[0.6, 0.4]]), Fixed([[0.6, 0.4, 0.0]])], [KEY])(NDict({"data.x": 1}))


@pytest.mark.parametrize(("prediction", "kind"), [([[1, 2]], r"torch\.int64"), ([[True]], r"torch\.bool")])
def test_predictions_must_be_floating_point(prediction, kind):
    with pytest.raises(TypeError, match=rf"model 0 wrote {kind} to 'model\.output\.cls'"):
        ModelEnsemble([Fixed(prediction)], [KEY])(NDict({"data.x": 1}))


@pytest.mark.parametrize(("shape", "axis"), [((3, 1), 1), ((3,), 1), ((3, 2), 2), ((3, 2), -3)])
def test_there_must_be_classes_to_vote_on(shape, axis):
    ensemble = ModelEnsemble([Fixed(torch.rand(shape))], [KEY], classes_axis=axis)
    with pytest.raises(ValueError, match=rf"axis {axis} of 'model\.output\.cls', whose shape is .*'values'"):
        ensemble(NDict({"data.x": 1}))


@pytest.mark.parametrize("models", [[], None, nn.Linear(1, 1), [nn.functional.relu]])
def test_models_are_a_sequence_of_modules(models):
    with pytest.raises(
        TypeError, match=r"ModelEnsemble\(models=\) takes a non-empty sequence of modules, got .*from_directories"
    ):
        ModelEnsemble(models, [KEY])


@pytest.mark.parametrize("option", ["average", "execution"])
def test_options_are_checked(option):
    with pytest.raises(ValueError, match=rf"ModelEnsemble\({option}=\) takes one of .*, got 'mean'"):
        ModelEnsemble([network()], [KEY], **{option: "mean"})


@pytest.mark.parametrize("keys", ["model.output.cls", [], {}, [1]])
def test_prediction_keys_are_a_sequence_or_mapping(keys):
    with pytest.raises(ValueError, match=r"prediction_keys=\) takes a non-empty sequence of keys, or a mapping"):
        ModelEnsemble([network()], keys)


def test_what_a_key_holds_is_checked():
    with pytest.raises(
        ValueError,
        match=r"prediction_keys=\{'model\.output\.cls': \.\.\.\}\) takes one of .*, got 'label'.*'labels'",
    ):
        ModelEnsemble([network()], {KEY: "label"})

"""What every model does: it trains, compiles, keeps its state, and its keys fit those of other components."""

import copy
import pickle

import pytest
import torch
from torch import nn

from fuse_core import NDict, check_contract, check_wiring
from fuse_models import (
    HeadGlobalPoolingClassifier,
    ModelEnsemble,
    ModelMultiHead,
    ModelMultistream,
    ModelSiamese,
    ModelWrapSeqToDict,
)

TORCH_2_6 = torch.__version__.startswith("2.6.")
CLASSES = 3


def convolutions(channels, out=6):
    return nn.Sequential(nn.Conv2d(channels, out, 3), nn.BatchNorm2d(out), nn.ReLU())


def classifier(channels):
    return HeadGlobalPoolingClassifier(
        head_name="cls",
        conv_inputs=[("model.backbone_features", channels)],
        num_classes=CLASSES,
        pooling="avg",
        layers_description=(16,),
        dropout_rate=0.0,
    )


def multi_head():
    return ModelMultiHead(convolutions(2), [classifier(6)], conv_inputs=[("data.before", 2)])


def multi_head_of_arguments():
    class Difference(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = convolutions(2)

        def forward(self, before, after):
            return self.layers(before - 2 * after)

    return ModelMultiHead(Difference(), [classifier(6)], backbone_args=["data.before", "data.after"])


def multistream():
    return ModelMultistream(("data.before", 2), [convolutions(1) for _ in range(2)], [classifier(12)])


def multistream_of_shared_weights():
    return ModelMultistream(("data.before", 2), [convolutions(1)] * 2, [classifier(12)])


def multistream_of_keys():
    return ModelMultistream(
        ["data.before", "data.after"],
        [convolutions(2) for _ in range(2)],
        [classifier(6)],
        join_logic=lambda batch_dict, outputs: outputs[0] + outputs[1],
    )


def siamese():
    return ModelSiamese([("data.before", 2)], [("data.after", 2)], convolutions(2), [classifier(12)])


def siamese_in_two_passes():
    return ModelSiamese([("data.before", 2)], [("data.after", 2)], convolutions(2), [classifier(12)], batched=False)


def wrapped():
    layers = nn.Sequential(convolutions(2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, CLASSES))
    return ModelWrapSeqToDict(
        model=layers,
        model_inputs=["data.before"],
        model_outputs=["model.logits.cls", "model.output.cls"],
        post_forward_processing_function=lambda logits: (logits, logits.softmax(1)),
    )


def ensemble():
    return ModelEnsemble([multi_head() for _ in range(3)], ["model.logits.cls", "model.output.cls"])


MODELS = [
    wrapped,
    multi_head,
    multi_head_of_arguments,
    multistream,
    multistream_of_shared_weights,
    multistream_of_keys,
    siamese,
    siamese_in_two_passes,
    ensemble,
]
every_model = pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__)


def logits_of(batch):
    return batch.get("model.logits.cls_ensemble_average", batch.get("model.logits.cls"))


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)
    torch._dynamo.reset()


@pytest.fixture
def batch():
    return NDict(
        {
            "data.before": torch.randn(8, 2, 6, 6),
            "data.after": torch.randn(8, 2, 6, 6),
            "data.label": torch.arange(8) % CLASSES,
            "data.sample_id": [f"sample {i}" for i in range(8)],
        }
    )


@every_model
def test_it_learns_a_batch_of_eight_by_heart(make, batch):
    model = make()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(150):
        loss = nn.functional.cross_entropy(logits_of(model(batch.copy())), batch["data.label"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.05


@every_model
def test_gradients_reach_every_parameter(make, batch):
    model = make()
    logits_of(model(batch)).pow(2).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        # normalization takes away what a constant before it adds
        assert parameter.grad.abs().sum() > 0 or name.endswith("0.bias"), name


@every_model
def test_it_writes_what_it_declares_and_changes_no_input(make, batch):
    model = make()
    before = {key: value.clone() if isinstance(value, torch.Tensor) else list(value) for key, value in batch.items()}
    result = model(batch)
    assert set(result) == {*before, *model.writes}
    for key, value in before.items():
        assert torch.equal(result[key], value) if isinstance(value, torch.Tensor) else result[key] == value


@every_model
def test_it_reads_what_it_declares_and_nothing_else(make, batch):
    model = make()
    model(batch.select(*model.reads))
    for key in model.reads:
        with pytest.raises(KeyError, match=key):
            model(batch.exclude(key))


@every_model
def test_its_keys_fit_those_of_the_batch_and_of_a_loss(make, batch):
    class Loss:
        reads = ("model.logits.cls_ensemble_average" if make is ensemble else "model.logits.cls", "data.label")

    assert check_wiring([make(), Loss()], batch).notes == []


@every_model
def test_its_state_dict_keeps_its_keys_and_loads(make, batch):
    model, fresh = make(), make()
    names = list(model.state_dict())
    model(batch.copy())
    assert list(model.state_dict()) == names
    fresh.load_state_dict(model.state_dict())
    expected = logits_of(model.eval()(batch.copy()))
    # Not bit by bit: each ensemble may take another of two ways that are equal up to rounding.
    torch.testing.assert_close(logits_of(fresh.eval()(batch.copy())), expected)
    torch.testing.assert_close(logits_of(copy.deepcopy(model)(batch.copy())), expected)


@pytest.mark.parametrize("make", [multi_head, multistream_of_shared_weights, siamese, ensemble])
def test_it_pickles(make, batch):
    model = make().eval()
    result = pickle.loads(pickle.dumps(model))(batch.copy())
    torch.testing.assert_close(logits_of(result), logits_of(model(batch)))


@every_model
@pytest.mark.parametrize("kind", [dict, NDict])
def test_it_compiles_in_one_graph(make, batch, kind):
    if kind is NDict and TORCH_2_6:
        pytest.skip("torch 2.6 cannot trace writes to a subclass of dict")
    model = make().eval()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(logits_of(compiled(kind(batch))), logits_of(model(kind(batch))))


@every_model
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_gives_about_the_same(make, batch, dtype):
    model = make().eval()
    with torch.autocast("cpu", dtype=dtype):
        half = logits_of(model(batch.copy()))
    torch.testing.assert_close(half.float(), logits_of(model(batch)), rtol=0.05, atol=0.02)


@every_model
def test_inference_mode(make, batch):
    model = make().eval()
    with torch.inference_mode():
        result = logits_of(model(batch.copy()))
    torch.testing.assert_close(result, logits_of(model(batch)))


@pytest.mark.parametrize(
    ("model_class", "arguments"),
    [
        (ModelMultiHead, {"backbone": nn.Identity(), "conv_inputs": ["data.x"]}),
        (ModelMultistream, {"backbone_streams": [nn.Identity()], "conv_inputs": ["data.x"]}),
        (ModelSiamese, {"backbone": nn.Identity(), "conv_inputs_0": ["data.x"], "conv_inputs_1": ["data.y"]}),
    ],
)
def test_the_key_of_the_features_is_a_string(model_class, arguments):
    with pytest.raises(ValueError, match=rf"{model_class.__name__}\(key_out_features=\) takes a non-empty string"):
        model_class(**arguments, heads=[], key_out_features=None)


@every_model
@pytest.mark.parametrize("real", [False, True])
def test_the_contract_of_a_model_and_its_loss_raises_no_alarm(make, batch, real):
    def cross_entropy(batch_dict):
        return nn.functional.cross_entropy(logits_of(batch_dict), batch_dict["data.label"])

    contract = check_contract({"model": make(), "ce": cross_entropy}, batch, real=real)
    assert all(contract.trained_by[f"{type(make()).__name__} 'model'"].values())
    assert not any("was not checked" in note for note in contract.notes)

import copy
import pickle
from dataclasses import dataclass
from typing import NamedTuple

import pytest
import torch
from torch import nn

from fuse_core import NDict, NestedKeyError
from fuse_models import ModelWrapSeqToDict

TORCH_2_6 = torch.__version__.startswith("2.6.")


@dataclass
class DataclassOutput:
    logits: torch.Tensor
    features: torch.Tensor


class NamedOutput(NamedTuple):
    logits: torch.Tensor
    features: torch.Tensor


class Network(nn.Module):
    """Gives what `pack` makes of logits and features."""

    def __init__(self, pack=lambda logits, features: (logits, features)):
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.pack = pack

    def forward(self, image, scale=1.0):
        return self.pack(self.linear(image) * scale, image * 2)


class Single(nn.Linear):
    """One tensor in, one tensor out."""

    def __init__(self):
        super().__init__(3, 2)


def wrap(model=None, model_inputs=("data.image",), model_outputs=("model.logits.cls",), **functions):
    model = Single() if model is None else model
    return ModelWrapSeqToDict(model=model, model_inputs=model_inputs, model_outputs=model_outputs, **functions)


@pytest.fixture
def batch():
    return NDict({"data.image": torch.rand(2, 3), "data.scale": torch.tensor(2.0)})


def test_the_output_is_written_to_the_same_batch_dict(batch):
    model = wrap()
    result = model(batch)
    assert result is batch
    torch.testing.assert_close(batch["model.logits.cls"], model.model(batch["data.image"]))


def test_it_takes_plain_dicts_too(batch):
    result = wrap()(dict(batch))
    assert type(result) is dict
    assert result["model.logits.cls"].shape == (2, 2)


def test_inputs_are_positional_or_by_argument_name(batch):
    network = Network()
    positional = wrap(network, ["data.image", "data.scale"], ["a", "b"])
    by_name = wrap(network, {"scale": "data.scale", "image": "data.image"}, ["a", "b"])
    torch.testing.assert_close(positional(batch.copy())["a"], by_name(batch.copy())["a"])


def test_none_drops_an_output(batch):
    result = wrap(Network(), model_outputs=[None, "model.features"])(batch)
    assert set(result) == {"data.image", "data.scale", "model.features"}


@pytest.mark.parametrize(
    "pack", [DataclassOutput, NamedOutput, lambda logits, features: {"logits": logits, "features": features}]
)
def test_outputs_are_taken_by_name(batch, pack):
    result = wrap(Network(pack), model_outputs={"features": "model.features"})(batch)
    torch.testing.assert_close(result["model.features"], batch["data.image"] * 2)
    assert "model.logits" not in result


def test_a_name_the_model_does_not_return_is_an_error(batch):
    with pytest.raises(ValueError, match=r"output 'feature' for 'x', but the model returned \['features', 'logits'\]"):
        wrap(Network(NamedOutput), model_outputs={"feature": "x"})(batch)


def test_outputs_by_name_need_names(batch):
    with pytest.raises(ValueError, match=r"named tuple, but it returned one tensor of shape \(2, 2\)"):
        wrap(model_outputs={"logits": "x"})(batch)


def test_a_tensor_is_never_split_by_sample(batch):
    with pytest.raises(ValueError, match=r"writes 2 outputs \('a', 'b'\), but .* one tensor of shape \(2, 2\)"):
        wrap(model_outputs=["a", "b"])(batch)


@pytest.mark.parametrize("outputs", [["a"], ["a", "b", "c"]])
def test_the_number_of_outputs_must_match(batch, outputs):
    with pytest.raises(ValueError, match=rf"writes {len(outputs)} outputs .* the model returned 2 outputs"):
        wrap(Network(), model_outputs=outputs)(batch)


def test_a_list_is_one_output_of_one_key_and_several_of_several(batch):
    network = Network(lambda logits, features: [logits, features])
    assert len(wrap(network, model_outputs=["maps"])(batch)["maps"]) == 2
    assert wrap(network, model_outputs=["a", "b"])(batch)["b"].shape == (2, 3)


def test_pre_and_post_functions(batch):
    model = wrap(
        Network(),
        ["data.image"],
        ["model.logits.cls", "model.output.cls"],
        pre_forward_processing_function=lambda inputs: [inputs[0] * 0, torch.tensor(1.0)],
        post_forward_processing_function=lambda outputs: (outputs[0], outputs[0].softmax(1)),
    )
    result = model(batch)
    torch.testing.assert_close(result["model.logits.cls"], model.linear.bias.expand(2, 2))
    torch.testing.assert_close(result["model.output.cls"].sum(1), torch.ones(2))


def test_the_pre_function_gets_a_dict_for_named_inputs(batch):
    def halve(inputs):
        assert set(inputs) == {"image"}
        return {"image": inputs["image"] / 2}

    result = wrap(Network(), {"image": "data.image"}, ["a", "b"], pre_forward_processing_function=halve)(batch)
    torch.testing.assert_close(result["b"], batch["data.image"])


def test_a_pre_function_must_not_return_a_tensor(batch):
    with pytest.raises(TypeError, match=r"returned one tensor of shape \(2, 3\)\. Return \[input\]"):
        wrap(pre_forward_processing_function=lambda inputs: inputs[0])(batch)


def test_two_outputs_cannot_share_a_key():
    with pytest.raises(ValueError, match="a key of its own for each output"):
        wrap(Network(), model_outputs=["a", "a"])


def test_the_model_must_be_a_module():
    with pytest.raises(TypeError, match=r"model=\) takes a module, got <function relu"):
        wrap(nn.functional.relu)


def test_it_declares_reads_and_writes():
    model = wrap(Network(), {"image": "data.image"}, ["a", None])
    assert (model.reads, model.writes) == (("data.image",), ("a",))
    assert wrap(Network(), model_outputs={"logits": "x"}).writes == ("x",)


def test_attributes_and_submodules_of_the_model_are_reachable():
    network = Network()
    network.note = "hello"
    model = wrap(network, model_outputs=["a", "b"])
    assert model.linear is network.linear
    assert model.note == "hello"
    assert list(model.state_dict()) == ["model.linear.weight", "model.linear.bias"]
    with pytest.raises(AttributeError, match="nothing"):
        model.nothing  # noqa: B018


def test_it_copies_and_pickles():
    model = wrap()
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        torch.testing.assert_close(other.weight, model.weight)


def test_a_missing_input_names_the_nearest_key(batch):
    with pytest.raises(NestedKeyError, match=r"ModelWrapSeqToDict reads 'data\.imgae'.*'data\.image'"):
        wrap(model_inputs=["data.imgae"])(batch)


@pytest.mark.parametrize("argument", ["model_inputs", "model_outputs"])
@pytest.mark.parametrize("keys", ["data.image", [], {}])
def test_keys_must_be_a_sequence_or_mapping(argument, keys):
    with pytest.raises(ValueError, match=rf"ModelWrapSeqToDict\({argument}=\) takes a non-empty sequence or mapping"):
        wrap(**{argument: keys})


@pytest.mark.parametrize(
    ("argument", "keys"),
    [("model_inputs", [0]), ("model_inputs", [None]), ("model_outputs", [0]), ("model_outputs", {"logits": None})],
)
def test_keys_must_be_strings(argument, keys):
    with pytest.raises(TypeError, match=rf"ModelWrapSeqToDict\({argument}=\) takes keys, which are strings, got"):
        wrap(**{argument: keys})


def test_the_callers_lists_are_copied(batch):
    outputs = ["a"]
    model = wrap(model_outputs=outputs)
    outputs.append("b")
    assert "a" in model(batch)


def test_hooks_of_the_wrapped_model_run(batch):
    model, calls = wrap(), []
    model.model.register_forward_hook(lambda *args: calls.append(1))
    model(batch)
    assert calls == [1]


no_dict_subclass = pytest.mark.skipif(TORCH_2_6, reason="torch 2.6 cannot trace writes to a subclass of dict")


@pytest.mark.parametrize("kind", [dict, pytest.param(NDict, marks=no_dict_subclass)])
def test_it_compiles_in_one_graph(batch, kind):
    torch._dynamo.reset()
    model = wrap(Network(), {"image": "data.image", "scale": "data.scale"}, ["a", "b"])
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(kind(batch))["a"], model(kind(batch))["a"])

import pytest
import torch
from torch import nn

from fuse_core import NestedKeyError
from fuse_models import ModelMultiHead, ModelWrapDictToSeq, ModelWrapSeqToDict

TORCH_2_6 = torch.__version__.startswith("2.6.")


def linear():
    return ModelWrapSeqToDict(model=nn.Linear(3, 2), model_inputs=["data.x"], model_outputs=["model.logits.cls"])


class Undeclared(nn.Module):
    def forward(self, batch_dict):
        batch_dict["model"] = {"sum": batch_dict["data"]["a"] + batch_dict["data.b"], "a": batch_dict["data.a"]}
        return batch_dict


def test_a_tensor_goes_in_and_a_tensor_comes_out():
    model, x = linear(), torch.rand(5, 3)
    torch.testing.assert_close(ModelWrapDictToSeq(model, "model.logits.cls", "data.x")(x), model.model(x))


def test_several_keys_take_several_arguments_and_return_a_tuple():
    model = ModelWrapDictToSeq(Undeclared(), output_key=["model.sum", "model.a"], input_key=["data.a", "data.b"])
    a, b = torch.rand(2), torch.rand(2)
    result = model(a, b)
    assert isinstance(result, tuple)
    assert result[0].equal(a + b)
    assert result[1].equal(a)


def test_a_sequence_of_one_key_returns_a_tuple_of_one():
    assert isinstance(ModelWrapDictToSeq(linear(), ["model.logits.cls"], ["data.x"])(torch.rand(5, 3)), tuple)


def test_it_undoes_the_other_wrapper():
    network, x = nn.Linear(3, 2), torch.rand(5, 3)
    wrapped = ModelWrapSeqToDict(model=network, model_inputs=["in"], model_outputs=["out"])
    assert ModelWrapDictToSeq(wrapped, output_key="out", input_key="in")(x).equal(network(x))


def test_it_declares_reads_and_writes():
    model = ModelWrapDictToSeq(linear(), "model.logits.cls", ["data.x"])
    assert (model.reads, model.writes) == (("data.x",), ("model.logits.cls",))


def test_the_state_dict_is_the_models():
    assert list(ModelWrapDictToSeq(linear(), "model.logits.cls", "data.x").state_dict()) == [
        "model.model.weight",
        "model.model.bias",
    ]


def test_an_input_that_the_model_needs_besides_is_an_error_at_construction():
    model = ModelMultiHead(nn.Identity(), [], conv_inputs=["data.x", "data.mask"])
    with pytest.raises(ValueError, match=r"ModelMultiHead reads 'data\.mask', which input_key=\['data\.x'\] lacks"):
        ModelWrapDictToSeq(model, "model.backbone_features", "data.x")


def test_an_output_that_the_model_does_not_write_is_an_error_at_construction():
    with pytest.raises(ValueError, match=r"does not write 'model\.logits', but \['model\.output\.cls'\]"):
        ModelWrapDictToSeq(
            ModelWrapSeqToDict(model=nn.Identity(), model_inputs=["x"], model_outputs=["model.output.cls"]),
            "model.logits",
            "x",
        )


def test_an_output_that_an_undeclared_model_did_not_write_is_named():
    with pytest.raises(NestedKeyError, match=r"ModelWrapDictToSeq reads 'model\.summ'.*'model\.sum'"):
        ModelWrapDictToSeq(Undeclared(), "model.summ", ["data.a", "data.b"])(torch.rand(1), torch.rand(1))


def test_the_number_of_arguments_must_match():
    with pytest.raises(TypeError, match=r"takes 1 arguments, for \['data\.x'\], got 2"):
        ModelWrapDictToSeq(linear(), "model.logits.cls", "data.x")(torch.rand(5, 3), torch.rand(5, 3))


@pytest.mark.parametrize("argument", ["input_key", "output_key"])
@pytest.mark.parametrize("keys", [[], [None]])
def test_keys_are_strings(argument, keys):
    options = {"input_key": "data.x", "output_key": "model.logits.cls", argument: keys}
    with pytest.raises(ValueError, match=rf"{argument}=\) takes a key or a non-empty sequence of keys"):
        ModelWrapDictToSeq(linear(), **options)


def test_the_model_must_be_a_module():
    with pytest.raises(TypeError, match=r"fuse_model=\) takes a module, got <function relu"):
        ModelWrapDictToSeq(nn.functional.relu, "a", "b")


def test_it_compiles_in_one_graph():
    torch._dynamo.reset()
    model, x = ModelWrapDictToSeq(linear(), "model.logits.cls", "data.x"), torch.rand(5, 3)
    torch.testing.assert_close(torch.compile(model, fullgraph=True, backend="eager")(x), model(x))


def test_it_exports():
    model, x = ModelWrapDictToSeq(linear(), "model.logits.cls", "data.x"), torch.rand(5, 3)
    torch.testing.assert_close(torch.export.export(model, (x,)).module()(x), model(x))

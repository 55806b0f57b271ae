import pytest
import torch

from fuse_losses import LossWrapToDict

CROSS_ENTROPY = torch.nn.functional.cross_entropy
KEYS = {"pred": "model.logits", "target": "data.label"}


def make_batch():
    torch.manual_seed(0)
    return {"model.logits": torch.randn(4, 3, 5, requires_grad=True), "data.label": torch.randint(3, (4, 5))}


def test_wrap_to_dict_registers_the_module_and_passes_arguments_by_name():
    module = torch.nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0]))
    loss = LossWrapToDict(
        loss_module=module, loss_arg_to_batch_key={"target": "data.label", "input": "model.logits"}, weight=0.5
    )
    batch = make_batch()
    assert torch.equal(loss(batch), 0.5 * module(batch["model.logits"], batch["data.label"]))
    assert list(loss.state_dict()) == ["loss_module.weight"]


def test_wrap_to_dict_takes_a_function_and_a_dictionary():
    with pytest.raises(TypeError, match=r"loss_module=\) takes a function or a module, got None"):
        LossWrapToDict(loss_module=None, loss_arg_to_batch_key={})
    with pytest.raises(TypeError, match=r"takes a dictionary from argument names to batch_dict keys, got \['a'\]"):
        LossWrapToDict(loss_module=CROSS_ENTROPY, loss_arg_to_batch_key=["a"])


def test_wrap_to_dict_names_a_missing_key():
    loss = LossWrapToDict(loss_module=CROSS_ENTROPY, loss_arg_to_batch_key={"input": "model.logits"})
    with pytest.raises(KeyError, match=r"LossWrapToDict reads 'model.logits'"):
        loss({"model.logit": torch.zeros(1)})


def test_an_error_of_the_function_names_the_loss_and_its_keys():
    loss = LossWrapToDict(loss_module=CROSS_ENTROPY, loss_arg_to_batch_key=KEYS)
    with pytest.raises(TypeError, match="unexpected keyword argument 'pred'") as caught:
        loss(make_batch())
    assert caught.value.__notes__ == [f"Raised in LossWrapToDict(loss_arg_to_batch_key={KEYS})."]


def test_a_batch_without_objects_still_has_the_loss_of_its_predictions():
    def false_positives(scores, boxes):
        return scores.square().sum() + boxes.sum()

    loss = LossWrapToDict(
        loss_module=false_positives, loss_arg_to_batch_key={"scores": "model.scores", "boxes": "data.boxes"}
    )
    assert loss({"model.scores": torch.full((3,), 2.0), "data.boxes": torch.zeros(0, 4)}) == 12
    assert loss({"model.scores": torch.zeros(0), "data.boxes": torch.zeros(0, 4)}) == 0

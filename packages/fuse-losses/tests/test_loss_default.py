import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fuse_core import NDict, NestedKeyError
from fuse_losses import LossBase, LossCompound, LossDefault, LossWrapToDict


def cross_entropy(**options):
    return LossDefault(pred="model.logits.cls", target="data.label", callable=F.cross_entropy, **options)


@pytest.fixture
def batch():
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0], [0.0, 3.0]], dtype=torch.float64, requires_grad=True)
    return NDict({"model.logits.cls": logits, "data.label": torch.tensor([0, 1, 0])})


def test_it_is_the_function_of_prediction_and_target(batch):
    expected = (math.log(1 + math.exp(-2)) + math.log(1 + math.exp(-1)) + math.log(1 + math.exp(3))) / 3
    assert cross_entropy()(batch).item() == pytest.approx(expected, rel=1e-12)


def test_an_error_of_the_function_names_the_loss_and_its_keys(batch):
    batch["data.label"] = batch["data.label"].float()
    with pytest.raises(RuntimeError, match=r"dtype|scalar type") as caught:
        cross_entropy()(batch)
    assert caught.value.__notes__ == ["Raised in LossDefault(pred='model.logits.cls', target='data.label')."]


def test_the_weight_reaches_value_and_gradient(batch):
    cross_entropy()(batch).backward()
    plain = batch["model.logits.cls"].grad.clone()
    batch["model.logits.cls"].grad = None
    weighted = cross_entropy(weight=3.0)(batch)
    weighted.backward()
    torch.testing.assert_close(weighted, 3 * cross_entropy()(batch))
    torch.testing.assert_close(batch["model.logits.cls"].grad, 3 * plain)


def test_preprocessing_filters_samples_without_changing_the_batch(batch):
    def first_two(batch_dict):
        assert type(batch_dict) is NDict
        batch_dict["data.new"] = 1
        return batch_dict.indices([0, 1])

    before = dict(batch)
    loss = cross_entropy(preprocess_func=first_two)(batch)
    torch.testing.assert_close(loss, F.cross_entropy(batch["model.logits.cls"][:2], batch["data.label"][:2]))
    assert dict(batch).keys() == before.keys()
    assert all(batch[key] is value for key, value in before.items())


def test_preprocessing_gets_an_ndict_from_any_mapping(batch):
    loss = cross_entropy(preprocess_func=lambda batch_dict: batch_dict.indices([0]))
    torch.testing.assert_close(loss(dict(batch)), loss(batch))


def test_a_batch_filtered_to_nothing_gives_a_zero_with_a_gradient(batch):
    loss = cross_entropy(preprocess_func=lambda batch_dict: batch_dict.indices([]))(batch)
    assert loss.item() == 0
    loss.backward()
    assert batch["model.logits.cls"].grad.abs().sum() == 0


def test_a_missing_key_names_the_loss_and_the_nearest_key(batch):
    loss = LossDefault(pred="model.logits.clas", target="data.label", callable=F.cross_entropy)
    message = r"LossDefault reads 'model\.logits\.clas', which this batch_dict does not hold.*'model\.logits\.cls'"
    with pytest.raises(NestedKeyError, match=message):
        loss(batch)


def test_it_declares_what_it_reads():
    assert cross_entropy().reads == ("model.logits.cls", "data.label")


def test_a_modules_parameters_and_buffers_are_registered():
    loss = LossDefault(pred="p", target="t", callable=nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0])))
    assert list(loss.state_dict()) == ["callable.weight"]
    assert loss.to(torch.float64).callable.weight.dtype == torch.float64


def test_bad_arguments_fail_at_construction():
    with pytest.raises(TypeError, match=r"LossDefault\(callable=\) takes a function or a module, got 3"):
        LossDefault(pred="p", target="t", callable=3)
    with pytest.raises(TypeError, match=r"LossDefault\(preprocess_func=\) takes a function, got 'f'"):
        cross_entropy(preprocess_func="f")
    with pytest.raises(TypeError, match=r"LossDefault\(weight=\) takes a number, got '2'"):
        cross_entropy(weight="2")
    with pytest.raises(ValueError, match=r"LossDefault\(weight=\) is a finite number, got nan"):
        cross_entropy(weight=math.nan)


def test_reads_are_a_sequence_of_keys():
    class Zero(LossBase):
        def compute(self, batch_dict):
            return batch_dict["x"].sum() * 0

    with pytest.raises(TypeError, match=r"Zero\(reads=\) takes a sequence of keys, got 'x'\. Use \['x'\]"):
        Zero(reads="x")


def test_a_loss_of_ones_own_gets_weight_and_preprocessing(batch):
    class Margin(LossBase):
        def compute(self, batch_dict):
            logits = batch_dict["model.logits.cls"]
            return (logits[:, 0] - logits[:, 1]).mean()

    loss = Margin(reads=["model.logits.cls"], weight=2.0, preprocess_func=lambda batch_dict: batch_dict.indices([0, 1]))
    assert loss(batch).item() == pytest.approx(1.0)
    assert loss.reads == ("model.logits.cls",)


def test_compute_must_be_defined():
    with pytest.raises(TypeError, match=r"LossBase defines no compute\(batch_dict\)"):
        LossBase()


@pytest.mark.parametrize("kind", [dict, NDict])
def test_it_compiles_in_one_graph(kind, batch):
    torch._dynamo.reset()
    compiled = torch.compile(cross_entropy(weight=0.5), fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(kind(batch)), cross_entropy(weight=0.5)(batch))


def test_an_overridden_forward_is_enough():
    class Fixed(LossBase):
        def forward(self, batch_dict):
            return batch_dict["x"].mean()

    assert Fixed()({"x": torch.tensor([1.0, 3.0])}) == 2.0


WEIGHTS = torch.tensor([1.0, 2.0, 4.0, 8.0])


@pytest.mark.parametrize(
    ("function", "counted"),
    [
        (torch.nn.functional.cross_entropy, 2),
        (torch.nn.CrossEntropyLoss(), 2),
        (partial(torch.nn.functional.cross_entropy, ignore_index=3), 2),
        (torch.nn.CrossEntropyLoss(weight=WEIGHTS), 1.0 + 8.0),
        (partial(torch.nn.functional.cross_entropy, weight=WEIGHTS), 1.0 + 8.0),
        (lambda pred, target: pred.mean(), 3),
    ],
)
def test_it_tells_how_much_its_mean_is_over(function, counted):
    target = torch.tensor([0, 3, -100])
    if isinstance(function, partial) and "ignore_index" in function.keywords:
        target = torch.tensor([0, 1, 3])
    loss = LossDefault(pred="model.logits", target="data.label", callable=function)
    loss({"model.logits": torch.randn(3, 4), "data.label": target})
    assert loss.counted == counted


def test_no_label_counts_nothing():
    loss = LossDefault(pred="model.logits", target="data.label", callable=torch.nn.functional.cross_entropy)
    loss({"model.logits": torch.randn(3, 4), "data.label": torch.full((3,), -100)})
    assert loss.counted == 0


@pytest.mark.parametrize("wrapper", [LossDefault, LossWrapToDict])
def test_what_a_wrapped_loss_counted_and_its_terms_are_handed_on(wrapper):
    inner = LossCompound(terms={"cross_entropy": 1.0, "dice": 1.0}, ignore_index=255)
    if wrapper is LossDefault:
        loss = LossDefault(pred="logits", target="target", callable=inner)
    else:
        loss = LossWrapToDict(loss_module=inner, loss_arg_to_batch_key={"batch_dict": "logits", "target": "target"})
    loss({"logits": torch.randn(1, 3, 4), "target": torch.tensor([[0, 1, 2, 255]])})
    assert loss.counted == 3
    assert set(loss.terms) == {"cross_entropy", "dice"}


def test_a_prediction_may_be_a_list_for_a_loss_of_several():
    def deepest(predictions, target):
        return F.cross_entropy(predictions[-1], target)

    loss = LossDefault(pred="model.logits", target="data.label", callable=deepest)
    logits, target = torch.randn(4, 3), torch.randint(3, (4,))
    assert loss({"model.logits": [logits, 2 * logits], "data.label": target}) == F.cross_entropy(2 * logits, target)
    assert loss.counted == 4
    assert loss({"model.logits": [logits[:0], logits[:0]], "data.label": target[:0]}) == 0
    assert loss.counted == 0

import copy
import math

import pytest
import torch

from fuse_core import NDict
from fuse_losses import LossBase, LossCompound, LossDefault, LossDice, LossExtractFromBatchDict, LossWarmUp


class Calls(LossBase):
    """The sum of the logits times a parameter; counts how often it is computed."""

    def __init__(self, **arguments):
        super().__init__(reads=["model.logits"], **arguments)
        self.scale = torch.nn.Parameter(torch.tensor(1.0))
        self.calls = 0

    def compute(self, batch_dict):
        self.calls += 1
        return batch_dict["model.logits"].sum() * self.scale


def make_batch(**others):
    return NDict({"model": {"logits": torch.ones(2, requires_grad=True)}, **others})


def values(warm_up, count, **others):
    return [float(warm_up(make_batch(**others)).detach()) for _ in range(count)]


def test_it_is_zero_for_that_many_training_forwards_and_the_loss_afterwards():
    warm_up = LossWarmUp(loss=Calls(), nof_iterations=3)
    assert values(warm_up, 5) == [0, 0, 0, 2, 2]
    assert warm_up.loss.calls == 2


def test_evaluation_does_not_count():
    warm_up = LossWarmUp(loss=Calls(), nof_iterations=2)
    assert values(warm_up.eval(), 3) == [0, 0, 0]
    assert values(warm_up.train(), 2) == [0, 0]
    assert values(warm_up.eval(), 1) == [2]


def test_it_follows_global_step_where_there_is_one():
    warm_up = LossWarmUp(loss=Calls(), nof_iterations=2)
    steps = [0, 0, 1, 1, 2, 2]  # two forwards a step: gradient accumulation, or the two passes of SAM
    assert [float(warm_up(make_batch(global_step=step)).detach()) for step in steps] == [0, 0, 0, 0, 2, 2]
    assert warm_up.forwards == 0


def test_the_zero_is_part_of_the_graph_and_gives_parameters_a_gradient_of_zero():
    batch = make_batch()
    warm_up = LossWarmUp(loss=Calls(), nof_iterations=1)
    warm_up(batch).backward()
    assert torch.equal(batch["model.logits"].grad, torch.zeros(2))
    assert warm_up.loss.scale.grad == 0


def test_the_zero_is_zero_whatever_the_logits_hold():
    batch = NDict({"model.logits": torch.tensor([torch.inf, torch.nan], requires_grad=True)})
    value = LossWarmUp(loss=Calls(), nof_iterations=1)(batch)
    value.backward()
    assert value == 0
    assert torch.equal(batch["model.logits"].grad, torch.zeros(2))


def test_the_zero_is_on_the_device_of_what_the_loss_reads():
    batch = {"model.logits": torch.ones(2, device="meta"), "data.label": torch.zeros(2)}
    assert LossWarmUp(loss=Calls().to("meta"), nof_iterations=1)(batch).device.type == "meta"


def test_the_zero_of_a_loss_that_derives_its_input_is_connected_to_what_there_is():
    loss = Calls(preprocess_func=lambda batch: {"model.logits": batch["model.raw"]})
    raw = torch.ones(2, requires_grad=True)
    warm_up = LossWarmUp(loss=loss, nof_iterations=1)
    for _ in range(2):
        (grad,) = torch.autograd.grad(warm_up({"model.raw": raw}), raw)
    assert torch.equal(grad, torch.ones(2))


def test_without_anything_to_connect_to_it_is_a_zero():
    loss = LossDefault(pred="pred", target="target", callable=torch.nn.functional.mse_loss)
    value = LossWarmUp(loss=loss, nof_iterations=1)({"pred": torch.ones(2).half(), "target": torch.ones(2).half()})
    assert value == 0
    assert value.dtype == torch.float32


def test_the_loss_is_computed_while_zero_if_asked():
    warm_up = LossWarmUp(loss=Calls(), nof_iterations=2, compute_while_zero=True)
    batch = make_batch()
    value = warm_up(batch)
    value.backward()
    assert value == 0
    assert warm_up.loss.calls == 1
    assert torch.equal(batch["model.logits"].grad, torch.zeros(2))


@pytest.mark.parametrize(
    ("ramp", "shares"),
    [("linear", [0.25, 0.5, 0.75, 1, 1]), ("cosine", [(1 - math.cos(math.pi * i / 4)) / 2 for i in (1, 2, 3, 4, 4)])],
)
def test_it_grows_over_the_ramp(ramp, shares):
    warm_up = LossWarmUp(loss=Calls(), nof_iterations=1, ramp=ramp, ramp_iterations=4)
    expected = [0.0, *(2 * share for share in shares)]
    assert values(warm_up, 6) == pytest.approx(expected, rel=1e-6)
    steps = [float(warm_up(make_batch(global_step=step)).detach()) for step in range(6)]
    assert steps == pytest.approx(expected, rel=1e-6)


def test_the_ramp_is_as_long_as_the_warm_up_unless_said_otherwise():
    assert values(LossWarmUp(loss=Calls(), nof_iterations=2, ramp="linear"), 5) == [0, 0, 1, 2, 2]


def test_the_count_is_saved_and_loaded():
    warm_up = LossWarmUp(loss=Calls(), nof_iterations=3)
    values(warm_up, 2)
    other = LossWarmUp(loss=Calls(), nof_iterations=3)
    values(other, 1)
    other.load_state_dict(warm_up.state_dict())
    assert values(other, 2) == [0, 2]


def test_a_number_written_to_the_buffer_counts():
    warm_up, average = (LossWarmUp(loss=Calls(), nof_iterations=3) for _ in range(2))
    values(warm_up, 2)
    values(average, 1)
    with torch.no_grad():
        average.forwards.copy_(warm_up.forwards)  # as averages of weights do with buffers
    assert values(average, 2) == [0, 2]
    average.forwards = torch.tensor(0)
    assert values(average, 1) == [0]
    average.load_state_dict(warm_up.state_dict(), assign=True)
    assert values(average, 2) == [0, 2]


def test_the_buffer_is_not_read_from_the_device_in_each_step():
    class Unread(torch.Tensor):
        def __int__(self):
            raise AssertionError("the count was read from the device")

    warm_up = LossWarmUp(loss=Calls(), nof_iterations=1)
    warm_up.forwards = warm_up.forwards.as_subclass(Unread)
    with pytest.raises(AssertionError, match="read from the device"):
        warm_up(make_batch())  # once, because the buffer is another one
    warm_up = LossWarmUp(loss=Calls(), nof_iterations=1)
    warm_up.forwards.__class__ = Unread
    assert values(warm_up, 2) == [0, 2]


def test_a_copy_counts_by_itself():
    warm_up = LossWarmUp(loss=Calls(), nof_iterations=2)
    values(warm_up, 1)
    other = copy.deepcopy(warm_up)
    assert values(other, 2) == [0, 2]
    assert values(warm_up, 2) == [0, 2]


def test_it_counts_after_a_move_and_in_inference_mode():
    warm_up = LossWarmUp(loss=Calls(), nof_iterations=3)
    values(warm_up, 1)
    warm_up.to(torch.float64)
    with torch.inference_mode():
        values(warm_up, 1)
        inside = LossWarmUp(loss=Calls(), nof_iterations=1)
        assert values(inside, 2) == [0, 2]
    assert values(warm_up, 2) == [0, 2]


@pytest.mark.parametrize("ramp", [None, "linear", "cosine"])
def test_it_counts_the_same_as_one_compiled_graph(ramp):
    loss = LossDice(pred="model.logits", target="data.label")
    warm_up = LossWarmUp(loss=loss, nof_iterations=2, ramp=ramp)
    other = copy.deepcopy(warm_up)
    torch.compiler.reset()
    compiled = torch.compile(warm_up, fullgraph=True, backend="aot_eager")
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 4, requires_grad=True)
    batch = {"model.logits": logits, "data.label": torch.randint(3, (2, 4))}
    for _ in range(6):
        value, expected = compiled(batch), other(batch)
        torch.testing.assert_close(value, expected)
        (grad,), (expected_grad,) = torch.autograd.grad(value, logits), torch.autograd.grad(expected, logits)
        torch.testing.assert_close(grad, expected_grad)
    assert warm_up.forwards == 6
    torch.testing.assert_close(warm_up(batch), other(batch))
    steps = [compiled({**batch, "global_step": step}) for step in range(6)]
    torch.testing.assert_close(steps, [other({**batch, "global_step": step}) for step in range(6)])


def test_a_missing_key_shows_while_zero():
    with pytest.raises(KeyError, match=r"Calls reads 'model.logits', .* Nearest keys: 'model.logit'"):
        LossWarmUp(loss=Calls(), nof_iterations=1)({"model.logit": torch.zeros(1)})


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"loss": LossDice()}, TypeError, r"loss=\) takes a loss with keys, got LossDice\(\)\. Give it pred= and"),
        ({"loss": torch.sum}, TypeError, r"loss=\) takes a loss, a module that is given a batch_dict, got <built-in"),
        ({"nof_iterations": -1}, ValueError, r"nof_iterations=\) is at least 0, got -1"),
        ({"nof_iterations": 1.0}, TypeError, r"nof_iterations=\) takes an int, got 1.0"),
        ({"compute_while_zero": "no"}, TypeError, r"compute_while_zero=\) takes True or False, got 'no'"),
        ({"ramp": "step"}, ValueError, r"ramp=\) is one of 'linear', 'cosine', None, got 'step'"),
        ({"ramp": "linear", "ramp_iterations": 0}, ValueError, r"ramp_iterations=\) is at least 1, got 0"),
        ({"ramp_iterations": 3}, ValueError, r"ramp_iterations=\) goes with ramp='linear' or 'cosine', got no ramp"),
    ],
)
def test_a_bad_argument_is_an_error(options, error, message):
    with pytest.raises(error, match=message):
        LossWarmUp(**{"loss": Calls(), "nof_iterations": 1, **options})


def test_the_zero_is_connected_to_predictions_in_a_list():
    class DeepSupervision(LossBase):
        def compute(self, batch_dict):
            return sum(one.mean() for one in batch_dict["model.maps"])

    maps = [torch.ones(2, requires_grad=True), torch.ones(3, requires_grad=True)]
    warm_up = LossWarmUp(loss=DeepSupervision(reads=["model.maps"]), nof_iterations=1)
    warm_up({"model.maps": maps}).backward()
    assert all(one.grad.eq(0).all() for one in maps)


def test_loss_and_number_of_iterations_can_be_given_by_position():
    loss = LossExtractFromBatchDict("model.kl", 2.0)
    warm_up = LossWarmUp(loss, 5)
    values = [warm_up({"model.kl": torch.tensor(3.0), "global_step": step}).item() for step in (4, 5)]
    assert values == [0.0, 6.0]


@pytest.mark.parametrize("compiled", [False, True])
def test_it_hands_on_how_much_counted_and_the_terms(compiled):
    inner = LossCompound(pred="logits", target="target", terms={"cross_entropy": 1.0, "dice": 1.0}, ignore_index=255)
    warm_up = LossWarmUp(inner, 1, compute_while_zero=True)
    batch = {"logits": torch.randn(1, 3, 4, requires_grad=True), "target": torch.tensor([[0, 1, 2, 255]])}
    torch.compiler.reset()
    loss = torch.compile(warm_up, backend="aot_eager", fullgraph=True) if compiled else warm_up
    for _ in range(2):
        loss(batch)
        assert warm_up.counted == 3
        assert set(warm_up.terms) == {"cross_entropy", "dice"}
        assert warm_up.terms["dice"] == inner.terms["dice"]


def test_while_the_loss_is_not_computed_it_has_neither_counted_nor_terms():
    inner = LossCompound(pred="logits", target="target", terms={"dice": 1.0})
    warm_up = LossWarmUp(inner, 1)
    batch = {"logits": torch.randn(1, 3, 4), "target": torch.tensor([[0, 1, 2, 2]])}
    for step, terms in ((1, {"dice"}), (0, set())):
        warm_up({**batch, "global_step": step})
        assert set(warm_up.terms) == terms
        assert (warm_up.counted is None) == (step == 0)
    assert not hasattr(LossWarmUp(LossDefault(pred="a", target="b", callable=torch.nn.L1Loss()), 1), "terms")

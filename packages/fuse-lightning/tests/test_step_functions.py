import pytest
import torch
from torch import nn
from torchmetrics.classification import MulticlassAccuracy

from fuse_core import NDict, NestedKeyError
from fuse_lightning import MetricDefault, step_extract_predictions, step_losses, step_metrics


class Mean(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, batch_dict):
        return batch_dict["model.logits.cls"].mean() * self.factor


@pytest.fixture
def batch():
    logits = torch.tensor([[1.0, 0.0], [0.0, 2.0]], requires_grad=True)
    return NDict({"data": {"sample_id": ["a", "b"], "label": torch.tensor([0, 0])}, "model.logits.cls": logits})


def test_losses_are_written_detached_and_their_sum_is_returned(batch):
    total = step_losses({"one": Mean(1), "four": Mean(4)}, batch)
    assert total.item() == 5 * 0.75
    assert batch["losses"] == {"one": 0.75, "four": 3.0, "total_loss": 3.75}
    assert not any(value.requires_grad for value in batch["losses"].values())
    total.backward()
    assert batch["model.logits.cls"].grad.tolist() == [[1.25, 1.25], [1.25, 1.25]]


class Counting(nn.Module):
    """A mean over the samples with a label, which is NaN where there is none."""

    reads = ("model.logits.cls", "data.label")

    def forward(self, batch_dict):
        labeled = batch_dict["data.label"] >= 0
        self.counted = labeled.sum()
        self.terms = {"half": batch_dict["model.logits.cls"].detach().mean() / 2}
        return nn.functional.cross_entropy(batch_dict["model.logits.cls"], batch_dict["data.label"], ignore_index=-1)


def test_what_a_loss_counted_and_its_terms_are_written(batch):
    batch["data.label"] = torch.tensor([0, -1])
    step_losses({"cls": Counting(), "mean": Mean(1)}, batch)
    assert batch["counted"] == {"cls": 1, "mean": 2}
    assert batch["loss_terms.cls.half"] == 0.75 / 2


def test_a_loss_that_counted_nothing_is_not_in_the_sum(batch):
    batch["data.label"] = torch.tensor([-1, -1])
    total = step_losses({"cls": Counting(), "mean": Mean(1)}, batch)
    assert batch["losses.cls"].isnan()
    assert total.item() == batch["losses.total_loss"] == 0.75
    total.backward()
    assert batch["model.logits.cls"].grad.tolist() == [[0.25, 0.25], [0.25, 0.25]]


class DividesByItsCount(nn.Module):
    """A mean whose value and gradient are 0 / 0 if no sample has a label."""

    reads = None

    def __init__(self, kind):
        super().__init__()
        self.kind = kind

    def forward(self, batch_dict):
        labeled = batch_dict["data.label"] >= 0
        self.counted = self.kind(labeled.sum())
        return (batch_dict["model.logits.cls"].sum(1) * labeled).sum() / labeled.sum()


@pytest.mark.parametrize("kind", [int, torch.as_tensor])
@pytest.mark.parametrize("reads", [("model.logits.cls", "data.label"), None])
def test_a_loss_that_divides_by_nothing_adds_nothing_to_the_gradient(batch, kind, reads):
    loss = DividesByItsCount(kind)
    loss.reads = reads
    logits = batch["model.logits.cls"]
    for labels, gradient in (([-1, -1], 0.25), ([0, -1], 1.25)):
        batch["data.label"] = torch.tensor(labels)
        step_losses({"cls": loss, "mean": Mean(1)}, batch).backward()
        assert batch["model.logits.cls"] is logits
        assert logits.grad[0].tolist() == [gradient, gradient]
        logits.grad = None


class NoSamples(nn.Module):
    counted = 0

    def forward(self, batch_dict):
        return batch_dict["model.logits.cls"][:0].mean()


def test_a_sum_in_which_nothing_counted_has_a_gradient_of_zero(batch):
    step_losses({"empty": NoSamples()}, batch).backward()
    assert batch["model.logits.cls"].grad.tolist() == [[0.0, 0.0], [0.0, 0.0]]


class Masked(nn.Module):
    """A mean over a mask, with a weight of its own and what else the formula takes."""

    def __init__(self, reads=(), read=lambda batch_dict: batch_dict["model.x"], kind=torch.as_tensor):
        super().__init__()
        self.reads, self.read, self.kind = reads, read, kind
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, batch_dict):
        mask = batch_dict["data.mask"]
        self.counted = self.kind(mask.sum())
        return (self.read(batch_dict) * self.weight * mask).sum() / mask.sum()


@pytest.mark.parametrize("kind", [int, torch.as_tensor])
@pytest.mark.parametrize(
    ("value", "options"),
    [
        (lambda x: x * 2, {}),
        (lambda x: x * 2, {"reads": ("model",)}),
        (lambda x: [x[:1] * 2, x[1:] * 2], {"read": lambda batch_dict: torch.cat(batch_dict["model.x"])}),
    ],
    ids=["tensor", "branch", "list"],
)
def test_whatever_a_loss_reads_gets_no_gradient_if_nothing_counted(value, options, kind):
    x = torch.ones(3, requires_grad=True)
    loss = Masked(kind=kind, **options)
    step_losses({"masked": loss}, NDict({"model.x": value(x), "data.mask": torch.zeros(3)})).backward()
    assert x.grad.tolist() == loss.weight.grad.tolist() == [0, 0, 0]


def test_a_gradient_of_zero_does_not_depend_on_the_step_before():
    loss = Masked(kind=int)
    for kind in (int, torch.as_tensor):
        loss.kind = kind
        x = torch.ones(3, requires_grad=True)
        step_losses({"masked": loss}, NDict({"model.x": x * 2, "data.mask": torch.zeros(3)})).backward()
        assert x.grad.tolist() == [0, 0, 0]


def test_a_loss_without_a_graph_that_counted_0_has_a_gradient_for_its_own_parameters():
    class Early(Masked):
        counted = 0

        def forward(self, batch_dict):
            return torch.zeros(())

    loss = Early()
    step_losses({"early": loss}, NDict({"model.x": torch.ones(3)})).backward()
    assert loss.weight.grad.tolist() == [0, 0, 0]  # DistributedDataParallel waits for each parameter


class Residual(nn.Module):
    """The loss of a network that solves the differential equation du/dx = 1, where the mask says."""

    def __init__(self, counts):
        super().__init__()
        self.counts = counts

    def forward(self, batch_dict):
        x, mask = batch_dict["data.x"], batch_dict["data.mask"]
        (slope,) = torch.autograd.grad(batch_dict["model.u"].sum(), x, create_graph=True)
        if self.counts:
            self.counted = mask.sum()
        return ((slope - 1) ** 2 * mask).sum() / mask.sum()


@pytest.mark.parametrize("counts", [True, False])
def test_a_loss_may_differentiate_by_what_it_reads(counts):
    network = nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 1))
    x = torch.rand(4, 1, requires_grad=True)

    def gradients(mask, call):
        network.zero_grad()
        call(NDict({"data.x": x, "data.mask": mask, "model.u": network(x)})).backward()
        return network[0].weight.grad

    loss = Residual(counts)
    expected = gradients(torch.ones(4, 1), loss)
    torch.testing.assert_close(gradients(torch.ones(4, 1), lambda batch: step_losses({"u": loss}, batch)), expected)
    assert expected.count_nonzero() == 4
    if counts:
        assert not gradients(torch.zeros(4, 1), lambda batch: step_losses({"u": loss}, batch)).any()


def test_a_loss_may_write_to_the_batch():
    def normalized(batch_dict):
        batch_dict["model.x"] = nn.functional.normalize(batch_dict["model.x"], dim=0)
        return batch_dict["model.x"].sum()

    batch = NDict({"model.x": torch.tensor([3.0, 4.0], requires_grad=True)})
    step_losses({"normalized": normalized}, batch)
    assert batch["model.x"].tolist() == pytest.approx([0.6, 0.8])


def test_a_loss_with_sparse_gradients_may_count_nothing():
    centers = nn.Embedding(2, 3, sparse=True)
    loss = Masked(read=lambda batch_dict: centers(batch_dict["data.label"]))
    step_losses({"center": loss}, NDict({"data.label": torch.tensor([0]), "data.mask": torch.zeros(3)})).backward()
    assert centers.weight.grad.is_sparse
    assert loss.weight.grad.tolist() == [0, 0, 0]


def test_counts_on_a_device_are_not_read():
    x = torch.ones(3, device="meta", requires_grad=True)  # a tensor without values: reading them raises
    batch = NDict({"model.x": x * 2, "data.mask": torch.ones(3, device="meta")})
    step_losses({"masked": Masked().to("meta")}, batch).backward()
    assert x.grad.shape == (3,)


def test_without_sample_ids_samples_are_the_size_that_the_reads_share():
    values = {"data.image_sizes": torch.zeros(3, 2), "data.weights": torch.ones(5), "data.label": torch.zeros(4)}
    batch = NDict(values | {"model.logits.cls": torch.zeros(4, 5)})
    loss = Mean(1)
    loss.reads = ("model.logits.cls", "data.label", "data.weights")
    step_losses({"cls": loss}, batch)
    assert batch["counted.cls"] == 4


def test_a_loss_must_be_a_scalar(batch):
    with pytest.raises(ValueError, match=r"scalar tensors, but 'unreduced' returned shape \(2, 2\)\. Reduce it"):
        step_losses({"unreduced": lambda batch_dict: batch_dict["model.logits.cls"]}, batch)


@pytest.mark.parametrize("value", [None, 0.5])
def test_a_loss_must_be_a_tensor(batch, value):
    with pytest.raises(TypeError, match=rf"scalar tensors, but 'odd' \(function\) returned {value}\. Return the loss"):
        step_losses({"odd": lambda batch_dict: value}, batch)


def test_there_must_be_a_loss(batch):
    with pytest.raises(ValueError, match="needs at least one loss"):
        step_losses({}, batch)


def test_metrics_take_in_the_batch(batch):
    accuracy = MetricDefault(
        pred="model.logits.cls", target="data.label", metric=MulticlassAccuracy(2, average="micro")
    )
    step_metrics({"accuracy": accuracy}, batch)
    assert accuracy.compute().item() == 0.5
    assert accuracy.reads == ("model.logits.cls", "data.label")


def test_a_metrics_preprocessing_leaves_the_batch_alone(batch):
    def first(batch_dict):
        batch_dict["data.new"] = 1
        return batch_dict.indices([0])

    accuracy = MetricDefault(
        pred="model.logits.cls",
        target="data.label",
        metric=MulticlassAccuracy(2, average="micro"),
        preprocess_func=first,
    )
    accuracy.update(batch)
    assert accuracy.compute().item() == 1.0
    assert "data.new" not in batch


def test_a_metric_must_be_from_torchmetrics():
    with pytest.raises(TypeError, match="takes a torchmetrics Metric or MetricCollection, got <built-in function max>"):
        MetricDefault(pred="p", target="t", metric=max)


def test_predictions_carry_the_sample_ids(batch):
    predictions = step_extract_predictions(["model.logits.cls"], batch)
    assert list(predictions) == ["data.sample_id", "model.logits.cls"]
    with pytest.raises(NestedKeyError, match=r"step_extract_predictions reads 'model\.logit'.*'model\.logits'"):
        step_extract_predictions(["model.logit"], batch)

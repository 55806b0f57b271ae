"""What `preserved_state` keeps, beyond what the tests of the callback show."""

import threading
from collections import deque
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader

from fuse_optim import SAM
from fuse_optim.lightning import OptimizerClosureCallback
from fuse_optim.lightning.preserved_state import preserved_state


class Stateful(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.register_buffer("shared", torch.zeros(2))
        self.also_shared = self.shared
        self.register_buffer("expanded", torch.zeros(1).expand(3))  # which cannot be written to in place
        self.history: deque[int] = deque([1])
        self.count = 0

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        self.shared += 1
        assert torch.equal(self.also_shared, self.shared)
        self.expanded = self.expanded + 1
        self.history.append(2)
        self.count += 1
        self.new = "attribute"
        return (inputs * self.weight).sum()


def test_every_attribute_is_the_object_it_was_and_holds_what_it_held():
    module = nn.Sequential(Stateful())
    before = {name: value for name, value in vars(module[0]).items() if not name.startswith("_")}
    buffers = dict(module[0].named_buffers())
    with preserved_state(module):
        module(torch.ones(2))
    after = {name: value for name, value in vars(module[0]).items() if not name.startswith("_")}
    assert {name: id(value) for name, value in after.items()} == {name: id(value) for name, value in before.items()}
    assert all(buffer is buffers[name] for name, buffer in module[0].named_buffers())
    assert all(buffer.sum() == 0 for buffer in buffers.values())
    assert module[0].history == deque([1])


def test_gradients_stay():
    module = Stateful()
    with preserved_state(module):
        module(torch.tensor([2.0, 3.0])).backward()
    assert torch.equal(module.weight.grad, torch.tensor([2.0, 3.0]))


def test_a_tensor_that_needs_a_gradient_is_the_same_inside():
    module = Stateful()
    module.tied = module.weight * 1
    weight, tied = module.weight, module.tied
    with preserved_state(module):
        assert module.weight is weight
        assert module.tied is tied


def test_modules_in_plain_containers_are_included():
    module = Stateful()
    module.hidden = [nn.Sequential(Stateful())]
    with preserved_state(module):
        module.hidden[0](torch.ones(2))
    assert module.hidden[0][0].count == 0


@pytest.mark.filterwarnings("ignore:.*torch.jit", "ignore:Lazy modules")
def test_scripted_modules_and_lazy_ones_that_were_never_called_are_taken_along():
    scripted = torch.jit.script(nn.BatchNorm1d(3))
    module = nn.Sequential(scripted)
    module.unused = nn.LazyBatchNorm1d()
    with preserved_state(module):
        scripted(torch.randn(4, 3))
        assert scripted.num_batches_tracked == 1
    assert scripted.num_batches_tracked == 0
    assert torch.equal(scripted.running_mean, torch.zeros(3))


def test_an_exception_inside_restores_too():
    module = Stateful()
    with pytest.raises(RuntimeError, match="size"), preserved_state(module):
        module(torch.ones(7))  # after all that is preserved has changed
    assert module.count == 0
    assert not hasattr(module, "new")


def test_a_compiled_network_is_not_compiled_again():
    compilations = []

    def backend(graph: torch.fx.GraphModule, example: list[Any]) -> Any:
        compilations.append(graph)
        return graph

    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    compiled = torch.compile(network, backend=backend, fullgraph=True)
    inputs = torch.randn(5, 3)
    for _ in range(2):
        compiled(inputs)
        with preserved_state(network):
            compiled(inputs)
    assert len(compilations) == 1
    assert network[1].num_batches_tracked == 2


class Meter:
    def __init__(self) -> None:
        self.values = [0.0]
        self.owner: Any = None


def test_nested_containers_arrays_and_objects_do_not_change():
    numpy = pytest.importorskip("numpy")
    module = Stateful()
    module.nested = {"a": [0, (1, [2])]}
    module.nested["self"] = module.nested  # a container may hold itself
    module.array = numpy.zeros(2)
    module.meter = Meter()
    module.meter.owner = module
    module.meters = [module.meter]
    meter, array = module.meter, module.array
    with preserved_state(module):
        module.nested["a"][1][1].append(3)
        assert module.nested["self"] is module.nested
        module.array += 1
        module.meter.values.append(1.0)
        assert module.meters[0] is module.meter
        assert module.meter.owner is module
    assert module.nested["a"] == [0, (1, [2])]
    assert module.array is array
    assert array.sum() == 0
    assert module.meter is meter
    assert meter.values == [0.0]


def test_generators_of_the_module_get_their_state_back():
    module = Stateful()
    module.generator = torch.Generator().manual_seed(3)
    expected = torch.rand(2, generator=torch.Generator().manual_seed(3))
    with preserved_state(module):
        torch.rand(5, generator=module.generator)
    assert torch.equal(torch.rand(2, generator=module.generator), expected)


def test_what_cannot_be_copied_is_named_once():
    module = Stateful()
    module.lock = threading.Lock()
    module.values = iter([1, 2, 3]), (number for number in range(3))
    warned: set[str] = set()

    def change_twice():
        for _ in range(2):
            with preserved_state(module, warned):
                next(module.values[1])

    with pytest.warns(UserWarning, match="it cannot be copied") as caught:
        change_twice()
    messages = sorted(str(one.message) for one in caught)
    assert len(messages) == 2
    assert "Stateful.lock once more: it cannot be copied (lock, " in messages[0]
    assert "Stateful.values once more: it cannot be copied (generator, " in messages[1]


def test_a_tensor_in_a_list_that_is_changed_in_place_is_named():
    module = Stateful()
    module.outputs = [torch.zeros(2)]
    with (
        pytest.warns(UserWarning, match=r"Stateful\.outputs once more: .*a tensor was changed in place"),
        preserved_state(module),
    ):
        module.outputs[0] += 1
    with preserved_state(module):
        module.outputs.append(torch.ones(2))
    assert len(module.outputs) == 1


class MomentumEncoder(pl.LightningModule):
    """As for contrastive learning: a second network follows the trained one in each step."""

    def __init__(self, replaces_data: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.student, self.teacher = nn.Linear(2, 1), nn.Linear(2, 1).requires_grad_(False)
        self.replaces_data = replaces_data

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        with torch.no_grad():
            for slow, fast in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
                if self.replaces_data:
                    slow.data = 0.9 * slow.data + 0.1 * fast.data
                else:
                    slow.lerp_(fast, 0.1)
        return (self.student(batch) - self.teacher(batch)).square().mean()

    def configure_optimizers(self) -> SAM:
        return SAM(self.student.parameters(), torch.optim.SGD, rho=0.5, lr=0.1)


def test_a_momentum_encoder_moves_once_where_its_data_is_replaced(make_trainer, recwarn):
    model = MomentumEncoder(replaces_data=True)
    fast, slow = model.student.weight.detach().clone(), model.teacher.weight.detach().clone()
    trainer = make_trainer(max_steps=1, callbacks=[OptimizerClosureCallback()])
    trainer.fit(model, DataLoader(torch.ones(6, 2), batch_size=2))
    torch.testing.assert_close(model.teacher.weight.data, 0.9 * slow + 0.1 * fast)
    assert not [one for one in recwarn if "cannot be copied" in str(one.message)]


def test_a_momentum_encoder_that_is_changed_in_place_is_named(make_trainer):
    trainer = make_trainer(max_steps=1, callbacks=[OptimizerClosureCallback()])
    with pytest.warns(UserWarning, match=r"may have changed MomentumEncoder\.teacher once more: .*changed in place"):
        trainer.fit(MomentumEncoder(replaces_data=False), DataLoader(torch.ones(6, 2), batch_size=2))


def test_an_object_that_holds_the_trainer_or_an_optimizer_is_preserved(make_trainer, recwarn):
    class Counts(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 1)
            self.meter = Meter()

        def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
            self.meter.owner = self.trainer, self.trainer.optimizers[0]
            self.meter.values.append(1.0)
            return self.layer(batch).sum()

        def configure_optimizers(self) -> SAM:
            return SAM(self.parameters(), torch.optim.SGD, lr=0.1)

    model = Counts()
    trainer = make_trainer(max_epochs=1, callbacks=[OptimizerClosureCallback()])
    trainer.fit(model, DataLoader(torch.ones(6, 2), batch_size=2))
    assert model.meter.values == [0.0, 1.0, 1.0, 1.0]
    assert not [one for one in recwarn if "cannot be copied" in str(one.message)]

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import IterableDataset

from fuse_core import Collate, DatasetWrapSeqToDict
from fuse_lightning import DataModuleDefault, PredictionsToFile


def dataset(count=8):
    return DatasetWrapSeqToDict(list(range(count)), "data.x")


def values(loader):
    return torch.cat([batch["data.x"] for batch in loader]).tolist()


def test_training_is_shuffled_and_evaluation_is_not():
    torch.manual_seed(0)
    data = DataModuleDefault(dataset(), dataset(), dataset(), batch_size=3)
    assert values(data.train_dataloader()) != list(range(8))
    assert sorted(values(data.train_dataloader())) == list(range(8))
    for (loader,) in (data.val_dataloader(), data.test_dataloader(), data.predict_dataloader()):
        assert values(loader) == list(range(8))


def test_predict_may_have_a_dataset_of_its_own():
    (loader,) = DataModuleDefault(test=dataset(3), predict=dataset(5)).predict_dataloader()
    assert len(values(loader)) == 5


def test_several_datasets_keep_their_names():
    data = DataModuleDefault(validation={"inside": dataset(3), "outside": dataset(5)}, test=[dataset(2), dataset(4)])
    assert {name: len(values(loader)) for name, loader in data.val_dataloader().items()} == {"inside": 3, "outside": 5}
    assert [len(values(loader)) for loader in data.test_dataloader()] == [2, 4]


def test_training_batches_may_be_collated_differently():
    def negate(batch):
        batch["data.x"] = -batch["data.x"]
        return batch

    data = DataModuleDefault(dataset(), dataset(), train_collate_fn=Collate(post=negate))
    assert max(values(data.train_dataloader())) == 0
    assert min(values(data.val_dataloader()[0])) == 0


def test_drop_last_concerns_training():
    data = DataModuleDefault(dataset(), dataset(), batch_size=3, drop_last=True)
    assert len(data.train_dataloader()) == 2
    assert len(data.val_dataloader()[0]) == 3


def test_it_can_be_printed_and_takes_numpy_numbers():
    data = DataModuleDefault(train=dataset(), validation=[dataset(), dataset()], batch_size=np.int64(2))
    size = len(dataset())
    assert str(data) == f"DataModuleDefault of train=[{size}], validation=[{size}, {size}] samples"
    assert type(data.batch_size) is int


def test_an_iterable_dataset_keeps_its_order():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(dataset())

    assert values(DataModuleDefault(Stream()).train_dataloader()) == list(range(8))


def test_without_validation_there_is_no_loader():
    assert DataModuleDefault(dataset()).val_dataloader() == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, r"DataModuleDefault needs a dataset: give train="),
        ({"train": dataset(0)}, r"DataModuleDefault\(train=\) needs samples"),
        ({"test": {"inside": dataset(0)}}, r"DataModuleDefault\(test=\) needs samples"),
        (
            {"train": dataset(), "batch_size": 0},
            r"DataModuleDefault\(batch_size=\) is an integer of at least 1, got 0",
        ),
        ({"train": dataset(), "batch_size": 2.5}, r"batch_size=\) is an integer of at least 1, got 2\.5"),
        ({"train": dataset(), "num_workers": -1}, r"num_workers=\) is an integer of at least 0, got -1"),
        ({"train": dataset(), "test": []}, r"DataModuleDefault\(test=\) got no dataset\. Give one, or None"),
        ({"train": dataset(), "validation": {}}, r"DataModuleDefault\(validation=\) got no dataset"),
        ({"train": dataset(2), "drop_last": True}, r"drop_last=True\) leaves no batch: train has 2 samples"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        DataModuleDefault(**arguments)


def test_samples_in_place_of_datasets_are_refused():
    samples = [{"data.x": i} for i in range(3)]
    message = r"DataModuleDefault\(test=\) takes a dataset, or a list or dict of datasets; got a dict in place of one"
    with pytest.raises(TypeError, match=message):
        DataModuleDefault(test=samples)


@pytest.mark.parametrize("value", [5, "digits"])
def test_what_is_no_dataset_is_refused(value):
    with pytest.raises(TypeError, match=rf"\(train=\) takes a dataset.*got a {type(value).__name__} in place of one"):
        DataModuleDefault(train=value)


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
def test_one_data_module_serves_training_and_prediction(make_module, make_trainer, make_loader, tmp_path):
    samples = make_loader(10).dataset
    data = DataModuleDefault(samples, (samples[:3], samples[3:]), predict={"a": samples, "b": samples}, batch_size=4)
    module = make_module(prediction_keys=["model.y"])
    trainer = make_trainer(callbacks=[PredictionsToFile(tmp_path / "p.csv")])
    for _ in range(2):  # again with the same trainer
        trainer.fit(module, datamodule=data)
        trainer.predict(module, datamodule=data)
        rows = (tmp_path / "p.csv").read_text().splitlines()[1:]
        assert [row.split(",")[:2] for row in rows] == [[name, str(i)] for name in "ab" for i in range(10)]


def test_a_dataset_that_is_asked_for_and_was_not_given_is_named():
    data = DataModuleDefault(validation=dataset())
    with pytest.raises(ValueError, match=r"Training needs a dataset: give DataModuleDefault\(train=\)"):
        data.train_dataloader()
    with pytest.raises(ValueError, match=r"Testing needs a dataset: give DataModuleDefault\(test=\)"):
        data.test_dataloader()
    with pytest.raises(ValueError, match=r"Predicting needs a dataset"):
        data.predict_dataloader()


def test_a_module_and_a_data_module_get_along_without_a_warning(make_module, make_trainer, make_loader, recwarn):
    class Data(pl.LightningDataModule):
        def train_dataloader(self):
            return make_loader(4)

    make_trainer().fit(make_module(), Data())
    assert not [str(warning.message) for warning in recwarn if "overridden" in str(warning.message)]

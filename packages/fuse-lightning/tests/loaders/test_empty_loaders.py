import pytest
import torch


@pytest.mark.filterwarnings("ignore:.*returned 0 length", "ignore:Total length of")
@pytest.mark.parametrize("stage", ["fit", "validate", "test", "predict"])
def test_an_empty_loader(make_module, make_trainer, stage):
    empty = torch.utils.data.DataLoader([])
    message = rf"The loader for {stage} gives no batch\. Is its dataset empty"
    with pytest.raises(ValueError, match=message):
        getattr(make_trainer(), stage)(make_module(prediction_keys=["model.y"]), empty)


@pytest.mark.filterwarnings("ignore:.*returned 0 length", "ignore:Total length of")
def test_an_empty_validation_loader_is_noticed_before_training(make_module, make_trainer, make_loader):
    trainer = make_trainer()
    with pytest.raises(ValueError, match=r"Loader 1 for validate gives no batch"):
        trainer.fit(make_module(), make_loader(4), [make_loader(4), torch.utils.data.DataLoader([])])
    assert trainer.global_step == 0

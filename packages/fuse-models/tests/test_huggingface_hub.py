"""huggingface_hub's mixin needs no code of ours: it saves and loads models of a subclass."""

import pytest
import torch
from torch import nn

from fuse_models import Head1D, ModelMultiHead

hub = pytest.importorskip("huggingface_hub", reason="comes with timm: see the group test-torch2_6")


class Network(ModelMultiHead, hub.PyTorchModelHubMixin):
    """A model with arguments that the mixin can write as JSON."""

    def __init__(self, size: int = 4, classes: int = 3):
        head = Head1D("cls", conv_inputs=[("model.backbone_features", 8)], num_outputs=classes)
        super().__init__(nn.Linear(size, 8), [head], conv_inputs=["data.x"])


def test_a_saved_model_comes_back_with_its_arguments_and_outputs(tmp_path):
    network = Network(classes=5).eval()
    network.save_pretrained(tmp_path)
    again = Network.from_pretrained(tmp_path).eval()  # which older versions of the hub leave in training mode
    x = torch.randn(2, 4)
    expected = network({"data.x": x})["model.output.cls"]
    assert expected.shape == (2, 5)
    assert again({"data.x": x})["model.output.cls"].equal(expected)

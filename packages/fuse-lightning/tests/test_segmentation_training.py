"""Models of fuse-models trained with losses of fuse-losses, on digits on noisy canvases."""

import pytest
import torch
from sklearn import datasets

import fuse_losses
from fuse_core import NDict
from fuse_models import BackboneResnet3D, BackboneUNet, DecoderUNet, HeadDenseSegmentation, ModelMultiHead

FEATURES = "model.backbone_features"
TERMS = {"cross_entropy": 1.0, "dice": {"include_background": False}}


@pytest.fixture(scope="module")
def canvases():
    """Images of 32 x 32 pixels with four digits each, and where the digits are."""
    digits = datasets.load_digits()
    generator = torch.Generator().manual_seed(0)
    images = torch.tensor(digits.images, dtype=torch.float32)[:1600] / 16
    image, mask = torch.zeros(400, 1, 32, 32), torch.zeros(400, 32, 32, dtype=torch.long)
    for i, (row, column) in enumerate([(2, 3), (3, 20), (19, 4), (20, 21)]):
        image[:, 0, row : row + 8, column : column + 8] = images[i::4]
        mask[:, row : row + 8, column : column + 8] = images[i::4] > 0.3
    image += 0.1 * torch.randn(image.shape, generator=generator)
    return image, mask


def train(model, loss, canvases, steps):
    image, mask = canvases
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for step in range(steps):
        samples = torch.arange(16 * step, 16 * step + 16) % 320
        value = loss(model(NDict({"data.image": image[samples], "data.mask": mask[samples]})))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()


def dice(model, canvases):
    """The Dice of the digits on canvases that were not trained on."""
    image, mask = (tensor[320:] for tensor in canvases)
    with torch.inference_mode():
        predicted = model.eval()(NDict({"data.image": image}))["model.output.digits"].argmax(1)
    return 2 * (predicted * mask).sum() / (predicted + mask).sum()


def test_a_unet_trains_with_deep_supervision(canvases):
    torch.manual_seed(0)
    backbone = BackboneUNet(1, 2, features_per_level=(8, 16, 32), deep_supervision=True)
    head = HeadDenseSegmentation("digits", [(FEATURES, 8)], 2, layers_description=(), deep_supervision=(16,))
    model = ModelMultiHead(backbone, [head], conv_inputs=[("data.image", 1)])
    loss = fuse_losses.LossCompound(pred="model.logits.digits", target="data.mask", terms=TERMS, resize_mode="nearest")
    train(model, loss, canvases, steps=40)
    assert dice(model, canvases) > 0.9


def test_a_decoder_on_a_resnet_trains(canvases):
    torch.manual_seed(0)
    volumes = tuple(tensor[..., None, :, :] for tensor in canvases)  # of depth 1
    options = {"layers": [1, 1, 1], "first_channel_dim": 8, "stem_kernel_size": 3, "stem_stride": 1}
    backbone = DecoderUNet(BackboneResnet3D(in_channels=1, **options), channels=(16, 8))
    head = HeadDenseSegmentation("digits", [(FEATURES, 8)], 2, layers_description=())
    model = ModelMultiHead(backbone, [head], conv_inputs=[("data.image", 1)])
    loss = fuse_losses.LossCompound(pred="model.logits.digits", target="data.mask", terms=TERMS)
    train(model, loss, volumes, steps=40)
    assert dice(model, volumes) > 0.9


def with_features():
    torch.manual_seed(0)
    backbone = BackboneUNet(1, 2, features_per_level=(8, 16))
    head = HeadDenseSegmentation(
        "digits", [(FEATURES, 8)], 2, layers_description=(12,), dropout_rate=0.0, features_key="model.features.digits"
    )
    return ModelMultiHead(backbone, [head], conv_inputs=[("data.image", 1)]), head


def test_the_last_layer_and_its_loss_are_computed_together(canvases):
    image, mask = (tensor[:4] for tensor in canvases)
    model, head = with_features()
    together = fuse_losses.LossLinearCompound(
        layer=head.last_layer, pred="model.features.digits", target="data.mask", terms=TERMS
    )
    apart = fuse_losses.LossCompound(pred="model.logits.digits", target="data.mask", terms=TERMS)
    batch = NDict({"data.image": image, "data.mask": mask})
    values, gradients = [], []
    for mode, loss in ((True, together), (False, apart)):  # without dropout and statistics, both modes are alike
        model.zero_grad()
        value = loss(model.train(mode)(batch.copy()))
        value.backward()
        values.append(value.detach())
        gradients.append([parameter.grad for parameter in model.parameters()])
    torch.testing.assert_close(*values)
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


def test_a_model_trains_with_the_last_layer_in_the_loss(canvases):
    model, head = with_features()
    loss = fuse_losses.LossLinearCompound(
        layer=head.last_layer, pred="model.features.digits", target="data.mask", terms=TERMS
    )
    train(model, loss, canvases, steps=40)
    assert dice(model, canvases) > 0.9

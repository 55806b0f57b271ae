"""Block 2 of the classification task, the network: plain PyTorch, which knows nothing of a batch_dict."""

from torch import nn


class LeNet(nn.Sequential):
    """A convolutional network in the style of LeNet-5: two convolutions, pooling, then three linear layers.

    Source: LeCun et al. 1998, "Gradient-based learning applied to document recognition". Unlike that one, made for
    larger images, it pools once, has 3 x 3 kernels, more channels, batch normalization, rectified linear units and
    dropout.

    Args:
        image_size: the height and width of the images in pixels, even.
        num_classes: the number of scores.

    Shape:
        images [B, 1, image_size, image_size] to logits [B, num_classes].
    """

    def __init__(self, image_size: int, num_classes: int = 10) -> None:
        if image_size % 2:
            raise ValueError(f"LeNet halves the image: image_size must be even, got {image_size}.")
        super().__init__(
            nn.Conv2d(1, 32, kernel_size=3, padding=1),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.Conv2d(32, 64, kernel_size=3, padding=1),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Dropout(0.4),
            nn.Linear(64 * (image_size // 2) ** 2, 120),
            nn.ReLU(),
            nn.Linear(120, 84),
            nn.ReLU(),
            nn.Linear(84, num_classes),
        )

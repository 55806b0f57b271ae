"""The data of the configuration to start from: handwritten digits."""

from typing import Literal

import torch
from torch.utils.data import TensorDataset

from fuse_core import DatasetWrapSeqToDict
from fuse_lightning.walkthrough.template.classification_data import IMAGE, LABEL, digits_splits
from fuse_lightning.walkthrough.template.loaders import sample_ids


def digits(split: Literal["train", "validation", "test"], seed: int = 0) -> DatasetWrapSeqToDict:
    """One part of scikit-learn's 1,797 images of handwritten digits, as the walkthrough splits them.

    Samples hold `data.sample_id`, `data.image`, float32 [1, 8, 8] from 0 to 1, and `data.label`, the digit.

    Args:
        split: which part.
        seed: of the split.
    """
    samples = getattr(digits_splits(seed), split)
    tuples = TensorDataset(torch.from_numpy(samples.images), torch.from_numpy(samples.targets))
    return DatasetWrapSeqToDict(tuples, sample_keys=[IMAGE, LABEL], sample_ids=sample_ids(split, samples))

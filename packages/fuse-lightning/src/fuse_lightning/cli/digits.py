"""The data of `starting_point.yaml`: handwritten digits."""

from typing import Literal

import torch
from torch.utils.data import TensorDataset

from fuse_core import DatasetWrapSeqToDict
from fuse_lightning.walkthrough.template.classification_data import IMAGE, LABEL, digits_splits
from fuse_lightning.walkthrough.template.loaders import sample_ids


def digits(split: Literal["train", "validation", "test"], seed: int = 0) -> DatasetWrapSeqToDict:
    """One part of scikit-learn's 1,797 images of handwritten digits, split as in the walkthrough.

    A sample holds `data.sample_id`, `data.image` (float32 [1, 8, 8], values from 0 to 1) and `data.label` (the digit).

    Args:
        split: the part to return.
        seed: the seed of the split.
    """
    samples = getattr(digits_splits(seed), split)
    tuples = TensorDataset(torch.from_numpy(samples.images), torch.from_numpy(samples.targets))
    return DatasetWrapSeqToDict(tuples, sample_keys=[IMAGE, LABEL], sample_ids=sample_ids(split, samples))

import numpy as np
import pytest
from sklearn.metrics import precision_recall_fscore_support, roc_auc_score

from fuse_lightning.report.label_predictions import label_scores


def test_the_scores_equal_those_of_scikit_learn_on_the_known_labels():
    generator = np.random.default_rng(0)
    probabilities = generator.random((200, 3)).round(1)  # with ties
    target = (generator.random((200, 3)) < probabilities).astype(float)
    target[generator.random((200, 3)) < 0.3] = np.nan
    for index, scores in enumerate(label_scores(probabilities, target)):
        known = ~np.isnan(target[:, index])
        true, own = target[known, index], probabilities[known, index]
        precision, recall, f1, _ = precision_recall_fscore_support(true, own > 0.5, average="binary")
        expected = [precision, recall, f1, roc_auc_score(true, own), true.sum(), known.sum()]
        assert scores == pytest.approx(expected)


def test_samples_of_one_kind_have_no_auroc():
    assert np.isnan(label_scores(np.array([[0.1], [0.9]]), np.ones((2, 1)))[0, 3])

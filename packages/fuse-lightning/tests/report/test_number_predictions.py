import numpy as np
import pytest
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

from fuse_lightning.report.number_predictions import number_scores


def test_the_errors_equal_those_of_scikit_learn_on_the_known_targets():
    generator = np.random.default_rng(0)
    target, predicted = generator.normal(size=(2, 50))
    target[::7] = np.nan
    known = ~np.isnan(target)
    true, own = target[known], predicted[known]
    expected = (mean_absolute_error(true, own), root_mean_squared_error(true, own), r2_score(true, own))
    assert number_scores(predicted, target) == pytest.approx((*expected, (own - true).mean(), known.sum()))


def test_targets_that_are_all_equal_have_no_r_squared():
    assert np.isnan(number_scores(np.array([1.0, 2.0]), np.array([2.0, 2.0]))[2])
